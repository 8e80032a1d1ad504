"""What a measurement runs on: the GPU, or the emulator for a dry run of the same code.

A device lends memory, exchanges arrays with other libraries, and times one call. On the GPU
everything, peers included, is on the legacy default stream, which is the current one of CuPy and of
PyTorch unless told otherwise: the events of one stream are then around the work of all.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from cusoftmax._device import DeviceSpec
from cusoftmax._plan import Kernel

from cusoftmax import _launch, _source

Array = Any  # cupy.ndarray
Call = Callable[[], Any]

# Waits on the GPU until the host has enqueued what is to be timed, so that the host's own time is
# not in it; and reads what fills the L2 cache before, so that nothing of the inputs is left there.
PAUSE = r"""
extern "C" __global__ void bench_pause(const uint4* filler, unsigned long long words,
                                       unsigned long long nanoseconds, unsigned* sink) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    const unsigned long long step = (unsigned long long)gridDim.x * blockDim.x;
    unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned seen = 0;
    for (; i < words; i += step) {
        const uint4 word = filler[i];
        seen ^= word.x ^ word.y ^ word.z ^ word.w;
    }
    if (seen == 0x9e3779b9u) *sink = seen;  // so that the loads are not dropped
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - start < nanoseconds);
}
"""
EVICT = 4  # times the L2 cache that must pass between two uses of the same memory


class Device(Protocol):
    """Memory and a clock."""

    spec: DeviceSpec
    emulated: bool
    how: str  # the `how` of results whose times are from `sample`

    def upload(self, values: np.ndarray[Any, Any]) -> Array:
        """Copy a NumPy array there."""

    def move(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device's memory, from address to address."""

    def poison(self, array: Array) -> None:
        """Set all bytes to 0xFF, a NaN in each float."""

    def rows(self, array: Any, axis: int, chosen: Sequence[int]) -> np.ndarray[Any, Any]:
        """Fetch some rows along `axis` of a matrix, each as a row of the result."""

    def exchange(self, array: Array) -> Any:
        """Return the array as what other libraries import by DLPack, with no copy."""

    def adopt(self, foreign: Any) -> Any:
        """Take another library's array by DLPack, with no copy."""

    def bare(self, kernel: Kernel) -> Callable[..., None]:
        """Return the kernel as a user would launch it: ``f(grid, block, args, shared_bytes)``."""

    def sample(self, call: Call, lead: float, evict: bool) -> tuple[float, float]:
        """Return the seconds that a call takes, and those in which the host enqueued it.

        `lead` is how long the GPU is kept waiting while the host enqueues; `evict` is whether to
        drive everything out of the L2 cache first.
        """

    def synchronize(self) -> None:
        """Wait for all work; raises what went wrong in it."""

    def tidy(self) -> None:
        """Give cached memory back."""


class CudaDevice:
    """The current GPU."""

    emulated = False
    how = "events"

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.spec = DeviceSpec.current()
        self._start, self._end = cupy.cuda.Event(), cupy.cuda.Event()
        self._pause = cupy.RawKernel(PAUSE, "bench_pause", options=("-std=c++17",))
        self._filler: Array = None  # made when first needed: it is large
        self._sink = cupy.empty(1, np.uint32)

    def upload(self, values: np.ndarray[Any, Any]) -> Array:
        # Not cupy.asarray, so that a dtype is only bytes here.
        source = np.ascontiguousarray(values)
        made = self.cupy.empty(source.shape, source.dtype)
        made.data.copy_from_host(ctypes.c_void_p(source.ctypes.data), source.nbytes)
        return made

    def move(self, target: int, source: int, nbytes: int) -> None:
        runtime = self.cupy.cuda.runtime
        stream = self.cupy.cuda.get_current_stream().ptr
        runtime.memcpyAsync(target, source, nbytes, runtime.memcpyDeviceToDevice, stream)

    def poison(self, array: Array) -> None:
        stream = self.cupy.cuda.get_current_stream().ptr
        self.cupy.cuda.runtime.memsetAsync(array.data.ptr, 0xFF, array.nbytes, stream)

    def rows(self, array: Array, axis: int, chosen: Sequence[int]) -> np.ndarray[Any, Any]:
        self.synchronize()
        if not array.flags.c_contiguous:
            raise ValueError(f"a result with strides {array.strides} for shape {array.shape}")
        if axis != 0:
            return np.stack([self.cupy.asnumpy(array[i]) for i in chosen])
        size, (n, width) = array.dtype.itemsize, array.shape
        fetched = np.empty((len(chosen), n), array.dtype)
        for row, column in zip(fetched, chosen, strict=True):
            # A column as n pieces of one element, `width` elements apart.
            self.cupy.cuda.runtime.memcpy2D(
                row.ctypes.data, size, array.data.ptr + column * size, width * size, size, n,
                self.cupy.cuda.runtime.memcpyDeviceToHost,
            )  # fmt: skip
        return fetched

    def exchange(self, array: Array) -> Any:
        return array

    def adopt(self, foreign: Any) -> Any:
        return self.cupy.from_dlpack(foreign)

    def bare(self, kernel: Kernel) -> Callable[..., None]:
        raw = self.cupy.RawKernel(_source.code(), kernel.name, options=_source.options(kernel))
        raw.max_dynamic_shared_size_bytes = self.spec.shared_per_block

        def launch(grid: Any, block: Any, args: Any, shared_bytes: int) -> None:
            raw(grid, block, args, shared_mem=shared_bytes)

        return launch

    def sample(self, call: Call, lead: float, evict: bool) -> tuple[float, float]:
        if self._filler is None:
            self._filler = self.upload(np.arange(EVICT * self.spec.l2_bytes // 8, dtype=np.uint64))
        blocks, threads = (self.spec.sm_count * 4, 512) if evict else (1, 1)
        words = np.uint64(self._filler.nbytes // 16 if evict else 0)
        wait = np.uint64(max(0, int(lead * 1e9)))
        begun = time.perf_counter()
        self._pause((blocks,), (threads,), (self._filler, words, wait, self._sink))
        self._start.record()
        call()
        self._end.record()
        enqueued = time.perf_counter() - begun
        self._end.synchronize()
        elapsed = self.cupy.cuda.get_elapsed_time(self._start, self._end)
        return elapsed * 1e-3, enqueued

    def synchronize(self) -> None:
        self.cupy.cuda.runtime.deviceSynchronize()

    def tidy(self) -> None:
        self.cupy.get_default_memory_pool().free_all_blocks()


class EmulatedDevice:
    """The emulator: host memory, and the host's clock."""

    emulated = True
    how = "host"

    def __init__(self, spec: DeviceSpec) -> None:
        from cusoftmax.emulator import _memory

        self.spec = spec
        self._memory = _memory

    def upload(self, values: np.ndarray[Any, Any]) -> Array:
        return self._memory.asarray(values)

    def move(self, target: int, source: int, nbytes: int) -> None:
        ctypes.memmove(target, source, nbytes)

    def poison(self, array: Array) -> None:
        ctypes.memset(array.data.ptr, 0xFF, array.nbytes)

    def rows(self, array: Any, axis: int, chosen: Sequence[int]) -> np.ndarray[Any, Any]:
        seen = array if isinstance(array, np.ndarray) else self._memory.view_of(array)
        return np.stack([seen[i] if axis else seen[:, i] for i in chosen])

    def exchange(self, array: Array) -> Any:
        return self._memory.view_of(array)

    def adopt(self, foreign: Any) -> Any:
        return np.from_dlpack(foreign)

    def bare(self, kernel: Kernel) -> Callable[..., None]:
        return _launch._backends[-1].load(kernel)

    def sample(self, call: Call, lead: float, evict: bool) -> tuple[float, float]:
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun, 0.0

    def synchronize(self) -> None: ...

    def tidy(self) -> None: ...


@contextlib.contextmanager
def open_device(kind: str, arch: str = "sm_90") -> Iterator[Device]:
    """Run the public functions on a device within the block: ``"cuda"`` or ``"emulator"``."""
    if kind == "cuda":
        yield CudaDevice()
        return
    from cusoftmax import emulator

    with emulator.activate(arch=arch):
        yield EmulatedDevice(DeviceSpec.known(arch))
