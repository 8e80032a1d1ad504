"""From the arrays of a call to a `Problem`: what is to be computed, with nothing left to check.

Checking and folding run once for each kind of call. `signature` is the cheap key by which `_launch`
finds what `build` made before; only whether `out` overlaps an input depends on more than that key,
and is looked at whenever `out` is given.

Everything but `signature` and `build` is plain Python on shapes, strides and dtype names.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cusoftmax._checks import (
    Array,
    Axis,
    View,
    accepted_name,
    as_dtype,
    check_agreement,
    check_types,
    float_name,
    overlaps_itself,
    plain_axis,
    reach,
    resolve_axes,
    view_of,
)
from cusoftmax._ops import FLOATS, INPUTS, ITEMSIZE, find, output_dtype


@dataclass(frozen=True)
class Operand:
    """One array of a problem, by the folded dimensions of the problem.

    Attributes
    ----------
    dtype : str
        NumPy name of the dtype.
    batch_strides, reduce_strides : tuple of int
        Bytes from one index to the next, one for each entry of the problem's shapes.
    alignment : int
        Largest power of two up to 16 that divides the address of the first element.
    """

    dtype: str
    batch_strides: tuple[int, ...]
    reduce_strides: tuple[int, ...]
    alignment: int


@dataclass(frozen=True)
class Problem:
    """`rows` independent rows of `n` elements, and where the elements lie.

    Attributes
    ----------
    op : str
        Name of the kernel's operation.
    rows, n : int
        Number of rows and length of a row.
    batch_shape, reduce_shape : tuple of int
        The same as dimensions: those of size 1 dropped, neighbours merged wherever every operand
        lets them be, and never fewer than one.
    operands : tuple of Operand
        The inputs in the operation's order, then the output.
    """

    op: str
    rows: int
    n: int
    batch_shape: tuple[int, ...]
    reduce_shape: tuple[int, ...]
    operands: tuple[Operand, ...]


@dataclass(frozen=True)
class Prepared:
    """A checked call.

    Attributes
    ----------
    problem : Problem
        What to compute.
    out_dtype, out_shape, out_strides
        Of the output, to allocate where none was given.
    reaches : tuple of (int, int)
        For each input `_checks.reach` of it and the output: further apart they cannot overlap.
    """

    problem: Problem
    out_dtype: np.dtype[Any]
    out_shape: tuple[int, ...]
    out_strides: tuple[int, ...]
    reaches: tuple[tuple[int, int], ...]


# ---------------------------------------------------------------------------- a call of the library


def signature(
    op: str, inputs: tuple[Array, ...], axis: Axis, dtype: Any, out: Array | None
) -> Hashable:
    """Return a key such that calls with equal keys have equal `build` results, or both fail.

    Types are in it, so that a hit needs no `isinstance`; of the addresses only the alignment is.
    """
    if axis is not None and type(axis) is not int:
        axis = plain_axis(op, axis)
    if dtype is not None:
        dtype = as_dtype(op, dtype)
    # Flat: `op` and the length tell which array an entry is of.
    key: list[Any] = [op, axis, dtype]
    try:
        for a in inputs if out is None else (*inputs, out):
            data = a.data
            key += (type(a), a.shape, a.strides, a.dtype, data.ptr & 15, data.device_id)
        return tuple(key)
    except AttributeError:  # it cannot be a CuPy array: say which one, and what to do
        check_types(find(op), op, inputs, out)
        raise


def build(
    op: str, inputs: tuple[Array, ...], axis: Axis, dtype: Any, out: Array | None
) -> Prepared:
    """Check a call, all but the overlap of `out` with the inputs, and fold it.

    Raises
    ------
    TypeError
        For what is not a CuPy array, a dtype that is not accepted, an output that is not a float, a
        non-integer axis.
    ValueError
        For arrays that disagree in shape or device, a `dtype` that is not that of `out`, an `out`
        with elements that share memory, a repeated axis. An axis out of range is its subclass
        `numpy.exceptions.AxisError`.
    """
    operation = find(op)
    check_types(operation, op, inputs, out)
    views = []
    for name, array in zip(operation.inputs, inputs, strict=True):
        views.append(view_of(op, name, array, INPUTS))
    first = operation.inputs[0]
    check_agreement(op, first, inputs[0], zip(operation.inputs[1:], inputs[1:], strict=True))
    chosen = None if dtype is None else float_name(op, "dtype=", as_dtype(op, dtype))
    if out is not None:
        target = view_of(op, "out", out, FLOATS)
        check_agreement(op, first, inputs[0], [("out", out)])
        if chosen is not None and chosen != target.dtype:
            raise ValueError(
                f"{op}: dtype={chosen} contradicts out, which is {target.dtype}; leave dtype out "
                f"or give an out of that dtype"
            )
        if overlaps_itself(target):
            raise ValueError(
                f"{op}: elements of out share memory (shape {target.shape}, strides "
                f"{target.strides}); give an array with a place for each element"
            )
    else:
        name = chosen or output_dtype([v.dtype for v in views])
        shape, strides = views[0].shape, views[0].strides
        target = View(shape, k_order(shape, strides, ITEMSIZE[name]), name)
    problem = fold(operation.name, (*views, target), resolve_axes(op, axis, len(target.shape)))
    return Prepared(
        problem,
        as_dtype(op, target.dtype),
        target.shape,
        target.strides,
        tuple(reach(view, target) for view in views),
    )


def problem_for(
    op: str,
    shape: Sequence[int],
    dtype: Any = "float32",
    axis: Axis = -1,
    out_dtype: Any = None,
    order: str = "C",
) -> Problem:
    """Return the problem of aligned arrays that need not exist, contiguous in `order` (C or F).

    `dtype` is that of every input, or a tuple with one for each.
    """
    operation = find(op)
    shape = tuple(operator.index(size) for size in shape)
    if any(size < 0 for size in shape):
        raise ValueError(f"{op}: shape {shape} has a negative size")
    if order not in ("C", "F"):
        raise ValueError(f"{op}: order={order!r} is not known; give 'C' or 'F'")
    given = dtype if isinstance(dtype, tuple) else (dtype,) * len(operation.inputs)
    if len(given) != len(operation.inputs):
        raise ValueError(f"{op}: {len(given)} dtypes for the inputs {', '.join(operation.inputs)}")
    names = [accepted_name(op, "dtype is", as_dtype(op, each), INPUTS) for each in given]
    if out_dtype is None:
        names.append(output_dtype(names))
    else:
        names.append(float_name(op, "out_dtype=", as_dtype(op, out_dtype)))
    # Strides that only rank the dimensions; k_order makes true ones of them.
    rank = tuple(range(1, len(shape) + 1))
    views = [
        View(shape, k_order(shape, rank if order == "F" else rank[::-1], ITEMSIZE[name]), name)
        for name in names
    ]
    return fold(operation.name, views, resolve_axes(op, axis, len(shape)))


# ------------------------------------------------------------------------------------------ folding


def fold(op: str, views: Sequence[View], axes: tuple[int, ...]) -> Problem:
    """Fold arrays of one shape, the output last, into rows along `axes` (ascending, not negative).

    Dimensions are put in the output's memory order, whichever way the array lies: rows are
    independent, and within a row the order of summation follows the layout.
    """
    shape = views[-1].shape
    reduce = [d for d in axes if shape[d] != 1]
    batch = [d for d in range(len(shape)) if d not in axes and shape[d] != 1]
    for dims in (batch, reduce):
        dims.sort(key=lambda d: -abs(views[-1].strides[d]))
    rows, n = prod(shape[d] for d in batch), prod(shape[d] for d in reduce)
    if rows == 0 or n == 0:  # nowhere to go: strides mean nothing
        batch_shape, batch_strides = _contiguous(rows, views)
        reduce_shape, reduce_strides = _contiguous(n, views)
    else:
        batch_shape, batch_strides = _merge(batch, views)
        reduce_shape, reduce_strides = _merge(reduce, views)
    operands = tuple(
        Operand(view.dtype, b, r, alignment(view.pointer))
        for view, b, r in zip(views, batch_strides, reduce_strides, strict=True)
    )
    return Problem(op, rows, n, batch_shape, reduce_shape, operands)


def _merge(dims: list[int], views: Sequence[View]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Join neighbours that every view steps through evenly; return sizes, and strides per view."""
    if not dims:
        return _contiguous(1, views)
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in views]
    for d in dims:
        size = views[0].shape[d]
        steps = [view.strides[d] for view in views]
        even = [s[-1] == size * step for s, step in zip(strides, steps, strict=True) if s]
        if even and all(even):
            sizes[-1] *= size
            for s, step in zip(strides, steps, strict=True):
                s[-1] = step
        else:
            sizes.append(size)
            for s, step in zip(strides, steps, strict=True):
                s.append(step)
    return tuple(sizes), [tuple(s) for s in strides]


def _contiguous(size: int, views: Sequence[View]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    return (size,), [(ITEMSIZE[view.dtype],) for view in views]


def alignment(pointer: int) -> int:
    """Largest power of two up to 16 that divides an address."""
    return min(pointer & -pointer, 16) or 16


def k_order(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides of a dense array in the memory order of another, as `cupy.empty_like` gives it.

    Except for an array that repeats elements by strides of 0, where that order would scatter the
    rows of the result: C order then.
    """
    ranks = list(range(len(shape)))
    if not any(s == 0 and n > 1 for n, s in zip(shape, strides, strict=True)):
        ranks.sort(key=lambda d: -abs(strides[d]))
    dense = [0] * len(shape)
    step = itemsize
    for d in reversed(ranks):
        dense[d] = step
        step *= max(shape[d], 1)
    return tuple(dense)
