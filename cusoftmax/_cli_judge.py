"""The numerical contract, as the command line measures it (README.md: Numbers)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cusoftmax import reference
from cusoftmax._checks import Axis
from cusoftmax._ops import compute_dtype

Array = np.ndarray[Any, np.dtype[Any]]

# Bounds of softmax in ulp, and of the products in unit roundoffs (plus the final rounding, for the
# 16-bit dtypes); and the part of 16-bit softmax results that must be correctly rounded.
SOFTMAX_ULP = {"float16": 1.0, "bfloat16": 1.0, "float32": 3.0, "float64": 4.0}
PRODUCT_UNITS = {"float16": 1.0, "bfloat16": 1.0, "float32": 4.0, "float64": 4.0}
CORRECTLY_ROUNDED = 0.999
NARROW = ("float16", "bfloat16")


def softmax_ulp(x: Array, y: Array, axis: Axis = -1) -> Array:
    """Errors of `y` as the softmax of `x`, in units in the last place."""
    flushes = computes_in_single(x, y)
    exact = reference.softmax(x, axis, extended=True)
    return reference.ulp_error(y, exact, flush_to_zero=flushes)


def product_units(y: Array, dy: Array, dx: Array, axis: Axis = -1) -> Array:
    """Errors of `dx` as the VJP of `y` and `dy`, in u ``|y_i| (|dy_i| + sum |y_j dy_j|)``."""
    exact = reference.softmax_vjp(y, dy, axis, extended=True)
    got = dx.astype(np.float64).astype(np.longdouble)
    with np.errstate(all="ignore"):
        error = np.abs(got - exact)
        excess = error.copy()
        if dx.dtype.name in NARROW:  # the final rounding, half a unit in the last place, is beside
            excess -= 0.5 * error / reference.ulp_error(dx, exact)
        if computes_in_single(y, dy, dx):  # a subnormal operand or product may be flushed
            excess -= float(np.finfo(np.float32).tiny) * (1 + np.abs(dy.astype(np.float64)))
        u = reference.unit_roundoff(dx.dtype.name)
        units = excess / reference.vjp_bound(y, dy, axis, u)
    fine = (np.isnan(got) & np.isnan(exact)) | (error == 0) | (excess <= 0)
    return np.where(fine, 0.0, np.where(np.isnan(units), np.inf, units)).astype(np.float64)


def computes_in_single(*arrays: Array) -> bool:
    """Whether the kernel of these inputs and output computes in float32."""
    *inputs, out = (array.dtype.name for array in arrays)
    return compute_dtype(inputs, out) == "float32"
