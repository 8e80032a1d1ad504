"""The checks of a call: every error a public function raises about its arguments is worded here.

Each message names the function and the argument, says what was given and what to do. Nothing has
been allocated, launched or written when one is raised.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.exceptions import AxisError

from cusoftmax._operation import FLOATS, ITEMSIZE, MASK, Operation
from cusoftmax._ops import find

Array = Any  # cupy.ndarray, which must not be imported here
Axis = int | tuple[int, ...] | None

# NumPy's solver decides whether two views share an element; past this many steps it assumes that
# they do.
OVERLAP_WORK = 100_000

MOST_SELECTED = 64  # elements of a row: two for each lane of a warp


class View(NamedTuple):
    """Shape, strides in bytes, dtype name and address of an array; 0 for one not yet allocated."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    pointer: int = 0


def plain_axis(op: str, axis: Any) -> Axis:
    """Return `axis` as an int, a tuple of ints or None; True and 1.0 equal 1 but are no axes."""
    if axis is None:
        return None
    try:
        if isinstance(axis, tuple):
            if not any(isinstance(a, bool) for a in axis):
                return tuple(operator.index(a) for a in axis)
        elif not isinstance(axis, bool):
            return operator.index(axis)
    except TypeError:
        pass
    raise TypeError(f"{op}: axis={axis!r} is not accepted; give an int, a tuple of ints, or None")


def plain_bool(op: str, name: str, value: Any) -> bool:
    """Return a flag as a bool; TypeError for an array, say, given in its place."""
    if isinstance(value, (bool, np.bool_, int)):
        return bool(value)
    raise TypeError(
        f"{find(op).public or op}: {name} is a {type(value).__name__}; give True or False"
    )


def resolve_axes(op: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes of a row: ascending, not negative, none twice.

    As in SciPy, None is all axes, and () is none: every element is then a row. An array of no
    dimensions is one row of one element, and takes axis 0 and -1 too.
    """
    axis = plain_axis(op, axis)
    if axis is None or (ndim == 0 and axis in (0, -1)):
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple) else (axis,)
    for a in given:
        if not -ndim <= a < ndim:
            raise AxisError(a, ndim, op)
    axes = tuple(sorted(a % ndim for a in given))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{op}: axis={axis} names an axis twice; name each once")
    return axes


def as_dtype(op: str, dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as a NumPy dtype; the name "bfloat16" is known even before `ml_dtypes` is."""
    try:
        if isinstance(dtype, str) and dtype == "bfloat16":
            import ml_dtypes

            dtype = ml_dtypes.bfloat16
        found: np.dtype[Any] = np.dtype(dtype)
        return found
    except TypeError:
        raise TypeError(
            f"{op}: {dtype!r} is not a dtype; give one of {', '.join(FLOATS)}"
        ) from None


@lru_cache(maxsize=256)
def _name(dtype: np.dtype[Any]) -> str | None:
    """Return the name of an accepted dtype. The kernels read the machine's own byte order only."""
    return dtype.name if dtype.isnative and dtype.name in ITEMSIZE else None


def accepted_name(op: str, what: str, dtype: np.dtype[Any], accepted: Collection[str]) -> str:
    """Return the name of `dtype`, which `what` has; TypeError if it is not in `accepted`."""
    name = _name(dtype)
    if name is None or name not in accepted:
        raise TypeError(
            f"{op}: {what} {dtype}, which is not accepted; the dtypes are {', '.join(accepted)}"
        )
    return name


def float_name(op: str, what: str, dtype: np.dtype[Any]) -> str:
    """Return the name of an output dtype; TypeError if it is no accepted float."""
    name = _name(dtype)
    if name is None or name not in FLOATS:
        raise TypeError(f"{op}: {what}{dtype} cannot hold the result; give {', '.join(FLOATS)}")
    return name


def view_of(op: str, name: str, array: Array, accepted: Collection[str]) -> View:
    """Return what folding needs of a CuPy array; TypeError if its dtype is not in `accepted`."""
    dtype = accepted_name(op, f"{name} has dtype", array.dtype, accepted)
    return View(array.shape, array.strides, dtype, array.data.ptr)


def as_outs(op: str, out: Any) -> tuple[Any, ...]:
    """Return the arrays given as `out`: a tuple of them where there are several results."""
    names = find(op).written
    if len(names) == 1 and not isinstance(out, tuple):
        return (out,)
    if len(names) > 1 and isinstance(out, tuple) and len(out) == len(names):
        return out
    given = f"a {type(out).__name__}"
    if isinstance(out, tuple):
        given = f"a tuple of {len(out)}"
    wanted = "an array" if len(names) == 1 else f"a tuple of {len(names)}: {', '.join(names)}"
    raise TypeError(f"{find(op).public or op}: out is {given}; give {wanted}, or leave it out")


def check_types(
    operation: Operation, op: str, inputs: tuple[Array, ...], outs: tuple[Array, ...]
) -> None:
    """Refuse what is not a CuPy array, and say how to make one of it."""
    op = operation.public or op
    cupy: Any = sys.modules.get("cupy")  # where it was never imported, nothing is an array of it
    if len(outs) == 1 < len(operation.written):
        as_outs(operation.name, outs[0])
    named = zip(operation.read + operation.written, inputs + outs, strict=False)
    for name, value in named:
        if cupy is None or not isinstance(value, cupy.ndarray):
            kind = type(value)
            full = kind.__qualname__
            if kind.__module__ != "builtins":
                full = f"{kind.__module__}.{full}"
            how = _conversion(kind, name, name in operation.written)
            raise TypeError(f"{op}: {name} is a {full}, and only CuPy arrays are accepted; {how}")


def _conversion(kind: type, name: str, result: bool) -> str:
    root = kind.__module__.partition(".")[0]
    if result:
        return "give a cupy.ndarray to write into, or leave it out"
    if root == "torch":
        return f"pass cupy.from_dlpack({name}.detach())"
    if root != "numpy" and hasattr(kind, "__dlpack__"):
        return f"pass cupy.from_dlpack({name})"
    return f"pass cupy.asarray({name})"


def check_agreement(op: str, first: str, model: Array, others: Iterable[tuple[str, Array]]) -> None:
    """Refuse arrays on another device than the first."""
    for name, array in others:
        here, there = array.data.device_id, model.data.device_id
        if here != there:
            raise ValueError(
                f"{op}: {name} is on device {here} and {first} on device {there}; move one of them "
                f"first, with cupy.asarray under the other's device"
            )


def check_shape(
    op: str,
    name: str,
    shape: tuple[int, ...],
    first: str,
    model: Array,
    expected: tuple[int, ...],
) -> None:
    """Refuse an array whose shape does not follow from that of the first."""
    if shape == expected:
        return
    if expected == model.shape:
        raise ValueError(
            f"{op}: {name} has shape {shape} and {first} has {model.shape}; give arrays of one "
            f"shape (cupy.broadcast_to repeats an input without a copy)"
        )
    raise ValueError(
        f"{op}: {name} has shape {shape}; with {first} of shape {model.shape} it has one value "
        f"for each row, so give it shape {expected}"
    )


def check_offsets(op: str, offsets: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Return the number of segments of an array of `shape`; refuse what cannot divide it."""
    if not shape:
        raise ValueError(f"{op}: an array of no dimensions has no segments; give it at least one")
    if len(offsets) != 1 or offsets[0] == 0:
        raise ValueError(
            f"{op}: offsets has shape {offsets}; give one dimension, of one entry more than there "
            f"are segments: where each begins, and where the last ends"
        )
    return offsets[0] - 1


def plain_count(op: str, name: str, value: Any) -> int:
    """Return an argument that counts something as an int; True and 1.0 equal 1 but are none.

    Nor is an array of one, which would have to be waited for.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    plain = type(value).__module__ == "builtins"  # to print another might copy it from the device
    given = repr(value) if plain else f"<{type(value).__name__}>"
    raise TypeError(f"{op}: {name}={given} is not accepted; give an int")


def one_of(op: str, name: str, value: Any, known: dict[str, str]) -> str:
    """Return what `known` has for `value`; ValueError if it has nothing."""
    found = known.get(value) if isinstance(value, str) else None
    if found is None:
        words = " or ".join(repr(word) for word in known)
        raise ValueError(f"{op}: {name}={value!r} is not known; give {words}")
    return found


def check_one_axis(op: str, axis: Any) -> None:
    """Refuse several axes where an element has one place in its row."""
    if axis is None or isinstance(axis, tuple):
        raise TypeError(f"{op}: axis={axis} is not accepted; give an int, the axis of the rows")


def check_choice(op: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Refuse to choose an element of rows that have none."""
    if any(shape[d] == 0 for d in axes):
        raise ValueError(f"{op}: x has shape {shape}, and a row no element; give it at least one")


def check_selection(op: str, k: float, shape: tuple[int, ...], axis: Any) -> None:
    """Refuse to select more elements than a row has, or than the kernels have room for."""
    check_one_axis(op, axis)
    if not shape:
        raise ValueError(f"{op}: x has no dimensions; give it at least one")
    if not 1 <= k <= MOST_SELECTED:
        raise ValueError(f"{op}: k={k} is not accepted; give a number from 1 to {MOST_SELECTED}")
    n = shape[axis]
    if k > n:
        elements = f"{n} element{'' if n == 1 else 's'}"
        raise ValueError(
            f"{op}: k={k}, but a row has only {elements} along the axis (shape {shape}); give a k "
            f"of at most that many"
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


def check_same_dtype(op: str, operation: Operation, results: Sequence[View]) -> None:
    """Refuse results with elements of several dtypes: one of them decides the arithmetic."""
    kinds = [view.dtype for view in results[: len(operation.outputs)]]
    if len(set(kinds)) > 1:
        raise ValueError(
            f"{op}: the results are {', '.join(kinds)}; give arrays of one dtype as out"
        )


# ------------------------------------------------------------------------------------------ overlap


def check_outs(
    op: str,
    inputs: tuple[Array, ...],
    outs: tuple[Array, ...],
    reaches: Sequence[Sequence[tuple[int, int, bool]]],
) -> None:
    """Do `check_overlap` if any result is near enough to an input or to an earlier result.

    `reaches` has for each result what `reach` gave of those arrays, and whether it may be them.
    """
    for i, out in enumerate(outs):  # a strict zip would take twice the time of all the rest
        start, near = out.data.ptr, reaches[i]
        for j, array in enumerate(inputs if i == 0 else inputs + outs[:i]):
            low, high, in_place = near[j]
            if low < start - array.data.ptr < high and not (in_place and array is out):
                check_overlap(op, inputs, outs)


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
    said = operation.public or op
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
                    f"{said}: {target} overlaps {name} without being the same elements; give "
                    f"{name} itself, or memory of its own"
                )
            raise ValueError(f"{said}: {target} overlaps {name}; give {target} memory of its own")


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
