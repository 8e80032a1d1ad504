"""From the arrays of a call to a `Problem`: what is to be computed, with nothing left to check.

Checking and folding run once for each kind of call. `signature` is the cheap key by which `_launch`
finds what `build` made before; only whether `out` overlaps an input depends on more than that key,
and is looked at whenever `out` is given.

Everything but `signature` and `build` is plain Python on shapes, strides and dtype names.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
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
    check_choice,
    check_offsets,
    check_same_dtype,
    check_selection,
    check_shape,
    check_target,
    check_types,
    float_name,
    may_be_in_place,
    plain_axis,
    plain_bool,
    reach,
    resolve_axes,
    view_of,
)
from cusoftmax._operation import (
    FLOATS,
    INDICES,
    INPUTS,
    ITEMSIZE,
    MASK,
    OFFSETS,
    Operation,
    output_dtype,
)
from cusoftmax._ops import find

SUPPOSED_LENGTH = 64  # of a segment, where none is known


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
        have strides of 0 along it, and tables strides of 0 alone. Offsets have their own as the
        only one of `reduce_strides`; values of selected elements that from one to the next.
    options : tuple of numbers
        Those of the operation's options that the plan depends on: how many elements are selected.
    segments : int
        Where rows are of unequal length, how many of them `n` elements are divided into; there are
        then `rows` such columns.
    """

    op: str
    rows: int
    n: int
    batch_shape: tuple[int, ...]
    reduce_shape: tuple[int, ...]
    operands: tuple[Operand, ...]
    options: tuple[float, ...] = ()
    segments: int = 0


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
    options: tuple[float, ...] = (),
) -> Hashable:
    """Return a key such that calls with equal keys have equal `build` results, or both fail.

    Types are in it, so that a hit needs no `isinstance`; of the addresses only the alignment is.
    """
    if axis is not None and type(axis) is not int:
        axis = plain_axis(op, axis)
    if dtype is not None and type(dtype) is not tuple:
        dtype = as_dtype(op, dtype)
    if keepdims is not False and keepdims is not True:
        keepdims = plain_bool(op, "keepdims", keepdims)
    # Flat: `op` and the length tell which array an entry is of.
    key: list[Any] = [op, axis, dtype, keepdims, options]
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
    options: tuple[float, ...] = (),
) -> Prepared:
    """Check a call, all but the overlap of its results with the inputs, and fold it.

    `outs` is all of the results, or none. `keepdims` is for operands with one value for each row.
    `dtype` is that of every result, or a tuple with one for each.

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
    check_types(operation, op, inputs, outs)
    said = operation.public or op
    views = [
        view_of(said, name, array, _accepted(operation, name))
        for name, array in zip(operation.read, inputs, strict=True)
    ]
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * len(operation.written)
    chosen = [
        None if each is None else float_name(said, "dtype=", as_dtype(said, each))
        for each in dtypes
    ]
    first = operation.inputs[0], inputs[0]
    check_agreement(said, *first, zip(operation.read[1:], inputs[1:], strict=True))
    shape = views[0].shape
    segments = check_offsets(said, views[-1].shape, shape) if operation.segmented else 0
    axes = resolve_axes(said, axis, len(shape))
    shapes = (shape, reduced_shape(shape, axes, keepdims))
    if operation.selects_many:
        check_selection(said, options[0], shape, axis)
        shapes = (shape, selected_shape(shape, axes, options))
    elif operation.selects:
        check_choice(said, shape, axes)

    def expected(operand: int) -> tuple[int, ...]:
        return shapes[not operation.along_rows(operand)]

    for i, view in enumerate(views[: operation.valued - len(operation.tables)]):
        check_shape(said, operation.read[i], view.shape, *first, expected(i))
    if outs:
        check_agreement(said, *first, zip(operation.written, outs, strict=True))
    for i, name in enumerate(operation.written, len(views)):
        fixed = operation.fixed_dtype(i)
        wanted = fixed or chosen[i - len(inputs)]
        if outs:
            view = view_of(said, name, outs[i - len(inputs)], (fixed,) if fixed else FLOATS)
            check_shape(said, name, view.shape, *first, expected(i))
            check_target(said, name, view, wanted)
        else:
            found = wanted or output_dtype(
                [
                    v.dtype
                    for k, v in enumerate(views[: len(operation.inputs)])
                    if operation.decides(k)
                ]
            )
            model = views[0].strides if operation.along_rows(i) else (0,) * len(expected(i))
            view = View(expected(i), k_order(expected(i), model, ITEMSIZE[found]), found)
        views.append(view)
    check_same_dtype(said, operation, views[len(inputs) :])
    along = [
        View(shape, (0,) * len(shape), view.dtype, view.pointer)  # they move with no dimension
        if i in operation.table_operands or (operation.segmented and i == operation.valued)
        else _along(view, shape, axes, keepdims, operation.selects_many)
        for i, view in enumerate(views)
    ]
    problem = fold(operation, along, axes, options)
    if operation.segmented:
        problem = _divided(problem, segments, operation.valued, views[operation.valued].strides)
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


def _accepted(operation: Operation, name: str) -> tuple[str, ...]:
    """Return the dtypes that an input may have."""
    if operation.segmented and name == operation.read[operation.valued]:
        return OFFSETS
    if name == MASK:
        return ("bool",)
    return INDICES if name in operation.indices else INPUTS


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """Return the shape of what has one value for each row."""
    if keepdims:
        return tuple(1 if d in axes else size for d, size in enumerate(shape))
    return tuple(size for d, size in enumerate(shape) if d not in axes)


def selected_shape(
    shape: tuple[int, ...], axes: tuple[int, ...], options: tuple[float, ...]
) -> tuple[int, ...]:
    """Return the shape of what has a value for each selected element of a row."""
    return tuple(int(options[0]) if d in axes else size for d, size in enumerate(shape))


def _along(
    view: View, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool, selects: bool = False
) -> View:
    """Return an array with one value for each row as one that repeats it along the row.

    One with a value for each selected element goes on as it begins: no more of it is ever touched.
    """
    if view.shape == shape:
        return view
    if selects:
        return View(shape, view.strides, view.dtype, view.pointer)
    kept = iter(s for d, s in enumerate(view.strides) if not (keepdims and d in axes))
    strides = tuple(0 if d in axes else next(kept) for d in range(len(shape)))
    return View(shape, strides, view.dtype, view.pointer)


def _divided(problem: Problem, segments: int, offsets: int, strides: tuple[int, ...]) -> Problem:
    """Return the problem with rows of unequal length, which the operand `offsets` divides."""
    operands = list(problem.operands)
    operands[offsets] = replace(operands[offsets], reduce_strides=strides)
    return replace(problem, operands=tuple(operands), segments=segments)


def problem_for(
    op: str,
    shape: Sequence[int],
    dtype: Any = "float32",
    axis: Axis = -1,
    out_dtype: Any = None,
    order: str = "C",
    k: int | None = None,
) -> Problem:
    """Return the problem of aligned arrays that need not exist, contiguous in `order` (C or F).

    `dtype` is that of every input, or a tuple with one for each. Segments, of which a shape says
    nothing, are supposed to be of `SUPPOSED_LENGTH` elements. `k` is that of an operation that
    selects elements; by default 8, or all of rows that have fewer.
    """
    operation = find(op)
    op = operation.public or op
    options: tuple[float, ...] = ()
    shape = tuple(operator.index(size) for size in shape)
    if any(size < 0 for size in shape):
        raise ValueError(f"{op}: shape {shape} has a negative size")
    if order not in ("C", "F"):
        raise ValueError(f"{op}: order={order!r} is not known; give 'C' or 'F'")
    given = dtype if isinstance(dtype, tuple) else (dtype,) * operation.valued
    given += ("int64",) * (operation.segmented and len(given) == operation.valued)
    if len(given) != len(operation.read):
        raise ValueError(f"{op}: {len(given)} dtypes for the inputs {', '.join(operation.read)}")
    names = [accepted_name(op, "dtype is", as_dtype(op, each), INPUTS) for each in given]
    for i, name in enumerate(operation.read):
        if not isinstance(dtype, tuple) and (name == MASK or name in operation.indices):
            names[i] = "bool" if name == MASK else "int64"
    if out_dtype is None:
        elements = enumerate(names[: len(operation.inputs)])
        out_name = output_dtype([name for i, name in elements if operation.decides(i)])
    else:
        out_name = float_name(op, "out_dtype=", as_dtype(op, out_dtype))
    axes = (0,) if operation.segmented else resolve_axes(op, axis, len(shape))
    if operation.selects and not operation.selects_many:
        check_choice(op, shape, axes)
        options = (1,)
    elif operation.selects:
        k = max(1, min(8, *(shape[d] for d in axes))) if k is None else k
        check_selection(op, k, shape, axis)
        options = (k,)
    results = range(len(names), len(names) + len(operation.written))
    names += [operation.fixed_dtype(i) or out_name for i in results]
    # Strides that only rank the dimensions; k_order makes true ones of them.
    rank = tuple(range(1, len(shape) + 1))
    ranks = rank if order == "F" else rank[::-1]
    views = []
    for i, name in enumerate(names):
        along = operation.along_rows(i)
        has = shape if along else reduced_shape(shape, axes, True)
        if operation.selects_many and not along:
            has = selected_shape(shape, axes, options)
        if operation.repeated and i < len(operation.inputs):
            has = (*shape[:-2], 1, *shape[-1:])
        strides = list(k_order(has, ranks, ITEMSIZE[name]))
        if has[-2:-1] != shape[-2:-1] and along:
            strides[-2] = 0
        view = View(shape if along else has, tuple(strides), name)
        views.append(view if along else _along(view, shape, axes, True, operation.selects_many))
    for i in operation.table_operands:
        views[i] = View(shape, (0,) * len(shape), views[i].dtype)
    problem = fold(operation, views, axes, options)
    if operation.segmented:
        segments = -(-shape[0] // SUPPOSED_LENGTH)
        return _divided(problem, segments, operation.valued, (ITEMSIZE[names[operation.valued]],))
    return problem


# ------------------------------------------------------------------------------------------ folding


def fold(
    operation: Operation,
    views: Sequence[View],
    axes: tuple[int, ...],
    options: tuple[float, ...] = (),
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
    return Problem(operation.name, rows, n, batch_shape, reduce_shape, operands, options)


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
