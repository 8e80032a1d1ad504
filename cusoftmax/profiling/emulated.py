"""Counts the traffic of a call on the emulator, on as few rows as run in the same way."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cusoftmax.machine import UserError, machine
from cusoftmax.operations.dtypes import FLOATS
from cusoftmax.operations.lookup import find
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.profiling.profile import Work

if TYPE_CHECKING:
    from cusoftmax.emulator import Report

SECTOR = 32  # bytes: the unit of the memory system
MOST_EMULATED = 1 << 25  # elements: half a minute


@dataclass(frozen=True)
class Emulated:
    """The emulator's counts of `ran`: fewer rows than `plan`, run in the same way."""

    plan: Plan
    ran: Plan
    counted: Report

    @property
    def moved(self) -> float:
        """Bytes that all rows move, scaled up from the rows that ran."""
        counted = self.counted.global_bytes_read + self.counted.global_bytes_written
        return float(counted * self.plan.rows / max(self.ran.rows, 1))


def emulate(work: Work, arch: str) -> Emulated:
    """Count the traffic of a call on the emulator, with as few rows as run the same way."""
    from cusoftmax import emulator

    device = DeviceSpec.known(arch)
    fewer = _affordable(work, device)
    with machine("emulator", arch) as on:
        arrays = fewer.arrays(on)
        with emulator.trace() as counted:
            fewer.call(arrays)
    return Emulated(work.plan(device), fewer.plan(device), counted)


def _affordable(work: Work, device: DeviceSpec) -> Work:
    """Return the call on as few rows as run the same way; UserError if those are too many."""
    fewer = replace(work, shape=fewer_rows(work, device))
    if math.prod(fewer.shape) > MOST_EMULATED:
        size = "x".join(map(str, fewer.shape))
        raise UserError(
            f"the emulator would need {size} to run as this does on {device.name}, which takes too "
            "long: give a shorter row"
        )
    return fewer


def fewer_rows(work: Work, device: DeviceSpec) -> tuple[int, ...]:
    """Return the smallest shape with rows of the same length that runs the same way.

    That is: the same kernels, launched with blocks of the same size that hold as many rows, and
    rows that start at every offset within a sector that occurs. Few rows may have another plan, so
    rows are added, the innermost dimension first, until the plan is the same.
    """
    full = work.plan(device)
    starts = SECTOR // math.gcd(full.n * FLOATS[work.dtype], SECTOR)
    axes = range(len(work.shape)) if work.axis is None else np.atleast_1d(work.axis).tolist()
    reduced = {int(axis) % len(work.shape) for axis in axes}
    if find(work.op).repeated:
        reduced.add(len(work.shape) - 2)
    shape = [n if d in reduced else min(n, 1) for d, n in enumerate(work.shape)]
    for d in reversed(range(len(shape))):
        while True:
            made = replace(work, shape=tuple(shape)).plan(device)
            if made.rows % starts == 0 and _run_alike(made, full):
                return tuple(shape)
            if shape[d] == work.shape[d]:
                break
            shape[d] = min(2 * shape[d], work.shape[d])
    return work.shape


def _run_alike(few: Plan, full: Plan) -> bool:
    def kind(of: Plan) -> tuple[Any, ...]:
        launches = tuple((step.kernel, step.block, step.shared_bytes) for step in of.launches)
        return launches, of.vector, of.reads, of.rounds

    return kind(few) == kind(full) and all(
        few.rows * b.grid >= full.rows * a.grid
        for a, b in zip(few.launches, full.launches, strict=True)
    )
