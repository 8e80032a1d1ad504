"""Time of the first call of a process, measured in new processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring.averages import quantiles
from benchmarks.measuring.devices import Device, open_device
from benchmarks.measuring.results import OURS, OURS_CACHED, Measurement
from benchmarks.measuring.timing import Effort
from benchmarks.session.contenders import one_line
from benchmarks.session.inputs import CellInputs, RandomPool, Session
from benchmarks.session.measurements import empty_measurement
from benchmarks.suites.cells import Cell
from benchmarks.suites.operations import OPERATIONS

ROOT = Path(__file__).resolve().parents[2]


def measure_first_calls(session: Session, cell: Cell) -> list[Measurement]:
    """Time the first call of new processes, with an empty on-disk cache, then a full one."""
    seconds: dict[str, list[float]] = {OURS: [], OURS_CACHED: []}
    failed = None
    try:
        for _ in range(1 if session.device.emulated else 3):
            with tempfile.TemporaryDirectory() as folder:
                for who in (OURS, OURS_CACHED):
                    seconds[who].append(_in_new_process(session.device, cell, folder))
    except Exception as error:
        failed = one_line(error)
    made = []
    for who, taken in seconds.items():
        m = empty_measurement(cell, who, "host", cell.sigmas[0])
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
        sys.executable, "-m", "benchmarks.session.first_call",
        kind, f"sm_{device.spec.arch}", cell.op, cell.dtype, str(cell.rows), str(cell.n),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    return float(done.stdout.split()[-1])


def main() -> None:
    """In the new process: print the seconds of its first call."""
    kind, arch, op, dtype, rows, n = sys.argv[1:]
    cell = Cell("cold", op, dtype, int(rows), int(n))
    with open_device(kind, arch) as device:
        session = Session(device, (), Effort(1, 1), RandomPool(device))
        # Every input is the same logits: computing others would run a kernel before the clock does.
        logits_only = Cell("cold", "softmax", dtype, int(rows), int(n))
        logits = CellInputs(session, logits_only, 1.0, 1).sets[0][0]
        arrays = [logits] * len(OPERATIONS[op].inputs)
        device.synchronize()
        begun = time.perf_counter()
        OPERATIONS[op].call(arrays, cell.axis)
        device.synchronize()
        print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
