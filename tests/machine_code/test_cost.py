"""The cost model: occupancy, latency, limiters; and a real kernel, from source to seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cusoftmax.cli.main import main
from cusoftmax.machine_code import cost, limits, measured
from cusoftmax.machine_code import sass as machine_code
from cusoftmax.machine_code.chips import CHIPS, Chip
from cusoftmax.machine_code.flow import walk
from cusoftmax.planning.device import ARCHITECTURES, DeviceSpec
from tests.machine_code.cost_support import need_tools, once, plan_of, sass

H100, DEVICE = CHIPS[90], DeviceSpec.known(90)


# ---------------------------------------------------------------------------------------- resources


@pytest.mark.parametrize(
    ("arch", "registers", "threads", "shared", "blocks", "limit"),
    [
        # 32 registers × 32 lanes = 1024 a warp: 64 warps of 65536.
        (90, 32, 256, 0, 8, "warps"),
        # 33 → 40 registers: 1280 a warp; 12 in each quarter of 16384; 48 warps, 6 blocks of 8.
        (90, 33, 256, 0, 6, "registers"),
        (80, 64, 1024, 0, 1, "registers"),
        # 100 KiB and the system's 1 KiB, of 228 KiB.
        (90, 32, 256, 100 * 1024, 2, "shared memory"),
        (75, 32, 256, 32 * 1024, 2, "shared memory"),  # of 64 KiB, none reserved
        (86, 16, 32, 0, 16, "blocks"),
        (90, 16, 32, 0, 32, "blocks"),
        (86, 32, 512, 0, 3, "warps"),  # 48 warps
        (80, 255, 1024, 0, 0, "registers"),  # does not fit
    ],
)
def test_occupancy(
    arch: int, registers: int, threads: int, shared: int, blocks: int, limit: str
) -> None:
    chip = CHIPS[arch]
    got = limits.occupancy(chip, DeviceSpec.known(arch), registers, threads, shared)
    assert (got.blocks, got.limit) == (blocks, limit)
    assert got.warps == blocks * threads // 32 and got.share == got.warps / chip.warps


def test_bytes_in_flight_end_where_a_result_is_needed() -> None:
    code = sass(
        """
        LDG.E.128 R4, [R2.64]
        LDG.E.128 R8, [R2.64+0x200]
        LDG.E.64 R12, [R2.64+0x400]
        FADD R1, R8, R9                  # waits for the first two
        LDG.E.128 R16, [R2.64+0x600]
        LDG.E.128 R20, [R2.64+0x800]     # with the third
        FADD R1, R1, R12
        EXIT
        """
    )
    assert limits.in_flight(walk(code, once)) == 16 + 16 + 8
    serial = sass("LDG.E R4, [R2.64]\nFADD R1, R1, R4\nLDG.E R5, [R2.64]\nFADD R1, R1, R5\nEXIT")
    assert limits.in_flight(walk(serial, once)) == 4
    bulk = sass("UBLKCP.S.G [UR8], [UR6], UR10\nBAR.SYNC 0x0\nLDG.E R4, [R2.64]\nEXIT")
    assert limits.in_flight(walk(bulk, once), 128) == 128


def test_a_lone_warp_waits_for_what_it_needs() -> None:
    chain = walk(sass("FADD R1, R1, R2\nFADD R1, R1, R2\nFADD R1, R1, R2\nEXIT"), once)
    assert limits.lone_warp_cycles(chain, 500) == 1 + 4 + 4 + 1
    free = walk(sass("FADD R1, R5, R2\nFADD R3, R5, R2\nFADD R4, R5, R2\nEXIT"), once)
    assert limits.lone_warp_cycles(free, 500) == 4
    loads = walk(sass("LDG.E R1, [R4.64]\nLDG.E R2, [R6.64]\nFADD R3, R1, R2\nEXIT"), once)
    assert limits.lone_warp_cycles(loads, 500) == 501 + 1 + 1  # the second starts a cycle later
    either = walk(sass("LDG.E R1, [R4.64]\nLDS R1, [R5]\nFADD R3, R1, R2\nEXIT"), once)
    assert limits.lone_warp_cycles(either, 500) == 501 + 1
    bulk = walk(sass("UBLKCP.S.G [UR8], [UR6], UR10\nBAR.SYNC 0x0\nFADD R1, R1, R2\nEXIT"), once)
    assert limits.lone_warp_cycles(bulk, 500) == 500 + 1 + 1 + 1


def test_littles_law() -> None:
    # 3.0 TB/s × 700 cycles at 1.98 GHz, over 132 multiprocessors.
    assert limits.needed_in_flight(H100, DEVICE) == pytest.approx(8035, abs=1)


# ----------------------------------------------------------------------------------------- limiters


def constructed(
    body: str,
    *,
    registers: int = 32,
    moved: float = 0.0,
    level2_bytes: float = 0.0,
    conflicts: float = 0.0,
    blocks: int = 1000,
) -> cost.KernelCost:
    """Cost of a kernel of many small blocks whose code is `body`, a hundred times over."""
    code = cost.Code(tuple(sass("\n".join([body] * 100) + "\nEXIT")), 0, registers, 0, 0)
    return cost.kernel_cost(
        "constructed", code, once, H100, DEVICE, grid=132 * blocks, threads=256, shared_bytes=0,
        elements=132 * blocks * 256, memory_bytes=lambda resident: moved,
        level2_bytes=level2_bytes, conflicts=conflicts,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "limiter", "per_instruction"),
    [
        ("BRA.DIV ~URZ, 0x0", "issue", 1 / 4),
        ("FADD R1, R2, R3", "issue", 1 / 4),  # 128 a clock: as many as are issued
        ("FMNMX R1, R2, R3, PT", "alu", 32 / 64),
        ("IMAD R1, R2, R3, R4", "imad", 32 / 64),
        ("MUFU.EX2 R1, R2", "xu", 32 / 16),
        ("DADD R2, R4, R6", "double", 32 / 64),
        ("SHFL.BFLY PT, R1, R2, 0x1, 0x1f", "lsu", 32 / 32),
        ("LDS.128 R4, [R1]", "lsu", 4 * 32 / 32),
    ],
)
def test_the_busiest_resource_is_the_limiter(
    body: str, limiter: str, per_instruction: float
) -> None:
    found = constructed(body)
    assert found.limiter == limiter
    blocks, warps = 1000, 8
    rest = 0.25 if limiter == "issue" else 0  # EXIT
    cycles = blocks * warps * (100 * per_instruction + rest)
    assert found.seconds == pytest.approx(cycles / H100.clock, rel=1e-6)


def test_a_conflict_of_banks_takes_a_cycle_of_shared_memory() -> None:
    blocks, warps, each = 1000, 8, 31  # all lanes of a warp ask one bank for words of their own
    found = constructed("LDS R4, [R1]", conflicts=132 * blocks * warps * 100 * each)
    assert found.limiter == "lsu"
    assert found.seconds == pytest.approx(blocks * warps * 100 * (1 + each) / H100.clock, rel=1e-6)


def test_memory_is_the_limiter_where_bytes_take_longest() -> None:
    found = constructed("FADD R1, R2, R3", moved=3.0e9)
    assert found.limiter == "memory" and found.seconds == pytest.approx(1e-3)


def test_sectors_that_are_not_used_whole_are_level_2_traffic() -> None:
    found = constructed("FADD R1, R2, R3", moved=3.0e9, level2_bytes=19.4e9)
    assert found.limiter == "level2" and found.seconds == pytest.approx(2e-3)
    assert found.times["memory"] == pytest.approx(1e-3)
    whole = constructed("FADD R1, R2, R3", moved=3.0e9)  # at least what memory moves
    assert whole.level2_bytes == 3.0e9 and whole.limiter == "memory"


LOAD, BARRIER, STORE = "LDG.E R1, [R4.64]", "BAR.SYNC 0x0", "STG.E [R2.64], R3"
ADD = "FADD R3, R1, R2"


@pytest.mark.parametrize(
    ("order", "follow"),
    [
        ((LOAD, BARRIER, ADD, STORE), True),
        ((LOAD, "UCGABAR_WAIT", ADD, STORE), True),
        ((LOAD, ADD, STORE), False),  # each warp for itself
        ((LOAD, BARRIER, LOAD, ADD, STORE), False),  # read again, or the next row
        ((LOAD, BARRIER, ADD, "LDGSTS.E [R6], [R4.64]", STORE), False),
        ((ADD, BARRIER, STORE), False),  # nothing is loaded
        ((LOAD, BARRIER, ADD), False),
    ],
)
def test_phases_follow_where_nothing_is_loaded_after_the_last_barrier(
    order: tuple[str, ...], follow: bool
) -> None:
    assert limits.phases_follow(walk(sass("\n".join([*order, "EXIT"])), once)) is follow


def phased(registers: int, blocks: int = 1000) -> cost.KernelCost:
    """Cost of a kernel that loads once and stores once, with as much to compute between."""
    code = "\n".join([LOAD, BARRIER, *[f"{ADD}\nFADD R1, R3, R2"] * 400, STORE, "EXIT"])
    return cost.kernel_cost(
        "phased", cost.Code(tuple(sass(code)), 0, registers, 0, 0), once, H100, DEVICE,
        grid=132 * blocks, threads=256, shared_bytes=0, elements=1,
        memory_bytes=lambda resident: 6.0e9,
    )  # fmt: skip


def test_a_lone_block_computes_while_memory_waits() -> None:
    one, two, eight = phased(255), phased(128), phased(32)
    assert [x.occupancy.blocks for x in (one, two, eight)] == [1, 2, 8]
    assert one.limiter == "phases" and one.times["memory"] == pytest.approx(2e-3)
    own = one.times["phases"] - one.times["memory"]  # of the blocks, one after the other
    assert own == pytest.approx(1000 * (700 + 800 * 4) / H100.clock, rel=0.02)
    assert two.times["phases"] == pytest.approx((2e-3 + own) / 2)
    assert eight.times["phases"] == pytest.approx((2e-3 + own) / 8)
    assert eight.limiter != "phases"
    # Where each multiprocessor has one block, it is alone however many would fit.
    assert phased(32, blocks=1).times["phases"] == pytest.approx(2e-3 + own / 1000)


def test_a_block_that_fills_a_multiprocessor_is_not_predicted_to_copy() -> None:
    need_tools()
    full = cost.cost(plan_of("softmax", "float16", (4096, 49152), -1, 86))
    assert full.slowest.occupancy.blocks == 1 and full.slowest.limiter == "phases"
    assert full.fraction_of_copy < 0.9


def test_what_a_block_keeps_is_not_read_again() -> None:
    """Nor what the level 2 cache still has of what was read last: narrow loads leave it less."""
    plan = plan_of("softmax", "float32", (4096, 1 << 17), -1, 80)
    (launch,) = plan.launches
    row = 4 << 17
    assert (plan.pattern, launch.kernel["CSM_PARKS"], plan.vector) == ("stream", "1", 4)
    in_registers, parked = 4 * plan.chunk * launch.block // 32, 4 * plan.chunk * plan.passes
    found = plan.device.l2_bytes / 2 / 108
    missed = row - in_registers - parked - found
    assert 0 < missed < row / 8
    assert cost.memory_bytes(plan, launch, 108) == pytest.approx(4096 * (2 * row + missed))
    narrow = plan_of("softmax", "float16", (4096, 50257), -1, 80)
    (launch,) = narrow.launches
    assert narrow.vector == 1 and launch.kernel["CSM_PARKS"] == "1"
    last = narrow.chunk * launch.block // 32  # elements that are read between, and take room
    missed = 50257 - (1 + narrow.passes // (launch.block // 32)) * last
    missed -= narrow.device.l2_bytes / 2 / 216 / 2 - last
    assert cost.memory_bytes(narrow, launch, 216) == pytest.approx(
        4096 * 2 * (2 * 50257 + max(0, missed))
    )


def test_spills_that_no_cache_holds_are_memory_traffic() -> None:
    def moved(stack: int) -> float:
        code = cost.Code(tuple(sass("STL [R1], R4\nLDL.64 R4, [R1]\nEXIT")), 0, 32, 0, stack)
        return cost.kernel_cost(
            "spills", code, once, H100, DEVICE, grid=132 * 8, threads=256, shared_bytes=0,
            elements=1, memory_bytes=lambda resident: 1000.0,
        ).memory_bytes  # fmt: skip

    threads, cache = 132 * 8 * 256, 25 * 1024 * 1024
    assert moved(0) == moved(64) == 1000  # 64 bytes of each thread fit
    assert moved(1024) == pytest.approx(1000 + 12 * threads * (1 - cache / (1024 * threads)))


def test_too_few_resident_blocks_leave_latency_uncovered() -> None:
    body = "LDG.E R1, [R4.64]\nFADD R3, R1, R2"
    many, few = constructed(body), constructed(body, registers=255)
    assert many.occupancy.blocks == 8 and few.occupancy.blocks == 1
    assert few.limiter == "latency"
    # A hundred times, one after the other: the latency, and what follows it.
    assert few.seconds == pytest.approx(1000 * 100 * (700 + 1) / H100.clock, rel=0.05)
    assert few.times["latency"] == pytest.approx(8 * many.times["latency"], rel=1e-6)


def test_fp64_is_the_limiter_where_the_chip_has_few_units() -> None:
    need_tools()
    wide = cost.cost(plan_of("softmax", "float64", (1 << 16, 1024), -1, 89))
    assert wide.slowest.limiter == "double" and wide.limiter == "float64 units"
    assert wide.fraction_of_copy < 0.5


# --------------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def group() -> cost.Cost:
    need_tools()
    return cost.cost(plan_of("softmax", "float16", (1 << 17, 1024), -1, 90))


def test_a_real_kernel(group: cost.Cost) -> None:
    (launch,) = group.launches
    assert launch.name == "csm_softmax_group_f16_v8_l32i32"
    assert launch.per_element["global memory"] == 8 / 32  # 4 loads, 4 stores, 32 elements a thread
    assert 1 <= launch.per_element["special function"] < 1.2  # one exponential, and the reciprocal
    assert launch.per_element["conversion"] >= 1.5  # to float and back
    assert launch.instructions == pytest.approx(sum(launch.per_element.values()))
    assert 10 < launch.instructions < 25
    assert launch.in_flight_thread == 64  # all of a thread's elements at once
    assert launch.memory_bytes == group.plan.least_bytes == 2 * 2 << 27
    assert group.limiter == "memory bandwidth"
    assert group.fraction_of_copy == pytest.approx(1)
    assert group.seconds == pytest.approx(group.plan.least_bytes / 3.0e12)


def test_no_copy_is_faster_than_memory_answers(group: cost.Cost) -> None:
    chip = Chip.named("H100")
    assert chip.copy_seconds(3e6) == 1e-6
    assert chip.copy_seconds(3e3) == pytest.approx(700 / 1.98e9)
    assert not group.copy_is_short and group.fraction_of_bandwidth == group.fraction_of_copy
    few = cost.cost(plan_of("softmax", "float16", (4, 1024), -1, 90))
    assert few.copy_is_short and few.fraction_of_copy < 1
    moved = few.plan.least_bytes / few.seconds
    assert few.fraction_of_bandwidth == pytest.approx(moved / chip.copy_bandwidth)


def test_path_and_compile_gate_count_alike(group: cost.Cost) -> None:
    """Straight-line code: the gate's static count, but for the entry and the one loop's end."""
    static = machine_code.inspect(group.plan.launches[0].kernel, 90).per_element
    assert static is not None
    assert group.launches[0].instructions == pytest.approx(static, rel=0.1)


def test_a_second_reading_comes_from_memory_or_from_the_cache() -> None:
    rows_of = {rows: plan_of("softmax", "float16", (rows, 1 << 20), -1, 90) for rows in (1, 128)}
    one, many = rows_of[1], rows_of[128]
    assert (one.pattern, many.pattern) == ("split", "stream")
    row = 2 << 20
    assert [cost.memory_bytes(one, launch, 128) for launch in one.launches] == [row, row]
    cached = 25 * 1024 * 1024 / (128 * row)
    moved = cost.memory_bytes(many, many.launches[0], 128)
    assert moved == pytest.approx(128 * row * (1 + (1 - cached) + 1))


def test_what_columns_read_again() -> None:
    """A later launch begins with what the cache has; a block that streams keeps a part."""
    cached = 20 << 20  # half of A100's cache
    tall = plan_of("softmax", "float32", (100_000, 64), 0, 80)
    read = 100_000 * 64 * 4
    assert read > cached and [launch.kernel["CSM_STAGE"] for launch in tall.launches] == ["1", "4"]
    moved = [cost.memory_bytes(tall, launch, 324) for launch in tall.launches]
    assert moved == [read, read - cached + read]
    stream = plan_of("softmax", "float16", (4096, 4096), 0, 80)
    (launch,) = stream.launches
    assert launch.kernel["CSM_STAGE"] == "5" and launch.block == 256
    read = 2 << 24
    # Of four rounds two are parked, and the last is in registers: the cache has the third.
    assert stream.passes == 2 and cached > 2 * 108 * 4096 * 32 / 2
    assert cost.memory_bytes(stream, launch, 2 * 108) == 2 * read
    assert cost.memory_bytes(stream, launch, 8 * 108) == pytest.approx(2 * read + read / 4)


def test_each_byte_of_segments_and_of_split_selections_is_moved_once() -> None:
    segments = plan_of("segment_softmax", "float16", (1 << 20,), 0, 90)
    moved = [cost.memory_bytes(segments, launch, 128) for launch in segments.launches]
    places = 2 * 2 * segments.problem.segments  # written by the first launch, read by the second
    assert len(moved) == 3 and sum(moved) == segments.least_bytes + places
    assert moved[0] < moved[1] and moved[2] == 0
    split = plan_of("topk_softmax", "float16", (1, 1 << 20), -1, 90)
    first, second = (cost.memory_bytes(split, launch, 128) for launch in split.launches)
    assert first > 2 << 20 and second < 1 << 20
    assert first + second == split.least_bytes + 2 * split.workspace_bytes


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_has_rates(arch: int) -> None:
    chip = Chip.of(DeviceSpec.known(arch))
    assert chip.arch == arch and chip.name == DeviceSpec.known(arch).name
    assert chip.copy_bandwidth < chip.sheet_bandwidth
    assert (chip.copy_bandwidth.source == "measured copy") == (arch == 90)
    assert chip.copy_bandwidth < chip.l2_bandwidth < 3 * 64 * chip.clock * 148
    for figure in (chip.copy_bandwidth, chip.l2_bandwidth, chip.latency):
        assert figure.source and figure.assumed == figure.source.startswith("assumed")
    # Float32: 2 operations a clock and unit; data sheets give 8.1 to 105 TFLOP/s.
    flops = 2 * chip.rates["fma"] * DeviceSpec.known(arch).sm_count * chip.clock
    assert 8e12 < flops < 110e12


def test_h200_goes_by_its_name() -> None:
    assert Chip.of(replace(DEVICE, name="NVIDIA H200")).copy_bandwidth == 4.3e12
    assert Chip.of(replace(DEVICE, name="NVIDIA H100 80GB HBM3")).copy_bandwidth == 3.0e12
    with pytest.raises(ValueError, match="no rates of 'H300'"):
        Chip.named("H300")


# ------------------------------------------------------------------------------- with a measurement


def results(seconds: float, gpu: str = "NVIDIA H100 80GB HBM3", **change: object) -> dict:
    entry = {
        "suite": "sweep", "op": "softmax", "dtype": "float16", "rows": 1 << 17, "n": 1024,
        "axis": -1, "who": "cusoftmax", "how": "events", "times": {"median": seconds},
        "fraction_of_copy": 0.8,
    } | change  # fmt: skip
    other = entry | {"who": "torch", "times": {"median": 1.0}}
    machine = {"gpu": gpu, "arch": "sm_90"}
    return {"dry_run": False, "machine": machine, "measurements": [other, entry]}


def test_the_prediction_is_held_against_the_measurement(group: cost.Cost) -> None:
    (found,) = measured.compare(group, results(2 * group.seconds), "float16", -1)
    assert found.error == pytest.approx(-0.5) and found.fraction_of_copy == 0.8
    for change in ({"n": 1023}, {"dtype": "bfloat16"}, {"axis": 0}, {"times": None}):
        assert measured.compare(group, results(1.0, **change), "float16", -1) == []


def test_a_dry_run_is_no_measurement(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results(1.0) | {"dry_run": True}))
    with pytest.raises(ValueError, match="dry run"):
        measured.load(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="not a results file"):
        measured.load(path)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_tools()
    given = ["cost", "softmax", "131072x1024", "--dtype", "float16", "--arch", "sm_90"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "limiter: memory bandwidth" in said and "not measured yet" in said
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results(250e-6, "NVIDIA H200")))
    assert main([*given, "--measured", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["chip"] == "H200" and told["launches"][0]["limiter"] == "memory"
    (measured,) = told["measured"]
    assert measured["error_of_prediction"] == pytest.approx((2 << 28) / 4.3e12 / 250e-6 - 1)


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    need_tools()
    assert main(["cost", "softmax", "64x1024", "--arch", "sm_80", "--chip", "H200"]) == 2
    assert capsys.readouterr().err == "cusoftmax: error: H200 is sm_90, not sm_80\n"
    assert main(["cost", "softmax", "64x0", "--arch", "sm_80"]) == 2
    assert "nothing is launched" in capsys.readouterr().err


# -------------------------------------------------------------------------------- the cost table


def test_the_table_has_a_row_for_each_kernel() -> None:
    need_tools()
    table = pytest.importorskip("benchmarks.cost")
    found = table.rows_of_problem(table.TypicalProblem(1024), "softmax", "float16", DEVICE)
    assert all(len(row) == len(table.HEADINGS) for row in found.rows)
    ours = dict(zip(table.HEADINGS, found.rows[0], strict=True))
    assert (ours["pattern"], ours["who"], ours["limiter"]) == ("group", "cusoftmax", "memory")
    assert ours["of copy"] == "100%" and ours["KiB loading"] == "72"
    others = {row[table.HEADINGS.index("who")] for row in found.rows[1:]}
    if table.peer_cost.missing():
        assert not others
    else:
        assert others | {line.split()[0] for line in found.refused} == set(table.peer_cost.PEERS)
    text = table.as_markdown("title", found.rows, ["a refusal"])
    assert "| group | 131072×1024 | -1 | cusoftmax |" in text and text.endswith("- a refusal\n")


def test_peers_refuse_rows_that_they_have_no_kernel_for() -> None:
    peers = pytest.importorskip("benchmarks.static.peer_cost")
    if peers.missing():
        pytest.skip(peers.missing())
    with pytest.raises(peers.NoKernel, match="at most 131072"):
        peers.cost("Triton", "softmax", "float16", 8, 1 << 18, H100, DEVICE)
