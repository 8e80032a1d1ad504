"""The problems that a number of `cusoftmax._tuning` has a say in, found by planning them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product, zip_longest
from typing import Any

from cusoftmax._device import DeviceSpec
from cusoftmax._operation import ITEMSIZE
from cusoftmax._plan import Plan
from cusoftmax._problem import problem_for

from cusoftmax import _launch, _planner
from cusoftmax import _tuning as tuned

MIB = 1 << 20
LARGEST = 256 * MIB  # of one array
MOST_THREADS = 1024  # of a block, on every GPU
FIXED = {"WORDS_IN_REGISTERS": "the chunk is the unit of summation: another value, other bits"}
OPS = ("softmax", "softmax_vjp")
DTYPES = ("float16", "bfloat16", "float32", "float64")
LENGTHS = (
    *(1 << k for k in range(5, 21)),
    *(100, 1000, 1023, 1025, 1536, 3000, 4097, 6144, 12000, 24000, 50257, 100000, 128256, 151936),
)  # fmt: skip
ROWS = (1, 4, 16, 64, 256)
INNER = (1, 8, 64, 1000, 4096)  # neighbouring rows of a problem along axis 0


@dataclass(frozen=True)
class Problem:
    """A call on contiguous arrays."""

    op: str
    dtype: str
    shape: tuple[int, int]
    axis: int

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shape))
        return f"{self.op} {self.dtype} {shape}" + (" axis 0" if self.axis == 0 else "")

    def plan(self, device: DeviceSpec) -> Plan:
        return _planner.plan(problem_for(self.op, self.shape, self.dtype, self.axis), device)


def names() -> list[str]:
    """Return the numbers that can be tuned."""
    known = (n for n, v in vars(tuned).items() if isinstance(v, tuned.Tuned))
    return [n for n in known if n not in FIXED]


@contextmanager
def value_of(name: str, value: int) -> Iterator[None]:
    """Plan with another value within the block. No plan and no call of it is left afterwards."""
    before, calls = getattr(tuned, name), _launch._calls
    setattr(tuned, name, replace(before, value=value))
    _launch._calls = {}
    _planner.plan.cache_clear()
    try:
        yield
    finally:
        setattr(tuned, name, before)
        _launch._calls = calls
        _planner.plan.cache_clear()


def candidates(largest: int = LARGEST) -> Iterator[Problem]:
    """Yield problems over the whole range, of at most so many bytes an array."""
    for op, dtype, n in product(OPS, DTYPES, LENGTHS):
        most = largest // (n * ITEMSIZE[dtype])
        for rows in sorted({r for r in (*ROWS, most) if 0 < r <= most}):
            yield Problem(op, dtype, (rows, n), -1)
        for inner in INNER:
            if inner <= most:
                yield Problem(op, dtype, (n, inner), 0)


def affected(
    name: str, values: Sequence[int], device: DeviceSpec, problems: Sequence[Problem]
) -> list[Problem]:
    """Return the problems whose plan is not the same for all values.

    Raises
    ------
    ValueError
        For a value with which a block would have more threads than a GPU, or the kernel's own cap
        on registers, allows.
    """
    runs: list[list[tuple[Any, ...]]] = []
    for value in values:
        with value_of(name, value):
            plans = [p.plan(device) for p in problems]
        for problem, plan in zip(problems, plans, strict=True):
            for step in plan.launches:
                allowed = min(MOST_THREADS, step.kernel.max_threads)
                if max(step.block, step.kernel.max_threads) > MOST_THREADS or step.block > allowed:
                    raise ValueError(
                        f"{name} = {value}: {step.block} threads a block for {problem}, in a "
                        f"kernel for {step.kernel.max_threads}, where {MOST_THREADS} are possible"
                    )
        runs.append([(p.launches, p.workspace_bytes, p.rounds) for p in plans])
    return [p for p, *made in zip(problems, *runs, strict=True) if len(set(made)) > 1]


def spread(problems: Sequence[Problem], device: DeviceSpec, most: int) -> list[Problem]:
    """Return some of the problems: every pattern, operation and dtype in turn."""
    kinds: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.plan(device).pattern, problem.op, problem.dtype), []).append(
            problem
        )
    order = random.Random(0)
    for kind in kinds.values():
        order.shuffle(kind)
    turns = zip_longest(*(kinds[k] for k in sorted(kinds)))
    return [p for turn in turns for p in turn if p is not None][:most]
