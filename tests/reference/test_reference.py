"""The reference against SciPy, mpmath, finite differences and the worked example."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest

from cusoftmax import reference as ref
from cusoftmax.planning.checks import Axis

scipy_special = pytest.importorskip("scipy.special")

LOGITS = np.array([2.0, 4.0, 2.0, 1.0])


def test_worked_example() -> None:
    y = ref.softmax(LOGITS)
    np.testing.assert_array_equal(y.round(4), [0.1025, 0.7573, 0.1025, 0.0377])
    jacobian = ref.softmax_jacobian(y)
    np.testing.assert_allclose(jacobian, ref.softmax_jacobian_entries(y), rtol=1e-14)
    np.testing.assert_allclose(jacobian.sum(axis=0), 0, atol=1e-16)
    np.testing.assert_allclose(jacobian.sum(axis=1), 0, atol=1e-16)
    np.testing.assert_array_equal(jacobian, jacobian.T)
    np.testing.assert_allclose(jacobian, np.diag(y) - np.tile(y, (4, 1)).T * y, rtol=1e-14)


@pytest.mark.parametrize("axis", [-1, 0, 1, (0, 2), (2, 0), None, ()])
def test_softmax_agrees_with_scipy(axis: Axis) -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 7)) * 10
    np.testing.assert_allclose(ref.softmax(x, axis), scipy_special.softmax(x, axis), rtol=1e-13)


@pytest.mark.parametrize("axis", [-1, 0, None, ()])
def test_no_dimensions_as_in_scipy(axis: Axis) -> None:
    assert ref.softmax(np.float64(3), axis).shape == ()
    assert ref.softmax(np.float64(3), axis) == scipy_special.softmax(np.array(3.0), axis=axis) == 1


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float32"])
def test_dtypes_compute_in_float64(dtype: str) -> None:
    x = np.arange(8).astype(dtype)
    assert ref.softmax(x).dtype == np.float64
    np.testing.assert_allclose(ref.softmax(x), scipy_special.softmax(x.astype(float)), rtol=1e-14)


def test_derivatives_agree_with_finite_differences() -> None:
    rng = np.random.default_rng(1)
    x, v = rng.normal(size=(2, 4, 9))
    step = 1e-6
    change = (ref.softmax(x + step * v) - ref.softmax(x - step * v)) / (2 * step)
    y = ref.softmax(x)
    np.testing.assert_allclose(ref.softmax_jvp(y, v), change, atol=1e-9)
    contracted = np.einsum("...ij,...i->...j", ref.softmax_jacobian(y), v)
    np.testing.assert_allclose(ref.softmax_vjp(y, v), contracted, atol=1e-16)
    np.testing.assert_allclose(ref.softmax_vjp(y, np.ones_like(y)), 0, atol=1e-16)


@pytest.mark.skipif(not ref.EXTENDED, reason="longdouble is float64 on this platform")
def test_the_diagonal_of_a_jacobian_next_to_one() -> None:
    y = np.array([1 - 2.0**-40, 2.0**-40])
    exact = 2.0**-40 * np.longdouble(1 - 2.0**-40)
    assert ref.softmax_jacobian(y, extended=True)[0, 0] == exact


def test_hidden_weights_and_infinite_logits_of_logsumexp() -> None:
    """A hidden weight counts for nothing; a row with +inf is NaN with weights as without."""
    x, b, mask = np.zeros((1, 3)), np.array([[1.0, np.nan, 2.0]]), np.array([[True, False, True]])
    assert ref.logsumexp(x, b=b, mask=mask) == np.log(3)
    np.testing.assert_allclose(
        ref.logsumexp_vjp(x, np.ones(1), b=b, mask=mask), [[1 / 3, 0, 2 / 3]], rtol=1e-15
    )
    x[0, 0] = np.inf
    assert np.isnan(ref.logsumexp_vjp(x, np.ones(1), b=np.ones((1, 3)))).all()


@pytest.mark.parametrize("kind", [np.int8, np.uint64, np.bool_])
def test_derivatives_at_integers(kind: type[np.generic]) -> None:
    """They are taken in float64, as the kernels do."""
    values, v = np.array([[0, 1, 0]]), np.array([[1, 0, 1]])
    for function in (ref.softmax_vjp, ref.log_softmax_vjp, ref.log_softmax_jvp):
        expected = function(values.astype(float), v.astype(float))
        np.testing.assert_array_equal(function(values.astype(kind), v.astype(kind)), expected)


def test_axes_of_derivatives() -> None:
    y, v = np.random.default_rng(2).normal(size=(2, 3, 4, 5))
    y_rows, v_rows = (a.transpose(1, 0, 2).reshape(4, 15) for a in (y, v))
    moved = ref.softmax_vjp(y_rows, v_rows)
    expected = moved.reshape(4, 3, 5).transpose(1, 0, 2)
    np.testing.assert_allclose(ref.softmax_vjp(y, v, axis=(0, 2)), expected, rtol=1e-13)


@pytest.mark.filterwarnings("error")
def test_special_values() -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[0, -inf, 0], [-inf, -inf, -inf], [0, inf, 0], [0, nan, 0], [1e308, -1e308, 0]])
    y = ref.softmax(x)
    np.testing.assert_array_equal(y[0], [0.5, 0, 0.5])
    assert np.isnan(y[1:4]).all()
    np.testing.assert_array_equal(y[4], [1, 0, 0])


@pytest.mark.parametrize(("shape", "axis"), [((3, 0), 1), ((0, 3), 1), ((0, 3), 0), ((0,), None)])
def test_empty(shape: tuple[int, ...], axis: Axis) -> None:
    empty = np.zeros(shape)
    assert ref.softmax(empty, axis).shape == ref.softmax_vjp(empty, empty, axis).shape == shape


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="one shape"):
        ref.softmax_vjp(np.zeros(3), np.zeros(4))


@pytest.mark.skipif(not ref.EXTENDED, reason="longdouble is float64 on this platform")
@pytest.mark.parametrize("spread", [1.0, 30.0, 200.0])
@pytest.mark.parametrize("mean", [0.0, -10000.0])
def test_extended_is_a_judge_of_float64(spread: float, mean: float) -> None:
    x = np.random.default_rng(3).normal(mean, spread, size=100)
    with mpmath.workprec(200):
        e = [mpmath.exp(mpmath.mpf(float(v)) - float(x.max())) for v in x]
        exact = [v / mpmath.fsum(e) for v in e]
        parts, exponents = np.frexp(ref.softmax(x, extended=True))
        high = parts.astype(np.float64)
        low = (parts - high).astype(np.float64)
        got = [
            mpmath.ldexp(mpmath.mpf(float(h)) + float(lo), int(e))
            for h, lo, e in zip(high, low, exponents, strict=True)
        ]
        worst = max(abs(a - b) / b for a, b in zip(got, exact, strict=True))
    assert worst < 2.0**-60


@pytest.mark.skipif(not ref.EXTENDED, reason="longdouble is float64 on this platform")
@pytest.mark.parametrize("far", [2.0**18, -(2.0**40)])
def test_transformed_logits_have_two_words(far: float) -> None:
    """One extended number of this size has lost 64 u of an exponential, as float64 counts."""
    rng = np.random.default_rng(5)
    x, bias = rng.normal(far, 30, 50), rng.normal(-0.37 * far, 3, 50)
    with mpmath.workprec(300):
        z = [mpmath.mpf(-0.37) * float(a) + float(b) for a, b in zip(x, bias, strict=True)]
        e = [mpmath.exp(v - max(z)) for v in z]
        exact = [v / mpmath.fsum(e) for v in e]
        y = ref.softmax(x, scale=-0.37, bias=bias, extended=True)
        logy, total = (
            f(x, scale=-0.37, bias=bias, extended=True) for f in (ref.log_softmax, ref.logsumexp)
        )
        for got, want in zip(y, exact, strict=True):
            assert abs(_whole(got) - want) < 2.0**-60 * want
        for got, want in zip(logy, map(mpmath.log, exact), strict=True):
            assert abs(_whole(got) - want) < 2.0**-60 * abs(want)
        want = max(z) + mpmath.log(mpmath.fsum(e))
        assert abs(_whole(total) - want) < 2.0**-62 * abs(want)


def _whole(value: np.longdouble) -> mpmath.mpf:
    """Return an extended number to its last digit."""
    part, exponent = np.frexp(value)
    high = float(part)
    return mpmath.ldexp(mpmath.mpf(high) + float(part - np.longdouble(high)), int(exponent))


def test_long_rows_sum_in_pairs_along_any_axis() -> None:
    x = np.random.default_rng(4).normal(size=(1 << 16, 2))
    last = ref.softmax(np.ascontiguousarray(x.T), extended=True)
    np.testing.assert_array_equal(ref.softmax(x, axis=0, extended=True), last.T)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_ulp_error(dtype: str) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    info: Any = ml_dtypes.finfo(kind)  # type: ignore[no-untyped-call]
    eps, tiny = float(info.eps), float(info.smallest_subnormal)
    assert ref.unit_roundoff(dtype) == eps / 2
    ones = np.array([1, 1 + eps, 1, 0, tiny], dtype=kind)
    exact = np.array([1, 1, 1, tiny, 0], np.longdouble)
    exact[2] += eps / 2 if dtype != "float64" or ref.EXTENDED else 0
    half = 0.5 if exact[2] > 1 else 0
    np.testing.assert_array_equal(ref.ulp_error(ones, exact), [0, 1, half, 1, 1])
    special = np.array([np.nan, np.nan, 1, np.inf, -np.inf], dtype=kind)
    wanted = [np.nan, 1, np.nan, np.inf, np.inf]
    np.testing.assert_array_equal(ref.ulp_error(special, wanted), [0, np.inf, np.inf, 0, np.inf])


def test_flushed_subnormals() -> None:
    zero, exact = np.zeros(2, np.float32), np.array([1e-39, 2e-38])
    assert (ref.ulp_error(zero, exact) > 1e5).all()
    flushed = ref.ulp_error(zero, exact, flush_to_zero=True)
    assert flushed[0] == 0
    assert flushed[1] > 1e5


def test_vjp_bound() -> None:
    y, dy = np.array([0.25, 0.75]), np.array([-4.0, 2.0])
    np.testing.assert_array_equal(ref.vjp_bound(y, dy, u=2.0), [2 * 0.25 * 6.5, 2 * 0.75 * 4.5])


@pytest.mark.parametrize("z_loss", [0.0, 1e-20, 1e-30, 1e-4])
@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_of_a_class_that_dominates(soft: bool, z_loss: float) -> None:
    """Of its parts each may be nothing beside 1: the others, their targets, and the z-loss."""
    x = np.array([[3.0, 300.0, -20.0, 40.0]])
    target: Any = np.array([1])
    p = [mpmath.mpf(k == 1) for k in range(4)]
    if soft:
        target = np.array([[1e-22, 1.0, 0.0, 3e-25]])
        p = [mpmath.mpf(float(each)) for each in target[0]]
    _, gradient = ref.cross_entropy(
        x, target, reduction="none", z_loss=z_loss, extended=True, label_smoothing=0.0
    )
    with mpmath.workdps(400):
        terms = [mpmath.exp(mpmath.mpf(float(each))) for each in x[0]]
        log = mpmath.log(sum(terms))
        for k in range(4):
            exact = (sum(p) + 2 * mpmath.mpf(z_loss) * log) * terms[k] / sum(terms) - p[k]
            assert float(gradient[0, k] / np.longdouble(mpmath.nstr(exact, 25))) == 1
