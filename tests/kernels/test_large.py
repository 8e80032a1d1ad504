"""Arrays of more than 2**31 elements and 2**32 bytes: offsets are 64-bit wherever they are formed.

Memory is sparse and of each launch a few blocks run: the first, the last, and others on both sides
of element 2**31.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import cupy
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.emulator._memory import view_of
from cusoftmax.planning.plan import Plan
from tests.support import OPS, assert_plan, check_softmax, check_vjp, dtype_of, logits, plan_of

HALF = 2**31
Pair = tuple[Any, ...]


def arrays(op: str, shape: tuple[int, ...], dtype: str) -> tuple[Pair, Any]:
    """Return sparse inputs and an output of a shape."""
    *inputs, out = (emulator.sparse(shape, dtype_of(dtype)) for _ in range(2 + (op != "softmax")))
    assert out.size > HALF and out.nbytes > 2**32
    return tuple(inputs), out


def fill(inputs: Pair, region: Any, seed: int) -> None:
    """Put values into a region of the inputs: logits, or a softmax of them and a gradient."""
    shape = inputs[0][region].shape
    x = logits(shape, inputs[0].dtype.name, seed=seed)
    if len(inputs) > 1:
        view_of(inputs[1][region])[...] = x[..., ::-1]
        x = np.asarray(reference.softmax(x)).astype(x.dtype)
    view_of(inputs[0][region])[...] = x


def check(op: str, inputs: Pair, out: Any, region: Any, axis: int = -1) -> None:
    """Compare a region that holds whole rows with the reference."""
    values = [emulator.asnumpy(a[region]) for a in inputs]
    judge = check_softmax if op == "softmax" else check_vjp
    judge(emulator.asnumpy(out[region]), *values, axis)


def call(op: str, inputs: Pair, out: Any, axis: int, blocks: list[int]) -> None:
    """Run some blocks."""
    with emulator.only_blocks(blocks):
        assert getattr(cs, op)(*inputs, axis=axis, out=out) is out


@contextlib.contextmanager
def empty_workspace() -> Iterator[None]:
    """Allocate zeros: the nodes of blocks that do not run then hold no maximum above 0, no sum."""

    def allocate(nbytes: int) -> Any:
        return emulator.sparse((nbytes,), np.uint8).data

    with cupy.cuda.using_allocator(allocate):
        yield


# ------------------------------------------------------------------------------------- many rows


def rows_a_block(plan: Plan) -> int:
    """Return the number of rows that a block of the group pattern works on at once."""
    (launch,) = plan.launches
    return launch.block // int(launch.kernel["CSM_LANES"]) * plan.rounds


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n", [1, 2, 24, 33, 250])
def test_group(emulated: Any, op: str, n: int) -> None:
    rows = HALF // n + 1003
    inputs, out = arrays(op, (rows, n), "float16")
    plan = plan_of(emulated, op, *inputs, out=out)
    assert_plan(plan, "group")
    each, (launch,) = rows_a_block(plan), plan.launches
    crossing = HALF // n // each
    blocks = [0, launch.grid // 3, crossing - 1, crossing, launch.grid - 1]
    regions = [slice(b * each, min((b + 1) * each, rows)) for b in blocks]
    for seed, region in enumerate(regions):
        fill(inputs, region, seed)
    call(op, inputs, out, -1, blocks)
    for region in regions:
        check(op, inputs, out, region)


RESIDENT = (  # operation, plan, architecture, elements a row, whether they are staged
    ("softmax", "block", "sm_90", 4096, False),
    ("softmax", "block x2", "sm_90", 20000, False),
    ("softmax", "block x4", "sm_90", 50001, True),
    ("softmax", "block x8", "sm_90", 120000, False),
    ("softmax", "block x16", "sm_90", 240000, False),
    ("softmax", "block x16 parked", "sm_90", 400000, False),
    ("softmax", "stream parked", "sm_75", 50001, False),
    ("softmax", "stream", "sm_75", 500001, True),
    ("softmax_vjp", "block", "sm_90", 4096, False),
    ("softmax_vjp", "block x2", "sm_90", 9000, False),
    ("softmax_vjp", "block x4", "sm_90", 25001, True),
    ("softmax_vjp", "block x8", "sm_90", 50000, False),
    ("softmax_vjp", "block x16", "sm_90", 120000, False),
    ("softmax_vjp", "block x16 parked", "sm_90", 200000, False),
    ("softmax_vjp", "stream parked", "sm_75", 50001, False),
    ("softmax_vjp", "stream", "sm_75", 500001, True),
)


@pytest.mark.parametrize("op, wanted, arch, n, staged", RESIDENT)
def test_a_block_or_a_cluster_for_each_row(
    emulated: Any, op: str, wanted: str, arch: str, n: int, staged: bool
) -> None:
    rows = HALF // n + 5
    inputs, out = arrays(op, (rows, n), "float16")
    with emulated.on(arch=arch):
        plan = plan_of(emulated, op, *inputs, out=out)
        assert_plan(plan, wanted)
        assert (plan.launches[0].kernel["CSM_STAGED"] != "0") == staged
        chosen = [0, rows // 2, HALF // n, rows - 1]
        for row in chosen:
            fill(inputs, slice(row, row + 1), row)
        call(op, inputs, out, -1, [row * plan.cluster for row in chosen])
    for row in chosen:
        check(op, inputs, out, slice(row, row + 1))


@pytest.mark.parametrize("op", OPS)
def test_rows_far_apart(emulated: Any, op: str) -> None:
    """A stride between rows, and an offset within one, of more than 2**31 elements each."""
    whole, out = arrays(op, (2, HALF + 64), "float16")
    inputs = tuple(a[:, -100:] for a in whole)
    fill(inputs, slice(None), 3)
    target = out[:, 5:105]
    assert_plan(plan_of(emulated, op, *inputs, out=target), "group")
    assert getattr(cs, op)(*inputs, out=target) is target
    check(op, inputs, target, slice(None))
    backwards = tuple(a[::-1] for a in inputs)
    assert getattr(cs, op)(*backwards, out=target) is target
    check(op, backwards, target, slice(None))


# -------------------------------------------------------------------------------------- long rows


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("rows", [1, 3])
def test_split(emulated: Any, op: str, rows: int) -> None:
    """A row of more than 2**31 elements. Of its segments some run, the others count as nothing."""
    n = HALF + 12345 if rows == 1 else HALF // 2 + 12345
    inputs, out = arrays(op, (rows, n), "float16")
    plan = plan_of(emulated, op, *inputs, out=out)
    assert_plan(plan, "split")
    first, _ = plan.launches
    length = plan.chunk * (first.block // 32) * plan.rounds
    segments = -(-n // length)
    assert first.grid == rows * segments
    chosen = [segments - 2, segments - 1]  # the last is short
    check_segments(op, inputs, out, -1, chosen, length, rows - 1, (rows - 1) * segments)


@pytest.mark.parametrize("op", OPS)
def test_long_column(emulated: Any, op: str) -> None:
    """Rows of more than 2**30 elements down a column, two of them side by side."""
    n = HALF // 2 + 12345
    inputs, out = arrays(op, (n, 2), "float16")
    plan = plan_of(emulated, op, *inputs, axis=0, out=out)
    assert_plan(plan, "column long")
    first, second, _ = plan.launches
    assert second.grid == 1  # whichever blocks are chosen, it folds all rows
    kernel = first.kernel
    length = int(kernel["CSM_ITEMS"]) * (first.block // int(kernel["CSM_LANES"]))
    segments = -(-n // length)
    assert first.grid == segments
    # The last launch begins with the last of them: those that are chosen are so from either end.
    some = {0, 1, segments // 2}
    chosen = sorted(some | {segments - 1 - s for s in some})
    check_segments(op, inputs, out, 0, chosen, length, 0, 0)


def check_segments(
    op: str,
    inputs: Pair,
    out: Any,
    axis: int,
    chosen: list[int],
    length: int,
    row: int,
    first_block: int,
) -> None:
    """Run chosen segments of a row (or of all columns): the result is that of a row of them alone.

    The maximum must be above 0, as the nodes that are missing say 0.
    """
    n = out.shape[axis]
    where: list[Any] = [slice(s * length, min((s + 1) * length, n)) for s in chosen]
    regions = [(slice(row, row + 1), w) if axis else w for w in where]
    for seed, region in enumerate(regions):
        fill(inputs, region, seed)
    with empty_workspace():
        call(op, inputs, out, axis, [first_block + s for s in chosen])
    together = [
        np.concatenate([emulator.asnumpy(a[r]) for r in regions], axis=axis) for a in (*inputs, out)
    ]
    if op == "softmax":
        assert (together[0].max(axis=axis) > 0).all()
    (check_softmax if op == "softmax" else check_vjp)(together[-1], *together[:-1], axis)


# ---------------------------------------------------------------------------------------- columns


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [(3, HALF // 2 + 8), (40, HALF // 32 + 24), (300, HALF // 256)])
def test_column(emulated: Any, op: str, shape: tuple[int, int]) -> None:
    """Elements of a row up to 2**30 elements apart, and a last tile past 2**31 of them."""
    inner = shape[1]
    inputs, out = arrays(op, shape, "float16")
    plan = plan_of(emulated, op, *inputs, axis=0, out=out)
    assert plan.pattern == "column" and len(plan.launches) == 1
    (launch,) = plan.launches
    columns = int(launch.kernel["CSM_LANES"]) * plan.vector * plan.passes
    tiles = -(-inner // columns)
    assert launch.grid == tiles * plan.cluster
    chosen = [0, tiles // 3, tiles - 2, tiles - 1]
    regions = [(slice(None), slice(t * columns, min((t + 1) * columns, inner))) for t in chosen]
    for seed, region in enumerate(regions):
        fill(inputs, region, seed)
    call(op, inputs, out, 0, [t * plan.cluster for t in chosen])
    for region in regions:
        check(op, inputs, out, region, axis=0)


@pytest.mark.parametrize("op", OPS)
def test_column_of_an_outer_dimension(emulated: Any, op: str) -> None:
    """Many matrices, the softmax along the middle axis."""
    shape = (HALF // 2400 + 7, 50, 48)
    inputs, out = arrays(op, shape, "float16")
    plan = plan_of(emulated, op, *inputs, axis=1, out=out)
    assert_plan(plan, "column")
    tiles = plan.launches[0].grid // shape[0]
    chosen = [0, shape[0] // 2, HALF // 2400, shape[0] - 1]
    for matrix in chosen:
        fill(inputs, slice(matrix, matrix + 1), matrix)
    call(op, inputs, out, 1, [m * tiles + t for m in chosen for t in range(tiles)])
    for matrix in chosen:
        check(op, inputs, out, slice(matrix, matrix + 1), axis=1)
