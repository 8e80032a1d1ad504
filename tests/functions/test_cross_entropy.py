"""cross_entropy: every combination of its options, in every kind of plan, and what it refuses.

Values and gradients against PyTorch's are in `test_cross_entropy_torch.py`.
"""

from __future__ import annotations

import itertools
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.exceptions import AxisError

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.operations.options import CROSS_ENTROPY_RESULTS, cross_entropy_name
from cusoftmax.operations.table import KERNELS, OPERATIONS
from tests.support import (
    DTYPES,
    MAIN_PLAN_KINDS,
    SWEPT_DTYPES,
    assert_kept,
    assert_plan,
    bits,
    case,
    dtype_of,
    exhaustive,
    planned,
)

INF = np.inf
OPS = tuple(op for op in OPERATIONS if op.startswith("cross_entropy"))
ROWS, CLASSES = 6, 40
REDUCTIONS = ("none", "sum", "mean")


def run(device: Any, logits: Any, target: Any, **options: Any) -> Any:
    """Run on NumPy arrays; return the loss, or loss and gradient, as such."""
    if options.get("weight") is not None:
        options["weight"] = device.asarray(options["weight"])
    got = cs.cross_entropy(device.asarray(logits), device.asarray(target), **options)
    if isinstance(got, tuple):
        return tuple(device.asnumpy(a) for a in got)
    return device.asnumpy(got)


def drawn(dtype: Any, soft: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits, targets of which one is ignored, and weights."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (ROWS, CLASSES)).astype(dtype)
    if soft:
        target = reference.softmax(rng.normal(0, 1, x.shape)).astype(dtype)
    else:
        target = rng.integers(0, CLASSES, ROWS)
        target[2] = -100
    return x, target, rng.uniform(0.2, 2, CLASSES).astype(dtype)


# ---- many short rows ----


@pytest.mark.parametrize(
    ("dtype", "classes", "lanes", "each"), [("float64", 16, 2, 2), ("float32", 128, 4, 2)]
)
def test_many_rows_of_a_few_lanes(
    device: Any, dtype: str, classes: int, lanes: int, each: int
) -> None:
    """A thread has several rows, one after the other, and the last block not all of them.

    Their losses are computed together, by lanes that each keep a row: the bits are those of rows
    that are alone.
    """
    with device.on("sm_75"):
        rows = 37 + 4 * 40 * (128 // lanes) * each  # four blocks for each multiprocessor, and more
        launch = planned("cross_entropy_grad", dtype, (rows, classes), -1, "sm_75").launches[0]
        assert launch.grid == -(-rows // (launch.block // lanes * each))
        rng = np.random.default_rng(0)
        x = np.resize(rng.normal(0, 3, (1000, classes)), (rows, classes)).astype(dtype)
        target = rng.integers(0, classes, rows)
        target[::100] = -100
        options = {"grad": True, "reduction": "none"}
        loss, gradient = run(device, x, target, **options)
        for some in (slice(0, 500), slice(rows - 600, rows)):
            alone = run(device, x[some], target[some], **options)
            np.testing.assert_array_equal(bits(loss[some]), bits(alone[0]))
            np.testing.assert_array_equal(bits(gradient[some]), bits(alone[1]))


# ---- options ----


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_every_combination(
    device: Any, soft: bool, weighted: bool, smoothing: float, softcap: float | None
) -> None:
    x, target, weight = drawn(np.float64, soft)
    for z_loss, reduction in itertools.product((0.0, 1e-2), REDUCTIONS):
        options = {
            "weight": weight if weighted else None,
            "label_smoothing": smoothing,
            "z_loss": z_loss,
            "softcap": softcap,
            "reduction": reduction,
        }
        exact = reference.cross_entropy(x, target, **options, extended=True)
        loss, gradient = run(device, x, target, grad=True, **options)
        only = run(device, x, target, **options)
        for got, want in ((loss, exact[0]), (only, exact[0]), (gradient, exact[1])):
            assert got.shape == want.shape and got.dtype == np.float64
            np.testing.assert_allclose(got, want.astype(float), rtol=3e-15, atol=3e-15)
        given = device.asarray(x)
        kept = {k: v for k, v in options.items() if k != "weight"}
        weights = device.asarray(weight) if weighted else None
        loss_, same = cs.cross_entropy(
            given, device.asarray(target), weight=weights, inplace=True, **kept
        )
        assert same is given
        np.testing.assert_array_equal(bits(device.asnumpy(same)), bits(gradient))
        np.testing.assert_array_equal(bits(device.asnumpy(loss_)), bits(loss))
    upstream = np.random.default_rng(1).normal(size=ROWS)
    kept = {k: v for k, v in options.items() if k not in ("weight", "reduction")}
    got = cs.cross_entropy_vjp(
        device.asarray(x), device.asarray(target), device.asarray(upstream), weight=weights, **kept
    )
    kept["weight"] = weight if weighted else None
    want = reference.cross_entropy(x, target, reduction="none", dloss=upstream, **kept)[1]
    np.testing.assert_allclose(device.asnumpy(got), want, rtol=3e-15, atol=3e-15)


def test_calls_that_differ_in_numbers_alone(device: Any) -> None:
    x, target, _ = drawn(np.float64)
    for ignored, smoothing, cap in ((0, 0.1, 3.0), (1, 0.2, 3.0), (1, 0.1, 4.0), (0, 0.1, 3.0)):
        options = {"ignore_index": ignored, "label_smoothing": smoothing, "softcap": cap}
        for reduction in REDUCTIONS:
            got = run(device, x, target, reduction=reduction, **options)
            want = reference.cross_entropy(x, target, reduction=reduction, **options)[0]
            np.testing.assert_allclose(got, want, rtol=3e-15, atol=3e-15)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_narrow_dtypes_sum_before_they_round(device: Any, dtype: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0, 6, (3000, 11)).astype(dtype_of(dtype))
    target = rng.integers(0, 11, 3000)
    for reduction in ("sum", "mean"):
        loss = run(device, x, target, reduction=reduction)
        exact = reference.cross_entropy(x, target, reduction=reduction, extended=True)[0]
        assert loss.dtype == x.dtype and loss.shape == ()
        assert reference.ulp_error(loss, exact) <= (1 if dtype != "float32" else 2)


def test_variants_are_all_there() -> None:
    for soft, weight, smooth, capped, result in itertools.product(
        *((False, True),) * 4, CROSS_ENTROPY_RESULTS
    ):
        name = cross_entropy_name(
            soft=soft, weight=weight, smooth=smooth, capped=capped, result=result
        )
        assert (name in KERNELS) == (not (soft and smooth))


# ---- kinds of plan ----


def cases() -> list[Any]:
    """Return operations, dtypes and kinds; bfloat16, float16 but for its conversions, in one."""
    every = [
        (op, dtype, wanted)
        for op in OPS
        for dtype in DTYPES
        for wanted in MAIN_PLAN_KINDS
        if (dtype == "float32" and op in ("cross_entropy", "cross_entropy_grad"))
        or wanted in ("group", "block", "column")
        if "parked" not in wanted or OPERATIONS[op].outputs
    ]
    telling = [at for at in every if at[1] != "bfloat16" or at[2] == "group"]
    return [*telling, *exhaustive(at for at in every if at not in telling)]


def alone(op: str, number: int, array: np.ndarray, axis: int) -> np.ndarray:
    """Return two of the rows, of an operand that has rows."""
    if number in OPERATIONS[op].table_operands:
        return array
    return np.take(array, [1, 0], 0 if axis else 1)


@pytest.mark.parametrize(("op", "dtype", "wanted"), cases())
def test_each_kind_of_plan(device: Any, op: str, dtype: str, wanted: str) -> None:
    member, found = CONTRACTS[op], case(wanted, op, dtype)
    rng = np.random.default_rng(zlib.crc32(f"{op} {wanted}".encode()))
    inputs = member.draw(rng, found.shape, found.axis, dtype_of(dtype))
    with device.on(found.arch):
        assert_plan(planned(op, dtype, found.shape, found.axis, found.arch), wanted)

        def results(arrays: Any) -> tuple[np.ndarray, ...]:
            got = member.call(*(device.asarray(a) for a in arrays), axis=found.axis)
            return tuple(device.asnumpy(r) for r in (got if isinstance(got, tuple) else (got,)))

        whole = results(inputs)
        few = results([alone(op, i, a, found.axis) for i, a in enumerate(inputs)])
    assert all(r.dtype == dtype_of(dtype) for r in whole)
    assert_kept(member, inputs, found.axis, whole)
    for many, two in zip(whole, few, strict=True):
        axis = 0 if many.ndim == 1 or found.axis else 1
        np.testing.assert_array_equal(bits(np.take(many, [1, 0], axis)), bits(two))


@pytest.mark.parametrize("wanted", MAIN_PLAN_KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_in_place(device: Any, dtype: str, wanted: str) -> None:
    """The gradient overwrites logits that other threads, blocks and launches would still need."""
    found = case(wanted, "cross_entropy_grad", dtype)
    rng = np.random.default_rng(7)
    x = rng.normal(0, 2, found.shape).astype(dtype_of(dtype))
    kept = tuple(size for d, size in enumerate(found.shape) if d != found.axis % 2)
    target = rng.integers(0, found.shape[found.axis], kept)
    for seed in (0, 1, 2) if device.name == "emulator" else (0,):
        with device.on(found.arch, seed):
            expected = run(device, x, target, axis=found.axis, grad=True)
            given = device.asarray(x)
            loss, gradient = cs.cross_entropy(
                given, device.asarray(target), axis=found.axis, inplace=True
            )
            assert gradient is given
            np.testing.assert_array_equal(bits(device.asnumpy(loss)), bits(expected[0]))
            np.testing.assert_array_equal(bits(device.asnumpy(gradient)), bits(expected[1]))


# ---- numbers ----


@pytest.mark.parametrize("n", [12, 700, 9000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_confident_rows_keep_their_digits(device: Any, dtype: str, n: int) -> None:
    """A loss next to 0, and a target's gradient next to 0, to a few units in the last place."""
    x = np.full((9, n), -60.0, dtype)
    x += np.random.default_rng(0).normal(0, 1, x.shape).astype(dtype)
    target = np.arange(9) % n
    x[np.arange(9), target] = np.linspace(-45, 20, 9)
    loss, gradient = run(device, x, target, reduction="none", grad=True)
    exact = reference.cross_entropy(x, target, reduction="none", extended=True)
    assert 0 < exact[0].min() < 1e-30
    assert reference.ulp_error(loss, exact[0], flush_to_zero=dtype == "float32").max() <= 3
    here = np.arange(9), target
    error = reference.ulp_error(gradient, exact[1], flush_to_zero=dtype == "float32")
    assert error[here].max() <= 4 and error.max() <= 6


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n", [7, 600, 5000])
def test_gradients_sum_to_zero(device: Any, n: int, soft: bool) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(0, 3, (5, n))
    target: Any = reference.softmax(rng.normal(size=x.shape)) if soft else rng.integers(0, n, 5)
    for smoothing in (0.0, 0.2):
        _, gradient = run(device, x, target, label_smoothing=smoothing, grad=True)
        assert np.abs(gradient.sum(-1)).max() < 1e-15


def test_targets_are_integers_beyond_the_arithmetic(device: Any) -> None:
    """Rounded to float32, or to float64, these would be ignored, or another class."""
    x = np.zeros((2, 3), np.float32)
    for limit in (1 << 24, 1 << 53):
        target = np.array([limit + 1, limit])
        loss, gradient = run(device, x, target, ignore_index=limit, reduction="none", grad=True)
        assert np.isnan(loss[0]) and np.isnan(gradient[0]).all()
        assert loss[1] == 0 and not gradient[1].any()


def test_more_classes_than_float32_counts(device: Any) -> None:
    if device.name == "emulator":
        pytest.skip("16 million classes take the emulator a minute")
    n = (1 << 24) + 9
    x, target = np.zeros((1, n), np.float32), np.array([n - 2])
    loss, gradient = run(device, x, target, grad=True)
    assert gradient[0].argmin() == n - 2
    assert abs(float(loss) - np.log(n)) < 1e-5


# ---- special values ----


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("n", [5, 40, 3000])
def test_special_values(device: Any, dtype: str, n: int) -> None:
    rows = {
        "NaN": ([1, np.nan, 0, 2], 0, np.nan),
        "+inf": ([1, INF, 0, 2], 0, np.nan),
        "target at +inf": ([1, INF, 0, 2], 1, np.nan),
        "some -inf": ([1, -INF, 0, 2], 0, None),
        "target at -inf": ([1, -INF, 0, 2], 1, INF),
        "all -inf": ([-INF] * 4, 1, np.nan),
        "only the target": ([-INF, 3, -INF, -INF], 1, 0),
        "ignored NaN": ([np.nan] * 4, -100, 0),
        "ignored inf": ([INF, -INF, 0, 0], -100, 0),
        "bad": ([0, 0, 0, 0], 4, np.nan),
        "bad below": ([0, 0, 0, 0], -1, np.nan),
    }
    x = np.full((len(rows), n), -INF, dtype_of(dtype))
    target = np.empty(len(rows), np.int64)
    first = n - 4
    for row, (values, place, _) in enumerate(rows.values()):
        x[row, first:] = values
        target[row] = first + place if place >= 0 else place
    loss, gradient = run(device, x, target, reduction="none", grad=True)
    exact = reference.cross_entropy(x, target, reduction="none", extended=True)
    for row, (name, (_, place, value)) in enumerate(rows.items()):
        if value is not None:  # where exp(0) is approximate, 0 is nearly that
            off = float(reference.unit_roundoff("float32")) * 2 * (value == 0 and place >= 0)
            np.testing.assert_allclose(float(loss[row]), value, rtol=0, atol=off, err_msg=name)
        if place == -100:
            assert not gradient[row].any() and not np.signbit(gradient[row].astype(float)).any()
        finite = np.isfinite(exact[1][row])
        np.testing.assert_array_equal(np.isfinite(gradient[row].astype(float)), finite, name)
        near = np.abs(gradient[row].astype(float) - exact[1][row].astype(float))[finite]
        assert near.max(initial=0) <= float(reference.unit_roundoff(dtype)) * 2, name
    plain = run(device, x[3:5], target[3:5], reduction="none")
    np.testing.assert_array_equal(bits(plain), bits(loss[3:5]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "axis"), [(5, -1), (40, 0), (3000, -1)])
def test_smoothed_rows_of_minus_infinity(
    device: Any, dtype: str, weighted: bool, n: int, axis: int
) -> None:
    """NaN at the target, too: not the sum of two infinities."""
    x = np.full((3, n) if axis else (n, 3), -INF, dtype_of(dtype))
    options: Any = {"weight": np.ones(n, x.dtype)} if weighted else {}
    options |= {"axis": axis, "label_smoothing": 0.1, "reduction": "none", "grad": True}
    loss, gradient = run(device, x, np.array([0, 2, n - 1]), **options)
    assert np.isnan(loss.astype(float)).all() and np.isnan(gradient.astype(float)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("soft", "options"),
    [
        (False, {}),
        (False, {"label_smoothing": 0.1}),
        (False, {"label_smoothing": 0.1, "softcap": 5.0}),
        (True, {}),
        (True, {"label_smoothing": 0.1, "softcap": 5.0, "z_loss": 0.01}),
    ],
)
def test_infinite_upstream_gradients(
    device: Any, soft: bool, options: dict[str, Any], weighted: bool, dtype: str
) -> None:
    """An infinity of the sign of each element's gradient, and not the difference of two."""
    x, target, weight = drawn(dtype, soft)
    x /= 2  # so that no element's gradient is flushed to zero
    if weighted:
        options = options | {"weight": weight}
    dloss = np.array([INF, -INF, INF, np.nan, -2.5, 0], dtype)
    exact = reference.cross_entropy(x, target, reduction="none", dloss=dloss, **options)[1]
    arrays = {"weight": device.asarray(weight)} if weighted else {}
    given = (device.asarray(array) for array in (x, target, dloss))
    got = device.asnumpy(cs.cross_entropy_vjp(*given, **(options | arrays)))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    assert np.isinf(got[:2]).all() and np.isnan(got[3]).all()
    rtol, atol = (1e-5, 1e-6) if dtype == "float32" else (1e-13, 1e-15)
    np.testing.assert_allclose(got, exact, rtol, atol)


def test_other_rows_of_a_bad_one(device: Any) -> None:
    x, target, weight = drawn(np.float64)
    target[4] = CLASSES
    for weights in (None, weight):
        exact = reference.cross_entropy(x, target, weight=weights)
        loss, gradient = run(device, x, target, weight=weights, grad=True)
        assert np.isnan(loss) and np.isnan(gradient[4]).all()
        others = np.arange(ROWS) != 4
        np.testing.assert_allclose(gradient[others], exact[1][others], rtol=1e-14, atol=1e-16)


def test_nothing_counts(device: Any) -> None:
    x, target, _ = drawn(np.float32)
    target[:] = -100
    loss, gradient = run(device, x, target, grad=True)
    assert np.isnan(loss) and not gradient.any()
    assert run(device, x, target, reduction="sum") == 0
    none, empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    loss, gradient = run(device, none, empty, grad=True)
    assert np.isnan(loss) and gradient.shape == (0, 4)
    assert run(device, none, empty, reduction="sum") == 0
    assert run(device, none, empty, reduction="none").shape == (0,)
    assert np.isnan(run(device, np.zeros((2, 0)), np.zeros(2, int), reduction="none")).all()


def test_weights_of_zero(device: Any) -> None:
    """They count for nothing, even at -inf; rows of such a target have no loss."""
    x, target, weight = drawn(np.float64)
    weight[target[0]] = 0
    weight[7], x[:, 7] = 0, -INF
    target[target == 7] = 8
    for smoothing in (0.0, 0.1):
        options: Any = {"weight": weight, "label_smoothing": smoothing, "reduction": "none"}
        loss, gradient = run(device, x, target, grad=True, **options)
        exact = reference.cross_entropy(x, target, **options)
        np.testing.assert_allclose(loss, exact[0], rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(gradient, exact[1], rtol=1e-13, atol=1e-15)


# ---- targets ----


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_integers_of_any_kind(device: Any, dtype: str) -> None:
    x, target, _ = drawn(np.float32)
    target[2] = 120  # in no dtype negative
    expected = run(device, x, target, ignore_index=120, grad=True)
    got = run(device, x, target.astype(dtype), ignore_index=120, grad=True)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_array_equal(bits(mine), bits(theirs))


def test_a_class_may_be_ignored(device: Any) -> None:
    x, target, _ = drawn(np.float64)
    target[2] = target[0]
    exact = reference.cross_entropy(x, target, ignore_index=int(target[0]))
    loss, gradient = run(device, x, target, ignore_index=int(target[0]), grad=True)
    np.testing.assert_allclose(loss, exact[0], rtol=1e-15)
    np.testing.assert_allclose(gradient, exact[1], rtol=1e-14, atol=1e-16)
    assert not gradient[[0, 2]].any()


def test_huge_unsigned_targets_are_no_negative_ones(device: Any) -> None:
    x = np.zeros((2, 3))
    target = np.array([2**64 - 100, 2**63], np.uint64)  # the bits of -100
    assert np.isnan(run(device, x, target, reduction="none")).all()


def test_check(device: Any) -> None:
    x, target, _ = drawn(np.float32)
    np.testing.assert_array_equal(
        run(device, x, target, check=True), run(device, x, target, check=False)
    )
    target[3], target[5] = CLASSES, -7
    message = rf"cross_entropy: target\[3\] is {CLASSES}, which is none of the {CLASSES} classes"
    given = device.asarray(x)
    with pytest.raises(ValueError, match=message):
        cs.cross_entropy(given, device.asarray(target), inplace=True, check=True)
    np.testing.assert_array_equal(device.asnumpy(given), x)
    with pytest.raises(ValueError, match=r"target\[1, 2\] is -7.*not ignore_index=-100"):
        run(device, x.reshape(2, 3, CLASSES), target.clip(-100, 30).reshape(2, 3), check=True)


# ---- layouts ----


@pytest.mark.parametrize("axis", [0, 1, 2, -2])
@pytest.mark.parametrize("soft", [False, True])
def test_any_axis_and_strides(device: Any, axis: int, soft: bool) -> None:
    rng = np.random.default_rng(axis % 3)
    shape = (4, 6, 5)
    x = rng.normal(0, 3, shape)
    kept = tuple(size for d, size in enumerate(shape) if d != axis % 3)
    target: Any = (
        reference.softmax(rng.normal(size=shape), axis)
        if soft
        else rng.integers(0, shape[axis], kept)
    )
    weight = rng.uniform(0.5, 2, 2 * shape[axis])
    options: Any = {"axis": axis, "label_smoothing": 0.1, "z_loss": 0.01}
    exact = reference.cross_entropy(x, target, weight=weight[::2], **options)

    def spread(array: np.ndarray) -> Any:
        wide = np.zeros([2 * size for size in array.shape], array.dtype)
        wide[tuple(slice(None, None, 2) for _ in array.shape)] = array
        return device.asarray(wide)[tuple(slice(None, None, 2) for _ in array.shape)]

    logits = spread(x)
    loss, gradient = cs.cross_entropy(
        logits, spread(target), weight=device.asarray(weight)[::2], grad=True, **options
    )
    np.testing.assert_allclose(device.asnumpy(loss), exact[0], rtol=1e-14)
    np.testing.assert_allclose(device.asnumpy(gradient), exact[1], rtol=1e-13, atol=1e-16)
    again, same = cs.cross_entropy(
        logits, spread(target), weight=device.asarray(weight)[::2], inplace=True, **options
    )
    assert same is logits
    np.testing.assert_allclose(device.asnumpy(same), exact[1], rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(device.asnumpy(again), exact[0], rtol=1e-14)


def test_one_row_and_integers(device: Any) -> None:
    x = np.array([1, 2, 3])
    loss, gradient = run(device, x, np.array(2), grad=True)
    exact = reference.cross_entropy(x, np.array(2))
    assert loss.dtype == gradient.dtype == np.float64 and loss.shape == ()
    np.testing.assert_allclose(gradient, exact[1], rtol=1e-15)
    np.testing.assert_allclose(loss, exact[0], rtol=1e-15)


# ---- traffic ----


@pytest.mark.parametrize(
    ("arch", "shape", "reads"),
    [("sm_90", (64, 512), 1), ("sm_90", (4, 32768), 1), ("sm_75", (3, 61440), 2)],
)
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.usefixtures("emulated")
def test_traffic(arch: str, shape: tuple[int, int], reads: int, inplace: bool) -> None:
    """Logits are read once where a row stays on the chip, else twice; the gradient goes once."""
    rows, n = shape
    with emulator.activate(arch):
        x = emulator.asarray(np.zeros(shape, np.float16))
        target = emulator.asarray(np.zeros(rows, np.int32))
        with emulator.trace() as report:
            cs.cross_entropy(x, target, reduction="none", grad=not inplace, inplace=inplace)
    assert report.launches == 1
    whole = rows * n * 2
    lanes = report.global_bytes_read - reads * whole
    # Each thread reads the target of its row, and those of one warp that element of the logits once
    # more, all at once.
    assert 0 < lanes <= rows * (4 * 1024 + 32 * 2)
    assert report.global_bytes_written == whole + rows * 2


@pytest.mark.usefixtures("emulated")
def test_the_mean_adds_two_small_launches() -> None:
    x = emulator.asarray(np.zeros((64, 512), np.float16))
    target = emulator.asarray(np.zeros(64, np.int32))
    with emulator.trace() as report:
        cs.cross_entropy(x, target, grad=True)
    small, main, last = report.kernels
    assert small.global_bytes_read == 64 * 4 and small.global_bytes_written == 4
    assert main.global_bytes_written == 64 * 512 * 2 + 64 * 4
    assert last.global_bytes_read <= 64 * 4 + 4 * 128 and last.global_bytes_written == 2


# ---- refusals ----


def test_refusals(device: Any) -> None:
    x = device.asarray(np.zeros((4, 6), np.float32))
    target = device.asarray(np.zeros(4, np.int64))
    weight = device.asarray(np.zeros(5, np.float32))

    def refused(error: type[Exception], match: str, *args: Any, **options: Any) -> None:
        with pytest.raises(error, match=match):
            cs.cross_entropy(*(args or (x, target)), **options)

    bad = device.asarray(np.zeros(6, np.int64))
    refused(ValueError, r"cross_entropy: target has shape \(6,\).*give it shape \(4,\)", x, bad)
    floats = device.asarray(np.zeros(4, np.float32))
    refused(ValueError, r"target has shape \(4,\) and logits has \(4, 6\)", x, floats)
    refused(TypeError, "target has dtype bool", x, device.asarray(np.zeros(4, bool)))
    refused(TypeError, "target is a numpy.ndarray, and only CuPy", x, np.zeros(4, int))
    refused(ValueError, r"weight has shape \(5,\).*6 classes.*shape \(6,\)", weight=weight)
    refused(TypeError, "weight has dtype int64", weight=bad)
    refused(TypeError, "weight is a list", weight=[1.0])
    refused(ValueError, "label_smoothing=1.5 is not accepted; .* from 0 to 1", label_smoothing=1.5)
    refused(TypeError, "z_loss='a' is not accepted; give a number", z_loss="a")
    refused(ValueError, "z_loss=nan is not accepted", z_loss=float("nan"))
    refused(ValueError, "softcap=0.0 is not accepted", softcap=0)
    refused(ValueError, "reduction='max' is not known", reduction="max")
    refused(TypeError, "ignore_index=1.5 is not accepted; give an int", ignore_index=1.5)
    refused(TypeError, r"axis=\(0, 1\) is not accepted; give an int", axis=(0, 1))
    refused(AxisError, "axis 2", axis=2)
    refused(ValueError, "logits has no dimensions", x[0, 0], target[0])
    whole = device.asarray(np.zeros((4, 6), np.int64))
    refused(TypeError, r"logits \(inplace=True\) has dtype int64", whole, target, inplace=True)
    dloss = device.asarray(np.zeros((4, 1), np.float32))
    with pytest.raises(ValueError, match=r"cross_entropy_vjp: dloss has shape \(4, 1\)"):
        cs.cross_entropy_vjp(x, target, dloss)
    with pytest.raises(ValueError, match=r"out has shape \(4,\)"):
        cs.cross_entropy_vjp(x, target, dloss[:, 0], out=floats)
    assert cs.cross_entropy_vjp(x, target, dloss[:, 0], out=x) is x
