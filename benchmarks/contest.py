"""One cell: inputs on the device, each contender checked, then all of them timed in turn."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np
from cusoftmax._cli_machine import first_line
from cusoftmax._plan import Plan

from benchmarks.devices import EVICT, Array, Device
from benchmarks.peers import BFLOAT16, Peer
from benchmarks.results import COPY, OURS, Chosen, Measurement, WorstError
from benchmarks.suites import OPERATIONS, Cell
from benchmarks.timing import Contender, Effort, on_device, quantiles
from cusoftmax import reference

CHECKED = 1 << 15  # elements of a result that are judged, in at least one row and at most 8
MOST_SETS = 16
Who = tuple[str, float]  # name, and spread of its logits


class Pool:
    """Normal numbers in device memory, drawn once; arrays are filled from it."""

    def __init__(self, device: Device, seed: int = 0) -> None:
        self.device = device
        # No power of two, so that rows of one are not all the same.
        size = (1 << 12 if device.emulated else 1 << 22) + 4099
        self._drawn = np.random.default_rng(seed).standard_normal(size)
        self._order = random.Random(seed)
        self._made: dict[tuple[str, float], Array] = {}

    def fill(self, array: Array, sigma: float) -> None:
        """Write numbers of spread `sigma` into a contiguous array, from another place each time."""
        key = (array.dtype.name, sigma)
        if key not in self._made:
            self._made[key] = self.device.upload((self._drawn * sigma).astype(array.dtype))
        source, size = self._made[key], array.dtype.itemsize
        done, at = 0, self._order.randrange(source.size)
        while done < array.size:
            count = min(array.size - done, source.size - at)
            self.device.move(
                array.data.ptr + done * size, source.data.ptr + at * size, count * size
            )
            done, at = done + count, 0


@dataclass
class Bench:
    """What all cells of a run share."""

    device: Device
    peers: Sequence[Peer]
    effort: Effort
    pool: Pool


class Inputs:
    """Sets of inputs of a cell for one spread of the logits, and how a result of them is judged."""

    def __init__(self, bench: Bench, cell: Cell, sigma: float, sets: int) -> None:
        self.cell, self.device = cell, bench.device
        self.operation = OPERATIONS[cell.op]
        self.dtype = BFLOAT16 if cell.dtype == "bfloat16" else np.dtype(cell.dtype)
        self.sets = [
            [
                self._make(bench.pool, what, sigma, i < len(self.operation.table.inputs))
                for i, what in enumerate(self.operation.inputs)
            ]
            for _ in range(sets)
        ]
        order = random.Random(0)
        count = min(cell.rows, max(1, min(8, CHECKED // cell.n)))
        self.rows = sorted({0, cell.rows - 1, *order.sample(range(cell.rows), count)})[-count:]
        self._known = [self.device.rows(a, cell.axis, self.rows) for a in self.sets[0]]

    def _shape(self, along: bool) -> tuple[int, ...]:
        """Return the shape of an array with elements, or with one value for each row."""
        if along:
            return self.cell.shape
        return (self.cell.rows, 1) if self.cell.axis else (1, self.cell.rows)

    def _make(self, pool: Pool, what: str, sigma: float, along: bool) -> Array:
        array = cupy.empty(self._shape(along), self.dtype)
        pool.fill(array, 1.0 if what == "normal" else sigma)
        if what in OPERATIONS:
            OPERATIONS[what].call([array], self.cell.axis, array)
        return array

    def outputs(self) -> list[Any]:
        """Return an output for each set, or a tuple of them, full of NaN."""
        table, made = self.operation.table, []
        for _ in self.sets:
            arrays = tuple(
                cupy.empty(self._shape(i < len(table.outputs)), self.dtype)
                for i in range(len(table.written))
            )
            for array in arrays:
                self.device.poison(array)
            made.append(arrays if len(arrays) > 1 else arrays[0])
        return made

    def judge(self, result: Any) -> WorstError:
        """Return the largest error in the rows looked at; ValueError if it is too large."""
        results = result if isinstance(result, tuple) else (result,)
        got = []
        for i, each in enumerate(results):
            wanted = self._shape(i < len(self.operation.table.outputs))
            if tuple(each.shape) != wanted or each.dtype != self.dtype:
                raise ValueError(f"a result of shape {tuple(each.shape)} and dtype {each.dtype}")
            got.append(self.device.rows(each, self.cell.axis, self.rows))
        worst, unit = self.operation.worst(tuple(self._known), tuple(got)), self._unit
        if not worst <= 1 / (8 * reference.unit_roundoff(self.cell.dtype)):  # an eighth, relatively
            raise ValueError(f"wrong result: worst error {worst:.3g} {unit}")
        return WorstError(worst, unit)

    @property
    def _unit(self) -> str:
        return self.operation.member.unit


@dataclass
class Entry(Contender):
    """A contender, with the error of its result."""

    error: WorstError | None = None


def enter(name: Any, make: Callable[[], tuple[list[Any], Callable[[Any], Any]]],
          judge: Callable[[Any], WorstError]) -> Entry:  # fmt: skip
    """Prepare a contender, call it once and judge the result; what goes wrong is kept with it.

    `make` returns the calls, and a function that makes of a call's value what `judge` takes.
    """
    try:
        calls, result = make()
        return Entry(name, calls, error=judge(result(calls[0]())))
    except Exception as error:
        return Entry(name, (), failed=said(error))


def said(error: BaseException) -> str:
    """Return an exception as one line."""
    return f"{type(error).__name__}: {first_line(error)}"[:300]


def contenders(bench: Bench, cell: Cell, inputs: Inputs, sigma: float) -> list[Entry]:
    """Return cusoftmax and every peer that has the operation, ready to be timed."""
    device, operation = bench.device, inputs.operation

    def ours() -> tuple[list[Any], Callable[[Any], Any]]:
        pairs = list(zip(inputs.sets, inputs.outputs(), strict=True))
        calls = [lambda s=s, out=out: operation.call(s, cell.axis, out) for s, out in pairs]
        return calls, lambda value: value

    entries = [enter((OURS, sigma), ours, inputs.judge)]
    for peer in bench.peers:
        if cell.peers is not None and peer.name not in cell.peers:
            continue
        if not peer.supports(cell.op, cell.dtype, cell.axis):
            continue

        def theirs(peer: Peer = peer) -> tuple[list[Any], Callable[[Any], Any]]:
            calls = peer.prepare(device, cell.op, inputs.sets, cell.axis)
            return calls, lambda value: peer.result(device, value, inputs.dtype)

        entries.append(enter((peer.name, sigma), theirs, inputs.judge))
    return entries


def copies(bench: Bench, cell: Cell, sets: int) -> Entry:
    """Return the yardstick: a copy within device memory that moves the least bytes of the cell."""
    nbytes = max(1, cell.least_bytes // 2)  # each is read once and written once
    calls = []
    for _ in range(sets):
        source, target = (cupy.empty(-(-nbytes // 2), np.float16) for _ in range(2))
        bench.pool.fill(source, 1.0)
        calls.append(lambda t=target, s=source: bench.device.move(t.data.ptr, s.data.ptr, nbytes))
    return Entry((COPY, cell.sigmas[0]), calls)


def measure(bench: Bench, cell: Cell) -> list[Measurement]:
    """Time all contenders of a cell on the device."""
    far = EVICT * bench.device.spec.l2_bytes
    most = 2 if bench.device.emulated else MOST_SETS
    sets = min(most, max(2, -(-far // cell.least_bytes)))
    entries: list[Entry] = []
    for sigma in cell.sigmas:
        entries += contenders(bench, cell, Inputs(bench, cell, sigma, sets), sigma)
    entries.append(copies(bench, cell, sets))
    bench.device.synchronize()
    on_device(bench.device, entries, bench.effort, evict=sets * cell.least_bytes < far)
    return records(cell, entries, bench.device.how, cell.plan(bench.device.spec))


def records(cell: Cell, entries: Sequence[Entry], how: str, plan: Plan) -> list[Measurement]:
    """Return the results of a cell's contenders, each beside the copy."""
    times = {e.name: quantiles(e.seconds) for e in entries if e.failed is None and e.seconds}
    copied = next((t for (name, _), t in times.items() if name == COPY), None)
    made = []
    for entry in entries:
        (name, sigma), taken = entry.name, times.get(entry.name)
        m = record(cell, name, how, sigma)
        m.worst_error = entry.error
        if name.startswith(OURS):
            m.plan = chosen(plan)
        if taken is None:
            m.failed = entry.failed or "no sample was taken"
        else:
            m.times = taken
            m.gb_per_s = cell.least_bytes / taken.median / 1e9
            if copied is not None:
                m.copy_gb_per_s = cell.least_bytes / copied.median / 1e9
                m.fraction_of_copy = copied.median / taken.median
        made.append(m)
    return made


def record(cell: Cell, who: str, how: str, sigma: float) -> Measurement:
    """Return a result with nothing in it yet."""
    return Measurement(
        cell.suite, cell.op, cell.dtype, cell.rows, cell.n, cell.axis, sigma, who,
        None, how, None, cell.least_bytes,
    )  # fmt: skip


def chosen(plan: Plan) -> Chosen:
    """Return what a results file says of a plan: of its first launch, where there are several."""
    first = plan.launches[0]
    return Chosen(
        plan.pattern, [launch.kernel.name for launch in plan.launches], first.grid, first.block,
        plan.cluster, plan.reads, plan.chunk, plan.vector,
    )  # fmt: skip
