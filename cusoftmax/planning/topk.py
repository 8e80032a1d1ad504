"""Plans of operations that select the best k elements of each row.

A row is read once, however long it is, because only k candidates and a node are kept of it. So rows
need not be held on chip, and only short ones are.

The order of summation follows from the row length, dtypes, layout and k, as do lanes, chunk and
slots. The number of rows and the GPU only decide which warp reads a chunk.
"""

from __future__ import annotations

from typing import Any

from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.planning import tuning
from cusoftmax.planning.builder import PlanBuilder, ceil_div, lanes_of, power_of_two
from cusoftmax.planning.checks import MOST_SELECTED
from cusoftmax.planning.plan import MAX_GRID, WARP, Kernel, Launch, Plan
from cusoftmax.planning.staging import SECTOR_BYTES, span_bytes, staged_operands, staged_vector

_INDEX_BYTES = 8
_PADDING = 4  # elements between neighbouring rows in shared memory: kPitch in topk_column.cuh


def topk(builder: PlanBuilder) -> Plan:
    """Choose the launches for selecting k elements of each row."""
    problem, device = builder.problem, builder.device
    rows, n, item = problem.rows, problem.n, builder.along[0][1]
    lanes, _, _ = _lanes_and_slots(builder)
    if builder.row_is_contiguous:
        if n <= builder.chunk:
            return _group(builder)
        few = rows * tuning.SPLIT_FILL <= device.sm_count
        long = n > builder.chunk * tuning.TOPK_WARPS * tuning.TOPK_SPLIT_ROUNDS
        return (_split if few and long else _block)(builder)
    # With fewer rows, a warp would use less than the 32 bytes that memory gives at each place.
    if n <= builder.chunk and WARP // lanes * item >= SECTOR_BYTES:
        return _group(builder)
    return _column(builder)


def _lanes_and_slots(builder: PlanBuilder) -> tuple[int, int, int]:
    """Return the lanes that hold a short row, the elements of a lane, and its slots for picks."""
    lanes, items = lanes_of(builder)
    few = tuning.TOPK_FEW
    if _selected(builder) <= max(few, lanes):
        return lanes, items, max(1, min(few, lanes * items) // lanes)
    lanes = max(lanes, few)
    return lanes, builder.items, MOST_SELECTED // lanes


def _group(builder: PlanBuilder) -> Plan:
    lanes, items, slots = _lanes_and_slots(builder)
    threads = tuning.GROUP_THREADS
    staged = staged_operands(builder, lanes)
    vector = staged_vector(builder) if staged else _vector(builder)
    shared = span_bytes(builder, staged, threads // lanes * builder.problem.n)
    picks = threads // lanes * _selected(builder)  # of a block
    together = _stores_together(builder, slots)
    if not together and stages_results(builder, lanes, slots):
        staged |= 0b110
        size = ITEMSIZE[builder.problem.operands[1].dtype]
        room = ceil_div(picks * size, _INDEX_BYTES) + picks
        shared = max(shared, room * _INDEX_BYTES)
    kept = 0 if staged & 1 else _kept_bytes(builder, lanes, items, slots)
    kernel = _kernel(
        builder,
        "topk_group",
        vector=vector,
        staged=staged,
        lanes=lanes,
        items=items,
        slots=slots,
        # With float64 and its keys, a thread needs more than 128 registers.
        threads=(tuning.TOPK_WARPS if builder.acc == "float64" else tuning.CAP_WARPS) * WARP,
        asserted=(("CSM_PICKS_TOGETHER", int(together)), ("CSM_KEPT_BYTES", kept)),
    )
    shared = max(shared, threads * kept)
    grid = min(ceil_div(builder.problem.rows, threads // lanes), MAX_GRID)
    return builder.plan(
        "topk_group",
        (Launch(kernel, grid, threads, shared),),
        vector=vector,
        why=f"rows of at most {builder.chunk} fit in the registers of a warp or less",
    )


def _kept_bytes(builder: PlanBuilder, lanes: int, items: int, slots: int) -> int:
    """Return the shared memory that a thread needs for its elements: ``kKeeps`` in key_tile.cuh."""
    places = lanes * slots
    sorts = lanes < WARP and places <= tuning.TOPK_FEW and builder.operation.selects_many
    rough = builder.problem.operands[0].dtype == "float32" == builder.acc
    return 4 * items + 16 if sorts and rough and items >= 16 and items % places == 0 else 0


def _stores_together(builder: PlanBuilder, slots: int) -> bool:
    """Whether each lane of a short row stores its two picks at once: all lanes' lie end to end."""
    problem, selected = builder.problem, _selected(builder)
    if not builder.operation.selects_many or slots != 2 or selected % slots:
        return False
    sizes = [(operand, ITEMSIZE[operand.dtype]) for operand in problem.operands[1:]]
    return all(
        (o.batch_strides, o.reduce_strides) == ((selected * size,), (size,))
        and o.alignment % (slots * size) == 0
        for o, size in sizes
    )


def stages_results(builder: PlanBuilder, lanes: int, slots: int) -> bool:
    """Whether the picks of short rows pass through shared memory: where lanes store apart."""
    problem, selected = builder.problem, _selected(builder)
    if not builder.operation.selects_many or len(problem.batch_shape) > 1:
        return False
    if slots == 1 and lanes == selected:
        return False
    large = problem.rows * problem.n * builder.along[0][1] >= tuning.STAGED_BYTES
    sizes = [(operand, ITEMSIZE[operand.dtype]) for operand in problem.operands[1:]]
    return large and all(
        (o.batch_strides, o.reduce_strides) == ((selected * size,), (size,)) for o, size in sizes
    )


def _block(builder: PlanBuilder) -> Plan:
    chunks = ceil_div(builder.problem.n, builder.chunk)
    rounds = power_of_two(ceil_div(chunks, tuning.TOPK_WARPS))
    warps = ceil_div(chunks, rounds)
    staged = _staged(builder)
    kernel = _long(builder, "topk_block", None, staged)
    shared = warps * (_list_bytes(builder) + span_bytes(builder, staged, builder.chunk))
    return builder.plan(
        "topk_block",
        (Launch(kernel, min(builder.problem.rows, MAX_GRID), warps * WARP, shared),),
        vector=staged_vector(builder) if staged else _vector(builder),
        rounds=rounds,
        why=f"{chunks} chunks of {builder.chunk}, which {warps} warps pass over once",
    )


def _split(builder: PlanBuilder) -> Plan:
    rows, n, warps = builder.problem.rows, builder.problem.n, int(tuning.TOPK_WARPS)
    most = tuning.TOPK_BLOCKS * builder.device.sm_count // rows  # pieces of a row
    lists = int(tuning.TOPK_LISTS)
    if not builder.operation.selects_many:
        lists = most  # of one element each: all of them are merged at once
        small = WARP * max(builder.group, tuning.TOPK_ITEMS_ONE)
        if ceil_div(n, small * warps) <= most:  # without sums, another chunk has the same bits
            builder.items, builder.chunk = small // WARP, small
    # Few pieces: one half of a block's warps selects while the other sums.
    few = ceil_div(n, builder.chunk * warps // 2) <= min(most, lists)
    halves = builder.operation.relative and few
    sharing = warps // 2 if halves else warps
    all_rounds = ceil_div(n, builder.chunk * sharing)
    rounds, pieces = _pieces(builder, all_rounds, rows)
    while pieces > lists * rounds:
        rounds *= 2
        pieces = ceil_div(all_rounds, rounds)
    staged = _staged(builder)
    span = span_bytes(builder, staged, builder.chunk)
    passed = sharing * builder.chunk * builder.along[0][1] if halves else 0
    return builder.plan(
        "topk_split",
        tuple(
            Launch(
                _long(builder, "topk_split", stage, staged),
                min(grid, MAX_GRID),
                warps * WARP,
                warps * (_list_bytes(builder) + span) + (0 if stage else passed),
            )
            for stage, grid in enumerate((rows * pieces, rows))
        ),
        vector=staged_vector(builder) if staged else _vector(builder),
        rounds=rounds,
        passes=2 if halves else 1,
        workspace=rows * pieces * _list_bytes(builder, _selected(builder)),
        why=f"{rows} long rows would occupy {rows} of {builder.device.sm_count} multiprocessors: "
        f"{pieces} blocks share each",
    )


def _column(builder: PlanBuilder) -> Plan:
    problem, item = builder.problem, builder.along[0][1]
    # Rows side by side, a warp for each: as many as fill the 32 bytes that memory gives at once.
    # For 16-bit dtypes only half as many, if a thread needs more than 128 registers.
    warps = tuning.TOPK_WARPS * (2 if _is_small(builder) else 1)
    tiles = ceil_div(problem.rows, warps)
    least = tuning.TOPK_COLUMN_ROUNDS
    rounds, pieces = _pieces(builder, ceil_div(problem.n, builder.chunk * least), tiles)
    staged = warps * _pitch(builder) * item
    several = pieces > 1
    launches = [
        Launch(
            _long(builder, "topk_column", int(several)),
            min(tiles * pieces, MAX_GRID),
            warps * WARP,
            staged,
        )
    ]
    if several:
        kernel = _long(builder, "topk_column", 2)
        shared = warps * _list_bytes(builder)
        launches.append(Launch(kernel, min(problem.rows, MAX_GRID), warps * WARP, shared))
    return builder.plan(
        "topk_column",
        tuple(launches),
        rounds=rounds * least,
        workspace=problem.rows * pieces * _list_bytes(builder, _selected(builder))
        if several
        else 0,
        why=f"the rows lie down a strided axis: a block takes {warps} side by side"
        + (f", and {pieces} blocks share them" if several else ""),
    )


def lists_of_piece(builder: PlanBuilder) -> int:
    """Return how many lists of candidates a piece of each row may have: one for each warp."""
    warps = tuning.TOPK_BLOCKS * tuning.TOPK_WARPS * builder.device.sm_count
    return max(1, warps // builder.problem.rows)


def of_piece(builder: PlanBuilder, stage: int, units: int, *, short: bool) -> Launch:
    """Return the launch of a stage of pieces of rows (``patterns/topk_piece.cuh``).

    `units` of them share the warps of a block or, in stage 1, take a block each. Rows are `short`
    if they have at most a chunk; the problem's are then whole.
    """
    lanes, items, slots = WARP, builder.items, _slots(builder)
    if short:
        lanes, items, slots = _lanes_and_slots(builder)
    list_bytes = _list_bytes(builder, lanes * slots)
    kernel = _kernel(
        builder,
        "topk_piece",
        **({} if stage == 0 else {"vector": 1}),
        lanes=lanes,
        items=items,
        slots=slots,
        stage=stage,
        threads=(tuning.TOPK_WARPS if builder.acc == "float64" else tuning.CAP_WARPS) * WARP,
        asserted=(("CSM_LIST_BYTES", list_bytes),),
    )
    if stage == 1:
        warps = tuning.TOPK_WARPS
        return Launch(kernel, min(units, MAX_GRID), warps * WARP, warps * list_bytes)
    threads = tuning.GROUP_THREADS
    return Launch(kernel, min(ceil_div(units * lanes, threads), MAX_GRID), threads, 0)


def _pieces(builder: PlanBuilder, all_rounds: int, tiles: int) -> tuple[int, int]:
    """Return the rounds that a block makes over its piece of a row, and the pieces of a row.

    A row takes `all_rounds` in all. There are as many pieces as keep the GPU busy and no more,
    because the second launch reads k candidates of each.
    """
    wanted = max(1, tuning.TOPK_BLOCKS * builder.device.sm_count // tiles)
    rounds = power_of_two(ceil_div(all_rounds, wanted))
    return rounds, ceil_div(all_rounds, rounds)


def _staged(builder: PlanBuilder) -> int:
    """Return whether the chunks of long rows are staged. A warp has a lane for each end's bytes."""
    return staged_operands(builder) if builder.along[0][1] > 1 else 0


def _long(builder: PlanBuilder, pattern: str, stage: int | None, staged: int = 0) -> Kernel:
    """Return a kernel whose warps take a chunk at a time, and keep the best elements so far."""
    capped = _is_small(builder) or (builder.acc == "float32" and pattern != "topk_column")
    warps = tuning.TOPK_WARPS * (2 if capped else 1)  # capped at 128 registers a thread
    return _kernel(
        builder,
        pattern,
        vector=staged_vector(builder) if staged else _vector(builder),
        staged=staged,
        lanes=WARP,
        items=builder.items,
        slots=_slots(builder),
        stage=stage,
        threads=warps * WARP,
        asserted=(
            ("CSM_LIST_BYTES", _list_bytes(builder)),
            *((("CSM_PITCH", _pitch(builder)),) if pattern == "topk_column" else ()),
        ),
    )


def _pitch(builder: PlanBuilder) -> int:
    return builder.chunk + _PADDING


def _selected(builder: PlanBuilder) -> int:
    return int(builder.problem.options[0])


def _is_small(builder: PlanBuilder) -> bool:
    # Noise, made for one element at a time, also takes more than 128 registers.
    noisy = "noisy" in builder.operation.features
    narrow = builder.acc == "float32" and builder.along[0][1] == 2
    return narrow and _slots(builder) == 1 and not noisy


def _slots(builder: PlanBuilder) -> int:
    return ceil_div(_selected(builder), WARP)


def _kernel(builder: PlanBuilder, pattern: str, **kind: Any) -> Kernel:
    # topk_column handles the stride of one-dimensional rows itself.
    general = not builder.row_is_contiguous and pattern != "topk_column"
    kind = {"vector": _vector(builder)} | kind
    return builder.kernel(pattern, group=builder.group, general=general, **kind)


def _vector(builder: PlanBuilder) -> int:
    return builder.row_vector if builder.row_is_contiguous else 1


def _list_bytes(builder: PlanBuilder, places: int = 0) -> int:
    """Return the bytes of a list of candidates (a key and an index each) and of its node."""
    key = 8 if builder.along[0][1] == 8 else 4
    if "noisy" in builder.operation.features:  # the compared value is computed, not the stored one
        key = builder.acc_bytes
    node = builder.node_bytes if builder.operation.relative else 0
    return (places or _slots(builder) * WARP) * (_INDEX_BYTES + key) + node
