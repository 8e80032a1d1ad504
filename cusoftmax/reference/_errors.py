"""Errors of results, in the units of the error bounds."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax.planning.checks import Axis
from cusoftmax.reference._rows import Float, rows_of, widen

# Bits of the stored significand, and exponent of the smallest normal number.
_FORMATS = {
    "float16": (10, -14),
    "bfloat16": (7, -126),
    "float32": (23, -126),
    "float64": (52, -1022),
}


def ulp_error(result: ArrayLike, exact: ArrayLike, *, flush_to_zero: bool = False) -> Float:
    """Error of `result` in units in the last place of its dtype, at the exact value.

    Parameters
    ----------
    result : array_like
        The result to judge: float16, bfloat16, float32 or float64.
    exact : array_like
        The exact values, from a function of this module with ``extended=True``.
    flush_to_zero : bool
        Whether 0 is a correct result for exact values below the smallest normal number.

    Returns
    -------
    numpy.ndarray of float64
        The errors: 0 if both are NaN or the same infinity, infinite if only one is.
    """
    values = np.asarray(result)
    bits, lowest = _FORMATS[values.dtype.name]
    got = widen(values)
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
    """Error bound of `softmax_vjp`, ``u * |y_i| * (|dy_i| + sum_j |y_j dy_j|)``.

    Parameters
    ----------
    y, dy : array_like
        The inputs of `softmax_vjp`.
    axis : int, tuple of int or None
        The axes of the softmax.
    u : float
        Allowed error in unit roundoffs, such as ``4 * unit_roundoff("float32")``.

    Returns
    -------
    numpy.ndarray of float64
        The largest allowed error of each element.
    """
    (y_, dy_), restore = rows_of(y, dy, axis=axis)
    with np.errstate(all="ignore"):
        total = np.abs(y_ * dy_).sum(axis=-1, keepdims=True)
        return restore(u * np.abs(y_) * (np.abs(dy_) + total), False)
