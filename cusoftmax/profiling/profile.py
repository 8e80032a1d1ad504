"""One operation on random data: timed beside a copy, or run in the range that a profiler watches.

A profiler starts ``python -m cusoftmax.cli.profiled softmax 8192x32000 --dtype float16`` and
records what runs between ``cudaProfilerStart`` and ``cudaProfilerStop``; nothing is timed there.
`measure` times the same calls, and a copy of as many bytes, in another process.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cusoftmax.contract.table import CONTRACTS, Arrays, OperationContract
from cusoftmax.machine import Machine, UserError
from cusoftmax.operations.dtypes import FLOATS
from cusoftmax.operations.lookup import find
from cusoftmax.planning.builder import ceil_div
from cusoftmax.planning.checks import as_dtype, resolve_axes
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for

Axis = int | tuple[int, ...] | None

WARM_UP = 3
RUNS = 30
DRAWN = 1 << 22  # elements of an input that are drawn, where there are rows enough to repeat them
COLD = 3  # L2 caches full of other data between two uses of an array
MOST_SETS = 64
_NOISE = 4194301  # random bytes of the copy, repeated


@dataclass(frozen=True)
class Work:
    """One call: a public function on contiguous arrays of one float dtype.

    Inputs and call are those of the operation's contract.
    """

    op: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    axis: Axis = -1

    def __post_init__(self) -> None:
        if find(self.op).function != self.op:
            raise UserError(f"{self.op} is a variant: profile {find(self.op).function}")
        if self.dtype not in FLOATS:
            raise UserError(f"profile takes one of {', '.join(FLOATS)}, not {self.dtype!r}")
        if self.op.startswith("cross_entropy") and not isinstance(self.axis, int):
            raise UserError(f"{self.op} takes one axis, not {self.axis}")
        if find(self.op).segmented:  # segments lie along the first axis
            object.__setattr__(self, "axis", 0)

    @property
    def contract(self) -> OperationContract:
        """The contract of the operation, or of the one that has the same kernel."""
        return CONTRACTS[find(self.op).name]

    def plan(self, device: DeviceSpec) -> Plan:
        """Return the plan on a device."""
        return plan(problem_for(self.op, self.shape, self.dtype, self.axis), device)

    @property
    def arguments(self) -> list[str]:
        """The call as arguments of the command line."""
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        axis = ",".join("none" if a is None else str(a) for a in axes)
        shape = "x".join(str(size) for size in self.shape)
        return [self.op, shape, "--dtype", self.dtype, f"--axis={axis}"]

    def arrays(self, on: Machine) -> tuple[Any, ...]:
        """Draw the inputs and upload them."""
        first = int(find(self.op).repeated)  # its matrix is a view that the function makes itself
        return tuple(on.asarray(array) for array in self.drawn()[first:])

    def drawn(self) -> Arrays:
        """Draw the inputs: of so many rows as `DRAWN` allows, repeated, since drawing is slow."""
        repeated = find(self.op).repeated
        reduced = set(resolve_axes(self.op, self.axis, len(self.shape)))
        reduced |= {len(self.shape) - 2} if repeated else set()
        others = [d for d in range(len(self.shape)) if d not in reduced]
        rng = np.random.default_rng(0)
        kind = as_dtype(self.op, self.dtype)
        longest = max(others, key=lambda d: self.shape[d], default=None)
        elements = math.prod(self.shape)
        if longest is None or elements <= DRAWN:
            return self.contract.draw(rng, self.shape, self.axis, kind)
        size = self.shape[longest]
        few = max(1, DRAWN // (elements // size))
        less = tuple(min(few, n) if d == longest else n for d, n in enumerate(self.shape))
        drawn = self.contract.draw(rng, less, self.axis, kind)
        again = np.arange(size) % less[longest]
        return tuple(
            array.take(again, longest) if array.ndim > longest and (i or not repeated) else array
            for i, array in enumerate(drawn)
        )

    def call(self, arrays: Sequence[Any]) -> Any:
        """Run the public function."""
        matrix = (None,) if find(self.op).repeated else ()
        return self.contract.call(*matrix, *arrays, axis=self.axis)


# ------------------------------------------------------------------------------- the profiled child


def run_range(work: Work, on: Machine, calls: int) -> str:
    """Run the call some times in the profiled range, after a warm-up; return the range's name."""
    made = work.plan(on.device)
    kernels = ", ".join(step.kernel.name for step in made.launches)
    name = f"{' '.join(work.arguments)}: {made.pattern}, {kernels or 'no launch'}"
    arrays = work.arrays(on)
    for _ in range(WARM_UP):
        work.call(arrays)
    with contextlib.nullcontext() if on.emulated else _profiled(), _named(name):
        for _ in range(calls):
            work.call(arrays)
    return name


@contextlib.contextmanager
def _profiled() -> Iterator[None]:
    import cupy

    cupy.cuda.runtime.deviceSynchronize()
    cupy.cuda.runtime.profilerStart()
    try:
        yield
        cupy.cuda.runtime.deviceSynchronize()
    finally:
        cupy.cuda.runtime.profilerStop()


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name what runs within by an NVTX range, which timelines show."""
    from cupy.cuda import nvtx

    if not nvtx.available:
        yield
        return
    nvtx.RangePush(name)
    try:
        yield
    finally:
        nvtx.RangePop()


# ------------------------------------------------------------------------------------------- timing


@dataclass(frozen=True)
class Times:
    """Medians by CUDA events, with no profiler attached.

    Attributes
    ----------
    seconds, copy_seconds : float
        Of a call, and of a device-to-device copy that moves the least bytes of the call.
    least_bytes : int
        Each input read once, the output written once.
    sets : int
        Sets of arrays used in turn, so that none is in the L2 cache.
    """

    seconds: float
    copy_seconds: float
    least_bytes: int
    sets: int

    @property
    def fraction_of_copy(self) -> float:
        """Speed of the call over that of the copy."""
        return self.copy_seconds / self.seconds


def measure(work: Work, on: Machine) -> Times:
    """Time the call and a copy of as many bytes, alternately, on the current device."""
    import cupy

    try:
        return _measure(work, on)
    finally:
        cupy.get_default_memory_pool().free_all_blocks()  # the profiled child needs as much


def _measure(work: Work, on: Machine) -> Times:
    import cupy

    least = work.plan(on.device).least_bytes
    half = max(least // 2, 1)
    sets = min(MOST_SETS, ceil_div(COLD * on.device.l2_bytes, max(least, 1)))
    inputs = [work.arrays(on) for _ in range(sets)]
    results = [work.call(arrays) for arrays in inputs]
    noise = np.resize(np.random.default_rng(2).integers(0, 256, _NOISE, np.uint8), half)
    sources = [on.asarray(noise) for _ in range(sets)]
    targets = [cupy.empty(half, np.uint8) for _ in range(sets)]
    stream = cupy.cuda.get_current_stream()

    def copy(i: int) -> None:
        _copy(targets[i], sources[i], half, stream)

    def call(i: int) -> None:
        results[i] = work.call(inputs[i])  # kept, so that results take turns in memory too

    # All are queued before any is waited for, so the GPU is still busy while the host prepares the
    # next, and the events do not include the host's time.
    spans: dict[str, list[tuple[Any, Any]]] = {"copy": [], "call": []}
    for run in range(WARM_UP + RUNS):
        for name, action in (("copy", copy), ("call", call)):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            action(run % sets)
            end.record()
            spans[name].append((start, end))
    stream.synchronize()

    def median(name: str) -> float:
        took = [cupy.cuda.get_elapsed_time(*span) for span in spans[name][WARM_UP:]]
        return float(np.median(took)) / 1e3

    return Times(median("call"), median("copy"), least, sets)


def _copy(target: Any, source: Any, size: int, stream: Any) -> None:
    target.data.copy_from_device_async(source.data, size, stream)
