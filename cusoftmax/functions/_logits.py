"""Turns the options scale, bias, mask and causal of logits into a kernel's operands and options.

The kernels transform the logits while they read them: nothing is copied, and broadcasting is done
by strides. Functions that take a result of softmax instead of logits, such as ``softmax_vjp``, have
the same options except the bias, whose effect is in that result.
"""

from __future__ import annotations

from typing import Any, TypeVar

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

A = TypeVar("A")


def run(
    op: str,
    elements: tuple[A, *tuple[Any, ...]],
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
) -> A:
    """Run `op` of transformed logits; its inputs are `elements`, then `rows` (one value a row)."""
    operation = find(op)
    public, first = operation.function, operation.inputs[0]
    try:
        name, added, options = variant(
            public, op, first, elements[0], axis, scale=scale, bias=bias, mask=mask, causal=causal
        )
    except NotCuPy:
        pass
    else:
        inputs = (*elements, *added, *rows)
        return launch.run(name, inputs, axis, dtype, out, keepdims, options)  # type: ignore[no-any-return]
    from cusoftmax.runtime.foreign import Loan  # needed for arrays of other libraries only

    loan = Loan(public)
    lent: Any = loan.arrays(operation.inputs[: len(elements)], elements)
    result = run(
        *(op, lent, axis, dtype, loan.results(op, out)),
        scale=scale,
        mask=None if mask is None else loan.array("mask", mask),
        bias=None if bias is None else loan.array("bias", bias),
        causal=causal,
        rows=loan.arrays(operation.row_inputs[: len(rows)], rows),
        keepdims=keepdims,
    )
    returned: A = loan.returned(result)
    return returned


def variant(
    caller: str,
    op: str,
    first: str,
    model: Array,
    axis: Axis,
    *,
    scale: Any,
    bias: Array | None,
    mask: Array | None,
    causal: Any,
) -> tuple[str, list[Array], tuple[float, ...]]:
    """Return the variant of `op` that the options name, its further inputs, and its numbers.

    `model` is the array of logits, or of a result of softmax, called `first`.
    """
    features: list[str] = []
    number = 1.0 if scale is None else accepted_number(caller, "scale", scale)
    if number != 1.0:
        features.append("scaled")
    added: list[Array] = []
    queries = 1
    for name, array, feature in (("bias", bias, "biased"), ("mask", mask, "masked")):
        if array is not None:
            features.append(feature)
            added.append(arrays.broadcast(caller, name, array, first, model))
    if plain_bool(caller, "causal", causal):
        features.append("causal")
        queries = _queries(caller, first, model, axis)
    size = abs(number) or 1.0
    sign = 0.0 if number == 0 else 1.0 if number > 0 else -1.0
    return (
        logits_name(op, features),
        added,
        (size, LowWord(size), sign, queries) if features else (),
    )


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
