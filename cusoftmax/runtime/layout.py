"""`csm::Layout` as Python makes it: sizes, strides and numbers of a call, passed by value.

The kernels' half is ``cuda_kernels/machine/layout.cuh``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.plan import Plan


def layout_of(made: Plan) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the words of `csm::Layout` (machine/layout.cuh) of a plan's kernels.

    The last of them, the numbers that come with a call, are 0.
    """
    problem = made.problem
    kernel = made.launches[0].kernel
    batch_dims, row_dims = int(kernel["CSM_BATCH_DIMS"]), int(kernel["CSM_ROW_DIMS"])
    batch_shape: Sequence[int] = problem.batch_shape
    batches = [o.batch_strides for o in problem.operands]
    inner, inner_strides = 1, [0] * len(batches)
    if made.pattern == "column":
        inner, inner_strides = batch_shape[-1], [b[-1] for b in batches]
        batch_shape, batches = batch_shape[:-1] or (1,), [b[:-1] or (0,) for b in batches]

    def padded(values: Sequence[int], dims: int) -> list[int]:
        return [*values, *[0] * (dims - len(values))]

    numbers = [
        problem.n,
        problem.rows,
        made.rounds,
        len(batch_shape),
        len(problem.reduce_shape),
        inner,
        problem.segments,
        made.checkers,
    ]
    numbers += inner_strides
    numbers += padded(batch_shape, batch_dims) + padded(problem.reduce_shape, row_dims)
    for strides in batches:
        numbers += padded(strides, batch_dims)
    for operand in problem.operands:
        numbers += padded(operand.reduce_strides, row_dims)
    numbers += [0] * max(1, len(KERNELS[made.op].options))
    return np.array(numbers, np.int64)


def as_struct(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a copy of words as one value, which a launch takes as it is."""
    return np.asarray(words.view(f"V{words.nbytes}")[0])


class LowWord(float):
    """An option of a call that is passed as the rounding error of its value in an Acc."""


def encoded(options: Sequence[float], acc: str) -> list[int]:
    """Return numbers as ``csm::Layout::option`` has them: an integer, or the bits of an Acc."""
    kind, bits = (np.float32, np.int32) if acc == "float" else (np.float64, np.int64)
    rounded = [k - float(kind(k)) if isinstance(k, LowWord) else k for k in options]
    return [k if isinstance(k, int) else int(kind(k).view(bits)) for k in rounded]
