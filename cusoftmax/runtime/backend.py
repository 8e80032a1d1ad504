"""What runs the kernels: the GPU, through `cupy.RawKernel`, or a backend that stands in for it.

The emulator pushes itself on top of the GPU's. That holds for the whole process: see `active`.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident  # threading would be a module more to import
from collections.abc import Callable, Hashable
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cusoftmax.planning.checks import Array

if TYPE_CHECKING:
    from cusoftmax.planning.device import DeviceSpec
    from cusoftmax.planning.plan import Kernel

# A loaded kernel, called as cupy.cuda.Function is: grid, block, arguments, bytes of dynamic shared
# memory.
Loaded = Callable[[tuple[int], tuple[int], tuple[Any, ...], int], None]


class Backend(Protocol):
    """Something that runs kernels."""

    @property
    def device(self) -> DeviceSpec: ...

    @property
    def key(self) -> Hashable: ...

    @property
    def on_host(self) -> bool: ...

    def shared(self, array: Array) -> Any: ...

    def check_place(self, op: str, array: Array) -> None: ...

    def load(self, kernel: Kernel) -> Loaded: ...

    def by_value(self, struct: np.ndarray[Any, Any]) -> Any: ...

    def to_host(self, array: Array) -> np.ndarray[Any, Any]: ...


class CudaBackend:
    """The current CuPy device."""

    on_host = False  # where the arrays lie

    @property
    def device(self) -> DeviceSpec:
        from cusoftmax.planning.device import DeviceSpec

        return DeviceSpec.current()

    @property
    def key(self) -> Hashable:
        return self._current_number()

    @cached_property
    def _current_number(self) -> Callable[[], int]:
        import cupy  # once, since an import statement costs more than asking for the device

        number: Callable[[], int] = cupy.cuda.get_device_id
        return number

    def check_place(self, op: str, array: Array) -> None:
        if array.data.device_id != self.key:
            raise ValueError(
                f"{op}: the arrays are on device {array.data.device_id}, but device {self.key} is "
                f"current; call within `with cupy.cuda.Device({array.data.device_id}):`"
            )

    def shared(self, array: Array) -> Any:
        """Return what other libraries take an array from, by DLPack."""
        return array

    def load(self, kernel: Kernel) -> Loaded:
        return _load(kernel, self.device, self.key)

    def by_value(self, struct: np.ndarray[Any, Any]) -> Any:
        """Return a launch argument that passes `struct` by value; `struct` must outlive it.

        Some versions of CuPy also accept NumPy's structs, but convert them in each launch.
        """
        import cupy

        return cupy.cuda.function.CPointer(struct.ctypes.data)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy an array to the host, which waits for the device."""
        copied: np.ndarray[Any, Any] = array.get()
        return copied


# CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
_LARGE_CLUSTERS_ALLOWED = 14


@cache
def _load(kernel: Kernel, device: DeviceSpec, number: Hashable) -> Loaded:
    import cupy

    from cusoftmax.planning.device import PORTABLE_CLUSTER
    from cusoftmax.runtime import source  # hashlib and pathlib: not needed to import the package

    raw = cupy.RawKernel(source.code(), kernel.name, options=source.options(kernel))
    # More than 48 KiB must be allowed for each function; each launch then asks for what it needs.
    raw.max_dynamic_shared_size_bytes = device.shared_per_block
    function: Loaded = raw.kernel  # compiled and loaded for the current device by the line above
    if kernel.cluster > PORTABLE_CLUSTER:
        cupy.cuda.driver.funcSetAttribute(raw.kernel.ptr, _LARGE_CLUSTERS_ALLOWED, 1)
    return function


_GPU = CudaBackend()
_pushed: list[tuple[int, Backend]] = []  # with the number of the thread that pushed it
_LOCK = allocate_lock()

# What runs a thread's calls, by the thread's number: the backend that it pushed last. Under 0, for
# threads that pushed none, such as a pool's: the one that any thread pushed last.
active_of: dict[int, Backend] = {0: _GPU}


def active() -> Backend:
    """Return what runs the calls of this thread."""
    return active_of.get(get_ident()) or active_of[0]


def push_backend(backend: Backend) -> None:
    """Make `backend` the active one until it is popped."""
    thread = get_ident()
    with _LOCK:
        _pushed.append((thread, backend))
        active_of[thread] = active_of[0] = backend


def pop_backend(backend: Backend) -> None:
    """Undo the last push of `backend`; different threads may pop in any order."""
    with _LOCK:
        place = max(i for i, (_, pushed) in enumerate(_pushed) if pushed is backend)
        thread, _ = _pushed.pop(place)
        active_of[0] = _pushed[-1][1] if _pushed else _GPU
        own = [pushed for pusher, pushed in _pushed if pusher == thread]
        if own:
            active_of[thread] = own[-1]
        else:
            del active_of[thread]


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """Copy an array from the active backend to the host. Nothing else waits for the device."""
    return active().to_host(array)


def present_device() -> DeviceSpec:
    """Return the device of the active backend, or an H100's figures if there is no GPU."""
    from cusoftmax.planning.device import DeviceSpec

    backend = active()
    if isinstance(backend, CudaBackend) and not gpu_is_present():
        return DeviceSpec.known(90)
    return backend.device


def gpu_is_present() -> bool:
    """Whether CuPy is installed and sees a GPU."""
    try:
        import cupy

        return int(cupy.cuda.runtime.getDeviceCount()) > 0
    except Exception:  # a missing CuPy, driver or device each raise something else
        return False
