"""A problem: how many rows of which length to compute, and where their elements lie.

Plain Python on shapes, strides and dtype names that were checked before; no array is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.operation import Operation


class View(NamedTuple):
    """Shape, strides in bytes, dtype name and address of an array; 0 if it is not allocated yet."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    pointer: int = 0


@dataclass(frozen=True)
class Operand:
    """One array of a problem, with strides for the folded dimensions of the problem.

    Attributes
    ----------
    dtype : str
        NumPy name of the dtype.
    batch_strides, reduce_strides : tuple of int
        Bytes from one index to the next, for each entry of the problem's shapes.
    alignment : int
        Largest power of two up to 32 that divides the address of the first element.
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
        The dimensions that rows are counted over, and those of a row. Dimensions of size 1 are
        dropped, and neighbours are merged if the strides of every operand allow it. At least one
        dimension is left.
    operands : tuple of Operand
        The inputs in the operation's order, then its results. An operand with one value for each
        row has strides of 0 along the row; a table has only strides of 0. The only entry of
        `reduce_strides` is, for offsets, the stride from one offset to the next, and for selected
        elements, the stride from one to the next.
    options : tuple of numbers
        The options that the plan depends on: the number of elements to select, if any.
    segments : int
        Number of segments that `n` elements are divided into, for rows of unequal length. There are
        then `rows` columns with the same segments.
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
    """An array to allocate for a result, if the caller gave none."""

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
        Its results.
    reaches : tuple of tuples of (int, int, bool)
        For each result, and then for each input and each earlier result: the bounds that
        `overlap.reach` returns, outside of which the two cannot overlap, and whether they may be
        the same array.
    """

    problem: Problem
    results: tuple[Result, ...]
    reaches: tuple[tuple[tuple[int, int, bool], ...], ...]


# ------------------------------------------------------------------------------------------ folding


def fold(
    operation: Operation,
    views: Sequence[View],
    axes: tuple[int, ...],
    options: tuple[float, ...] = (),
) -> Problem:
    """Fold an operation's arrays of one shape into rows along `axes` (ascending, not negative).

    Dimensions are sorted by the memory order of the first result, or of the first input if no
    result has a value for each element. This may renumber rows, which are independent, and the
    elements of a row, whose order of summation follows the layout.
    """
    model = views[len(operation.read)] if operation.outputs else views[0]
    shape = model.shape
    reduce = [d for d in axes if shape[d] != 1]
    batch = [d for d in range(len(shape)) if d not in axes and shape[d] != 1]
    for dims in (reduce,) if operation.ordered else (batch, reduce):
        dims.sort(key=lambda d: -abs(model.strides[d]))
    rows, n = prod(shape[d] for d in batch), prod(shape[d] for d in reduce)
    # Without elements, strides have no meaning.
    batch_shape, batch_strides = _merge(batch, views) if rows else _contiguous(0, views)
    reduce_shape, reduce_strides = _merge(reduce, views) if n else _contiguous(0, views)
    operands = tuple(
        Operand(view.dtype, b, r, alignment(view.pointer))
        for view, b, r in zip(views, batch_strides, reduce_strides, strict=True)
    )
    return Problem(operation.name, rows, n, batch_shape, reduce_shape, operands, options)


def _merge(dims: list[int], views: Sequence[View]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Merge neighbouring dimensions if every view allows it; return sizes, and strides by view."""
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
    """Return the largest power of two up to 32, a sector, that divides an address."""
    return min(pointer & -pointer, 32) or 32


def k_order(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the strides of a dense array in the memory order of another, as `cupy.empty_like`.

    If the other array repeats elements by strides of 0, its order would scatter the rows of the
    result: the strides are then those of C order.
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
