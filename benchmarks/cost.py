"""Predicted cost of every pattern at typical widths, beside the peers' kernels. Needs no GPU.

    python -m benchmarks.cost --arch sm_80 --arch sm_90 --arch sm_100 --markdown cost.md

Instructions are counted per thread and divided by the elements of the input's shape; docs/cost.md
says how, and what the predictions leave out. Triton's and Liger's kernels are compiled by Triton's
own compiler for the same architecture, where it is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.static import peer_cost
from benchmarks.suites.operations import DEFAULT_OPS
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.machine_code import sass
from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import KernelCost
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.profiling.sectors import predicted_cost

BATCH_ELEMENTS = 1 << 27  # 256 MiB of float16


@dataclass(frozen=True)
class TypicalProblem:
    """A large batch of rows of one length, along the last axis or axis 0; or a single row."""

    n: int
    one_row: bool = False
    axis: int = -1

    @property
    def shape(self) -> tuple[int, int]:
        rows = 1 if self.one_row else max(1, BATCH_ELEMENTS // self.n)
        return (rows, self.n) if self.axis == -1 else (self.n, rows)


# Each pattern is planned for some of these on one of the architectures.
PROBLEMS = (
    *(
        TypicalProblem(n)
        for n in (128, 1024, 4096, 16384, 32768, 50257, 65536, 131072, 262144, 1 << 20)
    ),
    TypicalProblem(1 << 20, one_row=True),
    TypicalProblem(512, axis=0),
    TypicalProblem(32768, axis=0),
)

# Columns of the table, each a sum over some classes of instructions.
INSTRUCTION_COLUMNS = {
    "memory": ("global memory", "shared memory", "spill"),
    "shuffle": ("shuffle",),
    "convert": ("conversion",),
    "float": ("float",),
    "double": ("double",),
    "special": ("special function",),
    "integer": ("integer",),
    "move": ("move",),
    "control": ("control", "other"),
}
HEADINGS = (
    "pattern", "shape", "axis", "who", *INSTRUCTION_COLUMNS, "all", "registers", "spills",
    "occupancy", "KiB loading", "of copy", "limiter",
)  # fmt: skip
Row = tuple[str, ...]
# Short names of limiters; the others keep the name that `cusoftmax cost` prints.
LIMITER_NAMES = {"fma": "float32", "alu": "integer, move", "imad": "multiply", "xu": "special"}


def pattern_of(chosen: Plan) -> str:
    """Return the plan's pattern as the table names it."""
    kernel = chosen.launches[0].kernel
    cluster = f" ×{chosen.cluster}" if chosen.cluster > 1 else ""
    parked = " parked" if kernel["CSM_PARKS"] != "0" else ""
    long = " long" if chosen.pattern == "column" and len(chosen.launches) > 1 else ""
    return chosen.pattern + cluster + parked + long


@dataclass(frozen=True)
class ProblemRows:
    """A problem's rows of the table, ours first, and why some peers have none."""

    rows: list[Row]
    refused: list[str]


def rows_of_problem(
    problem: TypicalProblem, op: str, dtype: str, device: DeviceSpec
) -> ProblemRows:
    """Predict the cost of a problem."""
    chosen = plan(problem_for(op, problem.shape, dtype, problem.axis), device)
    predicted = predicted_cost(chosen)
    where = (pattern_of(chosen), "×".join(map(str, problem.shape)), str(problem.axis))
    columns = _columns(predicted.launches, predicted.fraction_of_copy)
    found, refused = [(*where, "cusoftmax", *columns)], []
    if problem.axis != -1 or peer_cost.missing():
        return ProblemRows(found, refused)
    rows, n = problem.shape
    for peer in peer_cost.PEERS:
        try:
            theirs = peer_cost.cost(peer, op, dtype, rows, n, predicted.chip, device)
        except peer_cost.NoKernel as reason:
            refused.append(f"{peer} has no kernel for {where[1]}: {reason}")
        except ImportError as error:
            refused.append(f"{peer} is missing: {error}")
        else:
            share = predicted.copy_seconds / theirs.seconds
            found.append((*where, peer, *_columns([theirs], share)))
    return ProblemRows(found, refused)


def _columns(launches: Sequence[KernelCost], share: float) -> Row:
    slowest = max(launches, key=lambda launch: launch.seconds)

    def instructions(classes: Sequence[str]) -> float:
        return sum(k.per_element.get(name, 0.0) for k in launches for name in classes)

    occupancy = slowest.occupancy
    return (
        *(f"{instructions(classes):.1f}" for classes in INSTRUCTION_COLUMNS.values()),
        f"{sum(k.instructions for k in launches):.1f}",
        str(max(k.registers for k in launches)),
        str(sum(k.spills for k in launches)),
        f"{occupancy.share:.0%}" if occupancy.blocks else "does not fit",
        f"{slowest.in_flight / 1024:.0f}",
        f"{share:.0%}",
        LIMITER_NAMES.get(slowest.limiter, slowest.limiter),
    )


def tables(
    archs: Sequence[str], ops: Sequence[str], dtypes: Sequence[str]
) -> Iterator[tuple[str, list[Row], list[str]]]:
    """Yield title, rows and refusals for each architecture, operation and dtype."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the compilers run outside the GIL
        for arch in archs:
            device = DeviceSpec.known(arch)
            chip = Chip.of(device)
            for op in ops:
                for dtype in dtypes:
                    title = (
                        f"{op}, {dtype}, sm_{device.arch}: {chip.name}, copy at "
                        f"{chip.copy_bandwidth / 1e12:.2f} TB/s ({chip.copy_bandwidth.source})"
                    )
                    done = list(
                        pool.map(
                            partial(rows_of_problem, op=op, dtype=dtype, device=device), PROBLEMS
                        )
                    )
                    rows = [row for each in done for row in each.rows]
                    refused = [line for each in done for line in each.refused]
                    yield title, rows, list(dict.fromkeys(refused))


def as_markdown(title: str, rows: Sequence[Row], refused: Sequence[str]) -> str:
    """Return a table in Markdown."""
    lines = [f"### {title}", "", f"| {' | '.join(HEADINGS)} |"]
    lines.append(f"|{'---|' * 4}{'---:|' * (len(HEADINGS) - 5)}---|")
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in refused), ""])


def as_table(title: str, rows: Sequence[Row]) -> Table:
    """Return a table for a terminal."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for place, heading in enumerate(HEADINGS):
        right = 3 < place < len(HEADINGS) - 1
        table.add_column(heading, justify="right" if right else "left", no_wrap=not right)
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(*row, end_section=after is not None and after[3] == "cusoftmax")
    return table


def main() -> int:
    let_any_character_print()
    parser = argparse.ArgumentParser(description="Predicted cost of every pattern and the peers'.")
    parser.add_argument("--arch", action="append", help="default: sm_80, sm_90, sm_100")
    parser.add_argument("--op", action="append", choices=DEFAULT_OPS, help="default: both")
    parser.add_argument(
        "--dtype",
        action="append",
        choices=list(peer_cost.POINTER_TYPES),
        help="default: float16, float32",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200)
    reason = sass.missing()
    if reason:
        console.print(f"nothing can be compiled here: {reason}", markup=False)
        return 1
    absent = peer_cost.missing()
    if absent:
        console.print(f"peers missing: {absent}", markup=False)
    written = []
    for title, rows, refused in tables(
        given.arch or ["sm_80", "sm_90", "sm_100"],
        given.op or DEFAULT_OPS,
        given.dtype or ["float16", "float32"],
    ):
        console.print(as_table(title, rows))
        for line in refused:
            console.print(line, markup=False, soft_wrap=True)
        written.append(as_markdown(title, rows, refused))
    if given.markdown:
        given.markdown.write_text("\n".join(written), encoding="utf-8")
        console.print(f"written to {given.markdown}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
