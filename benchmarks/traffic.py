"""Bytes, sectors, bank conflicts and barriers of each pattern, as the emulator counts them.

    python -m benchmarks.traffic [--dtype float32]
    python -m benchmarks.traffic [--op softmax_vjp]

The least possible traffic is each input read once and the output written once. A sector is 32
bytes, the unit of the memory system; all rows of the first table are aligned to it. Workspaces
count as traffic. The second table is of rows of any length that lie end to end, the third of
columns: sectors over the least, with accesses where the elements lie (as it was before any passed
through shared memory), the most that the tests allow, and as planned for many rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.table import Table

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning import planner, topk, tuning
from cusoftmax.planning.builder import ceil_div, power_of_two
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.runtime import launch

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
    PatternExample("column, clusters", "sm_90", (2048, 192), 0),
    PatternExample("column, long", "sm_75", (4096, 256), 0),
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


MOST_SECTORS = 1.05  # over the least, of rows that lie end to end
WIDTHS = (10, 33, 100, 127, 128, 1000, 1001, 4095, 8191)
SIDE_BY_SIDE = (7, 10, 33, 49, 100, 128, 196, 361, 1001)


@dataclass(frozen=True)
class Sectors:
    """Sectors of a call over the least that its arrays have, and the result."""

    read: float
    written: float
    result: Any


@contextmanager
def staging(wanted: bool) -> Iterator[None]:
    """Plan as for arrays of any size, or as if no row passed through shared memory."""
    usual = (
        tuning.STAGED_BYTES,
        planner.staged_operands,
        planner.staged_columns,
        topk.stages_results,
    )

    def use(
        least_bytes: int,
        rows: Callable[..., int],
        columns: Callable[..., int],
        picks: Callable[..., int],
    ) -> None:
        tuning.STAGED_BYTES = tuning.Tuned(least_bytes, tuning.STAGED_BYTES.gpu, "")
        planner.staged_operands = topk.staged_operands = rows
        planner.staged_columns = columns
        topk.stages_results = picks
        plan.cache_clear()
        launch._calls.clear()

    use(0, *(usual[1:] if wanted else 3 * (lambda *_: 0,)))
    try:
        yield
    finally:
        use(*usual)


def sectors(
    op: str,
    dtype: str,
    shape: tuple[int, ...],
    axis: int = -1,
    *,
    staged: bool = True,
    arch: str = "sm_90",
) -> Sectors:
    """Run a contiguous array on the emulator, and count the sectors."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    drawn = CONTRACTS[op].draw(np.random.default_rng(0), shape, axis, kind)
    with staging(staged), emulator.activate(arch, seed=1):
        inputs = [emulator.asarray(array) for array in drawn]
        with emulator.trace() as counted:
            result = CONTRACTS[op].call(*inputs, axis=axis)
    return _over_least(counted, inputs, result if isinstance(result, tuple) else (result,))


def segments(op: str, dtype: str, n: int, rows: int) -> Sectors:
    """Do the same for so many segments of n elements each, whose offsets are of 64 bits."""
    rng = np.random.default_rng(0)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    values = [rng.normal(0, 3, rows * n).astype(kind) for _ in range(OPERATIONS[op].value_inputs)]
    with emulator.activate("sm_90", seed=1):
        inputs = [emulator.asarray(a) for a in (*values, np.arange(rows + 1) * n)]
        with emulator.trace() as counted:
            result = getattr(cs, op)(*inputs)
    return _over_least(counted, inputs, (result,))


def _over_least(counted: Any, inputs: Sequence[Any], results: Sequence[Any]) -> Sectors:
    def least(arrays: Sequence[Any]) -> int:
        return sum(ceil_div(array.nbytes, SECTOR_BYTES) for array in arrays)

    return Sectors(
        counted.sectors_read / least(inputs),
        counted.sectors_written / least(results),
        tuple(emulator.asnumpy(array) for array in results),
    )


def few_rows(n: int) -> tuple[int, int]:
    """Return a shape whose rows fill two blocks of the group pattern, and a part of a third.

    Of long rows so many that each is read once.
    """
    if n >= tuning.SPLIT_LENGTH:
        return 6, n
    return 3 if n > 1024 else 2 * 128 * 32 // (power_of_two(n) if n > 32 else 32) + 3, n


def print_widths(op: str, heading: str, console: Console) -> None:
    """Print the sectors of rows of several lengths, or of so many side by side, for each dtype.

    Accessed where they lie, at most, and as they are now.
    """
    columns = heading == "columns"
    widths = SIDE_BY_SIDE if columns else WIDTHS
    title = f"{op}{', 100 elements down a column' if columns else ''}: sectors read, written"
    table = Table(title=f"{title} over the least", title_justify="left")
    for text in ("dtype", heading, *map(str, widths)):
        table.add_column(text, justify="right")

    def shown(dtype: str, staged: bool) -> Iterator[str]:
        for n in widths:
            shape, axis = ((2, 100, n), -2) if columns else (few_rows(n), -1)
            found = sectors(op, dtype, shape, axis, staged=staged)
            yield f"{found.read:.2f} {found.written:.2f}"

    for dtype in ("float16", "bfloat16", "float32", "float64"):
        table.add_row(dtype, "in place", *shown(dtype, False))
        table.add_row("", "at most", *[f"{MOST_SECTORS:.2f}"] * len(widths))
        table.add_row("", "now", *shown(dtype, True), end_section=True)
    console.print(table)


def main() -> int:
    let_any_character_print()
    parser = argparse.ArgumentParser(description="Traffic of each pattern, on the emulator.")
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32", "float64"))
    parser.add_argument(
        "--op", default="softmax", choices=list(OPERATIONS), help="of the second table"
    )
    given = parser.parse_args()
    dtype = given.dtype
    console = Console(width=None if sys.stdout.isatty() else 140)  # a file has no width
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
    for heading in ("N", "columns"):
        print_widths(given.op, heading, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
