"""The targets for speed, each judged from measurements: met, missed or not measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import NamedTuple

from benchmarks.measuring.averages import geometric_mean
from benchmarks.measuring.results import OURS, OURS_OUT, RAW_KERNEL, RAW_KERNEL_ALLOCATING
from benchmarks.reporting.sheets import GpuSheet, MeasuredCell
from benchmarks.suites.cells import MIB
from benchmarks.suites.operations import DEFAULT_OPS

LARGE_BYTES = 256 * MIB  # from this traffic on, memory bandwidth decides
LONGEST_ROW = 262144  # longest row for which a fraction of the copy's bandwidth is a target
ONE_ROW_LENGTHS = range(131072, 1048576 + 1)
FAST_FLOAT64_GPUS = ("H100", "H200")  # their float64 units keep up with their memory
BEST_PEER = "the best peer"
# This package and the same kernel launched by hand: with `out` given, and allocating the result.
HOST_CALL_PAIRS = ((OURS_OUT, RAW_KERNEL), (OURS, RAW_KERNEL_ALLOCATING))
SPEED_SUITES = ("sweep", "few_rows", "axis0", "range", "cliffs")


FormatNumber = Callable[[float], str]


class TargetSample(NamedTuple):
    """A number that a target limits, and where it was measured."""

    number: float
    where: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of a target.

    Attributes
    ----------
    target : str
    state : str
        ``"met"``, ``"missed"`` or ``"not measured"``.
    number : str
        The number that decides: the worst one, or a mean.
    worst : str
        The cell with the worst number.
    cells, short : int
        Number of cells judged, and how many of them miss the target.
    """

    target: str
    state: str
    number: str = ""
    worst: str = ""
    cells: int = 0
    short: int = 0

    def state_text(self, dry_run: bool) -> str:
        """The state; a dry run's is marked as meaningless."""
        measured = self.state != "not measured"
        return f"means nothing ({self.state})" if dry_run and measured else self.state


def power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def verdicts(sheet: GpuSheet) -> list[Verdict]:
    """Judge every target."""

    def copy_fractions(
        wanted: Callable[[MeasuredCell], bool], *suites: str
    ) -> Iterator[TargetSample]:
        for cell in sheet.on_device(*suites):
            made = sheet.measurement(cell)
            if not wanted(cell) or made is None:
                continue
            if made.failed:
                yield TargetSample(0.0, f"{cell}: {made.failed}")
            elif made.fraction_of_copy is not None:
                yield TargetSample(made.fraction_of_copy, str(cell))

    def large_enough(cell: MeasuredCell) -> bool:
        made = sheet.measurement(cell)
        return made is not None and made.bytes >= LARGE_BYTES and cell.n <= LONGEST_ROW

    def large_16_or_32_bit(cell: MeasuredCell) -> bool:
        return cell.dtype != "float64" and cell.op in DEFAULT_OPS and large_enough(cell)

    def speed_over(who: str, *suites: str) -> Iterator[TargetSample]:
        """Speed over that of `who`, in every cell timed on the GPU."""
        for cell in sheet.on_device(*suites):
            comparison = sheet.best_peer(cell) if who == BEST_PEER else sheet.compare(cell, who)
            made = sheet.measurement(cell)
            if comparison is not None:
                yield TargetSample(comparison.ratio, f"{cell} ({comparison.who})")
            elif who == BEST_PEER and made and made.failed and sheet.contenders([cell]):
                yield TargetSample(0.0, f"{cell}: {made.failed}")

    def one_row(sample_of: Callable[[MeasuredCell], TargetSample | None]) -> Iterator[TargetSample]:
        cells = (c for c in sheet.on_device("few_rows") if c.rows == 1 and c.n in ONE_ROW_LENGTHS)
        return (s for s in map(sample_of, cells) if s is not None)

    def over_torch(cell: MeasuredCell) -> TargetSample | None:
        comparison = sheet.compare(cell, "torch")
        return TargetSample(comparison.ratio, str(cell)) if comparison else None

    fast_float64 = any(name in sheet.gpu for name in FAST_FLOAT64_GPUS)
    return [
        _at_least(
            f"N a power of two up to {LONGEST_ROW}, 256 MiB or more, 16 and 32-bit: "
            "at least 95 % of copy bandwidth",
            copy_fractions(lambda c: large_16_or_32_bit(c) and power_of_two(c.n), "sweep"),
            0.95,
            percent,
        ),
        _at_least(
            f"every other N up to {LONGEST_ROW}: at least 90 % of copy bandwidth",
            copy_fractions(lambda c: large_16_or_32_bit(c) and not power_of_two(c.n), "sweep"),
            0.90,
            percent,
        ),
        _at_least(
            "the best peer, cell by cell: never below 1.00 times its speed",
            speed_over(BEST_PEER, *SPEED_SUITES),
            1.0,
            times,
        ),
        _mean_at_least(
            "geometric mean over PyTorch eager: at least 1.3", speed_over("torch", "sweep"), 1.3
        ),
        _mean_at_least("geometric mean over cupyx: at least 5", speed_over("cupyx", "sweep"), 5.0),
        _at_most(
            "neighbouring widths: no step of more than 10 %",
            bandwidth_steps(sheet),
            0.10,
            percent,
        ),
        _at_least(
            f"float64 on H100 or H200, N up to {LONGEST_ROW}: at least 90 % of copy bandwidth",
            copy_fractions(lambda c: c.dtype == "float64" and large_enough(c), "sweep")
            if fast_float64
            else (),
            0.90,
            percent,
        ),
        _at_least(
            "axis 0: at least 90 % of copy bandwidth",
            copy_fractions(lambda c: c.axis == 0, "axis0"),
            0.90,
            percent,
        ),
        _at_least(
            "one row of 131072 to 1048576: at least 3 times PyTorch eager",
            one_row(over_torch),
            3.0,
            times,
        ),
        _at_most("logits of σ 50 against σ 1: within 2 %", sigma_differences(sheet), 0.02, percent),
        _at_most(
            "overhead of a call: at most 1.3 times a bare RawKernel launch",
            host_call_ratios(sheet, HOST_CALL_PAIRS),
            1.3,
            times,
        ),
        _at_most(
            "overhead of a call: at most torch.softmax",
            host_call_ratios(sheet, ((OURS, "torch"),)),
            1.0,
            times,
        ),
    ]


def percent(number: float) -> str:
    return f"{100 * number:.1f} %"


def times(number: float) -> str:
    return f"{number:.2f}×"


def neighbour_runs(cells: Iterable[MeasuredCell], gap: int = 64) -> Iterator[list[MeasuredCell]]:
    """Group the cells of the cliffs suite into runs of neighbouring lengths.

    Cells of a run differ only in length, and rows; `gap` is the largest step between two lengths.
    """
    run: list[MeasuredCell] = []
    for cell in sorted(cells, key=lambda c: (c.op, c.dtype, c.axis, c.how, c.n)):
        same = run and run[-1]._replace(n=0, rows=0) == cell._replace(n=0, rows=0)
        if run and not (same and cell.n - run[-1].n <= gap):
            yield run
            run = []
        run.append(cell)
    if run:
        yield run


def bandwidth_steps(sheet: GpuSheet) -> Iterator[TargetSample]:
    """Relative change of bandwidth from one length to the next."""
    for run in neighbour_runs(sheet.on_device("cliffs")):
        rates = [
            (c, made.gb_per_s) for c in run if (made := sheet.measurement(c)) and made.gb_per_s
        ]
        for (left, a), (right, b) in pairwise(rates):
            yield TargetSample(abs(a - b) / max(a, b), f"{left} to {right.n}")


def sigma_differences(sheet: GpuSheet) -> Iterator[TargetSample]:
    """Relative difference between the times for logits of a larger σ and of σ 1."""
    for cell in sheet.on_device("range"):
        wide, near = sheet.seconds(cell), sheet.seconds(cell._replace(sigma=1.0))
        if cell.sigma != 1.0 and wide and near:
            yield TargetSample(abs(wide / near - 1), f"{cell} σ {cell.sigma:g}")


def host_call_ratios(sheet: GpuSheet, pairs: Iterable[tuple[str, str]]) -> Iterator[TargetSample]:
    """Host time of a whole call over that of the contender it is paired with."""
    for (ours, theirs), cell in product(pairs, sheet.cells("overhead")):
        mine, other = sheet.seconds(cell, ours), sheet.seconds(cell, theirs)
        if mine and other:
            yield TargetSample(mine / other, f"{cell}: {ours} over {theirs}")


def _judge(
    target: str,
    samples: Iterable[TargetSample],
    misses: Callable[[float], bool],
    show: FormatNumber,
    least: bool,
) -> Verdict:
    found = list(samples)
    if not found:
        return Verdict(target, "not measured")
    worst = min(found) if least else max(found)
    count = sum(misses(s.number) for s in found)
    state = "missed" if count else "met"
    return Verdict(target, state, show(worst.number), worst.where, len(found), count)


def _at_least(
    target: str, samples: Iterable[TargetSample], limit: float, show: FormatNumber
) -> Verdict:
    return _judge(target, samples, lambda number: number < limit, show, least=True)


def _at_most(
    target: str, samples: Iterable[TargetSample], limit: float, show: FormatNumber
) -> Verdict:
    return _judge(target, samples, lambda number: number > limit, show, least=False)


def _mean_at_least(target: str, samples: Iterable[TargetSample], limit: float) -> Verdict:
    found = list(samples)
    made = _at_least(target, found, limit, times)
    if not found:
        return made
    mean = geometric_mean([s.number for s in found])
    state = "met" if mean >= limit else "missed"
    return replace(
        made, state=state, number=times(mean), worst=f"least {made.number}: {made.worst}"
    )
