"""The predicted speed of problems on the chips of the cost model's table, ours and the peers'.

What is found of ours is kept in the cache of this package, under a digest of the plan, the PTX of
its kernels and the model: a run that was interrupted goes on where it was, and after a change of
sources only what that changes is computed anew.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from benchmarks.static import peer_cost
from cusoftmax.emulator import _build, _cache, ptx
from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import Cost, KernelCost, codes
from cusoftmax.machine_code.limits import Occupancy
from cusoftmax.operations.lookup import find
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Kernel, Plan
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.profiling.sectors import predicted_cost

STAMP = "predicted, not measured"  # stands by every one that is shown
_MODEL = "chips cost entered executed flow limits loop_counts opcodes sass"
BATCH_ELEMENTS = 1 << 27  # 256 MiB of float16: more than any cache
_TOGETHER = 8  # kernels that are disassembled at once


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


def costs(cases: Iterable[Case]) -> dict[Case, Cost]:
    """Return what the model says of this package's plans: now, or in an earlier run.

    Cases that share kernels, as those of chips of one architecture and of many lengths do, follow
    one another: what the first one compiled is at hand.
    """
    every = list(dict.fromkeys(cases))
    alike: dict[object, list[Case]] = {}
    for case in every:
        key = tuple(launch.kernel for launch in case.plan.launches), case.plan.device.arch
        alike.setdefault(key, []).append(case)
    of_arch: dict[int, list[list[Case]]] = {}
    for same in alike.values():
        of_arch.setdefault(same[0].plan.device.arch, []).append(same)
    batches = (some[i : i + _TOGETHER] for some in of_arch.values()
               for i in range(0, len(some), _TOGETHER))  # fmt: skip
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the compilers run outside the GIL
        found = {case: cost for some in pool.map(_costs, batches) for case, cost in some.items()}
    return {case: found[case] for case in every}


def _costs(batch: Sequence[Sequence[Case]]) -> dict[Case, Cost]:
    """Return those of cases of one architecture, whose kernels are compiled together."""
    every = [case for same in batch for case in same]
    new = [case.plan for case in every if not _file(case).exists()]
    if new:
        codes([launch.kernel for plan in new for launch in plan.launches], new[0].device.arch)
    return {case: cost_of(case) for case in every}


def cost_of(case: Case) -> Cost:
    """Return what the model says of this package's plan: now, or in an earlier run."""
    chosen, chip, file = case.plan, Chip.named(case.chip), _file(case)
    kept = _cache.sealed(file)
    if kept is not None:
        launches = json.loads(kept)
        for launch in launches:
            launch["occupancy"] = Occupancy(**launch["occupancy"])
        return Cost(chosen, chip, tuple(KernelCost(**launch) for launch in launches))
    found = predicted_cost(chosen, chip)
    _cache.keep(file, json.dumps([asdict(launch) for launch in found.launches]).encode())
    return found


def _file(case: Case) -> Path:
    """Return where a prediction is kept: its name is a digest of all that it follows from."""
    chosen = case.plan
    parts = [repr(chosen), repr(Chip.named(case.chip)), _model()]
    parts += [_instructions(launch.kernel, chosen.device.arch) for launch in chosen.launches]
    name = sha256("\0".join(parts).encode()).hexdigest()[:32]
    folder = _cache.cache_folder().parent / "predicted"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}.json"


@cache
def _instructions(kernel: Kernel, arch: int) -> str:
    """Return a digest of a kernel's PTX, which names its compiler, without the lines it is from."""
    instructions = ptx.compiled(kernel, arch).partition("\n\t.file")[0]
    return sha256(re.sub(r"\n\t\.loc.*", "", instructions).encode()).hexdigest()


@cache
def _model() -> str:
    """Return a digest of the files that predict, and of the emulator's, which count."""
    emulator = _build.HERE
    files = [path for path in emulator.rglob("*.*") if path.suffix in (".py", ".h", ".cpp")]
    files += [emulator.parent / "machine_code" / f"{name}.py" for name in _MODEL.split()]
    files.append(emulator.parent / "profiling" / "sectors.py")
    return sha256(b"\0".join(path.read_bytes() for path in sorted(files))).hexdigest()


def ours(found: Cost) -> Prediction:
    """Return what is shown of a plan's cost."""
    moved = sum(launch.memory_bytes for launch in found.launches)
    return Prediction(
        found.fraction_of_copy,
        found.slowest.limiter,
        found.slowest.occupancy.blocks,
        min(1.0, found.plan.least_bytes / moved),
    )


def of_peer(peer: str, case: Case) -> float:
    """Predict the fraction of a copy of a peer's kernel, or raise `peer_cost.NoKernel`."""
    chip = Chip.named(case.chip)
    device = DeviceSpec.known(chip.arch)
    found = peer_cost.cost(peer, case.op, case.dtype, case.rows, case.n, chip, device)
    problem = problem_for(case.op, (case.rows, case.n), case.dtype)
    return chip.copy_seconds(plan(problem, device).least_bytes) / found.seconds
