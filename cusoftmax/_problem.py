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
    check_picks,
    check_shape,
    check_target,
    check_types,
    float_name,
    may_be_in_place,
    plain_axis,
    reach,
    resolve_axes,
    view_of,
)
from cusoftmax._ops import FLOATS, INPUTS, ITEMSIZE, Operation, find, output_dtype


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
        The inputs in the operation's order, then its results. Those with one value for each row
        have strides of 0 along it; those with a value for each pick have the stride from one to the
        next.
    picks : int
        Elements that are picked of each row; 0 for an operation that picks none.
    """

    op: str
    rows: int
    n: int
    batch_shape: tuple[int, ...]
    reduce_shape: tuple[int, ...]
    operands: tuple[Operand, ...]
    picks: int = 0


@dataclass(frozen=True)
class Result:
    """An array to allocate where none was given."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """A checked call.

    Attributes
    ----------
    problem : Problem
        What to compute.
    results : tuple of Result
        What it gives.
    reaches : tuple of tuples of (int, int, bool)
        For each result, and for each input and each earlier result: `_checks.reach` of the two, for
        further apart they cannot overlap, and whether they may be the same array.
    """

    problem: Problem
    results: tuple[Result, ...]
    reaches: tuple[tuple[tuple[int, int, bool], ...], ...]


# ---------------------------------------------------------------------------- a call of the library


def signature(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    outs: tuple[Array, ...],
    keepdims: bool,
    picks: int = 0,
) -> Hashable:
    """Return a key such that calls with equal keys have equal `build` results, or both fail.

    Types are in it, so that a hit needs no `isinstance`; of the addresses only the alignment is.
    """
    if axis is not None and type(axis) is not int:
        axis = plain_axis(op, axis)
    if dtype is not None:
        dtype = as_dtype(op, dtype)
    # Flat: `op` and the length tell which array an entry is of.
    key: list[Any] = [op, axis, dtype, keepdims, picks]
    try:
        for a in inputs + outs:
            data = a.data
            key += (type(a), a.shape, a.strides, a.dtype, data.ptr & 15, data.device_id)
        return tuple(key)
    except AttributeError:  # it cannot be a CuPy array: say which one, and what to do
        check_types(find(op), op, inputs, outs)
        raise


def build(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    outs: tuple[Array, ...] = (),
    keepdims: bool = False,
    picks: int = 0,
) -> Prepared:
    """Check a call, all but the overlap of its results with the inputs, and fold it.

    `outs` is all of the results, or none. `keepdims` is for operands with one value for each row,
    `picks` for results with a value for each of so many.

    Raises
    ------
    TypeError
        For what is not a CuPy array, a dtype that is not accepted, an output that is not a float, a
        non-integer axis.
    ValueError
        For arrays that disagree in shape or device, a `dtype` that is not that of `out`, an `out`
        with elements that share memory, a repeated axis, more picks than a row has elements. An
        axis out of range is its subclass `numpy.exceptions.AxisError`.
    """
    operation = find(op)
    check_types(operation, op, inputs, outs)
    said = operation.public or op
    views = [
        view_of(said, name, array, INPUTS)
        for name, array in zip(operation.read, inputs, strict=True)
    ]
    chosen = None if dtype is None else float_name(said, "dtype=", as_dtype(said, dtype))
    first = operation.inputs[0], inputs[0]
    check_agreement(said, *first, zip(operation.read[1:], inputs[1:], strict=True))
    shape = views[0].shape
    axes = resolve_axes(said, axis, len(shape))
    if operation.picks:
        check_picks(said, picks, shape, axis)
        shapes = (shape, picked_shape(shape, axes, picks))
    else:
        shapes = (shape, reduced_shape(shape, axes, keepdims))

    def expected(operand: int) -> tuple[int, ...]:
        return shapes[not operation.along_rows(operand)]

    for i, view in enumerate(views):
        check_shape(said, operation.read[i], view.shape, *first, expected(i))
    if outs:
        check_agreement(said, *first, zip(operation.written, outs, strict=True))
    for i, name in enumerate(operation.written, len(views)):
        if outs:
            fixed = operation.fixed_dtype(i)
            view = view_of(said, name, outs[i - len(inputs)], (fixed,) if fixed else FLOATS)
            check_shape(said, name, view.shape, *first, expected(i))
            check_target(said, name, view, fixed or chosen)
        else:
            found = (
                operation.fixed_dtype(i)
                or chosen
                or output_dtype([v.dtype for v in views[: len(inputs)]])
            )
            model = views[0].strides if operation.along_rows(i) else (0,) * len(expected(i))
            view = View(expected(i), k_order(expected(i), model, ITEMSIZE[found]), found)
        views.append(view)
    along = [
        view if operation.along_rows(i) else _along(view, shape, axes, keepdims, operation.picks)
        for i, view in enumerate(views)
    ]
    problem = fold(operation, along, axes, picks)
    results = tuple(
        Result(as_dtype(said, v.dtype), v.shape, v.strides) for v in views[len(inputs) :]
    )
    reaches = tuple(
        tuple(
            (*reach(views[j], views[len(inputs) + i]), may_be_in_place(operation, i, j))
            for j in range(len(inputs) + i)
        )
        for i in range(len(results))
    )
    return Prepared(problem, results, reaches)


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """Return the shape of what has one value for each row."""
    if keepdims:
        return tuple(1 if d in axes else size for d, size in enumerate(shape))
    return tuple(size for d, size in enumerate(shape) if d not in axes)


def picked_shape(shape: tuple[int, ...], axes: tuple[int, ...], picks: int) -> tuple[int, ...]:
    """Return the shape of what has a value for each of `picks` elements of a row."""
    return tuple(picks if d in axes else size for d, size in enumerate(shape))


def _along(
    view: View, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool, picks: bool = False
) -> View:
    """Return an array with one value for each row as one that repeats it along the row.

    One with a value for each pick goes on as it begins; no more than the picks are ever touched.
    """
    if picks:
        return View(shape, view.strides, view.dtype, view.pointer)
    if view.shape == shape:
        return view
    kept = iter(s for d, s in enumerate(view.strides) if not (keepdims and d in axes))
    strides = tuple(0 if d in axes else next(kept) for d in range(len(shape)))
    return View(shape, strides, view.dtype, view.pointer)


def problem_for(
    op: str,
    shape: Sequence[int],
    dtype: Any = "float32",
    axis: Axis = -1,
    out_dtype: Any = None,
    order: str = "C",
    picks: int | None = None,
) -> Problem:
    """Return the problem of aligned arrays that need not exist, contiguous in `order` (C or F).

    `dtype` is that of every input, or a tuple with one for each. `picks` is the k of an operation
    that picks; by default 8, or all elements of rows that have fewer.
    """
    operation = find(op)
    op = operation.public or op
    shape = tuple(operator.index(size) for size in shape)
    if any(size < 0 for size in shape):
        raise ValueError(f"{op}: shape {shape} has a negative size")
    if order not in ("C", "F"):
        raise ValueError(f"{op}: order={order!r} is not known; give 'C' or 'F'")
    given = dtype if isinstance(dtype, tuple) else (dtype,) * len(operation.read)
    if len(given) != len(operation.read):
        raise ValueError(f"{op}: {len(given)} dtypes for the inputs {', '.join(operation.read)}")
    names = [accepted_name(op, "dtype is", as_dtype(op, each), INPUTS) for each in given]
    if out_dtype is None:
        out_name = output_dtype(names)
    else:
        out_name = float_name(op, "out_dtype=", as_dtype(op, out_dtype))
    axes = resolve_axes(op, axis, len(shape))
    results = range(len(names), len(names) + len(operation.written))
    names += [operation.fixed_dtype(i) or out_name for i in results]
    k = 0
    if operation.picks:
        k = max(1, min(8, *(shape[d] for d in axes))) if picks is None else picks
        check_picks(op, k, shape, axis)
    # Strides that only rank the dimensions; k_order makes true ones of them.
    rank = tuple(range(1, len(shape) + 1))
    ranks = rank if order == "F" else rank[::-1]
    views = []
    for i, name in enumerate(names):
        along = operation.along_rows(i)
        has = shape
        if not along:
            has = picked_shape(shape, axes, k) if k else reduced_shape(shape, axes, True)
        elif operation.repeated and i < len(operation.inputs):
            has = (*shape[:-2], 1, *shape[-1:])
        strides = list(k_order(has, ranks, ITEMSIZE[name]))
        if along and has[-2:-1] != shape[-2:-1]:
            strides[-2] = 0
        view = View(shape if along else has, tuple(strides), name)
        views.append(view if along else _along(view, shape, axes, True, bool(k)))
    return fold(operation, views, axes, k)


# ------------------------------------------------------------------------------------------ folding


def fold(
    operation: Operation, views: Sequence[View], axes: tuple[int, ...], picks: int = 0
) -> Problem:
    """Fold an operation's arrays of one shape into rows along `axes` (ascending, not negative).

    Dimensions are put in the memory order of the first result (the first input, where no result has
    elements), whichever way the array lies: rows are independent, and within a row the order of
    summation follows the layout.
    """
    model = views[len(operation.read)] if operation.outputs else views[0]
    shape = model.shape
    reduce = [d for d in axes if shape[d] != 1]
    batch = [d for d in range(len(shape)) if d not in axes and shape[d] != 1]
    for dims in (reduce,) if operation.ordered else (batch, reduce):
        dims.sort(key=lambda d: -abs(model.strides[d]))
    rows, n = prod(shape[d] for d in batch), prod(shape[d] for d in reduce)
    # Where there is nowhere to go, strides mean nothing.
    batch_shape, batch_strides = _merge(batch, views) if rows else _contiguous(0, views)
    reduce_shape, reduce_strides = _merge(reduce, views) if n else _contiguous(0, views)
    operands = tuple(
        Operand(view.dtype, b, r, alignment(view.pointer))
        for view, b, r in zip(views, batch_strides, reduce_strides, strict=True)
    )
    return Problem(operation.name, rows, n, batch_shape, reduce_shape, operands, picks)


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
