"""Runs operations of pieces of rows: what makes nodes, folds them, and writes results from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import PIECE_OPTIONS
from cusoftmax.planning.checks import (
    Array,
    Axis,
    NotCuPy,
    ResultDtypes,
    as_dtype,
    as_outs,
    check_device,
    is_array,
    resolve_axes,
)
from cusoftmax.planning.pieces import (
    Piece,
    apply_plan,
    checked_piece,
    combine_plan,
    is_contiguous,
    node_dtype,
    node_words,
    partial_plan,
)
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.prepare import prepare
from cusoftmax.planning.problem import Prepared, Problem
from cusoftmax.runtime import arrays
from cusoftmax.runtime.backend import Backend, active
from cusoftmax.runtime.calls import allocator
from cusoftmax.runtime.launch import check_outs
from cusoftmax.runtime.layout import as_struct, layout_of


def partial(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    offset: Any,
    length: Any,
    options: tuple[float, ...],
) -> tuple[Array, Piece, tuple[str, ...]]:
    """Return the nodes of a piece, the piece, and the dtypes of the operation's operands.

    `op` is an operation of pieces, whose function is named in errors.
    """
    k = options[:1] if find(op).selects else ()
    backend, place = active(), (offset, length)
    prepared, piece = _checked(op, inputs, axis, dtype, (), *place, k)
    problem = prepared.problem
    dtypes = tuple(o.dtype for o in problem.operands)
    plan = partial_plan(problem, backend.device, piece)
    words, kind = node_words(op, dtypes, *map(int, k)), node_dtype(op, dtypes)
    batch = batch_of(inputs[0].shape, axis)
    nodes = arrays.empty((piece.subtrees, *batch, words), kind)
    if plan.launches:
        absent = (None,) * len(find(op).written)
        units = piece.units(plan.rounds)
        numbers = (*options, *piece.numbers(units))
        if units == 1:
            _launch(backend, plan, 0, (*inputs, *absent, nodes), numbers)
        else:
            made = arrays.empty((units, problem.rows, words), kind)
            _launch(backend, plan, 0, (*inputs, *absent, made), numbers)
            others = (None,) * (len(inputs) - 1)
            _launch(backend, plan, 1, (made, *others, *absent, nodes), numbers)
    return nodes, piece, dtypes


def combine(
    op: str, dtypes: tuple[str, ...], pieces: Sequence[tuple[Array, Piece]], k: int = 0
) -> tuple[Array, Piece]:
    """Return the nodes of neighbouring pieces, which are in order and not empty, as one piece.

    `k` is the number of elements that the operation selects, if it does.
    """
    backend = active()
    backend.check_place("combine", pieces[0][0])
    first, last = pieces[0][1], pieces[-1][1]
    whole = replace(first, end=last.end)
    model = pieces[0][0]
    plan = combine_plan(op, dtypes, prod(model.shape[1:-1]), backend.device, k)
    nodes = arrays.empty((whole.subtrees, *model.shape[1:]), model.dtype)
    count = sum(piece.subtrees for _, piece in pieces)
    given = arrays.empty((count, *model.shape[1:]), model.dtype)
    others = (None,) * (len(dtypes) - 1)
    # Merging takes no other options than k, the first.
    unused = len(find(op).options) - len(PIECE_OPTIONS)
    options = (k, *(0,) * (unused - 1)) if k else ()

    def fold(array: Array, piece: Piece, into: Array) -> None:
        numbers = (*options, *piece.numbers(len(array)))
        _launch(backend, plan, 0, (array, *others, into), numbers)

    if plan.launches:
        at = 0
        for array, piece in pieces:  # the largest subtrees stay as they are: this copies
            fold(array, piece, given[at : at + len(array)])
            at += len(array)
        fold(given, whole, nodes)
    return nodes, whole


def apply(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtypes: tuple[str, ...],
    outs: Any,
    offset: Any,
    length: int,
    node: Array,
    options: tuple[float, ...],
) -> Any:
    """Return the results of a piece, given the node of whole rows."""
    operation, backend = find(op), active()
    outs = () if outs is None else as_outs(op, outs)
    k = options[:1] if operation.selects else ()
    given = [
        None if operation.fixed_dtype(i) else as_dtype("", d)
        for i, d in enumerate(dtypes[len(inputs) :], len(inputs))
    ]
    kinds = None if outs else ResultDtypes(given)
    prepared, piece = _checked(op, inputs, axis, kinds, outs, offset, length, k)
    names = operation.read + operation.written
    for name, operand, dtype in zip(names, prepared.problem.operands, dtypes, strict=True):
        if operand.dtype != dtype:
            raise TypeError(
                f"apply: {name} has dtype {operand.dtype}, and the nodes are those of {dtype}; "
                f"give arrays of the dtypes that were given to partial"
            )
    batch = batch_of(inputs[0].shape, axis)
    if batch != node.shape[1:-1]:
        raise ValueError(
            f"apply: {operation.inputs[0]} has shape {inputs[0].shape}, and the nodes are those of "
            f"rows in an array of {node.shape[1:-1]}; give the rows that were given to partial"
        )
    check_device("apply", "nodes.array", node, operation.inputs[0], inputs[0])
    if outs:
        check_outs(op, inputs, outs, prepared.reaches)
    results = outs or tuple(allocator(r.shape, r.strides, r.dtype)() for r in prepared.results)
    problem = prepared.problem
    if operation.selects:
        problem = _of_rows(problem, length, [_step(r, inputs[0], axis) for r in results])
    plan = apply_plan(problem, backend.device, piece)
    if plan.launches:
        numbers = (*options, *piece.numbers(1))
        _launch(backend, plan, 0, (*inputs, *results, node), numbers)
    return results if len(results) > 1 else results[0]


def batch_of(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """Return the dimensions of an array that are not of its rows."""
    axes = resolve_axes("", axis, len(shape))
    return tuple(size for d, size in enumerate(shape) if d not in axes)


def _of_rows(problem: Problem, length: int, steps: list[int]) -> Problem:
    """Return the problem of whole rows, none of whose elements are read.

    Those selected are `steps` apart in each result.
    """
    along = (ITEMSIZE[problem.operands[0].dtype], *steps)
    operands = [
        replace(operand, reduce_strides=(step,))
        for operand, step in zip(problem.operands, along, strict=True)
    ]
    return replace(problem, n=length, reduce_shape=(length,), operands=tuple(operands))


def _step(result: Array, x: Array, axis: Axis) -> int:
    return int(result.strides[axis]) if result.ndim == x.ndim else 0


def _checked(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    outs: tuple[Array, ...],
    offset: Any,
    length: Any,
    selected: tuple[float, ...],
) -> tuple[Prepared, Piece]:
    operation = find(op)
    caller = operation.function
    if not all(map(is_array, inputs + outs)):
        raise NotCuPy(caller)
    if not inputs[0].ndim:
        raise ValueError(f"{caller}: {operation.read[0]} has no dimensions; give it at least one")
    prepared = prepare(op, inputs, axis, dtype, outs, options=selected)
    problem = prepared.problem
    (along,) = resolve_axes(caller, axis, inputs[0].ndim, several=False)
    size = inputs[0].shape[along]
    dtypes = tuple(o.dtype for o in problem.operands)
    piece = checked_piece(op, dtypes, offset, size, length, caller)
    if problem.rows and size and not is_contiguous(problem):
        names = operation.read + operation.written
        apart = next(
            name
            for i, (name, o) in enumerate(zip(names, problem.operands, strict=True))
            if operation.along_rows(i) and o.reduce_strides[-1] != ITEMSIZE[o.dtype]
        )
        raise ValueError(
            f"{caller}: the elements of a row of {apart} are not neighbours in memory along "
            f"axis={axis}, so their sums have another order; give arrays whose rows are contiguous"
        )
    active().check_place(caller, inputs[0])
    return prepared, piece


def _launch(
    backend: Backend,
    plan: Plan,
    number: int,
    arguments: tuple[Any, ...],
    options: tuple[float, ...],
) -> None:
    launch = plan.launches[number]
    struct = as_struct(layout_of(plan), options, launch.kernel["CSM_ACC"])
    kernel = backend.load(launch.kernel)
    layout = backend.by_value(struct)
    kernel((launch.grid,), (launch.block,), (*arguments, layout), launch.shared_bytes)
