"""The speed that the cost model predicts: a fraction of a copy's, for each length and chip.

    python -m benchmarks.predicted [--op softmax] [--dtype float16] [--chip H100]

Nothing here is measured, and no GPU is needed; docs/cost.md says how speed is predicted and what is
left out. `python -m benchmarks.pictures predicted` draws softmax, beside Triton's and Liger's.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.static import peer_cost
from benchmarks.static.predictions import STAMP, Case, Prediction, costs, of_peer, ours
from benchmarks.suites.operations import DTYPES
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.machine_code import sass
from cusoftmax.machine_code.limits import LIMITERS

OPS = ("softmax", "softmax_vjp", "log_softmax", "cross_entropy_grad")
LENGTHS = (10, 33, 100, 128, 1000, 1001, 4096, 8191, 32000, 50257, 131072)
CHIPS = ("A100", "H100", "H200", "B200", "GeForce RTX 5090")
AIM = 0.95  # of a copy; what is below is listed with its reason


def predict(cases: Sequence[Case]) -> dict[Case, Prediction]:
    """Predict our speed in each case."""
    return {case: ours(cost) for case, cost in costs(cases).items()}


def table(
    op: str, lengths: Sequence[int], dtypes: Sequence[str], chips: Sequence[str],
    found: dict[Case, Prediction],
) -> Table:  # fmt: skip
    """Return the fractions of an operation, a row for each length."""
    made = Table(title=f"{op}: fraction of a copy, {STAMP}", title_justify="left", box=box.SIMPLE)
    made.add_column("N", justify="right")
    for dtype in dtypes:
        for chip in chips:
            made.add_column(f"{dtype}\n{chip.removeprefix('GeForce ')}", justify="right")
    for n in lengths:
        made.add_row(
            str(n),
            *(f"{found[Case(op, d, n, c)].fraction:.2f}" for d in dtypes for c in chips),
        )
    return made


def reasons(found: dict[Case, Prediction]) -> Iterator[str]:
    """Yield a line for each case below the aim."""
    for case, p in found.items():
        if p.fraction >= AIM:
            continue
        why = LIMITERS[p.limiter].partition(":")[0]
        if p.limiter == "phases":
            why += f" ({p.blocks})"
        if p.traffic_limit < AIM:
            why += f"; its traffic allows {p.traffic_limit:.2f}"
        yield f"{case.op} {case.dtype} {case.n} {case.chip}: {p.fraction:.2f}, {why}"


def peers_fractions(peer: str, cases: Sequence[Case]) -> tuple[list[tuple[int, float]], list[str]]:
    """Return a peer's lengths and fractions, and why it has none for the others."""
    points, refused = [], []
    for case in cases:
        try:
            points.append((case.n, of_peer(peer, case)))
        except peer_cost.NoKernel as reason:
            refused.append(f"{peer}: {reason}")
        except ImportError as error:
            return [], [f"{peer} is missing: {error}"]
    return points, list(dict.fromkeys(refused))


def main() -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--op", action="append", choices=OPS, help="default: all of them")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: all")
    parser.add_argument("--chip", action="append", help=f"default: {', '.join(CHIPS)}")
    parser.add_argument("--n", action="append", type=int, help="a length; default: eleven of them")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 200)
    reason = sass.missing()
    if reason:
        console.print(f"nothing can be compiled here: {reason}", markup=False)
        return 1
    chips = given.chip or CHIPS
    dtypes, lengths = given.dtype or DTYPES, given.n or LENGTHS
    for op in given.op or OPS:
        found = predict([Case(op, d, n, c) for d in dtypes for n in lengths for c in chips])
        console.print(table(op, lengths, dtypes, chips, found))
        for line in reasons(found):
            console.print(line, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
