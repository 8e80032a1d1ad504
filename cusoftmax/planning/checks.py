"""The checks of a call's arguments, and the errors that they raise.

Each message names the function and the argument, and says what was given and what to do. When one
is raised, nothing has been allocated, launched or written.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.exceptions import AxisError

from cusoftmax.operations.dtypes import FLOATS, ITEMSIZE
from cusoftmax.operations.lookup import find

if TYPE_CHECKING:
    from cusoftmax.operations.operation import Operation
    from cusoftmax.planning.problem import View

Array = Any  # a cupy.ndarray; CuPy must not be imported here
Axis = int | tuple[int, ...] | None

MOST_SELECTED = 64  # elements of a row that topk_softmax can select: two for each lane of a warp


def plain_axis(op: str, axis: Any) -> Axis:
    """Return `axis` as an int, a tuple of ints or None; refuse others, such as True and 1.0."""
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
    """Return a flag as a bool; TypeError for anything else, such as an array."""
    if isinstance(value, (bool, np.bool_, int)):
        return bool(value)
    raise TypeError(
        f"{find(op).public or op}: {name} is a {type(value).__name__}; give True or False"
    )


def resolve_axes(op: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Return the axes that make up a row: ascending, not negative, none twice.

    As in SciPy, None means all axes, and () means none: every element is then a row of its own. An
    array without dimensions is one row of one element, and also accepts axis 0 and -1.
    """
    axis = plain_axis(op, axis)
    if axis is None or (ndim == 0 and axis in (0, -1)):
        return tuple(range(ndim))
    several = axis if isinstance(axis, tuple) else (axis,)
    for a in several:
        if not -ndim <= a < ndim:
            raise AxisError(a, ndim, op)
    axes = tuple(sorted(a % ndim for a in several))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{op}: axis={axis} names an axis twice; name each once")
    return axes


def as_dtype(op: str, dtype: Any) -> np.dtype[Any]:
    """Return `dtype` as a NumPy dtype; "bfloat16" is accepted before `ml_dtypes` is imported."""
    try:
        if isinstance(dtype, str) and dtype == "bfloat16":
            import ml_dtypes

            dtype = ml_dtypes.bfloat16
        converted: np.dtype[Any] = np.dtype(dtype)
        return converted
    except TypeError:
        raise TypeError(
            f"{op}: {dtype!r} is not a dtype; give one of {', '.join(FLOATS)}"
        ) from None


@lru_cache(maxsize=256)
def _name(dtype: np.dtype[Any]) -> str | None:
    """Return the name of an accepted dtype in native byte order, or None for any other."""
    return dtype.name if dtype.isnative and dtype.name in ITEMSIZE else None


def accepted_name(op: str, what: str, dtype: np.dtype[Any], accepted: Collection[str]) -> str:
    """Return the name of `dtype`; TypeError if not in `accepted`, with `what` in the message."""
    name = _name(dtype)
    if name is None or name not in accepted:
        raise TypeError(
            f"{op}: {what} {dtype}, which is not accepted; the dtypes are {', '.join(accepted)}"
        )
    return name


def float_name(op: str, what: str, dtype: np.dtype[Any]) -> str:
    """Return the name of an output dtype; TypeError if it is not an accepted float."""
    name = _name(dtype)
    if name is None or name not in FLOATS:
        raise TypeError(f"{op}: {what}{dtype} cannot hold the result; give {', '.join(FLOATS)}")
    return name


def as_outs(op: str, out: Any) -> tuple[Any, ...]:
    """Return `out` as a tuple with an array for each result."""
    names = find(op).written
    if len(names) == 1 and not isinstance(out, tuple):
        return (out,)
    if len(names) > 1 and isinstance(out, tuple) and len(out) == len(names):
        return out
    got = f"a {type(out).__name__}"
    if isinstance(out, tuple):
        got = f"a tuple of {len(out)}"
    wanted = "an array" if len(names) == 1 else f"a tuple of {len(names)}: {', '.join(names)}"
    raise TypeError(f"{find(op).public or op}: out is {got}; give {wanted}, or leave it out")


def check_types(
    operation: Operation, op: str, inputs: tuple[Array, ...], outs: tuple[Array, ...]
) -> None:
    """Refuse what is not a CuPy array, and say how to convert it."""
    op = operation.public or op
    cupy: Any = sys.modules.get("cupy")  # if it is not imported, none of its arrays exist
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


def check_shape(
    op: str,
    name: str,
    shape: tuple[int, ...],
    first: str,
    model: tuple[int, ...],
    expected: tuple[int, ...],
) -> None:
    """Refuse an array whose shape is not the expected one; `model` is the first array's shape."""
    if shape == expected:
        return
    if expected == model:
        raise ValueError(
            f"{op}: {name} has shape {shape} and {first} has {model}; give arrays of one "
            f"shape (cupy.broadcast_to repeats an input without a copy)"
        )
    raise ValueError(
        f"{op}: {name} has shape {shape}; with {first} of shape {model} it has one value "
        f"for each row, so give it shape {expected}"
    )


def check_offsets(op: str, offsets: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Return the number of segments; refuse shapes that cannot be divided into segments."""
    if not shape:
        raise ValueError(f"{op}: an array of no dimensions has no segments; give it at least one")
    if len(offsets) != 1 or offsets[0] == 0:
        raise ValueError(
            f"{op}: offsets has shape {offsets}; give one dimension, of one entry more than there "
            f"are segments: where each begins, and where the last ends"
        )
    return offsets[0] - 1


def plain_count(op: str, name: str, value: Any) -> int:
    """Return an argument that counts something as an int.

    True and 1.0 are refused although they equal 1, and so is an array of one element, because
    reading it would wait for the device.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    plain = type(value).__module__ == "builtins"  # printing others might copy from the device
    shown = repr(value) if plain else f"<{type(value).__name__}>"
    raise TypeError(f"{op}: {name}={shown} is not accepted; give an int")


def one_of(op: str, name: str, value: Any, known: dict[str, str]) -> str:
    """Return ``known[value]``; ValueError if there is no such key."""
    result = known.get(value) if isinstance(value, str) else None
    if result is None:
        words = " or ".join(repr(word) for word in known)
        raise ValueError(f"{op}: {name}={value!r} is not known; give {words}")
    return result


def check_one_axis(op: str, axis: Any) -> None:
    """Refuse several axes, for operations that return the index of an element in its row."""
    if axis is None or isinstance(axis, tuple):
        raise TypeError(f"{op}: axis={axis} is not accepted; give an int, the axis of the rows")


def check_choice(op: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Refuse empty rows, for operations that choose an element of each row."""
    if any(shape[d] == 0 for d in axes):
        raise ValueError(f"{op}: x has shape {shape}, and a row no element; give it at least one")


def check_selection(op: str, k: float, shape: tuple[int, ...], axis: Any) -> None:
    """Refuse to select more elements than a row has, or than the kernels can hold."""
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


def check_same_dtype(op: str, operation: Operation, results: Sequence[View]) -> None:
    """Refuse results of different dtypes, because the first one's dtype decides the arithmetic."""
    dtypes = [view.dtype for view in results[: len(operation.outputs)]]
    if len(set(dtypes)) > 1:
        raise ValueError(
            f"{op}: the results are {', '.join(dtypes)}; give arrays of one dtype as out"
        )
