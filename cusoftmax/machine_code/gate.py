"""The compile gate: what must hold of every binary, checked with no GPU, printed and recorded.

``cusoftmax kernels`` compiles a selection of the planned kernels for every architecture
(``--full``: all of them) and prints what the compiler made of each. A kernel fails that spills,
whose global accesses are not as wide as planned, whose registers do not fit its block, or that
takes more instructions an element than the checkout's ``tests/compiled_budget.json`` records.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from cusoftmax.machine_code.catalog import (
    DTYPES,
    elements_held,
    planned_kernels,
    reads_elements,
    representative,
    uses_workspace,
    writes_elements,
)
from cusoftmax.machine_code.sass import Compiled, inspect, inspect_all, missing, nvrtc_version
from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.operation import Operation
from cusoftmax.operations.table import KERNELS, OPERATIONS
from cusoftmax.planning.device import ARCHITECTURES
from cusoftmax.planning.plan import TYPES, Kernel, features_of, roles_of
from cusoftmax.runtime.source import kernel_root

__all__ = [
    "Budget",
    "Compiled",
    "Figure",
    "check",
    "faults",
    "inspect",
    "inspect_all",
    "main",
    "missing",
]

REGISTERS = 65536  # of a multiprocessor, on every architecture from sm_75 to sm_120
_ALLOCATED = 8  # registers are given to a thread in units of this many
_BYTES = {ctype: ITEMSIZE[dtype] for dtype, (ctype, _) in TYPES.items()}

_THOROUGH = 90  # the architecture for which a selection holds every kernel of contiguous rows
_OLDEST = 75
_ALIKE = (86, 89)  # the machine code of sm_80, all but its schedule
_MIXED = DTYPES[4:]
# The patterns are the same for all operations: compiled most widely for one operation without and
# one with a second input, and elsewhere where registers run out first.
_FIRST_OPS = ("softmax", "softmax_vjp")
_FULLEST = ("float16", "float32")
# Of these every kernel of contiguous rows; of the other of the two those that stand for them.
_WHOLE = (("softmax", "float16"), ("softmax_vjp", "float32"))
_NARROW = (75, 100)  # where narrow accesses are looked at too: the oldest and another family
# For each other architecture, with each operation what it finds harder: bfloat16 is float16 but for
# its conversions, of which two inputs have more; and an exponential of float64 is the longest code.
_ELSEWHERE = {"softmax": (*_FULLEST, "float64"), "softmax_vjp": (*_FULLEST, "bfloat16")}
_BESIDE = "biased_masked"
_ALIKE_ONES = {"softmax": ("float16",), "softmax_vjp": ("float32",)}
# The oldest and the newest compiler that each extra of pyproject.toml allows. The gate was run with
# all of them, but only with the newest on every kernel of a quick run: with the others on those
# that are short of registers, and on what their architectures have of their own.
TRIED_NVRTC = ("12.8", "12.9", "13.0", "13.5")
# How much worse than recorded passes: compilers schedule a little differently with every release.
_SLACK, _SLACK_OTHER_NVRTC = 1.03, 1.25


def selected(arch: int, op: str, dtype: str) -> bool:
    """Whether a quick run has any kernel of an operation and dtype for an architecture."""
    if op in _FIRST_OPS:
        return arch == _THOROUGH or dtype in (_ALIKE_ONES if arch in _ALIKE else _ELSEWHERE)[op]
    if arch == _THOROUGH:
        return dtype == "float32" or (dtype == "float16" and not _has_one_feature(op))
    return arch == _OLDEST and dtype == "float32" and not _is_variant(op)


def _has_one_feature(op: str) -> bool:
    """Whether another operation has the same features of logits and more."""
    return len(OPERATIONS[op].features) == 1 and OPERATIONS[op].source == "softmax"


def _is_variant(op: str) -> bool:
    return bool(OPERATIONS[op].source) and not OPERATIONS[op].segmented


def _is_resident(kernel: Kernel) -> bool:
    return kernel["CSM_PATTERN"] not in ("group", "stream", "split") and kernel["CSM_STAGE"] == "0"


def selection(arch: int, op: str, dtype: str) -> tuple[Kernel, ...]:
    """Return the kernels that stand for all in a quick run."""

    def extremes(*layouts: str) -> tuple[Kernel, ...]:
        return representative(planned_kernels(arch, [op], [dtype], layouts))

    def widest(*layouts: str) -> tuple[Kernel, ...]:
        return tuple(kernel for kernel in extremes(*layouts) if kernel["CSM_VEC"] != "1")

    if not selected(arch, op, dtype):
        return ()
    if arch == _THOROUGH and (op, dtype) in _WHOLE:
        rows = planned_kernels(arch, [op], [dtype], ["rows", "few"])
        found = rows + extremes("column") + widest("strided", "batched")
    elif op in _FIRST_OPS and arch == _THOROUGH and dtype not in _MIXED:
        # Of the sizes between the layouts are those of the two above, and of narrow accesses.
        found = widest("rows", "few", "column", "strided", "batched")
    elif op in _FIRST_OPS and arch in _NARROW and dtype == "float32":
        # With narrow accesses only registers can run short, and float32 takes the most: its sums
        # are compensated, and its values the same words of a thread as those of float16.
        found = extremes("rows", "few", "column")
    else:
        # A mask or bias for each batch makes rows uneven, most often.
        batched = ("batched",) if _BESIDE in op and dtype == "float32" else ()
        found = widest("rows", "few", "column", *batched)
    if op not in _FIRST_OPS and (dtype == "float16" or arch == _OLDEST):
        # Rows of a whole block are where registers are short: these have a lower cap than in
        # float32, and columns on the chip take 124 of 128. Elsewhere none takes more than 100, but
        # in float32 on sm_90, which has them all.
        found = tuple(k for k in found if _is_resident(k) or OPERATIONS[op].segmented)
    return tuple(sorted(set(found), key=lambda kernel: kernel.name))


# -------------------------------------------------------------------------------------------- gate


def planned_accesses(kernel: Kernel) -> tuple[dict[int, int], dict[int, int]]:
    """Return loads and stores of elements as the plan has them: bytes of an access to how many."""
    vector = int(kernel["CSM_VEC"])
    times = elements_held(kernel) // vector or 1  # of segments: at least in a loop
    sizes = [_BYTES[name] for name in kernel["CSM_TYPES"].split(",")]
    inputs, row_inputs, tables, outputs, row_outputs = (
        int(count) for count in kernel["CSM_ROLES"].split(",")
    )
    loads: Counter[int] = Counter()
    if reads_elements(kernel):
        repeated = int(kernel["CSM_REPEATED"])
        for needed in passes(kernel):
            for i in needed:
                once = bool(repeated >> i & 1)
                loads[sizes[i] if once else vector * sizes[i]] += 1 if once else times
    stores: Counter[int] = Counter()
    if writes_elements(kernel):
        for size in sizes[inputs + row_inputs + tables :][:outputs]:
            stores[vector * size] += times
    if not uses_workspace(kernel):  # else some launch does, among words of nodes
        for size in sizes[inputs:][: row_inputs + tables]:  # a look-up for the row
            loads[size] += 1
        for size in sizes[len(sizes) - row_outputs :]:
            stores[size] += 1
    return dict(loads), dict(stores)


def passes(kernel: Kernel) -> list[list[int]]:
    """Return the inputs that a launch needs, for each time that it passes over a row."""
    operation = operation_of(kernel)

    def places(names: Sequence[str]) -> list[int]:
        return [operation.inputs.index(name) for name in names or operation.inputs]

    first, second = places(operation.sum_inputs), places(operation.map_inputs)
    at = (kernel["CSM_PATTERN"], kernel["CSM_STAGE"])
    if at in (("split", "0"), ("column", "1")):
        return [first]
    if at in (("split", "1"), ("column", "3")):
        return [second]
    if at[0] == "stream":
        return [first, second] if operation.outputs else [first]
    return [places(())]


def operation_of(kernel: Kernel) -> Operation:
    """Return the operation that a kernel is of, by its source, its operands and its features."""
    for operation in KERNELS.values():
        same = roles_of(operation) == kernel["CSM_ROLES"]
        same = same and features_of(operation) == kernel["CSM_FEATURES"]
        if (operation.source or operation.name) == kernel["CSM_OP"] and same:
            return operation
    raise LookupError(f"{kernel.name} is of no operation")


def faults(compiled: Compiled) -> list[str]:
    """Return what is wrong with a binary, in words; an empty list if nothing is."""
    kernel, found = compiled.kernel, []
    if compiled.stack or compiled.local or compiled.spills:
        found.append(
            f"spills: {compiled.spill_stores} stores, {compiled.spill_loads} loads, "
            f"{compiled.stack} bytes of stack"
        )
    if compiled.generic and kernel.cluster == 1:
        found.append(f"{compiled.generic} memory accesses through generic addresses")
    allocated = -(-compiled.registers // _ALLOCATED) * _ALLOCATED
    if allocated * kernel.max_threads > REGISTERS:
        found.append(f"{compiled.registers} registers do not fit {kernel.max_threads} threads")
    planned = planned_accesses(kernel)
    for what, has, wants in zip(
        ("loads", "stores"), (compiled.loads, compiled.stores), planned, strict=True
    ):
        short = any(has.get(width, 0) < times for width, times in wants.items())
        if short or (has.keys() - wants.keys() and not uses_workspace(kernel)):
            found.append(f"{what}: {_accesses(has)}; planned: {_accesses(wants)}")
    return found


class Figure(NamedTuple):
    """Recorded instructions an element of one binary, and the NVRTC that made it."""

    value: float
    nvrtc: str


@dataclass(frozen=True)
class Budget:
    """The recorded figures, by kernel and architecture.

    Each has the version of the compiler that it was recorded with: to record some anew says
    nothing about the others. The file has the figures of each version together.
    """

    figures: Mapping[str, Mapping[str, Figure]]

    @staticmethod
    def load(path: Path) -> Budget:
        figures: defaultdict[str, dict[str, Figure]] = defaultdict(dict)
        for nvrtc, kernels in json.loads(path.read_text(encoding="utf-8")).items():
            for kernel, by_arch in kernels.items():
                for arch, value in by_arch.items():
                    figures[kernel][arch] = Figure(value, nvrtc)
        return Budget(figures)

    def save(self, path: Path) -> None:
        versions: defaultdict[str, defaultdict[str, dict[str, float]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        for kernel, by_arch in self.figures.items():
            for arch, figure in by_arch.items():
                versions[figure.nvrtc][kernel][arch] = figure.value
        sections = []
        for nvrtc, kernels in sorted(versions.items()):
            lines = (f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(kernels.items()))
            sections.append(f"  {json.dumps(nvrtc)}: {{\n" + ",\n".join(lines) + "\n  }")
        path.write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")

    def recorded(self, compiled: Compiled) -> Figure | None:
        """Return the figure of a kernel and architecture, if there is one."""
        return self.figures.get(compiled.kernel.name, {}).get(compiled.arch)

    def updated(self, results: Iterable[Compiled]) -> Budget:
        """Return the budget with the figures of `results`; others are kept as they are."""
        figures = {name: dict(by_arch) for name, by_arch in self.figures.items()}
        for c in results:
            if c.per_element is not None:
                figure = Figure(round(c.per_element, 2), nvrtc_version())
                figures.setdefault(c.kernel.name, {})[c.arch] = figure
        return Budget(figures)

    def faults(self, compiled: Compiled) -> list[str]:
        """Return a complaint where the binary takes more instructions an element than recorded."""
        recorded = self.recorded(compiled)
        if recorded is None or compiled.per_element is None:
            return []
        slack = _SLACK if recorded.nvrtc == nvrtc_version() else _SLACK_OTHER_NVRTC
        if compiled.per_element <= recorded.value * slack:
            return []
        return [f"{compiled.per_element:.2f} instructions an element, recorded: {recorded.value}"]


def budget_path() -> Path:
    """Return where a checkout keeps its budget; an installed package has none."""
    return kernel_root().parent / "tests" / "compiled_budget.json"


def check(
    arch: int, kernels: Sequence[Kernel], budget: Budget | None
) -> tuple[list[Compiled], dict[str, list[str]]]:
    """Compile kernels for an architecture: the results, and the faults by kernel."""
    results, wrong = [], {}
    for kernel, result in zip(kernels, inspect_all(kernels, arch), strict=True):
        if isinstance(result, str):
            said = [result]
        else:
            results.append(result)
            said = faults(result) + (budget.faults(result) if budget else [])
        if said:
            wrong[f"{kernel.name} sm_{arch}"] = said
    return results, wrong


# ------------------------------------------------------------------------------------------ report


def main_table(
    archs: Sequence[int],
    ops: Sequence[str],
    dtypes: Sequence[str],
    full: bool,
    record: bool,
    console: Console,
) -> int:
    """Print the table; return 1 if any kernel fails the gate. `record` renews the budget."""
    reason = missing()
    if reason:
        console.print(f"nothing can be compiled here: {reason}", markup=False)
        return 1
    path = budget_path()
    budget = Budget.load(path) if path.is_file() else None
    jobs = [
        (arch, planned_kernels(arch, [op], [dtype]) if full else selection(arch, op, dtype))
        for arch in archs
        for op in ops
        for dtype in dtypes
    ]
    batches = [(arch, ks[i : i + 16]) for arch, ks in jobs for i in range(0, len(ks), 16)]
    compared = None if record else budget
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NVRTC and the tools run outside the GIL
        done = pool.map(lambda batch: check(batch[0], batch[1], compared), batches)
        listed = list(track(done, "compiling", len(batches), console=console, transient=True))
    results = [result for results, _ in listed for result in results]
    wrong = {name: said for _, faults_of in listed for name, said in faults_of.items()}
    console.print(_table(results, wrong))
    for name, said in wrong.items():
        console.print(f"{name}: {'; '.join(said)}", style="red", markup=False, soft_wrap=True)
    if record:
        (budget or Budget({})).updated(results).save(path)
        console.print(f"recorded in {path}", markup=False)
    most = max((r.registers for r in results), default=0)
    spilled = sum(r.spills for r in results)
    note = "" if budget or record else "; no recorded figures to compare with"
    console.print(
        f"{len(results)} binaries, at most {most} registers, {spilled} spill instructions, "
        f"{len(wrong)} fail the gate{note}"
    )
    return 1 if wrong else 0


def _accesses(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{times} × {width}" for width, times in counts.items()) or "none"


def _table(results: Iterable[Compiled], wrong: Mapping[str, list[str]]) -> Table:
    table = Table(title=f"Planned kernels, compiled by NVRTC {nvrtc_version()}")
    table.add_column("kernel", no_wrap=True)
    table.add_column("arch")
    for heading in (
        "registers", "spills", "loads × bytes", "stores × bytes", "instructions/element"
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for r in results:
        table.add_row(
            r.kernel.name,
            r.arch,
            str(r.registers),
            str(r.spills),
            _accesses(r.loads),
            _accesses(r.stores),
            "" if r.per_element is None else f"{r.per_element:.1f}",
            style="red" if f"{r.kernel.name} {r.arch}" in wrong else None,
        )
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="cusoftmax kernels",
        description="Compile planned kernels; check them.",
    )
    names = [f"sm_{arch}" for arch in ARCHITECTURES]
    parser.add_argument("--arch", action="append", choices=names, help="default: all")
    parser.add_argument("--op", action="append", choices=list(OPERATIONS), help="default: all")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: all")
    parser.add_argument("--full", action="store_true", help="every kernel, not a selection")
    parser.add_argument("--record", action="store_true", help="renew the recorded figures")
    given = parser.parse_args(arguments)
    archs = [int(name.removeprefix("sm_")) for name in given.arch or names]
    console = Console(width=None if sys.stdout.isatty() else 180)
    ops, dtypes = given.op or list(OPERATIONS), given.dtype or DTYPES
    return main_table(archs, ops, dtypes, given.full, given.record, console)


if __name__ == "__main__":
    sys.exit(main())
