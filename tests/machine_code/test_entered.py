"""What counts is what runs: blocks of machine code as often as the kernel's PTX enters them."""

from __future__ import annotations

from functools import partial

import pytest

from cusoftmax.machine_code.cost import compiled
from cusoftmax.machine_code.entered import MOST_APART, blocks_entered, match
from cusoftmax.machine_code.executed import ExecutedLine
from cusoftmax.machine_code.flow import BlockGraph, walk
from cusoftmax.machine_code.loop_counts import loop_counts_of
from cusoftmax.profiling.sectors import executed_lines
from tests.machine_code.cost_support import need_tools, once, plan_of, sass

# Rows that end within their last chunk: seven of eight warps take the short way.
TWO_WAYS = sass(
    """
    ISETP P0, R1, R2
    @P0 BRA 0x70                # 2: the chunk is cut short
    LDG.E.128 R4, [R2.64]       # 1
    LDG.E.128 R8, [R2.64+0x200]
    FADD R4, R4, R8
    FADD R4, R4, R5
    BRA 0xc0
    ISETP P1, R1, R3            # 2
    @P0 LDG.E.128 R4, [R2.64]
    @P1 LDG.E.128 R8, [R2.64+0x200]
    FADD R4, R4, R8
    BRA 0xc0
    @P2 BRA 0xf0                # 3
    FMUL R4, R4, R5             # 4: far logits, which there are none of
    FMUL R4, R4, R5
    STG.E.128 [R2.64], R4       # 5
    EXIT
    """
)
LINES = [
    ExecutedLine("block", 8),
    ExecutedLine("bra", 8),
    ExecutedLine("block", 7),
    ExecutedLine("ld.global.v4.f32", 7),
    ExecutedLine("ld.global.v4.f32", 7),
    ExecutedLine("add.ftz.f32", 7),
    ExecutedLine("add.ftz.f32", 7),
    ExecutedLine("bra.uni", 7),
    ExecutedLine("block", 1),
    ExecutedLine("bra", 1),
    ExecutedLine("block", 1),
    ExecutedLine("ld.global.v4.f32", 1),
    ExecutedLine("block", 1),
    ExecutedLine("ld.global.v4.f32", 1),
    ExecutedLine("add.ftz.f32", 1),
    ExecutedLine("bra.uni", 1),
    ExecutedLine("block", 0),
    ExecutedLine("mul.ftz.f32", 0),
    ExecutedLine("mul.ftz.f32", 0),
    ExecutedLine("block", 8),
    ExecutedLine("st.global.v4.f32", 8),
    ExecutedLine("ret", 8),
]


def test_each_way_counts_as_often_as_it_is_taken() -> None:
    graph = BlockGraph(TWO_WAYS, 0)
    entered = blocks_entered(graph, LINES)
    # The blocks without arithmetic or accesses, 0 and 3, follow from the others.
    assert entered == {0: 1.0, 1: 7 / 8, 2: 1 / 8, 3: 1.0, 4: 0.0, 5: 1.0}
    found = walk(TWO_WAYS, once, entered=partial(blocks_entered, lines=LINES))
    assert sum(weight for _, weight in found.executed) == 2 + 5 * 7 / 8 + 5 / 8 + 1 + 2
    assert not any(weight for line, weight in found.executed if line.stem == "FMUL")
    # The path is the longest, by how often it is taken.
    assert sum(weight for _, weight in found.path) == 2 + 5 * 7 / 8 + 1 + 2


def test_a_condition_around_bulk_copies_counts_as_often_as_they_do() -> None:
    code = sass(
        """
        FADD R4, R4, R5
        @P0 BRA 0x80
        ISETP P1, R1, R2      # 1: the first warp of eight
        @P1 BRA 0x60
        UBLKCP.S.G [UR4], [UR6], UR8  # 2
        FMUL R6, R6, R6
        ISETP P2, R1, R2      # 3
        @P2 BRA 0x80
        STG.E [R2.64], R4     # 4
        EXIT
        """
    )
    lines = [
        ExecutedLine("block", 8),
        ExecutedLine("add.ftz.f32", 8),
        ExecutedLine("block", 1),
        ExecutedLine("cp.async.bulk.shared::cluster.global", 1),
        ExecutedLine("mul.ftz.f32", 1),
        ExecutedLine("block", 8),
        ExecutedLine("st.global.f32", 8),
    ]
    entered = blocks_entered(BlockGraph(code, 0), lines)
    # Block 3 comes after block 1 alone.
    assert entered == {0: 1.0, 1: 1 / 8, 2: 1 / 8, 3: 1 / 8, 4: 1.0}


def test_what_has_no_arithmetic_counts_as_often_as_the_ptx_in_its_place() -> None:
    code = sass(
        """
        FADD R4, R4, R5
        @P0 BRA 0x70          # few elements ask for the loop
        MOV R6, R4            # 1
        MOV R7, R6            # 2: the loop
        @P1 BRA 0x60
        FMUL R6, R6, R6       # 3
        @P2 BRA 0x30          # 4
        FADD R4, R6, R5       # 5
        STG.E [R2.64], R4
        EXIT
        """
    )

    def lines(entered: int) -> list[ExecutedLine]:
        return [
            ExecutedLine("block", 8),
            ExecutedLine("add.ftz.f32", 8),
            ExecutedLine("block", entered),
            ExecutedLine("mov.u32", entered),
            ExecutedLine("block", 2 * entered),
            ExecutedLine("mov.u32", 2 * entered),
            ExecutedLine("block", 0),
            ExecutedLine("mul.ftz.f32", 0),
            ExecutedLine("block", 2 * entered),
            ExecutedLine("bra", 2 * entered),
            ExecutedLine("block", 8),
            ExecutedLine("add.ftz.f32", 8),
            ExecutedLine("st.global.f32", 8),
        ]

    graph = BlockGraph(code, 0)
    assert blocks_entered(graph, lines(0)) == {0: 1, 1: 0, 2: 0, 3: 0, 4: 0, 5: 1}
    assert blocks_entered(graph, lines(2)) == {0: 1, 1: 1 / 2, 2: 1 / 2, 3: 0, 4: 1 / 2, 5: 1}


def test_ptx_that_is_spread_over_blocks_around_it_has_a_counterpart() -> None:
    """Eight multiplications, of which five are done before a branch and three behind it."""
    code = sass(
        "\n".join(
            (
                *["FADD R4, R4, R5"] * (2 + 5),
                "STG.E [R2.64], R4",
                "@P0 BRA 0xb0",
                *["FMUL R6, R6, R6"] * 2,  # seldom
                *["FADD R4, R4, R5"] * (2 + 3),
                "SHFL R4, R4",
                "EXIT",
            )
        )
    )
    lines = [
        ExecutedLine("block", 8),
        *[ExecutedLine("add.ftz.f32", 8)] * 2,
        ExecutedLine("st.global.f32", 8),
        ExecutedLine("block", 0),
        *[ExecutedLine("mul.ftz.f32", 0)] * 2,
        ExecutedLine("block", 8),
        *[ExecutedLine("mul.ftz.f32", 8)] * 8,
        ExecutedLine("block", 8),
        *[ExecutedLine("add.ftz.f32", 8)] * 2,
        ExecutedLine("shfl.sync.bfly.b32", 8),
    ]
    graph = BlockGraph(code, 0)
    assert match(graph, lines).apart < MOST_APART / 2
    assert blocks_entered(graph, lines)[2] == 1


def test_without_a_run_the_longest_way_counts() -> None:
    found = walk(TWO_WAYS, once)
    assert not found.beside and sum(weight for _, weight in found.path) == 2 + 5 + 1 + 2 + 2


def test_another_kernel_says_nothing() -> None:
    graph = BlockGraph(TWO_WAYS, 0)
    others = LINES[:2]
    assert match(graph, others).apart > MOST_APART
    assert not blocks_entered(graph, others)


def test_no_block_is_entered_more_often_than_one_always_before_it() -> None:
    code = sass(
        """
        FADD R4, R4, R5
        @P0 BRA 0xb0
        LDG R4, [R2.64]       # 1: seldom
        LDG R5, [R2.64+0x4]
        LDG R6, [R2.64+0x8]
        LDG R7, [R2.64+0xc]
        @P1 BRA 0xb0
        FMUL R4, R4, R5       # 2: seldom too, but not by its place among the PTX
        FMUL R4, R4, R6
        FMUL R4, R4, R7
        STG.E [R2.64], R4
        FMUL R4, R4, R5       # 3
        FMUL R4, R4, R6
        FMUL R4, R4, R7
        STG.E [R2.64+0x10], R4
        EXIT
        """
    )
    maps = {
        times: [ExecutedLine("block", times), *[ExecutedLine("mul.ftz.f32", times)] * 3,
                ExecutedLine("st.global.f32", times)]
        for times in (8, 1)
    }  # fmt: skip
    lines = [
        *(ExecutedLine("block", 8), ExecutedLine("add.ftz.f32", 8), ExecutedLine("bra", 8)),
        *(ExecutedLine("block", 1), *[ExecutedLine("ld.global.f32", 1)] * 4),
        *(*maps[8], *maps[1]),
    ]
    assert blocks_entered(BlockGraph(code, 0), lines) == {0: 1, 1: 1 / 8, 2: 1 / 8, 3: 1}


def test_what_is_entered_less_often_has_predicates_or_a_block_of_its_own() -> None:
    product = "FMUL R4, R4, R5\n"
    code = sass(
        f"""
        LDG R4, [R2.64]
        @P0 BRA 0x80
        {(product * 4).strip()}
        STG.E [R2.64], R4     # 1
        EXIT
        {(product * 8).strip()}
        STG.E [R2.64], R4     # 2: far logits, which there are none of
        EXIT
        """
    )

    def products(times: int) -> list[ExecutedLine]:
        return [ExecutedLine("block", times), *[ExecutedLine("mul.ftz.f32", times)] * 4]

    store = ExecutedLine("st.global.f32", 0)
    lines = [
        *(ExecutedLine("block", 8), ExecutedLine("ld.global.f32", 8), ExecutedLine("bra", 8)),
        *(*products(0), *products(0), store),
        *(*products(8), ExecutedLine("st.global.f32", 8)),
    ]
    assert blocks_entered(BlockGraph(code, 0), lines) == {0: 1, 1: 1, 2: 0}


def test_a_block_goes_on_behind_a_division_far_from_one() -> None:
    def sums(times: int) -> str:
        return "DADD R4, R4, R6\n" * times

    code = sass(
        f"""
        LDG R4, [R2.64]
        @P0 BRA 0x1b0
        {sums(2).strip()}
        MUFU.RCP64H R6, R5      # 1: far logits, which there are none of; a division
        @P1 BRA 0x70
        CALL.REL.NOINC 0x310    # 2
        {sums(20).strip()}
        {sums(21).strip()}
        EXIT
        """
    )

    def double(times: int, count: int) -> list[ExecutedLine]:
        return [ExecutedLine("add.f64", times)] * count

    lines = [
        *(ExecutedLine("block", 8), ExecutedLine("ld.global.f64", 8), ExecutedLine("bra", 8)),
        *(ExecutedLine("block", 0), *double(0, 17), ExecutedLine("rcp.rn.f64", 0)),
        *(ExecutedLine("block", 8), *double(8, 20)),
    ]
    entered = blocks_entered(BlockGraph(code, 0), lines)
    # Block 3 is the rest of block 1, though it has what the PTX of block 4 has.
    assert entered == {0: 1, 1: 0, 2: 0, 3: 0, 4: 1}


def test_of_parts_that_are_about_alike_the_place_says_which_is_which() -> None:
    def lines_of(line: str, times: int) -> str:
        return "\n".join([line] * times)

    # The compiler moved two additions of the first part, which is never entered, out of it, and
    # made two of another kind into additions of the second.
    code = sass(
        f"""
        LDG R4, [R2.64]
        @P0 BRA 0x120
        {lines_of("FADD R4, R4, R5", 16)}  # 1
        {lines_of("SHFL.BFLY R6, R4", 20)}
        @P1 BRA 0x390
        {lines_of("FADD R4, R4, R5", 18)}  # 3
        STG.E [R2.64], R4                 # 4
        EXIT
        """
    )

    def part(times: int, name: str, count: int) -> list[ExecutedLine]:
        return [ExecutedLine("block", times), *[ExecutedLine(name, times)] * count]

    lines = [
        *(*part(8, "ld.global.f32", 1), ExecutedLine("bra", 8)),
        *(*part(0, "add.f32", 18), *part(8, "shfl.sync.bfly.b32", 20), ExecutedLine("bra", 8)),
        *(*part(8, "add.f32", 16), *part(8, "st.global.f32", 1)),
    ]
    assert blocks_entered(BlockGraph(code, 0), lines) == {0: 1, 1: 0, 2: 1, 3: 1, 4: 1}


def test_what_is_never_entered_may_be_dropped() -> None:
    graph = BlockGraph(TWO_WAYS, 0)
    far = LINES.index(ExecutedLine("mul.ftz.f32", 0))
    longer = [*LINES[:far], *[LINES[far]] * 40, *LINES[far:]]
    assert match(graph, longer).apart < MOST_APART
    entered = [ExecutedLine(line.name, line.warps or 1) for line in longer]
    assert match(graph, entered).apart > MOST_APART


_ARITHMETIC = ("add.", "sub.", "mul.", "fma.", "max.", "min.")
_FLOATS = (".f32", ".f64", ".f32x2")
_ALIKE = ("ld.global", "st.global", "ld.shared", "st.shared", "cp.async.cg", "shfl", "ex2", "rcp")
_STEMS = {
    "FADD", "FMUL", "FFMA", "FMNMX", "DADD", "DMUL", "DFMA", "FADD2", "FMUL2", "FFMA2", "FMNMX3",
    "LDG", "STG", "LDS", "STS", "ST", "LDGSTS", "SHFL", "MUFU",
}  # fmt: skip


@pytest.mark.parametrize(
    ("op", "dtype", "shape", "arch"),
    [
        ("softmax", "float32", (4096, 8192), 90),
        ("softmax", "float32", (4096, 8188), 90),  # the last chunk is cut short
        ("softmax", "float32", (4096, 8191), 90),  # staged
        ("softmax", "float32", (4096, 8192), 100),
        ("softmax", "float32", (4096, 1024), 80),
        ("softmax", "float16", (4096, 8192), 90),
        ("softmax", "float64", (4096, 8192), 90),  # a cluster
        ("softmax_vjp", "float32", (4096, 8192), 90),
        ("softmax_vjp", "float16", (4096, 1000), 90),
        ("log_softmax", "float32", (4096, 8192), 90),
        ("log_softmax_vjp", "float32", (4096, 4096), 80),
        ("cross_entropy_grad", "float32", (4096, 8192), 90),
        ("cross_entropy_grad", "float16", (4096, 50257), 90),
        ("cross_entropy_grad", "float32", (8192, 8192), 80),
        ("cross_entropy_grad", "float64", (8192, 128), 80),  # divisions; two parts are about alike
        ("cross_entropy_grad", "float64", (2048, 50257), 100),  # a fold that is seldom needed
        ("cross_entropy_grad", "float64", (8192, 4096), 90),  # two ways to have what a block has
        ("softmax_vjp", "float16", (8192, 100), 90),  # ways for whole and short chunks
        ("softmax", "float32", (8192, 1001), 90),
        ("softmax_hvp", "float32", (8192, 32000), 90),  # far rows have the code of others twice
        ("softmax", "float16", (1, 1_000_000), 90),  # of two launches the first: loops in loops
    ],
)
def test_the_count_is_what_the_ptx_executes(
    op: str, dtype: str, shape: tuple[int, int], arch: int
) -> None:
    need_tools()
    plan = plan_of(op, dtype, shape, -1, arch)
    launch, code, lines = plan.launches[0], compiled(plan)[0], executed_lines(plan)[0]
    assert match(BlockGraph(code.instructions, code.base), lines).apart < MOST_APART
    found = walk(
        code.instructions,
        loop_counts_of(plan, launch),
        code.base,
        partial(blocks_entered, lines=lines),
    )
    counted = sum(
        weight * (2 if line.stem == "FMNMX3" else 1)
        for line, weight in found.executed
        if line.stem in _STEMS
    )
    executed = sum(
        line.warps * (1 + 5 * line.name.startswith("rcp.rn.f64"))  # five DFMA
        for line in lines
        if line.name.startswith(_ALIKE)
        or (line.name.startswith(_ARITHMETIC) and line.name.endswith(_FLOATS))
    )
    rows = max(1.0, plan.rows / (launch.grid / launch.kernel.cluster))
    if plan.pattern == "group":
        rows = 1
    assert counted / rows == pytest.approx(executed / lines[0].warps, rel=0.05)
