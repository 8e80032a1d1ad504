"""Turns the options of cross_entropy into launches of the kernels in `operations.table.PARTS`.

One launch over the logits gives every row's loss and gradient. A sum or mean takes a second launch
over the losses. The mean is divided by the sum of the targets' weights, which the gradient needs
when it is written. For integer targets an earlier launch, over the targets only, computes it.
Intermediate results stay on the device.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from math import inf, isfinite, nan, prod
from typing import Any

import numpy as np

from cusoftmax.operations.dtypes import FLOATS, INDICES, INPUTS, compute_dtype, output_dtype
from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import cross_entropy_name
from cusoftmax.planning.checks import (
    Array,
    accepted_name,
    as_dtype,
    check_shape,
    check_types,
    resolve_axes,
)
from cusoftmax.runtime import arrays, backend, launch

REDUCTIONS = ("none", "mean", "sum")
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Options:
    """The options of `cross_entropy` that define the loss of a row."""

    ignore_index: int
    label_smoothing: float
    z_loss: float
    softcap: float | None

    @staticmethod
    def checked(
        op: str, ignore_index: Any, label_smoothing: Any, z_loss: Any, softcap: Any
    ) -> Options:
        """Return the options, or raise an error that says which is wrong."""
        try:
            ignored = operator.index(ignore_index)
        except TypeError:
            raise TypeError(f"{op}: ignore_index={ignore_index!r} is not an integer") from None
        if not -_LARGEST - 1 <= ignored <= _LARGEST:
            raise ValueError(f"{op}: ignore_index={ignored} does not fit in an int64")
        smoothing, z = (
            _number(op, name, value)
            for name, value in (("label_smoothing", label_smoothing), ("z_loss", z_loss))
        )
        if not 0 <= smoothing <= 1:
            raise ValueError(f"{op}: label_smoothing={smoothing} is not between 0 and 1")
        if not isfinite(z):
            raise ValueError(f"{op}: z_loss={z} is not finite")
        cap = None if softcap is None else _number(op, "softcap", softcap)
        if cap is not None and not 0 < cap < inf:
            raise ValueError(f"{op}: softcap={cap} is no limit; give a positive number, or None")
        return Options(ignored, smoothing, z, cap)

    def numbers(self, classes: int, stride: int, factor: float) -> tuple[float, ...]:
        """Return the kernel's options, as `options.CROSS_ENTROPY_OPTIONS` names them."""
        cap = 1.0 if self.softcap is None else self.softcap
        smoothing = self.label_smoothing
        share = smoothing / max(classes, 1)
        return (
            *(self.ignore_index, stride),
            *(1.0 - smoothing, smoothing, share, self.z_loss, cap, 1.0 / cap, factor),
        )


def _number(op: str, name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name}={value!r} is not a number") from None


class _Rows:
    """Checked logits and targets, and what follows from them."""

    def __init__(
        self, op: str, logits: Array, target: Array, axis: Any, weight: Array | None
    ) -> None:
        check_types(find("cross_entropy_soft"), op, (logits, target), ())
        self.op, self.logits, self.target, self.weight = op, logits, target, weight
        self.dtype = accepted_name(op, "logits has dtype", logits.dtype, INPUTS)
        if not logits.ndim:
            raise ValueError(f"{op}: logits has no dimensions; give it at least one")
        try:
            self.axis = operator.index(axis)
        except TypeError:
            raise TypeError(f"{op}: axis={axis!r} is not accepted; give an int") from None
        (kept,) = resolve_axes(op, self.axis, logits.ndim)
        shape = logits.shape
        self.shape, self.classes = shape[:kept] + shape[kept + 1 :], shape[kept]
        self.soft = target.dtype.name in FLOATS
        if not self.soft:
            accepted_name(op, "target has dtype", target.dtype, (*INDICES, *FLOATS))
        expected = shape if self.soft else self.shape
        check_shape(op, "target", target.shape, "logits", shape, expected)
        self.counted = [self.dtype, *([target.dtype.name] if self.soft else [])]
        if weight is not None:
            check_types(find("cross_entropy_weight"), op, (logits, target, weight), ())
            self.counted.append(accepted_name(op, "weight has dtype", weight.dtype, FLOATS))
            if weight.shape != (self.classes,):
                raise ValueError(
                    f"{op}: weight has shape {weight.shape}; it has one value for each of the "
                    f"{self.classes} classes, so give it shape ({self.classes},)"
                )
            ones = (1,) * (logits.ndim - 1 - kept)
            self.along = arrays.broadcast(
                op, "weight", weight.reshape(self.classes, *ones), "logits", logits
            )

    @property
    def stride(self) -> int:
        """Bytes from one class's weight to the next."""
        return 0 if self.weight is None else int(self.weight.strides[0])

    def run(
        self,
        options: Options,
        result: str,
        upstream: Array | None,
        factor: float,
        dtype: Any,
        out: Any,
    ) -> Any:
        """Launch the kernel over the logits."""
        weight = self.weight
        smooth = not self.soft and options.label_smoothing > 0
        name = cross_entropy_name(
            soft=self.soft,
            weight=weight is not None,
            smooth=smooth,
            capped=options.softcap is not None,
            result=result,
        )
        inputs = [self.logits]
        inputs += [self.target] if self.soft else []
        inputs += [self.along] if weight is not None and (self.soft or smooth) else []
        inputs += [] if self.soft else [self.target]
        inputs += [] if upstream is None else [upstream]
        inputs += [weight] if weight is not None and not self.soft else []
        numbers = options.numbers(self.classes, self.stride, factor)
        return launch.run(name, tuple(inputs), self.axis, dtype, out, False, numbers)

    def check_classes(self, ignore_index: int) -> None:
        """Raise ValueError if a target is not a class; waits for the device."""
        found = backend.to_host(self.target)
        if found.dtype == np.uint64:
            found = np.minimum(found, np.uint64(_LARGEST))
        found = found.astype(np.int64)
        wrong = ((found < 0) | (found >= self.classes)) & (found != ignore_index)
        if wrong.any():
            row = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), found.shape))
            at = ", ".join(str(i) for i in row)
            raise ValueError(
                f"{self.op}: target[{at or '()'}] is {found[row]}, which is none of the "
                f"{self.classes} classes and not ignore_index={ignore_index}"
            )

    def divisor(self, options: Options, dtype: Any) -> Array:
        """Launch the sum of the targets' weights; return its inverse, on the device."""
        numbers = (options.ignore_index, self.stride, self.classes)
        tables = () if self.weight is None else (self.weight,)
        name = "cross_entropy_divisor" + "_weight" * bool(tables)
        return launch.run(name, (self.target, *tables), None, dtype, None, False, numbers)


def cross_entropy(
    logits: Array,
    target: Array,
    axis: Any,
    weight: Array | None,
    ignore_index: Any,
    label_smoothing: Any,
    z_loss: Any,
    softcap: Any,
    reduction: Any,
    grad: bool,
    inplace: bool,
    check: bool,
) -> Any:
    """Implement `cusoftmax.cross_entropy`."""
    op = "cross_entropy"
    options = Options.checked(op, ignore_index, label_smoothing, z_loss, softcap)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction={reduction!r} is not known; give none, mean or sum")
    rows = _Rows(op, logits, target, axis, weight)
    if check and not rows.soft:
        rows.check_classes(options.ignore_index)
    dtype = as_dtype(op, output_dtype([rows.dtype]))
    # Losses that will be summed keep the precision of the arithmetic.
    exact = as_dtype(op, compute_dtype(rows.counted, dtype.name))
    each = dtype if reduction == "none" else exact
    factor, divisor = 1.0, None
    if reduction == "mean" and rows.soft:
        count = prod(rows.shape)
        factor = 1.0 / count if count else nan
    elif reduction == "mean":
        divisor = rows.divisor(options, exact)
    if grad or inplace:
        upstream = None
        if divisor is not None:
            upstream = arrays.broadcast_to(divisor, rows.shape)
        out = (logits, arrays.empty(rows.shape, each)) if inplace else None
        result = "grad" if upstream is None else "grad_up"
        gradient, loss = rows.run(options, result, upstream, factor, (dtype, each), out)
    else:
        loss = rows.run(options, "", None, factor, each, None)
    if reduction != "none":
        name = "cross_entropy_total" + ("" if divisor is None else "_by")
        by = () if divisor is None else (divisor,)
        loss = launch.run(name, (loss, *by), None, dtype, None, False, (factor,))
    return (loss, gradient) if grad or inplace else loss


def cross_entropy_vjp(
    logits: Array,
    target: Array,
    dloss: Array,
    axis: Any,
    weight: Array | None,
    ignore_index: Any,
    label_smoothing: Any,
    z_loss: Any,
    softcap: Any,
    check: bool,
    out: Array | None,
) -> Any:
    """Implement `cusoftmax.cross_entropy_vjp`."""
    op = "cross_entropy_vjp"
    options = Options.checked(op, ignore_index, label_smoothing, z_loss, softcap)
    rows = _Rows(op, logits, target, axis, weight)
    if check and not rows.soft:
        rows.check_classes(options.ignore_index)
    dtype = None if out is not None else as_dtype(op, output_dtype([rows.dtype]))
    return rows.run(options, "vjp", dloss, 1.0, dtype, out)
