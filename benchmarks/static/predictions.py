"""The predicted speed of problems on the chips of the cost model's table, ours and the peers'."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.static import peer_cost
from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import Cost, compiled, cost
from cusoftmax.operations.lookup import find
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.profiling.sectors import executed_lines, level2_bytes

STAMP = "predicted, not measured"  # stands by every one that is shown
BATCH_ELEMENTS = 1 << 27  # 256 MiB of float16: more than any cache
Found = TypeVar("Found")


@dataclass(frozen=True)
class Case:
    """A batch of rows on a chip; as large as is usual, if their number is not given.

    Rows are contiguous, or the columns of a matrix.
    """

    op: str
    dtype: str
    n: int
    chip: str
    rows: int = 0
    columns: bool = False

    def __post_init__(self) -> None:
        if not self.rows:
            object.__setattr__(self, "rows", max(1, BATCH_ELEMENTS // self.n))

    @property
    def plan(self) -> Plan:
        """Return the plan on that chip's architecture."""
        device = DeviceSpec.known(Chip.named(self.chip).arch)
        shape, axis = (self.rows, self.n), -1
        if find(self.op, "Case").segmented:
            shape, axis = (self.n,), 0
        elif self.columns:
            shape, axis = (self.n, self.rows), 0
        return plan(problem_for(self.op, shape, self.dtype, axis), device)


@dataclass(frozen=True)
class Prediction:
    """What the model says of a case.

    Attributes
    ----------
    fraction : float
        Speed divided by that of a copy of the least bytes.
    limiter : str
        Key in `machine_code.limits.LIMITERS`.
    blocks : int
        Blocks resident on a multiprocessor, of the slowest launch.
    traffic_limit : float
        The largest `fraction` that the bytes moved allow: below 1 where rows do not fit on the chip
        and are read twice.
    """

    fraction: float
    limiter: str
    blocks: int
    traffic_limit: float


def cost_of(case: Case) -> Cost:
    """Return what the model says of this package's plan."""
    chosen = case.plan
    return cost(chosen, Chip.named(case.chip), level2_bytes(chosen), executed_lines(chosen))


def ours(case: Case) -> Prediction:
    """Predict the speed of this package."""
    found = cost_of(case)
    moved = sum(launch.memory_bytes for launch in found.launches)
    return Prediction(
        found.fraction_of_copy,
        found.slowest.limiter,
        found.slowest.occupancy.blocks,
        min(1.0, found.plan.least_bytes / moved),
    )


def each_once(cases: Iterable[Case], of: Callable[[Case], Found]) -> dict[Case, Found]:
    """Call a function of each case, when each kernel has been compiled: once, many at a time.

    Chips of one architecture, and many lengths, share their kernels.
    """
    every = list(cases)
    kernels: dict[object, Plan] = {}
    for case in every:
        chosen = case.plan
        key = (tuple(launch.kernel for launch in chosen.launches), chosen.device.arch)
        kernels.setdefault(key, chosen)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the compilers run outside the GIL
        list(pool.map(compiled, kernels.values()))
        return dict(zip(every, pool.map(of, every), strict=True))


def of_peer(peer: str, case: Case) -> float:
    """Predict the fraction of a copy of a peer's kernel, or raise `peer_cost.NoKernel`."""
    chip = Chip.named(case.chip)
    device = DeviceSpec.known(chip.arch)
    found = peer_cost.cost(peer, case.op, case.dtype, case.rows, case.n, chip, device)
    problem = problem_for(case.op, (case.rows, case.n), case.dtype)
    return plan(problem, device).least_bytes / chip.copy_bandwidth / found.seconds
