"""Plans of operations that pick the best k elements of each row.

Rows are read once, however long: what is kept of them is k candidates and a node. So there is no
need to hold a row on the chip, and of the resident patterns only the one for short rows is left.

The order of summation follows from the row length, dtypes, layout and k: lanes, chunk and slots do,
and rows and GPU only decide who looks at a chunk.
"""

from __future__ import annotations

from typing import Any

from cusoftmax import _tuning as tuned
from cusoftmax._checks import MOST_PICKS
from cusoftmax._ops import ITEMSIZE
from cusoftmax._plan import MAX_GRID, WARP, Kernel, Launch, Plan
from cusoftmax._planner import _lanes, _Maker, ceil_div, power_of_two

_INDEX_BYTES = 8


def topk(make: _Maker) -> Plan:
    """Choose the launches for picking `problem.picks` elements of each row."""
    if make.problem.n <= make.chunk:
        return _group(make)
    chunks = ceil_div(make.problem.n, make.chunk)
    few = make.problem.rows * tuned.SPLIT_FILL.value <= make.device.sm_count
    if few and make.problem.n >= tuned.TOPK_SPLIT_LENGTH.value:
        return _split(make, chunks)
    return _block(make, chunks)


def _group(make: _Maker) -> Plan:
    lanes, items = _lanes(make)
    few = tuned.TOPK_FEW.value
    if make.problem.picks <= max(few, lanes):
        slots = max(1, min(few, lanes * items) // lanes)
    else:
        lanes, items = max(lanes, few), make.items
        slots = MOST_PICKS // lanes
    threads = tuned.GROUP_THREADS.value
    kernel = _kernel(make, "topk_group", lanes=lanes, items=items, slots=slots)
    grid = min(ceil_div(make.problem.rows, threads // lanes), MAX_GRID)
    return make.plan(
        "topk_group",
        (Launch(kernel, grid, threads, 0),),
        vector=_vector(make),
        why=f"rows of at most {make.chunk} fit in the registers of a warp or less",
    )


def _block(make: _Maker, chunks: int) -> Plan:
    rounds = power_of_two(ceil_div(chunks, tuned.TOPK_WARPS.value))
    warps = ceil_div(chunks, rounds)
    return make.plan(
        "topk_block",
        (_long(make, "topk_block", None, min(make.problem.rows, MAX_GRID), warps),),
        vector=_vector(make),
        rounds=rounds,
        why=f"{chunks} chunks of {make.chunk}, which {warps} warps pass over once",
    )


def _split(make: _Maker, chunks: int) -> Plan:
    rows, warps = make.problem.rows, tuned.TOPK_WARPS.value
    pieces = ceil_div(chunks, warps)
    # As many blocks as keep the GPU busy: the second launch reads k candidates of each.
    wanted = max(1, tuned.TOPK_BLOCKS.value * make.device.sm_count // rows)
    rounds = power_of_two(ceil_div(pieces, wanted))
    segments = ceil_div(pieces, rounds)
    return make.plan(
        "topk_split",
        (
            _long(make, "topk_split", 0, min(rows * segments, MAX_GRID), warps),
            _long(make, "topk_split", 1, rows, warps),
        ),
        vector=_vector(make),
        rounds=rounds,
        workspace=rows * segments * _list_bytes(make, make.problem.picks),
        why=f"{rows} long rows would occupy {rows} of {make.device.sm_count} multiprocessors: "
        f"{segments} blocks share each",
    )


def _long(make: _Maker, pattern: str, stage: int | None, grid: int, warps: int) -> Launch:
    slots = ceil_div(make.problem.picks, WARP)
    kernel = _kernel(
        make,
        pattern,
        lanes=WARP,
        items=make.items,
        slots=slots,
        stage=stage,
        threads=min(make.max_warps, tuned.TOPK_WARPS.value * (1 if make.acc == "float64" else 2))
        * WARP,
    )
    return Launch(kernel, grid, warps * WARP, warps * _list_bytes(make, slots * WARP))


def _kernel(make: _Maker, pattern: str, **kind: Any) -> Kernel:
    strided = not make.row_is_contiguous
    return make.kernel(pattern, vector=_vector(make), group=make.group, general=strided, **kind)


def _vector(make: _Maker) -> int:
    return make.row_vector if make.row_is_contiguous else 1


def _list_bytes(make: _Maker, places: int) -> int:
    """Bytes of a list of candidates, each a key and an index, and of its node."""
    key = 8 if ITEMSIZE[make.problem.operands[0].dtype] == 8 else 4
    return places * (_INDEX_BYTES + key) + (make.node_bytes if make.operation.sums else 0)
