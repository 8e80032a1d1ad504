"""``cusoftmax demo``: a worked example, a batch, and its traffic and speed."""

from __future__ import annotations

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
TIMED = ((4096, 4096), (4096, 32000), (4, 1 << 20))
TIMED_RUNS = 20

Array = np.ndarray[Any, np.dtype[Any]]


def demo(console: Console, kind: str, arch: str | None, seed: int, code: str | None = None) -> int:
    """Print the demonstration; return the exit status."""
    with machine(kind, arch, seed, code) as on:
        console.print(f"running on {on.title}")
        worked_example(console, on)
        batch(console, on, seed)
        if on.emulated:
            console.print("\nspeed: not measured, there is no GPU in use")
        else:
            speed(console, on)
    return 0


def worked_example(console: Console, on: Machine) -> None:
    """Softmax of four logits beside argmax and plain normalisation, and its derivatives."""
    logits = np.array(LOGITS)
    y = on.asnumpy(cs.softmax(on.asarray(logits)))
    table = Table(title="one row of logits", title_justify="left")
    table.add_column("")
    for number in range(len(LOGITS)):
        table.add_column(f"[{number}]", justify="right")
    table.add_column("sum", justify="right")
    for name, values, digits in (
        ("logits", logits, 0),
        ("argmax, as one-hot", np.eye(len(LOGITS))[np.argmax(logits)], 0),
        ("plain normalisation", logits / logits.sum(), 4),
        ("softmax", y, 4),
    ):
        table.add_row(name, *(f"{v:.{digits}f}" for v in values), f"{values.sum():.{digits}f}")
    console.print()
    print_table(console, table)

    # Row i of the Jacobian is its product with the i-th unit vector.
    rows = on.asarray(np.tile(y, (len(LOGITS), 1)))
    jacobian = on.asnumpy(cs.softmax_vjp(rows, on.asarray(np.eye(len(LOGITS)))))
    table = Table(title="its Jacobian, by softmax_vjp of unit vectors", title_justify="left")
    table.add_column("dy_i / dx_j")
    for number in range(len(LOGITS)):
        table.add_column(f"j = {number}", justify="right")
    table.add_column("row sum", justify="right")
    for number, row in enumerate(jacobian):
        table.add_row(f"i = {number}", *(f"{v:.4f}" for v in row), f"{row.sum():.0e}")
    console.print()
    print_table(console, table)
    gap = np.abs(jacobian - reference.softmax_jacobian(y)).max()
    console.print(f"largest difference from diag(y) - outer(y, y) in NumPy: {gap:.1e}")

    gradient = np.array([0.0, -1.0 / y[1], 0.0, 0.0])
    dx = on.asnumpy(cs.softmax_vjp(on.asarray(y), on.asarray(gradient)))
    ones = on.asnumpy(cs.softmax_vjp(on.asarray(y), on.asarray(np.ones(len(LOGITS)))))
    console.print("VJP with dy = d(-ln y[1])/dy, which must be y minus the one-hot of 1:")
    console.print("  " + "  ".join(f"{v:.4f}" for v in dx))
    console.print(f"VJP with all ones, the row sums of J: at most {np.abs(ones).max():.0e}")


def batch(console: Console, on: Machine, seed: int) -> None:
    """A batch in two dtypes, both operations: error, plan and traffic."""
    rng = np.random.default_rng(seed)
    table = Table(title=f"a batch of {BATCH[0]} x {BATCH[1]}, normal logits", title_justify="left")
    for name in ("operation", "dtype", "worst error", "pattern", "kernel"):
        table.add_column(name, no_wrap=name != "worst error")
    table.add_column("bytes moved", justify="right")
    table.add_column("of least", justify="right")
    for dtype in ("float16", "float32"):
        x = rng.standard_normal(BATCH).astype(dtype)
        dy = rng.standard_normal(BATCH).astype(dtype)
        y, moved = traced(on, "softmax", x)
        row(table, on, "softmax", dtype, worst("softmax", (x,), y), moved)
        dx, moved = traced(on, "softmax_vjp", y, dy)
        row(table, on, "softmax_vjp", dtype, worst("softmax_vjp", (y, dy), dx), moved)
    console.print()
    print_table(console, table)
    console.print(
        "error against NumPy in extended precision; u is the unit roundoff of the dtype times "
        "|y_i| (|dy_i| + sum |y_j dy_j|), for float16 beside the final rounding. Bytes moved: "
        + ("counted by the emulator" if on.emulated else "by the plan, not measured")
    )


def worst(op: str, inputs: Arrays, result: Array) -> str:
    """Return the worst error in the unit of the operation's bound."""
    contract = CONTRACTS[op]
    (errors,) = contract.errors(inputs, -1, (result,))
    return f"{errors.max():.2f} {contract.unit}"


def row(table: Table, on: Machine, op: str, dtype: str, error: str, moved: int | None) -> None:
    """Add a line of the batch's table."""
    plan = cs.explain(op, shape=BATCH, dtype=dtype, arch=on.device.arch if on.emulated else None)
    count = moved_bytes(plan) if moved is None else moved
    table.add_row(
        op, dtype, error, plan.pattern, plan.launches[0].kernel.name,
        f"{count:,}", f"{count / plan.least_bytes:.2f}",
    )  # fmt: skip


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

    table = Table(title="speed of softmax in float16", title_justify="left")
    for name in ("shape", "pattern", "median time", "bytes of the arrays / time"):
        table.add_column(name, justify="right")
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
