"""What each pattern moves: no byte more than it must, in whole sectors, as wide as planned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from benchmarks.traffic import (
    EXAMPLES,
    MOST_SECTORS,
    PatternExample,
    Sectors,
    Traffic,
    few_rows,
    measure,
    sectors,
    segments,
)
from cusoftmax.operations.dtypes import ITEMSIZE, compute_dtype
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.builder import ceil_div, power_of_two
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import NODES_EACH, groups_of, split_nodes_each
from tests.support import OPS, bits, exhaustive, kind
from tests.support import planned as plan_of_shape

DTYPES = ("float16", "float32", "float64")
RESIDENT = ("group", "block", "block x8", "column", "column, clusters")
# Softmax reads one array twice and writes one: 3 of 2. The derivative reads two twice: 5 of 3.
TWICE = {"softmax": 3 / 2, "softmax_vjp": 5 / 3}
# Nodes in the workspace, beside the arrays: of a segment of 8 chunks, and of 8 to 16 elements.
WORKSPACE = {"stream": 0, "split": 0.035, "column, long": 0.2}


@pytest.fixture(scope="module", params=[(op, dtype) for op in OPS for dtype in DTYPES], ids=str)
def measured(request: pytest.FixtureRequest) -> dict[str, Traffic]:
    """Every case, measured once for each operation and dtype."""
    op, dtype = request.param
    return {case.name: measure(case, op, dtype) for case in EXAMPLES}


def test_cases_run_the_patterns_that_they_name(measured: dict[str, Traffic]) -> None:
    for name, traffic in measured.items():
        words = name.replace(",", "").split()
        assert traffic.plan.pattern == words[0]
        assert (traffic.plan.cluster > 1) == (words[-1] in ("x8", "clusters"))
        # Nodes of float64 gradients are too large for each block to fold those of all pieces.
        apart = traffic.plan.op == "softmax_vjp" and traffic.plan.vector == 1
        long = {"split": 2, "column, long": 3 if apart else 2}
        assert len(traffic.plan.launches) == long.get(name, 1)
        assert traffic.counted.launches == len(traffic.plan.launches)


def test_resident_rows_are_read_and_written_once(measured: dict[str, Traffic]) -> None:
    for name in RESIDENT:
        assert measured[name].over_least == 1
        assert measured[name].sectors_over_least == 1


def test_other_rows_are_read_twice_and_written_once(measured: dict[str, Traffic]) -> None:
    for name, workspace in WORKSPACE.items():
        traffic = measured[name]
        array = TWICE[traffic.plan.op]
        # `WORKSPACE` is that of softmax's nodes, of three words.
        nodes = workspace * int(traffic.plan.launches[0].kernel["CSM_NODE_WORDS"]) / 3
        assert array <= traffic.over_least <= array + nodes
        if name == "stream":
            assert traffic.sectors_over_least == 1


def test_first_launch_reads_the_inputs_and_the_last_writes_the_output(
    measured: dict[str, Traffic],
) -> None:
    for name in ("split", "column, long"):
        plan, launches = measured[name].plan, measured[name].counted.kernels
        *inputs, out = (plan.rows * plan.n * ITEMSIZE[o.dtype] for o in plan.problem.operands)
        assert launches[0].global_bytes_read == sum(inputs)
        assert launches[0].sectors_read * 32 == sum(inputs)
        assert launches[0].global_bytes_written <= plan.workspace_bytes
        assert launches[-1].global_bytes_read >= sum(inputs)
        assert launches[-1].global_bytes_written == out
        assert launches[-1].sectors_written * 32 == out


def test_accesses_are_as_wide_as_planned(measured: dict[str, Traffic]) -> None:
    for name, traffic in measured.items():
        itemsize = ITEMSIZE[traffic.plan.problem.operands[-1].dtype]
        planned = traffic.plan.vector * itemsize
        assert traffic.counted.kernels[0].widest_read == planned
        assert traffic.counted.kernels[-1].widest_written == planned
        assert planned == 16 or name.startswith("column")


def test_no_bank_conflicts(measured: dict[str, Traffic]) -> None:
    for name, traffic in measured.items():
        assert traffic.counted.bank_conflicts == conflicts_of_folds(traffic.plan), name


def conflicts_of_folds(plan: Plan) -> int:
    """Return how often lanes that fold a row's nodes want the same bank, and wait for each other.

    The nodes lie one after the other, so that one address serves all words of one: where they have
    an even number of words, or a lane takes two, some are in one bank. That is a few cycles a row.
    """
    operation, dtypes = KERNELS[plan.op], tuple(o.dtype for o in plan.problem.operands)
    acc = compute_dtype(dtypes[:-1], dtypes[-1])
    lanes = 32 * 4 // ITEMSIZE[acc]  # that are served at once
    stride = operation.node_words(dtypes, acc) - (not operation.relative)
    needs = operation.needs(dtypes, acc)
    words = stride - (acc != dtypes[-1]) * (needs.relative + needs.plain)  # 16 bits: no low words

    def of_fold(nodes: int, each: int = 1) -> int:
        width = min(32, power_of_two(nodes))  # lanes that have a node, which the others have too
        each, found = each if power_of_two(nodes) > 32 else 1, 0
        for node, first in product(range(each), range(0, 32, lanes)):
            places = {lane % width * each + node for lane in range(first, first + lanes)}
            banks = Counter(place * stride % lanes for place in places if place < nodes)
            found += words * (max(banks.values(), default=1) - 1)
        return found

    first, *others = plan.launches
    chunks, warps = ceil_div(plan.n, plan.chunk), first.block // 32
    if plan.pattern == "stream":
        return plan.rows * ceil_div(chunks, warps) * of_fold(warps)
    if plan.pattern == "split":  # the nodes of a row's pieces are in the workspace
        groups = groups_of(first.grid // plan.rows, split_nodes_each(first.kernel))
        return first.grid * plan.rounds * of_fold(warps) + others[0].grid * of_fold(groups)
    if plan.pattern != "block":
        return 0
    each = NODES_EACH if plan.cluster > 1 or first.kernel["CSM_PARKS"] != "0" else 1
    groups = groups_of(chunks, each)
    folds = [of_fold(min(32 * each, chunks - 32 * each * i), each) for i in range(groups)]
    return plan.rows * plan.cluster * (sum(folds) + of_fold(groups or chunks, each))


def test_barriers(measured: dict[str, Traffic]) -> None:
    for name, traffic in measured.items():
        plan, counted = traffic.plan, traffic.counted
        first = plan.launches[0]
        chunks, warps = ceil_div(plan.n, plan.chunk), first.block // 32
        exchanges = 2 * first.grid // plan.cluster if plan.cluster > 1 else 0
        assert counted.cluster_barriers == exchanges
        # After groups of nodes, and after the rest. In clusters a lane takes two nodes of a group.
        several = groups_of(chunks, NODES_EACH if plan.cluster > 1 else 1) > 0
        folds = first.grid * (1 + several)
        if name == "group":
            assert counted.barriers == 0
        elif name == "block x8":
            assert counted.barriers == folds
        elif name == "block":
            assert counted.barriers == plan.rows + folds
        elif name == "stream":
            assert counted.barriers == plan.rows * (ceil_div(chunks, warps) + 1)
        elif name == "split":
            reduce, write = plan.launches
            several = groups_of(reduce.grid, split_nodes_each(reduce.kernel)) > 0
            folds = write.grid * (1 + several)  # of one row's nodes
            assert counted.barriers == reduce.grid * (plan.rounds + 1) + folds
        else:
            # One after nodes are stored, and one after each level of the tree that a block folds:
            # of rows that are read twice over its warps, in which shuffles fold them.
            fold = warps.bit_length() if len(plan.launches) > 1 else 1 + (chunks - 1).bit_length()
            after = {"0": 0, "3": 1, "4": fold}[plan.launches[-1].kernel["CSM_STAGE"]]
            if len(plan.launches) == 3:  # a warp folds the nodes of a row's pieces, by shuffles
                assert counted.kernels[1].barriers == 0
            assert counted.barriers == first.grid * (fold + after)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("blocks", [1, 2])
def test_columns_that_stream_read_again_what_is_not_kept(op: str, dtype: str, blocks: int) -> None:
    """Of blocks alone, and of two on a multiprocessor, which keep more."""
    itemsize, inputs = ITEMSIZE[dtype], 1 + (op != "softmax")
    lines = 8000 if blocks == 1 else 3900
    traffic = measure(
        PatternExample("stream", "sm_80", (lines // inputs, 109 * 32 // itemsize), 0), op, dtype
    )
    plan, (launch,) = traffic.plan, traffic.plan.launches
    assert kind(plan).startswith("column stream")
    assert launch.block * blocks == launch.kernel.max_threads
    of_round = plan.chunk * launch.block // int(launch.kernel["CSM_LANES"])
    kept = 1 + (plan.passes if launch.kernel["CSM_PARKS"] == "1" else 0)  # rounds
    again = (ceil_div(plan.n, of_round) - kept) * of_round / plan.n
    assert 0 < again < 1
    assert traffic.over_least == pytest.approx(1 + again * inputs / (inputs + 1))
    assert traffic.over_least < TWICE[op]
    assert traffic.sectors_over_least == 1
    assert traffic.counted.bank_conflicts == 0


@pytest.mark.parametrize("n", [61, 1021, 4099])
def test_odd_rows_cost_no_byte_more(n: int) -> None:
    traffic = measure(PatternExample("odd", "sm_90", (16, n)), "softmax", "float16")
    assert traffic.over_least == 1
    assert traffic.plan.vector == 1


# ---- rows of any length ----

# Rows that lie end to end: every residue of 16 bytes, in few kernels.
ODD: dict[tuple[str, str], tuple[int, ...]] = {
    ("softmax", "float16"): (*range(8185, 8193), 10, 33, 40, 100, 127, 1001, 2051, 16383, 50257),
    ("softmax", "bfloat16"): (33, 8191),
    ("softmax", "float32"): (*range(4093, 4097), 3, 33, 1001, 16383, 131071),
    ("softmax", "float64"): (4095, 5, 33, 511, 65535),
    ("softmax_vjp", "float16"): (33, 257, 264, 4095),
    ("softmax_vjp", "float32"): (33, 257, 4095),
    ("softmax_vjp", "float64"): (102401, 131071),
    ("log_softmax", "float16"): (33, 8191),
    ("log_softmax_jvp", "float32"): (130, 4095),
    ("cross_entropy_grad", "float16"): (33, 8191),
}
# The same for every operation that reads and writes all elements of a row: from each of these
# lengths on, as many as there are residues. They are on both sides of where the number of lanes, of
# blocks or the pattern changes.
FIRSTS = (
    1,
    9,
    15,
    31,
    63,
    127,
    255,
    511,
    1017,
    2043,
    4089,
    8185,
    16377,
    32761,
    50257,
    98303,
    131065,
)
EVERY = [
    (op, dtype)
    for op in ("softmax", "softmax_vjp", "log_softmax", "log_softmax_jvp", "cross_entropy_grad")
    for dtype in ("float16", "bfloat16", "float32", "float64")
]


def every_length(dtype: str) -> Iterator[int]:
    """Return the lengths of `FIRSTS`, one of each residue."""
    residues = 16 // (2 if dtype == "bfloat16" else np.dtype(dtype).itemsize)
    for first in FIRSTS:
        yield from range(first, first + residues)


@pytest.mark.parametrize(("op", "dtype"), ODD, ids=str)
def test_rows_of_any_length_move_whole_sectors(op: str, dtype: str) -> None:
    for n in ODD[op, dtype]:
        planned = sectors(op, dtype, few_rows(n))
        assert planned.read <= MOST_SECTORS and planned.written <= MOST_SECTORS, n


@pytest.mark.parametrize(("op", "dtype"), exhaustive(EVERY), ids=str)
def test_rows_of_every_length_move_whole_sectors(op: str, dtype: str) -> None:
    for n in every_length(dtype):
        planned = sectors(op, dtype, few_rows(n))
        assert planned.read <= MOST_SECTORS and planned.written <= MOST_SECTORS, n


@pytest.mark.parametrize(("op", "dtype"), ODD, ids=str)
def test_bits_do_not_depend_on_the_way_through_shared_memory(op: str, dtype: str) -> None:
    for n in [n for n in ODD[op, dtype] if n < 10000][::2]:
        same_bits(sectors(op, dtype, few_rows(n)), sectors(op, dtype, few_rows(n), staged=False))


def same_bits(some: Sectors, others: Sectors) -> None:
    for result, other in zip(some.result, others.result, strict=True):
        np.testing.assert_array_equal(bits(result), bits(other), strict=True)


def test_rows_in_place_move_more_sectors() -> None:
    """What the tests above would find if nothing passed through shared memory."""
    assert sectors("softmax", "float16", few_rows(33), staged=False).read > 8
    assert sectors("softmax", "float16", few_rows(8191), staged=False).written > 1.3


@pytest.mark.parametrize(
    ("pattern", "arch", "dtype", "shape"),
    [
        ("split", "sm_80", "float16", (2, 70001)),
        ("stream", "sm_75", "float16", (12, 100001)),
        # A span has no room for the chunks of 16 warps: 8 pass over a row.
        ("stream", "sm_75", "float32", (12, 60001)),
        ("stream", "sm_75", "float64", (12, 30001)),
    ],
)
def test_rows_read_twice_move_whole_sectors(
    pattern: str, arch: str, dtype: str, shape: tuple[int, int]
) -> None:
    planned = sectors("softmax", dtype, shape, arch=arch)
    in_place = sectors("softmax", dtype, shape, arch=arch, staged=False)
    assert kind(plan_of_shape("softmax", dtype, shape, -1, arch)) == pattern
    assert planned.read <= 2 * MOST_SECTORS and planned.written <= MOST_SECTORS
    same_bits(planned, in_place)


# Rows side by side: few, more than a warp reads at once, so many that a block takes some of them,
# and rows that clusters share.
SIDE_BY_SIDE = [
    ("softmax", "float16", (3, 100, 7)),
    ("softmax", "float16", (3, 100, 33)),
    ("softmax", "bfloat16", (2, 60, 49)),
    ("softmax", "float16", (2, 100, 196)),
    ("softmax", "float16", (2, 10, 3025)),
    ("softmax", "float16", (1, 3000, 49)),
    ("softmax", "float32", (2, 100, 33)),
    ("softmax", "float32", (2, 300, 361)),
    ("softmax", "float64", (2, 100, 33)),
    ("softmax_vjp", "float32", (1000, 10)),
    ("softmax_vjp", "float16", (2, 100, 49)),
    ("softmax_vjp", "float64", (2, 60, 101)),
    ("log_softmax_value_and_vjp", "float32", (2, 100, 37)),
    ("cross_entropy_grad", "float16", (2, 50, 121)),
    ("cross_entropy_grad", "float32", (3, 200, 33)),
    ("logsumexp_vjp", "float16", (2, 300, 33)),
]


@pytest.mark.parametrize(("op", "dtype", "shape"), SIDE_BY_SIDE)
def test_columns_move_whole_sectors(op: str, dtype: str, shape: tuple[int, ...]) -> None:
    planned = sectors(op, dtype, shape, -2)
    in_place = sectors(op, dtype, shape, -2, staged=False)
    assert plan_of_shape(op, dtype, shape, -2, "sm_90").pattern == "column"
    assert planned.read <= MOST_SECTORS and planned.written <= MOST_SECTORS
    assert in_place.read > MOST_SECTORS
    same_bits(planned, in_place)


@pytest.mark.parametrize(
    ("dtype", "shape", "arch"),
    [("float32", (1, 9000, 49), "sm_90"), ("float16", (1, 3000, 49), "sm_80")],
)
def test_columns_read_twice_move_whole_sectors(
    dtype: str, shape: tuple[int, ...], arch: str
) -> None:
    planned = sectors("softmax", dtype, shape, -2, arch=arch)
    in_place = sectors("softmax", dtype, shape, -2, staged=False, arch=arch)
    assert 2 < planned.read <= 2 * MOST_SECTORS < in_place.read
    same_bits(planned, in_place)


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float16", (300, 33)), ("float32", (300, 64)), ("float64", (300, 7))]
)
def test_selection_of_short_rows_moves_whole_sectors(dtype: str, shape: tuple[int, int]) -> None:
    planned = sectors("topk_softmax", dtype, shape)
    in_place = sectors("topk_softmax", dtype, shape, staged=False)
    assert planned.read <= MOST_SECTORS and planned.written <= MOST_SECTORS
    assert in_place.read > 1.5 or in_place.written > 1.5
    same_bits(planned, in_place)


@pytest.mark.parametrize(
    ("pattern", "op", "dtype", "shape"),
    [
        ("topk_block", "topk_softmax", "float16", (64, 5001)),
        ("topk_block", "topk_softmax", "float64", (36, 20001)),
        ("topk_block", "topk_softmax", "float32", (64, 5001)),
        ("topk_split", "topk_softmax", "float16", (2, 70001)),
    ],
)
def test_selection_of_long_rows_reads_whole_sectors(
    pattern: str, op: str, dtype: str, shape: tuple[int, int]
) -> None:
    planned = sectors(op, dtype, shape)
    in_place = sectors(op, dtype, shape, staged=False)
    assert kind(plan_of_shape(op, dtype, shape, -1, "sm_90")) == pattern
    assert planned.read <= MOST_SECTORS < in_place.read
    same_bits(planned, in_place)


@pytest.mark.parametrize(
    ("op", "dtype", "n", "rows"),
    [
        ("segment_softmax", "float16", 100, 2000),
        ("segment_softmax", "float16", 1001, 200),
        ("segment_softmax", "float32", 33, 4000),
        ("segment_softmax", "float64", 33, 2000),
        ("segment_softmax_vjp", "float32", 33, 2000),
    ],
)
def test_segments_move_whole_sectors(op: str, dtype: str, n: int, rows: int) -> None:
    """Offsets are read once, and then 16 bits for each row."""
    moved = segments(op, dtype, n, rows)
    assert moved.read <= MOST_SECTORS and moved.written <= MOST_SECTORS


def test_short_segments_read_little_more_than_their_offsets() -> None:
    assert segments("segment_softmax", "float16", 33, 4000).read <= 1.07
    assert segments("segment_softmax", "float16", 1, 20000).read <= 1.25
