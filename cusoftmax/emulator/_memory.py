"""True ``cupy.ndarray`` objects over host memory."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 512  # as CuPy's own pool aligns
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def allocate(nbytes: int) -> Any:
    """Return host memory behind a CuPy pointer, its bytes 0xFF: NaN as any float."""
    import cupy

    room = np.full(nbytes + _ALIGNMENT, 0xFF, dtype=np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    memory = cupy.cuda.memory.UnownedMemory(
        room.ctypes.data + start, max(nbytes, 1), room, device_id=0
    )
    return cupy.cuda.memory.MemoryPointer(memory, 0)


def asarray(array: npt.ArrayLike, misalign: int = 0) -> Any:
    """Copy a NumPy array to a ``cupy.ndarray`` on host memory.

    Parameters
    ----------
    array : array_like
        What to copy, of any shape and dtype. C or Fortran order is kept; any other layout becomes C
        order.
    misalign : int
        Bytes by which the first element lies past a 512-byte boundary.

    Returns
    -------
    cupy.ndarray
        The copy, with the same shape and dtype.

    Examples
    --------
    >>> from cusoftmax import emulator
    >>> emulator.asarray([[1.0, 2.0]]).shape
    (1, 2)
    """
    import cupy

    source = np.asarray(array)
    order: Any = "F" if source.flags.f_contiguous and not source.flags.c_contiguous else "C"
    pointer = allocate(source.nbytes + misalign) + misalign
    made = cupy.ndarray(source.shape, source.dtype, memptr=pointer, order=order)
    if source.size:
        view_of(made)[...] = source
    return made


def sparse(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
    """Return zeros that take memory only where they are written, for very large arrays."""
    import cupy

    kind = np.dtype(dtype)
    nbytes = max(int(np.prod(shape, dtype=object)) * kind.itemsize, 1)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    region = mmap.mmap(-1, nbytes, flags=flags)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    memory = cupy.cuda.memory.UnownedMemory(start, nbytes, region, device_id=0)
    return cupy.ndarray(shape, kind, memptr=cupy.cuda.memory.MemoryPointer(memory, 0))


def view_of(array: Any) -> npt.NDArray[Any]:
    """Return a NumPy array over the memory of a ``cupy.ndarray``, which it keeps alive."""
    if not array.size:
        return np.empty(array.shape, array.dtype)
    low = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True) if s < 0)
    high = sum((n - 1) * s for n, s in zip(array.shape, array.strides, strict=True) if s > 0)
    nbytes = high - low + array.dtype.itemsize
    room: Any = (ctypes.c_uint8 * nbytes).from_address(array.data.ptr + low)
    room.owner = array
    return np.ndarray(array.shape, array.dtype, buffer=room, offset=-low, strides=array.strides)


def asnumpy(array: Any) -> npt.NDArray[Any]:
    """Copy a ``cupy.ndarray`` on host memory, of any strides, to a NumPy array.

    Parameters
    ----------
    array : cupy.ndarray
        What to copy, of any shape and dtype.

    Returns
    -------
    numpy.ndarray
        The copy, with the same shape and dtype.

    Examples
    --------
    >>> from cusoftmax import emulator
    >>> emulator.asnumpy(emulator.asarray([1.0, 2.0]))
    array([1., 2.])
    """
    return view_of(array).copy()
