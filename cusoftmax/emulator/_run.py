"""Launches kernels on the CPU, and returns what they counted."""

from __future__ import annotations

import abc
import ctypes
import dataclasses
import functools
import pathlib
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from . import _abi, _build

_MESSAGE_BYTES = 2048
# The runtime has one global state, so launches run one at a time.
_LOCK = threading.Lock()
_REPORT_LOCK = threading.Lock()


class KernelError(RuntimeError):
    """A kernel broke a rule: the message names kernel, block, thread and address."""


@dataclasses.dataclass
class Traffic:
    """What launches did. Sectors and bank conflicts are counted only while tracing."""

    global_bytes_read: int = 0
    global_bytes_written: int = 0
    sectors_read: int = 0
    sectors_written: int = 0
    bank_conflicts: int = 0
    barriers: int = 0
    cluster_barriers: int = 0
    shuffles: int = 0
    widest_read: int = 0
    widest_written: int = 0
    # By the name of the PTX instruction, how often threads executed it; empty for kernels that are
    # built from their source.
    instructions: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, other: Traffic) -> None:
        """Add the counts of `other`; keep the larger of the widest accesses."""
        for field in dataclasses.fields(Traffic):
            mine, more = getattr(self, field.name), getattr(other, field.name)
            widest = field.name.startswith("widest")
            setattr(self, field.name, max(mine, more) if widest else mine + more)


@dataclasses.dataclass
class LaunchTraffic(Traffic):
    """The counts of one launch."""

    kernel: str = ""
    grid: int = 0
    block: int = 0
    executed: Executed | None = None


class Executed(Protocol):
    """How often each instruction of a launch was executed, by all threads."""

    def by_name(self) -> Counter[str]: ...

    def by_line(self) -> list[tuple[str, int]]:
        """Return the name of each, and how often warps did it."""


@dataclasses.dataclass(eq=False)
class Report(Traffic):
    """The counts of all launches inside a ``trace()``, and of each of them in `kernels`."""

    accesses: bool = True  # whether sectors and bank conflicts are counted
    launches: int = 0
    kernels: list[LaunchTraffic] = dataclasses.field(default_factory=list)

    # Several threads may trace at once: each report is itself, whatever it has counted.
    __eq__ = object.__eq__
    __hash__ = object.__hash__


# Set by `trace` and `only_blocks`, the innermost last.
reports: list[Report] = []
chosen_blocks: list[tuple[int, ...]] = []


@functools.cache
def runtime() -> ctypes.CDLL:
    """The runtime, built if need be."""
    library = ctypes.CDLL(str(_build.build(_build.HERE / "runtime.cpp", (), (_build.HERE,), "-O2")))
    library.csm_run.argtypes = (
        ctypes.POINTER(_abi.LaunchStruct),
        ctypes.POINTER(_abi.ReportStruct),
        ctypes.c_char_p,
    )
    library.csm_run.restype = ctypes.c_int
    return library


@functools.cache
def load(path: pathlib.Path) -> ctypes.CDLL:
    """Load a library once."""
    return ctypes.CDLL(str(path))


def _address(library: ctypes.CDLL, symbol: str) -> int | None:
    return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value


class EmulatedKernel(abc.ABC):
    """A kernel that can be launched on the CPU.

    Parameters
    ----------
    name : str
        Its entry.
    roles : sequence of str
        Of each array among its arguments: ``"read"``, ``"write"`` (each element exactly once),
        ``"part"`` (each at most once) or ``"both"``.
    cluster : int
        Blocks of a cluster.
    max_threads : int
        What its launch bounds allow.
    """

    def __init__(self, name: str, roles: Sequence[str], cluster: int, max_threads: int) -> None:
        self.name = name
        self.roles = roles
        self.cluster = cluster
        self.max_threads = max_threads

    @abc.abstractmethod
    def _set_code(self, call: _abi.LaunchStruct, values: Sequence[bytes]) -> Any:
        """Let `call` run this kernel with these arguments; return what must outlive the launch."""

    def _executed(self, kept: Any) -> Executed | None:
        """Return how often each instruction was executed, from what `_set_code` returned."""
        return None

    def launch(
        self,
        grid: int,
        block: int,
        args: Sequence[Any],
        shared_bytes: int = 0,
        *,
        seed: int = 0,
    ) -> LaunchTraffic:
        """Run it.

        Parameters
        ----------
        grid, block : int
            Blocks, and threads of a block.
        args : sequence
            A ``cupy.ndarray`` over host memory, None for none, or a NumPy scalar passed by value.
        shared_bytes : int
            Dynamic shared memory.
        seed : int
            Draws the order in which threads run and the errors of approximate instructions.

        Raises
        ------
        KernelError
            At the first fault found.
        """
        call = _abi.LaunchStruct()
        values = _arguments(call, args, self.roles)
        return self._launch(call, values, grid, block, shared_bytes, seed)

    def _launch(
        self,
        call: _abi.LaunchStruct,
        values: Sequence[bytes],
        grid: int,
        block: int,
        shared_bytes: int,
        seed: int,
    ) -> LaunchTraffic:
        if block > self.max_threads:
            raise KernelError(
                f"kernel {self.name}: {block} threads a block, "
                f"but its launch bounds say {self.max_threads}"
            )
        call.name = self.name.encode()
        call.grid, call.block, call.cluster = grid, block, self.cluster
        kept = self._set_code(call, values)
        call.shared_bytes = shared_bytes
        call.seed = seed
        if chosen_blocks:
            clusters = sorted({block % grid // self.cluster for block in chosen_blocks[-1]})
            call.clusters = (ctypes.c_int64 * len(clusters))(*clusters)
            call.cluster_count = len(clusters)
        counted = _abi.ReportStruct()
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        run = runtime().csm_run
        tracing = tuple(reports)
        call.trace = any(report.accesses for report in tracing)
        # Nothing of Python's within: dropping an array may launch, on the emulated driver.
        with _LOCK:
            failed = run(ctypes.byref(call), ctypes.byref(counted), message)
        if failed:
            raise KernelError(message.value.decode(errors="replace"))
        counts = {name: getattr(counted, name) for name, *_ in _abi.ReportStruct._fields_}
        executed = self._executed(kept)
        traffic = LaunchTraffic(
            **counts,
            instructions=executed.by_name() if executed and tracing else Counter(),
            executed=executed,
            kernel=self.name,
            grid=grid,
            block=block,
        )
        with _REPORT_LOCK:
            for report in tracing:
                report.add(traffic)
                report.launches += 1
                report.kernels.append(traffic)
        return traffic


class HostKernel(EmulatedKernel):
    """A kernel whose source is built for the host.

    Parameters
    ----------
    source : pathlib.Path
        The ``.cu`` file.
    name : str
        Its ``extern "C"`` entry, given to it as the macro ``CSM_NAME``.
    macros : sequence of (str, str)
        Further macros.
    include_folders : sequence of pathlib.Path
        Where its headers are.
    cluster, max_threads, roles
        As in `EmulatedKernel`.
    """

    def __init__(
        self,
        source: pathlib.Path,
        name: str,
        macros: Sequence[tuple[str, str]] = (),
        include_folders: Sequence[pathlib.Path] = (),
        cluster: int = 1,
        max_threads: int = 1024,
        roles: Sequence[str] = ("read", "read", "write", "both"),
    ) -> None:
        super().__init__(name, roles, cluster, max_threads)
        defined = {**dict(macros), "CSM_NAME": name, "CSM_EMULATOR": "1"}
        # The device flushes float32 subnormals (CuPy compiles with -ftz=true), float64 ones never.
        self.flush_subnormals = defined.get("CSM_ACC") == "float"
        options = [f"-D{key}={value}" for key, value in sorted(defined.items())]
        options += [f'-DCSM_SOURCE="{source.name}"', *_build.bare()]
        folders = (*include_folders, source.resolve().parent, _build.HERE)
        self.library = load(
            _build.build(_build.HERE / "entry.cpp", options, tuple(dict.fromkeys(folders)), "-O1")
        )

    def _set_code(self, call: _abi.LaunchStruct, values: Sequence[bytes]) -> Any:
        set_library(call, self.library)
        call.flush_subnormals = self.flush_subnormals
        # 16 bytes more, as the kernel may read a struct of odd size in larger units.
        kept = [ctypes.create_string_buffer(value, len(value) + 16) for value in values]
        pointers = (ctypes.c_void_p * len(kept))(*map(ctypes.addressof, kept))
        call.args = ctypes.cast(pointers, ctypes.POINTER(ctypes.c_void_p))
        return pointers, kept


def set_library(call: _abi.LaunchStruct, library: ctypes.CDLL) -> None:
    """Let the threads of a launch start in a library."""
    call.enter = _address(library, "csm_enter")
    call.attach = _address(library, "csm_attach")


def _arguments(call: _abi.LaunchStruct, args: Sequence[Any], roles: Sequence[str]) -> list[bytes]:
    """Return the bytes of each argument, and describe the arrays in `call` with their roles."""
    values = []
    for i, arg in enumerate(args):
        if hasattr(arg, "data") and hasattr(arg.data, "ptr"):
            _abi.describe(
                call.array[i], arg.data.ptr, arg.shape, arg.strides, arg.dtype.itemsize, roles[i]
            )
            call.arrays = i + 1
            raw = int(arg.data.ptr).to_bytes(8, "little")
        elif arg is None or isinstance(arg, int):
            raw = (arg or 0).to_bytes(8, "little")
        else:
            raw = np.asarray(arg).tobytes()
        values.append(raw)
    return values
