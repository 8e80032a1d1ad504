"""The problems whose plan depends on a number of `planning.tuning`, found by planning them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product, zip_longest
from typing import Any

from benchmarks.suites.cells import MIB
from benchmarks.suites.operations import DEFAULT_OPS, DTYPES
from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.planning import planner
from cusoftmax.planning import tuning as tuned
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.runtime import launch

MAX_ARRAY_BYTES = 256 * MIB
MAX_BLOCK_THREADS = 1024  # the same for every GPU
NOT_TUNABLE = {
    "WORDS_IN_REGISTERS": "the chunk is the unit of summation: another value, other bits"
}
LENGTHS = (
    *(1 << k for k in range(5, 21)),
    *(100, 1000, 1023, 1025, 1536, 3000, 4097, 6144, 12000, 24000, 50257, 100000, 128256, 151936),
)  # fmt: skip
ROWS = (1, 4, 16, 64, 256)
COLUMNS = (1, 8, 64, 1000, 4096)  # of a problem along axis 0


@dataclass(frozen=True)
class TuningProblem:
    """A call on contiguous arrays."""

    op: str
    dtype: str
    shape: tuple[int, int]
    axis: int

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shape))
        return f"{self.op} {self.dtype} {shape}" + (" axis 0" if self.axis == 0 else "")

    def plan(self, device: DeviceSpec) -> Plan:
        return planner.plan(problem_for(self.op, self.shape, self.dtype, self.axis), device)


def tunable_names() -> list[str]:
    """Return the names of the numbers that can be tuned."""
    known = (n for n, v in vars(tuned).items() if isinstance(v, tuned.Tuned))
    return [n for n in known if n not in NOT_TUNABLE]


@contextmanager
def tuned_to(name: str, value: int) -> Iterator[None]:
    """Plan with another value inside the `with` block, with its own caches of plans and calls."""
    before, calls = getattr(tuned, name), launch._calls
    setattr(tuned, name, tuned.Tuned(value, before.gpu, before.evidence))
    launch._calls = {}
    planner.plan.cache_clear()
    try:
        yield
    finally:
        setattr(tuned, name, before)
        launch._calls = calls
        planner.plan.cache_clear()


def candidates(max_array_bytes: int = MAX_ARRAY_BYTES) -> Iterator[TuningProblem]:
    """Yield problems of all lengths and dtypes whose arrays are small enough."""
    for op, dtype, n in product(DEFAULT_OPS, DTYPES, LENGTHS):
        most = max_array_bytes // (n * ITEMSIZE[dtype])
        for rows in sorted({r for r in (*ROWS, most) if 0 < r <= most}):
            yield TuningProblem(op, dtype, (rows, n), -1)
        for columns in COLUMNS:
            if columns <= most:
                yield TuningProblem(op, dtype, (n, columns), 0)


def affected(
    name: str, values: Sequence[int], device: DeviceSpec, problems: Sequence[TuningProblem]
) -> list[TuningProblem]:
    """Return the problems whose plan differs between the values.

    Raises
    ------
    ValueError
        For a value with which a block would have more threads than a GPU allows, or than the
        kernel was limited to when its registers were allotted.
    """
    runs: list[list[tuple[Any, ...]]] = []
    for value in values:
        with tuned_to(name, value):
            plans = [p.plan(device) for p in problems]
        for problem, plan in zip(problems, plans, strict=True):
            for step in plan.launches:
                allowed = min(MAX_BLOCK_THREADS, step.kernel.max_threads)
                if (
                    max(step.block, step.kernel.max_threads) > MAX_BLOCK_THREADS
                    or step.block > allowed
                ):
                    raise ValueError(
                        f"{name} = {value}: {step.block} threads a block for {problem}, in a "
                        f"kernel for {step.kernel.max_threads}, "
                        f"where {MAX_BLOCK_THREADS} are possible"
                    )
        runs.append([(p.launches, p.workspace_bytes, p.rounds) for p in plans])
    return [p for p, *made in zip(problems, *runs, strict=True) if len(set(made)) > 1]


def representative(
    problems: Sequence[TuningProblem], device: DeviceSpec, most: int
) -> list[TuningProblem]:
    """Return some of the problems, taken in turn from every pattern, operation and dtype."""
    groups: dict[tuple[str, str, str], list[TuningProblem]] = {}
    for problem in problems:
        groups.setdefault((problem.plan(device).pattern, problem.op, problem.dtype), []).append(
            problem
        )
    order = random.Random(0)
    for group in groups.values():
        order.shuffle(group)
    turns = zip_longest(*(groups[k] for k in sorted(groups)))
    return [p for turn in turns for p in turn if p is not None][:most]
