"""The predicted speed of problems on the chips of the cost model's table, ours and the peers'."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.static import peer_cost
from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import cost
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.profiling.sectors import level2_bytes

BATCH_ELEMENTS = 1 << 27  # 256 MiB of float16: more than any cache


@dataclass(frozen=True)
class Case:
    """A large batch of contiguous rows on a chip."""

    op: str
    dtype: str
    n: int
    chip: str

    @property
    def rows(self) -> int:
        return max(1, BATCH_ELEMENTS // self.n)


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


def ours(case: Case) -> Prediction:
    """Predict the speed of this package."""
    chip = Chip.named(case.chip)
    problem = problem_for(case.op, (case.rows, case.n), case.dtype)
    chosen = plan(problem, DeviceSpec.known(chip.arch))
    found = cost(chosen, chip, level2_bytes(chosen))
    moved = sum(launch.memory_bytes for launch in found.launches)
    return Prediction(
        found.fraction_of_copy,
        found.slowest.limiter,
        found.slowest.occupancy.blocks,
        min(1.0, chosen.least_bytes / moved),
    )


def of_peer(peer: str, case: Case) -> float:
    """Predict the fraction of a copy of a peer's kernel, or raise `peer_cost.NoKernel`."""
    chip = Chip.named(case.chip)
    device = DeviceSpec.known(chip.arch)
    found = peer_cost.cost(peer, case.op, case.dtype, case.rows, case.n, chip, device)
    problem = problem_for(case.op, (case.rows, case.n), case.dtype)
    return plan(problem, device).least_bytes / chip.copy_bandwidth / found.seconds
