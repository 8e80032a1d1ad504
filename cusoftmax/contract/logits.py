"""The contracts of operations whose logits are scaled, biased, masked or causal.

All cases use the same scale, a run-time argument of one kernel. Causal order needs the softmax axis
to be the last, so other axes are tested as views in which they are the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.operations.dtypes import FLOATS
from cusoftmax.operations.options import LOGIT_FEATURES
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.checks import Axis

Array = np.ndarray[Any, np.dtype[Any]]

SCALE = -0.37  # not a power of two, and inexact in every dtype
BIAS = 3.0  # standard deviation of the bias
SHOWN = 0.8  # share of elements that the mask does not hide


def transforms(op: str) -> bool:
    """Whether an operation has any of `LOGIT_FEATURES`."""
    return any(word in LOGIT_FEATURES for word in KERNELS[op].features)


def draw_beside(
    name: str,
    rng: np.random.Generator,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    kind: np.dtype[Any],
) -> Array:
    """Return a random bias, or a mask that hides some elements and, if there are several, a row."""
    if name == "mask":
        mask = np.asarray(rng.random(shape) < SHOWN)
        several = [d for d in range(len(shape)) if d not in axes and shape[d] > 1]
        if several:
            mask[(slice(None),) * several[-1] + (1,)] = False
        return mask
    drawn = rng.standard_normal(shape) * BIAS
    return np.asarray(drawn if kind.name in FLOATS else np.abs(drawn)).astype(kind)


def call(op: str) -> Callable[..., Any]:
    """Return the public function of an operation, taking inputs in the kernel's order."""
    operation = KERNELS[op]
    return _along(op, getattr(cs, operation.public))


def exact(op: str) -> Callable[..., Any]:
    """Return the reference of an operation, in extended precision."""
    run = _along(op, getattr(reference, KERNELS[op].public), extended=True)
    return lambda *inputs: run(*inputs[:-1], axis=inputs[-1])


def _along(op: str, function: Callable[..., Any], **more: Any) -> Callable[..., Any]:
    operation = KERNELS[op]
    options: dict[str, Any] = dict(more)
    if "scaled" in operation.features:
        options["scale"] = SCALE
    if "causal" in operation.features:
        options["causal"] = True
    if len(operation.row_outputs) > 1:
        options["return_sign"] = True
    if operation.row_inputs:
        options["keepdims"] = True

    def run(*arrays: Any, axis: Axis, **others: Any) -> Any:
        moves = "causal" in operation.features and axis != -1
        if moves:
            # NumPy and CuPy arrays; inputs of one value a row have the axis too.
            arrays = tuple(_moved(a, axis, -1) for a in arrays)
        given = dict(zip(operation.read, arrays, strict=True))
        named = {name: given.pop(name) for name in ("b", "bias", "mask") if name in given}
        found = function(*given.values(), axis=-1 if moves else axis, **named, **options, **others)
        if moves and operation.outputs:
            if isinstance(found, tuple):
                return tuple(_moved(each, -1, axis) for each in found)
            return _moved(found, -1, axis)
        return found

    return run


def _moved(array: Any, source: Any, target: Any) -> Any:
    order = [*range(array.ndim)]
    order.insert(target % array.ndim, order.pop(source))
    return array.transpose(order)


def magnitude(op: str) -> Callable[..., Any] | None:
    """Return the magnitude that a bound in unit roundoffs is multiplied by; None for ulps."""
    operation = KERNELS[op]
    kind = operation.source
    if kind in ("softmax", "log_softmax"):
        return None

    def of(*arrays: Any) -> Any:
        *inputs, axis = arrays
        given: dict[str, Any] = dict(zip(operation.read, inputs, strict=True))
        seen, z = _seen(op, given, axis)
        if kind in ("logsumexp", "logsumexp_vjp"):
            weights = np.where(seen, np.abs(given["b"]), 0)
            gross = reference.logsumexp(z, axis, weights, keepdims=True)
            net = reference.logsumexp(
                z, axis, np.where(seen, given["b"], 0), keepdims=True, return_sign=True
            )[0]
            condition = np.exp(gross - net)
            if kind == "logsumexp_vjp":
                return np.asarray(np.abs(exact(op)(*arrays)) * condition)
            m = np.where(weights == 0, -np.inf, z).max(axis, keepdims=True, initial=-np.inf)
            total = np.abs(m) + np.abs(net - m) + condition
            return np.asarray(np.where(np.isnan(total), 1, total)).reshape(
                exact(op)(*arrays)[0].shape
            )
        size = abs(SCALE) if "scaled" in operation.features else 1.0
        if "_value_and_" in kind:
            v = np.where(seen, given[operation.inputs[1]], 0)
            kept = np.where(seen, z, -np.inf)
            logy = np.where(seen, reference.log_softmax(kept, axis), -np.inf)
            y = np.exp(logy)
            if kind == "softmax_value_and_vjp":
                return y, size * y * (np.abs(v) + (y * np.abs(v)).sum(axis, keepdims=True))
            if kind == "log_softmax_value_and_vjp":
                bare = np.abs(v) + y * np.abs(v).sum(axis, keepdims=True)
            else:
                bare = np.abs(v) + (y * np.abs(v)).sum(axis, keepdims=True)
            return np.abs(logy), size * bare
        first, v = (np.where(seen, given[name], 0) for name in operation.inputs[:2])
        if kind == "softmax_vjp":
            bare = np.abs(first) * (np.abs(v) + np.abs(first * v).sum(axis, keepdims=True))
        elif kind == "log_softmax_vjp":
            bare = np.abs(v) + np.exp(first) * np.abs(v).sum(axis, keepdims=True)
        else:
            y = np.where(seen, np.exp(given["logy"]), 0)
            bare = np.abs(v) + (y * np.abs(v)).sum(axis, keepdims=True)
        return np.asarray(size * bare)

    return of


def _seen(op: str, given: dict[str, Any], axis: int) -> tuple[Array, Array]:
    """Return which elements are not hidden, and the logits, or the result given in their place."""
    operation = KERNELS[op]
    first = given[operation.inputs[0]]
    causal = "causal" in operation.features
    turned = {
        name: _moved(np.broadcast_to(given[name], first.shape), axis, -1)
        for name in (operation.inputs[0], "bias", "mask")
        if name in given
    }
    mask = turned.get("mask")
    x = turned[operation.inputs[0]]
    seen = reference.seen(x, None if mask is None else mask.astype(bool), causal)
    if "biased" not in operation.features and operation.inputs[0] != "x":
        return _moved(seen, -1, axis), first
    scale = SCALE if "scaled" in operation.features else 1.0
    z, _ = reference.logits(x, scale, None, turned.get("bias"))
    return _moved(seen, -1, axis), _moved(z, -1, axis)
