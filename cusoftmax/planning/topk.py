"""Plans of operations that pick the best k elements of each row.

Rows are read once, however long: what is kept of them is k candidates and a node. So there is no
need to hold a row on the chip, and of the resident patterns only the one for short rows is left.

The order of summation follows from the row length, dtypes, layout and k: lanes, chunk and slots do,
and rows and GPU only decide who looks at a chunk.
"""

from __future__ import annotations

from typing import Any

from cusoftmax.planning import tuning as tuned
from cusoftmax.planning.builder import PlanBuilder, ceil_div, lanes_of, power_of_two
from cusoftmax.planning.checks import MOST_SELECTED
from cusoftmax.planning.plan import MAX_GRID, WARP, Kernel, Launch, Plan

SECTOR_BYTES = 32  # what global memory gives at the least
_INDEX_BYTES = 8
_PADDING = 4  # elements between neighbouring rows in shared memory: kPitch in topk_column.cuh


def topk(make: PlanBuilder) -> Plan:
    """Choose the launches for selecting k elements of each row."""
    problem, device = make.problem, make.device
    rows, n, item = problem.rows, problem.n, make.along[0][1]
    lanes, _, _ = _lanes_and_slots(make)
    if make.row_is_contiguous:
        if n <= make.chunk:
            return _group(make)
        few = rows * tuned.SPLIT_FILL.value <= device.sm_count
        return (_split if few and n >= tuned.TOPK_SPLIT_LENGTH.value else _block)(make)
    # A warp that has fewer rows reads less than the 32 bytes that memory gives of each place.
    if n <= make.chunk and WARP // lanes * item >= SECTOR_BYTES:
        return _group(make)
    return _column(make)


def _lanes_and_slots(make: PlanBuilder) -> tuple[int, int, int]:
    """Return the lanes that hold a short row, the elements in each, and its slots for picks."""
    lanes, items = lanes_of(make)
    few = tuned.TOPK_FEW.value
    if _selected(make) <= max(few, lanes):
        return lanes, items, max(1, min(few, lanes * items) // lanes)
    lanes = max(lanes, few)
    return lanes, make.items, MOST_SELECTED // lanes


def _group(make: PlanBuilder) -> Plan:
    lanes, items, slots = _lanes_and_slots(make)
    threads = tuned.GROUP_THREADS.value
    kernel = _kernel(make, "topk_group", lanes=lanes, items=items, slots=slots)
    grid = min(ceil_div(make.problem.rows, threads // lanes), MAX_GRID)
    return make.plan(
        "topk_group",
        (Launch(kernel, grid, threads, 0),),
        vector=_vector(make),
        why=f"rows of at most {make.chunk} fit in the registers of a warp or less",
    )


def _block(make: PlanBuilder) -> Plan:
    chunks = ceil_div(make.problem.n, make.chunk)
    rounds = power_of_two(ceil_div(chunks, tuned.TOPK_WARPS.value))
    warps = ceil_div(chunks, rounds)
    kernel, shared = _long(make, "topk_block", None), warps * _list_bytes(make)
    return make.plan(
        "topk_block",
        (Launch(kernel, min(make.problem.rows, MAX_GRID), warps * WARP, shared),),
        vector=_vector(make),
        rounds=rounds,
        why=f"{chunks} chunks of {make.chunk}, which {warps} warps pass over once",
    )


def _split(make: PlanBuilder) -> Plan:
    rows, warps = make.problem.rows, tuned.TOPK_WARPS.value
    pieces = ceil_div(make.problem.n, make.chunk * warps)
    rounds, segments = _segments(make, pieces, rows)
    return make.plan(
        "topk_split",
        tuple(
            Launch(
                _long(make, "topk_split", stage),
                min(grid, MAX_GRID),
                warps * WARP,
                warps * _list_bytes(make),
            )
            for stage, grid in enumerate((rows * segments, rows))
        ),
        vector=_vector(make),
        rounds=rounds,
        workspace=rows * segments * _list_bytes(make, _selected(make)),
        why=f"{rows} long rows would occupy {rows} of {make.device.sm_count} multiprocessors: "
        f"{segments} blocks share each",
    )


def _column(make: PlanBuilder) -> Plan:
    problem, item = make.problem, make.along[0][1]
    # As many rows side by side, a warp for each, as the 32 bytes that memory gives hold; but for
    # 16-bit dtypes half of them where a thread needs more than 128 registers.
    warps = tuned.TOPK_WARPS.value * (2 if _is_small(make) else 1)
    tiles = ceil_div(problem.rows, warps)
    least = tuned.TOPK_COLUMN_ROUNDS.value
    rounds, segments = _segments(make, ceil_div(problem.n, make.chunk * least), tiles)
    staged = warps * (make.chunk + _PADDING) * item
    several = segments > 1
    launches = [
        Launch(
            _long(make, "topk_column", int(several)),
            min(tiles * segments, MAX_GRID),
            warps * WARP,
            staged,
        )
    ]
    if several:
        kernel = _long(make, "topk_column", 2)
        shared = warps * _list_bytes(make)
        launches.append(Launch(kernel, min(problem.rows, MAX_GRID), warps * WARP, shared))
    return make.plan(
        "topk_column",
        tuple(launches),
        rounds=rounds * least,
        workspace=problem.rows * segments * _list_bytes(make, _selected(make)) if several else 0,
        why=f"the rows lie down a strided axis: a block takes {warps} side by side"
        + (f", and {segments} blocks share them" if several else ""),
    )


def _segments(make: PlanBuilder, pieces: int, tiles: int) -> tuple[int, int]:
    """Return into how many segments rows are cut, of how many of their `pieces` each.

    As many as keep the GPU busy: the second launch reads k candidates of each.
    """
    wanted = max(1, tuned.TOPK_BLOCKS.value * make.device.sm_count // tiles)
    rounds = power_of_two(ceil_div(pieces, wanted))
    return rounds, ceil_div(pieces, rounds)


def _long(make: PlanBuilder, pattern: str, stage: int | None) -> Kernel:
    """A kernel whose warps take a chunk at a time, and keep the best so far."""
    warps = tuned.TOPK_WARPS.value
    if _is_small(make) or (make.acc == "float32" and pattern != "topk_column"):
        warps *= 2  # 128 registers a thread
    return _kernel(
        make,
        pattern,
        lanes=WARP,
        items=make.items,
        slots=_slots(make),
        stage=stage,
        threads=warps * WARP,
    )


def _selected(make: PlanBuilder) -> int:
    return int(make.problem.options[0])


def _is_small(make: PlanBuilder) -> bool:
    # Noise for an element at a time takes more than 128 registers too.
    noisy = "noisy" in make.operation.features
    return make.acc == "float32" and make.along[0][1] == 2 and _slots(make) == 1 and not noisy


def _slots(make: PlanBuilder) -> int:
    return ceil_div(_selected(make), WARP)


def _kernel(make: PlanBuilder, pattern: str, **kind: Any) -> Kernel:
    # topk_column walks down rows of one dimension by its stride.
    general = not make.row_is_contiguous and pattern != "topk_column"
    return make.kernel(pattern, vector=_vector(make), group=make.group, general=general, **kind)


def _vector(make: PlanBuilder) -> int:
    return make.row_vector if make.row_is_contiguous else 1


def _list_bytes(make: PlanBuilder, places: int = 0) -> int:
    """Bytes of a list of candidates, each a key and an index, and of its node."""
    key = 8 if make.along[0][1] == 8 else 4
    if "noisy" in make.operation.features:  # what is compared is no longer as stored
        key = make.acc_bytes
    node = make.node_bytes if make.operation.relative else 0
    return (places or _slots(make) * WARP) * (_INDEX_BYTES + key) + node
