"""Results files merged for a report: per GPU, the newest measurement of each cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring.results import COPY, OURS, Measurement, Results, ResultsError, load
from benchmarks.suites.operations import DTYPES


class MeasuredCell(NamedTuple):
    """A problem and how it was timed: what all contenders in a comparison share."""

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
        """Sort key: operation, then dtype from narrow to wide, then length."""
        return (
            self.op,
            dtype_order(self.dtype),
            self.axis,
            self.n,
            self.rows,
            self.sigma,
            self.how,
        )


class Comparison(NamedTuple):
    """This package's speed over a peer's in one cell; above 1, this package is faster."""

    ratio: float
    who: str
    cell: MeasuredCell


@dataclass(frozen=True)
class ResultsFile:
    """A results file."""

    name: str
    results: Results


@dataclass
class GpuSheet:
    """Everything measured on one kind of GPU.

    Attributes
    ----------
    gpu : str
    dry_run : bool
        Whether the times are those of the emulator.
    sources : list of ResultsFile
        From the oldest to the newest.
    newest : dict
        For each cell and contender, the newest measurement and the file that it is from.
    """

    gpu: str
    dry_run: bool
    sources: list[ResultsFile] = field(default_factory=list)
    newest: dict[MeasuredCell, dict[str, tuple[Measurement, ResultsFile]]] = field(
        default_factory=dict
    )

    def add(self, source: ResultsFile) -> None:
        """Add a results file that is newer than those before."""
        self.sources.append(source)
        for m in source.results.measurements:
            self.newest.setdefault(MeasuredCell(*m.cell), {})[m.who] = (m, source)

    @property
    def peers(self) -> list[str]:
        """Peers, in the order of the results files."""
        return list(dict.fromkeys(p for s in self.sources for p in s.results.peers))

    @property
    def suites(self) -> list[str]:
        return list(dict.fromkeys(cell.suite for cell in self.newest))

    def cells(self, *suites: str) -> list[MeasuredCell]:
        """Cells of some suites, or of all, in which this package took part."""
        chosen = [
            c for c, w in self.newest.items() if OURS in w and (not suites or c.suite in suites)
        ]
        return sorted(chosen, key=lambda c: c.order)

    def on_device(self, *suites: str) -> list[MeasuredCell]:
        """Of these, the cells timed on the device; in a dry run all are timed by the host."""
        return [c for c in self.cells(*suites) if self.dry_run or c.how != "host"]

    def measurement(self, cell: MeasuredCell, who: str = OURS) -> Measurement | None:
        entry = self.newest.get(cell, {}).get(who)
        return entry[0] if entry else None

    def seconds(self, cell: MeasuredCell, who: str = OURS) -> float | None:
        """Median time, or None where there is none."""
        made = self.measurement(cell, who)
        return made.times.median if made and made.times else None

    def contenders(self, cells: Iterable[MeasuredCell]) -> list[str]:
        """Everyone timed in some cells: this package, its peers, then any other."""
        timed = {w for c in cells for w in self.newest.get(c, {}) if self.seconds(c, w)}
        known = [OURS, *self.peers]
        return [w for w in known if w in timed] + sorted(timed - {*known, COPY})

    def compare(self, cell: MeasuredCell, who: str) -> Comparison | None:
        """Compare this package with another in a cell; None unless both were timed."""
        ours, theirs = self.seconds(cell), self.seconds(cell, who)
        return Comparison(theirs / ours, who, cell) if ours and theirs else None

    def best_peer(self, cell: MeasuredCell) -> Comparison | None:
        """Compare this package with its fastest peer in a cell."""
        return min(filter(None, (self.compare(cell, p) for p in self.peers)), default=None)

    @property
    def mixed_cells(self) -> int:
        """Number of cells whose contenders are from different runs."""
        compared = ({s.name for _, s in by_who.values()} for by_who in self.newest.values())
        return sum(len(names) > 1 for names in compared)


def dtype_order(dtype: str) -> int:
    return DTYPES.index(dtype) if dtype in DTYPES else len(DTYPES)


def gather(paths: Sequence[str | Path], dry_run: bool = False) -> list[GpuSheet]:
    """Read results files and merge them into one sheet for each kind of GPU.

    Parameters
    ----------
    paths : sequence of path
    dry_run : bool
        Whether the files are dry runs. These are never mixed with results of a GPU.

    Raises
    ------
    ResultsError
        For a file that cannot be read, a dry run without `dry_run`, or a file of a GPU with it.
    """
    sources = [ResultsFile(Path(path).name, load(path)) for path in paths]
    for path, source in zip(paths, sources, strict=True):
        if source.results.dry_run and not dry_run:
            raise ResultsError(
                f"{path}: a dry run on the emulator, whose times mean nothing; "
                "--dry-run makes a stamped report of it"
            )
        if dry_run and not source.results.dry_run:
            raise ResultsError(f"{path}: measured on a GPU; leave it out, or leave --dry-run out")
    sheets: dict[str, GpuSheet] = {}
    for source in sorted(sources, key=lambda s: s.results.started):
        gpu = source.results.machine.gpu
        sheets.setdefault(gpu, GpuSheet(gpu, dry_run)).add(source)
    return list(sheets.values())
