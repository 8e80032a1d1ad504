"""The contracts of the variants of cross_entropy.

Options that do not select a variant are run-time arguments of one kernel: all cases use the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.operations.dtypes import FLOATS
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.checks import Axis, resolve_axes

Array = np.ndarray[Any, np.dtype[Any]]

SPREAD = 4.0  # standard deviation of drawn logits
SMOOTHING, CAP = 0.1, 6.0
IGNORED = -100
LARGEST = 16.0  # no drawn weight or upstream gradient is larger


def draw(
    op: str, rng: np.random.Generator, shape: tuple[int, ...], axis: Axis, kind: np.dtype[Any]
) -> tuple[Array, ...]:
    """Return random inputs: logits, targets (some ignored), positive weights."""
    (place,) = resolve_axes(op, axis, len(shape))
    kept = tuple(1 if d == place else size for d, size in enumerate(shape))
    real = kind if kind.name in FLOATS else np.dtype(np.float64)
    classes = shape[place]
    weight = rng.uniform(0.5, 2, classes).astype(real)
    operation, found = KERNELS[op], []
    for number, name in enumerate(operation.read):
        if name == "logits":
            values = rng.standard_normal(shape) * SPREAD
            found.append((np.abs(values) if kind.name not in FLOATS else values).astype(kind))
        elif name == "weight":
            along = weight.reshape([classes if d == place else 1 for d in range(len(shape))])
            table = number in operation.table_operands
            found.append(weight if table else np.broadcast_to(along, shape))
        elif name == "dloss":
            found.append(rng.standard_normal(kept).astype(real))
        elif "soft" in operation.features:
            found.append(reference.softmax(rng.standard_normal(shape), place).astype(real))
        else:
            classes_of = rng.integers(0, max(classes, 1), kept)
            found.append(np.where(rng.random(kept) < 0.1, IGNORED, classes_of))
    return tuple(found)


def _options(op: str, inputs: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs by name and the options. Of two weights the last, a vector, is kept."""
    features = KERNELS[op].features
    options: dict[str, Any] = {}
    if "capped" in features:
        options["softcap"] = CAP
    if "smooth" in features or "soft" in features:
        options["label_smoothing"] = SMOOTHING
    return dict(zip(KERNELS[op].read, inputs, strict=True)), options


def _by_rows(op: str, given: dict[str, Any], axis: int) -> dict[str, Any]:
    """Drop the axis from inputs of one value a row, and all other axes from the weights."""
    found = dict(given)
    for name in KERNELS[op].row_inputs:
        found[name] = given[name].squeeze(axis)
    weight = given.get("weight")
    if weight is not None and weight.ndim > 1:
        one = weight[tuple(slice(None) if d == axis else slice(1) for d in _dims(weight))]
        found["weight"] = one.reshape(-1)
        if one.size < weight.shape[axis]:
            del found["weight"]  # there is no row to take it from
    return found


def _dims(array: Any) -> range:
    return range(array.ndim)


def call(op: str) -> Callable[..., Any]:
    """Return a function of the operation's inputs that calls the public function."""

    def run(*inputs: Any, axis: int, **out: Any) -> Any:
        given, options = _options(op, inputs)
        given = _by_rows(op, given, axis % inputs[0].ndim)
        if KERNELS[op].public == "cross_entropy_vjp":
            return cs.cross_entropy_vjp(**given, axis=axis, **options, **out)
        grad = bool(KERNELS[op].outputs)
        got = cs.cross_entropy(**given, axis=axis, reduction="none", grad=grad, **options)
        return got[::-1] if isinstance(got, tuple) else got

    return run


def exact(op: str) -> Callable[..., Any]:
    """Return the reference, in extended precision."""

    def run(*inputs: Any, **_: Any) -> Any:
        *arrays, axis = inputs
        given, options = _options(op, tuple(arrays))
        given = _by_rows(op, given, axis % arrays[0].ndim)
        loss, gradient = reference.cross_entropy(
            **given, axis=axis, reduction="none", extended=True, **options
        )
        return _chosen(op, gradient, loss)

    return run


def magnitude(op: str) -> Callable[..., Any]:
    """Return the magnitudes that the formulas of the gradient and the loss round.

    With a class as target only the results are rounded; with weights of all classes also the sum of
    their products with the logits; with a cap also the logits, which multiplies the error of their
    exponentials by the cap.
    """

    def run(*inputs: Any) -> Any:
        *arrays, axis = inputs
        given, options = _options(op, tuple(arrays))
        given = _by_rows(op, given, axis % arrays[0].ndim)
        soft, capped = "soft" in KERNELS[op].features, "softcap" in options
        if not soft:
            given["target"] = given["target"].astype(np.int64)
        loss, gradient = (
            np.abs(part)
            for part in reference.cross_entropy(
                **given, axis=axis, reduction="none", extended=True, **options
            )
        )
        if capped:
            logits = CAP * np.tanh(given["logits"] / CAP)
            lost = 1 + 2 * CAP
            weights = given.get("weight")
            most = shares = 1.0
            if weights is not None and weights.size:
                most, shares = float(np.max(weights)), float(np.mean(weights))
            up = given.get("dloss")
            scale = 1.0 if up is None else np.expand_dims(np.abs(up), axis)
            gradient = (
                gradient
                + (most + shares) * reference.softmax(logits, axis, extended=True) * lost * scale
            )
            # Near 0 the cap's slope has an absolute error of a roundoff of the target's weight.
            target_weight = np.ones_like(logits)
            if not soft:
                place = np.expand_dims(given["target"], axis)
                classes = np.arange(logits.shape[axis])
                classes = classes.reshape(
                    [-1 if d == axis % logits.ndim else 1 for d in _dims(logits)]
                )
                target_weight = np.where(classes == place, 1, SMOOTHING)
            gradient = gradient + 2 * most * scale * target_weight
            loss = loss + (most + shares) * 3 * CAP
        return _chosen(op, gradient, loss)

    return run


def _chosen(op: str, gradient: Array, loss: Array) -> Any:
    if not KERNELS[op].outputs:
        return loss
    return (gradient, loss) if KERNELS[op].row_outputs else gradient
