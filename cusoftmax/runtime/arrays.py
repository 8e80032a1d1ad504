"""Views of CuPy arrays, and new arrays, that the public functions pass to the kernels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from cusoftmax.planning.checks import Array, NotCuPy, broadcasts, is_array


def broadcast(caller: str, name: str, array: Array, first: str, model: Array) -> Array:
    """Return `array` as a view of the shape of `model`; ValueError if it cannot be one."""
    if not is_array(array) or not is_array(model):
        raise NotCuPy(caller)
    if array.shape == model.shape:
        return array
    if not broadcasts(array.shape, model.shape):
        raise ValueError(
            f"{caller}: {name} has shape {array.shape}, which does not broadcast to that of "
            f"{first}, {model.shape}; give {name} that shape, or sizes of 1"
        )
    return broadcast_to(array, model.shape)


def broadcast_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Return an array as a view of a shape that it is known to broadcast to."""
    import cupy

    return cupy.broadcast_to(array, shape)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a new array, whose values are undefined."""
    import cupy

    return cupy.ndarray(shape, dtype)


def repeated(caller: str, name: str, array: Array) -> Array:
    """Return a view of shape (..., n, n) in which each row of `array` is repeated n times."""
    if not is_array(array):
        raise NotCuPy(caller)
    if not array.ndim:
        raise ValueError(f"{caller}: {name} has no dimensions; give it at least one")
    return broadcast_to(array[..., None, :], (*array.shape, array.shape[-1]))


def memory(address: int, nbytes: int, owner: Any, device: int) -> Any:
    """Return a CuPy pointer to memory that `owner` keeps alive, as CuPy's allocators return one.

    A function from a size to such a pointer is an allocator: within ``cupy.cuda.using_allocator``
    of it, the results and workspaces of this thread's calls come from there.
    """
    from cupy.cuda.memory import MemoryPointer, UnownedMemory

    # Without the device, CuPy would ask the driver for it.
    return MemoryPointer(UnownedMemory(address, nbytes, owner, device), 0)


def over(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    owner: Any,
    device: int,
) -> Array:
    """Return a CuPy array over memory that `owner` keeps alive; strides in bytes.

    `address` is that of the first element. It may be 0 if there is none.
    """
    import cupy

    pointer = memory(address, prod(shape) * dtype.itemsize, owner, device)
    return cupy.ndarray(shape, dtype, pointer, strides)
