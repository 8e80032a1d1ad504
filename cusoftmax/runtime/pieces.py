"""Runs operations of pieces of rows: what makes nodes, folds them, and writes results from them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from cusoftmax.operations.lookup import find
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
from cusoftmax.planning.problem import Prepared
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
    backend, (prepared, piece) = active(), _checked(op, inputs, axis, dtype, (), offset, length)
    problem = prepared.problem
    dtypes = tuple(o.dtype for o in problem.operands)
    plan = partial_plan(problem, backend.device, piece)
    nodes = empty(op, dtypes, batch_of(inputs[0].shape, axis), piece.subtrees)
    if plan.launches:
        absent = (None,) * len(find(op).written)
        units = piece.units(plan.rounds)
        numbers = (*options, *piece.numbers(units))
        if units == 1:
            _launch(backend, plan, 0, (*inputs, *absent, nodes), numbers)
        else:
            made = empty(op, dtypes, (problem.rows,), units)
            _launch(backend, plan, 0, (*inputs, *absent, made), numbers)
            others = (None,) * (len(inputs) - 1)
            _launch(backend, plan, 1, (made, *others, *absent, nodes), numbers)
    return nodes, piece, dtypes


def combine(
    op: str, dtypes: tuple[str, ...], pieces: Sequence[tuple[Array, Piece]]
) -> tuple[Array, Piece]:
    """Return the nodes of neighbouring pieces, which are in order and not empty, as one piece."""
    backend = active()
    backend.check_place("combine", pieces[0][0])
    first, last = pieces[0][1], pieces[-1][1]
    whole = Piece(first.length, first.first, last.end, first.chunk)
    batch = pieces[0][0].shape[1:-1]
    plan = combine_plan(op, dtypes, prod(batch), backend.device)
    nodes = empty(op, dtypes, batch, whole.subtrees)
    given = empty(op, dtypes, batch, sum(piece.subtrees for _, piece in pieces))
    others = (None,) * (len(dtypes) - 1)

    def fold(array: Array, piece: Piece, into: Array) -> None:
        numbers = piece.numbers(len(array))  # merging takes no other options
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
    kinds = None if outs else ResultDtypes(as_dtype("", d) for d in dtypes[len(inputs) :])
    prepared, piece = _checked(op, inputs, axis, kinds, outs, offset, length)
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
    plan = apply_plan(prepared.problem, backend.device, piece)
    if plan.launches:
        numbers = (*options, *piece.numbers(1))
        _launch(backend, plan, 0, (*inputs, *results, node), numbers)
    return results if len(results) > 1 else results[0]


def batch_of(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """Return the dimensions of an array that are not of its rows."""
    axes = resolve_axes("", axis, len(shape))
    return tuple(size for d, size in enumerate(shape) if d not in axes)


def empty(op: str, dtypes: tuple[str, ...], batch: tuple[int, ...], subtrees: int) -> Array:
    """Return memory for nodes of so many subtrees of each row."""
    return arrays.empty((subtrees, *batch, node_words(op, dtypes)), node_dtype(op, dtypes))


def _checked(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    outs: tuple[Array, ...],
    offset: Any,
    length: Any,
) -> tuple[Prepared, Piece]:
    operation = find(op)
    caller = operation.function
    if not all(map(is_array, inputs + outs)):
        raise NotCuPy(caller)
    prepared = prepare(op, inputs, axis, dtype, outs)
    problem = prepared.problem
    (along,) = resolve_axes(caller, axis, inputs[0].ndim, several=False)
    size = inputs[0].shape[along]
    dtypes = tuple(o.dtype for o in problem.operands)
    piece = checked_piece(op, dtypes, offset, size, length, caller)
    if problem.rows and size and not is_contiguous(problem):
        raise ValueError(
            f"{caller}: the elements of a row are not neighbours in memory along axis={axis}, so "
            f"their sums have another order; give arrays whose rows are contiguous"
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
