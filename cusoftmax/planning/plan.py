"""What a plan is made of: kernels (one binary each), launches of them, and the plan itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from math import prod
from typing import Concatenate, ParamSpec

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.operation import Operation
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.problem import Problem

WARP = 32
MAX_GRID = 2**31 - 1
MAX_DIMS = 32  # folded dimensions, batch and reduction each, that the general layout has room for

# The dtype in C++, and in a kernel's name.
TYPES = {
    "float16": ("csm::f16", "f16"),
    "bfloat16": ("csm::bf16", "bf16"),
    "float32": ("float", "f32"),
    "float64": ("double", "f64"),
    "bool": ("bool", "b8"),
} | {
    f"{sign}int{bits}": (f"csm::{kind}{bits}", f"{kind}{bits}")
    for sign, kind in (("", "i"), ("u", "u"))
    for bits in (8, 16, 32, 64)
}


@dataclass(frozen=True)
class Kernel:
    """One binary: the entry's name, the compiler's options, and what a launch must respect.

    Its arguments are `reads` pointers to inputs, `writes` to results (null in launches that write
    the workspace alone), the workspace's, and ``csm::Layout``. A launch writes every element of the
    results, or some of them, no one twice.
    """

    name: str
    macros: tuple[tuple[str, str], ...]
    max_threads: int
    cluster: int
    reads: int
    writes: int

    @property
    def writes_all(self) -> bool:
        """Whether a launch that writes results writes every element of them."""
        return self["CSM_PATTERN"] != "segment"

    def __getitem__(self, macro: str) -> str:
        return dict(self.macros)[macro]


@dataclass(frozen=True)
class Launch:
    """One launch: blocks, threads a block, bytes of dynamic shared memory."""

    kernel: Kernel
    grid: int
    block: int
    shared_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a call will run.

    Attributes
    ----------
    op : str
        The kernel's operation.
    pattern : str
        ``"group"``, ``"block"``, ``"stream"``, ``"split"``, ``"column"``, ``"map"``, ``"segment"``,
        or ``"empty"`` when there is nothing to compute and nothing is launched.
    launches : tuple of Launch
        In order, on one stream.
    workspace_bytes : int
        Device memory that the launches need beside the arrays, for the length of the call.
    rows, n : int
        Rows, and elements of a row.
    problem : Problem
        The folded problem, strides and all.
    device : DeviceSpec
        The GPU that the plan is for.
    vector : int
        Elements of one global access of a thread.
    chunk : int
        Elements that are summed as one unit, whatever the pattern.
    reads : int
        How often each input element is read from global memory.
    rounds : int
        Split pattern: rounds of chunks, one a warp, that a block makes over its segment.
    checkers : int
        Segment pattern: blocks that look at the offsets.
    why : str
        The reason for the pattern, in words.
    """

    op: str
    pattern: str
    launches: tuple[Launch, ...]
    workspace_bytes: int
    rows: int
    n: int
    problem: Problem
    device: DeviceSpec
    vector: int
    chunk: int
    reads: int
    rounds: int
    why: str
    checkers: int = 0

    @property
    def least_bytes(self) -> int:
        """Bytes that any algorithm must move: each input read once, each result written once."""
        return sum(self.operand_bytes)

    @property
    def operand_bytes(self) -> tuple[int, ...]:
        """Bytes of each operand: places that strides of 0 repeat count once."""
        sizes = self.problem.batch_shape + self.problem.reduce_shape
        operation = KERNELS[self.op]

        def count(number: int) -> int:
            if operation.segmented and number == operation.valued:
                return self.problem.segments + 1
            o = self.problem.operands[number]
            steps = o.batch_strides + o.reduce_strides
            if operation.selects and number >= len(operation.read):
                return self.rows * int(self.problem.options[0])
            return prod(n for n, step in zip(sizes, steps, strict=True) if step)

        return tuple(count(i) * ITEMSIZE[o.dtype] for i, o in enumerate(self.problem.operands))

    @property
    def cluster(self) -> int:
        """Blocks of a cluster, 1 where there is none."""
        return self.launches[0].kernel.cluster if self.launches else 1


def roles_of(operation: Operation) -> str:
    """Return how many operands of each sort there are, as ``CSM_ROLES``."""
    sorts = (
        operation.inputs,
        operation.row_inputs,
        operation.tables,
        operation.outputs,
        operation.row_outputs,
    )
    return ",".join(str(len(names)) for names in sorts)


def features_of(operation: Operation) -> str:
    """Return what a variant does besides, as ``CSM_FEATURES``."""
    return "|".join(f"csm::feature::{name}" for name in operation.features) or "0"


_Kind = ParamSpec("_Kind")


def _once_for_alike(
    make: Callable[Concatenate[Problem, _Kind], Kernel],
) -> Callable[Concatenate[Problem, _Kind], Kernel]:
    """Remember what `make` returned, by all that a binary follows from.

    To enumerate them plans thousands of problems for a few dozen binaries: half the time went into
    their names and options.
    """
    known: dict[tuple[object, ...], Kernel] = {}

    def remembered(problem: Problem, /, *args: _Kind.args, **kind: _Kind.kwargs) -> Kernel:
        dtypes = tuple([operand.dtype for operand in problem.operands])
        dims = len(problem.batch_shape), len(problem.reduce_shape)
        key = (problem.op, dtypes, *dims, *args, *kind.items())
        found = known.get(key)
        if found is None:
            found = known[key] = make(problem, *args, **kind)
        return found

    update_wrapper(remembered, make)
    return remembered


@_once_for_alike
def make_kernel(
    problem: Problem,
    acc: str,
    pattern: str,
    *,
    vector: int,
    group: int,
    lanes: int,
    items: int,
    threads: int,
    cluster: int = 1,
    stage: int | None = None,
    parks: bool = False,
    batch_dims: int | None = None,
    general: bool = False,
    slots: int = 0,
    repeated: int = 0,
) -> Kernel:
    """Name a binary, and say by options what it is: the only writer of the ``CSM_*`` options.

    Parameters
    ----------
    problem : Problem
        Operation, dtypes and folded dimensions.
    acc : str
        ``"float32"`` or ``"float64"``: what the kernel computes in.
    pattern : str
        File in ``cuda_kernels/patterns``.
    vector, group, lanes, items, cluster, stage, parks
        As ``machine/config.cuh`` says.
    threads : int
        The cap on registers: as many threads as are to share a multiprocessor.
    batch_dims : int, optional
        Dimensions that the kernel counts rows by, if not all of the problem's.
    general : bool
        Whether offsets follow all strides, also of a row in one dimension.
    slots : int
        Elements that a lane holds of those selected.
    repeated : int
        Inputs that repeat one element along a row, as bits.
    """
    row_dims = MAX_DIMS if len(problem.reduce_shape) > 1 or general else 1
    several = row_dims > 1 or (batch_dims or len(problem.batch_shape)) > 1
    rows_by = MAX_DIMS if several else 1
    operation = KERNELS[problem.op]
    dtypes = [o.dtype for o in problem.operands]
    needs = operation.needs(dtypes, acc)
    told = [d for i, d in enumerate(dtypes) if operation.fixed_dtype(i) is None]
    tags = [TYPES[d][1] for d in (told[:1] if len(set(told)) == 1 else told)]
    name = "_".join(
        (
            f"csm_{problem.op}_{pattern}{'' if stage is None else stage}",
            *tags,
            f"v{vector}",
            *((f"l{lanes}i{items}",) if pattern in ("group", "map", "topk_group") else ()),
            *((f"l{lanes}",) if pattern == "column" else ()),
            *((f"c{cluster}",) if cluster > 1 else ()),
            *((f"s{slots}",) if slots else ()),
            *(("park",) if parks else ()),
            *((f"r{repeated}",) if repeated else ()),
            *(("nd",) if row_dims > 1 else ("bd",) if several else ()),
        )
    )
    macros = {
        "CSM_NAME": name,
        "CSM_OP": operation.source or operation.name,
        "CSM_PATTERN": pattern,
        "CSM_OPERANDS": len(dtypes),
        "CSM_TYPES": ",".join(TYPES[d][0] for d in dtypes),
        "CSM_ROLES": roles_of(operation),
        "CSM_NEEDS": f"{needs.relative},{needs.plain},{needs.picked}",
        "CSM_PICK_RULE": needs.rule,
        "CSM_FEATURES": features_of(operation),
        "CSM_OPTIONS": len(operation.options),
        "CSM_ACC": {"float32": "float", "float64": "double"}[acc],
        "CSM_COMPENSATED": int(operation.compensated(dtypes, acc)),
        "CSM_FAST_EXP": int(ITEMSIZE[dtypes[operation.precision]] < ITEMSIZE[acc] == 4),
        "CSM_VEC": vector,
        "CSM_GROUP": group,
        "CSM_LANES": lanes,
        "CSM_ITEMS": items,
        "CSM_CLUSTER": cluster,
        "CSM_BATCH_DIMS": rows_by,
        "CSM_ROW_DIMS": row_dims,
        "CSM_REPEATED": repeated,
        "CSM_STAGE": stage or 0,
        "CSM_PARKS": int(parks),
        "CSM_SLOTS": slots,
        "CSM_MAX_THREADS": threads,
    }
    options = tuple((k, str(v)) for k, v in macros.items())
    return Kernel(name, options, threads, cluster, len(operation.read), len(operation.written))
