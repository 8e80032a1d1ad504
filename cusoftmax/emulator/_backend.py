"""The emulator as a backend of ``runtime.backend``, in place of the GPU."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from cusoftmax.emulator import _memory, _run
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Kernel
from cusoftmax.runtime import source
from cusoftmax.runtime.backend import Loaded, pop_backend, push_backend

CODES = ("source", "ptx")  # the first is the default


class EmulatorBackend:
    """Loads kernels for the CPU.

    Parameters
    ----------
    arch : str
        The GPU to plan for, such as ``"sm_90"``.
    seed : int
        Draws the order in which threads run and the errors of approximate instructions.
    code : str
        What to run: ``"source"``, the kernels built by the host's compiler, or ``"ptx"``, what
        NVRTC makes of them for `arch`, on an interpreter.
    """

    def __init__(self, arch: str = "sm_90", seed: int = 0, code: str = "source") -> None:
        if code not in CODES:
            raise ValueError(f"code is {code!r}; the emulator runs {' or '.join(map(repr, CODES))}")
        self._device = DeviceSpec.known(arch)
        self._seed = seed
        self._code = code

    @property
    def device(self) -> DeviceSpec:
        """Return the GPU that is planned for."""
        return self._device

    @property
    def key(self) -> Hashable:
        """Return what distinguishes the kernels loaded here from those of another backend."""
        return ("emulator", self._device, self._seed, self._code)

    @property
    def code(self) -> str:
        """Return what is run: ``"source"`` or ``"ptx"``."""
        return self._code

    on_host = True  # where the arrays lie

    def shared(self, array: Any) -> Any:
        """Return what other libraries take an array from, by DLPack: a NumPy array."""
        return _memory.view_of(array)

    def check_place(self, op: str, array: Any) -> None:
        """Accept every array: all are in host memory."""

    def load(self, kernel: Kernel) -> Loaded:
        """Return a function that launches `kernel`, as ``cupy.cuda.Function`` is called."""
        if kernel.cluster > self._device.max_cluster:
            raise _run.KernelError(
                f"kernel {kernel.name}: clusters of {kernel.cluster} blocks, but "
                f"{self._device.name} has {self._device.max_cluster}"
            )
        if self._code == "ptx":
            return functools.partial(self._launch, _ptx_kernel(kernel, self._device.arch))
        return functools.partial(self._launch, _host_kernel(kernel))

    def by_value(self, struct: Any) -> Any:
        """Return the argument of a launch that passes a struct by value."""
        return struct

    def to_host(self, array: Any) -> Any:
        """Return a copy as a NumPy array."""
        return _memory.asnumpy(array)

    def _launch(
        self,
        kernel: _run.EmulatedKernel,
        grid: tuple[int],
        block: tuple[int],
        args: tuple[Any, ...],
        shared_bytes: int,
    ) -> None:
        if shared_bytes > self._device.shared_per_block:
            raise _run.KernelError(
                f"kernel {kernel.name}: {shared_bytes} bytes of shared memory, but a block of "
                f"{self._device.name} has {self._device.shared_per_block}"
            )
        kernel.launch(grid[0], block[0], args, shared_bytes, seed=self._seed)


@functools.cache
def _host_kernel(kernel: Kernel) -> _run.HostKernel:
    root = source.kernel_root()
    return _run.HostKernel(
        root / source.UNIT,
        kernel.name,
        kernel.macros,
        (root,),
        cluster=kernel.cluster,
        max_threads=kernel.max_threads,
        roles=_roles(kernel),
    )


@functools.cache
def _ptx_kernel(kernel: Kernel, arch: int) -> _run.EmulatedKernel:
    from cusoftmax.emulator import ptx  # NVRTC is needed for this only

    return ptx.load(ptx.compiled(kernel, arch)).kernel(kernel.name, _roles(kernel))


def _roles(kernel: Kernel) -> tuple[str, ...]:
    writes = "write" if kernel.writes_all else "part"
    return ("read",) * kernel.reads + (writes,) * kernel.writes + ("both",)


@contextlib.contextmanager
def activate(arch: str = "sm_90", seed: int = 0, code: str = "source") -> Iterator[EmulatorBackend]:
    """Within the block, the package runs on the CPU and ``cupy.empty`` gives host memory.

    This holds for all threads of the process, such as those of a pool, until the last such block
    ends. Blocks may be nested, and several threads may each have their own: a thread runs on the
    emulator that it activated last, and one that activated none on the last that any thread did.

    Parameters
    ----------
    arch : str
        The GPU whose plans to run, such as ``"sm_90"``.
    seed : int
        Draws the order in which threads run and the errors of approximate instructions.
    code : str
        What to run: ``"source"``, the kernels built by the host's compiler, or ``"ptx"``, what
        NVRTC makes of them for `arch`, on an interpreter.

    Yields
    ------
    EmulatorBackend
        What runs the kernels.

    Examples
    --------
    >>> import numpy, cusoftmax
    >>> from cusoftmax import emulator
    >>> with emulator.activate():
    ...     x = emulator.asarray(numpy.asarray([2.0, 4.0, 2.0, 1.0]))
    ...     y = emulator.asnumpy(cusoftmax.softmax(x))
    >>> y.round(4)
    array([0.1025, 0.7573, 0.1025, 0.0377])
    """
    import cupy  # not where the emulator is imported: cuda_driver has to come before CuPy

    backend = EmulatorBackend(arch, seed, code)
    # The second is for a thread that is within a using_allocator of its own.
    with _default_allocator, cupy.cuda.using_allocator(_memory.allocate):
        push_backend(backend)
        try:
            yield backend
        finally:
            pop_backend(backend)


class _DefaultAllocator:
    """CuPy's allocator for all threads: the emulator's, from the first entry to the last exit."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries = 0
        self._before: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._entries:
                self._before = self._set(_memory.allocate)
            self._entries += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._entries -= 1
            if not self._entries:
                self._set(self._before)

    @staticmethod
    def _set(allocator: Any) -> Any:
        """Set the default allocator; return the one before.

        In a new thread, since CuPy refuses in one that is within a `using_allocator`.
        """
        import cupy

        before = []

        def swap() -> None:
            before.append(cupy.cuda.get_allocator())
            cupy.cuda.set_allocator(allocator)

        thread = threading.Thread(target=swap)
        thread.start()
        thread.join()
        return before[0]


_default_allocator = _DefaultAllocator()


@contextlib.contextmanager
def trace(accesses: bool = True) -> Iterator[_run.Report]:
    """Count what the launches within the block do, of all threads.

    Parameters
    ----------
    accesses : bool
        Whether to count sectors and bank conflicts too, which is slower, and for which each warp
        keeps its turn until a barrier.

    Yields
    ------
    Report
        The counts, which grow with each launch.

    Examples
    --------
    >>> import numpy, cusoftmax
    >>> from cusoftmax import emulator
    >>> with emulator.activate(), emulator.trace() as report:
    ...     y = cusoftmax.softmax(emulator.asarray(numpy.zeros((4, 1000), numpy.float32)))
    >>> report.global_bytes_read, report.global_bytes_written
    (16000, 16000)
    """
    report = _run.Report(accesses=accesses)
    _run.reports.append(report)
    try:
        yield report
    finally:
        _run.reports.remove(report)


@contextlib.contextmanager
def only_blocks(blocks: Sequence[int]) -> Iterator[None]:
    """Run only these blocks, and the others of their clusters, of each launch; -1 is the last."""
    chosen = tuple(blocks)
    _run.chosen_blocks.append(chosen)
    try:
        yield
    finally:
        _run.chosen_blocks.remove(chosen)
