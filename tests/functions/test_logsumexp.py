"""logsumexp against SciPy's, over its options; its shapes, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.special
from numpy.exceptions import AxisError

import cusoftmax as cs

SHAPE = (3, 4, 5)
AXES = (None, -1, 0, 1, (0, 2), (-1, 0), (), (0, 1, 2))
INF = np.inf


def ours(device: Any, x: np.ndarray, b: np.ndarray | None = None, **options: Any) -> Any:
    weights = None if b is None else device.asarray(b)
    got = cs.logsumexp(device.asarray(x), b=weights, **options)
    pair = got if isinstance(got, tuple) else (got,)
    return tuple(device.asnumpy(a) for a in pair)


def scipys(x: np.ndarray, b: np.ndarray | None = None, **options: Any) -> Any:
    with np.errstate(all="ignore"):
        got = scipy.special.logsumexp(x, b=b, **options)
    return got if isinstance(got, tuple) else (np.asarray(got),)


@pytest.mark.parametrize(
    ("axis", "keepdims", "return_sign", "weights"),
    [
        *itertools.product(
            AXES, (False, True), (False, True), (None, SHAPE, (5,), (4, 1), (3, 1, 1))
        )
    ],
)
def test_options(device: Any, axis: Any, keepdims: bool, return_sign: bool, weights: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 5, SHAPE)
    b = None if weights is None else rng.normal(0.5, 1, weights)
    if axis == ():  # SciPy takes it for all; NumPy and this package for none
        with np.errstate(all="ignore"):
            terms = np.broadcast_to(1.0 if b is None else b, SHAPE)
            value = x + np.log(np.abs(terms))
            if not return_sign:
                value = np.where(terms < 0, np.nan, value)
        expected = (value, np.sign(terms)) if return_sign else (value,)
    else:
        expected = scipys(x, b, axis=axis, keepdims=keepdims, return_sign=return_sign)
    got = ours(device, x, b, axis=axis, keepdims=keepdims, return_sign=return_sign)
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.shape == np.shape(theirs)
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "b"),
    [
        ([INF, 0], None),
        ([-INF, -INF], None),
        ([INF, -INF], None),
        ([np.nan, 0], None),
        ([INF, np.nan], None),
        ([INF, 0], [0, 1]),
        ([np.nan, 0], [0, 1]),
        ([INF, 0], [-1, 1]),
        ([INF, INF], [-1, 1]),
        ([1, 2], [0, 0]),
        ([1, 1], [1, -1]),
        ([-INF, -INF], [1, -1]),
        ([-INF, 3], [1, 0]),
        ([INF, INF], [1, 2]),
        ([1, 2], [-1, -2]),
    ],
)
def test_special_values_are_scipys(device: Any, x: list[float], b: list[float] | None) -> None:
    given = np.array([x], float)
    weights = None if b is None else np.array([b], float)
    for return_sign in (False, True):
        got = ours(device, given, weights, return_sign=return_sign)
        expected = scipys(given, weights, axis=-1, return_sign=return_sign)
        for mine, theirs in zip(got, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_an_empty_sum_is_the_logarithm_of_zero(device: Any) -> None:
    assert ours(device, np.zeros((3, 0)))[0].tolist() == [-INF] * 3
    assert ours(device, np.zeros((0, 3)), axis=0)[0].tolist() == [-INF] * 3
    assert ours(device, np.zeros((0, 3)))[0].shape == (0,)
    assert ours(device, np.zeros(()), axis=None)[0].shape == ()


def test_integers_compute_in_float64(device: Any) -> None:
    x = np.array([[2**40, 2**40 - 1]])
    (got,) = ours(device, x)
    assert got.dtype == np.float64 and got[0] == scipys(x.astype(float), axis=-1)[0][0]


def test_out(device: Any) -> None:
    x = np.random.default_rng(1).normal(0, 3, (4, 70)).astype(np.float32)
    target = device.asarray(np.zeros((2, 8), np.float64))[:, ::2].reshape(-1)[:4]
    assert cs.logsumexp(device.asarray(x), out=target) is target
    np.testing.assert_allclose(device.asnumpy(target), scipys(x.astype(float), axis=-1)[0])
    pair = device.asarray(np.zeros(4)), device.asarray(np.zeros(4))
    assert cs.logsumexp(device.asarray(x), return_sign=True, out=pair)[0] is pair[0]
    assert device.asnumpy(pair[1]).tolist() == [1] * 4


def test_refusals(device: Any) -> None:
    x = device.asarray(np.zeros((4, 6), np.float32))
    vector = device.asarray(np.zeros(4, np.float32))
    with pytest.raises(ValueError, match=r"logsumexp: out has shape \(6,\).*give it shape \(4,\)"):
        cs.logsumexp(x, out=device.asarray(np.zeros(6, np.float32)))
    with pytest.raises(ValueError, match=r"b has shape \(5,\), which does not broadcast"):
        cs.logsumexp(x, b=device.asarray(np.zeros(5, np.float32)))
    with pytest.raises(ValueError, match="sign overlaps out"):
        cs.logsumexp(x, return_sign=True, out=(vector, vector))
    with pytest.raises(ValueError, match="out overlaps x; give out memory of its own"):
        cs.logsumexp(x, out=x[:, 0])
    with pytest.raises(TypeError, match="out is a ndarray; give a tuple of 2: out, sign"):
        cs.logsumexp(x, return_sign=True, out=vector)
    with pytest.raises(TypeError, match=r"logsumexp: b is a numpy.ndarray, and only CuPy arrays"):
        cs.logsumexp(x, b=np.zeros((4, 6)))
    with pytest.raises(AxisError):
        cs.logsumexp(x, axis=2)
    with pytest.raises(ValueError, match=r"logsumexp_vjp: dy has shape \(4, 1\).*shape \(4,\)"):
        cs.logsumexp_vjp(x, vector[:, None])
    assert cs.logsumexp_vjp(x, vector[:, None], keepdims=True).shape == (4, 6)
    with pytest.raises(TypeError, match="dtype=int32 cannot hold the result"):
        cs.logsumexp(x, dtype=np.int32)
    with pytest.raises(TypeError, match="out is a tuple of 0; give an array"):
        cs.logsumexp(x, out=())
    with pytest.raises(TypeError, match=r"keepdims=<.*ndarray> is not .*; give True or False"):
        cs.logsumexp(x, 0, x)
    with pytest.raises(TypeError, match=r"b is a numpy\.ndarray, and only CuPy arrays"):
        cs.logsumexp(x, b=np.zeros(6, np.float32))


def test_flags_of_numpy(device: Any) -> None:
    x = np.zeros((2, 3), np.float32)
    assert len(ours(device, x, return_sign=np.True_)) == 2
    assert len(ours(device, x, return_sign=np.False_)) == 1
    assert ours(device, x, keepdims=np.True_)[0].shape == (2, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [4, 40, 3000, 100_000])
def test_infinite_weights_and_sums(device: Any, dtype: Any, n: int) -> None:
    """However many chunks the row has: the infinite one is not that of the maximum."""
    x = np.zeros((1, n), dtype)
    x[0, -1] = 1
    b = np.ones((1, n), dtype)
    b[0, 0] = INF
    assert [a[0] for a in ours(device, x, b, return_sign=True)] == [INF, 1]
    dx = cs.logsumexp_vjp(device.asarray(x), device.asarray(np.ones(1, dtype)), b=device.asarray(b))
    np.testing.assert_array_equal(device.asnumpy(dx)[0], np.where(np.isinf(b[0]), np.nan, 0))
    b = np.full((1, n), np.finfo(dtype).max / 2)
    got = [a[0] for a in ours(device, x, b, return_sign=True)]
    assert got[1] == 1 and (got[0] == INF or np.isfinite(got[0]))


def test_a_subnormal_sum(device: Any) -> None:
    for weight in (1e-310, 5e-324, 2.0**-1022):
        (got,) = ours(device, np.zeros((1, 1)), np.full((1, 1), weight))
        assert got[0] == pytest.approx(np.log(weight), rel=1e-15)


def test_dtype_of_the_gradient_is_that_of_x(device: Any) -> None:
    x = device.asarray(np.zeros((2, 3), np.float32))
    for kind in (np.float64, np.int8, np.float16):
        assert cs.logsumexp_vjp(x, device.asarray(np.ones(2, kind))).dtype == np.float32
