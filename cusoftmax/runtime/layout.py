"""`csm::Layout` on the Python side: sizes, strides and options of a call, passed by value.

The kernels' side is ``cuda_kernels/machine/layout.cuh``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cusoftmax.operations.options import LowWord
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.plan import layout_words

if TYPE_CHECKING:
    from cusoftmax.planning.plan import Plan


def layout_of(plan: Plan) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the words of `csm::Layout` (machine/layout.cuh) for a plan's kernels.

    The last of them, the options of a call, are 0.
    """
    problem = plan.problem
    kernel = plan.launches[0].kernel
    batch_dims, row_dims = int(kernel["CSM_BATCH_DIMS"]), int(kernel["CSM_ROW_DIMS"])
    batch_shape: Sequence[int] = problem.batch_shape
    batches = [o.batch_strides for o in problem.operands]
    inner, inner_strides = 1, [0] * len(batches)
    if plan.pattern == "column":
        inner, inner_strides = batch_shape[-1], [b[-1] for b in batches]
        batch_shape, batches = batch_shape[:-1] or (1,), [b[:-1] or (0,) for b in batches]
    options = len(KERNELS[plan.op].options)
    at = layout_words(len(batches), batch_dims, row_dims, options)
    words = np.zeros(at["end"], np.int64)

    def put(field: str, values: Sequence[int], row: int = 0) -> None:
        first = at[field] + row
        words[first : first + len(values)] = values

    for field, number in (
        ("n", problem.n),
        ("rows", problem.rows),
        ("rounds", plan.rounds),
        ("batch_dims", len(batch_shape)),
        ("reduce_dims", len(problem.reduce_shape)),
        ("inner", inner),
        ("passes", plan.passes),
        ("segments", problem.segments),
        ("checkers", plan.checkers),
    ):
        put(field, (number,))
    put("inner_stride", inner_strides)
    put("batch_size", batch_shape)
    put("reduce_size", problem.reduce_shape)
    for i, (strides, operand) in enumerate(zip(batches, problem.operands, strict=True)):
        put("batch_stride", strides, i * batch_dims)
        put("reduce_stride", operand.reduce_strides, i * row_dims)
    return words


def as_struct(
    words: np.ndarray[Any, Any], options: Sequence[float] = (), acc: str = ""
) -> np.ndarray[Any, Any]:
    """Return a copy of words as one NumPy value, which a launch passes unchanged.

    The last of them are the options of a call, which computes in `acc`.
    """
    words = words.copy()
    if options:
        words[-len(options) :] = encoded(options, acc)
    return np.asarray(words.view(f"V{words.nbytes}")[0])


def encoded(options: Sequence[float], acc: str) -> list[int]:
    """Return options as ``csm::Layout::option`` reads them.

    An int as it is, anything else as the bits of an Acc.
    """
    dtype, bits = (np.float32, np.int32) if acc == "float" else (np.float64, np.int64)
    rounded = [k - float(dtype(k)) if isinstance(k, LowWord) else k for k in options]
    return [k if isinstance(k, int) else int(dtype(k).view(bits)) for k in rounded]
