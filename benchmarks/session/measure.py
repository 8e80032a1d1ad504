"""Measure one cell: inputs on the device, each contender checked, then all timed in turn."""

from __future__ import annotations

from typing import Any

import cupy

from benchmarks.measuring.devices import EVICTION_FACTOR
from benchmarks.measuring.results import (
    OURS,
    OURS_OUT,
    RAW_KERNEL,
    RAW_KERNEL_ALLOCATING,
    Measurement,
)
from benchmarks.measuring.timing import on_device, on_host
from benchmarks.session.contenders import (
    CallsAndResult,
    CheckedContender,
    check_contender,
    contenders,
    copy_contender,
)
from benchmarks.session.first_call import measure_first_calls
from benchmarks.session.inputs import CellInputs, Session
from benchmarks.session.measurements import measurements
from benchmarks.suites.cells import Cell
from benchmarks.suites.operations import OPERATIONS
from cusoftmax.runtime.backend import active
from cusoftmax.runtime.layout import as_struct, layout_of

MAX_INPUT_SETS = 16


def measure_cell(session: Session, cell: Cell) -> list[Measurement]:
    """Measure what the cell asks to be timed."""
    return {
        "device": measure_on_device,
        "overhead": measure_host_calls,
        "cold": measure_first_calls,
    }[cell.timed](session, cell)


def measure_on_device(session: Session, cell: Cell) -> list[Measurement]:
    """Time all contenders of a cell on the device."""
    device = session.device
    evicting_bytes = EVICTION_FACTOR * device.spec.l2_bytes
    most = 2 if device.emulated else MAX_INPUT_SETS
    sets = min(most, max(2, -(-evicting_bytes // cell.least_bytes)))
    checked: list[CheckedContender] = []
    for sigma in cell.sigmas:
        checked += contenders(session, cell, CellInputs(session, cell, sigma, sets), sigma)
    checked.append(copy_contender(session, cell, sets))
    device.synchronize()
    on_device(device, checked, session.effort, evict=sets * cell.least_bytes < evicting_bytes)
    return measurements(cell, checked, device.how, cell.plan(device.spec))


def measure_host_calls(session: Session, cell: Cell) -> list[Measurement]:
    """Time whole calls by the host's clock, beside a bare launch of the same kernel."""
    device, sigma = session.device, cell.sigmas[0]
    inputs = CellInputs(session, cell, sigma, sets=1)
    (arrays,), operation = inputs.sets, OPERATIONS[cell.op]
    plan = cell.plan(device.spec)

    def ours() -> CallsAndResult:
        return [lambda: operation.call(arrays, cell.axis)], lambda value: value

    def raw_kernel(allocating: bool) -> CallsAndResult:
        if len(plan.launches) != 1:
            raise ValueError(f"{len(plan.launches)} launches make no bare call")
        (launch,), struct = plan.launches, as_struct(layout_of(plan))
        kernel, layout = device.raw_kernel(launch.kernel), active().by_value(struct)
        grid, block, shared = (launch.grid,), (launch.block,), launch.shared_bytes
        (target,) = inputs.outputs()

        def call() -> Any:
            out = cupy.empty_like(arrays[0]) if allocating else target
            kernel(grid, block, (*arrays, out, None, layout), shared)
            return out

        return [call], lambda value: value

    ours_out, *peers = contenders(session, cell, inputs, sigma)
    ours_out.name = (OURS_OUT, sigma)
    checked: list[CheckedContender] = [
        check_contender((OURS, sigma), ours, inputs.judge),
        ours_out,
        check_contender((RAW_KERNEL, sigma), lambda: raw_kernel(False), inputs.judge),
        check_contender((RAW_KERNEL_ALLOCATING, sigma), lambda: raw_kernel(True), inputs.judge),
        *peers,
    ]
    device.synchronize()
    on_host(device, checked, session.effort)
    made = measurements(cell, checked, "host", plan)
    for m in made:
        m.gb_per_s = None  # bytes over the host's time are not a bandwidth
    return made
