"""Views of CuPy arrays, and new arrays, that the public functions pass to the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from cusoftmax.planning.checks import Array


def broadcast(op: str, name: str, array: Array, first: str, model: Array) -> Array:
    """Return `array` as a view of the shape of `model`; ValueError if it cannot be one."""
    try:
        if array.shape == model.shape:
            return array
        import cupy

        return cupy.broadcast_to(array, model.shape)
    except (AttributeError, TypeError):
        return array  # not a CuPy array; the checks of the call raise the error
    except ValueError:
        raise ValueError(
            f"{op}: {name} has shape {array.shape}, which does not broadcast to that of {first}, "
            f"{model.shape}; give {name} that shape, or sizes of 1"
        ) from None


def broadcast_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Return an array that this package made as a view of a shape."""
    import cupy

    return cupy.broadcast_to(array, shape)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return a new array, whose values are undefined."""
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
        return array  # not a CuPy array; the checks of the call raise the error
