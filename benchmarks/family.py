"""What the cost model predicts for the family beside softmax, and for its unusual shapes.

    python -m benchmarks.family [--only TEXT] [--dtype float16]

For each call: instructions an element (on sm_90; the executed ones where elements are selected or
segments searched), blocks resident on a multiprocessor, and the fraction of a copy's speed on four
chips. Where a copy of so few bytes would take no longer than memory to answer, two more lines: the
fraction of a large copy's bandwidth, and microseconds. Nothing here is measured, and no GPU is
needed; docs/cost.md says how speed is predicted.

`python -m benchmarks.pictures family` draws the fractions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.static.predictions import STAMP, Case, costs
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.machine_code import sass
from cusoftmax.machine_code.cost import Cost
from cusoftmax.machine_code.limits import LIMITERS

CHIPS = ("A100", "H100", "H200", "B200")
DTYPES = ("float16", "bfloat16", "float32")
_COUNTED = "H100"  # whose instructions and blocks are shown


@dataclass(frozen=True)
class Call:
    """A call, and the fractions of a copy that it aims at: on B200, and elsewhere."""

    what: str
    op: str
    rows: int
    n: int
    columns: bool = False
    aim: float = 0.95
    aim_b200: float = 0.85

    def on(self, chip: str, dtype: str) -> Case:
        """Return the call on a chip, in a dtype."""
        return Case(self.op, dtype, self.n, chip, self.rows, self.columns)

    def aim_on(self, chip: str) -> float:
        """Return the fraction that it aims at on a chip."""
        return self.aim_b200 if chip == "B200" else self.aim


_ROWS, _CLASSES = 8192, 32000
CALLS = (
    Call("logsumexp", "logsumexp", _ROWS, _CLASSES),
    Call("cross_entropy with gradient", "cross_entropy_grad", _ROWS, _CLASSES),
    Call("log_softmax_vjp", "log_softmax_vjp", _ROWS, _CLASSES),
    Call("softmax, masked", "softmax_masked", _ROWS, _CLASSES),
    Call("softmax, scaled, masked, causal", "softmax_scaled_masked_causal", _ROWS, _CLASSES),
    Call("softmax_hvp", "softmax_hvp", _ROWS, _CLASSES),
    Call("gumbel_softmax", "gumbel_softmax", _ROWS, _CLASSES, aim=0.7, aim_b200=0.5),
    Call("softmax, axis 0", "softmax", 4096, 4096, columns=True),
    Call("softmax_vjp, axis 0", "softmax_vjp", 4096, 4096, columns=True),
    Call("softmax, axis 0, tall", "softmax", 64, 100_000, columns=True),
    Call("softmax, one row", "softmax", 1, 1_000_000),
    Call("segment_softmax", "segment_softmax", 1, 10_000_000, aim=0.85, aim_b200=0.7),
    Call("topk_softmax, k = 8 of 128", "topk_softmax", 65536, 128, aim=0.7, aim_b200=0.5),
    Call("topk_softmax, k = 8", "topk_softmax", 4, _CLASSES),
    Call("sample", "sample", 4, _CLASSES, aim=0.7, aim_b200=0.5),
)


def table(calls: Sequence[Call], dtypes: Sequence[str], found: dict[Case, Cost]) -> Table:
    """Return a row for each call and dtype; what is below its aim has an exclamation mark."""
    made = Table(
        title=f"fraction of a copy, {STAMP} (!: below its aim)",
        title_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("call", "rows × elements", "dtype"):
        made.add_column(heading)
    for heading in ("instructions", "blocks", *CHIPS, "limiter"):
        made.add_column(heading, justify="right")
    for call in calls:
        for dtype in dtypes:
            of = {chip: found[call.on(chip, dtype)] for chip in CHIPS}
            counted = of[_COUNTED]
            executed = any(launch.executed for launch in counted.launches)
            made.add_row(
                call.what,
                f"{call.rows:,} × {call.n:,}",
                dtype,
                f"{counted.instructions:.1f}{'*' * executed}",
                str(counted.slowest.occupancy.blocks),
                *(_fraction(call, chip, of[chip]) for chip in CHIPS),
                LIMITERS[counted.slowest.limiter].partition(":")[0],
            )
            if any(cost.copy_is_short for cost in of.values()):
                large = (f"{cost.fraction_of_bandwidth:.2f} " for cost in of.values())
                made.add_row("  of a large copy's bandwidth", "", "", "", "", *large)
                times = (f"{cost.seconds * 1e6:.2f} " for cost in of.values())
                made.add_row("  µs", "", "", "", "", *times)
    made.caption = f"instructions, blocks and limiter: {_COUNTED}; *: of PTX, as executed"
    return made


def _fraction(call: Call, chip: str, found: Cost) -> str:
    below = found.fraction_of_copy < call.aim_on(chip)
    return f"{found.fraction_of_copy:.2f}{'!' if below else ' '}"


def cases(calls: Sequence[Call], dtypes: Sequence[str]) -> Iterator[Case]:
    """Yield every call in every dtype on every chip."""
    for call in calls:
        for dtype in dtypes:
            yield from (call.on(chip, dtype) for chip in CHIPS)


def main() -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="calls with this in their name")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: all")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    reason = sass.missing()
    if reason:
        console.print(f"nothing can be compiled here: {reason}", markup=False)
        return 1
    calls = [call for call in CALLS if given.only in call.what]
    dtypes = given.dtype or DTYPES
    console.print(table(calls, dtypes, costs(cases(calls, dtypes))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
