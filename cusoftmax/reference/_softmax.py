"""softmax and its first and second derivatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax.planning.checks import Axis
from cusoftmax.reference._logits import derivative, logits_of_two_words, shown
from cusoftmax.reference._rows import (
    Centred,
    Float,
    above_half,
    only,
    rows_of,
    softmax_rows,
    widen,
)


def softmax(
    x: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Softmax by its definition, ``exp(x_i - m) / sum_j exp(x_j - m)``.

    Parameters
    ----------
    x : array_like
        Logits of any shape and real dtype.
    axis : int, tuple of int or None
        Axes that are normalised together.
    scale, mask, bias, causal
        As for `logits`, which are computed first.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    numpy.ndarray
        Softmax of `x`, accurate to the last bits of its dtype. A row that has a NaN or a +inf, or
        only -inf, is NaN. Hidden elements are 0.
    """
    z, low, kept = logits_of_two_words(x, scale, mask, bias, causal)
    rows, restore = rows_of(z, low, axis=axis)
    return shown(kept, restore(softmax_rows(*rows), extended), 0)


def softmax_vjp(
    y: ArrayLike,
    dy: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Product of softmax's Jacobian with a vector, ``y * (dy - sum_j y_j dy_j)``.

    Where one element of a row of float32 or float64 is above one half, the mean takes it as 1 less
    the sum of the others, which it was before it was rounded: ``1 - y_i`` is right then, however
    near 1 the element is. A softmax sums to 1; of a `y` that does not, this is another function.

    Parameters
    ----------
    y, dy : array_like
        Softmax's result and the gradient with respect to it, of one shape.
    axis, scale, mask, causal, extended
        As for `softmax`.

    Returns
    -------
    numpy.ndarray
        The gradient with respect to softmax's input.
    """
    return derivative(
        lambda rows, v: rows * Centred(rows, v, above_half(y, rows)).less_mean,
        *(y, dy, axis, 0, scale, mask, causal, extended),
    )


def softmax_jvp(
    y: ArrayLike,
    xt: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Product of softmax's Jacobian with a tangent: `softmax_vjp`, as the Jacobian is symmetric."""
    return softmax_vjp(y, xt, axis, scale=scale, mask=mask, causal=causal, extended=extended)


def softmax_vjp_vjp(
    y: ArrayLike, dy: ArrayLike, g: ArrayLike, axis: Axis = -1, *, extended: bool = False
) -> tuple[Float, Float]:
    """Gradients of `softmax_vjp` with respect to `y` and `dy`, contracted with `g`.

    The means over a row are those of `softmax_vjp`.

    Parameters
    ----------
    y, dy, g : array_like
        The inputs of `softmax_vjp` and the gradient with respect to its result, of one shape.
    axis, extended
        As for `softmax`.
    """
    (y_, dy_, g_), restore = rows_of(y, dy, g, axis=axis)
    with np.errstate(all="ignore"):
        dominant = above_half(y, y_)
        of_dy, of_g = (Centred(y_, v, dominant) for v in (dy_, g_))
        return (
            restore(g_ * of_dy.less_mean - dy_ * (of_g.there + of_g.beyond), extended),
            restore(y_ * of_g.less_mean, extended),
        )


def softmax_hvp(
    y: ArrayLike, dy: ArrayLike, v: ArrayLike, axis: Axis = -1, *, extended: bool = False
) -> Float:
    """Hessian of ``sum_i dy_i softmax(x)_i`` applied to `v`.

    The means over a row are those of `softmax_vjp`.

    Parameters
    ----------
    y, dy, v : array_like
        Softmax's result, the weights of its sum, and the tangent of softmax's input.
    axis, extended
        As for `softmax`.
    """
    (y_, dy_, v_), restore = rows_of(y, dy, v, axis=axis)
    with np.errstate(all="ignore"):
        dominant = above_half(y, y_)
        of_dy, of_v = (Centred(y_, each, dominant) for each in (dy_, v_))
        both = np.where(dominant, 0, y_ * of_dy.from_there * of_v.from_there)
        covariance = both.sum(axis=-1, keepdims=True) - of_dy.beyond * of_v.beyond
        return restore(y_ * (of_v.less_mean * of_dy.less_mean - covariance), extended)


def softmax_value_and_vjp(
    x: ArrayLike,
    dy: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> tuple[Float, Float]:
    """Softmax of logits, and the product of its Jacobian there with `dy`.

    Parameters
    ----------
    x, dy : array_like
        Logits and the gradient with respect to their softmax, of one shape.
    axis : int, tuple of int or None
        Axes that are normalised together.
    scale, mask, bias, causal
        As for `logits`, of which this is the softmax.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    y, dx : numpy.ndarray
        Hidden elements are 0 in both.
    """
    z, low, kept = logits_of_two_words(x, scale, mask, bias, causal)
    (z_, low_, dy_), restore = rows_of(z, low, shown(kept, dy, 0), axis=axis)
    with np.errstate(all="ignore"):
        y_ = softmax_rows(z_, low_)
        product = widen(scale) * y_ * Centred(y_, dy_, only(y_ > 0.5)).less_mean
    return tuple(shown(kept, restore(a, extended), 0) for a in (y_, product))  # type: ignore[return-value]


def softmax_value_and_jvp(
    x: ArrayLike,
    xt: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> tuple[Float, Float]:
    """Softmax of logits and its change along `xt`: `softmax_value_and_vjp`, by symmetry."""
    return softmax_value_and_vjp(
        x, xt, axis, scale=scale, mask=mask, bias=bias, causal=causal, extended=extended
    )


def softmax_jacobian(y: ArrayLike, *, extended: bool = False) -> Float:
    """Jacobian of softmax over the last axis, ``diag(y) - outer(y, y)``.

    Parameters
    ----------
    y : array_like, shape (..., n)
        Softmax's result.
    extended : bool
        As for `softmax`.

    Returns
    -------
    numpy.ndarray, shape (..., n, n)
        ``J[..., i, j]``, the derivative of ``y_i`` with respect to ``x_j``. Symmetric, and its rows
        and columns sum to 0. The diagonal of an element above one half is the product with the sum
        of the others, as for `softmax_vjp`.
    """
    y_ = widen(y) if extended else np.asarray(y, dtype=np.float64)
    n = y_.shape[-1]
    rows = y_.reshape(-1, n) if n else y_.reshape(0, 0)
    with np.errstate(all="ignore"):
        # y (1 - y), not y - y y: that loses the digits of the diagonal where y is next to 1. There
        # 1 - y is the sum of the others.
        dominant = above_half(y, rows)
        others = np.where(dominant, 0, rows).sum(axis=-1, keepdims=True)
        complement = np.where(dominant, others, 1 - rows).reshape(y_.shape)
        off = -y_[..., :, None] * y_[..., None, :]
        on = (y_ * complement)[..., :, None]
        return np.asarray(np.where(np.eye(n, dtype=bool), on, off + 0.0))


def softmax_jacobian_entries(y: ArrayLike) -> Float:
    """Jacobian of one row, entry by entry: ``y_i (1 - y_i)`` where i = j, else ``-y_i y_j``.

    Parameters
    ----------
    y : array_like, shape (n,)
        Softmax's result.

    Returns
    -------
    numpy.ndarray, shape (n, n)
        The same as `softmax_jacobian`, by the two cases of the derivation.
    """
    y_ = np.asarray(y, dtype=np.float64)
    jacobian = np.empty((y_.size, y_.size))
    for i, y_i in enumerate(y_):
        for j, y_j in enumerate(y_):
            jacobian[i, j] = y_i * (1 - y_i) if i == j else -y_i * y_j
    return jacobian
