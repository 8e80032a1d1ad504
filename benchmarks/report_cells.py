"""Results files brought together for a report: the newest measurement of each cell, GPU by GPU."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.results import COPY, OURS, Measurement, Results, ResultsError, load

DTYPES = ("float16", "bfloat16", "float32", "float64")  # the order of tables and panels


class Cell(NamedTuple):
    """A problem and how it was timed: what all contenders of a comparison have in common."""

    suite: str
    op: str
    dtype: str
    rows: int
    n: int
    axis: int
    sigma: float
    how: str

    def __str__(self) -> str:
        shape = f"{self.rows}×{self.n}" if self.axis == -1 else f"{self.n}×{self.rows} axis 0"
        return f"{self.op} {self.dtype} {shape}"

    @property
    def order(self) -> tuple[object, ...]:
        """By operation, then dtype from narrow to wide, then length."""
        return (
            self.op,
            dtype_order(self.dtype),
            self.axis,
            self.n,
            self.rows,
            self.sigma,
            self.how,
        )


class Versus(NamedTuple):
    """This package against one other in one cell: above 1 it is the faster."""

    ratio: float
    who: str
    cell: Cell


@dataclass(frozen=True)
class Source:
    """A results file."""

    name: str
    results: Results


@dataclass
class Sheet:
    """All that was measured on one kind of GPU.

    Attributes
    ----------
    gpu : str
    dry_run : bool
        Whether the times are those of the emulator.
    sources : list of Source
        From the oldest to the newest.
    found : dict
        The newest measurement of each cell by each contender, and the source that it is from.
    """

    gpu: str
    dry_run: bool
    sources: list[Source] = field(default_factory=list)
    found: dict[Cell, dict[str, tuple[Measurement, Source]]] = field(default_factory=dict)

    def add(self, source: Source) -> None:
        """Take in a source that is newer than those before."""
        self.sources.append(source)
        for m in source.results.measurements:
            self.found.setdefault(Cell(*m.cell), {})[m.who] = (m, source)

    @property
    def peers(self) -> list[str]:
        """Peers, in the order in which the runs name them."""
        return list(dict.fromkeys(p for s in self.sources for p in s.results.peers))

    @property
    def suites(self) -> list[str]:
        return list(dict.fromkeys(cell.suite for cell in self.found))

    def cells(self, *suites: str) -> list[Cell]:
        """Cells of some suites, or of all, that this package was tried in."""
        chosen = [
            c for c, w in self.found.items() if OURS in w and (not suites or c.suite in suites)
        ]
        return sorted(chosen, key=lambda c: c.order)

    def on_device(self, *suites: str) -> list[Cell]:
        """Such cells that were timed on the device; the emulator has only the host's clock."""
        return [c for c in self.cells(*suites) if self.dry_run or c.how != "host"]

    def get(self, cell: Cell, who: str = OURS) -> Measurement | None:
        entry = self.found.get(cell, {}).get(who)
        return entry[0] if entry else None

    def seconds(self, cell: Cell, who: str = OURS) -> float | None:
        """Median time, or None where there is none."""
        made = self.get(cell, who)
        return made.times.median if made and made.times else None

    def contenders(self, cells: Iterable[Cell]) -> list[str]:
        """All who were timed in some cells: this package, its peers, then what is neither."""
        timed = {w for c in cells for w in self.found.get(c, {}) if self.seconds(c, w)}
        known = [OURS, *self.peers]
        return [w for w in known if w in timed] + sorted(timed - {*known, COPY})

    def versus(self, cell: Cell, who: str) -> Versus | None:
        """This package against another in a cell, if both were timed."""
        ours, theirs = self.seconds(cell), self.seconds(cell, who)
        return Versus(theirs / ours, who, cell) if ours and theirs else None

    def best_peer(self, cell: Cell) -> Versus | None:
        """This package against the fastest of its peers in a cell."""
        return min(filter(None, (self.versus(cell, p) for p in self.peers)), default=None)

    @property
    def mixed(self) -> int:
        """Cells in which contenders of different runs are compared."""
        compared = ({s.name for _, s in by_who.values()} for by_who in self.found.values())
        return sum(len(names) > 1 for names in compared)


def dtype_order(dtype: str) -> int:
    return DTYPES.index(dtype) if dtype in DTYPES else len(DTYPES)


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def gather(paths: Sequence[str | Path], dry_run: bool = False) -> list[Sheet]:
    """Read results files and bring them together, one sheet for each kind of GPU.

    Parameters
    ----------
    paths : sequence of path
    dry_run : bool
        Whether results of the emulator are meant. They never go with those of a GPU.

    Raises
    ------
    ResultsError
        For a file that cannot be read, a dry run that was not asked for, or a GPU's file among
        dry runs.
    """
    sources = [Source(Path(path).name, load(path)) for path in paths]
    for path, source in zip(paths, sources, strict=True):
        if source.results.dry_run and not dry_run:
            raise ResultsError(
                f"{path}: a dry run on the emulator, whose times mean nothing; "
                "--dry-run makes a stamped report of it"
            )
        if dry_run and not source.results.dry_run:
            raise ResultsError(f"{path}: measured on a GPU; leave it out, or leave --dry-run out")
    sheets: dict[str, Sheet] = {}
    for source in sorted(sources, key=lambda s: s.results.started):
        gpu = source.results.machine.gpu
        sheets.setdefault(gpu, Sheet(gpu, dry_run)).add(source)
    return list(sheets.values())
