"""Which operands pass through shared memory: those whose rows start off the boundaries of sectors.

Memory moves sectors of 32 bytes. One that two instructions of a warp touch is moved twice, so rows
whose elements are accessed where they lie can move several times their bytes. A block instead
copies all that it needs in whole sectors to shared memory, and the results back
(``reduce/span.cuh``). The bits of a row are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import NamedTuple

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.planning import tuning
from cusoftmax.planning.builder import PlanBuilder, ceil_div, power_of_two, power_of_two_below
from cusoftmax.planning.plan import WARP
from cusoftmax.planning.problem import Operand

SECTOR_BYTES = 32
_VECTOR_BYTES = 16  # kVector in reduce/span.cuh
_WIDER = 4
_STEP = 4  # items of a lane that has a row alone: more binaries would be few items less


def staged_operands(builder: PlanBuilder, lanes: int = WARP) -> int:
    """Return a bit for each operand, set if its elements are to pass through shared memory.

    Parameters
    ----------
    builder : PlanBuilder
        Of rows that are contiguous.
    lanes : int
        Lanes that a row is read by, each as many elements at once as an access has.
    """
    problem, features = builder.problem, {*builder.operation.features}
    # What a causal order hides is not read at all, and noise takes longer than sectors do.
    if not builder.row_is_contiguous or {"causal", "noisy"} & features:
        return 0
    if len(problem.batch_shape) > 1 or len(problem.reduce_shape) > 1 or not problem.n:
        return 0
    long = problem.n > builder.chunk
    found, needed = 0, long and builder.row_vector < builder.group
    for number, operand, size in stepping_operands(builder):
        row = problem.n * size
        if problem.rows > 1 and not any(operand.batch_strides):
            continue  # one row for all: the cache has it
        ends_meet = problem.rows == 1 or operand.batch_strides == (row,)
        if not ends_meet or operand.alignment < _VECTOR_BYTES:
            return 0
        found |= 1 << number
        excess = excess_sectors(
            row, row if problem.rows > 1 else 0, lanes, lanes * builder.row_vector * size
        )
        large = problem.rows * row >= tuning.STAGED_BYTES
        needed |= (long or large) and 100 * excess > tuning.STAGED_PERCENT
    return found if needed else 0


def staged_columns(builder: PlanBuilder, columns: int) -> int:
    """Return the same for rows down a strided axis, of which a warp reads so many side by side."""
    problem, features = builder.problem, {*builder.operation.features}
    inner = problem.batch_shape[-1]
    if len(problem.reduce_shape) > 1 or {"causal", "noisy"} & features:
        return 0
    found, needed, batches = 0, False, set()
    for number, operand, size in stepping_operands(builder):
        side = inner * size
        if (*operand.batch_strides[-1:], *operand.reduce_strides) != (size, side):
            return 0
        if operand.alignment < _VECTOR_BYTES:
            return 0
        batches.add(tuple(step // size for step in operand.batch_strides[:-1]))
        found |= 1 << number
        large = problem.rows * problem.n * size >= tuning.STAGED_BYTES
        excess = _excess_of_parts(side, columns * size, gcd(SECTOR_BYTES, side))
        needed |= large and 100 * excess > tuning.STAGED_PERCENT
    return found if needed and len(batches) == 1 else 0


def narrow_lanes(builder: PlanBuilder, vector: int, direct: int) -> list[int]:
    """Return how few lanes may read rows side by side where these lie: lines of whole sectors.

    The most lanes first. `direct` lanes of `vector` rows each would read as many as a warp can.
    """
    batch = builder.problem.batch_shape
    stepping = list(stepping_operands(builder))
    aligned = all(
        step % SECTOR_BYTES == 0
        for _, operand, _ in stepping
        for step in (*operand.batch_strides[:-1], *operand.reduce_strides, operand.alignment)
    ) and all(operand.batch_strides[-1] == size for _, operand, size in stepping)
    least = min(size for _, _, size in stepping) * vector
    lanes = [direct]
    while aligned and batch and lanes[-1] * least > SECTOR_BYTES:
        lanes.append(lanes[-1] // 2)
    return lanes


def tiles_side_by_side(builder: PlanBuilder) -> int:
    """Return into how many parts staged rows side by side may be cut.

    Each line of a part has some bytes in sectors at its ends, which belong to neighbours too.
    """
    inner = builder.problem.batch_shape[-1]
    shared = SECTOR_BYTES - 1  # bytes of neighbours in the sectors of a line, at most
    least = min(inner * size for _, _, size in stepping_operands(builder))
    return max(1, least * int(tuning.STAGED_PERCENT) // (100 * shared))


def column_span_bytes(builder: PlanBuilder, staged: int, lines: int, width: int) -> int:
    """Return the shared memory of so many lines of `width` rows, and of their row inputs.

    ``ColumnSpan::bytes`` and ``StagedRowInputs::bytes``.
    """
    inner, read = builder.problem.batch_shape[-1], len(builder.operation.read)
    operands = {n: size for n, _, size in stepping_operands(builder) if staged >> n & 1}
    total = 0
    for number, size in operands.items():
        if operands.get(number - read) == size:
            continue  # it takes the place of an input
        pitch = width * size + (inner - width) * size % _VECTOR_BYTES
        total += ceil_div(lines * pitch + _VECTOR_BYTES, _VECTOR_BYTES) * _VECTOR_BYTES
    inputs = len(builder.operation.inputs)
    for operand in builder.problem.operands[inputs : inputs + len(builder.operation.row_inputs)]:
        values = width * ITEMSIZE[operand.dtype]
        total += ceil_div(values, _VECTOR_BYTES) * _VECTOR_BYTES if staged else 0
    return total


def staged_warps(builder: PlanBuilder) -> int:
    """Return the most warps of a block, which limits the registers, where operands are staged."""
    operation = builder.operation
    out = builder.problem.operands[operation.precision].dtype
    loss = operation.relative and (operation.plain or operation.picked)
    if loss and (out == "float32" or operation.always_exact):
        most = tuning.STAGED_WARPS_LOSS_FLOAT
    elif loss or out == "float32" or operation.features:
        most = tuning.STAGED_WARPS_FLOAT
    else:
        most = tuning.STAGED_WARPS_LOG if operation.exact_sums else tuning.STAGED_WARPS
    # Before sm_80 what is copied passes through registers.
    if builder.acc == "float64" and (operation.hides or builder.device.arch < 80):
        most = min(most, tuning.STAGED_WARPS_DOUBLE)
    return min(builder.max_warps, most)


def staged_vector(builder: PlanBuilder) -> int:
    """Return how many elements one access to shared memory has.

    Rows of all alignments but two share binaries: there would be as many more otherwise.
    """
    return _WIDER if builder.row_vector >= _WIDER else 1


class StagedLanes(NamedTuple):
    """How lanes hold a staged row of the group pattern."""

    lanes: int
    items: int  # of a lane
    sure: int  # the first of them, which the shortest row of this binary has in all lanes
    vector: int


def lanes_of_staged(builder: PlanBuilder, order: int) -> StagedLanes:
    """Return how lanes hold a staged row, at most `order` of them.

    Few binaries serve all lengths: items come in steps, finer ones for the shortest rows.
    """
    n, values = builder.problem.n, builder.values
    if n > builder.chunk:  # of the second of two chunks
        return StagedLanes(WARP, builder.items, builder.items // 2, 1)
    alone = tuning.GROUP_ALONE // values // _STEP * _STEP
    if builder.operation.features:
        alone = min(alone, builder.items)  # more may spill, and masks have a bit for each item
    if n <= alone or order == 1:
        vector = min(builder.row_vector, 2)
        items = ceil_div(n, _STEP) * _STEP
        return StagedLanes(1, items, items - _STEP, vector)
    most = power_of_two_below(tuning.GROUP_WORDS // (values * builder.acc_words))
    if builder.acc == "float64" or builder.operation.features:  # more would spill
        most = 0
    most = max(builder.items, min(most, WARP))
    lanes = min(order, max(2, power_of_two(ceil_div(n, most))))
    fine = lanes == 2 or (lanes == WARP and builder.operation.exact_sums)
    step = most // 4 if fine else most // 2
    items = ceil_div(ceil_div(n, lanes), step) * step
    return StagedLanes(lanes, items, items - step, 1 if lanes == 2 else staged_vector(builder))


def in_place(builder: PlanBuilder, staged: int) -> bool:
    """Return whether staged results take the place of inputs of their size: ``kInPlace``."""
    read = len(builder.operation.read)
    sizes: tuple[list[int], list[int]] = ([], [])
    for number, _, size in stepping_operands(builder):
        if staged >> number & 1:
            sizes[number >= read].append(size)
    return sizes[0][: len(sizes[1])] == sizes[1]


def stepping_operands(builder: PlanBuilder) -> Iterator[tuple[int, Operand, int]]:
    """Yield number, operand and size of its elements, for those with an element at each place."""
    for number, operand in enumerate(builder.problem.operands):
        if builder.operation.along_rows(number) and not builder.repeated >> number & 1:
            yield number, operand, ITEMSIZE[operand.dtype]


def span_bytes(
    builder: PlanBuilder, staged: int, room: int, *, apart: bool = False, bulk: bool = False
) -> int:
    """Return the shared memory of a span of up to `room` elements: ``SpanOf::bytes``.

    `apart` says that results have a place of their own, `bulk` that bulk copies make it.
    """
    read = len(builder.operation.read)
    areas = [0, 0]
    for number, _, size in stepping_operands(builder):
        if staged >> number & 1:
            areas[number >= read] += (
                ceil_div(room * size + _VECTOR_BYTES, _VECTOR_BYTES) * _VECTOR_BYTES
            )
    barrier = _VECTOR_BYTES if bulk and staged else 0
    return barrier + (sum(areas) if apart else max(areas))


def excess_sectors(row: int, pitch: int, lanes: int, access: int) -> float:
    """Return by how much the sectors that direct accesses touch exceed the least, as a fraction.

    Of rows of so many bytes, so many apart, by accesses of so many.
    """
    if row <= access:  # rows side by side are one access
        row *= WARP // lanes
        return _touched(row, SECTOR_BYTES) * SECTOR_BYTES / row - 1
    return _excess_of_parts(row, access, gcd(SECTOR_BYTES, pitch))


def _excess_of_parts(row: int, part: int, step: int) -> float:
    """Return the same of rows that start at any such step, and are read in parts."""
    whole, rest = divmod(row, part)
    touched = whole * _touched(part, step) + (_touched(rest, step) if rest else 0)
    return touched * SECTOR_BYTES / row - 1


def _touched(length: int, step: int) -> float:
    """Return how many sectors so many bytes touch on average, if they start at any such step."""
    return (length - gcd(length, step)) / SECTOR_BYTES + 1
