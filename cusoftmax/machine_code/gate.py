"""The compile gate: checks every kernel's binary without a GPU, and prints and records figures.

``cusoftmax kernels`` compiles a selection of the planned kernels for every architecture
(``--full``: all of them) and prints what the compiler made of each. A kernel fails if it spills, if
its global accesses are narrower than planned, if its block needs more registers than there are, or
if it takes more instructions an element than the checkout's ``tests/compiled_budget.json`` records.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from cusoftmax.machine_code.budget import Budget, digest
from cusoftmax.machine_code.catalog import (
    DTYPES,
    elements_held,
    is_staged,
    piece_kernels,
    planned_kernels,
    reads_elements,
    representative,
    uses_workspace,
    writes_elements,
)
from cusoftmax.machine_code.chips import REGISTER_UNIT, REGISTERS
from cusoftmax.machine_code.sass import Compiled, inspect, inspect_all, missing
from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.operation import Operation
from cusoftmax.operations.table import KERNELS, OPERATIONS
from cusoftmax.planning.builder import ceil_div
from cusoftmax.planning.device import ARCHITECTURES
from cusoftmax.planning.plan import TYPES, WARP, Kernel, features_of, roles_of
from cusoftmax.runtime.nvrtc import version as nvrtc_version
from cusoftmax.runtime.source import kernel_root

__all__ = [
    "Budget",
    "Compiled",
    "check",
    "faults",
    "inspect",
    "inspect_all",
    "main",
    "missing",
]

STAGED_BYTES = 16  # of an access to an operand that passes through shared memory
_ENDS_BYTES, _LINES_IN_FLIGHT = 64, 4  # of a line of columns: reduce/column_span.cuh
_REGISTER_STEP = REGISTER_UNIT // WARP  # a thread is given a multiple of this many registers
_ITEMSIZE_OF_CTYPE = {ctype: ITEMSIZE[dtype] for dtype, (ctype, _) in TYPES.items()}

_MOST_TRIED = 90  # the architecture with the largest selection
_OLDEST = 75
_SAME_CODE_AS_80 = (86, 89)  # the machine code of sm_80, in another order
_CONVERTING_DTYPES = DTYPES[4:]
# All operations share the patterns. Most kernels are compiled for these two, one with a single
# input and one with two; of the others only the kernels that run short of registers first.
_FIRST_OPS = ("softmax", "softmax_vjp")
_MAIN_DTYPES = ("float16", "float32")
# Every kernel of contiguous rows is compiled for these; for other dtypes only representative ones.
_WHOLE = (("softmax", "float16"), ("softmax_vjp", "float32"))
_NARROW_ACCESSES = (75, 100)  # architectures for which narrow accesses are compiled too
# On other architectures: the main dtypes and one more. bfloat16 differs from float16 only in its
# conversions, and two inputs have more of those; the exponential of float64 is the longest code.
_DTYPES_ELSEWHERE = {
    "softmax": (*_MAIN_DTYPES, "float64"),
    "softmax_vjp": (*_MAIN_DTYPES, "bfloat16"),
}
_DTYPES_OF_SAME_CODE = {"softmax": ("float16",), "softmax_vjp": ("float32",)}
_BIASED_AND_MASKED = "biased_masked"  # part of the name of an operation
# The oldest and the newest compiler that each extra of pyproject.toml allows. All were tried: the
# newest on every kernel of a quick run, the others on the kernels that are short of registers.
TRIED_NVRTC = ("12.8", "12.9", "13.0", "13.5")
# Of kernels whose records stand, one in so many is compiled, so that a wrong record is found.
_COMPILED_OF = 10


def selected(arch: int, op: str, dtype: str) -> bool:
    """Whether a quick run compiles any kernel of the operation and dtype for the architecture."""
    if op in _FIRST_OPS:
        return (
            arch == _MOST_TRIED
            or dtype
            in (_DTYPES_OF_SAME_CODE if arch in _SAME_CODE_AS_80 else _DTYPES_ELSEWHERE)[op]
        )
    if arch == _MOST_TRIED:
        return dtype == "float32" or (dtype == "float16" and not _has_one_feature(op))
    return arch == _OLDEST and dtype == "float32" and not _is_variant(op)


def is_told(arch: int, op: str, dtype: str) -> bool:
    """Whether `telling` has any kernel of the operation and dtype for the architecture."""
    if not selected(arch, op, dtype):
        return False
    if op not in _FIRST_OPS:
        # Elsewhere float32 alone is selected. Without outputs nothing is parked.
        operation = OPERATIONS[op]
        parks = bool(operation.outputs) and "block" in operation.patterns
        return dtype == "float32" or parks or "block" not in operation.patterns
    if op != _FIRST_OPS[0] and dtype in _CONVERTING_DTYPES:
        return False  # converted as they are read, as for the other operation
    return arch == _MOST_TRIED or (op, dtype) in _WHOLE or dtype not in _MAIN_DTYPES


def telling(arch: int, op: str, dtype: str) -> tuple[Kernel, ...]:
    """Return the kernels of a quick run that the tests compile.

    They have each pattern and stage in every dtype and on every architecture, and of each operation
    the kernels that run short of registers first. What differs from one of them in size alone is
    left to a quick run, and so are narrow accesses and unevenly spaced rows of all but one dtype,
    and staged rows that no block keeps.
    """
    if not is_told(arch, op, dtype):
        return ()
    found = selection(arch, op, dtype)
    whole = (op, dtype) in _WHOLE
    if op in _FIRST_OPS:
        found = representative(found)
        if (arch, op, dtype) != (_MOST_TRIED, *_WHOLE[0]):
            found = tuple(
                k
                for k in found
                if (
                    _is_resident(k) or k["CSM_PATTERN"] == "column"
                    if is_staged(k)
                    else k["CSM_VEC"] != "1"
                )
            )
        if (arch, op, dtype) != (_MOST_TRIED, *_WHOLE[1]):
            found = tuple(k for k in found if k["CSM_BATCH_DIMS"] == k["CSM_ROW_DIMS"] == "1")
        if arch != _MOST_TRIED and not whole:
            found = tuple(k for k in found if _is_resident(k))
    elif "block" in OPERATIONS[op].patterns and arch == _MOST_TRIED:
        # Blocks without clusters are compiled for the oldest, which has none. float16 needs the
        # most registers where a part of a row is parked.
        found = tuple(k for k in found if _is_resident(k) and k.cluster > 1)
        if dtype == "float16":
            found = tuple(k for k in found if k["CSM_PARKS"] == "1")
    return found


def _has_one_feature(op: str) -> bool:
    """Whether it is softmax with one feature of logits; another operation has all of them."""
    return len(OPERATIONS[op].features) == 1 and OPERATIONS[op].source == "softmax"


def _is_variant(op: str) -> bool:
    return bool(OPERATIONS[op].source) and not OPERATIONS[op].segmented


def _is_resident(kernel: Kernel) -> bool:
    return kernel["CSM_PATTERN"] not in ("group", "stream", "split") and kernel["CSM_STAGE"] == "0"


def selection(arch: int, op: str, dtype: str) -> tuple[Kernel, ...]:
    """Return the kernels that a quick run compiles."""

    def extremes(*layouts: str) -> tuple[Kernel, ...]:
        return representative(planned_kernels(arch, [op], [dtype], layouts))

    def widest(*layouts: str) -> tuple[Kernel, ...]:
        return tuple(k for k in extremes(*layouts) if k["CSM_VEC"] != "1" or is_staged(k))

    if not selected(arch, op, dtype):
        return ()
    if arch == _MOST_TRIED and (op, dtype) in _WHOLE:
        rows = planned_kernels(arch, [op], [dtype], ["rows", "few"])
        found = rows + extremes("column") + widest("strided", "batched")
    elif op in _FIRST_OPS and arch == _MOST_TRIED and dtype not in _CONVERTING_DTYPES:
        # Other sizes and narrow accesses are compiled for the operations of _WHOLE.
        found = widest("rows", "few", "column", "strided", "batched")
    elif op in _FIRST_OPS and arch in _NARROW_ACCESSES and dtype == "float32":
        # With narrow accesses only registers can run short, and float32 needs the most: its sums
        # are compensated, and it holds as many words in a thread as float16.
        found = extremes("rows", "few", "column")
    else:
        # Rows that are not evenly apart come most often from a mask or bias of each batch.
        batched = ("batched",) if _BIASED_AND_MASKED in op and dtype == "float32" else ()
        found = widest("rows", "few", "column", *batched)
    if op not in _FIRST_OPS and (dtype == "float16" or arch == _OLDEST):
        # Registers are short in kernels that keep a row in a block: float16 has a lower cap than
        # float32, and columns on the chip take 124 of 128 registers. Other kernels take at most
        # 100, except in float32, of which sm_90 compiles all.
        found = tuple(k for k in found if _is_resident(k) or OPERATIONS[op].segmented)
    return tuple(sorted(set(found), key=lambda kernel: kernel.name))


# ----------------------------------------------------------------------------- what a binary needs


def planned_accesses(kernel: Kernel) -> tuple[dict[int, int], dict[int, int]]:
    """Return how many loads and stores of each width, in bytes, the plan asks for."""
    vector = int(kernel["CSM_VEC"])
    times = elements_held(kernel) // vector or 1  # the segment pattern has one, in a loop
    sizes = [_ITEMSIZE_OF_CTYPE[name] for name in kernel["CSM_TYPES"].split(",")]
    inputs, row_inputs, tables, outputs, row_outputs = (
        int(count) for count in kernel["CSM_ROLES"].split(",")
    )
    repeated, staged = int(kernel["CSM_REPEATED"]), int(kernel["CSM_STAGED"])
    bulk = kernel["CSM_BULK"] != "0"

    def accesses(operand: int) -> Counter[int]:
        size = sizes[operand]
        if staged >> operand & 1 and kernel["CSM_PATTERN"] == "column":  # in loops over lines
            ends = ceil_div(_ENDS_BYTES // size, WARP)
            read = operand < inputs
            return Counter({STAGED_BYTES: 1, size: ends * (_LINES_IN_FLIGHT if read else 1)})
        if staged >> operand & 1:  # whole vectors, or one bulk copy, and an element at an end
            vectors = 1 if bulk else ceil_div(times * vector * size, STAGED_BYTES)
            return Counter({STAGED_BYTES: vectors, size: 1})
        once = bool(repeated >> operand & 1)
        return Counter({size: 1} if once else {vector * size: times})

    loads: Counter[int] = Counter()
    if reads_elements(kernel):
        for needed in passes(kernel):
            for i in needed:
                loads += accesses(i)
    stores: Counter[int] = Counter()
    if writes_elements(kernel):
        first = inputs + row_inputs + tables
        for i in range(first, first + outputs):
            stores += accesses(i)
    if not uses_workspace(kernel):  # otherwise another launch does, or they mix with nodes
        for size in sizes[inputs:][: row_inputs + tables]:  # looked up once for a row
            loads[size] += 1
        for size in sizes[len(sizes) - row_outputs :]:
            stores[size] += 1
    return dict(loads), dict(stores)


def passes(kernel: Kernel) -> list[list[int]]:
    """Return the inputs that a launch reads in each of its passes over a row."""
    operation = operation_of(kernel)

    def places(names: Sequence[str]) -> list[int]:
        return [operation.inputs.index(name) for name in names or operation.inputs]

    first, second = places(operation.sum_inputs), places(operation.map_inputs)
    at = (kernel["CSM_PATTERN"], kernel["CSM_STAGE"])
    if at in (("split", "0"), ("column", "1"), ("piece", "0")):
        return [first]
    if at in (("split", "1"), ("column", "3"), ("piece", "2")):
        return [second]
    if at == ("column", "5"):  # what is needed last is kept, or read again
        return [places(()), second]
    if at[0] == "stream":
        return [first, second] if operation.outputs else [first]
    return [places(())]


def operation_of(kernel: Kernel) -> Operation:
    """Return the operation of a kernel, found by its source, operands and features."""
    for operation in KERNELS.values():
        same = roles_of(operation) == kernel["CSM_ROLES"]
        same = same and features_of(operation) == kernel["CSM_FEATURES"]
        if (operation.source or operation.name) == kernel["CSM_OP"] and same:
            return operation
    raise LookupError(f"no operation has the kernel {kernel.name}")


def cluster_barriers(kernel: Kernel) -> tuple[int, int]:
    """Return how often the source of a kernel arrives and waits at a cluster barrier.

    All threads of a block must reach the same instruction together (``.aligned``): a compiler that
    copies it into the branches of a condition could leave a kernel waiting for ever.
    """
    if kernel.cluster == 1:
        return 0, 0
    path = kernel_root() / "patterns" / f"{kernel['CSM_PATTERN']}.cuh"
    source = re.sub("//.*", "", path.read_text(encoding="utf-8"))
    return source.count("cluster_arrive()"), source.count("cluster_wait()")


def faults(compiled: Compiled) -> list[str]:
    """Return what is wrong with a binary, in words; an empty list if it passes."""
    kernel, found = compiled.kernel, []
    if compiled.stack or compiled.local or compiled.spills:
        found.append(
            f"spills: {compiled.spill_stores} stores, {compiled.spill_loads} loads, "
            f"{compiled.stack} bytes of stack"
        )
    if compiled.generic and kernel.cluster == 1:
        found.append(f"{compiled.generic} memory accesses through generic addresses")
    halves, written = (compiled.cluster_arrivals, compiled.cluster_waits), cluster_barriers(kernel)
    if halves != written:
        found.append(
            f"cluster barriers: {halves[0]} arrivals, {halves[1]} waits; "
            f"in the source: {written[0]} and {written[1]}"
        )
    allocated = -(-compiled.registers // _REGISTER_STEP) * _REGISTER_STEP
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


def budget_path() -> Path:
    """Return where a checkout keeps its budget; an installed package has none."""
    return kernel_root().parent / "tests" / "compiled_budget.json"


def check(
    arch: int, kernels: Sequence[Kernel], budget: Budget | None, *, anew: bool = True
) -> tuple[list[Compiled], dict[str, list[str]]]:
    """Compile kernels for an architecture; return the binaries, and the faults by kernel.

    Where `anew` is false, only kernels whose records do not stand are compiled, and a share of the
    others: it is drawn by what the compiler is given, and so the same until that changes.
    """
    stands = {} if anew or budget is None else _standing(arch, kernels, budget)
    compiled = [k for k in kernels if k not in stands or _is_drawn(k, arch)]
    made = dict(zip(compiled, inspect_all(compiled, arch), strict=True))
    results, wrong = [], {}
    for kernel in kernels:
        result = made.get(kernel) or stands[kernel]
        if isinstance(result, str):
            said = [result]
        else:
            results.append(result)
            said = faults(result) + (budget.faults(result) if budget else [])
            if result != stands.get(kernel, result):
                said.append(f"recorded otherwise: {stands[kernel]}; made: {result}")
        if said:
            wrong[f"{kernel.name} sm_{arch}"] = said
    return results, wrong


def _standing(arch: int, kernels: Sequence[Kernel], budget: Budget) -> dict[Kernel, Compiled]:
    found = ((kernel, budget.standing(kernel, f"sm_{arch}")) for kernel in kernels)
    return {kernel: compiled for kernel, compiled in found if compiled}


def _is_drawn(kernel: Kernel, arch: int) -> bool:
    return int(digest(kernel, f"sm_{arch}"), 16) % _COMPILED_OF == 0


# ------------------------------------------------------------------------------------------ report


def compile_and_print(
    archs: Sequence[int],
    ops: Sequence[str],
    dtypes: Sequence[str],
    full: bool,
    record: bool,
    console: Console,
) -> int:
    """Print a table; return 1 if any kernel fails the gate. `record` renews the budget."""
    reason = missing()
    if reason:
        console.print(f"nothing can be compiled here: {reason}", markup=False)
        return 1
    path = budget_path()
    budget = Budget.load(path) if path.is_file() else None
    jobs = [
        (
            arch,
            planned_kernels(arch, [op], [dtype]) + piece_kernels(arch, op, dtype)
            if full
            else selection(arch, op, dtype),
        )
        for arch in archs
        for op in ops
        for dtype in dtypes
    ]
    batches = [(arch, ks[i : i + 16]) for arch, ks in jobs for i in range(0, len(ks), 16)]
    compared = None if record else budget
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NVRTC and the tools release the GIL
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
    return compile_and_print(archs, ops, dtypes, given.full, given.record, console)
