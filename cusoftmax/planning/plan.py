"""A plan and its parts: kernels, of one binary each, and their launches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import update_wrapper
from itertools import accumulate
from math import prod
from typing import Concatenate, ParamSpec

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.operation import Operation
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.problem import Problem

WARP = 32
MAX_GRID = 2**31 - 1
MAX_DIMS = 32  # folded batch dimensions, and folded reduction dimensions, in a general layout

# Patterns whose kernels have names with the lanes of a row.
_OF_ANY_LANES = ("group", "map", "piece", "topk_group", "topk_piece")

# The name of a dtype in C++, and in a kernel's name.
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
    """One binary: the entry's name, the compiler's options, and the limits of its launches.

    Its arguments are `reads` pointers to inputs, `writes` pointers to results (null in launches
    that write only the workspace), the pointer to the workspace, and ``csm::Layout``. A launch
    writes no element of a result twice.
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
    """One launch: blocks, threads of a block, bytes of dynamic shared memory."""

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
        One of `operations.operation.PATTERNS`, or ``"empty"`` when there is nothing to compute and
        nothing is launched.
    launches : tuple of Launch
        In order, on one stream.
    workspace_bytes : int
        Device memory that the launches need in addition to the arrays, during the call.
    rows, n : int
        Rows, and elements of a row.
    problem : Problem
        The folded problem, with its strides.
    device : DeviceSpec
        The GPU that the plan is for.
    vector : int
        Elements that a thread accesses at once in global memory.
    chunk : int
        Elements that are summed as one unit, in every pattern.
    reads : int
        How often each input element is read from global memory.
    rounds : int
        In patterns that split rows: rounds that a block makes over its piece, a chunk for each warp
        in each round. Where short rows are staged: rows that a thread takes.
    passes : int
        Column pattern, where operands are staged: passes of a block over neighbouring rows. Where
        a block streams and parks: rounds that it parks, or in the stream pattern chunks. In
        topk_split 2 if one half of a block's warps selects and the other sums.
    checkers : int
        Segment pattern: blocks that check the offsets.
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
    passes: int = 1

    @property
    def least_bytes(self) -> int:
        """Bytes that any algorithm must move: each input read once, each result written once."""
        return sum(self.operand_bytes)

    @property
    def operand_bytes(self) -> tuple[int, ...]:
        """Bytes of each operand. An element that strides of 0 repeat counts once."""
        sizes = self.problem.batch_shape + self.problem.reduce_shape
        operation = KERNELS[self.op]

        def count(number: int) -> int:
            if operation.segmented and number == operation.value_inputs:
                return self.problem.segments + 1
            o = self.problem.operands[number]
            steps = o.batch_strides + o.reduce_strides
            if operation.selects and number >= len(operation.read):
                return self.rows * int(self.problem.options[0])
            return prod(n for n, step in zip(sizes, steps, strict=True) if step)

        return tuple(count(i) * ITEMSIZE[o.dtype] for i, o in enumerate(self.problem.operands))

    @property
    def cluster(self) -> int:
        """Blocks of a cluster; 1 without clusters."""
        return self.launches[0].kernel.cluster if self.launches else 1


def layout_words(operands: int, batch_dims: int, row_dims: int, options: int) -> dict[str, int]:
    """Return the fields of ``csm::Layout`` in order, each with its first word, and the end.

    `runtime.layout` fills them by this table, and the compiler asserts that
    ``machine/layout.cuh`` has them at these places.
    """
    lengths = dict.fromkeys(
        (
            "n",
            "rows",
            "rounds",
            "batch_dims",
            "reduce_dims",
            "inner",
            "passes",
            "segments",
            "checkers",
        ),
        1,
    ) | {
        "inner_stride": operands,
        "batch_size": batch_dims,
        "reduce_size": row_dims,
        "batch_stride": operands * batch_dims,
        "reduce_stride": operands * row_dims,
        "option": max(1, options),
    }
    ends = accumulate(lengths.values())
    return dict(zip((*lengths, "end"), (0, *ends), strict=True))


def roles_of(operation: Operation) -> str:
    """Return ``CSM_ROLES``: how many operands of each sort there are."""
    sorts = (
        operation.inputs,
        operation.row_inputs,
        operation.tables,
        operation.outputs,
        operation.row_outputs,
    )
    return ",".join(str(len(names)) for names in sorts)


def features_of(operation: Operation) -> str:
    """Return ``CSM_FEATURES``: what a variant does in addition."""
    return "|".join(f"csm::feature::{name}" for name in operation.features) or "0"


_Parameters = ParamSpec("_Parameters")


def _cached_by_binary(
    make: Callable[Concatenate[Problem, _Parameters], Kernel],
) -> Callable[Concatenate[Problem, _Parameters], Kernel]:
    """Cache what `make` returns, with everything that a binary depends on as the key.

    Enumerating all binaries plans thousands of problems that share a few dozen of them. Half of the
    time went into making their names and options again.
    """
    kernels: dict[tuple[object, ...], Kernel] = {}

    def cached(problem: Problem, /, *args: _Parameters.args, **kind: _Parameters.kwargs) -> Kernel:
        dtypes = tuple([operand.dtype for operand in problem.operands])
        dims = len(problem.batch_shape), len(problem.reduce_shape)
        key = (problem.op, dtypes, *dims, *args, *kind.items())
        kernel = kernels.get(key)
        if kernel is None:
            kernel = kernels[key] = make(problem, *args, **kind)
        return kernel

    update_wrapper(cached, make)
    return cached


@_cached_by_binary
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
    parks: int = 0,
    batch_dims: int | None = None,
    general: bool = False,
    slots: int = 0,
    repeated: int = 0,
    staged: int = 0,
    uncached: bool = False,
    bulk: bool = False,
    rows_each: int = 1,
    rows_at_once: int = 1,
    order_lanes: int = 0,
    sure: int = 0,
    first_items: int = 0,
    asserted: tuple[tuple[str, int], ...] = (),
) -> Kernel:
    """Return a binary's name and its ``CSM_*`` options, which are written nowhere else.

    Parameters
    ----------
    problem : Problem
        Operation, dtypes and folded dimensions.
    acc : str
        The dtype that the kernel computes in: ``"float32"`` or ``"float64"``.
    pattern : str
        Name of a file in ``cuda_kernels/patterns``.
    vector, group, lanes, items, cluster, stage, parks, rows_each, rows_at_once
        As ``machine/config.cuh`` says.
    order_lanes : int
        Group pattern: lanes that the order of summation is defined by, if more than hold a row.
    sure : int
        Group pattern: the first items of a lane, which every row has in all lanes.
    threads : int
        Limits the registers of a thread: a multiprocessor must have room for this many threads.
    batch_dims : int, optional
        Batch dimensions that the kernel numbers rows by, if not all of the problem's.
    general : bool
        Whether offsets are computed from all strides even if rows have one dimension.
    slots : int
        Selected elements that each lane holds.
    repeated : int
        A bit for each input; set for inputs that repeat one element along a row.
    staged : int
        A bit for each operand; set for those whose elements pass through shared memory.
    uncached : bool
        Whether accesses tell the caches not to keep what they read and write.
    bulk : bool
        Whether what is staged is copied by bulk copies.
    asserted : tuple of pairs
        Options with numbers that the pattern computes too: the compiler asserts that they agree.
    """
    row_dims = MAX_DIMS if len(problem.reduce_shape) > 1 or general else 1
    several = row_dims > 1 or (batch_dims or len(problem.batch_shape)) > 1
    rows_by = MAX_DIMS if several else 1
    operation = KERNELS[problem.op]
    dtypes = [o.dtype for o in problem.operands]
    needs = operation.needs(dtypes, acc)
    compensated = operation.compensated(dtypes, acc)
    layout = layout_words(len(dtypes), rows_by, row_dims, len(operation.options))
    chosen = [d for i, d in enumerate(dtypes) if operation.fixed_dtype(i) is None]
    tags = [TYPES[d][1] for d in (chosen[:1] if len(set(chosen)) == 1 else chosen)]
    # Staged float64 has as many registers as it needs, which differs by architecture; blocks whose
    # spans are copied in bulk are of two sizes, and so are those that stream or hold products.
    several_sizes = bulk and pattern == "block"
    several_sizes |= staged != 0 and acc == "float64" and threads <= 8 * WARP
    several_sizes |= pattern == "stream" and threads > 16 * WARP
    several_sizes |= pattern == "block" and acc == "float64" and threads > 16 * WARP
    name = "_".join(
        (
            f"csm_{problem.op}_{pattern}{'' if stage is None else stage}",
            *tags,
            f"v{vector}",
            *((f"l{lanes}i{items}",) if pattern in _OF_ANY_LANES else ()),
            *((f"l{lanes}",) if pattern == "column" else ()),
            *((f"i{items}",) if pattern == "topk_split" else ()),
            *((f"c{cluster}",) if cluster > 1 else ()),
            *((f"s{slots}",) if slots else ()),
            *((f"park{parks if parks > 1 else ''}",) if parks else ()),
            *(("two",) if first_items else ()),
            *((f"r{repeated}",) if repeated else ()),
            *((f"staged{staged}",) if staged else ()),
            *(("together",) if dict(asserted).get("CSM_PICKS_TOGETHER") else ()),
            *((f"t{threads}",) if several_sizes else ()),
            *(("uncached",) if uncached else ()),
            *(("bulk",) if bulk else ()),
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
        "CSM_OPTION_NAMES": ",".join(operation.options),
        "CSM_NODE_WORDS": operation.node_words(dtypes, acc),
        "CSM_REGISTER_INPUTS": operation.register_inputs,
        "CSM_WARP": WARP,
        "CSM_LAYOUT_BYTES": 8 * layout["end"],
        "CSM_LAYOUT_WORDS": ",".join(f"{name}={at}" for name, at in layout.items()),
        "CSM_ACC": {"float32": "float", "float64": "double"}[acc],
        "CSM_COMPENSATED": int(compensated),
        "CSM_OTHERS_IN_LOW": int(operation.exact_sums and not compensated),
        "CSM_FAST_EXP": int(ITEMSIZE[dtypes[operation.precision]] < ITEMSIZE[acc] == 4),
        "CSM_VEC": vector,
        "CSM_GROUP": group,
        "CSM_LANES": lanes,
        "CSM_ITEMS": items,
        "CSM_ROWS_EACH": rows_each,
        "CSM_ROWS_AT_ONCE": rows_at_once,
        "CSM_ORDER_LANES": order_lanes or lanes,
        "CSM_SURE_ITEMS": sure,
        "CSM_FIRST_ITEMS": first_items,
        "CSM_CLUSTER": cluster,
        "CSM_BATCH_DIMS": rows_by,
        "CSM_ROW_DIMS": row_dims,
        "CSM_REPEATED": repeated,
        "CSM_STAGED": staged,
        "CSM_UNCACHED": int(uncached),
        "CSM_BULK": int(bulk),
        "CSM_STAGE": stage or 0,
        "CSM_PARKS": int(parks),
        "CSM_SLOTS": slots,
        "CSM_MAX_THREADS": threads,
    } | dict(asserted)
    options = tuple((k, str(v)) for k, v in macros.items())
    return Kernel(name, options, threads, cluster, len(operation.read), len(operation.written))
