"""Turns the options scale, bias, mask and causal of logits into a kernel's operands and options.

The kernels transform the logits while they read them: nothing is copied, and broadcasting is done
by strides. Functions that take a result of softmax instead of logits, such as ``softmax_vjp``, have
the same options except the bias, whose effect is in that result.
"""

from __future__ import annotations

from typing import Any

from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import LowWord, logits_name
from cusoftmax.planning.checks import (
    Array,
    Axis,
    NotCuPy,
    accepted_number,
    is_array,
    plain_bool,
    resolve_axes,
)
from cusoftmax.runtime import arrays, launch


def run(
    op: str, elements: tuple[Array, ...], axis: Axis, dtype: Any, out: Any, **given: Any
) -> Any:
    """Run `op` of transformed logits, of any library.

    Parameters
    ----------
    op, elements, axis, dtype, out
        The operation, its inputs of one value for each element, and options as in `launch.run`.
    **given
        The options of logits, `rows` (inputs of one value for each row) and `keepdims`.
    """
    try:
        return _run(op, elements, axis, dtype, out, **given)
    except NotCuPy:
        pass  # outside of it, an error has no context
    from cusoftmax.runtime.foreign import Loan  # needed for such arrays only

    operation = find(op)
    loan = Loan(operation.function)
    elements = loan.arrays(operation.inputs[: len(elements)], elements)
    for name in ("bias", "mask"):
        if given.get(name) is not None:
            given[name] = loan.array(name, given[name])
    rows = given.get("rows", ())
    given["rows"] = loan.arrays(operation.row_inputs[: len(rows)], rows)
    return loan.returned(_run(op, elements, axis, dtype, loan.results(op, out), **given))


def _run(
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
    public, first = operation.function, operation.inputs[0]
    features = []
    number = 1.0 if scale is None else accepted_number(public, "scale", scale)
    if number != 1.0:
        features.append("scaled")
    for name, array, feature in (("bias", bias, "biased"), ("mask", mask, "masked")):
        if array is not None:
            features.append(feature)
            elements += (arrays.broadcast(public, name, array, first, elements[0]),)
    queries = 1
    if plain_bool(public, "causal", causal):
        features.append("causal")
        queries = _queries(public, first, elements[0], axis)
    size = abs(number) or 1.0
    sign = 0.0 if number == 0 else 1.0 if number > 0 else -1.0
    options = (size, LowWord(size), sign, queries) if features else ()
    name = logits_name(op, features)
    return launch.run(name, elements + rows, axis, dtype, out, keepdims, options)


def _queries(op: str, name: str, array: Array, axis: Axis) -> int:
    """Return the length of the axis of queries; ValueError if there is none."""
    if not is_array(array):
        raise NotCuPy(op)
    shape = array.shape
    if len(shape) < 2:
        raise ValueError(
            f"{op}: causal=True needs the axes of queries and keys, and {name} has shape {shape}; "
            f"give it at least two dimensions"
        )
    if resolve_axes(op, axis, len(shape)) != (len(shape) - 1,):
        raise ValueError(
            f"{op}: causal=True with axis={axis}; rows of keys lie along the last axis, so give "
            f"axis=-1"
        )
    return max(1, int(shape[-2]))
