"""Pieces of rows: where they may begin and end, the subtrees that they are, and their launches.

A row's sums are a fixed tree over its chunks (``cuda_kernels/reduce/fold.cuh``). A piece is a range
of chunks. Its nodes are those of the largest subtrees that it consists of; what lies beyond the
row's end counts as present, since merging it changes no bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.lookup import find
from cusoftmax.operations.operation import Operation
from cusoftmax.planning import tuning
from cusoftmax.planning.builder import PlanBuilder, ceil_div, computes_in, lanes_of, power_of_two
from cusoftmax.planning.checks import described, plain_count
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import MAX_GRID, WARP, Launch, Plan
from cusoftmax.planning.problem import Operand, Problem
from cusoftmax.planning.topk import lists_of_piece, of_piece


@dataclass(frozen=True)
class Piece:
    """Elements `first` to `end` of rows that have `length`.

    Attributes
    ----------
    chunk : int
        Elements that are summed as one unit. Rows of at most so many are not divided.
    sums : bool
        Whether there are sums. Without, a piece is a single node, whatever its subtrees.
    """

    length: int
    first: int
    end: int
    chunk: int
    sums: bool = True

    @property
    def size(self) -> int:
        return self.end - self.first

    @property
    def ends(self) -> bool:
        """Whether it ends with the row."""
        return self.end == self.length

    def units(self, rounds: int) -> int:
        """Return how many sets of so many neighbouring chunks the piece consists of."""
        return ceil_div(self.size, rounds * self.chunk)

    def numbers(self, nodes: int) -> tuple[int, ...]:
        """Return the kernel's options, as `options.PIECE_OPTIONS` names them."""
        return self.length, self.first, int(self.ends), nodes

    @property
    def subtrees(self) -> int:
        """How many subtrees of the row's fold the piece consists of."""
        if not self.sums:
            return min(self.size, 1)
        first, end = self.first // self.chunk, ceil_div(self.end, self.chunk)
        count = 0
        while first < end:
            aligned = first & -first if first else power_of_two(end)
            if not self.ends:
                while aligned > end - first:
                    aligned //= 2
            first += aligned
            count += 1
        return count


def model_problem(op: str, dtypes: Sequence[str], rows: int, n: int) -> Problem:
    """Return a problem of an operation of pieces without its strides."""
    operands = tuple(Operand(dtype, (0,), (1,), 1) for dtype in dtypes)
    return Problem(find(op).name, rows, n, (rows,), (n,), operands)


@lru_cache(maxsize=1024)
def chunk_of(op: str, dtypes: tuple[str, ...]) -> int:
    """Return how many elements an operation sums as one unit, whatever the device."""
    return PlanBuilder(model_problem(op, dtypes, 1, 1), DeviceSpec.known(90)).chunk


def node_words(op: str, dtypes: tuple[str, ...], k: int = 0) -> int:
    """Return the words of a subtree's node in memory.

    The node's and the subtree's level, if there are sums; and for each of `k` selected elements a
    key and the 64 bits of an index.
    """
    operation, acc = find(op), computes_in(model_problem(op, dtypes, 1, 1))
    words = operation.node_words(dtypes, acc) + 1 if _sums(operation) else 0
    return words + k * (1 + 8 // ITEMSIZE[acc])


def _sums(operation: Operation) -> bool:
    return not operation.selects or operation.relative > 0


def node_dtype(op: str, dtypes: tuple[str, ...]) -> np.dtype[Any]:
    """Return the dtype of these words."""
    return np.dtype(computes_in(model_problem(op, dtypes, 1, 1)))


def within(caller: str, offset: Any, size: int, length: Any) -> tuple[int, int]:
    """Return the offset and the length of rows as ints; refuse a piece that is not within them."""
    offset = plain_count(caller, "offset", offset)
    length = plain_count(caller, "length", length)
    if not 0 <= offset <= offset + size <= length:
        raise ValueError(
            f"{caller}: a piece of {described(size)} elements at offset={described(offset)} is not "
            f"within rows of length={described(length)}; give the offset of its first element in "
            f"the row, and the length of whole rows"
        )
    return offset, length


def checked_piece(
    op: str, dtypes: tuple[str, ...], offset: Any, size: int, length: Any, caller: str
) -> Piece:
    """Return the piece of `size` elements of rows of `length`; refuse boundaries within a chunk."""
    offset, length = within(caller, offset, size, length)
    end = offset + size
    chunk = chunk_of(op, dtypes)
    if size and length <= chunk and size < length:
        raise ValueError(
            f"{caller}: rows of {length} elements are not divided, as the chunk of these dtypes "
            f"has {chunk}; give all elements of a row to one caller, and none to the others"
        )
    if size and length > chunk:
        for place, name in ((offset, "begins"), (end, "ends")):
            below = place // chunk * chunk
            if place not in (below, length):
                nearest = f"{below} and {min(below + chunk, length)}"
                raise ValueError(
                    f"{caller}: the piece {name} at element {place} of its rows, within a chunk of "
                    f"{chunk}, the unit of summation; the nearest boundaries are {nearest}"
                )
    return Piece(length, offset, end, chunk, _sums(find(op)))


@lru_cache(maxsize=4096)
def partial_plan(problem: Problem, device: DeviceSpec, piece: Piece) -> Plan:
    """Return the launches that make the nodes of a piece.

    If there is one, it writes them; if there are two, the first writes the workspace.
    """
    builder = PlanBuilder(problem, device)
    if not problem.rows or not problem.n:
        return builder.plan("empty", (), why="there is no element")
    selects = builder.operation.selects
    rounds = _rounds(piece, lists_of_piece(builder) if selects else tuning.SPLIT_PIECES)
    units = piece.units(rounds)
    k = int(problem.options[0]) if selects else 0
    words = node_words(problem.op, tuple(o.dtype for o in problem.operands), k)
    launches = [_chunks(builder, piece, 0, rounds)]
    if units > 1:
        launches.append(_rows(builder, 1))
    return builder.plan(
        builder.operation.patterns[0],
        tuple(launches),
        vector=builder.row_vector,
        rounds=rounds,
        workspace=problem.rows * units * words * builder.acc_bytes if units > 1 else 0,
        why=f"elements {piece.first} to {piece.end} of rows of {piece.length}: a node for each "
        f"{rounds} of their chunks",
    )


@lru_cache(maxsize=1024)
def combine_plan(
    op: str, dtypes: tuple[str, ...], rows: int, device: DeviceSpec, k: int = 0
) -> Plan:
    """Return the launch that folds nodes; the numbers of a call say which.

    `k` is the number of elements that the operation selects, if it does.
    """
    problem = model_problem(op, dtypes, rows, 1)
    builder = PlanBuilder(replace(problem, options=(k,) if k else ()), device)
    launches = (_rows(builder, 1),) if rows else ()
    return builder.plan(
        builder.operation.patterns[0], launches, why="nodes of neighbouring pieces are folded"
    )


@lru_cache(maxsize=4096)
def apply_plan(problem: Problem, device: DeviceSpec, piece: Piece) -> Plan:
    """Return the launches that write the results of a piece: one, or none.

    Of an operation that selects, the problem is that of the whole rows.
    """
    builder = PlanBuilder(problem, device)
    operation = builder.operation
    launches: tuple[Launch, ...] = ()
    if problem.rows and operation.selects:
        short = piece.length <= piece.chunk
        launches = (of_piece(builder, 2, problem.rows, short=short),)
    elif problem.rows and problem.n and operation.outputs:
        launches = (_chunks(builder, piece, 2, 1),)
    elif problem.rows and operation.row_outputs:
        launches = (_rows(builder, 3),)
    return builder.plan(
        operation.patterns[0] if launches else "empty",
        launches,
        vector=builder.row_vector,
        why=f"elements {piece.first} to {piece.end} of rows of {piece.length}, whose nodes are "
        f"known",
    )


def is_contiguous(problem: Problem) -> bool:
    """Whether the elements of a row are neighbours in memory."""
    return PlanBuilder(problem, DeviceSpec.known(90)).row_is_contiguous


def _rounds(piece: Piece, most: int) -> int:
    """Return of how many chunks stage 0 makes one node: a subtree, unless the row ends before.

    There are at most so many nodes, if the boundaries of subtrees allow it.
    """
    first, end = piece.first // piece.chunk, ceil_div(piece.end, piece.chunk)
    wanted = power_of_two(ceil_div(end - first, most))
    if not piece.sums:
        return wanted
    ends = (first,) if piece.ends else (first, end)
    return min(wanted, *[place & -place or wanted for place in ends])


def _chunks(builder: PlanBuilder, piece: Piece, stage: int, rounds: int) -> Launch:
    """Return the launch of a stage in which lanes have chunks."""
    problem, short = builder.problem, piece.length <= piece.chunk
    if builder.operation.selects:
        return of_piece(builder, stage, problem.rows * piece.units(rounds), short=short)
    lanes, items = lanes_of(builder) if short else (WARP, builder.items)
    kernel = builder.kernel(
        "piece",
        vector=builder.row_vector,
        group=builder.group,
        lanes=lanes,
        items=items,
        stage=stage,
    )
    units = problem.rows * ceil_div(problem.n, rounds * lanes * items)
    threads = min(tuning.GROUP_THREADS, kernel.max_threads)
    return Launch(kernel, min(ceil_div(units * lanes, threads), MAX_GRID), threads, 0)


def _rows(builder: PlanBuilder, stage: int) -> Launch:
    """Return the launch of a stage in which warps or, in the last, threads have rows.

    Nodes of many words, two of which are merged, take more registers than elements do.
    """
    if builder.operation.selects:
        return of_piece(builder, stage, builder.problem.rows, short=False)
    threads = tuning.GROUP_THREADS
    kernel = builder.chunk_kernel("piece", vector=1, stage=stage, threads=threads)
    beside = threads if stage == 3 else threads // WARP
    return Launch(kernel, min(ceil_div(builder.problem.rows, beside), MAX_GRID), threads, 0)
