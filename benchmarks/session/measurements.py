"""What a results file gets from a measured cell."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measuring.averages import quantiles
from benchmarks.measuring.results import COPY, OURS, Measurement, PlanSummary
from benchmarks.session.contenders import CheckedContender
from benchmarks.suites.cells import Cell
from cusoftmax.planning.plan import Plan


def measurements(
    cell: Cell, contenders: Sequence[CheckedContender], how: str, plan: Plan
) -> list[Measurement]:
    """Return a measurement for each contender of a cell, each compared with the copy."""
    times = {c.name: quantiles(c.seconds) for c in contenders if c.failed is None and c.seconds}
    copied = next((t for (name, _), t in times.items() if name == COPY), None)
    made = []
    for contender in contenders:
        (name, sigma), taken = contender.name, times.get(contender.name)
        m = empty_measurement(cell, name, how, sigma)
        m.worst_error = contender.error
        if name.startswith(OURS):
            m.plan = summary_of(plan)
        if taken is None:
            m.failed = contender.failed or "no sample was taken"
        else:
            m.times = taken
            m.gb_per_s = cell.least_bytes / taken.median / 1e9
            if copied is not None:
                m.copy_gb_per_s = cell.least_bytes / copied.median / 1e9
                m.fraction_of_copy = copied.median / taken.median
        made.append(m)
    return made


def empty_measurement(cell: Cell, who: str, how: str, sigma: float) -> Measurement:
    """Return a measurement without times."""
    return Measurement(
        cell.suite, cell.op, cell.dtype, cell.rows, cell.n, cell.axis, sigma, who,
        None, how, None, cell.least_bytes,
    )  # fmt: skip


def summary_of(plan: Plan) -> PlanSummary:
    """Return a plan's summary; of several launches, grid and block are the first one's."""
    first = plan.launches[0]
    return PlanSummary(
        plan.pattern, [launch.kernel.name for launch in plan.launches], first.grid, first.block,
        plan.cluster, plan.reads, plan.chunk, plan.vector,
    )  # fmt: skip
