"""Memory of the host and bytes copied when float16 rows of a memmap are streamed.

    python -m benchmarks.streamed [--mib 4096] [--length 32768] [--device-mib 64]
    python -m benchmarks.streamed --mib 4 --device-mib 1 --run

The emulator plans and copies, and launches do nothing; with --run it runs them, and the results are
compared with those of whole rows. What the emulated device has counts as the host's memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cusoftmax as cs
from cusoftmax import emulator, streaming
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.planning.plan import Kernel
from cusoftmax.runtime import copies
from cusoftmax.runtime.backend import Loaded, pop_backend, push_backend

MIB = 1 << 20


class NullBackend(emulator.EmulatorBackend):
    """Plans as the emulator, and launches nothing."""

    @property
    def key(self) -> Hashable:
        return ("nothing", super().key)

    def load(self, kernel: Kernel) -> Loaded:
        return lambda *arguments: None


@dataclass
class Counted:
    """A call's copies between the host and the device, and the most memory that the host had."""

    copied: int = 0
    before: int = 0
    most: int = 0


def anonymous_bytes() -> int:
    """Return the memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10


@contextmanager
def counting() -> Iterator[Counted]:
    """Count the copies within the block, and look at the memory at each."""
    found, opened = Counted(before=anonymous_bytes()), copies.open_device

    def noting(copy: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def noted(to: Any, array: Any) -> None:
            copy(to, array)
            found.copied += to.nbytes
            found.most = max(found.most, anonymous_bytes())

        return noted

    def open_device() -> copies.Device:
        device: Any = opened()
        device.copy_in, device.copy_out = noting(device.copy_in), noting(device.copy_out)
        return device

    copies.open_device = open_device
    try:
        yield found
    finally:
        copies.open_device = opened


@contextmanager
def launching(run: bool) -> Iterator[None]:
    """Use the emulator, or its planner and its copies alone."""
    with emulator.activate():
        if run:
            yield
            return
        backend = NullBackend()
        push_backend(backend)
        try:
            yield
        finally:
            pop_backend(backend)


def stream(folder: Path, rows: int, length: int, device_bytes: int, run: bool) -> Counted:
    """Stream softmax from one file into another; with `run`, check the results."""
    shape = rows, length
    with open(folder / "x", "wb") as file:
        if run:
            np.random.default_rng(0).standard_normal(shape, np.float32).astype("f2").tofile(file)
        else:
            file.truncate(2 * rows * length)  # zeros, which take no room
    source = np.memmap(folder / "x", np.float16, "r", shape=shape)
    target = np.memmap(folder / "y", np.float16, "w+", shape=shape)
    with launching(run):
        with counting() as counted:
            streaming.softmax(source, target, device_bytes=device_bytes, progress=False)
        if run:
            whole = emulator.asnumpy(cs.softmax(emulator.asarray(np.asarray(source))))
            if whole.tobytes() != target.tobytes():
                raise SystemExit("the results have other bits than those of whole rows")
    return counted


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mib", type=int, default=4096, help="of the rows")
    parser.add_argument("--length", type=int, default=32768, help="of a row")
    parser.add_argument("--device-mib", type=int, default=64, help="that streaming may take")
    parser.add_argument("--run", action="store_true", help="run the kernels too")
    given = parser.parse_args(arguments)
    rows = given.mib * MIB // (2 * given.length)
    with tempfile.TemporaryDirectory() as folder:
        found = stream(Path(folder), rows, given.length, given.device_mib * MIB, given.run)
    least = 2 * 2 * rows * given.length
    did = "kernels run, bits of whole rows" if given.run else "launches do nothing"
    print(f"softmax of {rows} rows of {given.length}, float16, {given.mib} MiB; {did}")
    print(f"device_bytes {given.device_mib} MiB, of the emulator's host memory")
    print(f"anonymous memory rose by {(found.most - found.before) / MIB:.1f} MiB")
    print(f"copied {found.copied / MIB:.1f} MiB, {found.copied / least:.3f} of the least")
    return 0


if __name__ == "__main__":
    sys.exit(main())
