"""CuPy's own host code of a call, on any machine, with the launch itself replaced by nothing.

CuPy's compiled modules call the CUDA runtime and driver through tables of C functions. `install`
replaces entries of these tables by functions that do nothing (null_driver.cpp). `cupy.empty_like`,
the memory pool and the packing of kernel arguments then run unchanged, up to `cuLaunchKernel`.
With a GPU only that function is replaced; without one, also what a launch needs before it.

It measures the host. `cusoftmax.emulator.cuda_driver` is its counterpart that runs the kernels.
"""

from __future__ import annotations

import ctypes
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from cusoftmax.emulator import _build
from cusoftmax.emulator.cuda_driver import tables
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Kernel
from cusoftmax.runtime.backend import CudaBackend, Loaded

SOURCE = pathlib.Path(__file__).with_name("null_driver.cpp")

_HANDLE = "PyObject *(intptr_t, int __pyx_skip_dispatch)"
_NUMBER = "int (int __pyx_skip_dispatch)"
# The launch: the function's signature as Cython writes it.
_LAUNCH = {
    "launchKernel": f"PyObject *(intptr_t, {'unsigned int, ' * 7}intptr_t, intptr_t, intptr_t, "
    "int __pyx_skip_dispatch)",
}
# Replaced only where there is no GPU: the driver then seems to have one.
_RUNTIME = {
    "getDevice": _NUMBER,
    "getDeviceCount": _NUMBER,
    "_ensure_context": "PyObject *(void)",
    "malloc": "intptr_t (size_t, int __pyx_skip_dispatch)",
    "free": _HANDLE,
}
_MODULES = {
    "moduleLoad": "intptr_t (PyObject *, int __pyx_skip_dispatch)",
    "moduleUnload": _HANDLE,
    "moduleGetFunction": "intptr_t (intptr_t, PyObject *, int __pyx_skip_dispatch)",
}


class NullDriver:
    """The functions installed in place of the driver's."""

    def __init__(self, library: ctypes.CDLL, gpu: bool) -> None:
        self.gpu = gpu
        self._library = library
        self._launches = library.null_launches
        self._launches.restype = ctypes.c_long

    @property
    def launches(self) -> int:
        """Number of launches so far."""
        return int(self._launches())

    def copy_arguments(self, sizes: Sequence[int]) -> ctypes.Array[ctypes.c_char]:
        """Return a buffer to which each later launch copies its first arguments, of these sizes."""
        self._sizes = (ctypes.c_size_t * (len(sizes) + 1))(*sizes, 0)
        self._copies = ctypes.create_string_buffer(sum(sizes))
        self._library.null_copy(self._sizes, self._copies)
        return self._copies

    def raw_kernel(self) -> Any:
        """Return a `cupy.RawKernel` that can be called with any arguments."""
        import cupy

        if self.gpu:
            return cupy.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
        # The file is never read, as loading it does nothing either.
        return cupy.RawModule(path="nothing.cubin").get_function("nothing")

    def backend(self, arch: str = "sm_90") -> CudaBackend:
        """Return the package's CUDA backend; without a GPU it plans for `arch`, loads nothing."""
        return CudaBackend() if self.gpu else _NullBackend(arch, self.raw_kernel().kernel)


class _NullBackend(CudaBackend):
    def __init__(self, arch: str, function: Loaded) -> None:
        self._device = DeviceSpec.known(arch)
        self._function = function

    @property
    def device(self) -> DeviceSpec:
        return self._device

    def load(self, kernel: Kernel) -> Loaded:
        return self._function


def install() -> NullDriver:
    """Replace the launch for the rest of this process; must be called before CuPy is imported."""
    if "cupy" in sys.modules:
        raise RuntimeError("the launch can be replaced only before CuPy is imported")
    from cupy_backends.cuda.api import driver, runtime

    try:
        gpu = runtime.getDeviceCount() > 0
    except runtime.CUDARuntimeError:
        gpu = False
    library = ctypes.CDLL(str(_build.build(SOURCE, (), (), "-O2")))
    _replace(driver, _LAUNCH, library)
    if not gpu:
        _replace(driver, _MODULES, library)
        _replace(runtime, _RUNTIME, library)
    return NullDriver(library, gpu)


def _replace(module: Any, signatures: dict[str, str], library: ctypes.CDLL) -> None:
    """Replace entries of a module's function table by the functions of `library`."""
    for name, expected in signatures.items():
        address = ctypes.cast(library[f"null_{name}"], ctypes.c_void_p).value
        tables.replace_by(module, name, expected, address)
