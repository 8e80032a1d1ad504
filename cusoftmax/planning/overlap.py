"""Which arrays share memory, and which results may be written over an input."""

from __future__ import annotations

from typing import Any

import numpy as np

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.lookup import find
from cusoftmax.operations.operation import MASK, Operation
from cusoftmax.planning.checks import Array
from cusoftmax.planning.problem import View

# NumPy's solver decides whether two views share an element; past this many steps it assumes that
# they do.
OVERLAP_WORK = 100_000


def reach(array: View, out: View) -> tuple[int, int]:
    """Return how far the first element of `out` may lie from that of `array` for them to meet.

    What they span, from the first byte to the last, has bytes in common if and only if the distance
    is between the two numbers and equal to neither.
    """
    low, high = _extent(array)
    out_low, out_high = _extent(out)
    return low - out_high, high - out_low


def _extent(view: View) -> tuple[int, int]:
    """First byte of an array and the one past its last, from its address; equal if it has none."""
    if 0 in view.shape:
        return 0, 0
    steps = [(n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)]
    low, high = (sum(pick(step, 0) for step in steps) for pick in (min, max))
    return low, high + ITEMSIZE[view.dtype]


def may_be_in_place(operation: Operation, result: int, other: int) -> bool:
    """Whether a result may be the `other` array, counted over inputs and then results.

    Both have to have elements, so that every element is read by the thread that then writes it;
    values of a row are read by many threads, and results share nothing with each other.
    """
    elements = result < len(operation.outputs) and other < len(operation.inputs)
    mask = elements and operation.inputs[other] == MASK  # never of a result's dtype
    return elements and not mask and not operation.repeated


def check_overlap(op: str, inputs: tuple[Array, ...], outs: tuple[Array, ...]) -> None:
    """Refuse a result that shares memory with an input, unless element for element.

    In place every element is read by the thread that then writes it. In any other overlap a write
    may come before the read of another element that lies there; values of a row are read by many
    threads. Results may share nothing with each other.
    """
    operation = find(op)
    public = operation.public or op
    for i, out in enumerate(outs):
        target = operation.written[i]
        for j, array in enumerate((*inputs, *outs[:i])):
            in_place = may_be_in_place(operation, i, j)
            if in_place and _same_places(array, out):
                continue
            if not _may_share(_ghost(array), _ghost(out)):
                continue
            name = (*operation.read, *operation.written)[j]
            if in_place:
                raise ValueError(
                    f"{public}: {target} overlaps {name} without being the same elements; give "
                    f"{name} itself, or memory of its own"
                )
            raise ValueError(f"{public}: {target} overlaps {name}; give {target} memory of its own")


class _Ghost:
    """Addresses given to NumPy as an array, for it to reason about; nothing ever reads them."""

    def __init__(self, view: View, itemsize: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (view.pointer, False),
            "shape": view.shape,
            "strides": view.strides,
            "typestr": f"|V{itemsize}",
        }


def _ghost(array: Array) -> np.ndarray[Any, Any]:
    view = View(array.shape, array.strides, "", array.data.ptr)
    return np.asarray(_Ghost(view, array.dtype.itemsize))


def _may_share(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    # NumPy's own annotations allow only two of the values that it documents.
    return np.may_share_memory(a, b, max_work=OVERLAP_WORK)  # type: ignore[arg-type]


def _same_places(a: Array, b: Array) -> bool:
    return bool(
        a.data.ptr == b.data.ptr
        and a.dtype.itemsize == b.dtype.itemsize
        and all(
            s == t for size, s, t in zip(a.shape, a.strides, b.strides, strict=True) if size > 1
        )
    )


def overlaps_itself(view: View) -> bool:
    """Whether two elements of an array share memory."""
    itemsize = ITEMSIZE[view.dtype]
    dims = sorted((abs(s), n) for n, s in zip(view.shape, view.strides, strict=True) if n != 1)
    if any(n == 0 for _, n in dims):
        return False
    reach = itemsize
    for stride, size in dims:
        if stride < reach:
            break
        reach = stride * (size - 1) + reach
    else:
        return False  # each dimension steps over all that the finer ones reach
    # Two elements first differ in some dimension d. Shifted to the origin, they lie in the two
    # parts below.
    ghost = np.asarray(_Ghost(view, itemsize))
    return any(
        _may_share(ghost[(0,) * d + (slice(1),)], ghost[(0,) * d + (slice(1, None),)])
        for d in range(len(view.shape))
    )


def check_target(op: str, name: str, view: View, chosen: str | None) -> None:
    """Refuse a result's array of another dtype than is asked for, or that overlaps itself."""
    if chosen is not None and chosen != view.dtype:
        raise ValueError(
            f"{op}: dtype={chosen} contradicts {name}, which is {view.dtype}; leave dtype out or "
            f"give an {name} of that dtype"
        )
    if overlaps_itself(view):
        raise ValueError(
            f"{op}: elements of {name} share memory (shape {view.shape}, strides {view.strides}); "
            f"give an array with a place for each element"
        )
