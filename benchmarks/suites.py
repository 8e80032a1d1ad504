"""What is measured: the operations and how their inputs are made, and the cells of each suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from cusoftmax._device import DeviceSpec
from cusoftmax._family import FAMILY, Arrays, Member
from cusoftmax._family_sampling import SEED, TEMPERATURE
from cusoftmax._operation import ITEMSIZE
from cusoftmax._ops import find
from cusoftmax._plan import Plan
from cusoftmax._planner import plan
from cusoftmax._problem import problem_for

import cusoftmax as cs
from cusoftmax import _operation, _ops

MIB = 1 << 20
DTYPES = ("float16", "bfloat16", "float32", "float64")

# --------------------------------------------------------------------------------------- operations


# What an input of a name holds; those not here are normal numbers of spread 1.
HELD = {"x": "logits", "y": "softmax", "logy": "log_softmax"}


@dataclass(frozen=True)
class Operation:
    """How an operation is measured.

    Attributes
    ----------
    name : str
        The public function.
    """

    name: str

    @property
    def table(self) -> _ops.Operation:
        """What the package knows of it."""
        return find(self.name)

    @property
    def member(self) -> Member:
        """Its truth and its bound."""
        return FAMILY[self.table.name]

    @property
    def inputs(self) -> tuple[str, ...]:
        """What each input holds: logits of the cell's spread, what is made of them, or normals."""
        return tuple(HELD.get(name, "normal") for name in self.table.read)

    def call(self, inputs: Sequence[Any], axis: int, out: Any = None) -> Any:
        """Call the public function; values of a row keep their axis."""
        values = bool(self.table.row_inputs or self.table.row_outputs)
        options: dict[str, Any] = {"keepdims": True} if values else {}
        if "seed" in self.table.options:  # with which the truth is known
            options |= {"seed": SEED, "temperature": TEMPERATURE}
        return getattr(cs, self.name)(*inputs, axis=axis, out=out, **options)

    def worst(self, inputs: Arrays, results: Arrays) -> float:
        """Return the largest error of the results for some rows."""
        if self.table.row_outputs:  # the truth comes without the axis
            results = tuple(r[:, 0] for r in results)
        return max(float(np.max(e)) for e in self.member.errors(inputs, -1, results))


# Every function that is called with arrays and an axis; of those that share a kernel, each.
OPERATIONS = {
    name: Operation(name)
    for name in (
        *(
            n
            for n, o in _ops.OPERATIONS.items()
            if not o.public and set(_operation.REDUCTIONS) & {*o.patterns}
        ),
        *_ops.SAME_KERNEL,
    )
}
DEFAULT_OPS = ("softmax", "softmax_vjp")  # the others run one of these kernels
# Peers whose whole calls are timed. Not JAX, whose calls here also import and export arrays.
CALLED = ("cupyx", "torch", "torch.compile", "triton", "liger", "quack")

# -------------------------------------------------------------------------------------------- cells


@dataclass(frozen=True)
class Cell:
    """A problem that is measured for all contenders at once.

    Attributes
    ----------
    rank : int
        Cells of a lower rank tell more, and are measured before those of a higher one.
    sigmas : tuple of float
        Spreads of the logits; several are measured side by side.
    peers : tuple of str or None
        Peers that take part; None for all.
    kind : str
        ``"device"``: times on the device; ``"overhead"``: of calls on the host; ``"cold"``: of the
        first call in a new process.
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
    kind: str = "device"

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


def bytes_per_element(op: str, dtype: str) -> int:
    """Least bytes moved for an element of a row: each input once, each result once."""
    operation = find(op)
    return (len(operation.inputs) + len(operation.outputs)) * ITEMSIZE[dtype]


@dataclass(frozen=True)
class Scale:
    """How large and how many the cells are.

    Attributes
    ----------
    traffic : int
        Least bytes of a cell that must be large.
    first, rest : tuple of int
        Row lengths of the sweep: those that tell most, in that order, and all others.
    few : tuple of int
        Row lengths with few rows.
    step : int
        Elements from one length to the next about a threshold.
    limit : int
        Longest row about whose thresholds is looked.
    columns : tuple of int
        Row lengths down axis 0.
    ranges : tuple of int
        Row lengths at which spreads of the logits are compared.
    """

    traffic: int
    first: tuple[int, ...]
    rest: tuple[int, ...]
    few: tuple[int, ...]
    step: int
    limit: int
    columns: tuple[int, ...]
    ranges: tuple[int, ...]


FULL = Scale(
    traffic=256 * MIB,
    first=(4096, 32768, 1024, 131072, 50257, 256, 8192, 1025),
    rest=(
        65536, 16384, 2048, 512, 128, 128256, 4097, 262144, 1023, 1000, 151936, 64, 32, 524288,
        1048576,
    ),
    few=(131072, 1048576, 4096, 262144, 16384, 524288, 65536),
    step=8,
    limit=1 << 20,
    columns=(1024, 4096, 128, 32768, 262144),
    ranges=(4096, 256, 32768, 131072),
)  # fmt: skip
QUICK = Scale(
    traffic=256 * MIB,
    first=(4096, 32768, 1024, 131072),
    rest=(50257, 1025, 256, 262144, 1048576),
    few=(131072, 4096, 1048576),
    step=32,
    limit=1 << 20,
    columns=(1024, 32768),
    ranges=(4096, 131072),
)
DRY = Scale(
    traffic=4096,
    first=(32,),
    rest=(1000,),
    few=(256,),
    step=32,
    limit=40,
    columns=(64,),
    ranges=(32,),
)

SCALES = {"full": FULL, "quick": QUICK, "dry": DRY}


def _rows(op: str, dtype: str, n: int, scale: Scale) -> int:
    """Rows for the traffic of a scale."""
    return max(1, -(-scale.traffic // (n * bytes_per_element(op, dtype))))


Maker = Callable[[str, str, Scale, DeviceSpec], Iterable[Cell]]


def _sweep(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    for place, n in enumerate((*scale.first, *scale.rest)):
        rank = place if place < len(scale.first) else 100 + place
        yield Cell("sweep", op, dtype, _rows(op, dtype, n, scale), n, rank=rank)


def _few_rows(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    for rows in (1, 4, 16, 64):
        for place, n in enumerate(scale.few):
            yield Cell("few_rows", op, dtype, rows, n, rank=20 + 10 * place + rows // 16)


def _axis0(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    for place, n in enumerate(scale.columns):
        columns = -(-_rows(op, dtype, n, scale) // 64) * 64
        yield Cell("axis0", op, dtype, columns, n, 0, rank=21 + 10 * place)
        if place == 0:  # and one where no access is wider than an element
            yield Cell("axis0", op, dtype, columns + 1, n, 0, rank=81)


def _range(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    for place, n in enumerate(scale.ranges):
        rows = _rows(op, dtype, n, scale)
        yield Cell(
            "range", op, dtype, rows, n, rank=22 + 10 * place, sigmas=(1.0, 50.0), peers=("torch",)
        )


def _cliffs(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    """Lengths about each threshold: 64 to either side in steps, and one past it."""

    def kind(n: int) -> tuple[Any, ...]:
        made = Cell("cliffs", op, dtype, _rows(op, dtype, n, scale), n).plan(spec)
        kernel = made.launches[0].kernel
        held = (kernel["CSM_LANES"], kernel["CSM_ITEMS"]) if made.pattern == "group" else ()
        return (made.pattern, made.cluster, kernel["CSM_PARKS"], made.reads, *held)

    ranks: dict[int, int] = {}
    for last in changes(kind, 8, scale.limit):
        start = max(8, last // 8 * 8 - 64)
        around = range(start, start + 128 + 1, scale.step)
        for n in (*around, last // 8 * 8, last + 1):
            near = abs(n - last) <= 8 or n in (start, start + 128)
            ranks[n] = min(ranks.get(n, 300), 200 if near else 300)
    for n, rank in ranks.items():
        rows = _rows(op, dtype, n, scale)
        yield Cell("cliffs", op, dtype, rows, n, rank=rank, peers=("torch",))


def changes(kind: Callable[[int], Any], low: int, high: int) -> Iterator[int]:
    """Yield each length after which `kind` is another, but for changes that soon change back."""
    kind = cache(kind)
    left = low
    while left < high:
        right = min(high, left + max(8, left // 32))
        if kind(right) != kind(left):
            a, b = left, right
            while b - a > 1:
                middle = (a + b) // 2
                a, b = (middle, b) if kind(middle) == kind(left) else (a, middle)
            yield a
            right = b
        left = right


def _overhead(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    for place, (rows, n) in enumerate(((1, 32), (1, 4096), (16, 4096))):
        if n <= scale.limit or place == 0:
            yield Cell(
                "overhead", op, dtype, rows, n, rank=10 + 60 * place, peers=CALLED, kind="overhead"
            )


def _cold(op: str, dtype: str, scale: Scale, spec: DeviceSpec) -> Iterator[Cell]:
    yield Cell("cold", op, dtype, 4, 32 if scale is DRY else 4096, rank=150, kind="cold")


# Each with the dtypes that it is for where none are asked for.
SUITES: dict[str, tuple[Maker, tuple[str, ...]]] = {
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
        maker, usual = SUITES[suite]
        for dtype in dtypes or usual:
            for op in ops:
                made += maker(op, dtype, scale, spec)
    return sorted(made, key=lambda cell: cell.rank)  # stable: else in the order of the suites
