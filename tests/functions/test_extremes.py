"""Numbers at the ends of their range: empty sums, results next to 0 or subnormal, options."""

from __future__ import annotations

import itertools
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import cusoftmax as cs
from benchmarks.exponentials import sweep, widest_range
from cusoftmax import emulator, reference
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.checks import accepted_number
from tests.support import (
    DTYPES,
    MAIN_PLAN_KINDS,
    PLAN_KINDS,
    SWEPT_DTYPES,
    assert_kept,
    assert_plan,
    case,
    dtype_of,
    exhaustive,
    planned,
)

INF = np.inf


def turned(x: np.ndarray, axis: int) -> np.ndarray:
    """Return rows as they lie along `axis`."""
    return np.ascontiguousarray(x.T) if axis == 0 else x


# ------------------------------------------------------ logsumexp's gradient where there is nothing


def empty_cases() -> Iterator[Any]:
    """Yield operation, dtype and kind of plan; bfloat16 sums as float16 does."""
    for wanted in PLAN_KINDS:
        if wanted != "block x8 parked":
            yield "logsumexp_vjp", "float32", wanted
    for op in ("logsumexp_vjp", "logsumexp_b_vjp"):
        for dtype in DTYPES:
            found = [(op, dtype, k) for k in ("group", "block", "split", "column", "column long")]
            if (op, dtype) != ("logsumexp_vjp", "float32"):
                yield from exhaustive(found) if dtype == "bfloat16" else found


@pytest.mark.parametrize(("op", "dtype", "wanted"), [*empty_cases()])
def test_nothing_has_the_gradient_0(device: Any, op: str, dtype: str, wanted: str) -> None:
    """Rows: nothing; one element left; a NaN or +inf beside -inf. Each upstream gradient there is.

    With weights also a row whose only one is at -inf, one without any, and one of both signs.
    """
    found = case(wanted, op, dtype)
    n = max(found.shape)
    rows = [np.full(n, -INF) for _ in range(4)]
    rows[1][n // 2] = 3
    rows[2][n - 1], rows[3][0] = np.nan, INF
    x = np.repeat(np.array(rows, dtype_of(dtype)), 4, 0)
    dy = np.tile(np.array([2.0, 0.0, INF, np.nan], dtype_of(dtype)), 4)
    weights = np.ones_like(x)
    if op == "logsumexp_b_vjp":
        weights[0] = weights[2] = 0
        weights[0, n // 3] = 2
        weights[3, ::2] = -1
        x[:1] = np.where(weights[:1] == 0, 7, x[:1])  # whatever has no weight
        x[2] = np.nan
    with device.on(found.arch):
        got = np.zeros(x.shape)
        for some in (slice(k, k + 3) for k in (0, 3, 6, 9, 12, 13)):  # as many as the case has
            given = {"b": device.asarray(turned(weights[some], found.axis))}
            values = device.asnumpy(
                cs.logsumexp_vjp(
                    device.asarray(turned(x[some], found.axis)),
                    device.asarray(dy[some]),
                    axis=found.axis,
                    **(given if op == "logsumexp_b_vjp" else {}),
                )
            )
            got[some] = turned(values, found.axis).astype(float)
    assert_plan(planned(op, dtype, found.shape, found.axis, found.arch), wanted)
    assert (got[:4] == 0).all()
    assert got[4, n // 2] == 2 and np.count_nonzero(got[4]) == 1
    assert np.isnan(got[7:]).all()
    b = weights if op == "logsumexp_b_vjp" else None
    np.testing.assert_array_equal(got, reference.logsumexp_vjp(x, dy, -1, b))


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
def test_nothing_among_logits_that_are_transformed(device: Any, dtype: str) -> None:
    x = np.full((4, 40), -INF, dtype_of(dtype))
    x[3] = 1
    bias = np.zeros_like(x)
    bias[3] = -INF
    options = {"scale": -0.5, "bias": bias, "causal": True, "mask": np.arange(40) > 2}
    for chosen in (("scale",), ("bias",), ("scale", "bias"), (*options,)):
        given = {k: options[k] for k in chosen}
        rows = x if "bias" in chosen else x[:3]
        if "scale" in chosen:
            rows = -rows
        arrays = {k: device.asarray(v) if np.ndim(v) else v for k, v in given.items()}
        for with_b in (False, True):
            b = {"b": device.asarray(np.full_like(rows, 3))} if with_b else {}
            dy = device.asarray(np.full(len(rows), np.nan, x.dtype))
            if "bias" in arrays:
                arrays["bias"] = device.asarray(bias[: len(rows)])
            got = cs.logsumexp_vjp(device.asarray(rows), dy, **arrays, **b)
            assert (device.asnumpy(got).astype(float) == 0).all(), (chosen, with_b)


# ------------------------------------------------------------------------ results that are nearly 0


NEAR = [0.0, 1e-3, 2.0, 6.0, 9.0, 12.0, 15.5, 20.0, 40.0, 70.0, 86.0]


def near_zero(n: int, dtype: str) -> np.ndarray:
    """Rows in which one element dominates, first, last or inside, and the others fall far below."""
    rng = np.random.default_rng(zlib.crc32(f"{n} {dtype}".encode()))
    x = np.stack([rng.uniform(-1, 0, n) * min(gap, 1) - gap for gap in NEAR])
    for row, values in enumerate(x):
        values[(0, -1, n // 3)[row % 3]] = 0
    return x.astype(dtype_of(dtype))


NEAR_CASES = [
    (op, dtype, wanted)
    for op in ("log_softmax", "logsumexp", "cross_entropy", "cross_entropy_grad")
    for wanted in MAIN_PLAN_KINDS
    for dtype in DTYPES
    if not ("parked" in wanted and op in ("logsumexp", "cross_entropy"))
    and (dtype == "bfloat16" or wanted in ("group", "block", "column"))
    and wanted != "block x8 parked"
]


@pytest.mark.parametrize(("op", "dtype", "wanted"), NEAR_CASES)
def test_results_next_to_zero(device: Any, op: str, dtype: str, wanted: str) -> None:
    found = case(wanted, op, dtype)
    n = max(found.shape)
    x = near_zero(n, dtype)
    target = x.astype(np.float32).argmax(-1)
    count = min(found.shape)
    with device.on(found.arch):
        assert_plan(planned(op, dtype, found.shape, found.axis, found.arch), wanted)
        for first in range(0, len(x), count):
            first = min(first, len(x) - count)
            some = turned(x[first : first + count], found.axis)
            inputs = (some,)
            if op.startswith("cross_entropy"):
                kept = target[first : first + count]
                inputs += (kept[None, :] if found.axis == 0 else kept[:, None],)
            for seed in (0, 1):
                with device.on(found.arch, seed=seed):
                    got = CONTRACTS[op].call(*map(device.asarray, inputs), axis=found.axis)
                    got = got if isinstance(got, tuple) else (got,)
                    results = tuple(device.asnumpy(r) for r in got)
                worst = CONTRACTS[op].worst(inputs, found.axis, results)
                assert worst <= 1, f"{worst:.4g} of the bound"


def test_the_values_of_the_issue(device: Any) -> None:
    def lse(values: list[float], dtype: str) -> float:
        return float(
            device.asnumpy(cs.logsumexp(device.asarray(np.array(values, dtype_of(dtype)))))
        )

    assert lse([0], "float16") == 0 and lse([0], "bfloat16") == 0
    assert lse([0, -20], "bfloat16") == pytest.approx(2.06115e-9, rel=2**-8)
    x = np.array([0, -15.5, -15.4375, -15.4375, -15.5], dtype_of("bfloat16"))
    got = device.asnumpy(cs.log_softmax(device.asarray(x))).astype(float)
    np.testing.assert_allclose(got, reference.log_softmax(x), rtol=2**-8)
    loss = cs.cross_entropy(device.asarray(x[None]), device.asarray(np.array([0])))
    assert float(device.asnumpy(loss)) == pytest.approx(-reference.log_softmax(x)[0], rel=2**-8)
    # float64 arithmetic for narrower results carries as much.
    y = cs.logsumexp(device.asarray(np.array([0.0, -40.0])), dtype="float32")
    assert float(device.asnumpy(y)) == pytest.approx(np.exp(-40), rel=2**-23)


@pytest.mark.parametrize("n", [7, 300, 3000])
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize(
    ("op", "dtype"),
    [
        *itertools.product(
            ["log_softmax", "logsumexp", "log_softmax_value_and_vjp"], ["float32", "float64"]
        ),
        *itertools.product(["log_softmax", "logsumexp"], ["bfloat16"]),
    ],
)
def test_many_exponentials_too_small_for_a_result(
    device: Any, op: str, dtype: str, axis: int, n: int
) -> None:
    """The logarithm of a sum with one large term is that of the others, of which each is less."""
    least = -float(np.log(ml_dtypes.finfo(dtype_of(dtype)).tiny))
    rng = np.random.default_rng(n)
    x = -rng.uniform(least - 1, least + 5, (20, n)).astype(dtype_of(dtype))
    x[:, :2] = 0, 0.5 - least  # the result is a normal number
    x = rng.permuted(x, axis=1)
    inputs = [turned(x, axis)]
    if op.endswith("vjp"):
        inputs.append(rng.normal(0, 1, inputs[0].shape).astype(dtype))
    got = CONTRACTS[op].call(*map(device.asarray, inputs), axis=axis)
    results = tuple(map(device.asnumpy, got if isinstance(got, tuple) else (got,)))
    assert_kept(op, tuple(inputs), axis, results)


@pytest.mark.parametrize("gap", [87.0, 87.2, 87.3, 87.33])
def test_float32_just_above_its_smallest_normal_number(device: Any, gap: float) -> None:
    x = np.array([[0, -gap]], np.float32)
    for op in ("log_softmax", "logsumexp", "cross_entropy"):
        inputs = (x, np.array([[0]])) if op == "cross_entropy" else (x,)
        got = device.asnumpy(CONTRACTS[op].call(*map(device.asarray, inputs), axis=-1))
        want = CONTRACTS[op].exact(*inputs, -1)
        at = (0, 0) if op == "log_softmax" else (0,)
        assert abs(want[at]) >= 2.0**-126
        assert reference.ulp_error(got, want)[at] <= 3, op


@pytest.mark.parametrize("gap", [700.0, 708.0, 709.0, 720.0, 744.0])
def test_float64_down_to_its_subnormal_numbers(device: Any, gap: float) -> None:
    x = np.array([[0, -gap, -gap - 0.5, -gap]])
    for op in ("softmax", "log_softmax", "logsumexp", "cross_entropy"):
        inputs = (x, np.array([[0]])) if op == "cross_entropy" else (x,)
        got = device.asnumpy(CONTRACTS[op].call(*map(device.asarray, inputs), axis=-1))
        assert reference.ulp_error(got, CONTRACTS[op].exact(*inputs, -1)).max() <= 4, op


VJP_KINDS = ("group", "block", "stream", "split", "column", "column long")


@pytest.mark.parametrize("op", ["logsumexp_vjp", "logsumexp_b_vjp"])
@pytest.mark.parametrize("wanted", VJP_KINDS)
def test_float64_gradients_of_logsumexp_are_rounded_once(device: Any, op: str, wanted: str) -> None:
    """Exponentials below the smallest double, and upstream gradients that bring them back."""
    found = case(wanted, op, "float64")
    n, count = max(found.shape), min(found.shape)
    rng = np.random.default_rng(3)
    for size in (1e-305, 1e-300, 0.7, 1e10, 1e200 if op == "logsumexp_b_vjp" else 1e300):
        x = rng.uniform(-760, -600, (count, n)) * (1 + max(0, np.log10(size)) / 600)
        x[:, -1], x[:, n // 2] = 0, -1
        dy = rng.uniform(0.5, 1, count) * size
        inputs = [x, dy[:, None]]
        if op == "logsumexp_b_vjp":
            inputs.insert(1, rng.uniform(0.5, 2, x.shape))
        inputs = [turned(a, found.axis) for a in inputs]
        with device.on(found.arch):
            assert_plan(planned(op, "float64", found.shape, found.axis, found.arch), wanted)
            got = CONTRACTS[op].call(*map(device.asarray, inputs), axis=found.axis)
            worst = CONTRACTS[op].worst(tuple(inputs), found.axis, (device.asnumpy(got),))
        assert worst <= 1, f"{worst:.4g} of the bound with dy of about {size}"


# Upstream gradients (and class weights) whose product with 1 / sum is no number of the dtype.
SMALL = {"float32": (2.0**-88, 2.0**-110, 2.0**-124), "float64": (1e-280, 1e-300, 1e-307, 1e-315)}


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("wanted", VJP_KINDS)
def test_small_upstream_gradients_of_a_loss(device: Any, dtype: str, wanted: str) -> None:
    """Once all results were 0 from 1e-30 (float64: 1e-290) down."""
    found = case(wanted, "cross_entropy_vjp", dtype)
    n, count = max(found.shape), min(found.shape)
    rng = np.random.default_rng(5)
    for size in SMALL[dtype]:
        x = rng.normal(0, 1, (count, n))
        x[:, ::7] -= rng.uniform(0, 80, (count, len(x[0, ::7])))  # many chunks below the others
        dy = rng.uniform(0.5, 1, (count, 1)) * size
        inputs = (x.astype(dtype), rng.integers(0, n, (count, 1)), dy.astype(dtype))
        inputs = tuple(turned(a, found.axis) for a in inputs)
        contract = CONTRACTS["cross_entropy_vjp"]
        with device.on(found.arch):
            assert_plan(planned(contract.op, dtype, found.shape, found.axis, found.arch), wanted)
            got = device.asnumpy(contract.call(*map(device.asarray, inputs), axis=found.axis))
            verdict = contract.judge(inputs, found.axis, (got,))
        assert verdict.over <= 1, f"upstream {size}: {verdict}"


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("soft", [False, True])
def test_small_class_weights(device: Any, dtype: str, soft: bool) -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(0, 3, (5, 40)).astype(dtype)
    target = rng.dirichlet(np.ones(40), 5).astype(dtype) if soft else rng.integers(0, 40, 5)
    for size in SMALL[dtype][:-1]:
        weight = (rng.uniform(0.5, 1, 40) * size).astype(dtype)
        options = {"reduction": "none", "weight": weight}
        _, got = cs.cross_entropy(
            *(device.asarray(a) for a in (x, target)),
            grad=True,
            **(options | {"weight": device.asarray(weight)}),
        )
        _, want = reference.cross_entropy(x, target, extended=True, **options)
        error = np.abs(device.asnumpy(got) - want)
        # A number that is flushed costs the smallest normal one, and so does what it multiplies.
        lost = 2 * np.finfo(np.float32).tiny if dtype == "float32" else 0
        unit = reference.unit_roundoff(dtype) * size
        assert (np.maximum(error - lost, 0) <= 4 * unit).all()
        assert np.abs(want).max() > 0.1 * size


@pytest.mark.parametrize("small", ["b", "b and dy", "one b"])
def test_small_weights_of_float64(device: Any, small: str) -> None:
    """The sum's power of two goes with the weights, so that their products stay in range."""
    rng = np.random.default_rng(7)
    for size in (1e-80, 1e-154, 1e-220, 1e-290):
        x, b = rng.normal(0, 3, (4, 40)), rng.uniform(0.5, 1, (4, 40))
        dy = rng.uniform(0.5, 1, (4, 1)) * (size if small == "b and dy" else 1)
        b[:, 3 if small == "one b" else slice(None)] *= size
        contract = CONTRACTS["logsumexp_b_vjp"]
        got = device.asnumpy(contract.call(*map(device.asarray, (x, b, dy)), axis=-1))
        verdict = contract.judge((x, b, dy), -1, (got,))
        assert verdict.over <= 1, f"{size}: {verdict}"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("weights", [False, True])
def test_smoothed_losses_of_large_logits(device: Any, dtype: str, weights: bool) -> None:
    """Up to the largest number over the sum of the weights, as docs/accuracy.md says."""
    kind, n = dtype_of(dtype), 1500
    last = float(ml_dtypes.finfo(kind).max)  # type: ignore[no-untyped-call]
    weight = np.random.default_rng(10).uniform(0.5, 2, n).astype(kind) if weights else np.ones(n)
    x = np.full((3, n), 0.99 * last / float(weight.astype(np.float64).sum()))
    x[1] = -x[1]
    x[2, 1::2] = 0
    x, target = x.astype(kind), np.array([1, 2, 4])
    more: dict[str, Any] = {"weight": weight} if weights else {}
    on = {name: device.asarray(each) for name, each in more.items()}
    got = cs.cross_entropy(
        *map(device.asarray, (x, target)), reduction="none", label_smoothing=0.1, grad=True, **on
    )
    want = reference.cross_entropy(x, target, reduction="none", label_smoothing=0.1, **more)
    u, lost = reference.unit_roundoff(dtype), reference.unit_roundoff("float32")
    if dtype != "bfloat16":
        u, lost = 4 * u, u
    loss, gradient = (device.asnumpy(each).astype(np.float64) for each in got)
    wide, sizes = weight.astype(np.float64), np.abs(x.astype(np.float64))
    products = 0.9 * wide[target] * sizes[range(3), target] + 0.1 * (wide / n * sizes).sum(1)
    allowed = u * np.abs(want[0]) + (lost * products if weights else 0)
    assert (np.abs(loss - want[0]) <= allowed).all()
    assert (np.abs(gradient - want[1]) <= 2 * u * wide.max()).all()


def largest_vectors(op: str, kind: np.dtype[Any], n: int) -> dict[str, float]:
    """Return the largest entries of each vector that docs/accuracy.md promises results of."""
    last = np.ldexp(1.0, int(np.finfo(kind).maxexp) - 1) * 1.999
    if "_value_and_" in op or op == "log_softmax_vjp":
        return dict.fromkeys(("dy", "xt"), last / (2 * n))
    if op == "softmax_hvp":
        return {"dy": 2.0**20, "v": last / 2.0**23}
    if op == "softmax_vjp_vjp":
        return {"dy": last / 2.0**22, "g": 2.0**20}
    if op.startswith("logsumexp_b"):
        return {"b": last / (16 * n), "dy": 1.0}
    return {"xt": last / 2, "dy": last / 2}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "op",
    ["softmax_vjp", "softmax_value_and_vjp", "log_softmax_jvp", "log_softmax_value_and_jvp",
     "log_softmax_vjp", "log_softmax_value_and_vjp", "softmax_vjp_vjp", "softmax_hvp",
     "logsumexp_b", "logsumexp_b_vjp"],
)  # fmt: skip
def test_the_largest_vectors(device: Any, op: str, dtype: str) -> None:
    """Of one sign, of both, and with an element that is next to 1."""
    contract, kind, n = CONTRACTS[op], np.dtype(dtype), 40
    rng = np.random.default_rng(8)
    x = rng.normal(0, 3, (9, n))
    x[::3, 2] += 12
    given = {"y": reference.softmax(x), "logy": reference.log_softmax(x), "x": x}
    inputs = []
    for name in OPERATIONS[op].read:
        if name not in given:
            row = name in OPERATIONS[op].row_inputs
            v = rng.choice([0.9, 0.999, -0.999], (9, 1 if row else n)) * (1 if name != "b" else 0.5)
            v[1::3] = np.abs(v[1::3])
            given[name] = (np.abs(v) if name == "b" else v) * largest_vectors(op, kind, n)[name]
        inputs.append(given[name].astype(kind))
    got = contract.call(*map(device.asarray, inputs), axis=-1)
    results = tuple(map(device.asnumpy, got if isinstance(got, tuple) else (got,)))
    verdict = contract.judge(tuple(inputs), -1, results)
    assert verdict.over <= 1, verdict.told()


@pytest.mark.skipif(not reference.EXTENDED, reason="longdouble is float64 on this platform")
def test_subnormal_results_are_judged_by_their_bound() -> None:
    """4 u of such a result is no float64 number: half of the smallest, and 4 u of it, may err."""
    contract = CONTRACTS["logsumexp_vjp"]
    inputs = (np.array([[0.0, -708.7]]), np.ones((1, 1)))
    (truth,) = contract.truths(inputs, -1)
    step = 2.0**-1074
    units = float(truth[0, 1]) / step * 2.0**-53  # the smallest numbers in 1 u
    for beyond in (0.0, 0.5, 1.0, 3.0):  # of the smallest number, beyond the half of it
        exact = truth.copy()
        exact[0, 1] = truth.astype(np.float64)[0, 1] + np.longdouble(step) * (0.5 + beyond)
        (error,) = contract.errors(inputs, -1, (truth.astype(np.float64),), (exact,))
        np.testing.assert_allclose(error[0, 1], beyond / units, rtol=1e-6)


# ----------------------------------------------- chunks far below the maximum, logits far from 0

FROM_LOGITS = ("softmax", "log_softmax", "softmax_value_and_vjp", "logsumexp", "logsumexp_vjp")


def judge(device: Any, op: str, wanted: str, dtype: str, rows: np.ndarray) -> None:
    """Compare an operation of as many of the rows as the case has, each as long as that."""
    found = case(wanted, op, dtype)
    n, count = max(found.shape), min(found.shape)
    rng = np.random.default_rng(n)
    for first in range(0, len(rows), count):
        x = np.resize(rows[first : first + count], (count, n)).astype(dtype)
        inputs = [x]
        if op == "logsumexp_vjp":
            inputs.append(rng.uniform(0.5, 1, (count, 1)).astype(dtype))
        elif "value_and" in op:
            inputs.append(rng.uniform(0.5, 1, x.shape).astype(dtype))
        laid = [turned(a, found.axis) for a in inputs]
        with device.on(found.arch):
            assert_plan(planned(op, dtype, found.shape, found.axis, found.arch), wanted)
            got = CONTRACTS[op].call(*map(device.asarray, laid), axis=found.axis)
            results = tuple(map(device.asnumpy, got if isinstance(got, tuple) else (got,)))
            verdict = CONTRACTS[op].judge(tuple(laid), found.axis, results)
        assert verdict.over <= 1, f"rows from {first}: {verdict}"


@pytest.mark.parametrize("wanted", ["block", "block x2", "split", "column"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", FROM_LOGITS)
def test_a_chunk_far_below_the_maximum(device: Any, op: str, dtype: str, wanted: str) -> None:
    """Where the power of two between the chunk and the row alone may be too small."""
    n = max(case(wanted, op, dtype).shape)
    rng = np.random.default_rng(n)
    rows = -rng.random((12, n))
    # float64: down to subnormal results, but for a product, which rounds a subnormal one again.
    stretch = 1 if dtype == "float32" else 7.9 if "value_and" in op else 8.4
    gaps = np.linspace(60, 88, 12) * stretch
    rows[:, n // 2 :] -= gaps[:, None]
    judge(device, op, wanted, dtype, rows)


@pytest.mark.parametrize("wanted", ["group", "block", "split", "column"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", FROM_LOGITS)
def test_logits_far_from_0(device: Any, op: str, dtype: str, wanted: str) -> None:
    """On both sides of where exponentials begin to be formed of shifted logits, and far beyond."""
    n = max(case(wanted, op, dtype).shape)
    rng = np.random.default_rng(n)
    step, most = (2.0**18, 3e38) if dtype == "float32" else (2.0**40, 1e308)
    rows = rng.normal(0, 4, (10, n))
    rows[:, n // 2 :] -= 25
    rows[8:] *= 1e5
    centres = (step, -step, step + 12, -step + 12, 2 * step, -3 * step, most, -most, step, -step)
    judge(device, op, wanted, dtype, rows + np.array(centres)[:, None])


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp"])
def test_several_columns_of_a_thread_far_from_0(device: Any, op: str) -> None:
    """Whose elements a thread reads at once; a shift may be subtracted from a column's or not."""
    x = np.random.default_rng(0).normal(2.0**18, 4, (100, 8)).astype(np.float32)
    x[50:] *= -3
    with device.on("sm_90"):
        made = planned(op, "float32", x.shape, 0, "sm_90")
        assert_plan(made, "column")
        assert made.vector > 1
        got = device.asnumpy(CONTRACTS[op].call(device.asarray(x), axis=0))
    assert_kept(op, (x,), 0, (got,))


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "cross_entropy_grad"])
@pytest.mark.parametrize(
    ("wanted", "arch", "shape"),
    [("column stream", "sm_75", (1100, 336)), ("column stream parked", "sm_80", (1100, 872))],
)
def test_streamed_columns_far_from_0(
    device: Any, op: str, wanted: str, arch: str, shape: tuple[int, int]
) -> None:
    """The last round waits in registers, and may have had its shift subtracted, unlike others."""
    x = np.random.default_rng(0).normal(2.0**18, 4, shape).astype(np.float32)
    x[:, ::2] *= -3
    inputs = (x, x.argmax(0)[None])[: 1 + ("cross" in op)]
    with device.on(arch):
        assert_plan(planned(op, "float32", shape, 0, arch), wanted)
        got = CONTRACTS[op].call(*map(device.asarray, inputs), axis=0)
        results = tuple(map(device.asnumpy, got if isinstance(got, tuple) else (got,)))
    assert_kept(op, inputs, 0, results)


# ------------------------------------------------------------- exponentials with the largest errors

# What a chunk's sum adds in the worst case, and everything else, in ulp: docs/accuracy.md.
OF_SUM, OF_THE_REST = 0.0265, 0.001


# Results of 2^-109 and less, whose products with the low word of an inverse could be flushed.
TINY = (
    (-26.712341, 48.8661),
    (-37.852505, 38.41364),
    (-26.725275, 59.950054),
    (-59.31181, 27.340826),
)


def test_no_two_exponentials_differ_in_their_errors_by_more_than_the_bound_allows() -> None:
    assert (
        0.5 + widest_range(sweep(64)) + OF_SUM + OF_THE_REST
        <= CONTRACTS["softmax"].bound["float32"]
    )


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "topk_softmax"])
def test_pairs_of_exponentials_with_the_largest_errors(device: Any, op: str) -> None:
    """An element whose exponential is too large beside one whose is too small, and the reverse."""
    found = [each for each in sweep(16) if -1 <= each.exponent < 7]
    x = [np.array([getattr(b, at) for b in found]) for at in ("least_at", "largest_at")]
    rows = np.concatenate(
        [np.stack(np.broadcast_arrays(a[:, None], b), -1) for a, b in (x, x[::-1])]
    )
    rows = rows.reshape(-1, 2).astype(np.float32)
    rows = rows[np.abs(rows[:, 0] - rows[:, 1]) < 87]  # the smaller result is not subnormal
    rows = np.concatenate([rows, np.array(TINY, np.float32)])
    with device.on("sm_90"):
        got = CONTRACTS[op].call(device.asarray(rows), axis=-1)
    results = tuple(map(device.asnumpy, got if isinstance(got, tuple) else (got,)))
    assert_kept(op, (rows,), -1, results)


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("op", ["log_softmax", "logsumexp", "log_softmax_value_and_jvp"])
def test_one_logit_beside_equal_ones(device: Any, op: str, axis: int) -> None:
    """The sum of the others is added up by itself, each time rounded in the same direction."""
    largest = (0.0, -8.151596, -2.639515, 27.310394)  # whose exponentials err differently
    others = (-48.1829, -48.23629, -71.04396, -59.324306, -56.70489, -46.65937, -51.5021, -26.74)
    rows = [
        np.where(np.arange(1024) // 128 < chain, other, -INF)
        for other in others
        for chain in range(1, 9)
    ]
    x = np.tile(np.array(rows, np.float32), (len(largest), 1))
    x[:, 0] = np.repeat(np.array(largest, np.float32), len(rows))
    inputs = [turned(a, axis) for a in (x, np.ones_like(x))[: 1 + ("value" in op)]]
    got = CONTRACTS[op].call(*map(device.asarray, inputs), axis=axis)
    results = tuple(map(device.asnumpy, got if isinstance(got, tuple) else (got,)))
    assert_kept(op, tuple(inputs), axis, results)


# ------------------------------------------------------------------- products with y near one half


PRODUCTS = ("softmax_vjp", "softmax_vjp_vjp", "softmax_hvp")  # of y and one vector, or two


def with_vectors(y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Make rows of y sum to 1 by their last elements, and return them and two vectors for them.

    The vectors have nearly all there: what the bound is made of. The other elements' difference to
    that is twice as large, and so are rounding errors beside it.
    """
    rng = np.random.default_rng(0)
    y[:, -1] = 1 - y[:, :-1].sum(axis=1)
    vectors = rng.normal(0, 0.03, (2, *y.shape))
    vectors[:, :, -1] = rng.uniform(1, 1.1, (2, len(y)))
    return y, *vectors


def lost_one_by_one(u: float, every: int, apart: int) -> np.ndarray:
    """Return rows that sum to less, term by term, unless what the additions lose is kept.

    Of each `every` elements that one thread adds, which are `apart` places from each other, the
    first has nearly all, and the others not quite half of its last place.
    """
    n = 1024
    first = np.arange(n) // apart % every == 0
    large = 0.5 / first.sum()
    y = np.where(first, large * (1 + 2 * u), large * 0.99 * u)
    y[0] = 0  # so that they sum to less than one half
    return np.tile(y, (50, 1))


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", PRODUCTS)
def test_an_element_just_above_one_half(device: Any, op: str, dtype: str, axis: int) -> None:
    u = reference.unit_roundoff(dtype)
    rng = np.random.default_rng(0)
    drawn = [rng.dirichlet(np.full(9, 0.3), 2000) * rng.uniform(0.44, 0.5, (2000, 1))]
    drawn += [lost_one_by_one(u, 16, 1)]
    drawn += [lost_one_by_one(u, every, 1024 // every) for every in (4, 8, 16)]
    for y in drawn:
        given = with_vectors(y)[: 2 + (op != "softmax_vjp")]
        inputs = [turned(a.astype(dtype), axis) for a in given]
        got = CONTRACTS[op].call(*map(device.asarray, inputs), axis=axis)
        results = tuple(map(device.asnumpy, got if isinstance(got, tuple) else (got,)))
        assert_kept(op, tuple(inputs), axis, results)


# Rows that a search has found beyond the bounds (benchmarks/largest_errors.py), when differences
# were rounded twice and products added four at a time.
FOUND = {
    ("softmax_hvp", "float32", 5.0): (
        (0.25, 0.25, 0.25, 8.868327e-12, 3.5058094e-09, 8.1992925e-13, 1.8684644e-12, 0.25),
        (-0.0040905, -1.16e-09, 0, 0, -3.49e-10, 0.8, 0, -7e-10),
        (2.97e-08, 0.5103, 2.977e-08, 0, 0, 0, 0, 2e-09),
    ),
    ("softmax_hvp", "float64", 4.2): (
        (7.132106296616515e-05, 7.132106296616515e-05, 7.132106296616515e-05, 0.49985731971272684,
         3.8161340800900055e-08, 3.816134080090046e-08, 7.132106296616515e-05, 0.49985731971272684),
        (0.011154251057, 1.037466162114, 1.0374661621140049, 0.018681854942565582,
         0, 0.011154251, 1.037466162114, 0),
        (1.017141313123, 1.01714131312255, 0, 1.017141313122548,
         1.011277945, -0.748280206, 1.01714131312255, 1.0112779452046694),
    ),
    ("log_softmax_jvp", "float32", 4.2): (
        (-24.965515, -14.9676485, -14.96765, -14.96765,
         -1.2166454, -0.8975803, -24.965515, -1.2166454),
        (0, 1.0277, 1.0277, 1.027, 0.87, -0.012136847, 0, 0.84480417),
    ),
    ("log_softmax_jvp", "float64", 4.1): (
        (-12.392210239451504, -12.392210239451524, -1.0998713887835156, -12.392210239451519,
         -1.0998713887835156, -1.0998713887835156, -6.691270170630181, -12.392210239451504),
        (-1.4449413, 1.0075841424786, 0.015578692489573526, 0.703194,
         0.028614842260327632, 0.75342805218688, 0.0305004808524855, 0.703194),
    ),
    ("log_softmax_vjp", "float64", 4.3): (
        (-7.4715554868771505, -2.0396440069493953, -2.0396440069493953, -7.471555486877149,
         -2.5189831853461864, -0.6879656244223965, -2.5147004960640973, -2.594465286297515),
        (0.7073320131631536, 1.201266142271398, 0.3878878233583985, 0.9090431015390095,
         1.0451121445246023, 0.13344546671593532, 2.9583654, 0.9090431015390095),
    ),
    # Two parts of a result that are below the smallest normal number, but not their sum.
    ("softmax_hvp", "float32", 5e6): (
        (0.33333334, 1.9566266e-27, 1.9565892e-27, 1.9565892e-27,
         1.9565892e-27, 0.33333334, 0.33333334, 3.5768869e-28),
        (-0.018552957, 0, -1.3294745e-09, 0,
         -1.3294745e-09, -1.3294745e-09, -1.3294745e-09, -3.4775866e-10),
        (-6.201839e-10, 9.694462e-10, 0, -1.7667465e-09, -1.7667465e-09, 0, -1.7667465e-09, 0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("found", FOUND, ids=lambda found: "-".join(map(str, found)))
def test_rows_that_a_search_has_found(
    device: Any, found: tuple[str, str, float], axis: int
) -> None:
    op, dtype, _ = found  # and the error that the row had
    rows = [np.tile(np.array(row, dtype), (64, 1)) for row in FOUND[found]]
    inputs = [turned(a, axis) for a in rows]
    got = CONTRACTS[op].call(*map(device.asarray, inputs), axis=axis)
    assert_kept(op, tuple(inputs), axis, (device.asnumpy(got),))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", ["softmax_hvp", "log_softmax_jvp"])
def test_a_column_has_its_bits_beside_any_other(device: Any, op: str, dtype: str) -> None:
    """One thread writes several columns, of which some have an element that is kept apart."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (40, 64))
    other = x.copy()
    other[3, 1::2] += 30
    vectors = [device.asarray(a.astype(dtype)) for a in rng.normal(0, 1, (2, *x.shape))]
    found = []
    for logits in (x, other):
        logy = reference.log_softmax(logits, 0)
        given = (logy if op == "log_softmax_jvp" else np.exp(logy)).astype(dtype)
        call = getattr(cs, op)
        inputs = (device.asarray(given), *vectors[: 1 + (op == "softmax_hvp")])
        found.append(device.asnumpy(call(*inputs, axis=0))[:, ::2])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_just_above_one_half_that_is_small_beside_the_sum(
    device: Any, dtype: str, axis: int
) -> None:
    """exp(l) is about one half, and dy nothing: dy less its sum is twice as large as the result."""
    u = reference.unit_roundoff(dtype)
    rng = np.random.default_rng(0)
    y = np.hstack([rng.uniform(0.5, 0.502, (20000, 1)), rng.dirichlet(np.ones(3), 20000) * 0.49])
    dy = rng.uniform(-4 * u, 4 * u, y.shape)
    dy[:, 1] = 1 + 2 * u * rng.integers(0, 64, len(y))
    inputs = tuple(turned(a.astype(dtype), axis) for a in (np.log(y), dy))
    got = cs.log_softmax_vjp(*map(device.asarray, inputs), axis=axis)
    assert_kept("log_softmax_vjp", inputs, axis, (device.asnumpy(got),))


# ---------------------------------------------------------------------------------------- soft caps


CAPS = [2.0**-125, 1e-30, 1e-3, 0.5, 6.0, 1e3, 1e10, 1e20, 1e30, 1e35, 1e38, 2.0**127]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_soft_cap_of_any_size(device: Any, dtype: str, soft: bool) -> None:
    rng = np.random.default_rng(4)
    x = (rng.normal(0, 3, (6, 50)) * [[1], [1e-3], [1e-5], [1], [1], [4]]).astype(dtype_of(dtype))
    target = reference.softmax(rng.normal(0, 1, x.shape)).astype(x.dtype) if soft else np.arange(6)
    u = reference.unit_roundoff(dtype)
    for cap in [*CAPS, *([1e-300, 1e300] if dtype == "float64" else [])]:
        loss, gradient = cs.cross_entropy(
            device.asarray(x), device.asarray(target), softcap=cap, reduction="none", grad=True
        )
        want, slope = reference.cross_entropy(x, target, softcap=cap, reduction="none")
        # Logits are right to some roundoffs of themselves, which are at most the cap.
        size = 1 + np.minimum(np.abs(x.astype(float)), cap).max()
        error = np.abs(device.asnumpy(loss).astype(float) - want)
        assert (error <= 8 * u * size).all(), cap
        error = np.abs(device.asnumpy(gradient).astype(float) - slope)
        assert (error <= 8 * u * size).all(), cap


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("over", [1e-30, 1e-4, 2.0**-9, 2.0**-6, 2.0**-5, 0.3, 1.0, 5.0])
def test_a_capped_logit_is_right_relative_to_itself(device: Any, dtype: str, over: float) -> None:
    """Of one class the loss is 0, but for z_loss, which adds the square of the capped logit."""
    u = reference.unit_roundoff(dtype)
    for cap in (1e-3, 1e3, 1e30):
        x = np.array([[cap * over]], dtype_of(dtype))
        (loss,) = device.asnumpy(
            cs.cross_entropy(
                device.asarray(x),
                device.asarray(np.array([0])),
                z_loss=1.0,
                softcap=cap,
                reduction="none",
            )
        )
        with np.errstate(all="ignore"):
            want = (np.longdouble(cap) * np.tanh(np.longdouble(x[0, 0]) / np.longdouble(cap))) ** 2
        if 2.0**-120 < want < 2.0**120:
            assert abs(loss - want) <= 16 * u * want, (cap, loss, want)


# -------------------------------------------------------------------------------- numbers of a call


def calls(device: Any, dtype: str, **options: Any) -> Iterator[Any]:
    """Yield each way to call cross-entropy, as functions."""
    x = device.asarray(np.zeros((3, 5), dtype_of(dtype)))
    target = device.asarray(np.arange(3))
    soft = device.asarray(np.full((3, 5), 0.2, dtype_of(dtype)))
    for reduction in ("mean", "sum", "none"):
        for aim in (target, soft):
            for grad in (False, True):
                yield lambda a=aim, r=reduction, g=grad: cs.cross_entropy(
                    x, a, reduction=r, grad=g, **options
                )
    dloss = device.asarray(np.ones(3, dtype_of(dtype)))
    yield lambda: cs.cross_entropy_vjp(x, target, dloss, **options)


@pytest.mark.parametrize(
    ("name", "number"),
    [("softcap", 1e40), ("softcap", 1e-40), ("softcap", 10**400), ("z_loss", 1e40),
     ("z_loss", -1e40), ("z_loss", INF), ("softcap", 0), ("softcap", -3.0), ("softcap", INF),
     ("label_smoothing", 1.1), ("label_smoothing", -1e-9), ("label_smoothing", np.nan)],
)  # fmt: skip
def test_what_the_arithmetic_cannot_hold_is_refused_before_a_launch(
    name: str, number: float
) -> None:
    only_float32 = number in (1e40, -1e40, 1e-40)
    with emulator.activate(arch="sm_90"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in DTYPES:
            if only_float32 and dtype == "float64":
                for call in calls(emulator, dtype, **{name: number}):
                    call()
                continue
            with emulator.trace() as report:
                for call in calls(emulator, dtype, **{name: number}):
                    with pytest.raises(ValueError, match=rf"cross_entropy\w*: {name}=.* give"):
                        call()
            assert not report.kernels


def test_the_arithmetic_of_the_call_decides(device: Any) -> None:
    """float64 in any input makes room for more."""
    x, target = device.asarray(np.zeros((3, 5), np.float32)), device.asarray(np.arange(3))
    weight = device.asarray(np.ones(5))
    assert np.isfinite(device.asnumpy(cs.cross_entropy(x, target, weight=weight, softcap=1e40)))
    dloss = device.asarray(np.ones(3))
    cs.cross_entropy_vjp(x, target, dloss, softcap=1e40)
    out = device.asarray(np.zeros((3, 5)))  # the arithmetic does not follow it
    narrow = device.asarray(np.ones(3, np.float32))
    message = (
        r"softcap=1e\+40 .* 2\*\*-125 to 2\*\*127, .*float32.*float64 logits \(up to 2\*\*1023"
    )
    with pytest.raises(ValueError, match=message):
        cs.cross_entropy_vjp(x, target, narrow, softcap=1e40, out=out)


def test_one_function_for_all_numbers() -> None:
    largest = {"scale": 64, "temperature": 100, "label_smoothing": 0, "z_loss": 126, "softcap": 127}
    for name, power in largest.items():
        assert accepted_number("op", name, 2.0**power) == 2.0**power
        with pytest.raises(ValueError, match=rf"op: {name}=.* to (2\*\*{power}|1)"):
            accepted_number("op", name, 2.0**power * 1.01)
        for wrong in ("1", b"1", None, True, np.bool_(True), np.ones(1), 1j):
            with pytest.raises(TypeError, match=f"op: {name}=.* is not accepted; give a number"):
                accepted_number("op", name, wrong)
        with pytest.raises(ValueError, match=f"op: {name}=nan is not accepted"):
            accepted_number("op", name, np.nan)
    assert accepted_number("op", "scale", -(2.0**64)) == -(2.0**64)
    assert accepted_number("op", "softcap", 1e300, "float64") == 1e300
    with pytest.raises(
        ValueError, match=r"scale=1e-30 .*give 0, or a number of a size from 2\*\*-64"
    ):
        accepted_number("op", "scale", 1e-30)


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp"])
def test_chunks_on_both_sides_of_2_to_the_23(device: Any, op: str) -> None:
    """From there on bfloat16 logits, which are far apart, have another exponent each."""
    x = np.full((3, 3000), 8.0e6, ml_dtypes.bfloat16)
    x[:, 5], x[:, 1500] = 8.3e6, 8.45e6
    got = device.asnumpy(getattr(cs, op)(device.asarray(x)))
    expected = getattr(reference, op)(x)
    np.testing.assert_array_equal(got.astype(np.float64), expected.astype(x.dtype).astype(float))
