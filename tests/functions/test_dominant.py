"""Derivatives of rows in which one class dominates: right relative to themselves.

Upstreams are one-hot, so that each result is an entry of the Jacobian or a row of it, and the truth
is that at the logits, whatever softmax has rounded in between. Results below the smallest normal
number are exempt.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.operations.lookup import find
from tests.support import MAIN_PLAN_KINDS, assert_plan, case, dtype_of, exhaustive, planned

Array = np.ndarray[Any, np.dtype[Any]]

GAPS = (0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 20.0, 40.0, 60.0, 80.0)
NEAR_HALF = (1e-7, 2e-4)  # of two elements that have nearly all of the row
HOT = ("dominant", "another", "last")
LONG = 20000  # of a cluster, and with a second derivative in float64 parked
FEW_GAPS = (3.0, 20.0, NEAR_HALF[1])  # where rows are long: what differs there is who sums what


def rows_of(n: int, setups: list[tuple[float, int]], dtype: str) -> Array:
    """Return a row for each gap and place: logits between -1 and 0, and one so far above them.

    A gap below 1e-3 is between two elements, with the others 30 below.
    """
    rng = np.random.default_rng(zlib.crc32(f"{n} {setups}".encode()))
    x = -rng.random((len(setups), n))
    for row, (gap, place) in zip(x, setups, strict=True):
        if 0 < gap < 1e-3 and n > 2:
            row -= 30
            row[(place + n // 3 + 1) % n] = 0
        else:
            row[(place + 1) % n] = 0
        row[place] = gap
    return x.astype(dtype_of(dtype))


def one_hot(x: Array, places: list[int], which: str) -> Array:
    n = x.shape[-1]
    hot = np.zeros_like(x)
    for row, place in zip(hot, places, strict=True):
        row[{"dominant": place, "another": (place + 1) % n, "last": n - 1}[which]] = 1
    return hot


def relative(result: Array, truth: Array, weight: Array | float = 1.0) -> Array:
    """Return errors in unit roundoffs of `truth`, over `weight`; 0 where it is below normal."""
    name = result.dtype.name
    smallest = np.finfo(np.float64 if name == "float64" else np.float32).tiny
    with np.errstate(all="ignore"):
        error = np.abs(result.astype(np.longdouble) - truth) / (np.abs(truth) * weight)
    exempt = np.abs(truth) < float(smallest)
    return np.where(exempt, 0, error / reference.unit_roundoff(name)).astype(np.float64)


class Truths:
    """What the results must be, from the logits and a one-hot vector along the last axis."""

    def __init__(self, x: Array, v: Array) -> None:
        self.x, self.v = x, v
        self.y, self.product = reference.softmax_value_and_vjp(x, v, extended=True)
        self.logy, self.log_vjp = reference.log_softmax_value_and_vjp(x, v, extended=True)
        _, self.log_jvp = reference.log_softmax_value_and_jvp(x, v, extended=True)

    def hvp(self, other: Truths) -> tuple[Array, Array]:
        """Return the second derivative along both vectors, and the size of its parts."""
        # y_i (a_i b_i - mean of a b) for vectors less their means, which the products give.
        with np.errstate(all="ignore"):
            a, b = self.product / self.y, other.product / other.y
        covariance = (self.y * a * b).sum(axis=-1, keepdims=True)
        return self.y * (a * b - covariance), self.y * (np.abs(a * b) + np.abs(covariance))


def check(errors: Array, bound: Array | float, said: str) -> None:
    over = errors / bound
    assert np.all(over <= 1), f"{said}: {errors.flat[over.argmax()]:.4g} u, {over.max():.3g} of it"


def check_sums(result: Array, bound: float, said: str) -> None:
    """Assert that rows of products with J sum to 0, to the bound times the row's largest entry."""
    wide = result.astype(np.longdouble)
    tiny = float(np.finfo(result.dtype).tiny)
    most = np.abs(wide).max(axis=-1)
    lost = np.abs(wide.sum(axis=-1)) - tiny * result.shape[-1]
    u = reference.unit_roundoff(result.dtype.name)
    assert np.all(lost <= bound * u * most), f"{said}: rows sum to {(lost / most / u).max():.4g} u"


Run = Callable[..., Any]


def judge(op: str, run: Run, x: Array, v: Array, w: Array, said: str) -> None:
    """Call one function of one-hot vectors, and assert its bound."""
    truth = Truths(x, v)
    if "value_and" in op:
        value, product = run(getattr(cs, op), x, v)
        if "log" in op:
            # The value's own bound; next to 0 too.
            check(relative(value, truth.logy), 6, f"{said}, value")
            exact = truth.log_vjp if op.endswith("vjp") else truth.log_jvp
        else:
            check(reference.ulp_error(value, truth.y, flush_to_zero=True), 4, f"{said}, value")
            exact = truth.product
            check_sums(product, 8, said)
        check(relative(product, exact), 8, said)
        return
    if op.startswith("log"):
        logy = run(cs.log_softmax, x)
        size = np.abs(truth.logy)
        if op == "log_softmax_vjp":  # of the entry's own exponential, but for the dominant one
            bound = np.where(truth.y > 0.5, 12, 12 + 4 * size)
            check(relative(run(cs.log_softmax_vjp, logy, v), truth.log_vjp), bound, said)
        else:  # of that of the vector's element
            hot = (size * v).sum(axis=-1, keepdims=True)
            bound = np.where((truth.y * v).sum(axis=-1, keepdims=True) > 0.5, 12, 12 + 4 * hot)
            check(relative(run(cs.log_softmax_jvp, logy, v), truth.log_jvp), bound, said)
        return
    y = run(cs.softmax, x)
    within = reference.ulp_error(y, truth.y, flush_to_zero=True).max()
    bound = 12 if within <= 2 else 15
    if op == "softmax_hvp":
        exact, size = truth.hvp(Truths(x, w))
        with np.errstate(all="ignore"):
            weight = size / np.abs(exact)
        check(relative(run(cs.softmax_hvp, y, v, w), exact, weight), bound, said)
        return
    if op == "softmax_vjp_vjp":
        result = run(cs.softmax_vjp_vjp, y, w, v)[1]
    else:
        result = run(getattr(cs, op), y, v)
    check(relative(result, truth.product), bound, said)
    check_sums(result, bound, said)


OPS = (
    *("softmax_vjp", "softmax_hvp", "softmax_vjp_vjp", "log_softmax_vjp", "log_softmax_jvp"),
    *("softmax_value_and_vjp", "log_softmax_value_and_vjp", "log_softmax_value_and_jvp"),
)
FEW = ("group", "block", "split", "column")


def runner(device: Any, axis: int) -> Run:
    """Return a call of public functions on the device, of rows that are laid along `axis`."""

    def run(function: Callable[..., Any], *arrays: Array) -> Any:
        laid = [np.ascontiguousarray(a if axis else a.T) for a in arrays]
        got = function(*(device.asarray(a) for a in laid), axis=axis)
        found = [device.asnumpy(a) for a in (got if isinstance(got, tuple) else (got,))]
        found = [a if axis else np.ascontiguousarray(a.T) for a in found]
        return tuple(found) if len(found) > 1 else found[0]

    return run


def cases() -> list[Any]:
    """Return operations, dtypes and kinds of plan: every kind of two operations.

    Of the others there is one a pattern: the kinds differ in who sums what, and not in what the
    operation does there.
    """
    every = [
        (op, dtype, wanted)
        for op in OPS
        for dtype, kinds in (("float32", MAIN_PLAN_KINDS), ("float64", FEW))
        for wanted in kinds
    ]
    telling = [at for at in every if at[2] in FEW or at[0] in ("softmax_vjp", "log_softmax_vjp")]
    return [*telling, *exhaustive(at for at in every if at not in telling)]


@pytest.mark.parametrize(("op", "dtype", "wanted"), cases())
def test_every_pattern(device: Any, op: str, dtype: str, wanted: str) -> None:
    found = case(wanted, op, dtype)
    n, rows = (max(found.shape), min(found.shape))
    assert_plan(planned(op, dtype, found.shape, found.axis, found.arch), wanted)
    places = [0, n // 2, n - 1, n // 3, n - 2][:rows]
    gaps = [*(GAPS + NEAR_HALF if n < LONG else FEW_GAPS)]
    gaps += gaps[: -len(gaps) % rows]
    with device.on(found.arch):
        run = runner(device, found.axis)
        for first in range(0, len(gaps), rows):
            x = rows_of(n, [*zip(gaps[first : first + rows], places, strict=True)], dtype)
            for which, other in (("dominant", "dominant"), ("another", "dominant")):
                v, w = one_hot(x, places, which), one_hot(x, places, other)
                judge(op, run, x, v, w, f"{gaps[first : first + rows]} {which}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 3, 1000, LONG])
@pytest.mark.parametrize("op", OPS)
def test_every_place(device: Any, op: str, n: int, dtype: str) -> None:
    run = runner(device, -1)
    gaps = [*GAPS, *NEAR_HALF]
    for place in (0, n // 2, n - 1):
        x = rows_of(n, [(gap, place) for gap in gaps], dtype)
        places = [place] * len(gaps)
        for which in HOT if n < LONG else HOT[:1]:
            v, w = one_hot(x, places, which), one_hot(x, places, "last")
            judge(op, run, x, v, w, f"{place} {which}")


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", ["softmax_value_and_vjp", "log_softmax_value_and_jvp"])
def test_the_dominant_entry_of_any_vector(device: Any, op: str, dtype: str, axis: int) -> None:
    """It is a sum of y_j (v_m - v_j) over the others, and right relative to those products."""
    x = rows_of(300, [(gap, 7 * k) for k, gap in enumerate(GAPS[2:8])], dtype)
    v = np.random.default_rng(0).uniform(0.5, 1, x.shape).astype(dtype)
    product = runner(device, axis)(getattr(cs, op), x, v)[1]
    exact = getattr(reference, op)(x, v, extended=True)[1]
    for k, y in enumerate(reference.softmax(x)):
        place = 7 * k
        size = np.delete(y * (v[k] + v[k, place]), place).sum()
        error = abs(product[k, place] - exact[k, place])
        assert error <= 8 * reference.unit_roundoff(dtype) * size


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", [3, 1000])
@pytest.mark.parametrize("op", [op for op in OPS if "value_and" in op])
def test_16_bits_from_logits(device: Any, op: str, n: int, dtype: str) -> None:
    run = runner(device, -1)
    for place in (0, n - 1):
        x = rows_of(n, [(gap, place) for gap in GAPS], dtype)
        for which in HOT:
            v = one_hot(x, [place] * len(GAPS), which)
            truth = Truths(x, v)
            exact = {
                "softmax_value_and_vjp": truth.product,
                "log_softmax_value_and_vjp": truth.log_vjp,
                "log_softmax_value_and_jvp": truth.log_jvp,
            }[op]
            _, product = run(getattr(cs, op), x, v)
            errors = reference.ulp_error(product, exact, flush_to_zero=dtype == "bfloat16")
            assert errors.max() <= 1, f"{place} {which}: {errors.max():.4g} ulp"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_segments(device: Any, dtype: str) -> None:
    lengths = [3, 2, 40, 700, 0, 1, 2500, 50000, 9]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for turn, gap in enumerate((*GAPS, *NEAR_HALF)):
        for which in HOT[:2]:
            parts = []
            for n in (n for n in lengths if n):
                place = [0, n // 2, n - 1][turn % 3]
                x = rows_of(n, [(gap, place)], dtype)
                parts.append((x, one_hot(x, [place], which)))
            x, v = (np.concatenate([part[k][0] for part in parts]) for k in (0, 1))
            cuts = device.asarray(offsets)
            y = cs.segment_softmax(device.asarray(x), cuts)
            got = device.asnumpy(cs.segment_softmax_vjp(y, device.asarray(v), cuts))
            exact = np.concatenate([Truths(*part).product[0] for part in parts])
            check(relative(got, exact), 12, f"{gap} {which}")


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_above_one_half_count_as_any(device: Any, dtype: str, apart: bool) -> None:
    n = 3000
    above = np.nextafter(dtype_of(dtype).type(0.5), dtype_of(dtype).type(1))
    y = np.zeros((3, n), dtype_of(dtype))
    v = np.random.default_rng(3).standard_normal(y.shape).astype(y.dtype)
    for row, places in zip(y, [(0, n - 1), (700, 2000), (n - 2, 5)], strict=True):
        row[[places[0], places[1] if apart else (places[0] + 1) % n]] = above
    y[2, 1500] = above  # a third, which no softmax has
    got = device.asnumpy(cs.softmax_vjp(device.asarray(y), device.asarray(v)))
    wide = v.astype(np.longdouble)
    exact = y * (wide - (y * wide).sum(axis=-1, keepdims=True))
    bound = reference.vjp_bound(y, v, -1, 4 * reference.unit_roundoff(dtype))
    assert np.all(np.abs(got - exact) <= bound)


@pytest.mark.parametrize("cap", [None, 90.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, 1000, LONG])
def test_cross_entropy_of_classes_and_of_probabilities(
    device: Any, n: int, dtype: str, cap: float | None
) -> None:
    for place in (0, n // 2, n - 1):
        x = rows_of(n, [(gap, place) for gap in (*GAPS, *NEAR_HALF)], dtype)
        if cap is not None:  # of logits that a cap leaves alone
            x = np.where(x == x.max(axis=-1, keepdims=True), x.dtype.type(0), x.dtype.type(-1e-30))
        for which in HOT if n < LONG else HOT[:1]:
            p = one_hot(x, [place] * len(x), which)
            target = p.argmax(axis=-1)
            exact = reference.cross_entropy(
                x, target, reduction="none", softcap=cap, extended=True
            )[1]
            for given in (target, p):
                _, gradient = cs.cross_entropy(
                    device.asarray(x),
                    device.asarray(given),
                    reduction="none",
                    grad=True,
                    softcap=cap,
                )
                said = f"{place} {which} {given.ndim}"
                check(relative(device.asnumpy(gradient), exact), 8, said)


@pytest.mark.parametrize("wanted", MAIN_PLAN_KINDS)
def test_probabilities_in_every_pattern(device: Any, wanted: str) -> None:
    found = case(wanted, "cross_entropy_soft_grad", "float32")
    n, rows = (max(found.shape), min(found.shape))
    places = [0, n // 2, n - 1, n // 3, n - 2][:rows]
    with device.on(found.arch):
        for gaps in ((0.0, 9.0, 20.0, 3.0, 6.0), (15.0, 40.0, 80.0, 12.0, 60.0)):
            x = rows_of(n, [*zip(gaps[:rows], places, strict=True)], "float32")
            p = one_hot(x, places, "dominant")
            exact = reference.cross_entropy(x, p, reduction="none", extended=True)[1]

            def call(x: Any, p: Any, axis: int) -> Any:
                return cs.cross_entropy(x, p, axis=axis, reduction="none", grad=True)[1]

            check(relative(runner(device, found.axis)(call, x, p), exact), 8, f"{gaps}")


def test_weights_and_shares_of_probabilities(device: Any) -> None:
    rng = np.random.default_rng(7)
    for n in (3, 700):
        x = rows_of(n, [(gap, 1) for gap in GAPS[1:]], "float32")
        p = np.zeros_like(x)
        p[:, 1], p[:, 0] = 1 - 2.0**-10, 2.0**-10
        weight = rng.uniform(0.5, 2, n).astype(np.float32)
        # The classes' sum less the dominant one's is exact where the other's weight is small.
        weight[1] = 1
        dloss = rng.standard_normal(len(x)).astype(np.float32)
        got = cs.cross_entropy_vjp(
            *(device.asarray(a) for a in (x, p, dloss)), weight=device.asarray(weight)
        )
        exact = reference.cross_entropy(
            x, p, weight=weight, dloss=dloss, reduction="none", extended=True
        )[1]
        check(relative(device.asnumpy(got), exact), 8, f"{n}")


@pytest.mark.parametrize("function", ["softmax_value_and_vjp", "log_softmax_value_and_vjp"])
def test_options_of_logits(device: Any, function: str) -> None:
    n, scale = 700, -2.0
    x = rows_of(n, [(gap, 3) for gap in GAPS[1:8]], "float32") / np.float32(scale)
    bias = np.random.default_rng(1).uniform(-1, 0, n).astype(np.float32)
    mask = np.ones(x.shape, bool)
    mask[:, 10:20] = False
    x[:, 12] = np.inf
    mask[6] = False
    v = one_hot(x, [3] * len(x), "dominant")
    v[:, 13], v[6] = np.inf, np.nan
    given = {"scale": scale, "mask": mask, "bias": np.broadcast_to(bias, x.shape)}
    exact = getattr(reference, function)(x, v, **given, extended=True)
    got = getattr(cs, function)(
        device.asarray(x),
        device.asarray(v),
        scale=scale,
        mask=device.asarray(mask),
        bias=device.asarray(bias),
    )
    value, product = (device.asnumpy(a) for a in got)
    check(relative(product, exact[1]), 9, function)  # one product more
    hidden = -np.inf if "log" in function else 0
    assert np.all(value[~mask] == hidden) and np.all(product[~mask] == 0)


@pytest.mark.parametrize("op", [op for op in OPS if "value_and" in op])
@pytest.mark.parametrize("n", [4, 3000])
def test_special_logits(device: Any, op: str, n: int) -> None:
    x = np.full((5, n), -20, np.float32)
    x[0, -2], x[1, 1], x[2], x[3, 2], x[4, 0] = np.nan, np.inf, -np.inf, -np.inf, 30
    v = np.ones_like(x)
    value, product = (
        device.asnumpy(a) for a in getattr(cs, op)(device.asarray(x), device.asarray(v))
    )
    assert np.isnan(value[:3]).all() and np.isnan(product[:3]).all()
    assert value[3, 2] == (-np.inf if "log" in op else 0)
    np.testing.assert_allclose(product[3:], getattr(reference, op)(x, v)[1][3:], atol=1e-6)


@pytest.mark.parametrize("op", [op for op in OPS if op not in ("softmax_hvp", "softmax_vjp_vjp")])
def test_infinite_vectors(device: Any, op: str) -> None:
    x = np.array([[2.0, 0.0, -1.0], [0.0, 2.0, 0.0]], np.float32)
    v = np.array([[np.inf, 1.0, 2.0], [1.0, 2.0, np.inf]], np.float32)
    run = runner(device, -1)
    first = x if "value_and" in op else run(cs.log_softmax if "log" in op else cs.softmax, x)
    got, want = run(getattr(cs, op), first, v), getattr(reference, op)(first, v)
    if isinstance(got, tuple):
        got, want = got[1], want[1]
    np.testing.assert_array_equal(got, want.astype(np.float32))
    assert np.isneginf(got).any()


def test_the_truth_by_decimals() -> None:
    """The reference of the logits, against 60 digits."""
    for gap in GAPS:
        for hot in range(3):
            with localcontext() as context:
                context.prec = 60
                e = [Decimal(float(z)).exp() for z in (gap, 0.0, -1.0)]
                y = [each / sum(e) for each in e]
                v = [Decimal(int(i == hot)) for i in range(3)]
                mean = sum(a * b for a, b in zip(y, v, strict=True))
                wanted = {
                    "softmax_value_and_vjp": [y[i] * (v[i] - mean) for i in range(3)],
                    "log_softmax_value_and_vjp": [v[i] - y[i] for i in range(3)],
                    "log_softmax_value_and_jvp": [v[i] - mean for i in range(3)],
                }
                x, unit = np.array([gap, 0.0, -1.0]), np.eye(3)[hot]
                for name, values in wanted.items():
                    got = getattr(reference, name)(x, unit)[1]
                    for value, right in zip(got, values, strict=True):
                        assert abs(Decimal(float(value)) - right) <= abs(right) * Decimal(2) ** -52


def test_16_bit_results_keep_todays_kernels() -> None:
    for op in OPS[:5]:
        for dtype in ("float16", "bfloat16"):
            needs = find(op).needs([dtype] * 4, "float32")
            assert needs.rule == "given" and needs.picked == 0
