"""Fused softmax and its backward pass in Triton, as in Triton's own tutorial.

A program computes whole rows, one after another. Each row is one block, as wide as the next power
of two, and is read and written once. Compiling needs Triton; launching also needs PyTorch.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

WIDEST = 1 << 17  # elements of a row; Triton's own limit is 2^20 a block


@triton.jit
def _widened(x):
    """Convert to the dtype of the computation: float64 for float64, otherwise float32."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def softmax_forward(
    x_ptr, y_ptr, x_stride, y_stride, rows, n,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Store the softmax of each row."""
    column = tl.arange(0, BLOCK)
    inside = column < n
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=STAGES):
        at = row.to(tl.int64)
        x = tl.load(x_ptr + at * x_stride + column, mask=inside, other=-float("inf"))
        x = _widened(x)
        e = tl.exp(x - tl.max(x, axis=0))
        y = e / tl.sum(e, axis=0)
        tl.store(y_ptr + at * y_stride + column, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def softmax_backward(
    y_ptr, dy_ptr, dx_ptr, y_stride, dy_stride, dx_stride, rows, n,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Store y (dy - <y, dy>) of each row."""
    column = tl.arange(0, BLOCK)
    inside = column < n
    for row in tl.range(tl.program_id(0), rows, tl.num_programs(0), num_stages=STAGES):
        at = row.to(tl.int64)
        y = _widened(tl.load(y_ptr + at * y_stride + column, mask=inside, other=0.0))
        dy = _widened(tl.load(dy_ptr + at * dy_stride + column, mask=inside, other=0.0))
        dx = y * (dy - tl.sum(y * dy, axis=0))
        tl.store(dx_ptr + at * dx_stride + column, dx.to(dx_ptr.dtype.element_ty), mask=inside)


def settings(n: int) -> dict[str, int]:
    """Return block width, warps and pipeline stages for rows of n elements."""
    block = triton.next_power_of_2(n)
    warps = 4 if block <= 1024 else 8 if block <= 4096 else 16 if block <= 16384 else 32
    # Two rows in flight where registers and shared memory allow it.
    return {"BLOCK": block, "STAGES": 2 if block <= 8192 else 1, "num_warps": warps}


def run(forward: bool, inputs: tuple[Any, ...], out: Any, multiprocessors: int) -> None:
    """Launch on PyTorch's current stream, over contiguous matrices."""
    rows, n = out.shape
    chosen = settings(n)
    # Enough programs to fill every multiprocessor, assuming that it holds 2048 threads.
    programs = min(rows, multiprocessors * max(1, 2048 // (32 * chosen["num_warps"])))
    kernel = softmax_forward if forward else softmax_backward
    kernel[(programs,)](*inputs, out, *[n] * (len(inputs) + 1), rows, n, **chosen)
