"""Small array libraries, for tests where no other is installed."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import cupy
import numpy as np

CPU, CUDA = 1, 2  # DLPack's types of devices


class Tensor(ctypes.Structure):
    """What a DLPack capsule without a version begins with."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 2),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class Versioned(ctypes.Structure):
    """What one of version 1 holds."""

    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class ByCapsule:
    """An array that makes its capsules itself, so that each field may be anything.

    Parameters
    ----------
    array : numpy.ndarray
        Its memory.
    code : tuple of int
        DLPack's code of the dtype, and its bits.
    **fields
        ``lanes``, ``byte_offset``, ``data``, ``device``, ``strides`` (None for no strides) and, for
        a capsule with a version, ``version`` and ``flags``.
    """

    def __init__(self, array: np.ndarray, code: tuple[int, int] = (2, 32), **fields: Any) -> None:
        self.array, self.code, self.fields = array, code, fields
        self.asked: list[dict[str, Any]] = []  # the arguments of each __dlpack__
        self.freed = 0
        self._kept: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.fields.get("device", (CPU, 0))

    def __dlpack__(self, **asked: Any) -> Any:
        self.asked.append(asked)
        fields, array = self.fields, self.array
        if "version" not in fields and "max_version" in asked:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        lengths = ctypes.c_int64 * max(array.ndim, 1)
        shape = lengths(*array.shape)
        strides = lengths(*(step // (self.code[1] // 8) for step in array.strides))
        offset = fields.get("byte_offset", 0)
        tensor = Tensor(
            data=fields.get("data", array.ctypes.data - offset),
            device=self.__dlpack_device__(),
            ndim=array.ndim,
            dtype=self.code,
            lanes=fields.get("lanes", 1),
            shape=ctypes.addressof(shape),
            strides=ctypes.addressof(strides) if fields.get("strides", True) else None,
            byte_offset=offset,
        )
        held: Any = tensor
        if "version" in fields:
            held = Versioned(version=fields["version"], flags=fields.get("flags", 0), tensor=tensor)
        name = b"dltensor_versioned" if "version" in fields else b"dltensor"

        def destroy(_: int) -> None:
            self.freed += 1

        destructor = DESTRUCTOR(destroy)
        self._kept += [shape, strides, held, name, destructor]
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        return new(ctypes.c_void_p(ctypes.addressof(held)), ctypes.c_char_p(name), destructor)


class OfLibrary:
    """An array of a library that follows the array API standard.

    Parameters
    ----------
    array : numpy.ndarray or cupy.ndarray
        Its memory.
    stream : cupy.cuda.Stream, optional
        The stream that the library works on.
    """

    def __init__(self, array: Any, stream: Any = None) -> None:
        self.array, self.stream = array, stream
        self.streams: list[int | None] = []  # those of its consumers

    def __dlpack_device__(self) -> tuple[int, int]:
        return tuple(map(int, self.array.__dlpack_device__()))  # type: ignore[return-value]

    def __dlpack__(self, *, stream: int | None = None, max_version: Any = None) -> Any:
        self.streams.append(stream)
        if self.stream is None:
            return self.array.__dlpack__(max_version=max_version)
        consumer = SimpleNamespace(__cuda_stream__=lambda: (0, stream))
        cupy.cuda.Stream.from_external(consumer).wait_event(self.stream.record())
        return self.array.__dlpack__(stream=-1, max_version=max_version)

    def __array_namespace__(self) -> Any:
        return SimpleNamespace(from_dlpack=self._from_dlpack)

    def _from_dlpack(self, other: Any) -> OfLibrary:
        if self.stream is None:
            numpy = isinstance(self.array, np.ndarray)
            return OfLibrary(np.from_dlpack(other) if numpy else cupy.from_dlpack(other))
        capsule = other.__dlpack__(stream=self.stream.ptr)
        return OfLibrary(cupy.from_dlpack(capsule), self.stream)


class ByInterface:
    """An array that has ``__cuda_array_interface__`` alone.

    Parameters
    ----------
    array : cupy.ndarray
        Its memory.
    **entries
        Of the interface, instead of those of `array`; None leaves one out.
    """

    def __init__(self, array: Any, **entries: Any) -> None:
        self.array = array
        made = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.data.ptr, False),
            "strides": array.strides,
            "version": 3,
        } | entries
        self.entries = {name: entry for name, entry in made.items() if entry is not None}

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.entries
