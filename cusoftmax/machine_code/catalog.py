"""Every kernel that the planner can choose: what the compile gate compiles and reports list.

A kernel depends on pattern, dtypes, access width and a few powers of two, not on the row length, so
a sample of problems finds all of them: between two thresholds of the planner only the alignment
matters. The sample has several lengths in each octave, each with every alignment, of which those
between two that plan the same kernels are not planned.
`tests/test_compiled.py` draws random problems and fails if one plans a kernel that is missing here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

from cusoftmax.operations.operation import PIECE, TOPK_PIECE
from cusoftmax.operations.options import piece_of
from cusoftmax.operations.table import OPERATIONS, PIECES
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.pieces import apply_plan, checked_piece, partial_plan
from cusoftmax.planning.plan import Kernel
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.planning.problem import Operand, Problem

# One dtype for all inputs and the default output, or input->output.
DTYPES = ("float16", "bfloat16", "float32", "float64", "float16->float32", "int32")

# rows: many contiguous rows of up to 131072 elements. few: few rows, and longer ones.
# column: the softmax axis is not the last. strided: rows whose dimensions do not merge into one.
# batched: contiguous rows that are not evenly spaced, such as those of a mask for each batch.
LAYOUTS = ("rows", "few", "column", "strided", "batched")

LONGEST = 131072  # elements of a row in the layout "rows"
_LONGER = 1 << 21  # and in the others
_MANY_ROWS = 10**6  # more than any GPU has multiprocessors
_MANY_MATRICES = 300  # whose columns are rows: more than a GPU has clusters of 16 blocks at a time
_FEW_ROWS = (1, 3, 5, 9, 20, 40)  # one, and numbers that lead to clusters of every size
# Numbers of elements to select: 1, and as many as 8, 16 or 32 lanes hold in one slot, and one more.
# Rows that are not short have 32 lanes.
_SELECTED = (1, 8, 9, 16, 17, 32, 33)
_SHORT = 1024
_STEPS = 8  # sampled lengths in an octave


def planned_kernels(
    arch: str | int,
    ops: Sequence[str] | None = None,
    dtypes: Sequence[str] | None = None,
    layouts: Sequence[str] = LAYOUTS,
) -> tuple[Kernel, ...]:
    """Return the distinct kernels that the planner can choose on an architecture, by name.

    Parameters
    ----------
    arch : str or int
        ``"sm_90"`` or 90; planned for the GPU that `DeviceSpec.known` gives.
    ops, dtypes : sequence of str, optional
        Kernel operations, and entries of `DTYPES`; all by default.
    layouts : sequence of str
        Entries of `LAYOUTS`.
    """
    device = DeviceSpec.known(arch)
    found = {
        kernel
        for op in ops or OPERATIONS
        for dtype in dtypes or DTYPES
        for layout in layouts
        for kernel in _planned(device, op, dtype, layout)
    }
    return tuple(sorted(found, key=lambda kernel: kernel.name))


@cache
def _planned(device: DeviceSpec, op: str, dtype: str, layout: str) -> frozenset[Kernel]:
    # Without the planner's cache, which is smaller than this number of problems.
    make = plan.__wrapped__

    @cache  # series of one matrix's columns come once for each number of matrices
    def kernels(shape: tuple[int, ...], axis: _Axis, k: int | None) -> frozenset[Kernel]:
        problem = problem_of(op, dtype, shape, axis, k)
        if layout == "batched" and not OPERATIONS[op].segmented:
            problem = _apart(problem)
        return frozenset(launch.kernel for launch in make(problem, device).launches)

    found: set[Kernel] = set()
    for series in _calls(op, layout):
        tried = sorted({0, len(series) // 2, len(series) - 1}) if series else []
        planned = {at: kernels(*series[at]) for at in tried}
        unsure = [*pairwise(tried)]
        while unsure:
            low, high = unsure.pop()
            if high - low > 1 and planned[low] != planned[high]:
                middle = (low + high) // 2
                planned[middle] = kernels(*series[middle])
                unsure += [(low, middle), (middle, high)]
        found.update(*planned.values())
    return frozenset(found)


def piece_kernels(arch: str | int, op: str, dtype: str) -> tuple[Kernel, ...]:
    """Return the kernels of pieces of rows (``cusoftmax.nodes``) of an operation, by name.

    Those of evenly spaced rows and of others. None for an operation that is not of pieces.
    """
    name, device = piece_of(op), DeviceSpec.known(arch)
    if name not in PIECES:
        return ()
    found: set[Kernel] = set()
    given, _, out = dtype.partition("->")
    ks = _SELECTED if PIECES[name].selects_many else (None,)
    lengths = {n for series in _lengths(_SHORT, 1) for n in series}
    long = {8 * _SHORT + odd for odd in (0, 1, 2, 4, 8)}  # with accesses of every width
    for n, k in product(sorted(lengths | long), ks):
        if k is not None and k > n:
            continue
        even = problem_for(name, (3 * 20, n), given, -1, out or None, k=k)
        dtypes = tuple(operand.dtype for operand in even.operands)
        piece = checked_piece(name, dtypes, 0, n, n, name)
        for problem in (even, _apart(even)):
            plans = [partial_plan.__wrapped__(problem, device, piece)]
            plans.append(apply_plan.__wrapped__(problem, device, piece))
            found.update(launch.kernel for made in plans for launch in made.launches)
    return tuple(sorted(found, key=lambda kernel: kernel.name))


def problem_of(
    op: str,
    dtype: str,
    shape: Sequence[int],
    axis: int | tuple[int, ...],
    k: int | None = None,
) -> Problem:
    """Return the problem of contiguous arrays; `dtype` is an entry of `DTYPES`.

    An operation that selects elements takes the last of several axes.
    """
    given, _, out = dtype.partition("->")
    if OPERATIONS[op].one_axis and isinstance(axis, tuple):
        axis = axis[-1]
    return problem_for(op, tuple(shape), given, axis, out or None, k=k)


def representative(kernels: Sequence[Kernel]) -> tuple[Kernel, ...]:
    """Return, of kernels that differ only in size, the one that runs short of registers first.

    That is the one with the most elements in a thread, then the most lanes, then the largest
    cluster, then the largest blocks: once with the widest accesses and once with the narrowest.
    """
    chosen: dict[tuple[str, ...], Kernel] = {}
    widest: dict[tuple[str, ...], int] = {}

    def all_but_size(kernel: Kernel) -> tuple[str, ...]:
        same = ("OP", "FEATURES", "PATTERN", "TYPES", "ROLES", "STAGE", "PARKS", "SLOTS")
        dims = (kernel["CSM_BATCH_DIMS"], kernel["CSM_ROW_DIMS"])
        two = kernel["CSM_FIRST_ITEMS"] != "0"
        kinds = (kernel.cluster > 1, is_staged(kernel), two)
        return (*(kernel[f"CSM_{macro}"] for macro in same), *map(str, kinds), *dims)

    def size(kernel: Kernel) -> tuple[int, ...]:
        items, lanes = int(kernel["CSM_ITEMS"]), int(kernel["CSM_LANES"])
        return items, lanes, kernel.cluster, kernel.max_threads

    for kernel in kernels:
        widest[all_but_size(kernel)] = max(
            widest.get(all_but_size(kernel), 1), int(kernel["CSM_VEC"])
        )
    for kernel in kernels:
        if kernel["CSM_VEC"] in ("1", str(widest[all_but_size(kernel)])):
            key = (*all_but_size(kernel), kernel["CSM_VEC"])
            if key not in chosen or size(kernel) > size(chosen[key]):
                chosen[key] = kernel
    return tuple(chosen.values())


def is_staged(kernel: Kernel) -> bool:
    """Whether operands pass through shared memory."""
    return kernel["CSM_STAGED"] != "0"


def reads_elements(kernel: Kernel) -> bool:
    """Whether the launch reads elements; some only fold nodes or check offsets."""
    at = (kernel["CSM_PATTERN"], kernel["CSM_STAGE"])
    outputs = int(kernel["CSM_ROLES"].split(",")[3])
    if at == ("split", "1") and not outputs:
        return False
    return at not in (
        ("column", "2"),
        ("segment", "0"),
        ("topk_split", "1"),
        ("topk_column", "2"),
        *((PIECE, stage) for stage in "13"),
        *((TOPK_PIECE, stage) for stage in "12"),
    )


def writes_elements(kernel: Kernel) -> bool:
    """Whether the launch writes elements of the result, not only nodes to the workspace."""
    at = (kernel["CSM_PATTERN"], kernel["CSM_STAGE"])
    outputs = int(kernel["CSM_ROLES"].split(",")[3])
    return outputs > 0 and at not in (
        ("split", "0"), ("column", "1"), ("column", "2"), ("segment", "0"),
        *((PIECE, stage) for stage in "013"),
    )  # fmt: skip


def uses_workspace(kernel: Kernel) -> bool:
    """Whether the launch reads or writes nodes in the workspace."""
    patterns = ("split", "segment", "topk_split", PIECE, TOPK_PIECE)
    return kernel["CSM_PATTERN"] in patterns or kernel["CSM_STAGE"] not in ("0", "5")


def elements_held(kernel: Kernel) -> int:
    """Return how many elements of an input a thread's code handles outside of loops.

    Those of one tile, or of two where one stays in registers and others are parked. 0 for the
    segment pattern: its code has tiles of several sizes, and a row uses few of them.
    """
    if not reads_elements(kernel) or not kernel.writes_all:
        return 0
    if kernel["CSM_PATTERN"] == "topk_column":
        return min(int(kernel["CSM_ITEMS"]), 16)  # in a loop
    columns = int(kernel["CSM_VEC"]) if kernel["CSM_PATTERN"] == "column" else 1
    two = (kernel["CSM_PATTERN"], kernel["CSM_PARKS"]) == ("block", "1")
    items = int(kernel["CSM_FIRST_ITEMS"]) + int(kernel["CSM_ITEMS"])
    return items * columns * (2 if two else 1)


@cache
def _lengths(limit: int, steps: int) -> tuple[tuple[int, ...], ...]:
    """Return series of lengths of one octave and alignment, on both sides of each step."""
    found = set(range(1, 65))
    octave = 64
    while octave <= limit:
        for step in range(steps):
            point = octave + octave * step // steps
            found.add(point - 1)
            for align in (1, 2, 4, 8):  # the next odd multiple of it; below, any multiple of 16
                found.add(point + (align - point) % (2 * align))
            found.add(point + -point % 16)
        octave *= 2
    series: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for n in sorted(n for n in found if n <= limit):
        series[n.bit_length(), min(n & -n, 16)].append(n)
    return tuple(map(tuple, series.values()))


def _longer_lengths() -> list[tuple[int, ...]]:
    """Return series of lengths, at more steps where staged rows leave the chip before others do."""
    beyond = [series for series in _lengths(_LONGER, _STEPS) if series[0] > LONGEST]
    return [*_lengths(LONGEST, _STEPS // 2), *beyond]


_Axis = int | tuple[int, ...]
_Shapes = Sequence[tuple[tuple[int, ...], _Axis]]  # and axes
_Calls = Sequence[tuple[tuple[int, ...], _Axis, int | None]]  # and numbers of selected elements


def _calls(op: str, layout: str) -> Iterator[_Calls]:
    """Yield series of calls: where two plan the same kernels, so do those between them."""
    if OPERATIONS[op].segmented:  # contiguous, or columns side by side
        shapes = [(_LONGER,)] if layout in ("rows", "few") else [(_LONGER, 3), (1, 3)]
        yield from ([(shape, 0, None)] for shape in shapes)
        return
    many = [
        *{
            "rows": _rows,
            "few": _few,
            "column": _columns,
            "strided": _strided,
            "batched": _batched,
        }[layout]()
    ]
    if not OPERATIONS[op].selects:
        if layout != "batched" or "map" not in OPERATIONS[op].patterns:
            yield from ([(shape, axis, None) for shape, axis in series] for series in many)
        return
    # Their kernels take any strides in every layout, and a row has one dimension.
    if layout in ("strided", "batched"):
        return
    if layout == "column":  # the columns of one matrix are laid out otherwise than of several
        many += [[(shape[1:], 0) for shape, _ in series] for series in many]
    ks = _SELECTED if OPERATIONS[op].selects_many else _SELECTED[:1]
    for series in many:
        for at, k in enumerate(ks):
            yield [
                (shape, axis, k)
                for shape, axis in series
                if isinstance(axis, int)
                and k <= shape[axis]
                and (shape[axis] <= _SHORT or at % 3 == 0)
            ]


def _rows() -> Iterator[_Shapes]:
    for lengths in _lengths(LONGEST, _STEPS):
        yield [((_MANY_ROWS, n), -1) for n in lengths]


def _few() -> Iterator[_Shapes]:
    for lengths in _longer_lengths():
        for rows in (*_FEW_ROWS, _MANY_ROWS) if lengths[0] > LONGEST else _FEW_ROWS:
            yield [((rows, n), -1) for n in lengths]


def _columns() -> Iterator[_Shapes]:
    # Small arrays are not staged, and clusters are as large as shared memory asks.
    for inner in _inner():
        for batch in (1, 6, _MANY_MATRICES):
            for first in (4, 5):
                yield [((batch, (first << k) // 4, inner), 1) for k in range(_LONGER.bit_length())]


def _strided() -> Iterator[_Shapes]:
    for lengths in _longer_lengths():
        for rows in (2, 3, 9, 20, 1000):
            yield [((3, rows, n), (0, 2)) for n in lengths]
            if lengths[-1] <= 64:  # where a factor of 3 steps over a power of two
                yield [((2, rows, n), (0, 2)) for n in lengths]
    for inner in _inner():
        powers = [1 << k for k in range(_LONGER.bit_length() + 2)]  # several such dimensions
        for matrices in (1, 2, _MANY_MATRICES):
            yield [((2, matrices, n + (matrices < 3), inner), (0, 2)) for n in powers]


def _batched() -> Iterator[_Shapes]:
    for lengths in _lengths(_LONGER, _STEPS // 2):
        for rows in (2, 20, 1000):
            yield [((3, rows, n), -1) for n in lengths]


def _apart(problem: Problem) -> Problem:
    """Return the problem of three batches of rows, with gaps as long as a batch between them."""

    def spread(operand: Operand) -> Operand:
        (step,) = operand.batch_strides
        return replace(operand, batch_strides=(2 * step * rows, step))

    rows = problem.rows // 3
    return replace(
        problem, batch_shape=(3, rows), operands=tuple(spread(o) for o in problem.operands)
    )


def _inner() -> set[int]:
    """Numbers of rows side by side: for each access width and each power of two of lanes."""
    lanes = (1, 2, 3, 5, 9, 17, 33, 129, 239, 273)
    return {vector * side_by_side for vector in (1, 2, 4, 8) for side_by_side in lanes}
