"""The table at the end of a run; `benchmarks.report` makes the full report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.measuring.averages import geometric_mean
from benchmarks.measuring.results import COPY, OURS, Measurement, Results
from benchmarks.suites.cells import Cell


def seconds(value: float) -> str:
    """Return a time with a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def best_peer(made: Sequence[Measurement], peers: Sequence[str]) -> tuple[float, str] | None:
    """Return the fastest peer's time over ours, and its name; above 1, ours is faster."""
    ours = next((m for m in made if m.who == OURS and m.times), None)
    timed = [(m.times.median, m.who) for m in made if m.times and m.who in peers]
    if ours is None or ours.times is None or not timed:
        return None
    best, who = min(timed)
    return best / ours.times.median, who


def line(cell: Cell, made: Sequence[Measurement]) -> str:
    """Return the times of a cell as one line."""
    parts = [str(cell)]
    for m in made:
        if m.times is not None:
            share = f" {m.fraction_of_copy:.2f}" if m.fraction_of_copy and m.who != COPY else ""
            parts.append(f"{m.who} {seconds(m.times.median)}{share}")
        else:
            parts.append(f"{m.who} failed: {(m.failed or '')[:80]}")
    return "; ".join(parts)


def show(console: Console, results: Results) -> None:
    """Print a table with a line for each suite, operation and dtype."""
    stamp = "DRY RUN: a CPU's times, which mean nothing. " if results.dry_run else ""
    table = Table(title=f"{stamp}Medians over cells; worst of them beside", title_justify="left")
    for heading in ("suite", "operation", "dtype"):
        table.add_column(heading)
    for heading in ("cells", "time", "of copy", "worst", "at", "best peer / ours", "worst", "at"):
        table.add_column(heading, justify="right")

    def table_line(m: Measurement) -> tuple[str, str, str]:
        return (m.suite, m.op, m.dtype)

    for name, members in groupby(sorted(results.measurements, key=table_line), table_line):
        of_group = list(members)
        by_cell: dict[object, list[Measurement]] = {}
        for m in of_group:
            by_cell.setdefault(m.cell, []).append(m)
        ours = [m for m in of_group if m.who == OURS and m.times]
        shares = [(m.fraction_of_copy, f"{m.rows}×{m.n}") for m in ours if m.fraction_of_copy]
        ratios = []
        for made in by_cell.values():
            best = best_peer(made, list(results.peers))
            if best is not None:
                ratios.append((best[0], f"{made[0].rows}×{made[0].n} {best[1]}"))
        table.add_row(
            *name,
            str(len(by_cell)),
            seconds(median(m.times.median for m in ours if m.times)) if ours else "failed",
            *_middle_and_least([s for s, _ in shares], min(shares, default=(0, ""))),
            *_middle_and_least(
                [r for r, _ in ratios], min(ratios, default=(0, "")), geometric=True
            ),
        )
    console.print(table)


def _middle_and_least(
    values: Sequence[float], worst: tuple[float, str], geometric: bool = False
) -> tuple[str, str, str]:
    """Return the median or geometric mean of the values, the worst of them and its cell."""
    if not values:
        return "", "", ""
    middle = geometric_mean(values) if geometric else median(values)
    return f"{middle:.3f}", f"{worst[0]:.3f}", worst[1]
