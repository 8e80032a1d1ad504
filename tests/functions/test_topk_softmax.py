"""topk_softmax: which elements are picked, in what order, what their probabilities are.

What is picked is exact, so indices are compared as they are, with NumPy's stable sort.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.emulator._memory import view_of
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import plan as make_plan
from cusoftmax.planning.prepare import problem_for
from tests.support import DTYPES, SELECTIONS, SWEPT_DTYPES, assert_kept, bits, dtype_of

KS = (1, 2, 7, 8, 9, 17, 32, 33, 63, 64)
NORMALISE = ("row", "topk")


def planned(x: np.ndarray, k: int, axis: int = -1, op: str = "topk_softmax") -> Plan:
    return make_plan(problem_for(op, x.shape, x.dtype, axis, k=k), DeviceSpec.known(90))


def run(
    device: Any, x: np.ndarray, k: int, axis: int = -1, normalise: Any = "row", **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    got = cs.topk_softmax(device.asarray(x), k, axis, normalise, **options)
    values, indices = (device.asnumpy(a) for a in got)
    return values, indices


def judge(
    x: np.ndarray, k: int, axis: int, normalise: str, values: np.ndarray, indices: np.ndarray
) -> None:
    """Assert shapes, dtypes, each index, and each value within the contract."""
    __tracebackhide__ = True
    assert indices.dtype == np.int64
    contract = replace(
        CONTRACTS["topk_softmax" if normalise == "row" else "topk_softmax_gates"],
        exact=lambda x, axis: reference.topk_softmax(x, k, axis, normalise, extended=True),
    )
    assert_kept(contract, (x,), axis, (values, indices))


def check(device: Any, x: np.ndarray, k: int, axis: int = -1, normalise: Any = "row") -> None:
    judge(x, k, axis, normalise, *run(device, x, k, axis, normalise))


def rows_of(n: int, dtype: Any, seed: int = 0) -> np.ndarray:
    """Return rows of normal logits, of few values that repeat, of one value, rising and falling."""
    rng = np.random.default_rng(seed)
    rows = np.stack(
        [
            rng.normal(0, 3, n),
            rng.normal(0, 100, n),
            rng.integers(-2, 3, n),
            np.zeros(n),
            np.arange(n) / 4,
            -np.arange(n) / 4,
        ]
    )
    return rows.astype(dtype)


# ---- lengths, k, dtypes ----


@pytest.mark.parametrize("n", range(1, 71))
def test_every_short_length(device: Any, n: int) -> None:
    x = rows_of(n, np.float32, n)
    for k in {*(k for k in KS if k <= n), min(n, 64)}:
        check(device, x, k, normalise=NORMALISE[k % 2])


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("normalise", NORMALISE)
def test_short_lengths_of_every_dtype(device: Any, dtype: str, normalise: str) -> None:
    for n in (1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65):
        x = rows_of(n, dtype_of(dtype), n)
        for k in {1, min(n, 8), min(n, 64)}:
            check(device, x, k, normalise=normalise)


def thresholds(dtype: str) -> list[int]:
    """Return row lengths on either side of each change of plan, up to rows of several chunks."""

    def told(n: int) -> tuple[str, ...]:
        made = planned(np.empty((6, n), dtype_of(dtype)), 1)
        return tuple(f"{s.kernel.name} {s.block} {made.rounds}" for s in made.launches)

    # Of aligned lengths, since all others have narrower accesses; then one to each side.
    lengths = range(16, 20001, 16)
    edges = [n for n in lengths if told(n) != told(n + 16)]
    assert len(edges) > 8
    return [n + step for n in edges for step in (-1, 0, 1)]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_each_side_of_each_threshold(device: Any, dtype: str) -> None:
    for n in thresholds(dtype):
        x = rows_of(n, dtype_of(dtype), n)
        check(device, x, (2, 9, 33, 64)[n % 4] if n >= 64 else 2)


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("case", SELECTIONS)
def test_every_pattern(device: Any, case: str, dtype: str) -> None:
    shape, axis = SELECTIONS[case]
    rng = np.random.default_rng(len(case))
    # Integers: many ties, between lanes, chunks and blocks.
    for k, values in ((1, rng.normal(0, 3, shape)), (8, rng.integers(-3, 4, shape))):
        check(device, values.astype(dtype_of(dtype)), k, axis, NORMALISE[k == 8])
    x = rng.normal(0, 3, shape).astype(dtype_of(dtype))
    if device.name == "emulator":
        made = planned(x, 8, axis)
        assert made.pattern == case.split()[0]
        assert len(made.launches) == (2 if "split" in case or "segments" in case else 1)
        assert made.reads == 1
    for k in (33, 64):
        check(device, x, k, axis)


@pytest.mark.parametrize("case", ["topk_group", "topk_block", "topk_column"])
def test_every_k(device: Any, case: str) -> None:
    shape, axis = SELECTIONS[case]
    x = np.random.default_rng(3).integers(-9, 10, shape).astype(np.float32)
    for k in KS:
        check(device, x, k, axis, NORMALISE[k % 2])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_integers(device: Any, dtype: str) -> None:
    kind = np.dtype(dtype)
    for n in (40, 700):
        x = np.random.default_rng(n).integers(0, 2, (4, n)).astype(kind)
        if kind.kind != "b":
            low, high = np.iinfo(kind).min, np.iinfo(kind).max
            x[0, [3, 30]], x[1] = high, low
            x[2] = np.random.default_rng(n).integers(low, high, n, dtype=kind, endpoint=True)
        values, indices = run(device, x, 5)
        assert values.dtype == np.float64
        judge(x, 5, -1, "row", values, indices)


@pytest.mark.parametrize(("given", "asked"), [("float16", "float32"), ("float32", "float64")])
def test_another_dtype_of_the_values(device: Any, given: str, asked: str) -> None:
    x = np.random.default_rng(8).normal(0, 3, (3, 100)).astype(given)
    values, indices = run(device, x, 6, dtype=asked)
    assert values.dtype == np.dtype(asked)
    judge(x, 6, -1, "row", values, indices)


def test_random_rows_as_numpy_sorts_them(device: Any) -> None:
    rng = np.random.default_rng(11)
    for _ in range(40):
        n = int(2 ** rng.uniform(0, 12.5))
        k = int(rng.integers(1, min(n, 64) + 1))
        x = rng.choice(rng.normal(0, 9, max(1, n // 3)), (3, n)).astype(np.float32)
        _, indices = run(device, x, k)
        np.testing.assert_array_equal(indices, np.argsort(-x, -1, kind="stable")[:, :k])


# ---- ties, and the order of what is stored ----


@pytest.mark.parametrize("case", SELECTIONS)
def test_ties_go_to_the_lower_index(device: Any, case: str) -> None:
    shape, axis = SELECTIONS[case]
    n, k = shape[axis], 64
    equal = np.full(shape, 2.5, np.float16)
    _, indices = run(device, equal, k, axis)
    np.testing.assert_array_equal(np.moveaxis(indices, axis, -1)[0], np.arange(k))
    # Equal ones far apart: in other lanes, chunks, warps, blocks.
    rng = np.random.default_rng(n)
    places = np.sort(rng.choice(n, k, replace=False))
    x = np.moveaxis(rng.normal(-9, 1, shape).astype(np.float16), axis, -1)
    x[..., places] = 7
    x = np.ascontiguousarray(np.moveaxis(x, -1, axis))
    for few in (8, k):
        _, indices = run(device, x, few, axis)
        rows = np.moveaxis(indices, axis, -1).reshape(-1, few)
        np.testing.assert_array_equal(rows, np.broadcast_to(places[:few], rows.shape))


def test_64_bit_integers_are_compared_as_they_are(device: Any) -> None:
    near = np.int64(2**60)
    x = np.array([[near, near + 2, near + 1, -near, near + 1]], np.int64)
    values, indices = run(device, x, 4)
    np.testing.assert_array_equal(indices, [[1, 2, 4, 0]])
    np.testing.assert_array_equal(values, [[0.25] * 4])  # the same in float64
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    x = np.array([[low, high - 1, low + 1, high, -1, 0]], np.int64)
    np.testing.assert_array_equal(run(device, x, 6)[1], [[3, 1, 5, 4, 2, 0]])
    x = np.array([[0, 2**64 - 2, 2**64 - 1, 2**63, 1]], np.uint64)
    np.testing.assert_array_equal(run(device, x, 5)[1], [[2, 1, 3, 4, 0]])
    # At the ends of the order, where nothing may be taken for an element that is not there.
    for n in (3, 70, 1500):
        x = np.full((2, n), low, np.int64)
        np.testing.assert_array_equal(run(device, x, 3)[1], [[0, 1, 2]] * 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_differ_and_zeros_do_not(device: Any, dtype: str) -> None:
    kind = dtype_of(dtype)
    tiny = np.array([1, 2, 3, 0x7FFF if kind.itemsize == 2 else 3], f"u{kind.itemsize}")[:3]
    a, b, c = (tiny.view(kind)[i] for i in range(3))
    assert 0 < float(a) < float(b) < float(c) < float(ml_dtypes.finfo(kind).smallest_normal)
    x = np.array([[a, c, kind.type(-0.0), kind.type(0), b, -a, -b]], kind)
    for n in (7, 3000):
        long = np.concatenate([x, np.full((1, n - 7), -1, kind)], -1)
        _, indices = run(device, long, 7)
        np.testing.assert_array_equal(indices, [[1, 4, 0, 2, 3, 5, 6]])


# ---- special values ----

nan, inf = np.nan, np.inf
SPECIAL = {
    "a NaN": ([1.0, nan, 0.0, 2.0], [1, 3, 0]),
    "NaN twice": ([1.0, nan, 3.0, nan], [1, 3, 2]),
    "+inf": ([1.0, inf, 0.0, 2.0], [1, 3, 0]),
    "+inf twice": ([inf, 1.0, inf, -inf], [0, 2, 1]),
    "NaN and +inf": ([inf, nan, 0.0, inf], [1, 0, 3]),
    "some -inf": ([-inf, 1.0, -inf, 0.0], [1, 3, 0]),
    "one left": ([-inf, -inf, 3.0, -inf], [2, 0, 1]),
    "all -inf": ([-inf] * 4, [0, 1, 2]),
}


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [4, 40, 3000])
def test_special_values(device: Any, n: int, dtype: str, normalise: str) -> None:
    x = np.full((len(SPECIAL), n), -inf, dtype_of(dtype))
    first = n - 4  # the first chunks of long rows have nothing
    for row, (values, _) in zip(x, SPECIAL.values(), strict=True):
        row[first:] = values
    values, indices = run(device, x, 3, normalise=normalise)
    judge(x, 3, -1, normalise, values, indices)
    for name, got, places in zip(SPECIAL, values.astype(float), indices, strict=True):
        special = "NaN" in name or "+inf" in name or name == "all -inf"
        assert np.isnan(got).all() == special and np.isnan(got).any() == special, name
        if n == 4:
            np.testing.assert_array_equal(places, SPECIAL[name][1], name)
        if name == "one left":
            np.testing.assert_array_equal(got, [1, 0, 0])


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_equals_the_last_pick_of_a_short_row(device: Any, dtype: str, normalise: str) -> None:
    kind, rng = dtype_of(dtype), np.random.default_rng(0)
    for n in (61, 128, 200, 256):
        x = rng.standard_normal((11, n))
        x[1] = np.where(x[1] > 0, 0.0, -0.0)
        x[2] = np.where(x[2] > 1, x[2], np.where(rng.random(n) > 0.5, 0.0, -0.0))
        x[3] = rng.integers(-2, 3, n)
        x[4, 7:] = -inf
        x[5, 8:] = -inf
        x[6, ::6] = nan
        x[7, ::9], x[7, [3, 8, 30]] = inf, [nan, -nan, nan]
        x[8, 5:45:5] = inf
        x[9, 5:50:5], x[9, 60] = inf, nan
        given = x.astype(kind)
        given[10] = rng.integers(0, 20, n).astype(f"u{kind.itemsize}").view(kind)  # subnormal
        for k in (3, 8):
            check(device, given, k, normalise=normalise)


@pytest.mark.parametrize("n", [61, 128, 256, 500])
def test_values_that_differ_in_their_last_bits(device: Any, n: int) -> None:
    """Of keys that are sorted without them: among all picks, next to the last, and among others."""
    rng = np.random.default_rng(n)
    ends = rng.integers(0, 600, (60, n)) * 2.0**-23
    x = np.where(np.arange(60)[:, None] % 2 == 0, 1 + ends, -1 - ends)
    few = np.sort(rng.normal(0, 3, (40, n)))[:, ::-1]
    for row, places in enumerate(((0, 1), (3, 4, 5), (6, 7), (7, 8), (7, 8, 9), (8, 9, 10), ())):
        few[row::7, places] = few[row::7, places[:1]] * (1 + 2.0**-23 * np.arange(len(places)))
    every = np.concatenate([x, rng.permuted(few, axis=1)]).astype(np.float32)
    for k in (2, 8):
        _, indices = run(device, every, k)
        np.testing.assert_array_equal(indices, np.argsort(-every, -1, kind="stable")[:, :k])


@pytest.mark.parametrize("case", ["topk_split", "topk_column", "topk_column of segments"])
def test_special_values_in_long_rows(device: Any, case: str) -> None:
    shape, axis = SELECTIONS[case]
    x = np.random.default_rng(4).normal(0, 3, shape).astype(np.float32)
    rows = np.moveaxis(x, axis, -1)
    rows[0, 5000 % rows.shape[1] :] = -inf
    rows[1, [700, 1400]] = nan
    for normalise in NORMALISE:
        check(device, x, 8, axis, normalise)
    rows[0] = -inf
    rows[1, 3] = inf
    rows[0, 1200] = 1.0
    for normalise in NORMALISE:
        check(device, x, 8, axis, normalise)


# ---- layouts ----


def test_any_axis_and_strides(device: Any) -> None:
    whole = np.random.default_rng(6).normal(0, 3, (6, 9, 70)).astype(np.float32)
    x = device.asarray(whole)
    views = (
        (x.transpose(2, 0, 1), whole.transpose(2, 0, 1)),
        (x[::-1, ::2, ::-1], whole[::-1, ::2, ::-1]),
        (x[1:, :, 3:40], whole[1:, :, 3:40]),
        (x[:, 4], whole[:, 4]),
        (x[0, 0], whole[0, 0]),
    )
    for view, expected in views:
        for axis in range(-1, expected.ndim):
            k = min(5, expected.shape[axis])
            values, indices = cs.topk_softmax(view, k, axis)
            judge(expected, k, axis, "row", device.asnumpy(values), device.asnumpy(indices))
            # As documented for the indices.
            picked = np.take_along_axis(expected, device.asnumpy(indices), axis)
            assert (np.diff(picked, axis=axis) <= 0).all()


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (1, 1), (1,), (5, 1)])
def test_small_and_empty(device: Any, shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    values, indices = run(device, x, 1)
    assert values.shape == indices.shape == (*shape[:-1], 1)
    judge(x, 1, -1, "row", values, indices)


# ---- contracts ----


@pytest.mark.parametrize("normalise", NORMALISE)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("n", [50, 1000, 17000])
def test_same_bits_in_any_batch(emulated: Any, n: int, dtype: str, normalise: str) -> None:
    row = np.random.default_rng(n).normal(0, 3, n).astype(dtype_of(dtype))
    k, patterns, kept = 40, set(), []
    for rows, place in ((1, 0), (2, 1), (67, 66)):
        x = np.random.default_rng(1).normal(0, 3, (rows, n)).astype(row.dtype)
        x[place] = row
        patterns.add(planned(x, k).pattern)
        values, indices = run(emulated, x, k, normalise=normalise)
        kept.append((bits(values[place]), indices[place]))
        for seed in (1, 2):
            if rows == 2 and dtype != "bfloat16":  # whose exponentials err by the seed
                with emulated.on(seed=seed):
                    again = run(emulated, x, k, normalise=normalise)
                kept.append((bits(again[0][place]), again[1][place]))
    assert len(patterns) == (2 if n == 17000 else 1)
    for values, indices in kept[1:]:
        np.testing.assert_array_equal(values, kept[0][0])
        np.testing.assert_array_equal(indices, kept[0][1])


def test_the_row_s_values_are_those_of_softmax(device: Any) -> None:
    x = np.random.default_rng(9).normal(0, 3, (20, 64)).astype(np.float32)
    values, indices = run(device, x, 8)
    whole = device.asnumpy(cs.softmax(device.asarray(x)))
    np.testing.assert_array_equal(bits(values), bits(np.take_along_axis(whole, indices, -1)))
    gates, _ = run(device, x, 8, normalise="topk")
    np.testing.assert_allclose(gates.astype(np.float64).sum(-1), 1, atol=4e-7)


@pytest.mark.parametrize("case", SELECTIONS)
def test_traffic(emulated: Any, case: str) -> None:
    shape, axis = SELECTIONS[case]
    x = np.random.default_rng(2).normal(0, 3, shape).astype(np.float32)
    rows, k = x.size // shape[axis], 8
    with emulator.trace() as counted:
        cs.topk_softmax(emulated.asarray(x), k, axis)
    made, results = planned(x, k, axis), rows * k * (4 + 8)
    # Once, and beside it the workspace, written once; of that each list is read once, and a node,
    # if there are fewer than 32, by several lanes.
    workspace = made.workspace_bytes
    assert x.nbytes + workspace <= counted.global_bytes_read <= x.nbytes + 2 * workspace
    assert counted.global_bytes_written == results + workspace
    assert workspace < 0.03 * x.nbytes
    assert counted.launches == len(made.launches)
    assert counted.kernels[0].global_bytes_read == x.nbytes


@pytest.mark.parametrize(("shape", "wide"), [((9, 64), 16), ((4, 3072), 16), ((1, 49992), 16)])
def test_rows_are_read_in_whole_sectors_and_wide(
    emulated: Any, shape: tuple[int, ...], wide: int
) -> None:
    x = np.random.default_rng(2).normal(0, 3, shape).astype(np.float32)
    with emulator.trace() as counted:
        cs.topk_softmax(emulated.asarray(x), 8)
    assert counted.kernels[0].sectors_read * 32 == x.nbytes
    assert counted.kernels[0].widest_read == wide


def test_neighbouring_rows_are_read_in_whole_sectors(emulated: Any) -> None:
    for dtype, rows in (("float16", 16), ("float32", 8), ("float64", 8)):
        x = np.random.default_rng(2).normal(0, 3, (2000, rows)).astype(dtype)
        with emulator.trace() as counted:
            cs.topk_softmax(emulated.asarray(x), 8, 0)
        assert counted.kernels[0].sectors_read * 32 == x.nbytes


def test_more_than_2_to_the_31_elements(emulated: Any) -> None:
    rows, n, k = 2**21 + 8, 1024, 5
    x = emulator.sparse((rows, n), np.float32)
    out = emulator.sparse((rows, k), np.float32), emulator.sparse((rows, k), np.int64)
    last = np.random.default_rng(1).normal(0, 3, n).astype(np.float32)
    view_of(x)[-1] = last
    with emulator.only_blocks((-1,)):
        cs.topk_softmax(x, k, out=out)
    judge(last[None], k, -1, "row", *(view_of(a)[-1:] for a in out))


# ---- errors ----


def test_refusals(device: Any) -> None:
    x = device.asarray(np.zeros((4, 100), np.float32))
    for k in (0, -1, 65):
        with pytest.raises(ValueError, match=rf"k={k} is not accepted; give .* from 1 to 64"):
            cs.topk_softmax(x, k)
    with pytest.raises(ValueError, match=r"k=5, but a row has only 4 elements"):
        cs.topk_softmax(x, 5, axis=0)
    with pytest.raises(ValueError, match=r"k=1, but a row has only 0 elements"):
        cs.topk_softmax(device.asarray(np.zeros((3, 0), np.float32)), 1)
    for k in (1.0, True, None, "2"):
        with pytest.raises(TypeError, match=r"k=.* is not accepted; give an int"):
            cs.topk_softmax(x, k)  # type: ignore[arg-type]
    for axis in (None, (0, 1), (1,)):
        with pytest.raises(TypeError, match=r"topk_softmax: axis=.* is not accepted; give an int"):
            cs.topk_softmax(x, 2, axis)  # type: ignore[arg-type]
    with pytest.raises(np.exceptions.AxisError):
        cs.topk_softmax(x, 2, 2)
    with pytest.raises(ValueError, match=r"normalise=.* is not known; give 'row' or 'topk'"):
        cs.topk_softmax(x, 2, normalise="rows")  # type: ignore[arg-type]
    for normalise in (None, 1):
        with pytest.raises(TypeError, match=r"normalise=.* not accepted; give 'row' or 'topk'"):
            cs.topk_softmax(x, 2, normalise=normalise)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x has no dimensions"):
        cs.topk_softmax(device.asarray(np.zeros(())), 1)
    with pytest.raises(TypeError, match=r"x is a numpy\.ndarray, and only CuPy"):
        cs.topk_softmax(np.zeros((3, 4)), 1)
    with pytest.raises(TypeError, match=r"dtype=int32 cannot hold the result"):
        cs.topk_softmax(x, 1, dtype="int32")
    assert cs.topk_softmax(x, np.int32(2))[0].shape == (4, 2)


def test_refused_results(device: Any) -> None:
    x = device.asarray(np.zeros((4, 100), np.float32))
    values = device.asarray(np.zeros((4, 3), np.float32))
    indices = device.asarray(np.zeros((4, 3), np.int64))
    with pytest.raises(TypeError, match=r"out is a ndarray; give a tuple of 2: values, indices"):
        cs.topk_softmax(x, 3, out=values)
    with pytest.raises(ValueError, match=r"values has shape \(4, 3\).*\(4, 2\)"):
        cs.topk_softmax(x, 2, out=(values, indices))
    with pytest.raises(TypeError, match=r"indices has dtype float32, which is not accepted"):
        cs.topk_softmax(x, 3, out=(values, device.asarray(np.zeros((4, 3), np.float32))))
    with pytest.raises(TypeError, match=r"indices has dtype int32, which is not accepted"):
        cs.topk_softmax(x, 3, out=(values, device.asarray(np.zeros((4, 3), np.int32))))
    with pytest.raises(TypeError, match=r"values has dtype int64, which is not accepted"):
        cs.topk_softmax(x, 3, out=(indices, indices))
    with pytest.raises(ValueError, match=r"dtype=float64 contradicts values, which is float32"):
        cs.topk_softmax(x, 3, dtype="float64", out=(values, indices))
    with pytest.raises(ValueError, match=r"values overlaps x"):
        cs.topk_softmax(x, 3, out=(x[:, :3], indices))
    with pytest.raises(TypeError, match=r"indices is a NoneType.*give a cupy\.ndarray to write"):
        cs.topk_softmax(x, 3, out=(values, None))  # type: ignore[arg-type]


# ---- plans ----


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    made = cs.explain("topk_softmax", shape=(1, 1 << 20), k=8, arch="sm_90")
    print(made)
    text = capsys.readouterr().out
    assert made.pattern == "topk_split" and "inputs read once" in text
    assert made.launches[0].grid == 64  # to merge the lists of more would take longer
    assert made.operand_bytes == (4 << 20, 8 * 4, 8 * 8)
    few = cs.explain("topk_softmax", shape=(4, 32000), k=8, arch="sm_90")
    assert few.pattern == "topk_split" and few.launches[0].grid == 32  # two warps a chunk
    gates = cs.explain("topk_softmax", shape=(100000, 64), k=2, arch="sm_90")
    kernel = gates.launches[0].kernel
    assert gates.pattern == "topk_group" and kernel["CSM_LANES"] == "2"  # 16 rows a warp
    assert cs.explain("topk_softmax", shape=(9, 3)).problem.options == (3,)
    with pytest.raises(ValueError, match="k=9, but a row has only 3"):
        cs.explain("topk_softmax", shape=(9, 3), k=9)


def test_plans_of_a_row_do_not_depend_on_the_batch_where_bits_would() -> None:
    for dtype in DTYPES:
        for n in (7, 64, 1000, 1025, 5000, 40000):
            for k in (1, 9, 33):
                if k > n:
                    continue
                kept = set()
                for rows in (1, 40, 5000):
                    made = planned(np.broadcast_to(dtype_of(dtype).type(0), (rows, n)), k)
                    kernel = made.launches[0].kernel
                    assert kernel["CSM_VEC"] == str(made.vector)
                    kept.add((kernel["CSM_LANES"], kernel["CSM_ITEMS"], kernel["CSM_SLOTS"]))
                assert len(kept) == 1
