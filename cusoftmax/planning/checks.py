"""The checks of a call's arguments, and the errors that they raise.

Each message begins with the public function that was called (`caller`), names the argument, and
says what was given and what to do. When an error is raised, nothing has been launched or written.
No error is raised within an `except`: the user sees one traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from functools import lru_cache
from math import frexp, inf
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.exceptions import AxisError

from cusoftmax.operations.dtypes import FLOATS, ITEMSIZE
from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import HOTTEST

if TYPE_CHECKING:
    from cusoftmax.operations.operation import Operation
    from cusoftmax.planning.problem import View

Array = Any  # a cupy.ndarray; CuPy must not be imported here
Axis = int | tuple[int, ...] | None

MOST_SELECTED = 64  # elements of a row that topk_softmax can select: two for each lane of a warp

# --------------------------------------------------------------------- arguments that are no arrays

_SHOWN = (bool, int, float, complex, str, bytes, type(None), np.generic, np.dtype)
_WIDEST = 60  # characters of a value in a message
_MOST_BITS = 128  # of an int in a message; Python refuses to print one of some 14,000


class ResultDtypes(tuple[Any, ...]):
    """A dtype for each result of an operation; public functions take one for all of them."""


def described(value: Any) -> str:
    """Return an argument as a message shows it.

    Only plain values are printed: printing an array would copy it from the device.
    """
    if type(value) in (tuple, list):
        inner = ", ".join([_scalar(each) for each in value[:8]] + ["..."] * (len(value) > 8))
        if type(value) is list:
            return f"[{inner}]"
        return f"({inner}{',' * (len(value) == 1)})"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if not isinstance(value, _SHOWN):
        return f"<{full_name(type(value))}>"
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"<int of {value.bit_length()} bits>"
    # A long text is cut before it is printed.
    text = repr(value[:_WIDEST] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= _WIDEST else text[:_WIDEST] + "..."


def full_name(kind: type) -> str:
    """Return the name of a type, with its module."""
    name = kind.__qualname__
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def wrong_kind(caller: str, name: str, value: Any, accepted: str) -> TypeError:
    """Return the error for an argument of another kind than those accepted."""
    return TypeError(f"{caller}: {name}={described(value)} is not accepted; give {accepted}")


def plain_bool(caller: str, name: str, value: Any) -> bool:
    """Return a flag as a bool; 1, None, text and arrays are refused."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise wrong_kind(caller, name, value, "True or False")


def plain_count(caller: str, name: str, value: Any, accepted: str = "an int") -> int:
    """Return an argument that counts something as an int.

    True and 1.0 are refused although they equal 1, and so is an array of one element, because
    reading it would wait for the device.
    """
    if _is_int(value):
        return int(value)
    raise wrong_kind(caller, name, value, accepted)


def plain_number(caller: str, name: str, value: Any) -> float:
    """Return a number as a float, infinite if it is beyond the largest; refuse bools and arrays."""
    scalar = isinstance(value, np.generic) and value.dtype.name in FLOATS  # bfloat16 is no Real
    if not scalar and (isinstance(value, bool) or not isinstance(value, Real)):
        raise wrong_kind(caller, name, value, "a number, known to the host")
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf


class NumberRange(NamedTuple):
    """The sizes that a number of a call may have besides 0, and whether it may be 0 or negative."""

    smallest: float
    largest: float
    zero: bool = True
    negative: bool = False


# What each number of a call may be for the arithmetic, float32 or float64, to hold it and what the
# kernels make of it. `smallest` is 0 where a number too small to matter may be flushed to 0.
_EXPONENT = {"float32": 126, "float64": 1022}  # 2**-126 is the smallest normal number of float32
_NUMBERS = {
    arithmetic: {
        # Two words of a scale and its products with logits are normal numbers.
        "scale": NumberRange(2.0**-64, 2.0**64, negative=True),
        # Above, 1 / T would be flushed to 0; of logits nothing is left but by float64's largest.
        "temperature": NumberRange(0.0, HOTTEST),
        "label_smoothing": NumberRange(0.0, 1.0),
        "z_loss": NumberRange(0.0, 2.0**most, negative=True),  # twice it is in the gradient
        "softcap": NumberRange(2.0 ** (1 - most), 2.0 ** (most + 1), zero=False),  # and 4 / softcap
    }
    for arithmetic, most in _EXPONENT.items()
}


def accepted_number(caller: str, name: str, value: Any, arithmetic: str = "float32") -> float:
    """Return a number of a call as a float that is in its range for the `arithmetic`.

    Every number that is no count is checked here, before anything of its call is launched.
    """
    number = plain_number(caller, name, value)
    accepted = _NUMBERS[arithmetic][name]
    size = abs(number)
    fits = accepted.zero if size == 0 else accepted.smallest <= size <= accepted.largest
    if fits and (number >= 0 or accepted.negative):
        return number
    words = _numbers_in(name, arithmetic)
    raise ValueError(f"{caller}: {name}={number} is not accepted; give {words}")


def _numbers_in(name: str, arithmetic: str) -> str:
    """Say which numbers are accepted, and where there are more."""
    accepted = _NUMBERS[arithmetic][name]
    low, high = (_power(k) for k in (accepted.smallest, accepted.largest))
    if accepted.negative:
        words = f"a number of a size from {low} to {high}"
    else:
        words = f"a number from {low} to {high}"
    if accepted.zero and accepted.smallest:
        words = f"0, or {words}"
    if accepted != _NUMBERS["float64"][name]:
        wider = _power(_NUMBERS["float64"][name].largest)
        words += f", the range of {arithmetic} arithmetic, or float64 logits (up to {wider})"
    return words


def _power(number: float) -> str:
    return f"2**{frexp(number)[1] - 1}" if number not in (0.0, 1.0) else f"{number:.0f}"


def plain_axis(caller: str, axis: Any, several: bool = True) -> Axis:
    """Return `axis` as an int and, where a row may have `several`, as a tuple of ints or None."""
    if not several:
        return plain_count(caller, "axis", axis, "an int, the axis of the rows")
    if axis is None:
        return None
    if isinstance(axis, tuple) and all(map(_is_int, axis)):
        return tuple(int(a) for a in axis)
    return plain_count(caller, "axis", axis, "an int, a tuple of ints, or None")


def plain_choice(caller: str, name: str, value: Any, known: Collection[str]) -> str:
    """Return one of some words; TypeError for what is no text, ValueError for another word."""
    *others, last = (repr(word) for word in known)
    words = f"{', '.join(others)} or {last}"
    if not isinstance(value, str):
        raise wrong_kind(caller, name, value, words)
    if value not in known:
        raise ValueError(f"{caller}: {name}={described(value)} is not known; give {words}")
    return value


def plain_list(caller: str, name: str, value: Any, accepted: str) -> list[Any]:
    """Return a sequence as a list; text, which is a sequence of characters, is refused."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return list(value)
    raise wrong_kind(caller, name, value, accepted)


def plain_shape(caller: str, shape: Any) -> tuple[int, ...]:
    """Return a shape as a tuple of ints; ValueError if a size is negative or no int64."""
    sizes = plain_list(caller, "shape", shape, "a tuple of ints")
    if not all(map(_is_int, sizes)):
        raise wrong_kind(caller, "shape", shape, "a tuple of ints")
    if any(size < 0 for size in sizes):
        raise ValueError(f"{caller}: shape {described(shape)} has a negative size")
    if any(size >= 1 << 63 for size in sizes):
        raise ValueError(f"{caller}: shape {described(shape)} has a size beyond an int64")
    return tuple(int(size) for size in sizes)


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def resolve_axes(caller: str, axis: Any, ndim: int, several: bool = True) -> tuple[int, ...]:
    """Return the axes that make up a row: ascending, not negative, none twice.

    As in SciPy, None means all axes, and () means none: every element is then a row of its own. An
    array without dimensions is one row of one element, and also accepts axis 0 and -1.
    """
    axis = plain_axis(caller, axis, several)
    if axis is None or (ndim == 0 and axis in (0, -1)):
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple) else (axis,)
    for a in given:
        if not -ndim <= a < ndim:
            if a.bit_length() > _MOST_BITS:  # AxisError could not print it
                raise AxisError(f"{caller}: axis {described(a)} is out of bounds")
            raise AxisError(a, ndim, caller)
    axes = tuple(sorted(a % ndim for a in given))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{caller}: axis={axis} names an axis twice; name each once")
    return axes


# ------------------------------------------------------------------------------------------- dtypes


def as_dtype(caller: str, dtype: Any, name: str = "dtype") -> np.dtype[Any]:
    """Return `dtype` as a NumPy dtype; "bfloat16" is accepted before `ml_dtypes` is imported."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    converted = _converted(dtype)
    if converted is None:
        raise TypeError(
            f"{caller}: {name}={described(dtype)} is not a dtype; give one of {', '.join(FLOATS)}"
        )
    return converted


def _converted(dtype: Any) -> np.dtype[Any] | None:
    # NumPy would also take the dtype of an array, lists and tuples of fields, and None.
    if not isinstance(dtype, (str, type, np.dtype)):
        return None
    try:
        return np.dtype(dtype)
    except Exception:  # text raises errors of many types
        return None


@lru_cache(maxsize=256)
def _name(dtype: np.dtype[Any]) -> str | None:
    """Return the name of an accepted dtype in native byte order, or None for any other."""
    return dtype.name if dtype.isnative and dtype.name in ITEMSIZE else None


def accepted_name(caller: str, what: str, dtype: np.dtype[Any], accepted: Collection[str]) -> str:
    """Return the name of `dtype`; TypeError if not in `accepted`, with `what` in the message."""
    name = _name(dtype)
    if name is None or name not in accepted:
        raise TypeError(
            f"{caller}: {what} {dtype}, which is not accepted; the dtypes are {', '.join(accepted)}"
        )
    return name


def float_name(caller: str, what: str, dtype: np.dtype[Any]) -> str:
    """Return the name of an output dtype; TypeError if it is not an accepted float."""
    name = _name(dtype)
    if name is None or name not in FLOATS:
        raise TypeError(f"{caller}: {what}{dtype} cannot hold the result; give {', '.join(FLOATS)}")
    return name


# ------------------------------------------------------------------------------------------- arrays


class NotCuPy(Exception):
    """An array is not one of CuPy's: it may have to be lent as one before `caller` can go on."""

    def __init__(self, caller: str) -> None:
        super().__init__(caller)
        self.caller = caller


def is_array(value: Any) -> bool:
    """Whether a value is a CuPy array."""
    cupy: Any = sys.modules.get("cupy")  # if it is not imported, none of its arrays exist
    return cupy is not None and isinstance(value, cupy.ndarray)


def as_outs(op: str, out: Any) -> tuple[Any, ...]:
    """Return `out` as a tuple with an array for each result."""
    operation = find(op)
    names = operation.written
    if len(names) == 1 and not isinstance(out, tuple):
        return (out,)
    if len(names) > 1 and isinstance(out, tuple) and len(out) == len(names):
        return tuple(out)
    got = f"a {type(out).__name__}"
    if isinstance(out, tuple):
        got = f"a tuple of {len(out)}"
    wanted = "an array" if len(names) == 1 else f"a tuple of {len(names)}: {', '.join(names)}"
    raise TypeError(f"{operation.function}: out is {got}; give {wanted}, or leave it out")


def check_types(
    caller: str, names: Sequence[str], arrays: Sequence[Any], results: Collection[str] = ()
) -> None:
    """Refuse what is not a CuPy array, and say how to convert it; some names are of `results`.

    Arrays of other libraries have been lent as CuPy arrays before (`runtime.foreign`).
    """
    for name, value in zip(names, arrays, strict=True):
        if not is_array(value):
            raise not_an_array(caller, name, type(value), name in results)


def not_an_array(caller: str, name: str, kind: type, result: bool, how: str = "") -> TypeError:
    """Return the error for what is no array that a kernel can use; `how` converts it."""
    if result:
        how = "give a cupy.ndarray to write into, or leave it out"
    return TypeError(
        f"{caller}: {name} is a {full_name(kind)}, and only CuPy arrays, and others that share GPU "
        f"memory (DLPack, __cuda_array_interface__), are accepted; "
        f"{how or f'pass cupy.asarray({name})'}"
    )


def check_device(caller: str, name: str, array: Array, first: str, model: Array) -> None:
    """Refuse an array on another device than that of the first one, `model`."""
    here, there = array.data.device_id, model.data.device_id
    if here != there:
        raise ValueError(
            f"{caller}: {name} is on device {here} and {first} on device {there}; move one of them "
            f"first, with cupy.asarray under the other's device"
        )


def check_aligned(caller: str, name: str, view: View) -> None:
    """Refuse an array whose elements lie where a GPU cannot read them.

    A misaligned access ends all work of the process on that GPU.
    """
    size = ITEMSIZE[view.dtype]
    steps = [s for n, s in zip(view.shape, view.strides, strict=True) if n > 1]
    if 0 not in view.shape and any(place % size for place in (view.pointer, *steps)):
        raise ValueError(
            f"{caller}: {name} is misaligned: its elements have {size} bytes, its address is a "
            f"multiple of {view.pointer & -view.pointer} and its strides are {view.strides}; give "
            f"an array whose address and strides are multiples of {size}"
        )


def check_shape(
    caller: str,
    name: str,
    shape: tuple[int, ...],
    first: str,
    model: tuple[int, ...],
    expected: tuple[int, ...],
    holds: str = "one value for each row",
) -> None:
    """Refuse an array whose shape is not the expected one.

    `model` is the shape of the first array; `holds` says what an array of another shape has in it.
    """
    if shape == expected:
        return
    if expected == model:
        raise ValueError(
            f"{caller}: {name} has shape {shape} and {first} has {model}; give arrays of one "
            f"shape (cupy.broadcast_to repeats an input without a copy)"
        )
    raise ValueError(
        f"{caller}: {name} has shape {shape}; with {first} of shape {model} it has {holds}, so "
        f"give it shape {expected}"
    )


def broadcasts(shape: tuple[int, ...], model: tuple[int, ...]) -> bool:
    """Whether an array of a shape can be a view of another one."""
    sizes = zip(shape[::-1], model[::-1], strict=False)
    return len(shape) <= len(model) and all(size in (1, whole) for size, whole in sizes)


def broadcast_shape(caller: str, *operands: tuple[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape that operands, given by name and shape, have in common when broadcast."""
    shapes = [shape for _, shape in operands]
    most = max(map(len, shapes))
    padded = [(1,) * (most - len(shape)) + shape for shape in shapes]
    sizes = [{size for size in each if size != 1} for each in zip(*padded, strict=True)]
    if any(len(several) > 1 for several in sizes):
        words = " and ".join(f"{name} has shape {shape}" for name, shape in operands)
        raise ValueError(
            f"{caller}: {words}, which do not broadcast with each other; give them equal sizes, or "
            f"sizes of 1"
        )
    return tuple([max(several, default=1) for several in sizes])


def check_offsets(caller: str, offsets: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Return the number of segments; refuse shapes that cannot be divided into segments."""
    if not shape:
        raise ValueError(
            f"{caller}: an array of no dimensions has no segments; give it at least one"
        )
    if len(offsets) != 1 or offsets[0] == 0:
        raise ValueError(
            f"{caller}: offsets has shape {offsets}; give one dimension, of one entry more than "
            f"there are segments: where each begins, and where the last ends"
        )
    return offsets[0] - 1


def check_choice(caller: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Refuse empty rows, for operations that choose an element of each row."""
    if any(shape[d] == 0 for d in axes):
        raise ValueError(
            f"{caller}: x has shape {shape}, and a row no element; give it at least one"
        )


def check_selection(caller: str, k: Any, shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Refuse to select more elements than a row has, or than the kernels can hold."""
    if not axes:
        raise ValueError(f"{caller}: x has no dimensions; give it at least one")
    if not 1 <= k <= MOST_SELECTED:
        raise ValueError(
            f"{caller}: k={described(k)} is not accepted; give a number from 1 to {MOST_SELECTED}"
        )
    n = shape[axes[0]]
    if k > n:
        elements = f"{n} element{'' if n == 1 else 's'}"
        raise ValueError(
            f"{caller}: k={k}, but a row has only {elements} along the axis (shape {shape}); give "
            f"a k of at most that many"
        )


def check_same_dtype(caller: str, operation: Operation, results: Sequence[View]) -> None:
    """Refuse results of different dtypes, because the first one's dtype decides the arithmetic."""
    dtypes = [view.dtype for view in results[: len(operation.outputs)]]
    if len(set(dtypes)) > 1:
        raise ValueError(
            f"{caller}: the results are {', '.join(dtypes)}; give arrays of one dtype as out"
        )
