"""Rows of unequal length: every way that a length is taken, wherever a segment stands."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.contract.table import Arrays
from cusoftmax.emulator._memory import view_of
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.prepare import problem_for
from tests.support import (
    DTYPES,
    SWEPT_DTYPES,
    assert_kept,
    bits,
    blocks_of_each_launch,
    dtype_of,
    plan_of,
)
from tests.support import planned as planned_as

OPS = ("segment_softmax", "segment_softmax_vjp")
NAN = np.nan


def offsets_of(lengths: Any, dtype: str = "int64") -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(dtype)


def drawn(op: str, offsets: np.ndarray, dtype: str, shape: tuple[int, ...] = ()) -> Arrays:
    """Return an operation's inputs for these offsets, all but the offsets."""
    rng = np.random.default_rng(len(offsets))
    x = rng.normal(0, 5, (int(offsets[-1]), *shape))
    if op == "segment_softmax":
        return (x.astype(dtype_of(dtype)),)
    y = reference.segment_softmax(x, offsets)
    return y.astype(dtype_of(dtype)), rng.normal(0, 1, x.shape).astype(dtype_of(dtype))


def run(device: Any, op: str, inputs: Arrays, offsets: np.ndarray, misalign: int = 0) -> Any:
    """Return the result of a call as a NumPy array; inputs begin so many elements off."""
    arrays = [device.asarray(a, misalign * a.dtype.itemsize) for a in inputs]
    return device.asnumpy(getattr(cs, op)(*arrays, device.asarray(offsets)))


def row(device: Any, op: str, inputs: Arrays) -> Any:
    """Return what the operation of rows gives for one segment."""
    function = getattr(cs, op.removeprefix("segment_"))
    return device.asnumpy(function(*(device.asarray(a) for a in inputs)))


def judge(op: str, inputs: Arrays, offsets: np.ndarray, result: np.ndarray) -> None:
    __tracebackhide__ = True
    assert_kept(op, (*inputs, offsets), 0, (result,))


def plan_for(op: str, dtype: str, elements: int) -> Plan:
    return planned_as(op, dtype, (elements,), 0, "sm_90")


def thresholds(op: str, dtype: str) -> tuple[int, int, list[int]]:
    """Return the chunk, the tile, and lengths on both sides of whatever changes with the length."""
    plan = plan_for(op, dtype, 1)
    kernel = plan.launches[0].kernel
    items, group, chunk = int(kernel["CSM_ITEMS"]), int(kernel["CSM_GROUP"]), plan.chunk
    tile = int(kernel["CSM_SEGMENT_TILE"])
    edges = [2 * group, *(lanes * items for lanes in (2, 4, 8, 16)), *range(chunk, tile + 1, chunk)]
    near = {edge + step for edge in edges for step in (-1, 0, 1)} | {2 * tile, 2 * tile + 1}
    return chunk, tile, sorted({0, 1, 2, 3, 31, 32, 33} | near)


# ------------------------------------------------------------------------------ values and bits


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_every_length_among_others(device: Any, op: str, dtype: str) -> None:
    _, _, lengths = thresholds(op, dtype)
    mixed = np.random.default_rng(1).permutation([*lengths, 0, 0, 7, 1])
    offsets = offsets_of(mixed)
    inputs = drawn(op, offsets, dtype)
    result = run(device, op, inputs, offsets)
    assert result.dtype == inputs[0].dtype
    judge(op, inputs, offsets, result)
    # The bits are those of the row alone, and so of the segment anywhere: above a chunk, up to it,
    # and, in another place, with offsets of another dtype and after unaligned elements, all again.
    for begin, end in pairwise(offsets):
        if begin < end:
            alone = row(device, op, tuple(a[begin:end] for a in inputs))
            np.testing.assert_array_equal(bits(result[begin:end]), bits(alone), f"{end - begin}")
    turned = offsets_of(mixed[::-1], "int32")
    cuts = [slice(b, e) for b, e in pairwise(offsets)][::-1]
    moved = tuple(np.concatenate([a[cut] for cut in cuts]) for a in inputs)
    again = run(device, op, moved, turned, misalign=1)
    np.testing.assert_array_equal(bits(again), bits(np.concatenate([result[c] for c in cuts])))


def test_the_order_of_threads_changes_no_bit(device: Any) -> None:
    offsets = offsets_of([5, 3000, 0, 17, 9000, 64, 2])
    inputs = drawn("segment_softmax", offsets, "float32")
    first = run(device, "segment_softmax", inputs, offsets)
    with device.on(seed=7):
        again = run(device, "segment_softmax", inputs, offsets)
    np.testing.assert_array_equal(bits(first), bits(again))


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_100"])
@pytest.mark.parametrize("op", OPS)
def test_other_architectures(device: Any, op: str, arch: str) -> None:
    offsets = offsets_of([40, 0, 5000, 3, 1025, 9001])
    inputs = drawn(op, offsets, "float16")
    with device.on(arch):
        judge(op, inputs, offsets, run(device, op, inputs, offsets))


@pytest.mark.parametrize("op", OPS)
def test_many_tiny_segments(device: Any, op: str) -> None:
    lengths = np.random.default_rng(2).integers(0, 9, 6000)
    offsets = offsets_of(lengths)
    inputs = drawn(op, offsets, "float32")
    judge(op, inputs, offsets, run(device, op, inputs, offsets))


@pytest.mark.parametrize("place", [0, 31, 32, 95, 96, 97, 300])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_segment_of_about_a_tile_among_many(device: Any, place: int, beyond: int) -> None:
    """Wherever a warp has it of those whose offsets it looks at, it finds all tiles' first ones."""
    op, dtype = "segment_softmax", "float32"
    _, tile, _ = thresholds(op, dtype)
    lengths = np.random.default_rng(place).integers(0, 49, 301)
    lengths[place] = tile + beyond
    offsets = offsets_of(lengths)
    inputs = drawn(op, offsets, dtype)
    judge(op, inputs, offsets, run(device, op, inputs, offsets))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("before", [0, 20000])
def test_many_empty_segments_around_a_few(device: Any, op: str, before: int) -> None:
    """More segments than elements: some tiles have nothing but empty ones."""
    offsets = offsets_of([*[0] * before, 3, *[0] * 9000, 70, 1, *[0] * 5000])
    inputs = drawn(op, offsets, "float32")
    judge(op, inputs, offsets, run(device, op, inputs, offsets))


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("blocks", [1, 2, 7])
def test_long_segments_wherever_blocks_begin(
    device: Any, op: str, shape: tuple[int, ...], blocks: int
) -> None:
    """A block has pieces of several long segments, and of one that others have the rest of."""
    dtype = "float32"
    _, tile, _ = thresholds(op, dtype)
    offsets = offsets_of([5, 6 * tile + 3, 0, 2, 3 * tile, 5 * tile - 7, tile + 1, 40])
    inputs = drawn(op, offsets, dtype, shape)
    result = run(device, op, inputs, offsets)
    judge(op, inputs, offsets, result)
    with blocks_of_each_launch(blocks):
        few = run(device, op, inputs, offsets)
    np.testing.assert_array_equal(bits(result), bits(few))


def test_one_long_segment_is_folded_in_steps(device: Any) -> None:
    """More pieces than are folded at once, and a last step that is not whole."""
    op, dtype = "segment_softmax_vjp", "float64"
    _, tile, _ = thresholds(op, dtype)
    lengths = [3, 1030 * tile + 5, 0, 2]
    offsets = offsets_of(lengths)
    inputs = drawn(op, offsets, dtype)
    result = run(device, op, inputs, offsets)
    judge(op, inputs, offsets, result)
    cut = slice(int(offsets[1]), int(offsets[2]))
    alone = row(device, op, tuple(a[cut] for a in inputs))
    np.testing.assert_array_equal(bits(result[cut]), bits(alone))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 96, 1500])
def test_equal_lengths_are_rows(device: Any, n: int, dtype: str) -> None:
    count = 600 if n < 10 else 6  # more of one length than are sorted at once
    x = np.random.default_rng(n).normal(0, 5, (count, n)).astype(dtype_of(dtype))
    rows = device.asnumpy(cs.softmax(device.asarray(x)))
    offsets = np.arange(count + 1) * n
    flat = run(device, "segment_softmax", (x.ravel(),), offsets)
    np.testing.assert_array_equal(bits(flat), bits(rows.ravel()))
    dy = np.ascontiguousarray(x[::-1])
    dx = device.asnumpy(cs.softmax_vjp(device.asarray(rows), device.asarray(dy)))
    flat = run(device, "segment_softmax_vjp", (rows.ravel(), dy.ravel()), offsets)
    np.testing.assert_array_equal(bits(flat), bits(dx.ravel()))


def test_vjp_against_differences(device: Any) -> None:
    offsets = offsets_of([1, 4, 0, 9, 30])
    rng = np.random.default_rng(3)
    x, direction, dy = rng.normal(0, 1, (3, int(offsets[-1])))
    step = 1e-5
    ahead, behind = (
        run(device, "segment_softmax", (x + sign * step * direction,), offsets) for sign in (1, -1)
    )
    y = run(device, "segment_softmax", (x,), offsets)
    dx = run(device, "segment_softmax_vjp", (y, dy), offsets)
    slope = (dy * (ahead - behind)).sum() / (2 * step)
    assert abs(slope - (dx * direction).sum()) < 1e-9


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [4, 40, 700, 3000, 9000])
def test_special_values_stay_in_their_segment(device: Any, n: int, dtype: str) -> None:
    inf = np.inf
    special = [[1, NAN, 0, 2], [1, inf, 0, 2], [1, -inf, 0, -inf], [-inf] * 4, [-3e4, 3e4, 0, 1]]
    rows = np.full((len(special), n), -20.0)
    rows[3] = -inf
    rows[:, -4:] = special
    plain = np.array([0.5, 0.25, 1.0])
    x = np.concatenate([part for values in rows for part in (values, plain)])
    offsets = offsets_of([n, 3] * len(special))
    inputs = (x.astype(dtype_of(dtype)),)
    with np.errstate(all="ignore"):
        result = run(device, "segment_softmax", inputs, offsets)
        judge("segment_softmax", inputs, offsets, result)
    exact = reference.segment_softmax(inputs[0], offsets)
    nan = np.isnan(result.astype(float))
    np.testing.assert_array_equal(nan, np.isnan(exact))
    assert nan.sum() == 3 * n
    assert (result[nan == 0][n : n + 1].astype(float) >= 0).all()


# ------------------------------------------------------------------------------ shapes and layouts


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1,), "float32"), ((4,), "float32"), ((3, 2), "float32"), ((3,), "float16")],
)
def test_heads_are_columns(device: Any, op: str, shape: tuple[int, ...], dtype: str) -> None:
    offsets = offsets_of([5, 0, 200, 1, 2500, 6000, 33])
    inputs = drawn(op, offsets, dtype, shape)
    result = run(device, op, inputs, offsets)
    judge(op, inputs, offsets, result)
    assert result.shape == inputs[0].shape
    for head in np.ndindex(*shape):
        at = (slice(None), *head)
        alone = run(device, op, tuple(np.ascontiguousarray(a[at]) for a in inputs), offsets)
        np.testing.assert_array_equal(bits(result[at]), bits(alone))


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[::2],
        lambda a: a[::-1],
        lambda a: a[1:],
        lambda a: a.reshape(2, -1).T[:, 0],
    ],
    ids=["every second", "reversed", "unaligned", "a column"],
)
def test_strides_are_read_as_they_are(device: Any, view: Any) -> None:
    x = np.random.default_rng(4).normal(0, 5, 6002).astype("float32")
    part = view(x)
    lengths = [10, 0, 1500, 3]
    offsets = offsets_of([*lengths, part.size - sum(lengths)])
    expected = run(device, "segment_softmax", (np.ascontiguousarray(part),), offsets)
    spaced = device.asarray(np.repeat(offsets, 3))[::3]
    out = view(device.asarray(np.zeros_like(x)))
    got = cs.segment_softmax(view(device.asarray(x)), spaced, out=out)
    assert got is out
    np.testing.assert_array_equal(bits(device.asnumpy(out)), bits(expected))
    got = cs.segment_softmax(view(device.asarray(x)), spaced)
    np.testing.assert_array_equal(bits(device.asnumpy(got)), bits(expected))


def test_columns_in_fortran_order_are_contiguous(device: Any) -> None:
    offsets = offsets_of([7, 4100, 12])
    x = np.asfortranarray(drawn("segment_softmax", offsets, "float32", (3,))[0])
    array = device.asarray(x)
    with device.on():
        assert (
            plan_of(device, "segment_softmax", array, device.asarray(offsets), axis=0).vector == 1
        )
        judge("segment_softmax", (x,), offsets, device.asnumpy(
            cs.segment_softmax(array, device.asarray(offsets))
        ))  # fmt: skip


@pytest.mark.parametrize("op", OPS)
def test_in_place(device: Any, op: str) -> None:
    offsets = offsets_of([5, 3000, 0, 9001, 40])
    inputs = drawn(op, offsets, "float16")
    expected = run(device, op, inputs, offsets)
    for k in range(len(inputs)):
        arrays = [device.asarray(a) for a in inputs]
        assert getattr(cs, op)(*arrays, device.asarray(offsets), out=arrays[k]) is arrays[k]
        np.testing.assert_array_equal(bits(device.asnumpy(arrays[k])), bits(expected))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("float16", "float32"), ("float32", "float16"), ("int32", None), ("bool", None),
     ("uint8", "bfloat16"), ("float64", "float32")],
)  # fmt: skip
def test_dtypes(device: Any, given: str, wanted: str | None) -> None:
    offsets = offsets_of([3, 700, 0, 6000, 11])
    x = np.abs(drawn("segment_softmax", offsets, "float64")[0] * 3).astype(given)
    dtype = None if wanted is None else dtype_of(wanted)
    got = cs.segment_softmax(device.asarray(x), device.asarray(offsets), dtype=dtype)
    result = device.asnumpy(got)
    assert result.dtype == (dtype or np.float64)
    judge("segment_softmax", (x,), offsets, result)
    # Integers in offsets do not decide what is computed in.
    plan = plan_of(device, "segment_softmax", device.asarray(x), device.asarray(offsets), axis=0)
    assert plan.launches[0].kernel["CSM_ACC"] == ("float" if given == "float16" else "double") or (
        given == "float32"
    )


def test_more_elements_than_32_bits_count(emulated: Any) -> None:
    """The last tile, which has the end of a long segment and a short one."""
    offsets = offsets_of([5, 2**31 + 9, 0, 700])
    x = emulator.sparse((int(offsets[-1]),), np.uint8)
    out = emulator.sparse(x.shape, np.float16)
    values = np.random.default_rng(5).integers(0, 20, 700).astype(np.uint8)
    view_of(x[-700:])[...] = values
    with emulator.only_blocks([-1, -2]):
        assert cs.segment_softmax(x, emulated.asarray(offsets), out=out) is out
    judge("segment_softmax", (values,), np.array([0, 700]), emulator.asnumpy(out[-700:]))


# -------------------------------------------------------------------------------------- bad offsets


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(
    "offsets",
    [
        [1, 5, 6000],
        [0, 5, 5999],
        [0, 5, 6001],
        [0, 4000, 3999, 6000],
        [-5, 2, 6000],
        [0, -1, 6000],
        [0, 7000, 6000],
        [0, 2**31 - 1, 6000],
        [0, -(2**31), 6000],
        [6000, 0],
        [0],
        [6000],
        [0, *range(5000, 0, -1), 6000],
    ],
    ids=lambda o: f"{o[:4]}",
)
def test_offsets_that_do_not_rise_from_0_to_the_end(
    device: Any, offsets: list[int], dtype: str
) -> None:
    """All is NaN, and on the emulator no access outside the arrays is forgiven."""
    x = np.linspace(-1, 1, 6000).astype("float32")
    for shape in ((6000,), (6000, 2)):
        whole = np.broadcast_to(x.reshape(6000, *[1] * (len(shape) - 1)), shape)
        result = run(
            device, "segment_softmax", (np.ascontiguousarray(whole),), np.array(offsets, dtype)
        )
        assert np.isnan(result).all()


@pytest.mark.parametrize("far", [2**40, -(2**40), 2**63 - 1, -(2**63)])
def test_offsets_far_away(device: Any, far: int) -> None:
    x = np.zeros(6000, "float32")
    for offsets in ([0, far, 6000], [far, 0, 6000], [0, 6000, far], [0, far, far, 6000]):
        assert np.isnan(run(device, "segment_softmax", (x,), np.array(offsets))).all()
        assert np.isnan(run(device, "segment_softmax_vjp", (x, x), np.array(offsets))).all()


@pytest.mark.parametrize("place", [0, 1, 32, 95, 96, 97, 191, 199, 200])
def test_a_wrong_offset_among_many(device: Any, place: int) -> None:
    """One alone, or all from there on: these differ as right ones do."""
    right = np.arange(201) * 30
    x = np.zeros(6000, "float32")
    assert not np.isnan(run(device, "segment_softmax", (x,), right)).any()
    for wrong in (-(2**63), -(2**40), -31, 31, 2**40, 2**63 - 6001, *([7] if place == 0 else [])):
        alone, on = right.copy(), right.copy()
        alone[place] += wrong
        on[place:] += wrong
        for offsets in (alone, on):
            assert np.isnan(run(device, "segment_softmax", (x,), offsets)).all(), wrong


def test_offsets_that_rise_through_the_largest_number(device: Any) -> None:
    """Each differs from the one before by few, if differences are taken with 64 bits."""
    x = np.zeros(6000, "float32")
    for first in (0, 2**63 - 3000):
        offsets = (np.arange(201, dtype=np.uint64) * 30 + np.uint64(first)).astype(np.int64)
        offsets[[0, -1]] = 0, 6000
        assert np.isnan(run(device, "segment_softmax", (x,), offsets)).any() == (first > 0)


@pytest.mark.parametrize("offsets", [[0], [0, 0], [0, 0, 0]])
@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_no_elements(device: Any, shape: tuple[int, ...], offsets: list[int]) -> None:
    result = run(device, "segment_softmax", (np.zeros(shape, "float32"),), np.array(offsets))
    assert result.shape == shape and result.dtype == np.float32


def test_no_columns(device: Any) -> None:
    result = run(device, "segment_softmax", (np.zeros((5, 0), "float32"),), np.array([0, 5]))
    assert result.shape == (5, 0)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("x", "offsets", "said"),
    [
        (np.zeros(4, "f4"), np.zeros(2, "f4"), "offsets has dtype float32, which is not accepted"),
        (np.zeros(4, "f4"), np.zeros(2, "u4"), "offsets has dtype uint32, .* int32, int64"),
        (np.zeros(4, "f4"), np.zeros((2, 2), "i4"), r"offsets has shape \(2, 2\); give one"),
        (np.zeros(4, "f4"), np.zeros((), "i4"), r"offsets has shape \(\); give one"),
        (np.zeros(4, "f4"), np.zeros(0, "i4"), r"offsets has shape \(0,\); give one"),
        (np.zeros((), "f4"), np.zeros(2, "i4"), "no dimensions"),
        (np.zeros(4, "c8"), np.zeros(2, "i4"), "x has dtype complex64"),
    ],
)
def test_errors(device: Any, x: np.ndarray, offsets: np.ndarray, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^segment_softmax: .*{said}"):
        cs.segment_softmax(device.asarray(x), device.asarray(offsets))


def test_errors_of_other_arguments(device: Any) -> None:
    x, offsets = device.asarray(np.zeros(4, "f4")), device.asarray(np.array([0, 4]))
    with pytest.raises(TypeError, match=r"offsets is a list.* pass \S+\.asarray\(offsets\)"):
        cs.segment_softmax(x, [0, 4])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"x is a numpy.ndarray.* pass \S+\.asarray\(x\)"):
        cs.segment_softmax(np.zeros(4), offsets)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot hold the result"):
        cs.segment_softmax(x, offsets, dtype="int32")
    with pytest.raises(ValueError, match=r"out has shape \(5,\)"):
        cs.segment_softmax(x, offsets, out=device.asarray(np.zeros(5, "f4")))
    with pytest.raises(ValueError, match=r"dy has shape \(3,\) and y has \(4,\)"):
        cs.segment_softmax_vjp(x, device.asarray(np.zeros(3, "f4")), offsets)
    whole = device.asarray(np.zeros(8, "f4"))
    with pytest.raises(ValueError, match="out overlaps x without being the same elements"):
        cs.segment_softmax(whole[:4], offsets, out=whole[1:5])
    shared = device.asarray(np.zeros(4, "f4"))
    with pytest.raises(ValueError, match="out overlaps offsets; give out memory"):
        cs.segment_softmax(x, shared.view("i4"), out=shared)


# ------------------------------------------------------------------------------- plans and traffic


@pytest.mark.parametrize("op", OPS)
def test_plans(op: str) -> None:
    _, tile, _ = thresholds(op, "float32")
    short, long = plan_for(op, "float32", tile), plan_for(op, "float32", tile + 1)
    assert [len(short.launches), short.reads] == [2, 1]  # the offsets, and everything
    assert [len(long.launches), long.reads] == [3, 2]
    assert long.workspace_bytes > short.workspace_bytes
    assert short.vector == 4 and long.chunk * 4 == tile
    million = plan_for(op, "float32", 1 << 20)
    # Two nodes of each tile, and its first segment; what the blocks that look at offsets found. And
    # what saves reading offsets twice: of each segment 16 bits, of each tile an offset.
    dtypes = [operand.dtype for operand in million.problem.operands]
    node_bytes = 4 * KERNELS[op].node_words(dtypes, "float32")
    tiles = -(-(million.n + million.problem.segments) // tile)
    others = million.workspace_bytes - 2 * million.problem.segments - 8 * tiles
    assert others <= tiles * (2 * node_bytes + 8) + million.checkers + 128
    assert others < 0.004 * 4 * (million.n + million.problem.segments) * million.reads
    assert million.launches[0].grid <= 256
    assert all(launch.shared_bytes <= 48 * 1024 for launch in million.launches)
    assert f"longer than {tile} are read twice" in str(million)


def test_problem_of_a_shape() -> None:
    problem = problem_for("segment_softmax", (6600, 3), "float32")
    assert (problem.rows, problem.n, problem.segments) == (3, 6600, 200)
    assert problem.operands[1].dtype == "int64"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("size", ["tiny", "middle", "long"])
def test_traffic(emulated: Any, op: str, dtype: str, size: str) -> None:
    """Whole vectors at any place; read once, and twice where rows are longer than a tile."""
    _, tile, _ = thresholds(op, dtype)
    lengths = {"tiny": [13] * (tile // 4), "middle": [tile - 1, 77, tile // 2 + 3] * 3,
               "long": [5, 6 * tile + 3]}[size]  # fmt: skip
    offsets = offsets_of(lengths, "int32")
    inputs = drawn(op, offsets, dtype)
    with emulator.trace() as report:
        run(emulated, op, inputs, offsets)
    sectors = -(-inputs[0].nbytes // 32)
    check, *others = report.kernels
    blocks = sum(k.grid for k in others)
    assert check.sectors_read * 32 <= 4 * (offsets.nbytes + 64)
    # Beside the elements: what each block looks up (in the cache, for the most part), the segments'
    # own offsets, the nodes; and accesses of 512 bytes that begin within a sector.
    reads = sum(k.sectors_read for k in others)
    looked = 80 * blocks + offsets.nbytes // 8
    times = len(inputs) * (2 if size == "long" else 1)
    assert times * sectors <= reads + 2 <= times * sectors * 17 / 16 + looked
    written = sum(k.sectors_written for k in others)
    assert sectors <= written <= sectors * 17 / 16 + 10 * blocks
    assert others[-1 if size == "long" else 0].widest_written == others[0].widest_read == 16
    assert report.barriers <= 9 * (blocks + check.grid)
