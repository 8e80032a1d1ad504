"""Host time of whole calls, beside a bare launch of the same kernel; and of the first call ever."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cupy

from benchmarks.contest import Bench, Entry, Inputs, contenders, enter, record, records, said
from benchmarks.contest import measure as measure_device
from benchmarks.devices import Device, open_device
from benchmarks.results import OURS, Measurement
from benchmarks.suites import OPERATIONS, Cell
from benchmarks.timing import on_host, quantiles
from cusoftmax import _launch

GIVEN = f"{OURS}, out="
BARE, BARE_ALLOCATING = "rawkernel", "rawkernel, empty_like"
COLD, CACHED = OURS, f"{OURS}, cached"
ROOT = Path(__file__).resolve().parents[1]

Made = tuple[list[Any], Callable[[Any], Any]]


def measure(bench: Bench, cell: Cell) -> list[Measurement]:
    """Measure a cell of any kind."""
    return {"device": measure_device, "overhead": calls, "cold": first_calls}[cell.kind](
        bench, cell
    )


def calls(bench: Bench, cell: Cell) -> list[Measurement]:
    """Time whole calls by the host's clock: how long the caller is held up."""
    device, sigma = bench.device, cell.sigmas[0]
    inputs = Inputs(bench, cell, sigma, sets=1)
    (arrays,), operation = inputs.sets, OPERATIONS[cell.op]
    made = cell.plan(device.spec)

    def ours() -> Made:
        return [lambda: operation.call(arrays, cell.axis)], lambda value: value

    def bare(allocating: bool) -> Made:
        if len(made.launches) != 1:
            raise ValueError(f"{len(made.launches)} launches make no bare call")
        (launch,), struct = made.launches, _launch.as_struct(_launch.layout_of(made))
        kernel, layout = device.bare(launch.kernel), _launch._backends[-1].by_value(struct)
        grid, block, shared = (launch.grid,), (launch.block,), launch.shared_bytes
        (target,) = inputs.outputs()

        def call() -> Any:
            out = cupy.empty_like(arrays[0]) if allocating else target
            kernel(grid, block, (*arrays, out, None, layout), shared)
            return out

        return [call], lambda value: value

    given, *peers = contenders(bench, cell, inputs, sigma)
    given.name = (GIVEN, sigma)
    entries: list[Entry] = [
        enter((OURS, sigma), ours, inputs.judge),
        given,
        enter((BARE, sigma), lambda: bare(False), inputs.judge),
        enter((BARE_ALLOCATING, sigma), lambda: bare(True), inputs.judge),
        *peers,
    ]
    device.synchronize()
    on_host(device, entries, bench.effort)
    return [_of_host(m) for m in records(cell, entries, "host", made)]


def _of_host(m: Measurement) -> Measurement:
    m.gb_per_s = None  # bytes over the time of the host mean nothing
    return m


def first_calls(bench: Bench, cell: Cell) -> list[Measurement]:
    """Time the first call of new processes, with an empty on-disk cache and with a full one."""
    seconds: dict[str, list[float]] = {COLD: [], CACHED: []}
    failed = None
    try:
        for _ in range(1 if bench.device.emulated else 3):
            with tempfile.TemporaryDirectory() as folder:
                for who in (COLD, CACHED):
                    seconds[who].append(_in_new_process(bench.device, cell, folder))
    except Exception as error:
        failed = said(error)
    made = []
    for who, taken in seconds.items():
        m = record(cell, who, "host", cell.sigmas[0])
        m.times = quantiles(taken) if taken else None
        m.failed = None if taken else failed
        made.append(m)
    return made


def _in_new_process(device: Device, cell: Cell, cache: str) -> float:
    environment = os.environ | {
        "CUPY_CACHE_DIR": cache,
        "CUSOFTMAX_CACHE_DIR": cache,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    kind = "emulator" if device.emulated else "cuda"
    command = [
        sys.executable, "-m", "benchmarks.overhead",
        kind, f"sm_{device.spec.arch}", cell.op, cell.dtype, str(cell.rows), str(cell.n),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    return float(done.stdout.split()[-1])


def main() -> None:
    """The new process: print the seconds of its first call."""
    from benchmarks.contest import Pool
    from benchmarks.timing import Effort

    kind, arch, op, dtype, rows, n = sys.argv[1:]
    cell = Cell("cold", op, dtype, int(rows), int(n))
    with open_device(kind, arch) as device:
        pool = Pool(device)
        shape = Cell("cold", "softmax", dtype, int(rows), int(n))
        # Logits in every input: no kernel of ours may run before the clock does.
        logits = Inputs(Bench(device, (), Effort(1, 1), pool), shape, 1.0, 1).sets[0][0]
        arrays = [logits] * len(OPERATIONS[op].inputs)
        device.synchronize()
        begun = time.perf_counter()
        OPERATIONS[op].call(arrays, cell.axis)
        device.synchronize()
        print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
