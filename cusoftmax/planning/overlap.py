"""Which arrays share memory, and which results may be written over an input."""

from __future__ import annotations

from typing import Any

import numpy as np

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.lookup import find
from cusoftmax.operations.operation import MASK, Operation
from cusoftmax.planning.checks import Array
from cusoftmax.planning.problem import View

# Steps after which NumPy's solver gives up, and assumes that two views share an element.
OVERLAP_WORK = 100_000


def reach(array: View, out: View) -> tuple[int, int]:
    """Return two bounds of the distance from the first element of `array` to that of `out`.

    The spans of the two, from the first byte to the last, have bytes in common if and only if the
    distance lies strictly between the bounds.
    """
    low, high = _extent(array)
    out_low, out_high = _extent(out)
    return low - out_high, high - out_low


def _extent(view: View) -> tuple[int, int]:
    """Return the first byte of an array and the one past its last, relative to its address.

    They are equal if the array is empty.
    """
    if 0 in view.shape:
        return 0, 0
    steps = [(n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)]
    low, high = (sum(pick(step, 0) for step in steps) for pick in (min, max))
    return low, high + ITEMSIZE[view.dtype]


def may_be_in_place(operation: Operation, result: int, other: int) -> bool:
    """Whether a result may be the same array as operand `other`, which must then be an input.

    Both must have a value for each element: such a value is read only by the thread that then
    writes the result there, whereas values of a row are read by many threads.
    """
    elements = result < len(operation.outputs) and other < len(operation.inputs)
    mask = elements and operation.inputs[other] == MASK  # its dtype is never that of a result
    return elements and not mask and not operation.repeated


def check_overlap(op: str, inputs: tuple[Array, ...], outs: tuple[Array, ...]) -> None:
    """Refuse a result that shares memory with an input, unless both are the same elements.

    In place, every element is read by the thread that then writes it. In any other overlap an
    element could be overwritten before it is read. Results may not overlap each other at all.
    """
    operation = find(op)
    public = operation.function
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
    """An array interface that lets NumPy reason about addresses; the memory is never accessed."""

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
    # NumPy documents more values than its annotations allow.
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
        return False  # each dimension steps over everything that the finer ones span
    # If two elements share memory, their indices first differ in some dimension d. Shifted so that
    # the smaller index there is 0, they lie in the two parts below.
    ghost = np.asarray(_Ghost(view, itemsize))
    return any(
        _may_share(ghost[(0,) * d + (slice(1),)], ghost[(0,) * d + (slice(1, None),)])
        for d in range(len(view.shape))
    )


def check_target(op: str, name: str, view: View, chosen: str | None) -> None:
    """Refuse an array for a result if its dtype is not the chosen one or it overlaps itself."""
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
