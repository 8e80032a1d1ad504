"""What the kernels must agree with: softmax, its derivatives and its error bounds in NumPy.

Inputs are taken at their float64 values, so every accepted dtype is exact but for integers beyond
2**53, which the kernels round the same way. Results are float64, or with ``extended=True`` in
`numpy.longdouble`, whose 11 further bits (on x86) make it a judge of float64 results too. Where
`longdouble` is no wider than float64, `EXTENDED` is False and float64 results can be judged to a
few units in the last place only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax._checks import Axis, resolve_axes

Float = np.ndarray[Any, np.dtype[Any]]

EXTENDED = bool(np.finfo(np.longdouble).nmant > 52)

# Bits of the stored significand and exponent of the smallest normal number.
_FORMATS = {
    "float16": (10, -14),
    "bfloat16": (7, -126),
    "float32": (23, -126),
    "float64": (52, -1022),
}


def softmax(x: ArrayLike, axis: Axis = -1, *, extended: bool = False) -> Float:
    """Softmax by its definition, ``exp(x_i - m) / sum_j exp(x_j - m)``.

    Parameters
    ----------
    x : array_like
        Logits of any shape and real dtype.
    axis : int, tuple of int or None
        Axes that are normalised together.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    numpy.ndarray
        Softmax of `x`, accurate to the last bits of its dtype. A row with a NaN, a +inf or nothing
        but -inf is NaN.
    """
    rows, restore = _rows(x, axis=axis)
    x_ = rows[0]
    if x_.size == 0:
        return restore(x_, extended)
    with np.errstate(all="ignore"):
        m = x_.max(axis=-1, keepdims=True)
        d = x_ - m
        # exp magnifies what the difference lost to rounding: recover it, and put it back.
        back = d - x_
        lost = (x_ - (d - back)) - (m + back)
        e = np.exp(d)
        e += e * np.where(np.isfinite(lost), lost, 0)
        return restore(e / e.sum(axis=-1, keepdims=True), extended)


def softmax_vjp(y: ArrayLike, dy: ArrayLike, axis: Axis = -1, *, extended: bool = False) -> Float:
    """Product of softmax's Jacobian with a vector, ``y * (dy - sum_j y_j dy_j)``.

    Parameters
    ----------
    y, dy : array_like
        Softmax's result and the gradient with respect to it, of one shape.
    axis : int, tuple of int or None
        The axes of the softmax.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    numpy.ndarray
        The gradient with respect to softmax's input.
    """
    (y_, dy_), restore = _rows(y, dy, axis=axis)
    with np.errstate(all="ignore"):
        return restore(y_ * (dy_ - (y_ * dy_).sum(axis=-1, keepdims=True)), extended)


def softmax_jvp(y: ArrayLike, xt: ArrayLike, axis: Axis = -1, *, extended: bool = False) -> Float:
    """Product of softmax's Jacobian with a tangent: `softmax_vjp`, the Jacobian being symmetric."""
    return softmax_vjp(y, xt, axis, extended=extended)


def softmax_jacobian(y: ArrayLike) -> Float:
    """Jacobian of softmax over the last axis as ``diag(y) - outer(y, y)``.

    Parameters
    ----------
    y : array_like, shape (..., n)
        Softmax's result.

    Returns
    -------
    numpy.ndarray, shape (..., n, n)
        ``J[..., i, j]``, the derivative of ``y_i`` with respect to ``x_j``. Symmetric, and its rows
        and columns sum to 0.
    """
    y_ = np.asarray(y, dtype=np.float64)
    return np.eye(y_.shape[-1]) * y_[..., None] - y_[..., :, None] * y_[..., None, :]


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


def ulp_error(result: ArrayLike, exact: ArrayLike, *, flush_to_zero: bool = False) -> Float:
    """Error of `result` in units in the last place of its dtype, at the exact value.

    Parameters
    ----------
    result : array_like
        What is judged: float16, bfloat16, float32 or float64.
    exact : array_like
        The exact values, from a function of this module with ``extended=True``.
    flush_to_zero : bool
        Whether a zero is right for an exact value below the smallest normal number.

    Returns
    -------
    numpy.ndarray of float64
        Errors, 0 where both are NaN or the same infinity, infinite where only one is.
    """
    values = np.asarray(result)
    bits, lowest = _FORMATS[values.dtype.name]
    got = _widen(values)
    want = np.asarray(exact, dtype=np.longdouble)
    with np.errstate(all="ignore"):
        exponent = np.where(want == 0, lowest, np.maximum(np.frexp(want)[1] - 1, lowest))
        error = np.abs(got - want) / np.ldexp(np.longdouble(1), exponent - bits)
    agree = (got == want) | (np.isnan(got) & np.isnan(want))
    if flush_to_zero:
        agree |= (got == 0) & (np.abs(want) < np.ldexp(np.longdouble(1), lowest))
    finite = np.isfinite(got) & np.isfinite(want)
    return np.where(agree, 0.0, np.where(finite, error, np.inf)).astype(np.float64)


def unit_roundoff(dtype: str) -> float:
    """Return u, half the spacing of the numbers of `dtype` above 1."""
    return float(2.0 ** -(_FORMATS[dtype][0] + 1))


def vjp_bound(y: ArrayLike, dy: ArrayLike, axis: Axis = -1, u: float = 1.0) -> Float:
    """Bound of the error of `softmax_vjp`, ``u * |y_i| * (|dy_i| + sum_j |y_j dy_j|)``.

    Parameters
    ----------
    y, dy : array_like
        The inputs of `softmax_vjp`.
    axis : int, tuple of int or None
        The axes of the softmax.
    u : float
        Unit roundoffs that are allowed, such as ``4 * unit_roundoff("float32")``.

    Returns
    -------
    numpy.ndarray of float64
        The largest error allowed in each element.
    """
    (y_, dy_), restore = _rows(y, dy, axis=axis)
    with np.errstate(all="ignore"):
        total = np.abs(y_ * dy_).sum(axis=-1, keepdims=True)
        return restore(u * np.abs(y_) * (np.abs(dy_) + total), False)


def _widen(values: ArrayLike) -> Float:
    return np.asarray(values).astype(np.float64).astype(np.longdouble)


class _Restore:
    """Takes rows back to the shape that they were cut from."""

    def __init__(self, shape: tuple[int, ...], order: tuple[int, ...]) -> None:
        self.moved = tuple(shape[d] for d in order)
        self.inverse = tuple(int(d) for d in np.argsort(order))

    def __call__(self, rows: Float, extended: bool) -> Float:
        whole = rows.reshape(self.moved).transpose(self.inverse)
        with np.errstate(all="ignore"):
            return whole.astype(np.longdouble if extended else np.float64, order="C")


def _rows(*arrays: ArrayLike, axis: Axis) -> tuple[list[Float], _Restore]:
    """Return arrays as contiguous rows, over which NumPy sums in pairs and not one by one."""
    wide = [_widen(a) for a in arrays]
    shape = wide[0].shape
    if any(w.shape != shape for w in wide):
        raise ValueError(f"shapes {[w.shape for w in wide]} differ; give arrays of one shape")
    axes = resolve_axes("reference", axis, len(shape))
    order = (*(d for d in range(len(shape)) if d not in axes), *axes)
    length = int(np.prod([shape[d] for d in axes], dtype=np.int64))
    rows = int(np.prod([shape[d] for d in order[: len(shape) - len(axes)]], dtype=np.int64))
    cut = [np.ascontiguousarray(w.transpose(order)).reshape(rows, length) for w in wide]
    return cut, _Restore(shape, order)
