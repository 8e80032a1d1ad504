"""Row lengths: every one that people use, and both sides of every length where the plan changes."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.contract.table import CONTRACTS, underflow
from tests.support import (
    DTYPES,
    OPS,
    PLAN_KINDS,
    SWEPT_DTYPES,
    assert_plan,
    bits,
    boundaries,
    case,
    dtype_of,
    kind,
    logits,
    planned,
    run,
    run_repeated,
)

ROWS = 3
WIDEST = 4096
SLICES = 16
BATCH = 64  # widths that are compared at once

# ---------------------------------------------------------------------------- each width up to 4096


def wide(values: np.ndarray) -> np.ndarray:
    """Return values in a dtype that judges theirs: twice as precise or more."""
    return values.astype(np.longdouble if values.dtype == np.float64 else np.float64)


def check_padded_softmax(y: np.ndarray, x: np.ndarray) -> None:
    """Assert the bound for rows padded with −inf."""
    exact = wide(x)
    exact = np.exp(exact - exact.max(axis=-1, keepdims=True))
    exact /= exact.sum(axis=-1, keepdims=True)
    # There are a hundred million of them: in float64 where that is enough.
    judge = reference.ulp_error if y.dtype == np.float64 else narrow_ulp_error
    error = judge(y, exact)
    worst = np.unravel_index(int(error.argmax()), error.shape)
    assert error[worst] <= CONTRACTS["softmax"].bound[y.dtype.name], (error[worst], worst)


def narrow_ulp_error(y: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error in units in the last place of a dtype narrower than float64."""
    u = 2 * reference.unit_roundoff(y.dtype.name)
    lowest = 2.0**-14 if y.dtype == np.float16 else 2.0**-126
    # Keeping sign and exponent only gives the power of two below.
    power = (exact.view(np.uint64) & np.uint64(0xFFF << 52)).view(np.float64)
    got = y.astype(np.float64)
    error = np.abs(got - exact) / (u * np.maximum(power, lowest))
    if y.dtype != np.float16:  # whose subnormal numbers are normal ones of float32
        error[(got == 0) & (exact < lowest)] = 0
    return error


def check_padded_vjp(dx: np.ndarray, y: np.ndarray, dy: np.ndarray) -> None:
    """Assert the bound for rows padded with zeros."""
    name = dx.dtype.name
    u = reference.unit_roundoff(name)
    y_, dy_ = wide(y), wide(dy)
    product = y_ * dy_
    exact = y_ * (dy_ - product.sum(axis=-1, keepdims=True))
    total = np.abs(product).sum(axis=-1, keepdims=True)
    factor = np.abs(dy_) + total
    bound = CONTRACTS["softmax_vjp"].bound[name] * u * np.abs(y_) * factor
    bound += underflow(name, None if name == "float64" else factor)
    if name in ("float16", "bfloat16"):
        bound += u * np.abs(exact)
    over = np.abs(dx.astype(exact.dtype) - exact) / bound
    worst = np.unravel_index(int(over.argmax()), over.shape)
    assert over[worst] <= 1, (over[worst], worst)


@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
def test_every_width(device: Any, dtype: str, part: int) -> None:
    """Widths 1 to 4096, three rows against the reference, and the first row alone bit for bit.

    A part takes every 16th width, so that all parts take as long.
    """
    dt = dtype_of(dtype)
    drawn = logits((3, ROWS, WIDEST), dtype, 3, seed=part)
    drawn[:, 1] = (drawn[:, 1].astype(np.float64) * 4 + 100).astype(dt)
    ran = set()
    widths = range(part + 1, WIDEST + 1, SLICES)
    for start in range(0, len(widths), BATCH):
        batch = widths[start : start + BATCH]
        shape = (len(batch), ROWS, batch[-1])
        x = np.full(shape, -np.inf, dt)
        y, dy, dx = (np.zeros(shape, dt) for _ in range(3))
        for i, n in enumerate(batch):
            x[i, :, :n] = drawn[n % 3, :, -n:]
            dy[i, :, :n] = drawn[2 - n % 3, :, :n]
            x_ = device.asarray(x[i, :, :n])
            y_ = cs.softmax(x_)
            dy_ = device.asarray(dy[i, :, :n])
            y[i, :, :n] = device.asnumpy(y_)
            dx[i, :, :n] = device.asnumpy(cs.softmax_vjp(y_, dy_))
            alone = device.asnumpy(cs.softmax(x_[:1]))
            assert (bits(alone) == bits(y[i, :1, :n])).all(), f"softmax of one row of {n}"
            alone = device.asnumpy(cs.softmax_vjp(y_[:1], dy_[:1]))
            assert (bits(alone) == bits(dx[i, :1, :n])).all(), f"derivative of one row of {n}"
        check_padded_softmax(y, x)
        check_padded_vjp(dx, y, dy)
        for op in OPS:
            for n in (batch[0], batch[-1]):
                ran.add(kind(planned(op, dtype, (ROWS, n), -1, device.arch)).split()[0])
    assert ran == {"group", "block"}


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
def test_every_short_width_down_a_column(device: Any, dtype: str) -> None:
    """Lengths 1 to 300 along axis 0, for numbers of columns of each width of access."""
    for n in range(1, 301):
        columns = (1, 3, 4, 6, 33)[n % 5]
        x = logits((n, columns), dtype, seed=n)
        for op in OPS:
            plan = planned(op, dtype, x.shape, 0, device.arch)
            assert (plan.pattern == "column") == (n > 1 and columns > 1)
            run(device, op, x, axis=0)


# --------------------------------------------------------------------------------- changes of plan

FEW = 2
MANY = {"sm_75": 11, "sm_80": 28, "sm_90": 67}  # rows that keep the GPU busy, so that none is split
LONGEST = 66_000
LONGEST_COLUMN = 9_000
COLUMNS = (3, 40)


@cache
def changes(op: str, dtype: str, arch: str) -> list[tuple[tuple[int, int], int, str]]:
    """Shape, axis and kind of plan on either side of every change, each once."""
    found: dict[tuple[tuple[int, int], int], str] = {}
    for rows in (FEW, MANY[arch]):
        for n, plan in boundaries(op, dtype, arch, rows, False, 1, LONGEST):
            if n >= WIDEST:
                found[(rows, n), -1] = kind(plan)
    for columns in COLUMNS:
        for n, plan in boundaries(op, dtype, arch, columns, True, 2, LONGEST_COLUMN):
            found[(n, columns), 0] = kind(plan)
    return [(shape, axis, name) for (shape, axis), name in found.items()]


@pytest.mark.parametrize("arch", MANY)
@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_both_sides_of_every_change_of_plan(device: Any, op: str, dtype: str, arch: str) -> None:
    """Up to three rows against the reference, repeated for as many as the plan wants."""
    with device.on(arch=arch):
        for shape, axis, expected in changes(op, dtype, arch):
            assert_plan(cs.explain(op, shape=shape, dtype=dtype, axis=axis, arch=arch), expected)
            rows, n = shape if axis else shape[::-1]
            x = logits((min(rows, ROWS), n), dtype, 10, seed=n)
            run_repeated(device, op, x, rows, axis)


def test_the_changes_reach_every_plan() -> None:
    """Between them, the sweeps above and the cases below run every kind of plan there is."""
    for op in OPS:
        for dtype in DTYPES:
            reached = {name for arch in MANY for *_, name in changes(op, dtype, arch)} | {"group"}
            # Large clusters, and those that also park, need rows longer than most of this sweep's.
            longer = {"block x16", "block x8 parked", "block x16 parked"}
            assert reached | longer == {*PLAN_KINDS, *longer}, (op, dtype)


@pytest.mark.parametrize("wanted", PLAN_KINDS)
@pytest.mark.parametrize("op", OPS)
def test_every_kind_of_plan(device: Any, op: str, wanted: str) -> None:
    """A short case of each kind in each dtype, of logits that spread widely and lie far from 0."""
    for dtype in DTYPES:
        chosen = case(wanted, op, dtype)
        with device.on(arch=chosen.arch):
            plan = cs.explain(
                op, shape=chosen.shape, dtype=dtype, axis=chosen.axis, arch=chosen.arch
            )
            assert_plan(plan, wanted)
            rows, n = chosen.shape if chosen.axis else chosen.shape[::-1]
            x = logits((2, n), dtype, 30, -1000, seed=1)
            run_repeated(device, op, x, rows, chosen.axis)


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("op", OPS)
def test_widest_access(device: Any, op: str, dtype: str) -> None:
    """Rows of whole 16-byte words are read by them, in every pattern along the row."""
    seen = set()
    for wanted in PLAN_KINDS:
        if wanted.startswith("column"):
            continue
        chosen = case(wanted, op, dtype)
        if chosen.arch != device.arch and device.name == "cuda":
            continue
        rows, n = chosen.shape
        # A row that is staged may have another plan than one as long that is aligned.
        for length in range(n // 32 * 32 + 32, 4 * n, 32):
            shape = (rows, length)
            plan = cs.explain(op, shape=shape, dtype=dtype, arch=chosen.arch)
            if kind(plan) == wanted:
                break
        else:
            # Aligned rows of wider elements park before they need 16 blocks; staged ones do not.
            assert wanted == "block x16" and dtype_of(dtype).itemsize > 2, (wanted, chosen)
            continue
        assert_plan(plan, wanted, vector=16 // dtype_of(dtype).itemsize)
        with device.on(arch=chosen.arch):
            run_repeated(device, op, logits((2, shape[1]), dtype, 3, seed=2), shape[0])
            seen.add(plan.pattern)
    if device.name == "emulator":
        assert seen == {"group", "block", "stream", "split"}
