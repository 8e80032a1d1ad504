"""``cusoftmax cost``: predicts the time of a call on a GPU from its machine code and plan."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

import cusoftmax
from cusoftmax.machine import UserError
from cusoftmax.machine_code import measured, sass
from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import Cost, KernelCost
from cusoftmax.machine_code.limits import LIMITERS
from cusoftmax.machine_code.opcodes import CLASSES
from cusoftmax.profiling.sectors import predicted_cost


def run(
    console: Console,
    arguments: Namespace,
    shape: tuple[int, ...],
    axis: int | tuple[int, ...] | None,
) -> int:
    """Print the cost of a call; `arguments` are those of the command line."""
    reason = sass.missing()
    if reason:
        raise UserError(f"nothing can be compiled here: {reason}")
    dtypes = tuple(arguments.dtype.split(","))
    plan = cusoftmax.explain(
        arguments.op,
        shape=shape,
        dtype=dtypes if len(dtypes) > 1 else dtypes[0],
        axis=axis,
        arch=arguments.arch,
        out_dtype=arguments.out_dtype,
        order=arguments.order,
    )
    if not plan.launches:
        raise UserError("there is no element: nothing is launched")
    document = measured.load(arguments.measured) if arguments.measured else None
    chip = Chip.named(arguments.chip) if arguments.chip else Chip.of(plan.device)
    if document and not arguments.chip:
        chip = measured.chip_of(document, chip)
    if chip.arch != plan.device.arch:
        raise UserError(f"{chip.name} is sm_{chip.arch}, not sm_{plan.device.arch}")
    predicted = predicted_cost(plan, chip)
    last = axis in (-1, len(shape) - 1)
    found = measured.compare(predicted, document, dtypes[0], -1 if last else 0) if document else []
    if arguments.json:
        print(json.dumps(as_json(predicted, found), indent=2))
        return 0
    show(console, predicted)
    _show_measured(console, found, arguments.measured)
    return 0


def as_json(found: Cost, measured: Sequence[measured.Measured] = ()) -> dict[str, Any]:
    """Return a cost as plain numbers and strings."""
    plan, chip = found.plan, found.chip
    return {
        "op": plan.op,
        "pattern": plan.pattern,
        "rows": plan.rows,
        "n": plan.n,
        "arch": f"sm_{plan.device.arch}",
        "chip": chip.name,
        "copy_bandwidth": chip.copy_bandwidth,
        "copy_bandwidth_source": chip.copy_bandwidth.source,
        "least_bytes": plan.least_bytes,
        "predicted_seconds": found.seconds,
        "predicted_fraction_of_copy": found.fraction_of_copy,
        "predicted_fraction_of_bandwidth": found.fraction_of_bandwidth,
        "predicted_limiter": found.limiter,
        "level2_bandwidth": chip.l2_bandwidth,
        "level2_bandwidth_source": chip.l2_bandwidth.source,
        "bytes_in_flight_needed": round(found.needed_in_flight),
        "launches": [_launch_json(launch) for launch in found.launches],
        "measured": [
            {
                "gpu": m.gpu,
                "suite": m.suite,
                "seconds": m.seconds,
                "fraction_of_copy": m.fraction_of_copy,
                "error_of_prediction": m.error,
            }
            for m in measured
        ],
    }


def _launch_json(launch: KernelCost) -> dict[str, Any]:
    held = launch.occupancy
    return {
        "kernel": launch.name,
        "grid": launch.grid,
        "threads": launch.threads,
        "registers": launch.registers,
        "spills": launch.spills,
        "shared_bytes": launch.shared_bytes,
        "blocks_per_multiprocessor": held.blocks,
        "occupancy": held.share,
        "occupancy_limit": held.limit,
        "bytes_in_flight_thread": launch.in_flight_thread,
        "bytes_in_flight": launch.in_flight,
        "memory_bytes": launch.memory_bytes,
        "level2_bytes": launch.level2_bytes,
        "instructions_per_element": launch.per_element,
        "seconds": launch.times,
        "limiter": launch.limiter,
        "loops_of_unknown_length": launch.unknown_loops,
        "instructions_are": "executed" if launch.executed else "static",
    }


def show(console: Console, found: Cost) -> None:
    """Print a cost for people."""
    plan, chip = found.plan, found.chip
    console.print(
        f"{plan.op}: {plan.rows:,} rows of {plan.n:,} elements, {plan.pattern}, on {chip.name} "
        f"(sm_{plan.device.arch})",
        markup=False,
    )
    console.print(_table(found))
    waits = (
        f" of {_time(found.copy_seconds)}, one wait for memory ({found.fraction_of_bandwidth:.0%} "
        "of a large one's bandwidth)"
    ) * found.copy_is_short
    console.print(
        f"predicted: {_time(found.seconds)}, {found.fraction_of_copy:.0%} of a copy's speed"
        f"{waits}; limiter: {found.limiter}",
        style="bold",
        markup=False,
    )
    console.print(
        f"copy at {chip.copy_bandwidth / 1e12:.2f} TB/s ({chip.copy_bandwidth.source}); level 2 "
        f"cache at {chip.l2_bandwidth / 1e12:.1f} TB/s ({chip.l2_bandwidth.source}); clock "
        f"{chip.clock / 1e9:.2f} GHz; memory latency {chip.latency:.0f} cycles "
        f"({chip.latency.source}); launches themselves are not counted",
        markup=False,
        soft_wrap=True,
    )
    unknown = sum(launch.unknown_loops for launch in found.launches)
    if unknown:
        console.print(f"{unknown} loops of unknown length are counted as one round", style="yellow")
    executed = any(launch.executed for launch in found.launches)
    console.print(
        "machine code: each part counts as often as a few rows of normal numbers enter it, whose "
        "PTX ran on this CPU"
        + ("; executed PTX: what those rows execute, as its loops depend on them" * executed),
        markup=False,
        soft_wrap=True,
    )


def _table(found: Cost) -> Table:
    launches = found.launches
    table = Table()
    table.add_column("", no_wrap=True)
    for k in launches:
        table.add_column(k.name, justify="right", overflow="fold")

    def row(label: str, cells: Iterable[str]) -> None:
        table.add_row(label, *cells)

    def heading(label: str) -> None:
        table.add_section()
        table.add_row(f"[bold]{label}[/]")

    heading("instructions per element")
    for name in CLASSES:
        if any(name in k.per_element for k in launches):
            row(name, (f"{k.per_element.get(name, 0):.2f}" for k in launches))
    row("all", (f"{k.instructions:.1f}" for k in launches))
    row("counted in", ("executed PTX" if k.executed else "machine code" for k in launches))
    heading("resources")
    row("grid × threads", (f"{k.grid:,} × {k.threads}" for k in launches))
    row("registers a thread", (str(k.registers) for k in launches))
    row("spill instructions", (str(k.spills) for k in launches))
    row("shared bytes a block", (f"{k.shared_bytes:,}" for k in launches))
    row("blocks on a multiprocessor", (str(k.occupancy.blocks) for k in launches))
    row("limited by", (k.occupancy.limit for k in launches))
    row("occupancy", (f"{k.occupancy.share:.0%}" for k in launches))
    row("bytes in flight there", (f"{k.in_flight:,}" for k in launches))
    row("needed, by Little's law", (f"{found.needed_in_flight:,.0f}" for _ in launches))
    row("sectors over the least", (f"{_over_least(k):.2f}" for k in launches))
    heading("time that each resource needs")
    for key, words in LIMITERS.items():
        if any(key in k.times for k in launches):
            row(words, (_marked(k, key) for k in launches))
    return table


def _over_least(launch: KernelCost) -> float:
    """Bytes of the sectors that the launch touches, over the bytes that memory moves."""
    return launch.level2_bytes / launch.memory_bytes if launch.memory_bytes else 1.0


def _marked(launch: KernelCost, key: str) -> str:
    if key not in launch.times:
        return ""
    text = _time(launch.times[key])
    return f"[bold]{text}[/]" if key == launch.limiter else text


def _show_measured(console: Console, found: Sequence[measured.Measured], path: str | None) -> None:
    if not found:
        where = f" in {path}" if path else "; give a results file by --measured"
        console.print(f"not measured yet{where}", markup=False, soft_wrap=True)
    for m in found:
        share = "" if m.fraction_of_copy is None else f", {m.fraction_of_copy:.0%} of the copy"
        console.print(
            f"measured on {m.gpu} ({m.suite}): {_time(m.seconds)}{share}; the prediction is "
            f"{m.error:+.0%} off",
            markup=False,
            soft_wrap=True,
        )


def _time(seconds: float) -> str:
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"
