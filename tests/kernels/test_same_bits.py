"""One order of summation: a row's bits are the same alone and anywhere in any batch.

And so they are in whatever pattern the number of rows and the GPU lead to, at whatever alignment,
and in whatever order the threads run. float16 kernels use ex2.approx, whose emulated error is drawn
from the seed: their softmax is compared within one seed.

The data make bits tell. A derivative's `dy` is nearly constant, so that `dy - dot` cancels and each
last bit of the dot product shows in the result, even after rounding to 16 bits.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.emulator._memory import view_of
from tests.support import (
    DTYPES,
    OPS,
    SWEPT_DTYPES,
    WHOLE,
    bits,
    blocks_of,
    dtype_of,
    kind,
    planned,
)

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")
BATCHES = (1, 2, 63, 1000)
SEEDS = range(10)
# Between them all kinds of plan for either operation and every dtype (asserted below), and accesses
# of 1 to 8 elements: odd, even, and multiples of 4 and 8.
LENGTHS = (61, 126, 600, 1020, 4008, 5000, 14002, 20002, 40000, 70001)
CLUSTERS = {"block x2", "block x4", "block x8"}
ROW_KINDS = {"group", "block", "block parked", *CLUSTERS, "stream", "split"}


def row_of(op: str, dtype: str, n: int) -> tuple[np.ndarray, ...]:
    """Return the inputs of one row."""
    rng = np.random.default_rng(n)
    x, dtype_ = rng.normal(0, 3, n), dtype_of(dtype)
    if op in ("softmax", "log_softmax"):
        return (x.astype(dtype_),)
    return reference.softmax(x).astype(dtype_), rng.normal(30000, 40, n).astype(dtype_)


def positions(rows: int) -> list[int]:
    return sorted({0, min(5, rows - 1), rows - 1})


def in_batch(op: str, row: tuple[np.ndarray, ...], rows: int, arch: str, seed: int = 0) -> Any:
    """Return the bits of the same row at several places of a batch."""
    n, dtype = row[0].size, row[0].dtype
    made = planned(op, dtype.name, (rows, n), -1, arch)
    places = positions(rows)
    with emulator.activate(arch=arch, seed=seed):
        if made.pattern == "split" or rows * n <= WHOLE:
            inputs = []
            for salt, values in enumerate(row):
                batch = np.random.default_rng(salt).normal(0, 3, (rows, n)).astype(dtype)
                batch[places] = values
                inputs.append(emulator.asarray(batch))
            result = getattr(cs, op)(*inputs)
        else:
            inputs = [emulator.sparse((rows, n), dtype) for _ in row]
            for array, values in zip(inputs, row, strict=True):
                view_of(array)[places] = values
            result = emulator.sparse((rows, n), dtype)
            with emulator.only_blocks(blocks_of(made, places)):
                getattr(cs, op)(*inputs, out=result)
        return bits(view_of(result)[places])


def alone(op: str, row: tuple[np.ndarray, ...], seed: int = 0) -> Any:
    return in_batch(op, row, 1, "sm_90", seed)[0]


def same_everywhere(got: Any, expected: Any) -> None:
    for place, found in enumerate(got):
        different = np.flatnonzero(found != expected)
        assert not different.size, f"{different.size} elements differ at place {place}"


def draws_errors(op: str, dtype: str) -> bool:
    """Whether the bits depend on the seed, by the errors of ex2.approx."""
    return op in ("softmax", "log_softmax") and dtype in ("float16", "bfloat16")


# ---- rows ----


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_same_bits_in_any_batch_and_pattern(op: str, dtype: str, n: int) -> None:
    row = row_of(op, dtype, n)
    expected = alone(op, row)
    kinds = set()
    for arch, rows in itertools.product(ARCHITECTURES, BATCHES):
        kinds.add(kind(planned(op, dtype, (rows, n), -1, arch)))
        same_everywhere(in_batch(op, row, rows, arch), expected)
    assert len(kinds) >= (2 if n >= 20000 else 1), kinds


@pytest.mark.parametrize("wanted", sorted(ROW_KINDS))
@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_same_bits_in_any_order_of_threads(op: str, dtype: str, wanted: str) -> None:
    n, arch, rows = next(  # which raises where none of the lengths above leads to that kind
        (n, arch, rows)
        for n, arch, rows in itertools.product(LENGTHS, ARCHITECTURES, BATCHES)
        if kind(planned(op, dtype, (rows, n), -1, arch)) == wanted
    )
    row = row_of(op, dtype, n)
    expected = alone(op, row)
    for seed in SEEDS:
        if seed and draws_errors(op, dtype):
            expected = alone(op, row, seed)
        same_everywhere(in_batch(op, row, rows, arch, seed), expected)


# Where a warp holds two chunks: a whole row, the last without its second, clusters of blocks.
TWO_CHUNKS = {
    ("softmax", "float32", "sm_90"): (1025, 1537, 2049, 50257),
    ("softmax_vjp", "float16", "sm_90"): (1001, 1537, 8191, 50257),
    ("softmax_vjp", "float32", "sm_90"): (515, 1023, 1537, 8191, 50257),
    ("log_softmax", "bfloat16", "sm_100"): (1537, 2049, 8191, 50257),
    ("log_softmax", "float32", "sm_100"): (1537, 3073),
}


@pytest.mark.parametrize(
    ("op", "dtype", "arch", "n"),
    [(*key, n) for key, lengths in TWO_CHUNKS.items() for n in lengths],
)
def test_same_bits_where_a_warp_holds_two_chunks(op: str, dtype: str, arch: str, n: int) -> None:
    (launch,) = planned(op, dtype, (1000, n), -1, arch).launches
    assert launch.kernel["CSM_FIRST_ITEMS"] != "0"
    row = row_of(op, dtype, n)
    for seed in (0, 1):
        expected = alone(op, row, seed if draws_errors(op, dtype) else 0)
        same_everywhere(in_batch(op, row, 1000, arch, seed), expected)


def loss_bits(row: np.ndarray, rows: int, target: int, arch: str) -> list[tuple[Any, Any]]:
    """Return the bits of a row's loss and gradient, at several places of a batch."""
    made = planned("cross_entropy_grad", row.dtype.name, (rows, row.size), -1, arch)
    places, rng = positions(rows), np.random.default_rng(row.size)
    with emulator.activate(arch):
        logits = emulator.sparse((rows, row.size), row.dtype)
        if whole := rows * row.size <= WHOLE:
            view_of(logits)[...] = rng.normal(0, 3, (rows, row.size))
        view_of(logits)[places] = row
        targets = rng.integers(0, row.size, rows)
        targets[places] = target
        with contextlib.nullcontext() if whole else emulator.only_blocks(blocks_of(made, places)):
            found = cs.cross_entropy(logits, emulator.asarray(targets), reduction="none", grad=True)
        loss, gradient = map(view_of, found)
        return [(bits(loss[place]), bits(gradient[place])) for place in places]


@pytest.mark.parametrize("n", [515, 771, 1001, 1537, 2049, 4097, 50257])
@pytest.mark.parametrize("arch", ["sm_90", "sm_100"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_same_bits_of_losses_of_two_rows_or_chunks_at_once(dtype: str, arch: str, n: int) -> None:
    rows = 1001 if n > 1024 else 4801  # of so many a block has several
    made = planned("cross_entropy_grad", dtype, (rows, n), -1, arch)
    (launch,) = made.launches
    assert made.rounds > 1 or n > 1024
    assert (launch.kernel["CSM_FIRST_ITEMS"] != "0") == (n > 1024)
    assert (launch.kernel["CSM_ROWS_AT_ONCE"] == "2") == (n <= 1024)
    row = np.random.default_rng(n).normal(0, 3, n).astype(dtype_of(dtype))
    for target in (0, n // 2, n - 1, -100):
        (loss, gradient), *_ = loss_bits(row, 1, target, arch)
        for found in loss_bits(row, rows, target, arch):
            np.testing.assert_array_equal(found[0], loss)
            np.testing.assert_array_equal(found[1], gradient)


# Rows that many blocks hold only in clusters of sixteen.
LARGE = {"float16": 170000, "float32": 170000, "float64": 80000}


@pytest.mark.parametrize("dtype", LARGE)
def test_same_bits_in_large_clusters(dtype: str) -> None:
    op, rows, n = "softmax_vjp", 63, LARGE[dtype]
    assert kind(planned(op, dtype, (rows, n), -1, "sm_90")) == "block x16 parked"
    row = row_of(op, dtype, n)
    for seed in (0, 1):
        same_everywhere(in_batch(op, row, rows, "sm_90", seed), alone(op, row))


@pytest.mark.parametrize("n", [61, 1024, 4096, 8184])
@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_same_bits_at_any_alignment_and_pitch(op: str, dtype: str, n: int) -> None:
    row = row_of(op, dtype, n)
    expected = alone(op, row)
    itemsize = row[0].dtype.itemsize
    vectors = set()
    with emulator.activate():
        for misalign, padding in itertools.product((0, 1, 2, 4), (0, 1, 2, 4, 8)):
            inputs = []
            for values in row:
                wide = np.zeros((3, n + padding), values.dtype)
                wide[:, :n] = values
                inputs.append(emulator.asarray(wide, misalign * itemsize)[:, :n])
            with emulator.trace() as report:
                result = getattr(cs, op)(*inputs)
            vectors.add(report.widest_read // itemsize)
            same_everywhere(bits(emulator.asnumpy(result)), expected)
    widest = 16 // itemsize
    every = {1 << i for i in range(widest.bit_length())}
    assert vectors == ({1} if n % 2 else every)


# ---- columns ----

WIDTHS = (1, 2, 63, 1000)
COLUMN_LENGTHS = (7, 40, 300, 700)
COLUMN_KINDS = {"column", "column x2", "column x4", "column x8", "column long"}


def column_bits(
    op: str, row: tuple[np.ndarray, ...], width: int, arch: str, seed: int, misalign: int = 0
) -> Any:
    """Return the bits of a row at several columns of a matrix; width 1 is a view of a wider one."""
    n, dtype, places = row[0].size, row[0].dtype, positions(width)
    inputs = []
    with emulator.activate(arch=arch, seed=seed):
        for salt, values in enumerate(row):
            shape = (n, max(width, 3))
            matrix = np.random.default_rng(salt).normal(0, 3, shape).astype(dtype)
            matrix[:, places] = values[:, None]
            inputs.append(emulator.asarray(matrix, misalign)[:, :width])
        out = emulator.asarray(np.zeros(shape, dtype), misalign)[:, :width]
        getattr(cs, op)(*inputs, axis=0, out=out)
        return bits(np.ascontiguousarray(view_of(out)[:, places].T))


@pytest.mark.parametrize("n", COLUMN_LENGTHS)
@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_same_bits_in_any_column(op: str, dtype: str, n: int) -> None:
    row = row_of(op, dtype, n)
    itemsize = row[0].dtype.itemsize
    expected = column_bits(op, row, 1, "sm_90", 0)[0]
    for width, arch in itertools.product(WIDTHS, ("sm_80", "sm_90")):
        same_everywhere(column_bits(op, row, width, arch, 0), expected)
    same_everywhere(column_bits(op, row, 64, "sm_90", 0, itemsize), expected)


@pytest.mark.parametrize("wanted", sorted(COLUMN_KINDS))
@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_same_bits_in_any_column_and_order_of_threads(op: str, dtype: str, wanted: str) -> None:
    arch = "sm_80" if wanted == "column long" else "sm_90"
    width = 63
    lengths = range(4, 4096, 4)
    n = next(n for n in lengths if kind(planned(op, dtype, (n, width), 0, arch)) == wanted)
    row = row_of(op, dtype, n)
    expected = column_bits(op, row, 1, "sm_90", 0)[0]
    for seed in SEEDS:
        if seed and draws_errors(op, dtype):
            expected = column_bits(op, row, 1, "sm_90", seed)[0]
        same_everywhere(column_bits(op, row, width, arch, seed), expected)


@pytest.mark.parametrize("op", OPS)
def test_same_bits_in_large_clusters_of_columns(op: str) -> None:
    dtype, width = (
        "float64",
        17 * 4,
    )  # more than 132 blocks in clusters of eight, of lines of a sector
    n = next(
        n
        for n in range(20, 8192, 20)
        if kind(planned(op, dtype, (n, width), 0, "sm_90")) == "column x16"
    )
    row = row_of(op, dtype, n)
    same_everywhere(column_bits(op, row, width, "sm_90", 1), column_bits(op, row, 1, "sm_90", 0)[0])


@pytest.mark.parametrize("n", [1025, 1900, 5000])  # of two blocks, the same parked, and alone
@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_same_bits_in_columns_that_stream(op: str, dtype: str, n: int) -> None:
    row = row_of(op, dtype, n)
    width = 109 * 32 // row[0].dtype.itemsize  # more than the multiprocessors of sm_80
    assert kind(planned(op, dtype, (n, width), 0, "sm_80")).startswith("column stream")
    for seed in (0, 1):
        expected = column_bits(op, row, 1, "sm_90", seed)[0]
        same_everywhere(column_bits(op, row, width, "sm_80", seed), expected)


@pytest.mark.parametrize("n", [64, 200, 1000])
def test_bits_where_differences_are_flushed(n: int) -> None:
    """Sums so small that their rounding errors are subnormal: who adds to whom must not show."""
    rng = np.random.default_rng(n)
    exponents = rng.integers(-112, -90, (400, 1))
    y = rng.random((400, n), dtype=np.float32)
    dy = np.ldexp(rng.normal(size=(400, n)), exponents).astype(np.float32)
    with emulator.activate("sm_90"):
        expected, *others = (
            bits(
                emulator.asnumpy(
                    cs.softmax_vjp(*(emulator.asarray(a, misalign=m) for a in (y, dy)))
                )
            )
            for m in (0, 4, 8)
        )
    for got in others:
        np.testing.assert_array_equal(got, expected)


# ---- on whatever device there is ----


@pytest.mark.parametrize("n", [61, 4096])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_same_bits_on_the_device(device: Any, op: str, dtype: str, n: int) -> None:
    row = row_of(op, dtype, n)
    expected = None
    for rows in BATCHES[:3]:
        batches = [np.repeat(values[None], rows, axis=0) for values in row]
        result = getattr(cs, op)(*(device.asarray(batch) for batch in batches))
        got = bits(device.asnumpy(result))
        expected = got[0] if expected is None else expected
        same_everywhere(got, expected)
