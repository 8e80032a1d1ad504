"""The cost model's reading of machine code: opcodes, loops, and how often they run."""

from __future__ import annotations

from collections import Counter

import pytest

from cusoftmax.machine_code import cost
from cusoftmax.machine_code.flow import Loop, Walk, walk
from cusoftmax.machine_code.loop_counts import loop_counts_of
from cusoftmax.machine_code.opcodes import kind_of, registers_of
from tests.machine_code.cost_support import compiled, need_tools, once, plan_of, sass

# ------------------------------------------------------------------------------------------ opcodes


@pytest.mark.parametrize(
    ("line", "name", "unit"),
    [
        ("LDG.E.128 R4, desc[UR4][R2.64+0x200]", "global memory", "lsu"),
        ("STS [R3], R4", "shared memory", "lsu"),
        ("ST.E desc[UR4][R2.64], R5", "shared memory", "lsu"),
        ("SHFL.BFLY PT, R3, R4, 0x1, 0x1f", "shuffle", "lsu"),
        ("F2FP.F16.F32.PACK_AB R8, R5, R4", "conversion", "alu"),
        ("HADD2.F32 R5, -RZ, R4.H0_H0", "conversion", "half"),
        ("IMAD.U32 R5, R4, 0x10000, RZ", "conversion", "imad"),  # bfloat16's lower half
        ("LOP3.LUT R5, R4, 0xffff0000, RZ, 0xc0, !PT", "conversion", "alu"),  # and its upper
        ("I2F.RP R2, R3", "conversion", "xu"),
        ("FFMA.FTZ R1, R2, R3, R4", "float", "fma"),
        ("FMNMX.FTZ R1, R2, R3, !PT", "float", "alu"),
        ("DADD R2, R4, R6", "double", "double"),
        ("MUFU.EX2 R4, R5", "special function", "xu"),
        ("IMAD.WIDE R2, R4, 0x400, R6", "integer", "imad"),
        ("ISETP.GE.AND P1, PT, R4, R41, PT", "integer", "alu"),
        ("IMAD.MOV.U32 R3, RZ, RZ, R4", "move", "imad"),
        ("HFMA2.MMA R5, -RZ, RZ, 0, 0", "move", "half"),
        ("BAR.SYNC.DEFER_BLOCKING 0x0", "control", ""),
        ("STL [R1], R4", "spill", "lsu"),
        ("FROBNICATE R1", "other", ""),
    ],
)
def test_an_opcode_has_a_class_and_a_unit(line: str, name: str, unit: str) -> None:
    assert kind_of(sass(line)[0]) == (name, unit)


@pytest.mark.parametrize(
    ("line", "written", "read"),
    [
        ("LDG.E.128 R4, desc[UR10][R44.64+0x200] ;", "R4 R5 R6 R7", "UR10 R44 R45"),
        ("STG.E.64 desc[UR4][R2.64], R8 ;", "", "UR4 R2 R3 R8 R9"),
        ("SHFL.BFLY PT, R43, R44, 0x1, 0x1f ;", "R43", "R44"),
        ("DFMA R2, R4, R6, -R8 ;", "R2 R3", "R4 R5 R6 R7 R8 R9"),
        ("FSETP.GEU.FTZ.AND P1, PT, R48, -87.6, PT ;", "P1", "R48"),
        ("BAR.SYNC 0x0 ;", "", ""),
    ],
)
def test_registers_that_an_instruction_writes_and_reads(line: str, written: str, read: str) -> None:
    assert registers_of(sass(line)[0]) == (tuple(written.split()), tuple(read.split()))


# --------------------------------------------------------------------------------------------- flow

# 0x00 entry; an outer loop 0x10 … 0x90 with a loop 0x30 … 0x50 and a part that may be skipped; a
# subroutine, and what a diverged warp would do.
NESTED = sass(
    """
    S2R R0, SR_TID.X
    LDG.E R4, [R2.64]               # 0x10
    MOV R5, RZ
    FADD R5, R5, R4                 # 0x30
    SHFL.BFLY PT, R4, R5, R1, 0x1f
    @!P0 BRA 0x30                   # 0x50
    @P1 BRA 0x90                    # 0x60
    FMUL R5, R5, R5
    CALL.REL.NOINC 0xd0             # 0x80
    STG.E [R2.64], R5               # 0x90
    BRA.DIV ~URZ, 0xe0
    @P2 BRA 0x10                    # 0xb0
    EXIT                            # 0xc0
    RET.REL.NODEC R2 0x0            # 0xd0
    WARPSYNC R2                     # 0xe0
    BRA 0xb0
    """
)


def stems(found: Walk) -> dict[str, float]:
    counts: Counter[str] = Counter()
    for instruction, weight in found.path:
        counts[instruction.stem] += weight  # type: ignore[assignment]
    return dict(counts)


def test_loops_are_found_nested_and_weighted() -> None:
    def trips(loop: Loop) -> float:
        if loop.depth == 0:
            assert loop.has("STG") and loop.has("SHFL.BFLY")
            assert loop.per_round("SHFL") == 0 and loop.per_round("STG") == 1
            return 3
        assert not loop.has("STG") and loop.per_round("SHFL.BFLY") == 1
        return 5

    found = walk(NESTED, trips)
    assert len(found.loops) == 2 and found.unknown == 0
    assert stems(found) == {
        "S2R": 1, "LDG": 3, "MOV": 3, "FADD": 15, "SHFL": 15, "FMUL": 3, "CALL": 3, "STG": 3,
        "BRA": 15 + 3 + 3 + 3, "EXIT": 1,
    }  # fmt: skip


def test_addresses_may_start_anywhere() -> None:
    moved = [
        i._replace(operands=i.operands.replace("0x", "0x10")) if i.stem in ("BRA", "CALL") else i
        for i in NESTED
    ]  # 0x30 becomes 0x1030
    there, here = walk(moved, lambda loop: 4, base=0x1000), walk(NESTED, lambda loop: 4)
    assert stems(there) == stems(here) and stems(here)["FADD"] == 16


def test_a_loop_left_in_its_middle_runs_whole() -> None:
    code = sass(
        """
        FADD R1, R1, R2
        @P0 BRA 0x40
        FMUL R1, R1, R2
        BRA 0x0
        EXIT
        """
    )
    assert stems(walk(code, lambda loop: 4)) == {"FADD": 4, "BRA": 8, "FMUL": 4, "EXIT": 1}


def test_a_loop_of_unknown_length_is_reported() -> None:
    found = walk(NESTED, lambda loop: None)
    assert found.unknown == 2 and stems(found)["FADD"] == 1


def test_of_two_ways_the_longer_one_counts() -> None:
    code = sass("@P0 BRA 0x40\nFADD R1, R1, R1\nFADD R1, R1, R1\nBRA 0x50\nFMUL R1, R1, R1\nEXIT")
    assert "FMUL" not in stems(walk(code, once)) and stems(walk(code, once))["FADD"] == 2


# ----------------------------------------------------------------------------------- loops of plans


@pytest.mark.parametrize(
    ("op", "dtype", "shape", "axis", "arch", "opcode", "each"),
    [
        # Times that a warp executes an opcode, from the kernels' text.
        ("softmax", "float16", (4096, 1024), -1, 90, "LDG", 4),  # 32 elements, 8 an access
        ("softmax", "float16", (4096, 1024), -1, 90, "SHFL", 5 + 5),  # maximum and sum
        # In a block one more, for the warp's number.
        (
            "softmax",
            "float32",
            (4096, 8192),
            -1,
            80,
            "SHFL",
            1 + 5 + 10 + 3 * 3 / 8,
        ),  # 8 nodes of 3
        # 16 nodes, of which each of 8 warps makes two.
        ("softmax", "float32", (4096, 16384), -1, 80, "SHFL", 1 + 2 * (5 + 10) + 4 * 3 / 8),
        (
            "softmax_vjp",
            "float16",
            (4096, 4096),
            -1,
            90,
            "SHFL",
            1 + 5 + 3 * 1 / 8,
        ),  # 8 chunks of 512
        # 98 chunks: 2 groups for 13 warps, 5 steps of 2 words each; then a step of one warp.
        ("softmax", "float16", (4096, 100000), -1, 90, "SHFL", 1 + 10 + 10 * 2 / 13 + 2 / 13),
        # The same of 3 words, by 7 warps of each of 8 blocks.
        (
            "softmax",
            "float32",
            (4096, 100000),
            -1,
            90,
            "SHFL",
            1 + 15 * 98 / 56 + 15 * 2 / 7 + 3 / 7,
        ),
        # 59 chunks for 20 warps: 39 are parked, over 20 warps, of 8 accesses each.
        ("softmax", "float32", (100, 60000), -1, 80, "STG", 8 * (1 + 39 / 20)),
        ("softmax", "float32", (4096, 60000), -1, 80, "STG", 8 * 3),  # 3 rounds of 28 warps
        ("softmax", "float16", (512, 1 << 20), -1, 80, "STG", 4 * 64),  # 64 rounds of 16 warps
        ("softmax", "float16", (512, 1 << 20), -1, 80, "LDG", 2 * 4 * 64),
        # Staged, two chunks a warp: 64 results, an element at the row's end, the three words of a
        # node, which half of the lanes have of either chunk, and those of a merged one, and
        # padding: elements up to a vector's start, if there are, and a vector for each four.
        ("softmax", "float32", (4096, 8191), -1, 90, "STS", 64 + 1 + 3 + 3 + 1 + 2 / 4 / 256),
        # Staged columns: 6600 bytes by 64 threads, and elements at the ends; or 10 lines of 704.
        ("softmax", "float16", (4000, 100, 33), 1, 90, "LDGSTS", 7),
        ("softmax", "float16", (4000, 100, 33), 1, 90, "STG", 7 + 1),
        ("softmax", "float16", (40, 10, 3025), 1, 90, "LDGSTS", 10 * 2),
        ("softmax", "float16", (40, 10, 3025), 1, 90, "STG", 10 * (2 + 1)),
    ],
)
def test_loops_run_as_often_as_the_plan_says(
    op: str, dtype: str, shape: tuple[int, ...], axis: int, arch: int, opcode: str, each: float
) -> None:
    need_tools()
    chosen = plan_of(op, dtype, shape, axis, arch)
    (launch,), (code,) = chosen.launches, compiled(chosen)
    units = max(1.0, chosen.rows / (launch.grid / launch.kernel.cluster))
    if chosen.pattern in ("group", "column"):
        units = 1
    found = walk(code.instructions, loop_counts_of(chosen, launch), code.base)
    assert found.unknown == 0
    assert stems(found)[opcode] == pytest.approx(each * units, rel=0.001)


@pytest.mark.parametrize(
    ("arch", "dtype", "shape", "axis"),
    [
        (75, "float64", (4096, 20000), -1),
        (75, "bfloat16", (512, 256), 0),
        (90, "float16", (512, 4096), 0),
        (120, "bfloat16", (4096, 200000), -1),
        (120, "float64", (64, 64), 0),
    ],
)
def test_no_opcode_and_no_loop_is_unknown(
    arch: int, dtype: str, shape: tuple[int, ...], axis: int
) -> None:
    need_tools()
    for launch in cost.cost(plan_of("softmax", dtype, shape, axis, arch)).launches:
        assert "other" not in launch.per_element, launch.name
        assert launch.unknown_loops == 0, launch.name
