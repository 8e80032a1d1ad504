"""Copies between the host and the device beside the kernels: on three streams, or on the emulator.

Work is at one of three places: copies to the device, kernels, and copies to the host. On a GPU each
is a stream, and marks are events. On the emulator everything is done when it is asked for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, Protocol

import numpy as np

from cusoftmax.planning.checks import Array
from cusoftmax.runtime import arrays
from cusoftmax.runtime.backend import active

IN, COMPUTE, OUT = "in", "compute", "out"
_ALIGNMENT = 512  # of CuPy's allocators


def padded(nbytes: int) -> int:
    """Return the bytes that an allocation of `nbytes` takes in a `Region`."""
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def copy(to: Array, array: Array) -> None:
    """Copy between contiguous arrays of one dtype, by the copy engine and not by a kernel."""
    if not array.size:
        return
    if active().on_host:
        active().shared(to)[...] = active().shared(array)
    else:
        to.data.copy_from_device_async(array.data, array.nbytes)


def stacked(parts: Sequence[Array]) -> Array:
    """Return contiguous arrays of one shape and dtype as one, along a new first dimension."""
    if len(parts) == 1:
        return parts[0][None]
    made = arrays.empty((len(parts), *parts[0].shape), parts[0].dtype)
    for i, part in enumerate(parts):
        copy(made[i], part)
    return made


class Region:
    """A part of device memory, from which arrays are allocated one after the other."""

    def __init__(self, address: int, nbytes: int, owner: Any, device: int) -> None:
        self._address, self._nbytes, self._owner, self._device = address, nbytes, owner, device
        self._used = 0

    def clear(self) -> None:
        """Let all of it be allocated again."""
        self._used = 0

    def allocate(self, nbytes: int) -> Any:
        """Return memory, as CuPy's allocators do."""
        start, self._used = self._used, self._used + padded(nbytes)
        if self._used > self._nbytes:
            raise MemoryError(f"{self._used} bytes, but the part has {self._nbytes}")
        return arrays.memory(self._address + start, nbytes, self._owner, self._device)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return a new array."""
        import cupy

        return cupy.ndarray(shape, dtype, self.allocate(prod(shape) * dtype.itemsize))


class Device(Protocol):
    """Where the kernels run, and the copies beside them."""

    def pinned(self, nbytes: int) -> np.ndarray[Any, Any]: ...

    def copy_in(self, device: Array, host: np.ndarray[Any, Any]) -> None: ...

    def copy_out(self, host: np.ndarray[Any, Any], device: Array) -> None: ...

    def mark(self, place: str) -> Any: ...

    def follow(self, place: str, mark: Any) -> None: ...

    def wait(self, mark: Any) -> None: ...

    def computing(self) -> Any: ...

    def close(self) -> None: ...


class _Emulated:
    """Copies of memory; nothing has to be waited for."""

    def __init__(self) -> None:
        self._view = active().shared

    def pinned(self, nbytes: int) -> np.ndarray[Any, Any]:
        return np.empty(nbytes, np.uint8)

    def copy_in(self, device: Array, host: np.ndarray[Any, Any]) -> None:
        self._view(device)[...] = host

    def copy_out(self, host: np.ndarray[Any, Any], device: Array) -> None:
        host[...] = self._view(device)

    def mark(self, place: str) -> None:
        """Return nothing: all is done."""

    def follow(self, place: str, mark: None) -> None:
        """All is in order."""

    def wait(self, mark: None) -> None:
        """All is done."""

    @contextmanager
    def computing(self) -> Iterator[None]:
        yield

    def close(self) -> None:
        """Nothing is left to be done."""


class _Streams:
    """Three streams of the current device, which begin after what its current stream does now."""

    def __init__(self) -> None:
        import cupy

        self._cupy: Any = cupy
        now = cupy.cuda.get_current_stream().record()
        self._streams = {place: cupy.cuda.Stream(non_blocking=True) for place in (IN, COMPUTE, OUT)}
        for stream in self._streams.values():
            stream.wait_event(now)

    def pinned(self, nbytes: int) -> np.ndarray[Any, Any]:
        """Return host memory that copies need not stage."""
        memory = self._cupy.cuda.alloc_pinned_memory(max(nbytes, 1))
        return np.frombuffer(memory, np.uint8, nbytes)

    def copy_in(self, device: Array, host: np.ndarray[Any, Any]) -> None:
        place = ctypes.c_void_p(host.ctypes.data)
        if host.nbytes:
            device.data.copy_from_host_async(place, host.nbytes, self._streams[IN])

    def copy_out(self, host: np.ndarray[Any, Any], device: Array) -> None:
        place = ctypes.c_void_p(host.ctypes.data)
        if host.nbytes:
            device.data.copy_to_host_async(place, host.nbytes, self._streams[OUT])

    def mark(self, place: str) -> Any:
        """Return an event: all that a place has been given."""
        return self._streams[place].record(self._cupy.cuda.Event(disable_timing=True))

    def follow(self, place: str, mark: Any) -> None:
        """Let what a place is given from now on come after a mark."""
        self._streams[place].wait_event(mark)

    def wait(self, mark: Any) -> None:
        mark.synchronize()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Launch kernels on their stream."""
        with self._streams[COMPUTE]:
            yield

    def close(self) -> None:
        for stream in self._streams.values():
            stream.synchronize()


def open_device() -> Device:
    """Return the device that the calls of this thread run on."""
    return _Emulated() if active().on_host else _Streams()


def regions(sizes: list[int]) -> list[Region]:
    """Allocate device memory, and divide it into parts of these sizes."""
    import cupy

    backend = active()
    whole = cupy.cuda.alloc(sum(sizes))
    device: Any = 0 if backend.on_host else backend.key
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [
        Region(whole.ptr + start, size, whole, device)
        for start, size in zip(starts, sizes, strict=True)
    ]


def free_bytes() -> int:
    """Return the free memory of the device; on the emulator a number of that order."""
    if active().on_host:
        return 1 << 30
    import cupy

    return int(cupy.cuda.runtime.memGetInfo()[0])


def allocating(region: Region) -> Any:
    """Let results and workspaces come from a region."""
    import cupy

    allocate: Callable[[int], Any] = region.allocate
    return cupy.cuda.using_allocator(allocate)
