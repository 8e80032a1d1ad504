"""Turns the options of cross_entropy into launches of the kernels in `operations.table.PARTS`.

One launch over the logits gives every row's loss and gradient. A sum or mean takes a second launch
over the losses. The mean is divided by the sum of the targets' weights, which the gradient needs
when it is written. For integer targets an earlier launch, over the targets only, computes it.
Intermediate results stay on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, prod
from typing import Any

import numpy as np

from cusoftmax.operations.dtypes import FLOATS, INDICES, INPUTS, compute_dtype, output_dtype
from cusoftmax.operations.options import cross_entropy_name, in_place, piece_of
from cusoftmax.planning.checks import (
    Array,
    NotCuPy,
    ResultDtypes,
    accepted_name,
    accepted_number,
    as_dtype,
    check_device,
    check_shape,
    described,
    is_array,
    plain_bool,
    plain_choice,
    plain_count,
    resolve_axes,
)
from cusoftmax.planning.pieces import within
from cusoftmax.runtime import arrays, backend, launch
from cusoftmax.runtime.launch import accepting

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
        op: str,
        arithmetic: str,
        ignore_index: Any,
        label_smoothing: Any,
        z_loss: Any,
        softcap: Any,
    ) -> Options:
        """Return the options, or raise an error that says which is wrong."""
        ignored = plain_count(op, "ignore_index", ignore_index)
        if not -_LARGEST - 1 <= ignored <= _LARGEST:
            raise ValueError(f"{op}: ignore_index={described(ignored)} does not fit in an int64")
        return Options(
            ignored,
            accepted_number(op, "label_smoothing", label_smoothing, arithmetic),
            accepted_number(op, "z_loss", z_loss, arithmetic),
            None if softcap is None else accepted_number(op, "softcap", softcap, arithmetic),
        )

    def numbers(self, classes: int, stride: int, factor: float) -> tuple[float, ...]:
        """Return the kernel's options, as `options.CROSS_ENTROPY_OPTIONS` names them."""
        cap = 1.0 if self.softcap is None else self.softcap
        smoothing = self.label_smoothing
        share = smoothing / max(classes, 1)
        return (
            *(self.ignore_index, stride),
            *(1.0 - smoothing, smoothing, share, self.z_loss, cap, 4.0 / cap, factor),
        )


class _Rows:
    """Checked logits and targets, and what follows from them."""

    def __init__(
        self,
        op: str,
        logits: Array,
        target: Array,
        axis: Any,
        weight: Array | None,
        piece: tuple[int, int] | None = None,
    ) -> None:
        """Take rows or, with the offset and the length of rows in `piece`, a piece of them."""
        given = {"logits": logits, "target": target}
        if weight is not None:
            given["weight"] = weight
        if not all(map(is_array, given.values())):
            raise NotCuPy(op)
        for name, array in given.items():
            check_device(op, name, array, "logits", logits)
        self.op, self.logits, self.target, self.weight = op, logits, target, weight
        self.dtype = accepted_name(op, "logits has dtype", logits.dtype, INPUTS)
        if not logits.ndim:
            raise ValueError(f"{op}: logits has no dimensions; give it at least one")
        (kept,) = resolve_axes(op, axis, logits.ndim, several=False)
        self.axis = kept
        shape = logits.shape
        self.shape = shape[:kept] + shape[kept + 1 :]
        first, classes = (0, int(shape[kept])) if piece is None else piece
        self.classes = classes
        self.soft = target.dtype.name in FLOATS
        if not self.soft:
            accepted_name(op, "target has dtype", target.dtype, (*INDICES, *FLOATS))
        expected = shape if self.soft else self.shape
        check_shape(op, "target", target.shape, "logits", shape, expected)
        self.counted = [self.dtype, *([target.dtype.name] if self.soft else [])]
        if weight is not None:
            self.counted.append(accepted_name(op, "weight has dtype", weight.dtype, FLOATS))
            if weight.shape != (self.classes,):
                raise ValueError(
                    f"{op}: weight has shape {weight.shape}; it has one value for each of the "
                    f"{self.classes} classes, so give it shape ({self.classes},)"
                )
            ones = (1,) * (logits.ndim - 1 - kept)
            mine = weight[first : first + shape[kept]]
            self.along = arrays.broadcast(
                op, "weight", mine.reshape(shape[kept], *ones), "logits", logits
            )

    @property
    def stride(self) -> int:
        """Bytes from one class's weight to the next."""
        return 0 if self.weight is None else int(self.weight.strides[0])

    def run(
        self,
        options: Options,
        result: str,
        upstream: tuple[Array, ...],
        factor: float,
        dtype: Any,
        out: Any,
        steps: list[launch.Step] | None = None,
        inplace: bool = False,
    ) -> Any:
        """Launch the kernel over the logits, or add it to `steps`."""
        name, inputs, numbers = self.call(options, result, upstream, factor)
        name = in_place(name) if inplace else name
        return launch.run(name, inputs, self.axis, dtype, out, False, numbers, steps)

    def call(
        self, options: Options, result: str, upstream: tuple[Array, ...], factor: float
    ) -> tuple[str, tuple[Array, ...], tuple[float, ...]]:
        """Return the variant of the operation, its inputs and its numbers."""
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
        inputs += upstream
        inputs += [weight] if weight is not None and not self.soft else []
        return name, tuple(inputs), options.numbers(self.classes, self.stride, factor)

    def check_classes(self, ignore_index: int) -> None:
        """Raise ValueError if a target is not a class; waits for the device."""
        found = backend.to_host(self.target)
        wrong = ((found < 0) | (found >= self.classes)) & (found != ignore_index)
        if wrong.any():
            row = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), found.shape))
            at = ", ".join(str(i) for i in row)
            raise ValueError(
                f"{self.op}: target[{at or '()'}] is {found[row]}, which is none of the "
                f"{self.classes} classes and not ignore_index={ignore_index}"
            )

    def divisor(self, options: Options, dtype: Any, steps: list[launch.Step]) -> Array:
        """Add the sum of the targets' weights to `steps`; return its inverse, on the device."""
        numbers = (options.ignore_index, self.stride, self.classes)
        tables = () if self.weight is None else (self.weight,)
        name = "cross_entropy_divisor" + "_weight" * bool(tables)
        return launch.run(name, (self.target, *tables), None, dtype, None, False, numbers, steps)


@accepting("logits", "target", optional=("weight",), in_place="inplace")
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
    grad: Any,
    inplace: Any,
    check: Any,
) -> Any:
    """Implement `cusoftmax.cross_entropy`."""
    op = "cross_entropy"
    plain_choice(op, "reduction", reduction, REDUCTIONS)
    inplace = plain_bool(op, "inplace", inplace)
    grad = plain_bool(op, "grad", grad) or inplace
    check = plain_bool(op, "check", check)
    rows = _Rows(op, logits, target, axis, weight)
    dtype = as_dtype(op, output_dtype([rows.dtype]))
    # Losses that will be summed keep the precision of the arithmetic.
    exact = as_dtype(op, compute_dtype(rows.counted, dtype.name))
    options = Options.checked(op, exact.name, ignore_index, label_smoothing, z_loss, softcap)
    each = dtype if reduction == "none" else exact
    steps: list[launch.Step] = []
    factor = 1.0
    divisor: tuple[Array, ...] = ()
    if reduction == "mean" and rows.soft:
        count = prod(rows.shape)
        factor = 1.0 / count if count else nan
    elif reduction == "mean":
        divisor = (rows.divisor(options, exact, steps),)
    if grad:
        upstream = tuple(arrays.broadcast_to(d, rows.shape) for d in divisor)
        dtypes = ResultDtypes((dtype, each))
        out = (logits, arrays.empty(rows.shape, each)) if inplace else None
        result = "grad_up" if upstream else "grad"
        gradient, loss = rows.run(options, result, upstream, factor, dtypes, out, steps, inplace)
    else:
        loss = rows.run(options, "", (), factor, each, None, steps)
    if reduction != "none":
        name = "cross_entropy_total" + "_by" * bool(divisor)
        loss = launch.run(name, (loss, *divisor), None, dtype, None, False, (factor,), steps)
    if check and not rows.soft:
        rows.check_classes(options.ignore_index)
    launch.run_all(steps)
    return (loss, gradient) if grad else loss


@accepting("logits", "target", "dloss", optional=("weight",), results=("out",))
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
    check: Any,
    out: Array | None,
) -> Any:
    """Implement `cusoftmax.cross_entropy_vjp`."""
    op = "cross_entropy_vjp"
    check = plain_bool(op, "check", check)
    rows = _Rows(op, logits, target, axis, weight)
    if not is_array(dloss):
        raise NotCuPy(op)
    arithmetic = compute_dtype((*rows.counted, dloss.dtype.name), rows.dtype)
    options = Options.checked(op, arithmetic, ignore_index, label_smoothing, z_loss, softcap)
    dtype = None if out is not None else as_dtype(op, output_dtype([rows.dtype]))
    steps: list[launch.Step] = []
    gradient = rows.run(options, "vjp", (dloss,), 1.0, dtype, out, steps)
    if check and not rows.soft:
        rows.check_classes(options.ignore_index)
    launch.run_all(steps)
    return gradient


def of_piece(
    caller: str,
    op: str,
    logits: Array,
    target: Array,
    upstream: tuple[Array, ...],
    axis: Any,
    weight: Array | None,
    offset: Any,
    length: Any,
    options: tuple[tuple[str, Any], ...],
) -> tuple[str, tuple[Array, ...], tuple[float, ...], Any]:
    """Return the operation of a piece of rows, at an offset and of a length, and what it takes.

    That is its inputs, its numbers, and the dtypes of its results. `caller` is partial or apply.
    """
    chosen = dict(options)
    grad = plain_bool(caller, "grad", chosen.pop("grad"))
    size = 0
    if logits.ndim:
        (along,) = resolve_axes(caller, axis, logits.ndim, several=False)
        size = logits.shape[along]
    rows = _Rows(caller, logits, target, axis, weight, within(caller, offset, size, length))
    dtype = as_dtype(caller, output_dtype([rows.dtype]))
    arithmetic = compute_dtype((*rows.counted, *(d.dtype.name for d in upstream)), dtype.name)
    checked = Options.checked(caller, arithmetic, **chosen)
    result = "vjp" if op == "cross_entropy_vjp" else "grad" if grad else ""
    name, inputs, numbers = rows.call(checked, result, upstream, 1.0)
    return piece_of(name, caller), inputs, numbers, dtype
