"""From the arrays of a call, or from a shape alone, to a `Problem`.

Checking and folding run once for each kind of call: the launcher keeps what came of it. Arrays are
read once, into views (`checks.views_of`); from there on everything is plain Python on shapes,
strides and dtype names.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cusoftmax.operations.dtypes import INPUTS, ITEMSIZE, output_dtype
from cusoftmax.operations.operation import MASK
from cusoftmax.operations.table import find
from cusoftmax.planning.checks import (
    Array,
    Axis,
    accepted_name,
    as_dtype,
    check_choice,
    check_offsets,
    check_same_dtype,
    check_selection,
    check_shape,
    float_name,
    resolve_axes,
    views_of,
)
from cusoftmax.planning.overlap import check_target, may_be_in_place, reach
from cusoftmax.planning.problem import Prepared, Problem, Result, View, fold, k_order

SUPPOSED_LENGTH = 64  # of a segment, where none is known


def prepare(
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
    public = operation.public or op
    views, given = views_of(operation, public, inputs, outs)
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * len(operation.written)
    chosen = [
        None if each is None else float_name(public, "dtype=", as_dtype(public, each))
        for each in dtypes
    ]
    first = operation.inputs[0]
    shape = views[0].shape
    segments = check_offsets(public, views[-1].shape, shape) if operation.segmented else 0
    axes = resolve_axes(public, axis, len(shape))
    shapes = (shape, reduced_shape(shape, axes, keepdims))
    if operation.selects_many:
        check_selection(public, options[0], shape, axis)
        shapes = (shape, selected_shape(shape, axes, options))
    elif operation.selects:
        check_choice(public, shape, axes)

    def expected(operand: int) -> tuple[int, ...]:
        return shapes[not operation.along_rows(operand)]

    for i, view in enumerate(views[: operation.value_inputs - len(operation.tables)]):
        check_shape(public, operation.read[i], view.shape, first, shape, expected(i))
    for i, name in enumerate(operation.written, len(views)):
        fixed = operation.fixed_dtype(i)
        wanted = fixed or chosen[i - len(inputs)]
        if given:
            view = given[i - len(inputs)]
            check_shape(public, name, view.shape, first, shape, expected(i))
            check_target(public, name, view, wanted)
        else:
            found = wanted or output_dtype(
                [
                    v.dtype
                    for k, v in enumerate(views[: len(operation.inputs)])
                    if operation.affects_output_dtype(k)
                ]
            )
            model = views[0].strides if operation.along_rows(i) else (0,) * len(expected(i))
            view = View(expected(i), k_order(expected(i), model, ITEMSIZE[found]), found)
        views.append(view)
    check_same_dtype(public, operation, views[len(inputs) :])
    along = [
        View(shape, (0,) * len(shape), view.dtype, view.pointer)  # they move with no dimension
        if i in operation.table_operands or (operation.segmented and i == operation.value_inputs)
        else _along(view, shape, axes, keepdims, operation.selects_many)
        for i, view in enumerate(views)
    ]
    problem = fold(operation, along, axes, options)
    if operation.segmented:
        problem = _divided(
            problem, segments, operation.value_inputs, views[operation.value_inputs].strides
        )
    results = tuple(
        Result(as_dtype(public, v.dtype), v.shape, v.strides) for v in views[len(inputs) :]
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
    given = dtype if isinstance(dtype, tuple) else (dtype,) * operation.value_inputs
    given += ("int64",) * (operation.segmented and len(given) == operation.value_inputs)
    if len(given) != len(operation.read):
        raise ValueError(f"{op}: {len(given)} dtypes for the inputs {', '.join(operation.read)}")
    names = [accepted_name(op, "dtype is", as_dtype(op, each), INPUTS) for each in given]
    for i, name in enumerate(operation.read):
        if not isinstance(dtype, tuple) and (name == MASK or name in operation.indices):
            names[i] = "bool" if name == MASK else "int64"
    if out_dtype is None:
        elements = enumerate(names[: len(operation.inputs)])
        out_name = output_dtype([name for i, name in elements if operation.affects_output_dtype(i)])
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
        return _divided(
            problem, segments, operation.value_inputs, (ITEMSIZE[names[operation.value_inputs]],)
        )
    return problem
