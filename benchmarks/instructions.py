"""Instructions an element against their targets, and the time they take over the memory's.

    python -m benchmarks.instructions [--table] [--odd] [--issue]

All parts by default. The first counts, as `cusoftmax cost` does, the instructions an element of
8192 rows of 8192 elements. The second compares rows that are no multiple of 16 bytes with aligned
ones. The third says what part of the memory's time issuing takes, of five operations at many
lengths on four chips, and lists each problem that misses its target. No GPU is needed; the third
part compiles some hundred kernels.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.static.predictions import Case, costs
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.machine_code import sass
from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import Cost

SQUARE = 8192  # rows, and elements of a row, of the table


@dataclass(frozen=True)
class Target:
    """The most instructions an element that an operation is to take on a chip."""

    op: str
    dtype: str
    chip: str
    instructions: float


TARGETS = (
    Target("softmax", "float32", "H100", 30),
    Target("softmax_vjp", "float32", "H100", 42),
    Target("softmax", "float64", "H100", 70),
    Target("softmax", "float16", "H100", 14),
    Target("softmax", "float32", "B200", 20),
    Target("softmax", "float16", "B200", 10),
)

ISSUE_OPS = ("softmax", "log_softmax", "softmax_vjp", "log_softmax_vjp", "cross_entropy_grad")
ISSUE_DTYPES = ("float16", "bfloat16", "float32")
ISSUE_LENGTHS = (128, 256, 512, 1000, 1001, 1024, 2048, 4096, 8191, 8192, 16384, 32000, 32768,
                 50257, 65536, 131072)  # fmt: skip
MOST_ISSUE = {"A100": 0.6, "H100": 0.6, "H200": 0.6, "B200": 0.75}  # of the memory's time


# Rows that are no multiple of 16 bytes, aligned ones as long, and the most instructions more.
ODD_LENGTHS = ((1001, 1000), (8191, 8192), (50257, 50256))
MOST_ODD = {"float16": 5.0, "bfloat16": 5.0, "float32": 3.0}


def issue_share(cost: Cost) -> float:
    """Return the time that issuing all instructions takes, over the memory's."""
    issue, memory = (sum(k.times[name] for k in cost.launches) for name in ("issue", "memory"))
    return issue / memory


def instruction_table() -> Table:
    """Return the counts beside their targets."""
    table = Table(
        title=f"instructions an element, {SQUARE} rows of {SQUARE}",
        title_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("operation", "dtype", "architecture", "kernel"):
        table.add_column(heading)
    for heading in ("at most", "now", ""):
        table.add_column(heading, justify="right")
    cases = {t: Case(t.op, t.dtype, SQUARE, t.chip, rows=SQUARE) for t in TARGETS}
    found = costs(cases.values())
    for target, case in cases.items():
        now, chip = found[case].instructions, Chip.named(target.chip)
        met = "met" if now <= target.instructions else f"{now - target.instructions:.1f} more"
        table.add_row(
            target.op,
            target.dtype,
            f"sm_{chip.arch}",
            found[case].slowest.name,
            f"{target.instructions:g}",
            f"{now:.1f}",
            met,
        )
    return table


def odd_table(ops: Sequence[str], dtypes: Sequence[str]) -> tuple[Table, int]:
    """Return how many instructions more odd rows take on H100, and in how many cases few enough."""
    table = Table(
        title="instructions an element of odd and of aligned rows, sm_90",
        title_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("operation", "dtype"):
        table.add_column(heading)
    for heading in ("N", "instructions", "aligned N", "instructions", "more", "at most"):
        table.add_column(heading, justify="right")
    pairs = [
        tuple(Case(op, dtype, n, "H100") for n in lengths)
        for op in ops
        for dtype in dtypes
        for lengths in ODD_LENGTHS
    ]
    found = costs(case for pair in pairs for case in pair)
    few = 0
    for odd, aligned in pairs:
        more, most = found[odd].instructions - found[aligned].instructions, MOST_ODD[odd.dtype]
        few += more <= most
        cells = (f"{part}" for case in (odd, aligned)
                 for part in (case.n, f"{found[case].instructions:.1f}"))  # fmt: skip
        missed = "" if more <= most else "!"
        table.add_row(odd.op, odd.dtype, *cells, f"{more:+.1f}{missed}", f"{most:g}")
    return table, few


def issue_tables(shares: dict[Case, float]) -> Iterable[Table]:
    """Yield a table for each operation and dtype: a row for each length, a column for each chip."""
    lengths: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for case in shares:
        if case.n not in lengths[case.op, case.dtype]:
            lengths[case.op, case.dtype].append(case.n)
    for (op, dtype), found in lengths.items():
        table = Table(
            title=f"{op}, {dtype}: issue time over memory time",
            title_justify="left",
            box=box.SIMPLE,
        )
        table.add_column("N", justify="right")
        for chip, most in MOST_ISSUE.items():
            table.add_column(f"{chip}, ≤ {most:g}", justify="right")
        for n in found:
            row = (shares[Case(op, dtype, n, chip)] for chip in MOST_ISSUE)
            table.add_row(str(n), *(f"{share:.2f}" for share in row))
        yield table


def main() -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only the instructions an element")
    parser.add_argument("--odd", action="store_true", help="only odd rows beside aligned ones")
    parser.add_argument("--issue", action="store_true", help="only the issue time")
    parser.add_argument("--op", action="append", choices=ISSUE_OPS, help="default: all")
    parser.add_argument("--dtype", action="append", choices=ISSUE_DTYPES, help="default: all")
    parser.add_argument("--n", action="append", type=int, help="a length; default: many")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    reason = sass.missing()
    if reason:
        console.print(f"nothing can be compiled here: {reason}", markup=False)
        return 1
    every = not (given.table or given.odd or given.issue)
    ops, dtypes = given.op or ISSUE_OPS, given.dtype or ISSUE_DTYPES
    if given.table or every:
        console.print(instruction_table())
    if given.odd or every:
        table, few = odd_table(ops, dtypes)
        console.print(table)
        console.print(f"{few} of {table.row_count} within their limit")
    if not (given.issue or every):
        return 0
    cases = [
        Case(op, dtype, n, chip)
        for op in ops
        for dtype in dtypes
        for n in given.n or ISSUE_LENGTHS
        for chip in MOST_ISSUE
    ]
    shares = {case: issue_share(cost) for case, cost in costs(cases).items()}
    for table in issue_tables(shares):
        console.print(table)
    missed = {case: share for case, share in shares.items() if share > MOST_ISSUE[case.chip]}
    for case, share in missed.items():
        console.print(
            f"{case.op} {case.dtype} {case.n} {case.chip}: {share:.2f} of the memory's time, "
            f"at most {MOST_ISSUE[case.chip]:g} wanted",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"{len(cases) - len(missed)} of {len(cases)} within their target")
    return 0


if __name__ == "__main__":
    sys.exit(main())
