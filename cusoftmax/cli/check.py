"""``cusoftmax check``: compares every operation, dtype and pattern with the reference.

For each case the planner is asked for the smallest of some shapes whose plan has the pattern, and
the number of blocks to a row, so every pattern really runs, in clusters of every size. The bounds
are the package's numerical contract (docs/guide/numbers.md).
"""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.cli.tables import print_table
from cusoftmax.contract.table import (
    CONTRACTS,
    CORRECTLY_ROUNDED,
    NARROW,
    Arrays,
    OperationContract,
)
from cusoftmax.machine import Machine, UserError, first_line, machine
from cusoftmax.operations.dtypes import FLOATS, INPUTS
from cusoftmax.operations.operation import PATTERNS
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.checks import as_dtype
from cusoftmax.planning.device import PORTABLE_CLUSTER
from cusoftmax.planning.plan import Plan

Array = np.ndarray[Any, np.dtype[Any]]

# The chip with the least shared memory, so rows that do not fit are short and the emulator is fast.
SMALLEST_CHIP = "sm_75"
WORKERS = os.cpu_count() or 1

# One with a single input and one with two: what all operations share is tried with these.
_FIRST_OPS = ("softmax", "softmax_vjp")

# Sizes to try, cheapest first; of columns, first those of more than a few elements. Where none of
# them has a plan of the wanted form, lengths between them are tried: where one form ends and the
# next begins is for the planner to say.
_ELEMENTS = 4096
_COLUMN_LENGTHS = (75, 150, 300, 600, 1200, 2400, 4800, 9600, 37, 18, 9, 5)
_LENGTHS = (61, 128, 600, 1000, 1500, 2500, 4100, 5001, 9001, 17000, 33001, 50257, 70000, 131072)
_LONG = (150001, 262144, 400000, 600001, 1 << 20)
_REFINEMENTS = 4


class Form(NamedTuple):
    """What a case's plan must have: a pattern, and if not 0, blocks of a cluster and launches.

    Columns may be asked for that are streamed.
    """

    pattern: str
    blocks: int = 0
    launches: int = 0
    streamed: bool = False

    def is_of(self, plan: Plan) -> bool:
        """Whether a plan has this form."""
        return (
            plan.pattern == self.pattern
            and self.blocks in (0, plan.launches[0].kernel.cluster)
            and self.launches in (0, len(plan.launches))
            and (not self.streamed or plan.launches[0].kernel["CSM_STAGE"] == "5")
        )

    def __str__(self) -> str:
        if self.streamed:
            return f"{self.pattern}, streamed"
        if self.launches > 1:
            return f"{self.pattern}, {self.launches} launches"
        return f"{self.pattern} x {self.blocks}" if self.blocks > 1 else self.pattern


@dataclass(frozen=True)
class Selection:
    """The cases that are asked for, by name; no names are all of them."""

    ops: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    def has(self, op: str, dtype: str, pattern: str) -> bool:
        """Whether a case is among those asked for."""
        asked = ((self.ops, op), (self.dtypes, dtype), (self.patterns, pattern))
        return all(not names or name in names for names, name in asked)

    def __str__(self) -> str:
        words = (("operation", self.ops), ("dtype", self.dtypes), ("pattern", self.patterns))
        return ", ".join(f"{word} {' or '.join(names)}" for word, names in words if names)


@dataclass(frozen=True)
class CheckedCase:
    """A comparison to make: operation, dtype, form, and a shape and axis with their plan."""

    op: str
    dtype: str
    form: Form
    plan: Plan
    shape: tuple[int, ...]
    axis: int


@dataclass(frozen=True)
class Outcome:
    """What a comparison found: whether it passed, in words, and where a failure is."""

    passed: bool
    text: str
    details: str = ""


def check(
    console: Console,
    kind: str,
    arch: str | None,
    seed: int,
    quick: bool,
    asked: Selection = Selection(),
    code: str | None = None,
) -> int:
    """Run all comparisons, print a table; return the exit status."""
    failed: list[Outcome] = []
    table = Table(
        title="against NumPy in extended precision; x 4: in clusters of 4 blocks",
        title_justify="left",
    )
    for name in ("operation", "dtype", "pattern", "shape", "axis", "arch", "worst error", ""):
        table.add_column(name, no_wrap=name not in ("shape", "worst error"))
    with ExitStack() as stack:
        on = stack.enter_context(machine(kind, arch, seed, code))
        chosen = selected_names(quick, asked, on.device.max_cluster)
        small = None
        if on.emulated and arch is None:
            small = SMALLEST_CHIP
        console.print(f"checking on {on.title}")
        cases = [find_case(*names, on, small) for names in chosen]
        build(console, cases, small, seed, code)
        counts = stack.enter_context(emulator.trace(accesses=False))
        progress = stack.enter_context(bar(console))
        task = progress.add_task("comparing", total=len(cases))
        for case in cases:
            with ExitStack() as moved:
                place = on
                if on.emulated and case.plan.device.arch != on.device.arch:
                    place = moved.enter_context(machine("emulator", small, seed, code))
                outcome = compare(case, place, seed)
            if not outcome.passed:
                failed.append(outcome)
            table.add_row(
                case.op,
                case.dtype,
                str(case.form),
                " x ".join(str(n) for n in case.shape),
                str(case.axis),
                f"sm_{case.plan.device.arch}",
                outcome.text,
                "[green]ok[/]" if outcome.passed else "[bold red]FAILED[/]",
            )
            progress.advance(task)
    print_table(console, table)
    for outcome in failed:
        if outcome.details:
            console.print(outcome.details, markup=False, soft_wrap=True)
    if code == "ptx":
        print_instructions(console, counts.instructions)
    console.print(f"{len(cases) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def print_instructions(console: Console, executed: Counter[str]) -> None:
    """Say which PTX instructions were executed, and which are known but were not."""
    from cusoftmax.emulator import ptx

    never = sorted({*ptx.known_names()} - {*executed})
    for what, names in (("executed", sorted(executed)), ("known, and not executed", never)):
        console.print(f"PTX instructions {what}: {len(names)}")
        console.print(" ".join(names), markup=False)


def bar(console: Console) -> Progress:
    """A progress bar that leaves nothing behind."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), console=console, transient=True)


def forms_of(op: str, dtype: str, quick: bool, most_blocks: int) -> Iterator[Form]:
    """Yield the forms in which an operation is tried: every pattern, and clusters of it.

    softmax is tried in every form, in large clusters with float dtypes. The other operations have a
    block to a row and one cluster, and columns in one block or one cluster: operations and dtypes
    take the sizes by turns.
    """
    turn = [*OPERATIONS].index(op) + INPUTS.index(dtype)
    every = op == _FIRST_OPS[0] and not quick
    most = most_blocks if every and dtype in FLOATS else min(most_blocks, PORTABLE_CLUSTER)
    sizes = [1 << k for k in range(most.bit_length())]
    for pattern in PATTERNS:
        if pattern not in OPERATIONS[op].patterns:
            continue
        if pattern == "block":
            larger = sizes[1:]
            tried = larger if every or not larger else [larger[turn % len(larger)]]
            yield from (Form(pattern, blocks) for blocks in (1, *tried))
        elif pattern == "column":
            tried = sizes if every else [sizes[turn % len(sizes)]]
            yield from (Form(pattern, blocks, launches=1) for blocks in tried)
            if every:
                yield from (Form(pattern, launches=count) for count in (2, 3))
            if every and most_blocks == 1 and dtype in FLOATS and dtype != "float64":
                yield Form(pattern, streamed=True)
        else:
            yield Form(pattern)


def names_of_cases(quick: bool, most_blocks: int) -> Iterator[tuple[str, str, Form]]:
    """Yield operation, dtype and form of each case: all of float dtypes, or the most telling.

    Integers are converted as they are read, alike for all operations: they are tried with two.
    `most_blocks` are the blocks of the largest cluster.
    """
    for op in OPERATIONS:
        first = op in _FIRST_OPS
        dtypes: tuple[str, ...] = INPUTS if first and not quick else tuple(FLOATS)
        if quick and not first:
            dtypes = ("float32",)
        for dtype in dtypes:
            forms = [*forms_of(op, dtype, quick, most_blocks)]
            for form in forms[:1] if quick and not first else forms:
                yield op, dtype, form


def selected_names(quick: bool, asked: Selection, most_blocks: int) -> list[tuple[str, str, Form]]:
    """Return the cases that were asked for; UserError if there is none."""
    every = [*names_of_cases(quick, most_blocks)]
    found = [case for case in every if asked.has(case[0], case[1], case[2].pattern)]
    if not found:
        of_ops = [case for case in every if not asked.ops or case[0] in asked.ops]
        dtypes = ", ".join(dict.fromkeys(dtype for _, dtype, _ in of_ops))
        patterns = ", ".join(dict.fromkeys(form.pattern for _, _, form in of_ops))
        narrowed = " of --quick" if quick else ""
        raise UserError(
            f"no case{narrowed} has {asked}: there are the dtypes {dtypes}, the patterns {patterns}"
        )
    return found


def find_case(op: str, dtype: str, form: Form, on: Machine, small: str | None) -> CheckedCase:
    """Return the first shape and axis whose plan has the form."""
    archs: list[str | None] = [f"sm_{on.device.arch}" if on.emulated else None]
    if small and form.pattern == "stream":
        archs.insert(0, small)
    for arch in archs:
        for shape, axis in candidates(form, on):
            plan = cs.explain(op, shape=shape, dtype=dtype, axis=axis, arch=arch)
            if form.is_of(plan):
                return CheckedCase(op, dtype, form, plan, shape, axis)
    raise RuntimeError(f"no shape was found for which {op} of {dtype} plans {form}")


def candidates(form: Form, on: Machine) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield shapes and axes that may lead to a form, small ones first."""
    pattern = form.pattern.removeprefix("topk_")
    # Large clusters are for rows whose blocks have to share multiprocessors.
    least_rows = on.device.sm_count // PORTABLE_CLUSTER + 1 if form.blocks > PORTABLE_CLUSTER else 1
    if pattern == "segment":
        yield (20000, 1), 0
        return
    if form.streamed:  # columns that fill a sector for each multiprocessor and one more
        for n in _COLUMN_LENGTHS:
            yield (1, n, 16 * (on.device.sm_count + 1)), 1
        return
    if pattern == "column":
        for n in refined(_COLUMN_LENGTHS):
            for columns in (37, 48, 12):  # lines that begin anywhere, at sectors; few
                yield (max(2, least_rows), n, columns), 1
        return
    if pattern == "map":
        yield (5, 61, 61), -1
        return
    many_rows = on.device.sm_count  # enough that no row is shared by blocks
    for n in refined((*_LENGTHS, *_LONG)):
        if pattern == "split":
            yield (2, n), -1
        elif pattern == "stream" and n > max(_LENGTHS):
            yield (many_rows, n), -1
        else:
            yield (max(5, _ELEMENTS // n, least_rows), n), -1


def refined(lengths: tuple[int, ...]) -> Iterator[int]:
    """Yield lengths, then their neighbours' geometric means, and again, closer each time."""
    yield from lengths
    known = sorted(lengths)
    for _ in range(_REFINEMENTS):
        between = [math.isqrt(a * b) for a, b in itertools.pairwise(known)]
        yield from between
        known = sorted([*known, *between])


def build(
    console: Console, cases: list[CheckedCase], small: str | None, seed: int, code: str | None
) -> None:
    """Compile all kernels, several at a time."""
    with bar(console) as progress:
        task = progress.add_task("compiling", total=len(cases))

        def warm(case: CheckedCase) -> None:
            cs.warmup([case.op], shapes=[case.shape], dtypes=[case.dtype], axis=case.axis)
            progress.advance(task)

        here = [c for c in cases if small is None or c.plan.device.arch != _number(small)]
        there = [c for c in cases if c not in here]
        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(warm, here))
            if there:
                with machine("emulator", small, seed, code):
                    list(pool.map(warm, there))


def _number(arch: str) -> int:
    return int(arch.removeprefix("sm_"))


def compare(case: CheckedCase, on: Machine, seed: int) -> Outcome:
    """Run one case and compare it; an exception is a failure with its message."""
    try:
        rng = np.random.default_rng([seed, *case.shape])
        contract = CONTRACTS[case.op]
        inputs = contract.draw(rng, case.shape, case.axis, as_dtype(case.op, case.dtype))
        names = OPERATIONS[case.op].inputs
        if case.dtype in FLOATS and names[0] == "x" and "b" not in names:
            inputs = (with_special_rows(inputs[0], case.axis), *inputs[1:])
        got = contract.call(*(on.asarray(a) for a in inputs), axis=case.axis)
        results = tuple(on.asnumpy(a) for a in (got if isinstance(got, tuple) else (got,)))
        return judge(contract, case, inputs, results, seed)
    except Exception as error:  # a kernel error of the emulator, a CUDA error, a refused build
        return Outcome(False, first_line(error))


def with_special_rows(x: Array, axis: int) -> Array:
    """Return logits with special rows: one with some -inf, one with a NaN, one all -inf."""
    values = x.copy()
    rows = np.moveaxis(values, axis, -1)
    rows = rows if rows.ndim == 2 else rows[0]
    if len(rows) > 1:
        rows[1, ::3] = -np.inf
    if len(rows) > 3:
        rows[2, 5] = np.nan
        rows[3] = -np.inf
    return values


def judge(
    contract: OperationContract, case: CheckedCase, inputs: Arrays, results: Arrays, seed: int
) -> Outcome:
    """Compare the worst error with its bound.

    16-bit softmax must be correctly rounded in all but a few elements too.
    """
    worst = contract.judge(inputs, case.axis, results)
    text, passed = f"{worst.error:.2f} of {worst.bound:g} {worst.unit}", worst.over <= 1
    if contract.op == "softmax" and results[0].dtype.name in NARROW:
        (errors,) = contract.errors(inputs, case.axis, results)
        right = float((errors <= 0.5).mean())
        text += f", {right:.3%} correctly rounded"
        passed = passed and right >= CORRECTLY_ROUNDED
    kernels = [step.kernel.name for step in case.plan.launches]
    return Outcome(passed, text, "" if passed else worst.told(case.plan.pattern, kernels, seed))
