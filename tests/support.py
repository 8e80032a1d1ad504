"""What the tests of the kernels share: arrays, error bounds, and the plans that must be reached.

The bounds are the package's numerical contract; none is chosen here to let a test pass.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.contract.table import CONTRACTS, Arrays, OperationContract
from cusoftmax.emulator._backend import EmulatorBackend
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Kernel, Plan
from cusoftmax.planning.planner import plan as make_plan
from cusoftmax.planning.prepare import prepare, problem_for
from cusoftmax.runtime import calls, launch
from cusoftmax.runtime.backend import CudaBackend, Loaded

DTYPES = ("float16", "bfloat16", "float32", "float64")
OPS = ("softmax", "softmax_vjp")


def exhaustive(cases: Iterable[Any]) -> list[Any]:
    """Mark the cases of a parametrized test that ``--exhaustive`` adds: repetitions of others."""
    return [
        pytest.param(*(c if isinstance(c, tuple) else (c,)), marks=pytest.mark.exhaustive)
        for c in cases
    ]


# For sweeps of lengths and layouts: bfloat16 has the plans and the sums of float16, and differs in
# its conversions alone.
SWEPT_DTYPES = ("float16", "float32", "float64", *exhaustive(["bfloat16"]))


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of a name, bfloat16 too."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def bits(array: Any) -> np.ndarray:
    """Return the bits of floats as unsigned integers, for comparisons that see −0 and NaN."""
    whole = np.ascontiguousarray(array)
    return whole.view(f"u{whole.dtype.itemsize}")


def logits(
    shape: tuple[int, ...], dtype: str, sigma: float = 3.0, mean: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Return normal logits, the same for the same arguments."""
    drawn = np.random.default_rng(seed).normal(mean, sigma, shape)
    return drawn.astype(dtype_of(dtype))


# ------------------------------------------------------------------------------------------ errors

_launched: deque[tuple[Kernel, int | None]] = deque(maxlen=8)  # the last, and the emulator's seeds


def _noting(load: Callable[[Any, Kernel], Loaded]) -> Callable[[Any, Kernel], Loaded]:
    def noted(machine: Any, kernel: Kernel) -> Loaded:
        function = load(machine, kernel)

        def run(*arguments: Any) -> None:
            _launched.append((kernel, getattr(machine, "_seed", None)))
            function(*arguments)

        return run

    return noted


for _machine in (CudaBackend, EmulatorBackend):
    _machine.load = _noting(_machine.load)  # type: ignore[method-assign]


def _last_call(op: str) -> tuple[str, list[str], int | None]:
    """Return what the last call of an operation ran: pattern, kernels, and the emulator's seed."""
    __tracebackhide__ = True
    pattern, kernels, seed, stage = "", [], None, 0
    for kernel, its_seed in reversed(_launched):
        its_pattern, its_stage = kernel["CSM_PATTERN"], int(kernel["CSM_STAGE"])
        if not kernel.name.startswith(f"csm_{op}_{its_pattern}"):
            continue
        if pattern and (its_pattern != pattern or its_stage >= stage):
            break
        pattern, stage, seed = its_pattern, its_stage, its_seed
        kernels.insert(0, kernel.name)
    return pattern, kernels, seed


def assert_kept(kept: str | OperationContract, inputs: Arrays, axis: Any, results: Arrays) -> float:
    """Assert that results are within an operation's contract; return the worst error / bound.

    Special values are judged too: where the exact result is NaN, so must the result be, and only
    there.
    """
    __tracebackhide__ = True  # the block below says it all
    contract = CONTRACTS[kept] if isinstance(kept, str) else kept
    verdict = contract.judge(inputs, axis, results)
    if not verdict.over <= 1:
        raise AssertionError(verdict.told(*_last_call(contract.op)))
    return verdict.over


def softmax_error(y: np.ndarray, x: np.ndarray, axis: Any = -1) -> np.ndarray:
    """Error of a softmax of `x` in units in the last place of `y`."""
    return CONTRACTS["softmax"].errors((x,), axis, (y,))[0]


def check_softmax(y: np.ndarray, x: np.ndarray, axis: Any = -1, dtype_out: Any = None) -> float:
    """Assert that `y` is the softmax of `x` within the contract; return the worst error / bound."""
    __tracebackhide__ = True
    assert y.dtype == np.dtype(dtype_out or x.dtype)
    return assert_kept("softmax", (x,), axis, (y,))


def check_vjp(
    dx: np.ndarray, y: np.ndarray, dy: np.ndarray, axis: Any = -1, dtype_out: Any = None
) -> float:
    """Assert that `dx` is the product within the contract; return the worst error / bound."""
    __tracebackhide__ = True
    assert dx.dtype == np.dtype(dtype_out or y.dtype)
    return assert_kept("softmax_vjp", (y, dy), axis, (dx,))


# --------------------------------------------------------------------------------------- execution


def run_softmax(device: Any, x: np.ndarray, axis: Any = -1, dtype: Any = None) -> np.ndarray:
    """Softmax of a NumPy array on a device, checked against the reference."""
    __tracebackhide__ = True
    y = device.asnumpy(cs.softmax(device.asarray(x), axis=axis, dtype=dtype))
    check_softmax(y, x, axis, dtype)
    return y


def run_vjp(device: Any, y: np.ndarray, dy: np.ndarray, axis: Any = -1) -> np.ndarray:
    """Derivative product of NumPy arrays on a device, checked against the reference."""
    __tracebackhide__ = True
    dx = device.asnumpy(cs.softmax_vjp(device.asarray(y), device.asarray(dy), axis=axis))
    check_vjp(dx, y, dy, axis, dx.dtype)
    return dx


def run(device: Any, op: str, x: np.ndarray, axis: Any = -1) -> np.ndarray:
    """Either operation on logits `x`; the derivative product is that of their softmax with them."""
    if op == "softmax":
        return run_softmax(device, x, axis)
    y = reference.softmax(x, axis).astype(x.dtype)
    return run_vjp(device, y, np.ascontiguousarray(x[..., ::-1]), axis)


def run_repeated(device: Any, op: str, x: np.ndarray, rows: int, axis: int = -1) -> None:
    """Run on `rows` rows that repeat those of `x`: the first are checked, the others the same bits.

    Along axis 0 the rows are columns. Of a large batch the emulator runs some (`only_ends`).
    """
    __tracebackhide__ = True
    inputs: tuple[np.ndarray, ...] = (x,)
    if op != "softmax":
        inputs = (reference.softmax(x).astype(x.dtype), np.ascontiguousarray(x[:, ::-1]))
    whole = [np.resize(a, (rows, a.shape[1])) for a in inputs]
    if axis == 0:
        whole = [np.ascontiguousarray(a.T) for a in whole]
    arrays = [*map(device.asarray, whole)]
    with only_ends(device, plan_of(device, op, *arrays, axis=axis), len(x)) as kept:
        result = device.asnumpy(getattr(cs, op)(*arrays, axis=axis))
    result = (result if axis else np.ascontiguousarray(result.T))[kept]
    (check_softmax if op == "softmax" else check_vjp)(result[: len(x)], *inputs)
    alike = bits(result[: len(x)])[[row % len(x) for row in kept]]
    assert (bits(result) == alike).all()


# ------------------------------------------------------------------------------------------- plans


def kind(plan: Plan) -> str:
    """Name what a plan runs: its pattern, the size of a cluster, what it parks, its launches."""
    if not plan.launches:
        return "empty"
    words = [plan.pattern]
    if plan.cluster > 1:
        words.append(f"x{plan.cluster}")
    if plan.pattern == "column" and plan.launches[0].kernel["CSM_STAGE"] == "5":
        words.append("stream")
    if plan.launches[0].kernel["CSM_PARKS"] != "0":
        words.append("parked")
    if plan.pattern == "column" and len(plan.launches) > 1:
        words.append("long")
    return " ".join(words)


def assert_plan(plan: Plan, expected: str, **facts: Any) -> None:
    """Assert the `kind` of a plan, and any attributes of it such as ``vector=4``."""
    assert kind(plan) == expected, f"{kind(plan)}, because {plan.why}"
    for name, value in facts.items():
        assert getattr(plan, name) == value, f"{name} is {getattr(plan, name)}, not {value}"


def plan_of(
    device: Any, op: str, *arrays: Any, axis: Any = -1, dtype: Any = None, out: Any = None
) -> Plan:
    """Return the plan of a call with these arrays, of any strides."""
    return make_plan(
        prepare(op, arrays, axis, dtype, () if out is None else (out,)).problem, device.spec
    )


def blocks_of(plan: Plan, rows: Sequence[int]) -> list[int]:
    """Return the blocks that compute rows, for the patterns where a block has rows of its own."""
    step = plan.launches[0]
    if plan.pattern == "group":
        of_block = step.block // int(step.kernel["CSM_LANES"]) * plan.rounds
        return [row // of_block % step.grid for row in rows]
    assert plan.pattern in OWN_BLOCKS
    return [row * step.kernel.cluster for row in rows]


@contextlib.contextmanager
def only_ends(device: Any, plan: Plan, first: int) -> Iterator[list[int]]:
    """Let the emulator run, of a large batch, the first rows and the last; yield which are run.

    A row must have blocks of its own: otherwise all are run, and so they are on a GPU.
    """
    large = plan.rows * plan.n > WHOLE and plan.pattern in OWN_BLOCKS
    if device.name != "emulator" or not large or plan.rows <= first:
        yield [*range(plan.rows)]
        return
    kept = [*range(first), plan.rows - 1]
    with emulator.only_blocks(blocks_of(plan, kept)):
        yield kept


@dataclass(frozen=True)
class PlanCase:
    """A contiguous array that runs in one kind of plan on one architecture."""

    kind: str
    arch: str
    shape: tuple[int, ...]
    axis: int

    def __str__(self) -> str:
        return f"{self.kind.replace(' ', '-')}-{self.arch}-{'x'.join(map(str, self.shape))}"


def planned(op: str, dtype: str, shape: tuple[int, ...], axis: int, arch: str) -> Plan:
    """Return the plan for contiguous arrays, by the planner and not by the public function."""
    return make_plan(problem_for(op, shape, dtype, axis), DeviceSpec.known(arch))


# Every kind of plan that contiguous arrays can have: an architecture that has it, and a number of
# rows that leads to it.
PLAN_KINDS = {
    "group": ("sm_90", 3),
    "block": ("sm_80", 3),
    "block x2": ("sm_90", 3),
    "block x4": ("sm_90", 3),
    "block x8": ("sm_90", 3),
    "block x16": ("sm_90", 67),
    "block parked": ("sm_80", 3),
    "block x8 parked": ("sm_90", 5),
    "stream": ("sm_75", 3),
    "split": ("sm_90", 3),
    "column": ("sm_90", 3),
    "column x2": ("sm_90", 3),
    "column x4": ("sm_90", 3),
    "column x8": ("sm_90", 3),
    "column long": ("sm_80", 3),
}
# For operations that add nothing to how a row is laid over threads: of clusters that of eight.
MAIN_PLAN_KINDS = tuple(k for k in PLAN_KINDS if not k.endswith(("x2", "x4", "x16")))
OWN_BLOCKS = ("group", "block", "stream")  # patterns where a block has rows of its own
WHOLE = 1 << 19  # elements; of larger batches only the blocks of the compared rows are run
# Kinds whose shortest cases have millions of elements.
LONG_PLAN_KINDS = {"block x16", "block x8 parked"}
LONGEST = 1 << 20

# Shape and axis of a short case of each pattern that selects, for every dtype and up to 64 picks.
SELECTIONS = {
    "topk_group": ((7, 200), -1),
    "topk_block": ((5, 3001), -1),
    "topk_split": ((2, 40001), -1),
    "topk_column": ((1500, 19), 0),
    "topk_column of segments": ((70001, 3), 0),
}


@cache
def case(wanted: str, op: str, dtype: str) -> PlanCase:
    """Return a short case of a kind: odd lengths grow by an eighth until it is planned."""
    arch, rows = PLAN_KINDS[wanted]
    column = wanted.startswith("column")
    n = 37
    while n < LONGEST:
        shape, axis = ((n, rows), 0) if column else ((rows, n), -1)
        if kind(planned(op, dtype, shape, axis, arch)) == wanted:
            return PlanCase(wanted, arch, shape, axis)
        n += n // 8 + n // 8 % 2
    raise AssertionError(f"{op} of {dtype} has no {wanted} on {arch} with {rows} rows")


def _depth(plan: Plan) -> tuple[Any, ...]:
    """All of a plan that changes the way through its kernel, but for the width of an access.

    The number of pieces that rows are cut into is last.
    """
    first = plan.launches[0]
    held = 0
    if plan.pattern == "block":
        held = -(-plan.n // (plan.chunk * (first.block // 32) * plan.cluster))
    walkers = first.block if plan.pattern == "column" else 0
    pieces = first.grid if len(plan.launches) > 1 else 0
    return (kind(plan), held, walkers, len(plan.launches), plan.rounds, pieces)


def boundaries(
    op: str, dtype: str, arch: str, rows: int, column: bool, low: int, high: int
) -> Iterator[tuple[int, Plan]]:
    """Yield row lengths on either side of each change of plan between `low` and `high`.

    Of rows, those of whole sectors and those of an odd length are gone through one after the other,
    since odd ones are staged where the others are not.
    """
    if column:
        kinds = [range(low, high + 1)]
    else:
        kinds = [range(-(-low // 16) * 16, high + 1, 16), range(low | 1, high + 1, 2)]
    for lengths in kinds:
        yield from _boundaries(op, dtype, arch, rows, column, lengths)


def _boundaries(
    op: str, dtype: str, arch: str, rows: int, column: bool, lengths: range
) -> Iterator[tuple[int, Plan]]:
    """Yield those of `lengths` on either side of which the plan changes.

    The planner itself is asked: at lengths less than one unit of summation apart, since nothing
    changes and changes back within one, and then between those that differ. Of the changes of the
    number of pieces alone the first of each kind of plan is enough: the others are like it.
    """
    cut: set[str] = set()  # the kinds of which it was met

    def at(i: int) -> Plan:
        n = lengths[i]
        shape, axis = ((n, rows), 0) if column else ((rows, n), -1)
        return planned(op, dtype, shape, axis, arch)

    def depth(i: int) -> tuple[Any, ...]:
        found = _depth(at(i))
        return found[:-1] if found[0] in cut else found

    before = 0
    step = max((max(at(0).chunk, 64) - 1) // lengths.step, 1)
    for after in [*range(step, len(lengths) - 1, step), len(lengths) - 1]:
        while depth(before) != depth(after):
            left, right = before, after
            while right - left > 1:
                middle = (left + right) // 2
                if depth(middle) == depth(before):
                    left = middle
                else:
                    right = middle
            yield lengths[left], at(left)
            yield lengths[right], at(right)
            if _depth(at(left))[:-1] == _depth(at(right))[:-1]:
                cut.add(kind(at(right)))
            before = right
        before = after


@contextlib.contextmanager
def blocks_of_each_launch(most: int) -> Iterator[list[Plan]]:
    """Launch at most that many blocks, or clusters; 0 for as many as are planned.

    The planner gives each piece of work a block of its own, so that none goes on to a second, but
    for very many rows of the group pattern.
    Yields the list of the plans that were made, as the planner made them.
    """
    planner, made = calls.plan, []

    def fewer(*arguments: Any) -> Plan:
        whole = planner(*arguments)
        made.append(whole)
        if not most:
            return whole
        steps = tuple(replace(s, grid=min(s.grid, most * s.kernel.cluster)) for s in whole.launches)
        return replace(whole, launches=steps, checkers=min(whole.checkers, most))

    launch._calls.clear()
    calls.plan = fewer  # type: ignore[assignment]
    try:
        yield made
    finally:
        calls.plan = planner
        launch._calls.clear()
