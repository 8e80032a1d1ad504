"""Two blocks of every planned kernel share a multiprocessor: one loads while the other computes.

Counted without a GPU, by the registers that a kernel's launch bounds allow its threads and by its
shared memory; of some kernels by the registers that the compiler took.
"""

from __future__ import annotations

from itertools import product

import pytest

from cusoftmax.machine_code import cost, limits
from cusoftmax.machine_code.chips import REGISTERS, Chip
from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.operation import REDUCTIONS
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning import tuning
from cusoftmax.planning.device import PORTABLE_CLUSTER, DeviceSpec
from cusoftmax.planning.plan import Launch, Plan
from tests.machine_code.cost_support import need_tools, plan_of

ROWS = 4096
# Of each length, another alignment: registers and shared memory follow from the number of chunks.
LENGTHS = (4096, 8191, 8192, 16384, 20000, 32000, 50257, 65535, 65536, 100000, 128256, 131072)
LONGEST = {"float16": 131072, "bfloat16": 131072, "float32": 131072, "float64": 65536}
MOST_REGISTERS = 255
# sm_90 and sm_100 have large clusters; sm_120 has less than half of their shared memory besides.
LONGEST_WITHOUT_LARGE_CLUSTERS = 32000
LONGEST_FLOAT64_OF_THREE_INPUTS = 32000
REDUCING = [n for n, op in OPERATIONS.items() if set(op.patterns) & set(REDUCTIONS)]
# What an operation reads of an element stays on the chip: of three inputs half as much fits, and an
# operation that writes only values of a row has nothing to keep in shared memory.
HELD = [n for n in REDUCING if OPERATIONS[n].outputs and OPERATIONS[n].register_inputs <= 2]


def resident(plan: Plan, launch: Launch, registers: int) -> int:
    chip = Chip.of(plan.device)
    found = limits.occupancy(chip, plan.device, registers, launch.block, launch.shared_bytes)
    return found.blocks


def allowed_registers(launch: Launch) -> int:
    """Return the most registers of a thread with which the launch bounds' threads fit."""
    return min(MOST_REGISTERS, REGISTERS // launch.kernel.max_threads // 8 * 8)


def alone(op: str, arch: int, longest: dict[str, int]) -> list[tuple[object, ...]]:
    """Return the kernels of resident rows of which a multiprocessor has room for one block only."""
    found: list[tuple[object, ...]] = []
    for dtype, n in product(longest, LENGTHS):
        if n > longest[dtype]:
            continue
        plan = plan_of(op, dtype, (ROWS, n), -1, arch)
        (launch,) = plan.launches
        if plan.pattern == "stream" and plan.reads == 1:
            continue  # only values are written, so the next part of a row loads while one is summed
        assert plan.pattern in ("group", "block"), (dtype, n, plan.pattern)
        if resident(plan, launch, allowed_registers(launch)) < 2:
            found.append((dtype, n, launch.kernel.name, launch.block, launch.shared_bytes))
    return found


@pytest.mark.parametrize("op", REDUCING)
@pytest.mark.parametrize("arch", [90, 100])
def test_two_blocks_of_long_rows_are_resident(arch: int, op: str) -> None:
    longest = LONGEST | (
        {"float64": LONGEST_FLOAT64_OF_THREE_INPUTS} if OPERATIONS[op].register_inputs > 2 else {}
    )
    assert not alone(op, arch, longest)


@pytest.mark.parametrize("op", HELD)
def test_two_blocks_are_resident_without_large_clusters(op: str) -> None:
    assert not alone(op, 120, dict.fromkeys(LONGEST, LONGEST_WITHOUT_LARGE_CLUSTERS))


@pytest.mark.parametrize("op", ["softmax", "softmax_vjp", "log_softmax", "cross_entropy_grad"])
def test_where_two_blocks_do_not_fit_rows_are_read_again_from_the_cache(op: str) -> None:
    """Without clusters a block that keeps a row has no multiprocessor to itself, if it can be.

    Staged rows are read once all the same, but those of float64 where two blocks can stream them.
    """
    device = DeviceSpec.known(80)
    for dtype, n in product(LONGEST, LENGTHS):
        plan = plan_of(op, dtype, (ROWS, n), -1, 80)
        (launch,) = plan.launches
        blocks = resident(plan, launch, allowed_registers(launch))
        if launch.kernel["CSM_STAGED"] != "0":
            assert blocks >= 2 or dtype != "float64", (dtype, n)
            continue
        read = device.sm_count * n * ITEMSIZE[dtype] * OPERATIONS[op].register_inputs
        if plan.pattern == "block":
            assert blocks >= 2, (dtype, n)
        elif 100 * read <= tuning.STREAM_KEPT_PERCENT * device.l2_bytes:
            moved = cost.memory_bytes(plan, launch, blocks * device.sm_count)
            # Two blocks of half the size, where one computes for longer than memory takes.
            assert moved <= (1.2 if blocks == 1 else 1.25) * plan.least_bytes, (dtype, n)


@pytest.mark.parametrize("op", ["softmax", "softmax_vjp", "log_softmax", "cross_entropy_grad"])
def test_four_blocks_of_float64_are_resident_on_the_fastest_memory(op: str) -> None:
    for n in (4096, 8192, 16384, 32000):
        plan = plan_of(op, "float64", (ROWS, n), -1, 100)
        (launch,) = plan.launches
        assert resident(plan, launch, allowed_registers(launch)) >= 4, n
        few = plan_of(op, "float64", (8, n), -1, 100)  # that fill no multiprocessor four times
        assert few.launches[0].grid <= few.device.sm_count and few.cluster <= PORTABLE_CLUSTER


def test_more_blocks_of_16_bits_are_resident_on_the_fastest_memory() -> None:
    for op, n, blocks in (
        ("softmax_hvp", 8192, 4),
        ("softmax_hvp", 32000, 4),
        ("logsumexp", 32000, 6),
    ):
        plan = plan_of(op, "float16", (ROWS, n), -1, 100)
        (launch,) = plan.launches
        assert resident(plan, launch, allowed_registers(launch)) == blocks, (op, n)


@pytest.mark.parametrize("arch", [90, 100])
def test_two_blocks_hold_the_longest_products_of_float64(arch: int) -> None:
    """With fewer registers a thread, as they take no exponentials."""
    need_tools()
    plan = plan_of("softmax_vjp", "float64", (ROWS, 131072), -1, arch)
    (launch,), (code,) = plan.launches, cost.compiled(plan)
    assert resident(plan, launch, code.registers) == 2 and not code.stack


def test_rows_that_are_read_twice_fill_a_multiprocessor_twice_or_are_few() -> None:
    for rows, threads in ((ROWS, 256), (12, 512)):
        plan = plan_of("softmax", "float64", (rows, 200000), -1, 75)
        assert (plan.pattern, plan.launches[0].block) == ("stream", threads)


def test_large_clusters_only_serve_to_let_blocks_share() -> None:
    """A row that two blocks of one multiprocessor can hold in small clusters has those."""
    for n, cluster in ((131072, 8), (400000, 16)):
        many = plan_of("softmax", "float32", (ROWS, n), -1, 90)
        few = plan_of("softmax", "float32", (16, n), -1, 90)  # 128 blocks for 132 multiprocessors
        assert (many.cluster, few.cluster) == (cluster, 8)
    # Of more rows only values are wanted in small blocks.
    assert plan_of("logsumexp", "float32", (500, 131072), -1, 90).cluster == 16
    assert plan_of("logsumexp", "float32", (500, 131072), -1, 120).cluster == 8


@pytest.mark.parametrize("op", ["softmax", "softmax_vjp"])
@pytest.mark.parametrize("arch", [90, 100])
def test_two_blocks_of_columns_are_resident(arch: int, op: str) -> None:
    for dtype in ("float16", "float32"):
        for n in (64, 128, 200, 512):
            plan = plan_of(op, dtype, (n, 1 << 16), 0, arch)
            (launch,) = plan.launches
            assert plan.pattern == "column"
            assert resident(plan, launch, allowed_registers(launch)) >= 2, (dtype, n)


@pytest.mark.parametrize("op", ["softmax", "softmax_vjp", "log_softmax", "cross_entropy_grad"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_as_compiled(op: str, dtype: str) -> None:
    need_tools()
    for n in (50257, 131072):
        plan = plan_of(op, dtype, (ROWS, n), -1, 90)
        (launch,), (code,) = plan.launches, cost.compiled(plan)
        assert code.registers <= allowed_registers(launch)
        assert resident(plan, launch, code.registers) >= 2 and not code.stack


def test_few_rows_take_whole_multiprocessors() -> None:
    """Where there are no two blocks for a multiprocessor, a block is as large as it can be."""
    few = plan_of("softmax", "float64", (3, 8192), -1, 80)
    many = plan_of("softmax", "float64", (ROWS, 8192), -1, 80)
    assert few.launches[0].block == 2 * many.launches[0].block
    assert few.device == DeviceSpec.known(80) and few.launches[0].grid == 3
