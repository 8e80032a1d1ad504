"""Errors of the exponential of float32 softmax: of every float32 number, or of one in some.

    python -m benchmarks.exponentials [--step 64]

The kernels' own source (numeric/exp.cuh) is built for the host, and its relative error is found for
all numbers that a row may have, up to where exponentials are formed of shifted logits and beyond.
docs/accuracy.md derives softmax's bound from the range of these errors in one row. Needs a C++
compiler; all numbers take about half a minute of a processor.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from cusoftmax.cli.output import let_any_character_print
from cusoftmax.emulator import _build
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.runtime.source import definitions, kernel_root

SOURCE = Path(__file__).parent / "static" / "exponentials.cpp"
# Binades of |x|: below the first one r = x is too small to err by more than the last rounding.
FIRST, LAST = -14, 19
TOGETHER = 9  # numbers below 2^TOGETHER may be in one row, others beside those of the next binades


class _Extremes(ctypes.Structure):
    _fields_ = (
        ("least", ctypes.c_double),
        ("largest", ctypes.c_double),
        ("least_at", ctypes.c_float),
        ("largest_at", ctypes.c_float),
    )


@dataclass(frozen=True)
class Binade:
    """The numbers of a sign with sizes in [2^exponent, 2^(exponent + 1)), and their errors in u."""

    negative: bool
    exponent: int
    least: float
    largest: float
    least_at: float
    largest_at: float


def library() -> ctypes.CDLL:
    """Build the sweep with the options of a float32 kernel of softmax."""
    made = plan(problem_for("softmax", (1024, 1024), "float32"), DeviceSpec.known("sm_90"))
    options = ("-DCSM_EMULATOR", *definitions(made.launches[0].kernel))
    folders = (kernel_root(), _build.HERE)
    loaded = ctypes.CDLL(str(_build.build(SOURCE, options, folders, "-O2")))
    loaded.sweep.argtypes = (ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
    loaded.sweep.restype = _Extremes
    return loaded


def sweep(step: int = 1) -> list[Binade]:
    """Return the errors of every `step`-th float32 number, binade by binade."""
    loaded = library()

    def of(place: tuple[bool, int]) -> Binade:
        negative, exponent = place
        ends = np.array([2.0**exponent, 2.0 ** (exponent + 1)], np.float32).view(np.uint32)
        first, last = (int(bits) + (negative << 31) for bits in ends)
        found = loaded.sweep(first, last, step)
        where = (found.least, found.largest, found.least_at, found.largest_at)
        return Binade(negative, exponent, *where)

    places = [(negative, e) for negative in (False, True) for e in range(FIRST, LAST + 1)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the sweeps run outside the GIL
        return list(pool.map(of, places))


def widest_range(binades: Sequence[Binade]) -> float:
    """Return the largest difference of the errors of two numbers that may be in one row, in u."""

    def together(a: Binade, b: Binade) -> bool:
        if max(a.exponent, b.exponent) < TOGETHER:
            return True
        return a.negative == b.negative and abs(a.exponent - b.exponent) <= 1

    return max(a.largest - b.least for a in binades for b in binades if together(a, b))


def main() -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--step", type=int, default=1, help="of so many numbers one is tried")
    given = parser.parse_args()
    found = sweep(given.step)
    table = Table(
        title="float32: relative errors of exponentials, in u = 2^-24",
        title_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("|x| from", "least", "at", "largest", "at"):
        table.add_column(heading, justify="right")
    for each in found:
        size = f"{'-' if each.negative else ''}2^{each.exponent}"
        places = (f"{each.least_at:.9g}", f"{each.largest_at:.9g}")
        table.add_row(size, f"{each.least:.4f}", places[0], f"{each.largest:.4f}", places[1])
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    extent = widest_range(found)
    console.print(f"two elements of a row differ by at most {extent:.4f} u in their errors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
