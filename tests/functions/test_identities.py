"""What must hold between the functions of the family, whatever the reference says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs

Function = Callable[..., Any]

SHAPE = (5, 300)


def draw(seed: int, sigma: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sigma, SHAPE)


class On:
    """The public functions on NumPy arrays, by way of a device."""

    def __init__(self, device: Any) -> None:
        self.device = device

    def __getattr__(self, name: str) -> Function:
        def call(*arrays: np.ndarray, **options: Any) -> Any:
            given = (self.device.asarray(a) for a in arrays)
            got = getattr(cs, name)(*given, **options)
            if isinstance(got, tuple):
                return tuple(self.device.asnumpy(a) for a in got)
            return self.device.asnumpy(got)

        return call


@pytest.fixture
def on(device: Any) -> On:
    return On(device)


def central(function: Function, x: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Derivative of a function along a direction, right to about 1e-9."""
    step = 1e-5
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


def test_log_softmax_is_the_logarithm_of_softmax(on: On) -> None:
    x = draw(0)
    np.testing.assert_allclose(on.log_softmax(x), np.log(on.softmax(x)), rtol=1e-14)
    np.testing.assert_allclose(
        on.log_softmax(x), x - on.logsumexp(x)[:, None], rtol=1e-14, atol=1e-14
    )


def test_log_softmax_next_to_zero_is_right(on: On) -> None:
    """A row with one large entry: -exp(-d) of the others, where PyTorch and SciPy give 0."""
    x = np.zeros((1, 40), np.float32)
    x[0, 7] = 40
    y = on.log_softmax(x)[0, 7]
    assert y == pytest.approx(-39 * np.exp(-40.0), rel=3e-7)
    y = on.log_softmax(x.astype(np.float64), dtype=np.float32)[0, 7]
    assert y == pytest.approx(-39 * np.exp(-40.0), rel=1e-7)


@pytest.mark.parametrize(
    ("function", "vjp", "jvp"),
    [
        ("softmax", "softmax_vjp", "softmax_jvp"),
        ("log_softmax", "log_softmax_vjp", "log_softmax_jvp"),
    ],
)
def test_products_are_derivatives_and_transposes(on: On, function: str, vjp: str, jvp: str) -> None:
    x, v, w = draw(1), draw(2), draw(3)
    y = getattr(on, function)(x)
    forward = getattr(on, jvp)(y, v)
    backward = getattr(on, vjp)(y, w)
    np.testing.assert_allclose(forward, central(getattr(on, function), x, v), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose((w * forward).sum(-1), (backward * v).sum(-1), rtol=1e-11)
    # A shift of all logits changes nothing, and no gradient points that way.
    np.testing.assert_allclose(getattr(on, jvp)(y, np.ones(SHAPE)), 0, atol=1e-15)
    np.testing.assert_allclose(backward.sum(-1), 0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_of_logsumexp(on: On, weighted: bool) -> None:
    x, v = draw(4), draw(5)
    options = {"b": on.device.asarray(np.abs(draw(6)))} if weighted else {}
    dy = draw(7)[:, 0]
    got = on.logsumexp_vjp(x, dy, **options)
    change = central(lambda at: on.logsumexp(at, **options), x, v)
    np.testing.assert_allclose((got * v).sum(-1), dy * change, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(got.sum(-1), dy, rtol=1e-13)  # a shift of all goes through


def test_second_order_is_the_derivative_of_the_first(on: On) -> None:
    x, dy, g, v = draw(8), draw(9), draw(10), draw(11)
    y = on.softmax(x)
    for_y, for_dy = on.softmax_vjp_vjp(y, dy, g)
    change = central(lambda at: on.softmax_vjp(at, dy), y, v)
    np.testing.assert_allclose((for_y * v).sum(-1), (g * change).sum(-1), rtol=1e-7, atol=1e-8)
    change = central(lambda at: on.softmax_vjp(y, at), dy, v)
    np.testing.assert_allclose((for_dy * v).sum(-1), (g * change).sum(-1), rtol=1e-7, atol=1e-8)


def test_hessian_product(on: On) -> None:
    x, dy, v, w = draw(12), draw(13), draw(14), draw(15)
    y = on.softmax(x)
    got = on.softmax_hvp(y, dy, v)
    change = central(lambda at: on.softmax_vjp(on.softmax(at), dy), x, v)
    np.testing.assert_allclose(got, change, rtol=1e-6, atol=1e-8)
    other = on.softmax_hvp(y, dy, w)
    np.testing.assert_allclose((got * w).sum(-1), (other * v).sum(-1), rtol=1e-9)  # symmetric
    # By the VJP of the VJP, through softmax.
    for_y, _ = on.softmax_vjp_vjp(y, dy, v)
    np.testing.assert_allclose(got, on.softmax_vjp(y, for_y), rtol=1e-9, atol=1e-14)
