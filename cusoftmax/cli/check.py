"""``cusoftmax check``: every dtype, pattern and operation against the reference.

The shapes come from the planner: for each case the smallest of some candidates whose plan has the
wanted pattern, so that each pattern really runs. The bounds are the package's numerical contract
(README.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import cusoftmax as cs
from cusoftmax.contract.table import CONTRACTS, CORRECTLY_ROUNDED, NARROW, Arrays, OperationContract
from cusoftmax.machine import Machine, first_line, machine
from cusoftmax.operations.dtypes import FLOATS, INPUTS
from cusoftmax.operations.operation import PATTERNS
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.checks import as_dtype
from cusoftmax.planning.plan import Plan

Array = np.ndarray[Any, np.dtype[Any]]

# Rows that the chip cannot hold are shortest on the smallest chip, and the emulator's time follows
# their length.
SMALLEST_CHIP = "sm_75"
WORKERS = os.cpu_count() or 1

# One without a second input and one with; what all operations have in common is tried with them.
_FIRST_OPS = ("softmax", "softmax_vjp")

# Candidates by pattern, cheapest first: shape and axis.
_ELEMENTS = 4096
_LENGTHS = (61, 128, 600, 1000, 1500, 2500, 4100, 5001, 9001, 17000, 33001, 50257, 70000, 131072)
_LONG = (150001, 262144, 400000, 600001, 1 << 20)


@dataclass(frozen=True)
class Comparison:
    """One comparison."""

    op: str
    dtype: str
    plan: Plan
    shape: tuple[int, ...]
    axis: int


@dataclass(frozen=True)
class Outcome:
    """What a comparison found: the worst error over its bound, in words, and whether it passed."""

    passed: bool
    text: str


def check(console: Console, kind: str, arch: str | None, seed: int, quick: bool) -> int:
    """Run all comparisons, print a table; return the exit status."""
    failures = 0
    table = Table(title="against NumPy in extended precision", title_justify="left")
    for name in ("operation", "dtype", "pattern", "shape", "axis", "arch", "worst error", ""):
        table.add_column(name)
    with ExitStack() as stack:
        on = stack.enter_context(machine(kind, arch, seed))
        console.print(f"checking on {on.title}")
        small = None
        if on.emulated and arch is None:
            small = SMALLEST_CHIP
        cases = list(all_cases(on, small, quick))
        build(console, cases, small, seed)
        progress = stack.enter_context(bar(console))
        task = progress.add_task("comparing", total=len(cases))
        for case in cases:
            with ExitStack() as moved:
                place = on
                if on.emulated and case.plan.device.arch != on.device.arch:
                    place = moved.enter_context(machine("emulator", small, seed))
                outcome = compare(case, place, seed)
            failures += not outcome.passed
            table.add_row(
                case.op,
                case.dtype,
                case.plan.pattern,
                " x ".join(str(n) for n in case.shape),
                str(case.axis),
                f"sm_{case.plan.device.arch}",
                outcome.text,
                "[green]ok[/]" if outcome.passed else "[bold red]FAILED[/]",
            )
            progress.advance(task)
    console.print(table)
    console.print(f"{len(cases) - failures} passed, {failures} failed")
    return 1 if failures else 0


def bar(console: Console) -> Progress:
    """A progress bar that leaves nothing behind."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True)


def all_cases(on: Machine, small: str | None, quick: bool) -> Iterator[Comparison]:
    """Yield a case for each operation, float dtype and pattern, or the most telling of them.

    Integers are converted as they are read, alike for all operations: they are tried with two.
    """
    for op, operation in OPERATIONS.items():
        first = op in _FIRST_OPS
        patterns = [pattern for pattern in PATTERNS if pattern in operation.patterns]
        dtypes: tuple[str, ...] = INPUTS if first and not quick else tuple(FLOATS)
        if quick and not first:
            patterns, dtypes = patterns[:1], ("float32",)
        for dtype in dtypes:
            for pattern in patterns:
                yield find_case(op, dtype, pattern, on, small)


def find_case(op: str, dtype: str, pattern: str, on: Machine, small: str | None) -> Comparison:
    """Return the first candidate whose plan has the pattern."""
    archs: list[str | None] = [f"sm_{on.device.arch}" if on.emulated else None]
    if small and pattern == "stream":
        archs.insert(0, small)
    for arch in archs:
        for shape, axis in candidates(pattern, on):
            plan = cs.explain(op, shape=shape, dtype=dtype, axis=axis, arch=arch)
            if plan.pattern == pattern:
                return Comparison(op, dtype, plan, shape, axis)
    raise RuntimeError(f"no shape was found for which {op} of {dtype} plans {pattern}")


def candidates(pattern: str, on: Machine) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield shapes and axes that may have a pattern, small ones first."""
    pattern = pattern.removeprefix("topk_")
    if pattern == "segment":
        yield (20000, 1), 0
        return
    if pattern in ("column", "map"):
        yield ((3, 300, 37), 1) if pattern == "column" else ((5, 61, 61), -1)
        return
    crowd = on.device.sm_count  # rows enough that no row is shared between blocks
    for n in (*_LENGTHS, *_LONG):
        if pattern == "split":
            yield (2, n), -1
        elif pattern == "stream" and n > max(_LENGTHS):
            yield (crowd, n), -1
        else:
            yield (max(5, _ELEMENTS // n), n), -1


def build(console: Console, cases: list[Comparison], small: str | None, seed: int) -> None:
    """Compile all kernels first, several at a time on the emulator."""
    with bar(console) as progress:
        task = progress.add_task("compiling", total=len(cases))

        def warm(case: Comparison) -> None:
            cs.warmup([case.op], shapes=[case.shape], dtypes=[case.dtype], axis=case.axis)
            progress.advance(task)

        here = [c for c in cases if small is None or c.plan.device.arch != _number(small)]
        there = [c for c in cases if c not in here]
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(warm, here))
            if there:
                with machine("emulator", small, seed):
                    list(pool.map(warm, there))


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


def compare(case: Comparison, on: Machine, seed: int) -> Outcome:
    """Run one case and judge it; whatever is raised is a failure with its message."""
    try:
        rng = np.random.default_rng([seed, *case.shape])
        member = CONTRACTS[case.op]
        inputs = member.draw(rng, case.shape, case.axis, as_dtype(case.op, case.dtype))
        names = OPERATIONS[case.op].inputs
        if case.dtype in FLOATS and names[0] == "x" and "b" not in names:
            inputs = (with_special_rows(inputs[0], case.axis), *inputs[1:])
        got = member.call(*(on.asarray(a) for a in inputs), axis=case.axis)
        results = tuple(on.asnumpy(a) for a in (got if isinstance(got, tuple) else (got,)))
        return judge(member, inputs, case.axis, results)
    except Exception as error:  # a kernel error of the emulator, a CUDA error, a refused build
        return Outcome(False, first_line(error))


def with_special_rows(x: Array, axis: int) -> Array:
    """Return logits of which a row has some -inf, one a NaN, and one nothing but -inf."""
    values = x.copy()
    rows = np.moveaxis(values, axis, -1)
    rows = rows if rows.ndim == 2 else rows[0]
    if len(rows) > 1:
        rows[1, ::3] = -np.inf
    if len(rows) > 3:
        rows[2, 5] = np.nan
        rows[3] = -np.inf
    return values


def judge(member: OperationContract, inputs: Arrays, axis: int, results: Arrays) -> Outcome:
    """Put the worst error beside its bound; 16-bit softmax must mostly be correctly rounded too."""
    errors = member.errors(inputs, axis, results)
    worst = max(float(e.max(initial=0.0)) for e in errors)
    name = results[0].dtype.name
    bound = member.bound[name]
    text, passed = f"{worst:.2f} of {bound:g} {member.unit}", worst <= bound
    if member.op == "softmax" and name in NARROW:
        right = float((errors[0] <= 0.5).mean())
        text += f", {right:.3%} correctly rounded"
        passed = passed and right >= CORRECTLY_ROUNDED
    return Outcome(passed, text)
