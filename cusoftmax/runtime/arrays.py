"""CuPy arrays that a call needs beside those it was given: results, workspaces and views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from cusoftmax.planning.checks import Array
from cusoftmax.planning.problem import k_order


def allocator(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
) -> Callable[[], Any]:
    """Return what makes arrays as described, by the allocator that is then set in CuPy."""
    import cupy

    # Strides of 0 rank no dimension before another: C order.
    if strides == k_order(shape, (0,) * len(shape), dtype.itemsize):
        plain: Callable[[], Any] = partial(cupy.ndarray, shape, dtype)  # all that cupy.empty does
        return plain
    size = prod(shape) * dtype.itemsize
    return lambda: cupy.ndarray(shape, dtype, cupy.cuda.alloc(size), strides)


def broadcast(op: str, name: str, array: Array, first: str, model: Array) -> Array:
    """Return `array` as a view of the shape of `model`; ValueError if it cannot be one."""
    try:
        if array.shape == model.shape:
            return array
        import cupy

        return cupy.broadcast_to(array, model.shape)
    except (AttributeError, TypeError):
        return array  # no array of CuPy's: what checks it says so
    except ValueError:
        raise ValueError(
            f"{op}: {name} has shape {array.shape}, which does not broadcast to that of {first}, "
            f"{model.shape}; give {name} that shape, or sizes of 1"
        ) from None


def broadcast_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Return an array of the library's own as a view of a shape."""
    import cupy

    return cupy.broadcast_to(array, shape)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a new array of any values."""
    import cupy

    return cupy.ndarray(shape, dtype)


def repeated(op: str, name: str, array: Array) -> Array:
    """Return a view of shape (..., n, n) in which each row of `array` is repeated n times."""
    try:
        shape = array.shape
        if not shape:
            raise ValueError(f"{op}: {name} has no dimensions; give it at least one")
        import cupy

        return cupy.broadcast_to(array[..., None, :], (*shape, shape[-1]))
    except (AttributeError, TypeError):
        return array  # no array of CuPy's: what checks it says so
