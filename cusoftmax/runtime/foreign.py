"""Arrays of other libraries: lent to a call as CuPy arrays over the same memory, and given back.

An array comes by DLPack or, if its library has none, by ``__cuda_array_interface__`` (version 3).
Nothing is copied, and results become arrays of the first array's library in the same two ways.

The kernels run on CuPy's current stream, and both streams keep their order on the device, never by
the host: what the other library's stream still writes comes before the kernels, and what that
stream does after the call, which may be to reuse memory, comes after them.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cusoftmax.operations.dtypes import INPUTS
from cusoftmax.operations.lookup import find
from cusoftmax.planning.checks import (
    Array,
    as_dtype,
    as_outs,
    full_name,
    is_array,
    not_an_array,
)
from cusoftmax.planning.problem import k_order
from cusoftmax.runtime import arrays
from cusoftmax.runtime.backend import active, gpu_is_present

_VERSION = (1, 0)  # of DLPack
_CPU, _CUDA, _PINNED, _MANAGED = 1, 2, 3, 13  # DLPack's types of devices
_READ_ONLY, _COPIED = 1, 2  # DLPack's flags
_BFLOAT = (4, 16)  # DLPack's code of the dtype, and its bits
_DTYPES = {
    (code, 8 * size): f"{kind}{size}"
    for code, kind, sizes in ((0, "i", (1, 2, 4, 8)), (1, "u", (1, 2, 4, 8)), (2, "f", (2, 4, 8)))
    for size in sizes
} | {(6, 8): "?"}
_INTERFACE = "__cuda_array_interface__"
_JAX = {"jax", "jaxlib"}


class _Tensor(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    """`DLManagedTensorVersioned` of dlpack.h."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


class _Library(NamedTuple):
    """How arrays are made that share the memory of CuPy's.

    Attributes
    ----------
    share : callable
        From an array of CuPy, or of NumPy on the emulator, to one of the library. Its current
        stream then waits for CuPy's.
    bfloat16 : dtype or None
        The library's own.
    immutable : bool
        Whether its arrays must not be written.
    """

    share: Callable[[Any], Any]
    bfloat16: Any
    immutable: bool = False


class _Lent(NamedTuple):
    """An array of another library, and the one over its memory."""

    given: Any
    array: Array
    library: _Library | None
    stream: int | None  # that of `__cuda_array_interface__`
    read_only: bool


class Loan:
    """The arrays of one call.

    Parameters
    ----------
    caller : str
        The public function, for messages.
    """

    def __init__(self, caller: str) -> None:
        self._caller = caller
        self._backend = active()
        self._first: Any = None
        self._lent: dict[int, _Lent] = {}
        self._written: list[Any] = []

    def array(self, name: str, value: Any) -> Array:
        """Return an input as a CuPy array; the first one decides the type of the results."""
        array = value if is_array(value) else self._borrowed(name, value).array
        if self._first is None:
            self._first = value
        return array

    def arrays(self, names: tuple[str, ...], values: tuple[Any, ...]) -> tuple[Array, ...]:
        """Return several inputs as CuPy arrays."""
        return tuple([self.array(name, value) for name, value in zip(names, values, strict=True)])

    def result(self, name: str, value: Any) -> Array:
        """Return an array to write into as a CuPy array."""
        if is_array(value):
            return value
        lent = self._borrowed(name, value, result=True)
        if lent.library is not None and lent.library.immutable:
            raise TypeError(
                f"{self._caller}: {name} is a {full_name(type(value))}, which cannot be written; "
                f"let the call make its results: they are of the type of the first array"
            )
        if lent.read_only:
            raise ValueError(
                f"{self._caller}: {name} is read-only, or its library gave a copy of it; give an "
                f"array that can be written"
            )
        self._written.append(value)
        return lent.array

    def results(self, op: str, out: Any) -> Any:
        """Return what the user gave for an operation to write into, as CuPy arrays."""
        if out is None:
            return None
        names = find(op).written
        own = [self.result(*each) for each in zip(names, as_outs(op, out), strict=True)]
        return tuple(own) if len(own) > 1 else own[0]

    def returned(self, results: Any) -> Any:
        """Return the results as the user gets them; all streams wait for what was launched."""
        several = results if isinstance(results, tuple) else (results,)
        library = None if is_array(self._first) else _library(self._first)
        own = {id(lent.array): lent.given for lent in self._lent.values()}
        for given in self._written:
            _note_written(given)
        made: list[Any] = []
        waiting: list[_Library | None] = []
        for array in several:
            given = own.get(id(array))
            if given is None and is_array(array):  # if not, a call within this one gave it back
                given = self._shared(library, array)
                waiting = waiting if given is array else [library]
            made.append(array if given is None else given)
        if not self._backend.on_host:
            self._let_streams_wait(waiting)
        return tuple(made) if isinstance(results, tuple) else made[0]

    def _shared(self, library: _Library | None, array: Array) -> Any:
        """Return an array of a library over the memory of a CuPy array."""
        if library is None:
            return array
        if array.dtype.name != "bfloat16":
            return library.share(self._backend.shared(array))
        # Neither NumPy nor all versions of CuPy give bfloat16 to DLPack.
        if library.bfloat16 is None:
            return array
        return library.share(self._backend.shared(array.view(np.int16))).view(library.bfloat16)

    def _let_streams_wait(self, waiting: list[_Library | None]) -> None:
        """Let the streams of all arrays' libraries wait for CuPy's, on the device."""
        import cupy

        ours = cupy.cuda.get_current_stream()
        for lent in self._lent.values():
            if lent.stream is not None and lent.stream != _number(ours):
                _stream(lent.stream).wait_event(ours.record())
            if lent.stream is None and lent.library not in waiting:
                waiting.append(lent.library)
                self._shared(lent.library, lent.array)

    def _borrowed(self, name: str, value: Any, result: bool = False) -> _Lent:
        lent = self._lent.get(id(value))
        if lent is None:
            kind = type(value)
            if isinstance(value, (np.ndarray, np.generic)):
                raise self._refused(name, value, result)
            if hasattr(kind, "__dlpack__") and hasattr(kind, "__dlpack_device__"):
                lent = self._by_dlpack(name, value)
            elif _INTERFACE in getattr(value, "__dict__", ()) or hasattr(kind, _INTERFACE):
                lent = self._by_interface(name, value)
            else:
                raise self._refused(name, value, result)
            self._lent[id(value)] = lent
        return lent

    def _refused(self, name: str, value: Any, result: bool) -> TypeError:
        how = f"pass cusoftmax.emulator.asarray({name})" if self._backend.on_host else ""
        if _roots(type(value)) & _JAX:
            how = "call it outside of jax.jit, jax.grad and jax.vmap"  # a tracer, without memory
        return not_an_array(self._caller, name, type(value), result, how)

    def _by_dlpack(self, name: str, value: Any) -> _Lent:
        capsule, failed = self._capsule(name, value)
        if capsule is None:
            raise self._not_given(name, value, failed)
        self._check_plain(name, value)
        tensor, flags = _described(capsule)
        if tensor is None:
            raise self._not_given(name, value, "in a version of DLPack that is not known")
        shape = tuple(tensor.shape[: tensor.ndim])
        dtype = _dtype(tensor)
        if dtype is None:
            raise self._wrong_dtype(name, value)
        if tensor.strides:
            strides = tuple([step * dtype.itemsize for step in tensor.strides[: tensor.ndim]])
        else:
            strides = _c_order(shape, dtype)
        address = (tensor.data or 0) + tensor.byte_offset
        if not address and 0 not in shape:
            raise self._not_given(name, value, "its address is 0")
        device = self._current_device()  # in which it is, as was checked
        # As long as the capsule lives, not taken by another consumer, so does the memory: when it
        # goes, it calls the deleter.
        array = arrays.over(address, shape, strides, dtype, capsule, device)
        return _Lent(value, array, _library(value), None, bool(flags & (_READ_ONLY | _COPIED)))

    def _capsule(self, name: str, value: Any) -> tuple[Any, str]:
        """Return the DLPack capsule of an array in the right place, or why there is none."""
        try:
            kind, number = (int(each) for each in value.__dlpack_device__())
        except Exception as error:  # of any type
            return None, _first_line(error)
        self._check_place(name, value, kind, number)
        stream = None if self._backend.on_host else _consumer_stream()
        try:
            try:
                return value.__dlpack__(stream=stream, max_version=_VERSION), ""
            except TypeError:  # from before version 1
                return value.__dlpack__(stream=stream), ""
        except Exception as error:
            return None, _first_line(error)

    def _check_plain(self, name: str, value: Any) -> None:
        """Refuse a tensor that is more than its memory, of which DLPack says nothing."""
        if "torch" not in _roots(type(value)):
            return
        if value.is_neg():
            raise TypeError(
                f"{self._caller}: {name} is the negative of what its memory holds; pass "
                f"{name}.resolve_neg()"
            )
        forward_ad = sys.modules["torch"].autograd.forward_ad
        if forward_ad.unpack_dual(value).tangent is not None:
            raise TypeError(
                f"{self._caller}: {name} has a tangent, which is not carried on here; use "
                f"cusoftmax.torch, whose functions do, or pass "
                f"torch.autograd.forward_ad.unpack_dual({name}).primal"
            )

    def _check_place(self, name: str, value: Any, kind: int, number: int) -> None:
        """Refuse an array that the kernels cannot reach."""
        host, gpu = self._backend.on_host, kind in (_CUDA, _MANAGED)
        if host and kind in (_CPU, _PINNED):
            return
        if gpu and not host:
            current = self._current_device()
            if kind == _MANAGED or number == current:
                return
            raise ValueError(
                f"{self._caller}: {name} is on device {number}, but device {current} is current; "
                f"call within `with cupy.cuda.Device({number}):`, with all arrays on it"
            )
        given = f"{self._caller}: {name} is a {full_name(type(value))}"
        torch = "torch" in _roots(type(value))
        if gpu:
            how = f"pass {name}.cpu()" if torch else "give it in host memory"
            raise TypeError(f"{given} on a GPU, and the emulator runs on the host; {how}")
        if kind in (_CPU, _PINNED):
            how = f"{name}.cuda()" if torch else f"cupy.asarray({name})"
            raise TypeError(
                f"{given} in host memory, and only arrays on the GPU are accepted; pass {how}"
            )
        raise TypeError(
            f"{given} on a device of another kind ({kind} in DLPack), and only arrays on an NVIDIA "
            f"GPU are accepted; copy it to one"
        )

    def _current_device(self) -> int:
        number: Any = 0 if self._backend.on_host else self._backend.key
        return int(number)

    def _by_interface(self, name: str, value: Any) -> _Lent:
        found, failed = _interface(value)
        if found is None:
            raise self._not_given(name, value, failed)
        shape, dtype, address, strides = found.shape, found.dtype, found.address, found.strides
        if dtype is None:
            raise self._wrong_dtype(name, value)
        if found.masked:
            raise TypeError(
                f"{self._caller}: {name} is a {full_name(type(value))} with a mask of its own, "
                f"which is not read; give its data, and the mask as an array"
            )
        if not address and 0 not in shape:
            raise self._not_given(name, value, "its address is 0")
        strides = _c_order(shape, dtype) if strides is None else strides
        stream, host = None, self._backend.on_host
        if address and (not host or gpu_is_present()):
            from cupy.cuda import runtime

            place = runtime.pointerGetAttributes(address)
            if not host or place.type == runtime.memoryTypeDevice:
                self._check_place(name, value, _CUDA, place.device)
        if not host:
            import cupy

            stream = found.stream
            ours = cupy.cuda.get_current_stream()
            if stream is not None and stream != _number(ours):
                ours.wait_event(_stream(stream).record())
        device = self._current_device()
        array = arrays.over(address, shape, strides, dtype, value, device)
        return _Lent(value, array, _library(value), stream, found.read_only)

    def _wrong_dtype(self, name: str, value: Any) -> TypeError:
        return TypeError(
            f"{self._caller}: {name} has dtype {getattr(value, 'dtype', 'unknown')}, which is not "
            f"accepted; the dtypes are {', '.join(INPUTS)}"
        )

    def _not_given(self, name: str, value: Any, why: str) -> TypeError:
        if getattr(value, "requires_grad", False) is True:
            return TypeError(
                f"{self._caller}: {name} requires a gradient, which is not recorded here; use "
                f"cusoftmax.torch, whose functions record it, or pass {name}.detach()"
            )
        return TypeError(
            f"{self._caller}: {name} is a {full_name(type(value))} that does not share its memory "
            f"({why}); give an array of plain, strided memory"
        )


def _note_written(value: Any) -> None:
    """Tell PyTorch that a tensor has changed, which it may have kept for a gradient."""
    if "torch" in _roots(type(value)) and not value.is_inference():
        sys.modules["torch"].autograd.graph.increment_version(value)


def _roots(kind: type) -> set[str]:
    """Return the packages of a type and of those that it is derived from."""
    return {base.__module__.partition(".")[0] for base in kind.__mro__}


def _library(value: Any) -> _Library | None:
    """Return the library of an array; None if it is not known how its arrays are made."""
    roots = _roots(type(value))
    if "torch" in roots:
        torch = sys.modules["torch"]
        return _Library(torch.from_dlpack, torch.bfloat16)
    if roots & {"numba", "numba_cuda"}:
        return _Library(sys.modules["numba.cuda"].as_cuda_array, None)
    namespace = getattr(value, "__array_namespace__", None)
    if namespace is None:
        return None
    xp = namespace()
    immutable = bool(roots & _JAX)
    return _Library(xp.from_dlpack, getattr(xp, "bfloat16", None), immutable)


def _described(capsule: Any) -> tuple[_Tensor | None, int]:
    """Return what a DLPack capsule holds, and its flags; None if its version is not known."""
    api = ctypes.pythonapi
    for name, kind in ((b"dltensor_versioned", _Versioned), (b"dltensor", _Tensor)):
        if api.PyCapsule_IsValid(ctypes.py_object(capsule), name):
            pointer = api.PyCapsule_GetPointer
            pointer.restype = ctypes.c_void_p
            held: Any = kind.from_address(pointer(ctypes.py_object(capsule), name))
            if kind is _Tensor:
                return held, 0
            return (held.tensor if held.major == _VERSION[0] else None), held.flags
    return None, 0


class _Interface(NamedTuple):
    """What an array's ``__cuda_array_interface__`` says; `dtype` is None if it is not accepted."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    address: int
    read_only: bool
    strides: tuple[int, ...] | None
    stream: int | None
    masked: bool


def _interface(value: Any) -> tuple[_Interface | None, str]:
    """Return an array's ``__cuda_array_interface__``, or why it cannot be read."""
    try:
        found = value.__cuda_array_interface__
        (address, read_only), strides = found["data"], found.get("strides")
        shape = tuple(map(int, found["shape"]))
        strides = None if strides is None else tuple(map(int, strides))
        if min(shape, default=0) < 0 or (strides is not None and len(strides) != len(shape)):
            return None, f"its interface has shape {shape} and strides {strides}"
        return _Interface(
            *(shape, _typestr(found["typestr"], value), int(address or 0), bool(read_only)),
            *(strides, found.get("stream"), found.get("mask") is not None),
        ), ""
    except Exception as error:  # of any type
        return None, _first_line(error)


def _dtype(tensor: _Tensor) -> np.dtype[Any] | None:
    found = (tensor.code, tensor.bits)
    if tensor.lanes != 1:
        return None
    if found == _BFLOAT:
        return _bfloat16()
    return np.dtype(_DTYPES[found]) if found in _DTYPES else None


def _typestr(text: str, value: Any) -> np.dtype[Any] | None:
    """Return the dtype that ``__cuda_array_interface__`` names; bfloat16 is 2 bytes there."""
    dtype = np.dtype(text)
    if dtype.kind != "V":
        return dtype
    named = str(getattr(value, "dtype", "")).rpartition(".")[2]
    return _bfloat16() if named == "bfloat16" and dtype.itemsize == 2 else None


def _bfloat16() -> np.dtype[Any]:
    return as_dtype("", "bfloat16")


def _c_order(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    return k_order(shape, (0,) * len(shape), dtype.itemsize)


def _consumer_stream() -> int:
    """Return CuPy's current stream, as DLPack numbers it."""
    import cupy

    return _number(cupy.cuda.get_current_stream())


def _number(stream: Any) -> int:
    """Return the number of a stream in both protocols, which have none for 0."""
    return int(stream.ptr or sys.modules["cupy_backends.cuda.stream"].get_default_stream_ptr())


class _Stream(NamedTuple):
    """A stream of another library, as CuPy takes one."""

    number: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.number


def _stream(number: int) -> Any:
    """Return the stream of a number of ``__cuda_array_interface__``."""
    import cupy

    return cupy.cuda.Stream.from_external(_Stream(number))


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
