"""Bytes, sectors, bank conflicts and barriers of each pattern, as the emulator counts them.

    python -m benchmarks.traffic [--dtype float32]

The least possible traffic is each input read once and the output written once. A sector is 32
bytes, the unit of the memory system; all rows here are aligned to it. Workspaces count as traffic.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for

SECTOR_BYTES = 32


@dataclass(frozen=True)
class PatternExample:
    """An aligned array that one GPU computes in this pattern, for every dtype and operation."""

    name: str
    arch: str
    shape: tuple[int, int]
    axis: int = -1

    def plan(self, op: str, dtype: str) -> Plan:
        problem = problem_for(op, self.shape, dtype, self.axis)
        return plan(problem, DeviceSpec.known(self.arch))


EXAMPLES = (
    PatternExample("group", "sm_90", (64, 128)),
    PatternExample("block", "sm_80", (3, 4096)),
    PatternExample("block x8", "sm_90", (2, 32768)),
    PatternExample("stream", "sm_75", (12, 65536)),
    PatternExample("split", "sm_80", (1, 131072)),
    PatternExample("column", "sm_80", (64, 96), 0),
    PatternExample("column, clusters", "sm_90", (256, 192), 0),
    PatternExample("column, long", "sm_80", (4096, 192), 0),
)


@dataclass(frozen=True)
class Traffic:
    """The traffic of one call."""

    example: PatternExample
    plan: Plan
    counted: emulator.Report

    @property
    def bytes(self) -> int:
        return self.counted.global_bytes_read + self.counted.global_bytes_written

    @property
    def over_least(self) -> float:
        """Bytes moved over the least possible."""
        return self.bytes / self.plan.least_bytes

    @property
    def sectors_over_least(self) -> float:
        """Sectors accessed, summed over instructions, relative to the bytes moved."""
        sectors = self.counted.sectors_read + self.counted.sectors_written
        return sectors * SECTOR_BYTES / self.bytes

    @property
    def barriers_per_row(self) -> float:
        """Block barriers per row; in the column pattern, per block."""
        return self.counted.barriers / self.plan.rows


def measure(example: PatternExample, op: str, dtype: str) -> Traffic:
    """Run one call on the emulator and count its traffic."""
    rng = np.random.default_rng(0)
    inputs = [rng.normal(0, 3, example.shape).astype(dtype) for _ in range(1 + (op != "softmax"))]
    with emulator.activate(arch=example.arch):
        arrays = [emulator.asarray(a) for a in inputs]
        with emulator.trace() as counted:
            getattr(cs, op)(*arrays, axis=example.axis)
    return Traffic(example, example.plan(op, dtype), counted)


def main() -> int:
    parser = argparse.ArgumentParser(description="Traffic of each pattern, on the emulator.")
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32", "float64"))
    dtype = parser.parse_args().dtype
    console = Console(width=None if sys.stdout.isatty() else 130)  # a file has no width
    table = Table(title=f"{dtype}: memory traffic over the least possible", title_justify="left")
    for heading in ("operation", "case", "shape", "axis", "GPU"):
        table.add_column(heading)
    for heading in ("bytes", "sectors", "access", "bank conflicts", "barriers/row", "clusters'"):
        table.add_column(heading, justify="right")
    for op in ("softmax", "softmax_vjp"):
        for example in EXAMPLES:
            t = measure(example, op, dtype)
            table.add_row(
                op,
                example.name,
                "×".join(map(str, example.shape)),
                str(example.axis),
                example.arch,
                f"{t.over_least:.3f}",
                f"{t.sectors_over_least:.3f}",
                f"{t.counted.widest_read} B",
                str(t.counted.bank_conflicts),
                f"{t.barriers_per_row:.2f}",
                f"{t.counted.cluster_barriers / t.plan.rows:.2f}",
            )
        table.add_section()
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
