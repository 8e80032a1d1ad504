"""Counts what a plan's launches do, by running a few blocks of each on the emulator.

A row that starts off a sector's boundary, or that is read by narrow accesses, touches more sectors
than it has. All of them pass through the level 2 cache, whatever memory then sees of them. Lanes
that ask a bank of shared memory for different words are served one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import Cost, cost
from cusoftmax.machine_code.executed import ExecutedLine
from cusoftmax.operations.dtypes import FLOATS, ITEMSIZE
from cusoftmax.operations.operation import MASK
from cusoftmax.operations.options import ROUND_KEYS, round_keys
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.builder import ceil_div
from cusoftmax.planning.checks import as_dtype
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Launch, Plan
from cusoftmax.profiling.emulated import SECTOR
from cusoftmax.runtime.layout import as_struct, layout_of

_MOST = 1 << 18  # elements to run, if one row has no more: about a second
_MOST_DRAWN = 1 << 20  # of an input
_LOCK = Lock()  # a trace counts what other threads launch, and runs only its blocks


class _Accesses(NamedTuple):
    """What each launch of a plan did to memory."""

    level2_bytes: tuple[float, ...]
    bank_conflicts: tuple[float, ...]


def level2_bytes(plan: Plan) -> tuple[float, ...]:
    """Return the bytes of the sectors that each launch of a plan touches, read and written."""
    return _counted(_anywhere(plan)).level2_bytes


def bank_conflicts(plan: Plan) -> tuple[float, ...]:
    """Return how many turns more than without conflicts shared memory takes to serve a launch."""
    return _counted(_anywhere(plan)).bank_conflicts


def predicted_cost(plan: Plan, chip: Chip | None = None) -> Cost:
    """Predict the cost of a plan from all that a run of a few of its blocks says."""
    return cost(plan, chip, level2_bytes(plan), executed_lines(plan), bank_conflicts(plan))


def _anywhere(plan: Plan) -> Plan:
    # The GPU matters only to the plan: equal launches of several are counted once.
    return replace(plan, device=DeviceSpec.known(90))


# Options that loops, branches or divisions depend on: a seed, a temperature of 1, logits and losses
# as they are, and one row of queries, which hides nothing.
_OPTIONS: dict[str, float] = dict(zip(ROUND_KEYS, round_keys(1), strict=True))
_OPTIONS |= dict.fromkeys(("of_logits", "of_noise", "per_temperature"), 1.0)
_OPTIONS |= {"scale": 1.0, "sign": 1.0, "queries": 1, "keep": 1.0, "factor": 1.0}


@lru_cache(maxsize=4096)
def _counted(plan: Plan) -> _Accesses:
    sectors, conflicts = [], []
    for launch, (counted, blocks) in zip(
        plan.launches, _run(plan, "source", accesses=True), strict=True
    ):
        touched = counted.sectors_read + counted.sectors_written
        sectors.append(touched * SECTOR * launch.grid / blocks)
        conflicts.append(counted.bank_conflicts * launch.grid / blocks)
    return _Accesses(tuple(sectors), tuple(conflicts))


@lru_cache(maxsize=4096)
def executed_lines(plan: Plan) -> tuple[tuple[ExecutedLine, ...], ...]:
    """Return how often each launch's PTX is executed by those blocks, on ordinary numbers."""
    return tuple(
        tuple(ExecutedLine(*line) for line in counted.executed.by_line())
        for counted, _ in _run(plan, "ptx", accesses=False)
    )


def _run(plan: Plan, code: str, accesses: bool) -> list[tuple[Any, int]]:
    """Return what a few blocks of each launch counted, and how many blocks those were."""
    from cusoftmax import emulator

    found = []
    with _LOCK, emulator.activate(f"sm_{plan.device.arch}", code=code) as backend:
        inputs, results = _arrays(plan)
        absent = (None,) * len(results)
        workspace = emulator.sparse((plan.workspace_bytes,), np.uint8)
        layout = backend.by_value(_layout(plan))
        for launch in plan.launches:
            last = launch is plan.launches[-1]
            given = results if last or not launch.kernel.writes_all else absent
            blocks = _blocks(plan, launch)
            run = backend.load(launch.kernel)
            with emulator.only_blocks(blocks), emulator.trace(accesses=accesses) as counted:
                run(
                    (launch.grid,),
                    (launch.block,),
                    (*inputs, *given, workspace, layout),
                    launch.shared_bytes,
                )
            found.append((counted.kernels[-1], len(blocks)))
    return found


def _blocks(plan: Plan, launch: Launch) -> range:
    """Return the blocks that do a few rows: one for each place in a sector at which rows start.

    Of long rows fewer: those after the first, which is always aligned.
    """
    sizes = {ITEMSIZE[o.dtype] for o in plan.problem.operands if any(o.reduce_strides)}
    starts = min(max(SECTOR // math.gcd(plan.n * size, SECTOR) for size in sizes), plan.rows)
    rows = min(starts, max(1, _MOST // plan.n))
    first = 1 if rows < starts else 0
    blocks_a_row, cluster = launch.grid / plan.rows, launch.kernel.cluster
    low = int(first * blocks_a_row) // cluster * cluster
    high = ceil_div(math.ceil((first + rows) * blocks_a_row), cluster) * cluster
    found = range(low, min(max(high, low + cluster), launch.grid))
    if (launch.kernel["CSM_PATTERN"], launch.kernel["CSM_STAGE"]) in (
        ("column", "3"),
        ("column", "4"),
    ):
        last = launch.grid - 1  # these begin with the last rows
        return range(last - found[-1], last - found[0] + 1)
    return found


def _rows_of_loops(plan: Plan) -> Iterator[tuple[int, int]]:
    """Yield the first row, and that after the last, of each round that those blocks make."""
    for launch in plan.launches:
        if launch.kernel["CSM_PATTERN"] == "group":
            at_once = launch.block // int(launch.kernel["CSM_LANES"]) * plan.rounds
            blocks = _blocks(plan, launch)
            for first in range(blocks[0] * at_once, plan.rows, launch.grid * at_once):
                yield first, first + len(blocks) * at_once


def _layout(plan: Plan) -> Any:
    """Return the launches' ``csm::Layout``; other options than `_OPTIONS` are 0."""
    names = KERNELS[plan.op].options
    given = _OPTIONS | dict(zip(names, plan.problem.options, strict=False))
    options = [given.get(name, 0) for name in names]
    return as_struct(layout_of(plan), options, plan.launches[0].kernel["CSM_ACC"])


def _arrays(plan: Plan) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return inputs of ordinary numbers, zeros from some way on; and room for results."""
    count = len(KERNELS[plan.op].read)
    arrays = tuple(_each_array(plan))
    return arrays[:count], arrays[count:]


def _each_array(plan: Plan) -> Iterator[Any]:
    import cupy

    from cusoftmax import emulator

    problem, operation = plan.problem, KERNELS[plan.op]
    names = (*operation.read, *operation.written)
    sizes = problem.batch_shape + problem.reduce_shape
    for number, (name, operand) in enumerate(zip(names, problem.operands, strict=True)):
        dtype = as_dtype("sectors", operand.dtype)
        if operation.segmented and number == operation.value_inputs:
            yield emulator.asarray(supposed_offsets(plan).astype(dtype))
            continue
        if number in operation.table_operands:
            yield emulator.sparse((plan.n,), dtype)
            continue
        steps = operand.batch_strides + operand.reduce_strides
        lengths = sizes
        if operation.selects and number >= len(operation.read):
            lengths = (*problem.batch_shape, int(problem.options[0]))
        axes = [(n, step) for n, step in zip(lengths, steps, strict=True) if step]
        extent = sum((n - 1) * step for n, step in axes) // dtype.itemsize + 1
        hides = name == MASK  # nothing is to be hidden
        memory = (
            emulator.asarray(np.ones(extent, dtype)) if hides else emulator.sparse((extent,), dtype)
        )
        if number < len(operation.read) and not hides:
            drawn = operand.dtype in FLOATS  # other numbers are classes, of which 0 is ignored
            every = emulator.view_of(memory)
            each = extent / plan.rows  # elements of a row
            parts = [(int(a * each), math.ceil(b * each)) for a, b in _rows_of_loops(plan)]
            for first, end in ((0, _MOST_DRAWN), *parts):
                some = every[first:end]
                some[...] = np.resize(_ordinary(name, plan.n), some.shape) if drawn else 1
        shape, strides = tuple(n for n, _ in axes), tuple(step for _, step in axes)
        yield cupy.ndarray(shape, dtype, memory.data, strides)


def supposed_offsets(plan: Plan) -> npt.NDArray[np.float64]:
    """Return where segments begin, and the last one ends, that only a shape is known of.

    Their lengths are drawn evenly from 17 to 49 by a fixed seed, and then scaled to the elements
    that there are: by next to nothing, where the plan's segments have `SUPPOSED_LENGTH` on average.
    """
    ends = np.cumsum(
        np.random.default_rng(0).integers(17, 49, plan.problem.segments, endpoint=True)
    )
    found: npt.NDArray[np.float64] = np.rint(np.append(0, ends) * (plan.n / ends[-1]))
    return found


def _ordinary(name: str, n: int) -> npt.NDArray[np.float64]:
    """Return normal numbers, or what softmax of such in rows of `n` is about, or its logarithm."""
    drawn = np.random.default_rng(0).standard_normal(65521)  # a prime: rows differ
    if name not in ("y", "y_i", "logy"):
        return drawn
    log: npt.NDArray[np.float64] = np.minimum(drawn - 0.5 - np.log(n), 0.0)
    return log if name == "logy" else np.exp(log)
