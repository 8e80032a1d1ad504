"""The suites: which problems (cells) each measures, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from benchmarks.suites.operations import DTYPES, bytes_per_element
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for

MIB = 1 << 20
# Peers whose whole calls are timed. JAX is not among them: its calls here include DLPack transfers.
HOST_TIMED_PEERS = ("cupyx", "torch", "torch.compile", "triton", "liger", "quack")


@dataclass(frozen=True)
class Cell:
    """A problem on which all contenders are measured side by side.

    Attributes
    ----------
    rank : int
        Cells of a lower rank are measured first: they tell the most.
    sigmas : tuple of float
        Standard deviations of the logits; if several, they are measured side by side.
    peers : tuple of str or None
        Peers that take part; None for all.
    timed : str
        ``"device"``: the work on the device; ``"overhead"``: whole calls, by the host's clock;
        ``"cold"``: the first call of a new process.
    """

    suite: str
    op: str
    dtype: str
    rows: int
    n: int
    axis: int = -1
    rank: int = 1
    sigmas: tuple[float, ...] = (1.0,)
    peers: tuple[str, ...] | None = None
    timed: str = "device"

    @property
    def shape(self) -> tuple[int, int]:
        return (self.rows, self.n) if self.axis else (self.n, self.rows)

    @property
    def least_bytes(self) -> int:
        return self.plan(DeviceSpec.known(90)).least_bytes

    def plan(self, spec: DeviceSpec) -> Plan:
        return plan(problem_for(self.op, self.shape, self.dtype, self.axis), spec)

    def __str__(self) -> str:
        size = " × ".join(map(str, self.shape))
        return f"{self.suite}: {self.op} {self.dtype} {size}{'' if self.axis else ' axis 0'}"


@dataclass(frozen=True)
class Scale:
    """How large the cells are, and how many.

    Attributes
    ----------
    min_bytes : int
        Least traffic of a cell that must exceed the caches.
    first_lengths, other_lengths : tuple of int
        Row lengths of the sweep: those measured before all others, in this order, and the rest.
    few_rows_lengths : tuple of int
        Row lengths of the suite with few rows.
    threshold_step : int
        Distance between the lengths measured around a planner's threshold.
    threshold_limit : int
        Longest row around whose thresholds lengths are measured.
    axis0_lengths : tuple of int
        Row lengths down axis 0.
    range_lengths : tuple of int
        Row lengths at which logits of different standard deviations are compared.
    """

    min_bytes: int
    first_lengths: tuple[int, ...]
    other_lengths: tuple[int, ...]
    few_rows_lengths: tuple[int, ...]
    threshold_step: int
    threshold_limit: int
    axis0_lengths: tuple[int, ...]
    range_lengths: tuple[int, ...]


FULL = Scale(
    min_bytes=256 * MIB,
    first_lengths=(4096, 32768, 1024, 131072, 50257, 256, 8192, 1025),
    other_lengths=(
        65536, 16384, 2048, 512, 128, 128256, 4097, 262144, 1023, 1000, 151936, 64, 32, 524288,
        1048576,
    ),
    few_rows_lengths=(131072, 1048576, 4096, 262144, 16384, 524288, 65536),
    threshold_step=8,
    threshold_limit=1 << 20,
    axis0_lengths=(1024, 4096, 128, 32768, 262144),
    range_lengths=(4096, 256, 32768, 131072),
)  # fmt: skip
QUICK = Scale(
    min_bytes=256 * MIB,
    first_lengths=(4096, 32768, 1024, 131072),
    other_lengths=(50257, 1025, 256, 262144, 1048576),
    few_rows_lengths=(131072, 4096, 1048576),
    threshold_step=32,
    threshold_limit=1 << 20,
    axis0_lengths=(1024, 32768),
    range_lengths=(4096, 131072),
)
DRY = Scale(
    min_bytes=4096,
    first_lengths=(32,),
    other_lengths=(1000,),
    few_rows_lengths=(256,),
    threshold_step=32,
    threshold_limit=40,
    axis0_lengths=(64,),
    range_lengths=(32,),
)

SCALES = {"full": FULL, "quick": QUICK, "dry": DRY}


def _rows(op: str, dtype: str, n: int, scale: Scale) -> int:
    """Return how many rows make the least traffic of the scale."""
    return max(1, -(-scale.min_bytes // (n * bytes_per_element(op, dtype))))


SuiteCells = Callable[[str, str, Scale, DeviceSpec], Iterable[Cell]]


def _sweep(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    first = len(scale.first_lengths)
    for place, n in enumerate((*scale.first_lengths, *scale.other_lengths)):
        rank = place if place < first else 100 + place
        yield Cell("sweep", op, dtype, _rows(op, dtype, n, scale), n, rank=rank)


def _few_rows(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    for rows in (1, 4, 16, 64):
        for place, n in enumerate(scale.few_rows_lengths):
            yield Cell("few_rows", op, dtype, rows, n, rank=20 + 10 * place + rows // 16)


def _axis0(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    for place, n in enumerate(scale.axis0_lengths):
        columns = -(-_rows(op, dtype, n, scale) // 64) * 64
        yield Cell("axis0", op, dtype, columns, n, 0, rank=21 + 10 * place)
        if place == 0:  # an odd number of columns rules out accesses wider than one element
            yield Cell("axis0", op, dtype, columns + 1, n, 0, rank=81)


def _range(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    for place, n in enumerate(scale.range_lengths):
        rows = _rows(op, dtype, n, scale)
        yield Cell(
            "range", op, dtype, rows, n, rank=22 + 10 * place, sigmas=(1.0, 50.0), peers=("torch",)
        )


def _cliffs(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    """Lengths within 64 of each threshold of the planner, and the first one past it."""

    def plan_features(n: int) -> tuple[Any, ...]:
        made = Cell("cliffs", op, dtype, _rows(op, dtype, n, scale), n).plan(spec)
        kernel = made.launches[0].kernel
        of_group = (kernel["CSM_LANES"], kernel["CSM_ITEMS"]) if made.pattern == "group" else ()
        return (made.pattern, made.cluster, kernel["CSM_PARKS"], made.reads, *of_group)

    # Odd rows are staged where rows of whole sectors are not: each kind has changes of its own. As
    # long as a row is a few accesses, they come at any length.
    top = scale.threshold_limit
    odd = change_points(plan_features, 65, top, 16)
    ranks = {n: 200 for last in odd for n in (last, last + 16)}
    for last in (
        *change_points(plan_features, 8, min(64, top)),
        *change_points(plan_features, 64, top, 16),
    ):
        start = max(8, last // 8 * 8 - 64)
        around = range(start, start + 128 + 1, scale.threshold_step)
        for n in (*around, last // 8 * 8, last + 1):
            near = abs(n - last) <= 8 or n in (start, start + 128)
            ranks[n] = min(ranks.get(n, 300), 200 if near else 300)
    for n, rank in ranks.items():
        rows = _rows(op, dtype, n, scale)
        yield Cell("cliffs", op, dtype, rows, n, rank=rank, peers=("torch",))


def change_points(
    features: Callable[[int], Any], low: int, high: int, step: int = 1
) -> Iterator[int]:
    """Yield each of the lengths low, low + step, … at which `features` changes with the next one.

    They are tried in steps of 1/32, so a change that is undone within a step is missed.
    """
    features = cache(features)
    left, high = low, high - (high - low) % step
    while left < high:
        right = min(high, left + max(max(8, left // 32) // step, 1) * step)
        if features(right) != features(left):
            a, b = left, right
            while b - a > step:
                middle = a + (b - a) // step // 2 * step
                a, b = (middle, b) if features(middle) == features(left) else (a, middle)
            yield a
            right = b
        left = right


def _overhead(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    for place, (rows, n) in enumerate(((1, 32), (1, 4096), (16, 4096))):
        if n <= scale.threshold_limit or place == 0:
            yield Cell(
                "overhead", op, dtype, rows, n, rank=10 + 60 * place, peers=HOST_TIMED_PEERS,
                timed="overhead",
            )  # fmt: skip


def _cold(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    yield Cell("cold", op, dtype, 4, 32 if scale is DRY else 4096, rank=150, timed="cold")


# Each suite's cells, and the dtypes it measures by default.
SUITES: dict[str, tuple[SuiteCells, tuple[str, ...]]] = {
    "sweep": (_sweep, DTYPES),
    "few_rows": (_few_rows, ("float16", "float32")),
    "axis0": (_axis0, DTYPES),
    "range": (_range, ("float16", "float32")),
    "overhead": (_overhead, ("float32",)),
    "cliffs": (_cliffs, ("float16", "float32")),
    "cold": (_cold, ("float16",)),
}


def cells(
    suites: Sequence[str],
    ops: Sequence[str],
    dtypes: Sequence[str] | None,
    scale: Scale,
    spec: DeviceSpec,
) -> list[Cell]:
    """Return all cells, those that tell most first: a run that is cut off loses the least."""
    made: list[Cell] = []
    for suite in suites:
        cells_of_suite, default_dtypes = SUITES[suite]
        for dtype in dtypes or default_dtypes:
            for op in ops:
                made += cells_of_suite(op, dtype, scale, spec)
    return sorted(made, key=lambda cell: cell.rank)  # stable: equal ranks stay in suite order
