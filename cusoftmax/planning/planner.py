"""From a problem and a GPU to launches: which pattern, which binary, how many blocks.

Pure Python, no CuPy: a plan can be made, read and tested anywhere. Nothing here may make the bits
of a row depend on the number of rows: the chunk, the lanes and the summation order follow from
operation, dtypes, row length and layout; rows and GPU only decide who computes a chunk.
"""

from __future__ import annotations

from functools import lru_cache

from cusoftmax.planning import tuning as tuned
from cusoftmax.planning.builder import (
    PlanBuilder,
    ceil_div,
    lanes_of,
    power_of_two,
    power_of_two_below,
)
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import MAX_DIMS, MAX_GRID, WARP, Launch, Plan
from cusoftmax.planning.problem import Problem


@lru_cache(maxsize=4096)
def plan(problem: Problem, device: DeviceSpec) -> Plan:
    """Choose the launches for a problem on a GPU.

    Raises
    ------
    ValueError
        If the operation has no pattern for the layout, or more than 32 dimensions remain after
        folding.
    """
    dims = max(len(problem.batch_shape), len(problem.reduce_shape))
    if dims > MAX_DIMS:
        raise ValueError(
            f"{problem.op}: {dims} dimensions remain after merging neighbours, more than "
            f"{MAX_DIMS}; copy the array with cupy.ascontiguousarray"
        )
    make = PlanBuilder(problem, device)
    if problem.rows == 0 or (problem.n == 0 and not make.operation.row_outputs):
        result = make.plan("empty", (), why="there is no element")
    elif make.operation.selects:
        from cusoftmax.planning.topk import topk

        result = topk(make)
    elif "map" in make.operation.patterns:
        result = _map(make)
    elif make.operation.segmented:
        result = _segment(make)
    elif not make.row_is_contiguous:
        result = _column(make)
    elif problem.n <= make.chunk:
        result = _group(make)
    else:
        result = _long(make)
    if result.launches and result.pattern not in make.operation.patterns:
        raise ValueError(f"{problem.op} does not support the {result.pattern} pattern")
    return result


def _group(make: PlanBuilder) -> Plan:
    rows = make.problem.rows
    lanes, items = lanes_of(make)
    threads = tuned.GROUP_THREADS.value
    kernel = make.kernel(
        "group",
        vector=make.row_vector,
        group=make.group,
        lanes=lanes,
        items=items,
    )
    grid = min(ceil_div(rows, threads // lanes), MAX_GRID)
    return make.plan(
        "group",
        (Launch(kernel, grid, threads, 0),),
        vector=make.row_vector,
        why=f"rows of at most {make.chunk} fit in the registers of a warp or less",
    )


def _long(make: PlanBuilder) -> Plan:
    """Rows of more than one chunk: on chip if they fit, and if that uses the GPU."""
    rows, device = make.problem.rows, make.device
    chunks = ceil_div(make.problem.n, make.chunk)
    resident = _block(make, chunks)
    blocks = rows * (resident.cluster if resident else 1)
    few = blocks * tuned.SPLIT_FILL.value <= device.sm_count
    if few and make.problem.n >= tuned.SPLIT_LENGTH.value:
        return _split(make, blocks)
    return resident or _stream(make)


def _block(make: PlanBuilder, chunks: int) -> Plan | None:
    """The block pattern, or None where the row does not fit on chip."""
    rows, device = make.problem.rows, make.device
    warps_needed = ceil_div(chunks, make.max_warps)
    cluster = min(power_of_two(warps_needed), device.max_cluster)
    # Few rows: widen the cluster, so that more multiprocessors work on each.
    while (
        cluster < device.max_cluster
        and rows * cluster * 2 <= device.sm_count
        and chunks >= 2 * cluster * tuned.SPREAD_WARPS.value
    ):
        cluster *= 2
    most = make.max_warps
    if chunks > most * cluster:
        biased = "biased" in make.operation.features
        parks = tuned.PARK_WARPS_BIASED if biased else tuned.PARK_WARPS
        most = min(most, parks.value)
    warps = min(ceil_div(chunks, cluster), most)
    parked = ceil_div(chunks, warps * cluster) - 1  # chunks a warp, beside the one in registers
    slots = 0  # chunks parked in the first block, which has the most
    if parked:
        slots = (parked - 1) * warps + min(warps, chunks - parked * warps * cluster)
    if chunks > WARP * WARP:
        return None  # fold_in_block folds two levels of 32
    if parked and not make.operation.outputs:
        return None  # nothing is read again: nothing to keep
    nodes = chunks + (ceil_div(chunks, WARP) if chunks > WARP else 0)
    shared = nodes * make.node_bytes + slots * make.parked_words * make.acc_bytes
    if shared > device.shared_per_block:
        return None
    kernel = make.chunk_kernel("block", threads=most * WARP, cluster=cluster, parks=parked > 0)
    held = "registers and shared memory" if parked else "registers"
    where = f"a cluster of {cluster} blocks" if cluster > 1 else "one block"
    return make.plan(
        "block",
        (Launch(kernel, min(rows, MAX_GRID // cluster) * cluster, warps * WARP, shared),),
        vector=make.row_vector,
        why=f"{chunks} chunks of {make.chunk} fit in the {held} of {where}",
    )


def _stream(make: PlanBuilder) -> Plan:
    warps = min(tuned.STREAM_WARPS.value, make.max_warps)  # a power of two: a subtree of the fold
    kernel = make.chunk_kernel("stream")
    shared = (2 * warps + 1) * make.node_bytes
    return make.plan(
        "stream",
        (Launch(kernel, min(make.problem.rows, MAX_GRID), warps * WARP, shared),),
        vector=make.row_vector,
        reads=make.passes,
        why="the row is longer than on-chip memory: one pass to reduce, one to write"
        if make.operation.outputs
        else "a long row is passed over once, and only its values are written",
    )


def _split(make: PlanBuilder, resident_blocks: int) -> Plan:
    warps, rows = tuned.SPLIT_WARPS.value, make.problem.rows
    # Every block folds all nodes of its row: a limit to them, for rows of any length.
    pieces = ceil_div(make.problem.n, warps * make.chunk)
    rounds = power_of_two(ceil_div(pieces, tuned.SPLIT_SEGMENTS.value))
    segments = ceil_div(pieces, rounds)
    # The second launch writes segments; where there are none to write, a warp does for a row.
    second = rows * segments if make.operation.outputs else ceil_div(rows, warps)
    launches = tuple(
        Launch(
            make.chunk_kernel("split", stage=stage),
            min(grid, MAX_GRID),
            warps * WARP,
            (2 * warps + 1) * make.node_bytes,
        )
        for stage, grid in enumerate((rows * segments, second))
    )
    return make.plan(
        "split",
        launches,
        vector=make.row_vector,
        reads=make.passes,
        rounds=rounds,
        workspace=rows * segments * make.node_bytes,
        why=f"{rows} long rows would occupy {resident_blocks} of {make.device.sm_count} "
        f"multiprocessors: {segments} blocks share each",
    )


def _map(make: PlanBuilder) -> Plan:
    problem = make.problem
    lanes, items = lanes_of(make) if problem.n <= make.chunk else (WARP, make.items)
    units = problem.rows * ceil_div(problem.n, lanes * items)
    threads = tuned.GROUP_THREADS.value
    contiguous = make.row_is_contiguous
    vector = make.row_vector if contiguous else 1
    warps = make.max_warps if contiguous else tuned.GENERAL_WARPS.value
    kernel = make.kernel(
        "map",
        vector=vector,
        group=make.group,
        lanes=lanes,
        items=items,
        general=not contiguous,
        threads=min(warps, tuned.CAP_WARPS.value) * WARP,
    )
    grid = min(ceil_div(units, threads // lanes), MAX_GRID)
    return make.plan(
        "map",
        (Launch(kernel, grid, threads, 0),),
        vector=vector,
        why="no element depends on the others",
    )


def _segment(make: PlanBuilder) -> Plan:
    """Rows of unequal length: as ``patterns/segment.cuh`` says, whose sizes are told again here."""
    problem = make.problem
    warps = 4
    tile = warps * make.chunk
    tiles = ceil_div(problem.n + problem.segments, tile)
    units = tiles * problem.rows
    seen = tuned.CHECK_THREADS.value * tuned.CHECKED.value  # offsets, by a block
    checkers = min(ceil_div(problem.segments + 1, seen), tuned.CHECKERS.value)
    staged = make.values * (2 * tile + make.group) * make.acc_bytes
    lists = warps * (2 * warps * 8 + 4)
    general = not make.row_is_contiguous
    wide = make.acc == "float64" or make.problem.operands[-1].dtype == "float32"
    cap = tuned.SEGMENT_CAP_WARPS_FLOAT.value if wide else tuned.SEGMENT_CAP_WARPS.value
    cap = tuned.GENERAL_WARPS.value if general else cap

    def launch(stage: int) -> Launch:
        threads = tuned.CHECK_THREADS.value if stage == 0 else WARP * warps
        kernel = make.kernel(
            "segment",
            vector=make.staged_vector,
            group=make.group,
            lanes=WARP,
            items=make.items,
            threads=cap * WARP,
            stage=stage,
            general=general,
        )
        if stage == 0:
            return Launch(kernel, checkers, threads, threads // WARP * 4)
        shared = staged + 4 * warps * make.node_bytes + lists
        return Launch(kernel, min(units, MAX_GRID), threads, shared)

    longer = problem.n > tile
    nodes = 2 * units * make.node_bytes if longer else 0
    return make.plan(
        "segment",
        tuple(launch(stage) for stage in ((0, 1, 2, 3) if longer else (0, 1))),
        vector=make.staged_vector,
        reads=2 if longer else 1,
        workspace=ceil_div(4 * checkers, 16) * 16 + (tiles + 2) // 2 * 16 + nodes,
        checkers=checkers,
        why="rows of unequal length, known on the device alone: blocks take equal shares of them"
        + (f"; rows longer than {tile} are read twice" if longer else ""),
    )


def _column(make: PlanBuilder) -> Plan:
    """Rows down a strided axis. Their neighbours, if any, are the innermost batch dimension."""
    problem, device = make.problem, make.device
    inner = problem.batch_shape[-1]
    items = max(1, power_of_two_below(tuned.COLUMN_WORDS.value // (make.values * make.acc_words)))
    vector = make.column_vector(inner)
    lanes = min(WARP, power_of_two(ceil_div(inner, vector)))
    columns = lanes * vector
    tiles = problem.rows // inner * ceil_div(inner, columns)
    leaves = power_of_two(ceil_div(problem.n, items))
    least, most = WARP // lanes, tuned.COLUMN_WARPS.value * WARP // lanes  # walkers of a block

    def launch(stage: int, walkers: int, cluster: int, grid: int) -> Launch:
        kernel = make.kernel(
            "column",
            vector=vector,
            group=vector,
            lanes=lanes,
            items=items,
            threads=tuned.COLUMN_WARPS.value * WARP,
            cluster=cluster,
            stage=stage,
            batch_dims=max(1, len(problem.batch_shape) - 1),  # the innermost is apart
        )
        parts = {2: 0, 3: 1}.get(stage, walkers + (cluster if cluster > 1 else 0))
        shared = parts * (columns + 1) * make.node_bytes
        return Launch(kernel, min(grid, MAX_GRID // cluster * cluster), walkers * lanes, shared)

    if leaves <= most * device.max_cluster:
        cluster = max(1, leaves // most)
        walkers = max(least, min(leaves, most))
        return make.plan(
            "column",
            (launch(0, walkers, cluster, tiles * cluster),),
            vector=vector,
            chunk=items,
            why="the softmax axis is strided; a row fits in the registers of "
            f"{walkers * cluster} thread{'s' if walkers * cluster > 1 else ''} one below the other",
        )
    walkers = tuned.COLUMN_LONG_WARPS.value * WARP // lanes
    segments = ceil_div(problem.n, walkers * items)
    warps = walkers * lanes // WARP
    writes = bool(make.operation.outputs)
    launches = (
        launch(1, walkers, 1, tiles * segments),
        launch(2, walkers, 1, ceil_div(problem.rows, warps)),
        *((launch(3, walkers, 1, tiles * segments),) if writes else ()),
    )
    return make.plan(
        "column",
        launches,
        vector=vector,
        chunk=items,
        reads=make.passes,
        workspace=problem.rows * (segments + (1 if writes else 0)) * make.node_bytes,
        why=f"the softmax axis is strided and too long for the chip: {segments} blocks share a row",
    )
