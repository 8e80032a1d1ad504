"""What all calls of one kind share, made by the first of them: plan, binaries and layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from cusoftmax.operations.lookup import find
from cusoftmax.planning.checks import Array, Axis
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import prepare
from cusoftmax.planning.problem import Prepared, k_order
from cusoftmax.runtime.backend import Backend
from cusoftmax.runtime.layout import as_struct, layout_of


class Call:
    """All that calls of one signature have in common.

    Attributes
    ----------
    allocate : callable
        Allocates the result, or a tuple of them if there are several.
    several : bool
        Whether the operation has several results.
    allocate_workspace : callable
        Allocates the workspace that the launches in `before` write.
    reaches : tuple
        `Prepared.reaches`.
    before, last : tuple
        The launches before the last one, and the last: kernel, grid, block, bytes of shared memory.
        `last` is None if there is no element to compute.
    parts : bool
        Whether launches before the last also write parts of the results. If not, they are passed
        `absent` in place of the results.
    absent : tuple of None
        One for each result.
    layout : tuple
        The last call's options, its `csm::Layout` in memory, and the kernel argument made of it.
        Calls that differ only in their options, such as a seed, share everything else.
    """

    __slots__ = (
        "_acc",
        "_by_value",
        "_numbers",
        "absent",
        "allocate",
        "allocate_workspace",
        "before",
        "last",
        "layout",
        "parts",
        "reaches",
        "several",
    )

    def __init__(self, prepared: Prepared, backend: Backend, options: tuple[float, ...]) -> None:
        planned = plan(prepared.problem, backend.device)
        allocators = [allocator(r.shape, r.strides, r.dtype) for r in prepared.results]
        self.several = len(allocators) > 1
        self.allocate = (
            (lambda: tuple([allocate() for allocate in allocators]))
            if self.several
            else allocators[0]
        )
        self.allocate_workspace = allocator((planned.workspace_bytes,), (1,), np.dtype(np.uint8))
        self.reaches = prepared.reaches
        self.absent = (None,) * len(allocators)
        self.parts = not all(launch.kernel.writes_all for launch in planned.launches)
        self.layout: tuple[tuple[float, ...], Any, Any] = (options, None, None)
        if planned.launches:
            self._numbers, self._by_value = layout_of(planned), backend.by_value
            self._acc = planned.launches[0].kernel["CSM_ACC"]
            self.layout = self.layout_with(options)
        launches = [
            (backend.load(launch.kernel), (launch.grid,), (launch.block,), launch.shared_bytes)
            for launch in planned.launches
        ]
        self.before = launches[:-1]
        self.last = launches[-1] if launches else None

    def layout_with(self, options: tuple[float, ...]) -> tuple[tuple[float, ...], Any, Any]:
        """Return `layout` for other options, in new memory.

        The memory of the last one may be in use by another thread's launch.
        """
        struct = as_struct(self._numbers, options, self._acc)
        return options, struct, self._by_value(struct)


def first_call(
    backend: Backend,
    failed: Exception | None,
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    outs: tuple[Array, ...],
    keepdims: bool,
    planned_options: tuple[float, ...],
    options: tuple[float, ...],
) -> Call:
    """Check, plan and load the first call of a kind.

    `failed` is what making the call's signature raised, if anything: an input is not a CuPy array,
    or there is no GPU. A mistake in the call is reported first.
    """
    prepared = prepare(op, inputs, axis, dtype, outs, keepdims, planned_options)
    if failed is not None:
        raise failed
    backend.check_place(find(op).function, inputs[0])
    return Call(prepared, backend, options)


def allocator(
    shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any]
) -> Callable[[], Any]:
    """Return a function that makes arrays as described, with CuPy's current allocator."""
    import cupy

    # Strides of 0 leave all dimensions in C order.
    if strides == k_order(shape, (0,) * len(shape), dtype.itemsize):
        dense: Callable[[], Any] = partial(cupy.ndarray, shape, dtype)  # what cupy.empty does
        return dense
    size = prod(shape) * dtype.itemsize
    return lambda: cupy.ndarray(shape, dtype, cupy.cuda.alloc(size), strides)
