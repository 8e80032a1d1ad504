"""What runs the kernels: the GPU, through `cupy.RawKernel`, or a backend that stands in for it.

The backend that was pushed last is active; the emulator pushes itself on top of the GPU's.
"""

from __future__ import annotations

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

    def check_place(self, op: str, array: Array) -> None: ...

    def load(self, kernel: Kernel) -> Loaded: ...

    def by_value(self, struct: np.ndarray[Any, Any]) -> Any: ...

    def to_host(self, array: Array) -> np.ndarray[Any, Any]: ...


class CudaBackend:
    """The current CuPy device."""

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


@cache
def _load(kernel: Kernel, device: DeviceSpec, number: Hashable) -> Loaded:
    import cupy

    from cusoftmax.runtime import source  # hashlib and pathlib: not needed to import the package

    raw = cupy.RawKernel(source.code(), kernel.name, options=source.options(kernel))
    # More than 48 KiB must be allowed for each function; each launch then asks for what it needs.
    raw.max_dynamic_shared_size_bytes = device.shared_per_block
    function: Loaded = raw.kernel  # compiled and loaded for the current device by the line above
    return function


backends: list[Backend] = [CudaBackend()]  # the last one is active


def push_backend(backend: Backend) -> None:
    """Make `backend` the active one until it is popped."""
    backends.append(backend)


def pop_backend(backend: Backend) -> None:
    """Undo the push of `backend`, which must be the active one."""
    if backends[-1] is not backend:
        raise RuntimeError("backends must be popped in the reverse order of their pushing")
    backends.pop()


def to_host(array: Array) -> np.ndarray[Any, Any]:
    """Copy an array from the active backend to the host. Nothing else waits for the device."""
    return backends[-1].to_host(array)


def present_device() -> DeviceSpec:
    """Return the device of the active backend, or an H100's figures if there is no GPU."""
    from cusoftmax.planning.device import DeviceSpec

    backend = backends[-1]
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
