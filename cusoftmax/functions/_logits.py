"""Turns the options scale, bias, mask and causal of logits into a kernel's operands and options.

The kernels transform the logits while they read them: nothing is copied, and broadcasting is done
by strides. Functions that take a result of softmax instead of logits, such as ``softmax_vjp``, have
the same options except the bias, whose effect is in that result.
"""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

import numpy as np

from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import LowWord, logits_name
from cusoftmax.planning.checks import Array, Axis, plain_axis, plain_bool, resolve_axes
from cusoftmax.runtime import arrays, launch

# Sizes of a scale that two float32 words hold, with room for products.
_SMALLEST, _LARGEST = 2.0**-64, 2.0**64


def run(
    op: str,
    elements: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    out: Any,
    *,
    scale: Any,
    mask: Array | None,
    bias: Array | None = None,
    causal: Any,
    rows: tuple[Array, ...] = (),
    keepdims: bool = False,
) -> Any:
    """Run `op` of transformed logits; its inputs are `elements`, then `rows` (one value a row)."""
    operation = find(op)
    public, first = operation.public or op, operation.inputs[0]
    features = []
    number = 1.0 if scale is None else _scale(public, scale)
    if number != 1.0:
        features.append("scaled")
    for name, array, feature in (("bias", bias, "biased"), ("mask", mask, "masked")):
        if array is not None:
            features.append(feature)
            elements += (arrays.broadcast(public, name, array, first, elements[0]),)
    queries = 1
    if plain_bool(op, "causal", causal):
        features.append("causal")
        queries = _queries(public, first, elements[0], axis)
    size = abs(number) or 1.0
    sign = 0.0 if number == 0 else 1.0 if number > 0 else -1.0
    options = (size, LowWord(size), sign, queries) if features else ()
    name = logits_name(op, features)
    return launch.run(name, elements + rows, axis, dtype, out, keepdims, options)


def _scale(op: str, scale: Any) -> float:
    if isinstance(scale, (bool, np.bool_)) or not isinstance(
        scale, (int, float, np.integer, np.floating)
    ):
        kind = type(scale).__name__
        raise TypeError(f"{op}: scale is a {kind}; give a number, known to the host")
    try:
        number = float(scale)
    except OverflowError:
        number = inf
    if not isfinite(number) or (number and not _SMALLEST <= abs(number) <= _LARGEST):
        raise ValueError(
            f"{op}: scale={number} is not accepted; give 0, or a number of a size between 2**-64 "
            f"and 2**64"
        )
    return number


def _queries(op: str, name: str, array: Array, axis: Axis) -> int:
    """Return the length of the axis of queries; ValueError if there is none."""
    shape = getattr(array, "shape", None)
    if shape is None:
        return 1  # not a CuPy array; the checks of the call raise the error
    if len(shape) < 2:
        raise ValueError(
            f"{op}: causal=True needs the axes of queries and keys, and {name} has shape {shape}; "
            f"give it at least two dimensions"
        )
    resolve_axes(op, axis, len(shape))
    axis = plain_axis(op, axis)
    if (axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis) not in (
        -1,
        len(shape) - 1,
    ):
        raise ValueError(
            f"{op}: causal=True with axis={axis}; rows of keys lie along the last axis, so give "
            f"axis=-1"
        )
    return max(1, int(shape[-2]))
