"""What a measurement runs on: the GPU, or the emulator for a dry run of the same code.

A device provides memory, shares arrays with other libraries, and times one call. On the GPU all
work, the peers' too, is on the legacy default stream, the current stream of CuPy and PyTorch unless
changed: so events of that one stream enclose everybody's work.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Kernel
from cusoftmax.runtime import backend, source

Array = Any  # cupy.ndarray
Call = Callable[[], Any]

# Runs before a timed call. It reads an array as large as the L2 cache several times over, so that
# no input is left in the cache; and it keeps the GPU busy while the host enqueues the call, so that
# the host's time is not measured.
WAIT_KERNEL = r"""
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
    if (seen == 0x9e3779b9u) *sink = seen;  // keeps the compiler from dropping the loads
    do {
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - start < nanoseconds);
}
"""
EVICTION_FACTOR = 4  # sizes of the L2 cache to read between two uses of the same memory


class Device(Protocol):
    """Memory and a clock."""

    spec: DeviceSpec
    emulated: bool
    how: str  # the `how` of measurements made by `time_call`

    def upload(self, values: np.ndarray[Any, Any]) -> Array:
        """Copy a NumPy array to the device."""

    def copy_bytes(self, target: int, source: int, nbytes: int) -> None:
        """Copy within the device's memory, from address to address."""

    def fill_with_nan(self, array: Array) -> None:
        """Set all bytes to 0xFF, which is NaN in every floating dtype."""

    def fetch_rows(self, array: Any, axis: int, chosen: Sequence[int]) -> np.ndarray[Any, Any]:
        """Copy some rows along `axis` of a matrix to the host, each as a row of the result."""

    def dlpack_source(self, array: Array) -> Any:
        """Return an object over the same memory that other libraries can import by DLPack."""

    def from_dlpack(self, foreign: Any) -> Any:
        """Return an array over the memory of another library's array."""

    def raw_kernel(self, kernel: Kernel) -> Callable[..., None]:
        """Return the kernel as a `cupy.RawKernel`: ``f(grid, block, args, shared_bytes)``."""

    def time_call(self, call: Call, lead: float, evict: bool) -> tuple[float, float]:
        """Return the seconds that a call takes, and the seconds that the host took to enqueue it.

        `lead` is how long the GPU is kept waiting while the host enqueues; `evict` is whether to
        empty the L2 cache of the inputs first.
        """

    def synchronize(self) -> None:
        """Wait for all work; raises if any of it failed."""

    def free_cached_memory(self) -> None:
        """Return unused memory of the pool to the driver."""


class CudaDevice:
    """The current GPU."""

    emulated = False
    how = "events"

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.spec = DeviceSpec.current()
        self._start, self._end = cupy.cuda.Event(), cupy.cuda.Event()
        self._pause = cupy.RawKernel(WAIT_KERNEL, "bench_pause", options=("-std=c++17",))
        self._filler: Array = None  # large, so allocated at first use
        self._sink = cupy.empty(1, np.uint32)

    def upload(self, values: np.ndarray[Any, Any]) -> Array:
        # Copies bytes: unlike cupy.asarray, this is the same for every dtype.
        source = np.ascontiguousarray(values)
        made = self.cupy.empty(source.shape, source.dtype)
        made.data.copy_from_host(ctypes.c_void_p(source.ctypes.data), source.nbytes)
        return made

    def copy_bytes(self, target: int, source: int, nbytes: int) -> None:
        runtime = self.cupy.cuda.runtime
        stream = self.cupy.cuda.get_current_stream().ptr
        runtime.memcpyAsync(target, source, nbytes, runtime.memcpyDeviceToDevice, stream)

    def fill_with_nan(self, array: Array) -> None:
        stream = self.cupy.cuda.get_current_stream().ptr
        self.cupy.cuda.runtime.memsetAsync(array.data.ptr, 0xFF, array.nbytes, stream)

    def fetch_rows(self, array: Array, axis: int, chosen: Sequence[int]) -> np.ndarray[Any, Any]:
        self.synchronize()
        if not array.flags.c_contiguous:
            raise ValueError(f"a result with strides {array.strides} for shape {array.shape}")
        if axis != 0:
            return np.stack([self.cupy.asnumpy(array[i]) for i in chosen])
        size, (n, width) = array.dtype.itemsize, array.shape
        fetched = np.empty((len(chosen), n), array.dtype)
        for row, column in zip(fetched, chosen, strict=True):
            # A column is n pieces of one element each, `width` elements apart.
            self.cupy.cuda.runtime.memcpy2D(
                row.ctypes.data, size, array.data.ptr + column * size, width * size, size, n,
                self.cupy.cuda.runtime.memcpyDeviceToHost,
            )  # fmt: skip
        return fetched

    def dlpack_source(self, array: Array) -> Any:
        return array

    def from_dlpack(self, foreign: Any) -> Any:
        return self.cupy.from_dlpack(foreign)

    def raw_kernel(self, kernel: Kernel) -> Callable[..., None]:
        raw = self.cupy.RawKernel(source.code(), kernel.name, options=source.options(kernel))
        raw.max_dynamic_shared_size_bytes = self.spec.shared_per_block

        def launch(grid: Any, block: Any, args: Any, shared_bytes: int) -> None:
            raw(grid, block, args, shared_mem=shared_bytes)

        return launch

    def time_call(self, call: Call, lead: float, evict: bool) -> tuple[float, float]:
        if self._filler is None:
            self._filler = self.upload(
                np.arange(EVICTION_FACTOR * self.spec.l2_bytes // 8, dtype=np.uint64)
            )
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

    def free_cached_memory(self) -> None:
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

    def copy_bytes(self, target: int, source: int, nbytes: int) -> None:
        ctypes.memmove(target, source, nbytes)

    def fill_with_nan(self, array: Array) -> None:
        ctypes.memset(array.data.ptr, 0xFF, array.nbytes)

    def fetch_rows(self, array: Any, axis: int, chosen: Sequence[int]) -> np.ndarray[Any, Any]:
        seen = array if isinstance(array, np.ndarray) else self._memory.view_of(array)
        return np.stack([seen[i] if axis else seen[:, i] for i in chosen])

    def dlpack_source(self, array: Array) -> Any:
        return self._memory.view_of(array)

    def from_dlpack(self, foreign: Any) -> Any:
        return np.from_dlpack(foreign)

    def raw_kernel(self, kernel: Kernel) -> Callable[..., None]:
        return backend.active().load(kernel)

    def time_call(self, call: Call, lead: float, evict: bool) -> tuple[float, float]:
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun, 0.0

    def synchronize(self) -> None: ...

    def free_cached_memory(self) -> None: ...


@contextlib.contextmanager
def open_device(kind: str, arch: str = "sm_90") -> Iterator[Device]:
    """Run the public functions on a device within the block: ``"cuda"`` or ``"emulator"``."""
    if kind == "cuda":
        yield CudaDevice()
        return
    from cusoftmax import emulator

    with emulator.activate(arch=arch):
        yield EmulatedDevice(DeviceSpec.known(arch))
