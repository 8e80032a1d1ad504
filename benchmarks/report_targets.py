"""The targets for speed, each judged by what was measured: met, missed or not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import NamedTuple

from benchmarks.report_cells import Cell, Sheet, geometric_mean
from benchmarks.results import OURS

MIB = 1 << 20
OPS = ("softmax", "softmax_vjp")
LARGE = 256 * MIB  # working set from which the bandwidth of memory is what is measured
LONGEST = 262144  # of the rows that must come near the bandwidth of a copy
ONE_ROW = range(131072, 1048576 + 1)
BIG_CHIPS = ("H100", "H200")  # whose float64 units keep up with their memory
BEST = "the best peer"
# Contenders of the overhead suite, like with like: this package, and the same kernel launched by
# hand; the second pair allocates its result. (benchmarks/overhead.py names them, and needs CuPy.)
LAUNCHES = ((f"{OURS}, out=", "rawkernel"), (OURS, "rawkernel, empty_like"))
SPEED_SUITES = ("sweep", "few_rows", "axis0", "range", "cliffs")


Show = Callable[[float], str]


class Sample(NamedTuple):
    """A number that a target is about, and where it was measured."""

    number: float
    where: str


@dataclass(frozen=True)
class Verdict:
    """What became of a target.

    Attributes
    ----------
    target : str
    state : str
        ``"met"``, ``"missed"`` or ``"not measured"``.
    number : str
        The number that decides: the worst one, or a mean.
    worst : str
        The cell that it, or the worst number of a mean, was measured in.
    cells, short : int
        Cells that were judged, and those that fall short.
    """

    target: str
    state: str
    number: str = ""
    worst: str = ""
    cells: int = 0
    short: int = 0

    def said(self, dry_run: bool) -> str:
        """What became of it, which in a dry run is no result."""
        measured = self.state != "not measured"
        return f"means nothing ({self.state})" if dry_run and measured else self.state


def power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def verdicts(sheet: Sheet) -> list[Verdict]:
    """Judge every target."""

    def copy(wanted: Callable[[Cell], bool], *suites: str) -> Iterator[Sample]:
        for cell in sheet.on_device(*suites):
            made = sheet.get(cell)
            if not wanted(cell) or made is None:
                continue
            if made.failed:
                yield Sample(0.0, f"{cell}: {made.failed}")
            elif made.fraction_of_copy is not None:
                yield Sample(made.fraction_of_copy, str(cell))

    def long_enough(cell: Cell) -> bool:
        made = sheet.get(cell)
        return made is not None and made.bytes >= LARGE and cell.n <= LONGEST

    def narrow(cell: Cell) -> bool:
        return cell.dtype != "float64" and cell.op in OPS and long_enough(cell)

    def over(who: str, *suites: str) -> Iterator[Sample]:
        """Speed over another's, in every cell that is timed on the GPU."""
        for cell in sheet.on_device(*suites):
            against = sheet.best_peer(cell) if who == BEST else sheet.versus(cell, who)
            made = sheet.get(cell)
            if against is not None:
                yield Sample(against.ratio, f"{cell} ({against.who})")
            elif who == BEST and made and made.failed and sheet.contenders([cell]):
                yield Sample(0.0, f"{cell}: {made.failed}")

    def one_row(sample_of: Callable[[Cell], Sample | None]) -> Iterator[Sample]:
        cells = (c for c in sheet.on_device("few_rows") if c.rows == 1 and c.n in ONE_ROW)
        return (s for s in map(sample_of, cells) if s is not None)

    def over_torch(cell: Cell) -> Sample | None:
        against = sheet.versus(cell, "torch")
        return Sample(against.ratio, str(cell)) if against else None

    big = any(chip in sheet.gpu for chip in BIG_CHIPS)
    return [
        _least(
            f"N a power of two up to {LONGEST}, 256 MiB or more, 16 and 32-bit: "
            "at least 95 % of copy bandwidth",
            copy(lambda c: narrow(c) and power_of_two(c.n), "sweep"),
            0.95,
            percent,
        ),
        _least(
            f"every other N up to {LONGEST}: at least 90 % of copy bandwidth",
            copy(lambda c: narrow(c) and not power_of_two(c.n), "sweep"),
            0.90,
            percent,
        ),
        _least(
            "the best peer, cell by cell: never below 1.00 times its speed",
            over(BEST, *SPEED_SUITES),
            1.0,
            times,
        ),
        _mean("geometric mean over PyTorch eager: at least 1.3", over("torch", "sweep"), 1.3),
        _mean("geometric mean over cupyx: at least 5", over("cupyx", "sweep"), 5.0),
        _most(
            "neighbouring widths: no step of more than 10 %",
            steps(sheet),
            0.10,
            percent,
        ),
        _least(
            f"float64 on H100 or H200, N up to {LONGEST}: at least 90 % of copy bandwidth",
            copy(lambda c: c.dtype == "float64" and long_enough(c), "sweep") if big else (),
            0.90,
            percent,
        ),
        _least(
            "axis 0: at least 90 % of copy bandwidth",
            copy(lambda c: c.axis == 0, "axis0"),
            0.90,
            percent,
        ),
        _least(
            "one row of 131072 to 1048576: at least 3 times PyTorch eager",
            one_row(over_torch),
            3.0,
            times,
        ),
        _most("logits of σ 50 against σ 1: within 2 %", ranges(sheet), 0.02, percent),
        _most(
            "overhead of a call: at most 1.3 times a bare RawKernel launch",
            calls(sheet, LAUNCHES),
            1.3,
            times,
        ),
        _most(
            "overhead of a call: at most torch.softmax",
            calls(sheet, ((OURS, "torch"),)),
            1.0,
            times,
        ),
    ]


def percent(number: float) -> str:
    return f"{100 * number:.1f} %"


def times(number: float) -> str:
    return f"{number:.2f}×"


def windows(cells: Iterable[Cell], gap: int = 64) -> Iterator[list[Cell]]:
    """Split the cells of the cliffs suite into runs of neighbouring lengths of one kind."""
    run: list[Cell] = []
    for cell in sorted(cells, key=lambda c: (c.op, c.dtype, c.axis, c.how, c.n)):
        same = run and run[-1]._replace(n=0, rows=0) == cell._replace(n=0, rows=0)
        if run and not (same and cell.n - run[-1].n <= gap):
            yield run
            run = []
        run.append(cell)
    if run:
        yield run


def steps(sheet: Sheet) -> Iterator[Sample]:
    """Change of bandwidth from one length to the next, over the larger of the two."""
    for run in windows(sheet.on_device("cliffs")):
        rates = [(c, made.gb_per_s) for c in run if (made := sheet.get(c)) and made.gb_per_s]
        for (left, a), (right, b) in pairwise(rates):
            yield Sample(abs(a - b) / max(a, b), f"{left} to {right.n}")


def ranges(sheet: Sheet) -> Iterator[Sample]:
    """Time with logits far apart over that with logits of σ 1, less one."""
    for cell in sheet.on_device("range"):
        wide, near = sheet.seconds(cell), sheet.seconds(cell._replace(sigma=1.0))
        if cell.sigma != 1.0 and wide and near:
            yield Sample(abs(wide / near - 1), f"{cell} σ {cell.sigma:g}")


def calls(sheet: Sheet, pairs: Iterable[tuple[str, str]]) -> Iterator[Sample]:
    """Time of a whole call over that of another's, on the host's clock."""
    for (ours, theirs), cell in product(pairs, sheet.cells("overhead")):
        mine, other = sheet.seconds(cell, ours), sheet.seconds(cell, theirs)
        if mine and other:
            yield Sample(mine / other, f"{cell}: {ours} over {theirs}")


def _judge(
    target: str, samples: Iterable[Sample], short: Callable[[float], bool], show: Show, least: bool
) -> Verdict:
    found = list(samples)
    if not found:
        return Verdict(target, "not measured")
    worst = min(found) if least else max(found)
    count = sum(short(s.number) for s in found)
    state = "missed" if count else "met"
    return Verdict(target, state, show(worst.number), worst.where, len(found), count)


def _least(target: str, samples: Iterable[Sample], limit: float, show: Show) -> Verdict:
    return _judge(target, samples, lambda number: number < limit, show, least=True)


def _most(target: str, samples: Iterable[Sample], limit: float, show: Show) -> Verdict:
    return _judge(target, samples, lambda number: number > limit, show, least=False)


def _mean(target: str, samples: Iterable[Sample], limit: float) -> Verdict:
    found = list(samples)
    made = _least(target, found, limit, times)
    if not found:
        return made
    mean = geometric_mean([s.number for s in found])
    state = "met" if mean >= limit else "missed"
    return replace(
        made, state=state, number=times(mean), worst=f"least {made.number}: {made.worst}"
    )
