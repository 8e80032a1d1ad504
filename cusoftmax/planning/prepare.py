"""From the arrays of a call, or from a shape alone, to a `Problem`.

Checking and folding run once for each kind of call, because the launcher keeps the result. What
they need of the arrays is copied into views first (`_views_of`); the rest works on shapes, strides
and dtype names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cusoftmax.operations.dtypes import FLOATS, INDICES, INPUTS, ITEMSIZE, OFFSETS, output_dtype
from cusoftmax.operations.lookup import find
from cusoftmax.operations.operation import MASK, TOPK_PIECE, Operation
from cusoftmax.planning.checks import (
    Array,
    Axis,
    ResultDtypes,
    accepted_name,
    as_dtype,
    as_outs,
    check_aligned,
    check_choice,
    check_device,
    check_offsets,
    check_same_dtype,
    check_selection,
    check_shape,
    check_types,
    float_name,
    plain_bool,
    plain_choice,
    plain_count,
    plain_shape,
    resolve_axes,
    wrong_kind,
)
from cusoftmax.planning.overlap import check_target, may_be_in_place, reach
from cusoftmax.planning.problem import Prepared, Problem, Result, View, fold, k_order

SUPPOSED_LENGTH = 33  # elements of a segment, on average, where there is nothing but a shape


def prepare(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    outs: tuple[Array, ...] = (),
    keepdims: bool = False,
    options: tuple[float, ...] = (),
) -> Prepared:
    """Check a call and fold it; only the overlap of results with inputs is left to be checked.

    Parameters
    ----------
    op : str
        Name of an operation.
    inputs : tuple of cupy.ndarray
        The inputs, in the operation's order.
    axis : int, tuple of int or None
        The axes that make up a row.
    dtype : dtype, ResultDtypes or None
        Dtype of every result, or one for each; None for the default.
    outs : tuple of cupy.ndarray
        An array for each result, or no array at all.
    keepdims : bool
        Whether operands with one value for each row keep the axes, with size 1.
    options : tuple of numbers
        The options that the plan depends on.

    Raises
    ------
    TypeError
        If an array is not a CuPy array, a dtype is not accepted, or the axis is not an integer.
    ValueError
        If an array is misaligned; if arrays disagree in shape or device, `dtype` is not that of
        `out`, elements of `out` share memory, or an axis is out of range
        (`numpy.exceptions.AxisError`) or repeated.
    """
    operation = find(op)
    public = operation.function
    views, targets = _views_of(op, inputs, outs)
    dtypes = dtype if isinstance(dtype, ResultDtypes) else (dtype,) * len(operation.written)
    chosen = [
        None if each is None else float_name(public, "dtype=", as_dtype(public, each))
        for each in dtypes
    ]
    keepdims = plain_bool(public, "keepdims", keepdims)
    first = operation.inputs[0]
    shape = views[0].shape
    segments = check_offsets(public, views[-1].shape, shape) if operation.segmented else 0
    axes = resolve_axes(public, axis, len(shape), not operation.one_axis)
    shapes = (shape, reduced_shape(shape, axes, keepdims))
    # The shape that the user gave, and what arrays of another one hold.
    given = (*shape[:-2], *shape[-1:]) if operation.repeated else shape
    holds = "a matrix for each row" if operation.repeated else "one value for each row"
    whole = TOPK_PIECE not in operation.patterns  # else rows have other elements too
    if operation.selects_many:
        if whole:
            check_selection(public, options[0], shape, axes)
        holds = f"the {options[0]} selected values of each row"
        shapes = (shape, selected_shape(shape, axes, options))
    elif operation.selects and whole:
        check_choice(public, shape, axes)

    def expected(operand: int) -> tuple[int, ...]:
        return shapes[not operation.along_rows(operand)]

    for i, view in enumerate(views[: operation.value_inputs - len(operation.tables)]):
        check_shape(public, operation.read[i], view.shape, first, given, expected(i), holds)
    for i, name in enumerate(operation.written, len(views)):
        wanted = operation.fixed_dtype(i) or chosen[i - len(inputs)]
        if targets:
            view = targets[i - len(inputs)]
            check_shape(public, name, view.shape, first, given, expected(i), holds)
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
        View(shape, (0,) * len(shape), view.dtype, view.pointer)  # independent of the position
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


def _views_of(
    op: str, inputs: tuple[Array, ...], outs: tuple[Array, ...]
) -> tuple[list[View], list[View]]:
    """Return views of the inputs and of the arrays in `outs`, which may be none.

    Refuses what is not a CuPy array, dtypes that are not accepted, arrays on another device than
    the first input, and those whose elements are misaligned.
    """
    operation = find(op)
    caller = operation.function
    if outs and len(outs) != len(operation.written):
        (single,) = outs
        outs = as_outs(op, single)
    names, arrays = operation.read + (operation.written if outs else ()), inputs + outs
    check_types(caller, names, arrays, operation.written)
    views = []
    for i, (name, array) in enumerate(zip(names, arrays, strict=True)):
        accepted = _accepted(operation, i)
        dtype = accepted_name(caller, f"{name} has dtype", array.dtype, accepted)
        check_device(caller, name, array, operation.inputs[0], inputs[0])
        view = View(array.shape, array.strides, dtype, array.data.ptr)
        check_aligned(caller, name, view)
        views.append(view)
    return views[: len(inputs)], views[len(inputs) :]


def _accepted(operation: Operation, operand: int) -> tuple[str, ...]:
    """Return the dtypes that an operand may have."""
    if operand >= len(operation.read):
        fixed = operation.fixed_dtype(operand)
        return (fixed,) if fixed else tuple(FLOATS)
    name = operation.read[operand]
    if operation.segmented and operand == operation.value_inputs:
        return OFFSETS
    if name == MASK:
        return ("bool",)
    return INDICES if name in operation.indices else INPUTS


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[int, ...]:
    """Return the shape of an operand with one value for each row."""
    if keepdims:
        return tuple(1 if d in axes else size for d, size in enumerate(shape))
    return tuple(size for d, size in enumerate(shape) if d not in axes)


def selected_shape(
    shape: tuple[int, ...], axes: tuple[int, ...], options: tuple[float, ...]
) -> tuple[int, ...]:
    """Return the shape of an operand with a value for each selected element of a row."""
    return tuple(int(options[0]) if d in axes else size for d, size in enumerate(shape))


def _along(
    view: View, shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool, selects: bool = False
) -> View:
    """Return the view of an operand as one of shape `shape`.

    One value for each row is repeated along the row, by strides of 0. An operand with a value for
    each selected element keeps its strides; only its first k elements are accessed.
    """
    if view.shape == shape:
        return view
    if selects:
        return View(shape, view.strides, view.dtype, view.pointer)
    kept = iter(s for d, s in enumerate(view.strides) if not (keepdims and d in axes))
    strides = tuple(0 if d in axes else next(kept) for d in range(len(shape)))
    return View(shape, strides, view.dtype, view.pointer)


def _divided(problem: Problem, segments: int, offsets: int, strides: tuple[int, ...]) -> Problem:
    """Return the problem with rows divided into segments by the operand of number `offsets`."""
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
    caller: str = "explain",
) -> Problem:
    """Return the problem for aligned arrays, contiguous in `order` (C or F), that need not exist.

    `dtype` is the dtype of every input, or a tuple with one for each. Segments are assumed to have
    `SUPPOSED_LENGTH` elements on average, because a shape does not say how long they are. `k` is
    the number of elements to select, for operations that do; by default 8, or the length of a row
    if that is less. Errors begin with the name of the function `caller`.
    """
    if not isinstance(op, str):
        raise wrong_kind(caller, "op", op, "the name of a function, such as 'softmax'")
    operation = find(op, caller)
    options: tuple[float, ...] = ()
    shape = plain_shape(caller, shape)
    plain_choice(caller, "order", order, ("C", "F"))
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * operation.value_inputs
    dtypes += ("int64",) * (operation.segmented and len(dtypes) == operation.value_inputs)
    if len(dtypes) != len(operation.read):
        raise ValueError(
            f"{caller}: {len(dtypes)} dtypes for the inputs {', '.join(operation.read)}"
        )
    names = [accepted_name(caller, "dtype is", as_dtype(caller, each), INPUTS) for each in dtypes]
    for i, name in enumerate(operation.read):
        if not isinstance(dtype, tuple) and (name == MASK or name in operation.indices):
            names[i] = "bool" if name == MASK else "int64"
    if out_dtype is None:
        elements = enumerate(names[: len(operation.inputs)])
        out_name = output_dtype([name for i, name in elements if operation.affects_output_dtype(i)])
    else:
        out_name = float_name(caller, "out_dtype=", as_dtype(caller, out_dtype, "out_dtype"))
    axes = resolve_axes(caller, axis, len(shape), not operation.one_axis)
    if operation.segmented:
        check_offsets(caller, (1,), shape)
        axes = (0,)
    if operation.repeated and len(shape) < 2:
        raise ValueError(f"{caller}: shape {shape} is that of no matrices; give that of the result")
    if k is not None:
        k = plain_count(caller, "k", k)
    if operation.selects and not operation.selects_many:
        check_choice(caller, shape, axes)
        options = (1,)
    elif operation.selects:
        k = max(1, min([8, *(shape[d] for d in axes)])) if k is None else k
        check_selection(caller, k, shape, axes)
        options = (k,)
    results = range(len(names), len(names) + len(operation.written))
    names += [operation.fixed_dtype(i) or out_name for i in results]
    # Ranks of the dimensions in memory order; k_order turns them into strides.
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
