"""From a problem and a GPU to launches: the pattern, the binaries, and the numbers of blocks.

This is pure Python without CuPy, so that a plan can be made, read and tested anywhere. The bits of
a row must not depend on the number of rows: chunk, lanes and order of summation follow from the
operation, dtypes, row length and layout. The number of rows and the GPU only decide which warp
computes a chunk.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from cusoftmax.planning import tuning
from cusoftmax.planning.builder import (
    ACCESS_BYTES,
    PlanBuilder,
    ceil_div,
    lanes_of,
    power_of_two,
    power_of_two_below,
)
from cusoftmax.planning.device import PORTABLE_CLUSTER, DeviceSpec
from cusoftmax.planning.plan import MAX_DIMS, MAX_GRID, WARP, Kernel, Launch, Plan
from cusoftmax.planning.problem import Problem
from cusoftmax.planning.staging import (
    SECTOR_BYTES,
    StagedLanes,
    column_span_bytes,
    in_place,
    lanes_of_staged,
    narrow_lanes,
    span_bytes,
    staged_columns,
    staged_operands,
    staged_vector,
    staged_warps,
    stepping_operands,
    tiles_side_by_side,
)

NODES_EACH = 2  # kEach in patterns/block.cuh, and in patterns/stream.cuh of a block that parks


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
    builder = PlanBuilder(problem, device)
    if problem.rows == 0 or (problem.n == 0 and not builder.operation.row_outputs):
        result = builder.plan("empty", (), why="there is no element")
    elif builder.operation.selects:
        from cusoftmax.planning.topk import topk

        result = topk(builder)
    elif "map" in builder.operation.patterns:
        result = _map(builder)
    elif builder.operation.segmented:
        result = _segment(builder)
    elif not builder.row_is_contiguous:
        result = _column(builder)
    elif problem.n <= builder.chunk:
        result = _group(builder)
    elif staged := _two_chunks(builder):
        result = _staged_group(builder, staged, WARP)
    else:
        result = _long(builder)
    if result.launches and result.pattern not in builder.operation.patterns:
        raise ValueError(f"{problem.op} does not support the {result.pattern} pattern")
    return result


def _group(builder: PlanBuilder) -> Plan:
    rows = builder.problem.rows
    lanes, items = lanes_of(builder)
    threads = tuning.GROUP_THREADS
    staged = staged_operands(builder, lanes)
    if staged:
        return _staged_group(builder, staged, lanes)
    kernel = builder.kernel(
        "group",
        vector=builder.row_vector,
        group=builder.group,
        lanes=lanes,
        items=items,
        uncached=builder.uncached,
    )
    beside = threads // lanes
    each = _rows_of_thread(builder, lanes if _defers(builder) else 1, beside)
    grid = min(ceil_div(rows, beside * each), MAX_GRID)
    return _group_plan(builder, Launch(kernel, grid, threads, 0), builder.row_vector)


def _defers(builder: PlanBuilder) -> bool:
    """Whether the values of rows that lanes take one after the other are computed together."""
    operation = builder.operation
    return bool(operation.outputs and operation.row_outputs) and not builder.fast_exp


def _rows_of_thread(builder: PlanBuilder, most: int, beside: int) -> int:
    """Return how many rows a thread takes, one after the other: fewer where blocks would be few."""
    enough = tuning.GROUP_BLOCKS * builder.device.sm_count * beside
    while most > 1 and builder.problem.rows < enough * most:
        most //= 2
    return most


def _staged_group(builder: PlanBuilder, staged: int, order: int) -> Plan:
    """Rows of the group pattern in shared memory, summed in the order of so many lanes.

    There no access of a row has to be next to another, so as few lanes hold one as have registers
    for it: what is done once a row, or once a lane, is done less often.
    """
    rows, n = builder.problem.rows, builder.problem.n
    held = lanes_of_staged(builder, order)
    threads = tuning.GROUP_THREADS
    beside = threads // held.lanes  # rows that are next to each other in a span
    apart = not in_place(builder, staged)
    first = builder.items if n > builder.chunk else 0
    room = threads * (first + held.items)
    once = span_bytes(builder, staged, room, apart=apart, bulk=builder.bulk)
    most = power_of_two_below(max(1, tuning.GROUP_BYTES // once))
    each = _rows_of_thread(builder, most, beside)
    kernel = builder.kernel(
        "group",
        vector=held.vector,
        group=builder.group,
        lanes=held.lanes,
        items=held.items,
        order_lanes=order,
        sure=held.sure,
        first_items=first,
        staged=staged,
        rows_each=most,
        rows_at_once=2 if most > 1 and first == 0 and _two_rows(builder, held) else 1,
        threads=_staged_group_warps(builder, held) * WARP,
    )
    # Spans of a block, one after the other: what a block does once is then less of a row.
    turns = max(tuning.GROUP_SPANS, held.lanes if _defers(builder) else 1) // each
    turns = _rows_of_thread(builder, max(1, turns), beside * each)
    grid = min(ceil_div(rows, beside * each * turns), MAX_GRID)
    apart = apart and (most > 1 or first > 0)
    shared = span_bytes(builder, staged, beside * each * n, apart=apart, bulk=builder.bulk)
    return _group_plan(builder, Launch(kernel, grid, threads, shared), held.vector, each)


def _two_chunks(builder: PlanBuilder) -> int:
    """Return what is staged of rows of two chunks that a warp holds, or 0 if none does.

    So it is where rows are so few that multiprocessors would be without a block, or where half of
    the second chunk would be empty: one binary serves all.
    """
    problem, of_block = builder.problem, tuning.GROUP_THREADS // WARP
    few = problem.rows < of_block * builder.device.sm_count
    most = 2 * builder.chunk
    if few or not 3 * most // 4 <= problem.n <= most or not _may_pair(builder):
        return 0
    return staged_operands(builder)


def _may_pair(builder: PlanBuilder) -> bool:
    """Whether a warp has the registers for two chunks of staged rows.

    What a warp and a block do once, and the exchange of nodes, is then half an element. Of 16 bits
    softmax itself has too little to do for that: clusters of few blocks would wait longer.
    """
    operation = builder.operation
    of_rows = operation.row_inputs or operation.row_outputs
    short = builder.values == 1 and builder.fast_exp
    simple = len(operation.outputs) == 1 and not (
        (of_rows and not short) or operation.features or "seed" in operation.options
    )
    # The exponentials of two chunks, of which only the logits stay, spill before sm_100.
    arch = 80 if operation.picked else tuning.PAIR_LOG_ARCH
    worth = not short or (operation.exact_sums and builder.device.arch >= arch)
    alike = len({size for _, _, size in stepping_operands(builder)}) == 1
    # Before sm_80 what is copied passes through registers.
    sizes = builder.acc == "float32" and builder.values <= 2 and builder.device.arch >= 80
    fits = sizes and staged_vector(builder) == 1
    return simple and alike and fits and bool(worth)


def _group_plan(builder: PlanBuilder, launch: Launch, vector: int, rounds: int = 1) -> Plan:
    return builder.plan(
        "group",
        (launch,),
        vector=vector,
        rounds=rounds,
        why=f"rows of at most {builder.chunk} fit in the registers of a warp or less",
    )


def _two_rows(builder: PlanBuilder, held: StagedLanes) -> bool:
    """Whether a warp reduces two staged rows at once.

    So it does for 16-bit losses with their gradient, which have much to compute once a row.
    """
    operation = builder.operation
    loss = operation.picked and operation.outputs and builder.values == 1
    return bool(builder.fast_exp and held.lanes == WARP and loss and not operation.features)


def _staged_group_warps(builder: PlanBuilder, held: StagedLanes) -> int:
    operation, most = builder.operation, staged_warps(builder)
    if builder.acc == "float64":
        long = tuning.GROUP_ALONE_BULK if builder.bulk else tuning.GROUP_ALONE_LONG
        if held.lanes == 1 and held.items > long:
            return min(most, tuning.STAGED_GROUP_WARPS_ALONE)
        if operation.picked or operation.exact_sums or builder.bulk:
            return min(most, tuning.STAGED_GROUP_WARPS_DOUBLE)
    elif builder.bulk and "seed" in operation.options and not builder.fast_exp:
        if held.lanes <= 2 and held.items > tuning.GROUP_ALONE_LONG:
            return min(most, tuning.STAGED_GROUP_WARPS_ALONE)
        return min(most, tuning.STAGED_GROUP_WARPS_NOISE)
    elif builder.fast_exp and (_two_rows(builder, held) or builder.problem.n > builder.chunk):
        return min(most, _pair_warps(builder))
    elif builder.fast_exp and operation.picked and not operation.features:
        return min(builder.max_warps, tuning.STAGED_GROUP_WARPS_LOSS)
    return most if builder.values == 1 or builder.bulk else min(most, tuning.STAGED_GROUP_WARPS_TWO)


def _long(builder: PlanBuilder) -> Plan:
    """Rows longer than a chunk: on chip if they fit and there are enough of them, else split."""
    rows, device = builder.problem.rows, builder.device
    chunks = ceil_div(builder.problem.n, builder.chunk)
    staged = staged_operands(builder)
    if _many_values(builder) and chunks * tuning.RESIDENT_BLOCKS > builder.max_warps:
        return _stream(builder, staged)
    through_shared = staged and (_pairs(builder, chunks, staged) or _block(builder, chunks, staged))
    resident = through_shared or _block(builder, chunks)
    lone = not resident or not _share(device, resident.launches[0])
    if lone and not staged and _takes_few_registers(builder):
        resident = _block(builder, chunks, wide=int(tuning.BLOCK_WARPS_PRODUCTS)) or resident
        lone = not resident or not _share(device, resident.launches[0])
    blocks = rows * (resident.cluster if resident else 1)
    few = blocks * tuning.SPLIT_FILL <= device.sm_count
    if resident and lone and resident.cluster > PORTABLE_CLUSTER:
        # They would not fill the GPU twice.
        long = builder.problem.n > tuning.SPLIT_LENGTH_LARGE_CLUSTERS
        few = few or (long and blocks <= 2 * device.sm_count)
    if few and builder.problem.n >= tuning.SPLIT_LENGTH:
        return _split(builder, blocks, staged)
    percent = tuning.STREAM_KEPT_PERCENT if resident else tuning.STREAM_PERCENT
    # Staged rounds load nothing while they compute: staged rows are read once where they fit, but
    # where two blocks of half the size stream.
    in_place = not through_shared
    few_chunks = chunks <= WARP * WARP  # fold_in_block folds two levels of 32
    in_turn = lone and few_chunks and (in_place or builder.acc == "float64")
    if in_turn and _cache_holds(builder, 1, percent):
        again = _read_again(builder, 0 if in_place else staged)
        # Noise takes longer to form again than elements to come.
        least = 4 * (again.passes * builder.chunk + again.launches[0].block * builder.items)
        if "seed" not in builder.operation.options or least >= 3 * builder.problem.n:
            return again
    return resident or _stream(builder, staged)


def _takes_few_registers(builder: PlanBuilder) -> bool:
    """Whether it is float64 of two probabilities, without exponentials, and addresses are simple.

    By compiling the kernels of large clusters.
    """
    operation = builder.operation
    exponentials = operation.relative or operation.sum_inputs or operation.map_inputs
    two = builder.acc == "float64" and builder.values == 2 and not operation.features
    return bool(
        two
        and not exponentials
        and len(builder.problem.batch_shape) == 1
        and len(builder.problem.reduce_shape) == 1
        and builder.device.max_cluster > PORTABLE_CLUSTER
    )


def _many_values(builder: PlanBuilder) -> bool:
    """Whether only values of rows are written, of so many that small blocks fill the GPU.

    No element is then needed twice, and a block that streams loads while others compute.
    """
    rows = tuning.STREAM_VALUES_BLOCKS * builder.device.sm_count
    return not builder.operation.outputs and builder.problem.rows >= rows


def _share(device: DeviceSpec, launch: Launch) -> bool:
    """Whether several blocks share a multiprocessor."""
    several = tuning.RESIDENT_BLOCKS
    registers = several * launch.block <= launch.kernel.max_threads
    return registers and _fits(device, launch.shared_bytes, several)


def _cache_holds(builder: PlanBuilder, resident: int, percent: int, beside: int = 1) -> bool:
    """Whether the rows being read take at most such a part of the level 2 cache.

    Blocks fill the GPU, so many of them each multiprocessor, and read their rows again, so many
    `beside` each other. Nothing is read again if only values are written; and exponentials of
    float64, where few units have that, take longer to form again than elements to come.
    """
    problem, device, operation = builder.problem, builder.device, builder.operation
    slow = builder.acc == "float64" and not device.many_double_units
    again = operation.outputs and not slow
    if not again or problem.rows <= beside * device.sm_count:
        return False
    element = _read_bytes(builder)
    read = resident * device.sm_count * beside * problem.n * element
    return 100 * read <= percent * device.l2_bytes


def _read_bytes(builder: PlanBuilder) -> int:
    """Return the bytes that are read of each element."""
    inputs = len(builder.operation.inputs)
    return sum(size for number, _, size in stepping_operands(builder) if number < inputs)


def _block(builder: PlanBuilder, chunks: int, staged: int = 0, *, wide: int = 0) -> Plan | None:
    """The block pattern, or None if the row does not fit on chip.

    Blocks are so small, and clusters so large, that several blocks share a multiprocessor. A block
    has one to itself if the row does not fit on the chip otherwise, or if there are few blocks.
    Large clusters, whose every block folds the nodes of all, only let blocks share, keep a row in
    registers where parked chunks cost more, or stage rows that would not fit otherwise. `wide` is
    how many warps the resident blocks may have together, of which there are then several.
    """
    if chunks > WARP * WARP:
        return None  # fold_in_block folds two levels of 32
    usual = unparked = staged_warps(builder) if staged else builder.max_warps
    if staged and builder.bulk and not builder.operation.features:
        unparked = max(usual, _bulk_warps(builder))
    portable, largest = _cluster_sizes(builder.device, builder.problem.rows)
    several, device = int(tuning.RESIDENT_BLOCKS), builder.device
    may = bool(builder.operation.outputs)  # otherwise no element is needed again
    tries = [(several, portable, may), (several, largest, may), (1, portable, may)]
    short = ACCESS_BYTES // builder.group <= tuning.UNPARKED_BYTES  # elements
    if staged or short:
        tries[:1] = [(several, portable, False), (several, largest, False)]
    fast = device.arch >= tuning.RESIDENT_LONG_ARCH and device.many_double_units
    # Of more words of an element, and of staged ones, larger clusters fold for too long.
    double = builder.acc == "float64" and builder.values + bool(staged) <= 2
    plain = not builder.operation.features
    if fast and (double or (plain and short and _takes_half(builder, staged))):
        more = int(tuning.RESIDENT_BLOCKS_LONG)
        # The largest clusters park staged chunks too: what a block keeps is then small enough.
        large = may and not (staged and builder.operation.features)
        some = [(more, portable, may and not staged), (more, largest, large)]
        tries[:0] = some if double or not staged else [(more, 1, False)]
    if staged and may:
        tries.append((1, min(builder.device.max_cluster, tuning.CLUSTER_BLOCKS), may))
    if wide:
        usual, unparked, tries = wide, wide, [(several, largest, may)]
    for resident, most_blocks, may_park in tries:
        cluster = _cluster(builder, chunks, unparked // resident, most_blocks)
        if resident > 1 and builder.problem.rows * cluster <= builder.device.sm_count:
            continue
        each = ceil_div(chunks, cluster)  # chunks of a block
        parks = each > unparked // resident
        if parks and not may_park:
            continue
        most = min(usual, _park_warps(builder, staged, resident)) if parks else unparked
        full = min(each, most // resident)
        even = ceil_div(each, ceil_div(each, full))  # warps with as many chunks each
        for warps in (even, full):
            shared = _block_shared(builder, chunks, cluster, warps)
            shared += span_bytes(builder, staged, warps * builder.chunk, bulk=builder.bulk)
            if _fits(builder.device, shared, resident):
                same = builder.fast_exp and builder.values == 2  # in 64 registers: one binary less
                fewer = (cluster == 1 and not same) or most == tuning.BULK_WARPS_TWO
                if fewer and resident * warps <= usual:  # its threads have more registers
                    most = min(most, usual)
                return _block_plan(builder, chunks, cluster, most, warps, shared, staged)
    return None


def _takes_half(builder: PlanBuilder, staged: int) -> bool:
    """Whether a block of 16-bit elements computes for longer than half of the memory's time.

    Of three inputs, or of a bfloat16 loss with its gradient, whose terms are raised.
    """
    operation = builder.operation
    written = builder.problem.operands[operation.precision].dtype
    raised = operation.picked and operation.outputs and written == "bfloat16"
    return (builder.values > 2 and not staged) or bool(raised)


def _pairs(builder: PlanBuilder, chunks: int, staged: int) -> Plan | None:
    """The block pattern with two chunks a warp."""
    if not (builder.bulk and _may_pair(builder)):
        return None
    several, pairs = int(tuning.RESIDENT_BLOCKS), ceil_div(chunks, 2)
    most = _pair_warps(builder)
    for most_blocks in _cluster_sizes(builder.device, builder.problem.rows):
        cluster = _cluster(builder, pairs, most // several, most_blocks)
        if builder.problem.rows * cluster <= builder.device.sm_count:
            return None
        if cluster not in (1, PORTABLE_CLUSTER // 2 * builder.values):
            continue  # few binaries: of others those of one chunk a warp are used
        warps = ceil_div(pairs, cluster)
        shared = _block_shared(builder, chunks, cluster, 2 * warps)
        shared += span_bytes(builder, staged, 2 * warps * builder.chunk, bulk=True)
        if several * warps <= most and _fits(builder.device, shared, several):
            return _block_plan(builder, chunks, cluster, most, warps, shared, staged, two=True)
    return None


def _pair_warps(builder: PlanBuilder) -> int:
    """Return the most warps, together, of which each has two chunks."""
    short = builder.fast_exp and not builder.operation.exact_sums
    return int(tuning.PAIR_WARPS if short else tuning.PAIR_WARPS_FLOAT)


def _bulk_warps(builder: PlanBuilder) -> int:
    """Return the most warps of a block whose span is copied in bulk."""
    writes = bool(builder.operation.outputs)
    if writes and builder.values == 2 and builder.max_warps == tuning.BLOCK_WARPS_FLOAT:
        return tuning.BULK_WARPS_TWO
    bulk = tuning.BULK_WARPS if builder.fast_exp else tuning.BULK_WARPS_FLOAT
    return min(builder.max_warps, bulk)


def _cluster_sizes(device: DeviceSpec, clusters: int) -> tuple[int, int]:
    """Return the most blocks of a cluster: where they may fill multiprocessors, and of small ones.

    If there are so few clusters that no blocks need to share a multiprocessor, both are the same.
    """
    largest = min(device.max_cluster, tuning.CLUSTER_BLOCKS)
    portable = min(largest, PORTABLE_CLUSTER)
    return portable, largest if clusters * portable > device.sm_count else portable


def _cluster(builder: PlanBuilder, chunks: int, most: int, most_blocks: int) -> int:
    """Return how many blocks, at most `most_blocks`, of at most `most` warps share a row."""
    rows = builder.problem.rows
    cluster = min(power_of_two(ceil_div(chunks, most)), most_blocks)
    # With few rows, widen the cluster so that more multiprocessors work on each row.
    while (
        cluster < most_blocks
        and rows * cluster * 2 <= builder.device.sm_count
        and chunks >= 2 * cluster * tuning.SPREAD_WARPS
    ):
        cluster *= 2
    return cluster


def _park_warps(builder: PlanBuilder, staged: int, resident: int) -> int:
    """Return the most warps, together, of so many resident blocks that park chunks."""
    operation, double = builder.operation, builder.acc == "float64"
    parks = tuning.PARK_WARPS_BIASED if "biased" in operation.features else tuning.PARK_WARPS
    apart = builder.row_vector == 1 or len(builder.problem.batch_shape) > 1
    loss = operation.relative and operation.picked and (operation.plain or staged)
    if double and apart and loss:
        parks = min(parks, tuning.PARK_WARPS_LOSS_DOUBLE)
    if staged and not (double and resident == tuning.RESIDENT_BLOCKS_LONG):  # small float64 blocks
        parks = min(parks, tuning.STAGED_PARK_WARPS_DOUBLE if double else tuning.STAGED_PARK_WARPS)
    return parks


def groups_of(nodes: int, each: int) -> int:
    """Return how many groups of nodes warps of a block fold, so many of each a lane.

    0 if all nodes are one group: ``groups_of`` in ``reduce/fold.cuh``.
    """
    return ceil_div(nodes, each * WARP) if nodes > each * WARP else 0


def split_nodes_each(kernel: Kernel) -> int:
    """Return how many nodes of a split row's group a lane folds (``patterns/split.cuh``)."""
    return NODES_EACH if kernel["CSM_ACC"] == "float" else 1


def _block_shared(builder: PlanBuilder, chunks: int, cluster: int, warps: int) -> int:
    """Return the shared memory of a block: the row's nodes, and the chunks that warps park.

    A warp keeps one chunk in registers. The first block parks the most. Groups of float64 that
    begin with chunks of the first block of a cluster need no places of their own (``kMayStoreOver``
    in ``patterns/block.cuh``).
    """
    rounds = ceil_div(chunks, warps * cluster)
    slots = (rounds - 1) * warps
    if rounds > 1:
        slots += min(warps, chunks - (rounds - 1) * warps * cluster) - warps
    groups, group = groups_of(chunks, NODES_EACH), NODES_EACH * WARP
    over = min(cluster, warps, rounds) > 1 and groups > 0 and builder.acc == "float64"
    over &= chunks % group == group % (warps * cluster) == 0
    nodes = chunks + (0 if over else groups + 1)
    unused = 0 if builder.operation.relative else builder.acc_bytes  # a maximum that is not needed
    parked = slots * builder.parked_words * builder.acc_bytes
    return nodes * (builder.node_bytes - unused) + parked


def _fits(device: DeviceSpec, shared: int, resident: int) -> bool:
    """Whether blocks with so much shared memory fit on a multiprocessor, `resident` of them."""
    together = resident * (shared + device.reserved_shared)
    return shared <= device.shared_per_block and together <= device.shared_per_sm


def _block_plan(
    builder: PlanBuilder,
    chunks: int,
    cluster: int,
    most: int,
    warps: int,
    shared: int,
    staged: int,
    *,
    two: bool = False,
) -> Plan:
    parks = chunks > warps * cluster and not two
    vector = staged_vector(builder) if staged else builder.row_vector
    kernel = builder.chunk_kernel(
        "block",
        vector=vector,
        threads=most * WARP,
        cluster=cluster,
        parks=parks,
        staged=staged,
        uncached=builder.uncached and not staged,
        first_items=builder.items * two,
        asserted=(("CSM_PARKED_WORDS", builder.parked_words),),
    )
    held = "registers and shared memory" if parks else "registers"
    where = f"a cluster of {cluster} blocks" if cluster > 1 else "one block"
    grid = min(builder.problem.rows, MAX_GRID // cluster) * cluster
    return builder.plan(
        "block",
        (Launch(kernel, grid, warps * WARP, shared),),
        vector=vector,
        why=f"{chunks} chunks of {builder.chunk} fit in the {held} of {where}",
    )


def _stream(builder: PlanBuilder, staged: int = 0) -> Plan:
    # A power of two, so that a block folds a subtree.
    most = tuning.STREAM_VALUES_WARPS if _many_values(builder) else tuning.STREAM_WARPS
    warps = power_of_two_below(min(most, builder.max_warps))

    def shared(warps: int) -> int:
        nodes = (2 * warps + 1) * builder.node_bytes
        return nodes + span_bytes(builder, staged, warps * builder.chunk, bulk=builder.bulk)

    while shared(warps) > builder.device.shared_per_block:
        warps //= 2
    vector = staged_vector(builder) if staged else builder.row_vector
    # Staged float64 spills at 128 registers with two results or a loss, so smaller blocks use more.
    cap = warps if staged and builder.acc == "float64" else tuning.CAP_WARPS
    if _many_values(builder) and builder.fast_exp and not builder.operation.features:
        cap = tuning.STREAM_VALUES_CAP_WARPS
    many = builder.problem.rows > builder.device.sm_count
    if many and builder.acc == "float64" and (staged or _takes_long(builder, again=True)):
        warps = min(warps, tuning.STREAM_WARPS_DOUBLE)
    threads = min(builder.max_warps, cap) * WARP
    kernel = builder.chunk_kernel(
        "stream",
        vector=vector,
        threads=threads,
        staged=staged,
        asserted=(("CSM_PARKED_WORDS", builder.parked_words),),
    )
    return builder.plan(
        "stream",
        (Launch(kernel, min(builder.problem.rows, MAX_GRID), warps * WARP, shared(warps)),),
        vector=vector,
        reads=builder.passes,
        why="the row is longer than on-chip memory: one pass to reduce, one to write"
        if builder.operation.outputs
        else "a long row is passed over once, and only its values are written",
    )


def _read_again(builder: PlanBuilder, staged: int) -> Plan:
    """A block that keeps what it can of its row, and reads the rest again from the level 2 cache.

    A chunk of each warp stays in registers. Two blocks share a multiprocessor if the cache then
    holds what both read again, or if one would compute for longer than memory takes.
    """
    problem, device = builder.problem, builder.device
    most = min(int(tuning.STREAM_WARPS), builder.max_warps)
    most = int(tuning.STREAM_CACHED_WARPS) if _has_registers_to_spare(builder) else most
    if builder.operation.exact_sums and builder.operation.features:
        most = min(most, tuning.STREAM_LOGARITHM_WARPS)
    long = builder.acc == "float64" and (staged or _takes_long(builder))
    chunks = ceil_div(problem.n, builder.chunk)
    each = builder.parked_words * builder.acc_bytes
    found = device.l2_bytes * tuning.STREAM_FOUND_PERCENT // 100 // device.sm_count
    found //= builder.chunk * _read_bytes(builder)  # chunks in the cache
    for resident in (2, 1):
        warps = most // resident
        nodes = (chunks + groups_of(chunks, NODES_EACH) + 1) * builder.node_bytes
        nodes += span_bytes(builder, staged, warps * builder.chunk, bulk=builder.bulk)
        room = device.shared_per_sm // resident - device.reserved_shared
        fitting = (min(device.shared_per_block, room) - nodes) // each
        # Something is read again: of a block alone a round, or memory would be idle meanwhile.
        before = chunks - warps - 1 if resident > 1 else (ceil_div(chunks, warps) - 2) * warps
        parked = max(0, min(fitting, before))
        beyond = chunks - warps - found // resident
        if long or beyond <= parked:
            break
    if not _takes_long_again(builder):
        parked = min(parked, max(0, beyond))
    vector = staged_vector(builder) if staged else builder.row_vector
    kernel = builder.chunk_kernel(
        "stream",
        vector=vector,
        threads=most * WARP,
        parks=True,
        staged=staged,
        uncached=not staged,
        asserted=(("CSM_PARKED_WORDS", builder.parked_words),),
    )
    return builder.plan(
        "stream",
        (Launch(kernel, min(problem.rows, MAX_GRID), warps * WARP, nodes + parked * each),),
        vector=vector,
        reads=builder.passes,
        passes=parked,
        why="one block keeps what it can of a row, and finds the rest in the level 2 cache",
    )


def _takes_long_again(builder: PlanBuilder) -> bool:
    """Whether it pays to keep more of a row than must be: exponentials take long to form again."""
    return bool(builder.operation.relative) and builder.values == 1 and not builder.fast_exp


def _takes_long(builder: PlanBuilder, *, again: bool = False) -> bool:
    """Whether a block that reads rows twice computes so long that two had better share memory.

    They leave less of their rows in the cache.
    """
    operation = builder.operation
    loss = operation.plain or operation.picked
    again = again and not operation.exact_sums  # logarithms are formed once
    return _takes_long_again(builder) and bool(loss or again)


def _has_registers_to_spare(builder: PlanBuilder) -> bool:
    """Whether a thread that streams needs no more than 64: by compiling all operations."""
    many = not builder.fast_exp and builder.values > 2
    if many or builder.operation.features or len(builder.problem.batch_shape) > 1:
        return False
    most = tuning.BLOCK_WARPS if builder.fast_exp else tuning.BLOCK_WARPS_FLOAT
    return builder.max_warps >= most


def _split(builder: PlanBuilder, resident_blocks: int, staged: int) -> Plan:
    rows = builder.problem.rows
    few = ceil_div(builder.problem.n, tuning.SPLIT_WARPS_FLOAT * builder.chunk) <= tuning.SPLIT_FEW
    small = few and builder.acc == "float32" and not builder.fast_exp
    warps = tuning.SPLIT_WARPS_FLOAT if small else tuning.SPLIT_WARPS
    # Every block folds all nodes of its row, so their number is limited however long the row.
    all_rounds = ceil_div(builder.problem.n, warps * builder.chunk)
    rounds = power_of_two(ceil_div(all_rounds, tuning.SPLIT_PIECES))
    pieces = ceil_div(all_rounds, rounds)
    # The second launch writes the elements, a block for each piece; where an operation has only
    # values of rows to write, one warp for each row is enough.
    second = rows * pieces if builder.operation.outputs else ceil_div(rows, warps)
    vector = staged_vector(builder) if staged else builder.row_vector
    span = span_bytes(builder, staged, warps * builder.chunk, bulk=builder.bulk)
    places = (2 * warps + 1, WARP + 1)  # of nodes in shared memory
    uneven = builder.operation.features and len(builder.problem.batch_shape) > 1
    cap = tuning.SPLIT_CAP_WARPS_UNEVEN if uneven else tuning.CAP_WARPS
    noise = builder.acc == "float64" and "seed" in builder.operation.options
    caps = (cap, tuning.SPLIT_CAP_WARPS_NOISE if noise else cap)
    launches = tuple(
        Launch(
            builder.chunk_kernel(
                "split",
                vector=vector,
                threads=min(builder.max_warps, caps[stage]) * WARP,
                staged=staged,
                stage=stage,
            ),
            min(grid, MAX_GRID),
            warps * WARP,
            places[stage] * builder.node_bytes + span,
        )
        for stage, grid in enumerate((rows * pieces, second))
    )
    return builder.plan(
        "split",
        launches,
        vector=vector,
        reads=builder.passes,
        rounds=rounds,
        workspace=rows * pieces * builder.node_bytes,
        why=f"{rows} long rows would occupy {resident_blocks} of {builder.device.sm_count} "
        f"multiprocessors: {pieces} blocks share each",
    )


def _map(builder: PlanBuilder) -> Plan:
    problem = builder.problem
    lanes, items = lanes_of(builder) if problem.n <= builder.chunk else (WARP, builder.items)
    units = problem.rows * ceil_div(problem.n, lanes * items)
    threads = tuning.GROUP_THREADS
    contiguous = builder.row_is_contiguous
    vector = builder.row_vector if contiguous else 1
    warps = builder.max_warps if contiguous else tuning.GENERAL_WARPS
    kernel = builder.kernel(
        "map",
        vector=vector,
        group=builder.group,
        lanes=lanes,
        items=items,
        general=not contiguous,
        threads=min(warps, tuning.CAP_WARPS) * WARP,
    )
    grid = min(ceil_div(units, threads // lanes), MAX_GRID)
    return builder.plan(
        "map",
        (Launch(kernel, grid, threads, 0),),
        vector=vector,
        why="no element depends on the others",
    )


def _segment(builder: PlanBuilder) -> Plan:
    """Rows of unequal length: as ``patterns/segment.cuh`` says."""
    problem = builder.problem
    seen = tuning.CHECK_THREADS * tuning.CHECKED  # offsets that a block checks
    checkers = min(ceil_div(problem.segments + 1, seen), tuning.CHECKERS)
    # Elements of 16 bits, all of one dtype, are staged as they are, twice as many at a time.
    kept = {o.dtype for number, o in enumerate(problem.operands) if number != builder.values}
    in_pairs = builder.acc == "float32" and kept in ({"float16"}, {"bfloat16"})
    warps, size = 4, 2 if in_pairs else builder.acc_bytes
    chunks = 2 * warps if in_pairs else warps
    tile = chunks * builder.chunk
    tiles = ceil_div(problem.n + problem.segments, tile)
    units = tiles * problem.rows
    general = not builder.row_is_contiguous or len(problem.reduce_shape) > 1
    # Bulk copies of whole vectors, if no element is converted.
    bulk = builder.bulk and not general and builder.staged_vector == builder.group
    bulk &= in_pairs or kept == {builder.acc}
    staged = builder.values * ((2 * tile + builder.group) * size + 32) + 16 * bulk
    lists = warps * (2 * chunks * 8 + 4)
    looked_up = 8 + 6 * 8
    double = builder.acc == "float64"
    by_length = 0 if double else 16 + chunks * WARP * 4
    shared = (
        ceil_div(staged + 4 * chunks * builder.node_bytes + lists + looked_up, 16) * 16 + by_length
    )
    many = builder.values == 1 and builder.device.arch >= tuning.SEGMENT_MANY_ARCH
    cap = tuning.SEGMENT_CAP_WARPS_MANY if many else tuning.SEGMENT_CAP_WARPS
    cap = tuning.SEGMENT_CAP_WARPS_DOUBLE if double else cap
    cap = tuning.GENERAL_WARPS if general else cap

    def launch(stage: int) -> Launch:
        threads = tuning.CHECK_THREADS if stage == 0 else WARP * warps
        kernel = builder.kernel(
            "segment",
            vector=builder.staged_vector,
            group=builder.group,
            lanes=WARP,
            items=builder.items,
            threads=cap * WARP,
            stage=stage,
            general=general,
            bulk=bulk,
            asserted=(("CSM_SEGMENT_TILE", tile), ("CSM_SEGMENT_SHARED_BYTES", shared)),
        )
        if stage == 0:
            return Launch(kernel, checkers, threads, threads // WARP * 4)
        # There are few rows longer than a tile, mostly none: blocks that look for one, and find it.
        most = tuning.SEGMENT_LONGER_BLOCKS * builder.device.sm_count if stage == 2 else MAX_GRID
        return Launch(kernel, min(units, most), threads, shared)

    longer = problem.n > tile
    nodes = 2 * units * builder.node_bytes if longer else 0
    return builder.plan(
        "segment",
        tuple(launch(stage) for stage in ((0, 1, 2) if longer else (0, 1))),
        vector=builder.staged_vector,
        reads=2 if longer else 1,
        workspace=sum(
            ceil_div(part, SECTOR_BYTES) * SECTOR_BYTES
            for part in (checkers, 1, 16 * (tiles + 1), 2 * problem.segments)
        )
        + nodes,
        checkers=checkers,
        why="rows of unequal length, known on the device alone: blocks take equal shares of them"
        + (f"; rows longer than {tile} are read twice" if longer else ""),
    )


def _column(builder: PlanBuilder) -> Plan:
    """Rows along a strided axis. Neighbouring rows lie along the innermost batch dimension."""
    problem = builder.problem
    inner = problem.batch_shape[-1]
    items = max(1, power_of_two_below(tuning.COLUMN_WORDS // (builder.values * builder.acc_words)))
    vector = builder.column_vector(inner)
    leaves = power_of_two(ceil_div(problem.n, items))
    beside = _beside(builder, items, vector, leaves)
    if beside.staged and vector > 1:
        # Two columns a thread spill with a scale: their maximum is a double word.
        scaled = "scaled" in builder.operation.features
        vector = 1 if scaled else min(vector, tuning.COLUMN_VECTOR_FEW)
        beside = _beside(builder, items, vector, leaves)
    lanes, staged, most, most_blocks = beside.lanes, beside.staged, beside.most, beside.most_blocks
    columns = lanes * vector
    width = min(inner, beside.passes * columns)
    tiles = problem.rows // inner * ceil_div(inner, width)
    least = WARP // lanes

    def launch(stage: int, walkers: int, cluster: int, grid: int, parts: int = 0) -> Launch:
        kernel = builder.kernel(
            "column",
            vector=vector,
            group=vector,
            lanes=lanes,
            items=items,
            threads=_column_warps(builder, vector, 0 if staged else stage) * WARP,
            cluster=cluster,
            stage=stage,
            batch_dims=max(1, len(problem.batch_shape) - 1),  # the innermost one is `inner`
            staged=0 if stage == 2 else staged,
        )
        parts = parts or walkers + (cluster if cluster > 1 else 0)
        shared = parts * columns * builder.node_bytes if stage != 2 else 0
        if stage != 2:
            lines = min(walkers * items, problem.n)
            shared += column_span_bytes(builder, staged, lines, width)
        return Launch(kernel, min(grid, MAX_GRID // cluster * cluster), walkers * lanes, shared)

    if leaves <= most * most_blocks:
        cluster = max(1, leaves // most)
        walkers = max(least, min(leaves, most))
        return builder.plan(
            "column",
            (launch(0, walkers, cluster, tiles * cluster),),
            vector=vector,
            chunk=items,
            passes=beside.passes,
            why="the softmax axis is strided; a row fits in the registers of "
            f"{walkers * cluster} thread{'s' if walkers * cluster > 1 else ''} one below the other",
        )
    if not staged and (streamed := _column_stream(builder, items, vector)):
        return streamed
    walkers = _long_walkers(beside)
    nodes = walkers * columns * builder.node_bytes  # of a round
    rounds = 1 if staged else _rounds(ceil_div(problem.n, walkers * items), nodes)
    pieces = ceil_div(problem.n, walkers * items * rounds)
    warps = walkers * lanes // WARP
    writes = bool(builder.operation.outputs)

    def parts(leaves: int) -> int:
        """Return for how many nodes of each row a block has room, whose walkers have so many."""
        return warps + (leaves.bit_length() - 1) * walkers

    launches = [launch(1, walkers, 1, tiles * pieces, parts(rounds))]
    # Each block of the last launch folds the nodes of its rows itself, where their bytes are few
    # beside those of its elements, or where all is in the level 2 cache and a launch takes longer.
    of_pieces = power_of_two(pieces) * columns * builder.node_bytes
    element = sum(size for _, size in builder.along)
    most = pieces if rounds == 1 else max(pieces, tuning.COLUMN_PIECES * rounds)
    few = 4 * most * builder.node_bytes <= walkers * items * rounds * element
    few = few or problem.rows * problem.n * element <= builder.device.l2_bytes
    folds = writes and not staged and few and of_pieces <= tuning.COLUMN_NODE_BYTES
    if not folds:
        launches.append(launch(2, walkers, 1, ceil_div(problem.rows, warps)))
    if writes:
        room = parts(power_of_two(ceil_div(pieces, walkers))) if folds else 1
        launches.append(launch(4 if folds else 3, walkers, 1, tiles * pieces, room))
    return builder.plan(
        "column",
        tuple(launches),
        vector=vector,
        chunk=items,
        reads=builder.passes,
        rounds=rounds,
        passes=beside.passes,
        workspace=problem.rows * (pieces + (1 if writes else 0)) * builder.node_bytes,
        why=f"the softmax axis is strided and too long for the chip: {pieces} blocks share a row",
    )


def _column_stream(builder: PlanBuilder, items: int, vector: int) -> Plan | None:
    """Return the plan of blocks that read rows again from the level 2 cache, if it holds them.

    Each has as few rows side by side as fill a sector. Two blocks share a multiprocessor if the
    cache holds the rows of both. They keep what they can of their rows.
    """
    problem, device, operation = builder.problem, builder.device, builder.operation
    inner = problem.batch_shape[-1]
    if _column_warps(builder, vector) < tuning.COLUMN_STREAM_WARPS:
        vector = min(vector, tuning.COLUMN_VECTOR_FEW)
    lanes = narrow_lanes(builder, vector, min(WARP, power_of_two(ceil_div(inner, vector))))[-1]
    columns = lanes * vector
    of_two, alone = (
        tuning.COLUMN_STREAM_PERCENT,
        0 if device.clusters else tuning.COLUMN_ALONE_PERCENT,
    )
    percents = ((2, of_two), (1, min(alone, of_two * WARP)))  # none if the first is 0
    resident = next((r for r, p in percents if _cache_holds(builder, r, p, columns)), 0)
    if not resident or operation.features:
        return None  # some features need more than 128 registers
    tiles = problem.rows // inner * ceil_div(inner, columns)
    walkers = tuning.COLUMN_STREAM_WARPS // resident * WARP // lanes
    rounds = ceil_div(problem.n, walkers * items)
    inputs = sum(size for _, size in builder.along[: len(operation.inputs)])

    def shared(each: int, parked: int) -> int:
        nodes = each * walkers + power_of_two(ceil_div(rounds, each))
        return columns * (nodes * builder.node_bytes + parked * walkers * items * inputs)

    # A block that is alone keeps less, and folds nodes less often: it computes while it loads.
    most = (rounds - 1) // (3 - resident)
    fitting = [p for p in range(most + 1) if _fits(device, shared(1, p), resident)]
    if not fitting:
        return None
    parked, each = fitting[-1], 1
    # Leaves of half of the rounds at most wait in shared memory.
    while 2 * each < rounds and _fits(device, shared(2 * each, parked), resident):
        each *= 2
    kernel = builder.kernel(
        "column",
        vector=vector,
        group=vector,
        lanes=lanes,
        items=items,
        threads=tuning.COLUMN_STREAM_WARPS * WARP,
        stage=5,
        parks=parked > 0,
        batch_dims=max(1, len(problem.batch_shape) - 1),
    )
    return builder.plan(
        "column",
        (Launch(kernel, min(tiles, MAX_GRID), walkers * lanes, shared(each, parked)),),
        vector=vector,
        chunk=items,
        reads=builder.passes,
        rounds=each,
        passes=max(1, parked),
        why="the softmax axis is strided: one pass to reduce, one to write, which finds the rows "
        "in the level 2 cache",
    )


def _rounds(all_rounds: int, nodes: int) -> int:
    """Return the rounds of a block over its piece of a column, which takes so many in all.

    A power of two, so large that folding the nodes of all pieces takes less time than that. Each
    round has so many bytes of `nodes` in shared memory.
    """
    rounds = 1
    while (
        all_rounds > rounds * rounds * tuning.COLUMN_PIECES
        and 2 * rounds * nodes <= tuning.COLUMN_NODE_BYTES
    ):
        rounds *= 2
    return rounds


class _Beside(NamedTuple):
    """Which rows side by side a block takes."""

    lanes: int  # threads side by side
    passes: int  # over so many rows each
    staged: int
    most: int  # walkers of a block: its threads down a row
    most_blocks: int  # that share a row


def _beside(builder: PlanBuilder, items: int, vector: int, leaves: int) -> _Beside:
    """Choose how a block divides rows side by side among threads, and whether they are staged."""
    problem, device = builder.problem, builder.device
    inner = problem.batch_shape[-1]

    def walkers(beside: _Beside, resident: int, *, large: bool = False) -> _Beside:
        """Limit the walkers so that so many blocks share a multiprocessor."""
        columns = beside.lanes * vector
        width = min(inner, beside.passes * columns)
        sizes = _cluster_sizes(device, problem.rows // inner * ceil_div(inner, width))
        most = power_of_two_below(_column_warps(builder, vector) * WARP // beside.lanes // resident)

        def fits(most: int) -> bool:
            lines = min(most * items, problem.n)
            span = column_span_bytes(builder, beside.staged, lines, width)
            # A node for each walker and row, and in a cluster for each block.
            nodes = (most + sizes[large]) * columns * builder.node_bytes
            return _fits(device, span + nodes, resident)

        while most > 0 and not fits(most):
            most //= 2
        return beside._replace(most=most, most_blocks=sizes[large])

    def is_resident(beside: _Beside) -> bool:
        return beside.most * beside.lanes >= WARP and leaves <= beside.most * beside.most_blocks

    direct = _Beside(min(WARP, power_of_two(ceil_div(inner, vector))), 1, 0, 0, 0)
    staged = staged_columns(builder, direct.lanes * vector)
    several = tuning.RESIDENT_BLOCKS
    found = []
    if staged:
        parts = tiles_side_by_side(builder)
        through = [
            direct._replace(
                lanes=lanes, passes=ceil_div(inner, lanes * vector * parts), staged=staged
            )
            for lanes in _staged_lanes(inner, vector, direct.lanes, parts)
        ]
        found = [walkers(beside, several, large=True) for beside in through]
        found += [walkers(beside, 1) for beside in through]
    lanes = narrow_lanes(builder, vector, direct.lanes)
    for large in (False, True):
        tries = [walkers(direct._replace(lanes=each), several, large=large) for each in lanes]
        # One block, of lines as long as can be; or a cluster of as few blocks as can be.
        found += [beside for beside in tries if leaves <= beside.most] + tries[::-1]
    found.append(walkers(direct, 1))
    resident = [beside for beside in found if is_resident(beside)]
    if resident:
        return resident[0]
    # Rows are read twice, and each of their pieces has a node in memory: staged pieces are no
    # shorter than others.
    wide = walkers(direct, several)
    long = [b for b in found if b.staged and _long_walkers(b) >= _long_walkers(wide)]
    return long[0] if long else walkers(direct._replace(lanes=lanes[-1]), several)


def _column_warps(builder: PlanBuilder, vector: int, stage: int = 0) -> int:
    """Return the most warps of a block, which limits the registers; staged rows say stage 0."""
    dtypes = [o.dtype for o in builder.problem.operands]
    exact = builder.operation.compensated(dtypes, builder.acc)
    rounds = stage in (1, 4)
    if stage == 3 or (rounds and builder.operation.row_inputs):
        return tuning.COLUMN_WARPS_ROWS
    many = rounds or (vector == tuning.COLUMN_VECTOR and exact)
    return tuning.COLUMN_WARPS_FLOAT if many else tuning.COLUMN_WARPS


def _long_walkers(beside: _Beside) -> int:
    """Return the walkers of a block where several share a row that is read twice."""
    warps = tuning.COLUMN_LONG_WARPS if beside.staged else tuning.COLUMN_BLOCK_WARPS
    return min(beside.most, warps * WARP // beside.lanes)


def _staged_lanes(inner: int, vector: int, direct: int, parts: int) -> list[int]:
    """Return how many lanes may take staged rows side by side, in passes: the best first.

    So many that at most a quarter of them are idle in all passes; or fewer, for longer rows.
    """
    if inner <= WARP * vector:
        return [direct]
    lanes = [WARP, WARP // 2, WARP // 4]
    while parts == 1 and len(lanes) > 1 and 4 * (-inner % (lanes[0] * vector)) > inner:
        del lanes[0]
    return lanes
