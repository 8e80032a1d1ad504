"""The process that `cusoftmax profile` starts under a profiler: runs one call in its range."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cusoftmax.cli.arguments import axis_of, shape_of
from cusoftmax.machine import machine
from cusoftmax.profiling.profile import Work, run_range
from cusoftmax.runtime import backend


def main(argv: Sequence[str] | None = None) -> int:
    """Run the profiled range."""
    parser = argparse.ArgumentParser(prog="python -m cusoftmax.cli.profiled", description=__doc__)
    parser.add_argument("op")
    parser.add_argument("shape", type=shape_of)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--axis", type=axis_of, default=-1)
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--emulator", action="store_true", help="for a test without a GPU")
    given = parser.parse_args(argv)
    work = Work(given.op, given.shape, given.dtype, given.axis)
    if not given.emulator and not backend.gpu_is_present():
        print("cusoftmax: error: there is no GPU to profile on", file=sys.stderr)
        return 2
    with machine("emulator" if given.emulator else "cuda") as on:
        name = run_range(work, on, given.calls)
    print(f"cusoftmax: ran {given.calls} x {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
