"""``cusoftmax demo``: a worked example, a batch, its traffic and speed, on one screen."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.cli.tables import print_table
from cusoftmax.contract.table import CONTRACTS, Arrays
from cusoftmax.machine import Machine, machine
from cusoftmax.planning.explain import moved_bytes

LOGITS = (2.0, 4.0, 2.0, 1.0)
BATCH = (64, 4096)
TEMPERATURES = (0.5, 1.0, 4.0)  # of the picture
TIMED = ((4096, 4096), (4096, 32000), (4, 1 << 20))
TIMED_RUNS = 20

Array = np.ndarray[Any, np.dtype[Any]]


def demo(
    console: Console,
    kind: str,
    arch: str | None,
    seed: int,
    code: str | None = None,
    picture: Path | None = None,
) -> int:
    """Print the demonstration, and draw it if a file is given; return the exit status."""
    if picture is not None:
        plot = importlib.import_module("cusoftmax.cli.plot")  # before anything runs
    with machine(kind, arch, seed, code) as on:
        console.print(f"running on {on.title}\n")
        worked_example(console, on)
        console.print()
        batch(console, on, seed)
        if on.emulated:
            console.print("speed: not measured, there is no GPU in use")
        else:
            speed(console, on)
        if picture is not None:
            logits = np.array(LOGITS)
            y = on.asarray(logits / np.array(TEMPERATURES)[:, None])
            y = cs.softmax(y)
            jacobians = on.asnumpy(cs.softmax_jacobian(y))
            plot.draw(picture, on.title, logits, on.asnumpy(y), jacobians, TEMPERATURES)
            console.print(f"picture: {picture}", soft_wrap=True, markup=False)
    return 0


def lines(*headings: str) -> Table:
    """Return a table with no lines between rows: all of the demonstration fits on a screen."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(headings[0], no_wrap=True)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def worked_example(console: Console, on: Machine) -> None:
    """Softmax of four logits beside plain normalisation and argmax, and its derivatives."""
    logits = np.array(LOGITS)
    places = range(len(LOGITS))
    y = on.asnumpy(cs.softmax(on.asarray(logits)))
    table = lines("one row of logits", *(f"[{n}]" for n in places), "sum")
    for name, values, digits in (
        ("logits", logits, 0),
        ("softmax", y, 4),
        ("plain normalisation", logits / logits.sum(), 4),
        ("argmax, as one-hot", np.eye(len(LOGITS))[np.argmax(logits)], 0),
    ):
        table.add_row(name, *(f"{v:.{digits}f}" for v in values), f"{values.sum():.{digits}f}")
    print_table(console, table)

    # Row i of the Jacobian is its product with the i-th unit vector.
    rows = on.asarray(np.tile(y, (len(LOGITS), 1)))
    jacobian = on.asnumpy(cs.softmax_vjp(rows, on.asarray(np.eye(len(LOGITS)))))
    table = lines("Jacobian dy_i / dx_j", *(f"j = {n}" for n in places), "sum")
    for number, row in enumerate(jacobian):
        table.add_row(f"i = {number}", *(f"{v:.4f}" for v in row), f"{row.sum():.0e}")
    gradient = np.array([0.0, -1.0 / y[1], 0.0, 0.0])
    dx = on.asnumpy(cs.softmax_vjp(on.asarray(y), on.asarray(gradient)))
    table.add_row("gradient of -ln y[1]", *(f"{v:.4f}" for v in dx), f"{dx.sum():.0e}")
    console.print()
    print_table(console, table)
    gap = np.abs(jacobian - reference.softmax_jacobian(y)).max()
    console.print(f"by softmax_vjp; the Jacobian is within {gap:.1g} of diag(y) - y y^T in NumPy")


def batch(console: Console, on: Machine, seed: int) -> None:
    """A batch in two dtypes, both operations: error, bound, pattern and traffic."""
    rng = np.random.default_rng(seed)
    counted = "bytes moved" if on.emulated else "bytes planned"
    table = lines(
        f"{BATCH[0]} x {BATCH[1]} logits", "dtype", "worst error", "bound", counted, "of least"
    )
    for dtype in ("float16", "float32"):
        x = rng.standard_normal(BATCH).astype(dtype)
        dy = rng.standard_normal(BATCH).astype(dtype)
        y, moved = traced(on, "softmax", x)
        row(table, on, "softmax", dtype, worst("softmax", (x,), y), moved)
        dx, moved = traced(on, "softmax_vjp", y, dy)
        row(table, on, "softmax_vjp", dtype, worst("softmax_vjp", (y, dy), dx), moved)
    print_table(console, table)
    console.print(
        "u: of |y_i| (|dy_i| + sum |y_j dy_j|); float16: beside the final rounding", style="dim"
    )


def worst(op: str, inputs: Arrays, result: Array) -> str:
    """Return the worst error in the unit of the operation's bound."""
    (errors,) = CONTRACTS[op].errors(inputs, -1, (result,))
    return f"{errors.max():.2f} {CONTRACTS[op].unit}"


def row(table: Table, on: Machine, op: str, dtype: str, error: str, moved: int | None) -> None:
    """Add a line of the batch's table."""
    plan = cs.explain(op, shape=BATCH, dtype=dtype, arch=on.device.arch if on.emulated else None)
    count = moved_bytes(plan) if moved is None else moved
    bound = f"{CONTRACTS[op].bound[dtype]:g}"
    table.add_row(op, dtype, error, bound, f"{count:,}", f"{count / plan.least_bytes:.2f}")


def traced(on: Machine, op: str, *inputs: Array) -> tuple[Array, int | None]:
    """Return an operation's result, and on the emulator the bytes that it moved."""
    arrays = [on.asarray(x) for x in inputs]
    function = getattr(cs, op)
    if not on.emulated:
        return on.asnumpy(function(*arrays)), None
    from cusoftmax import emulator

    with emulator.trace() as report:
        result = function(*arrays)
    return on.asnumpy(result), report.global_bytes_read + report.global_bytes_written


def speed(console: Console, on: Machine) -> None:
    """Time and bandwidth by CUDA events: the median of some runs after one that compiles."""
    import cupy

    table = lines("softmax in float16", "pattern", "median time", "bytes of the arrays / time")
    for shape in TIMED:
        x = on.asarray(np.random.default_rng(0).standard_normal(shape).astype(np.float16))
        out = cs.softmax(x)
        times = []
        for _ in range(TIMED_RUNS):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            cs.softmax(x, out=out)
            end.record()
            end.synchronize()
            times.append(cupy.cuda.get_elapsed_time(start, end))
        plan = cs.explain("softmax", shape=shape, dtype="float16")
        milliseconds = float(np.median(times))
        rate = plan.least_bytes / milliseconds / 1e6
        size = " x ".join(str(n) for n in shape)
        table.add_row(size, plan.pattern, f"{milliseconds * 1000:.1f} us", f"{rate:,.0f} GB/s")
    console.print()
    print_table(console, table)
    console.print(f"{TIMED_RUNS} runs each on the same arrays: small ones stay in the cache")
