"""From the arrays of a call to launches.

What a kind of call needs (plan, binaries, layout) is made once and kept by its signature; a call
after that allocates its result and launches.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from cusoftmax.operations.table import find
from cusoftmax.planning.checks import Array, Axis, as_dtype, as_outs, plain_axis, plain_bool
from cusoftmax.planning.overlap import check_overlap
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import prepare
from cusoftmax.planning.problem import Prepared
from cusoftmax.runtime.arrays import allocator
from cusoftmax.runtime.backend import Backend, backends
from cusoftmax.runtime.layout import as_struct, encoded, layout_of

_calls: dict[Hashable, _Call] = {}
_CALLS_KEPT = 4096


class _Call:
    """All that calls of one signature have in common.

    Attributes
    ----------
    allocate : callable
        Makes the result where `out` is not given; several of them as a tuple.
    several : bool
        Whether there are.
    allocate_workspace : callable
        Makes the workspace of `before`.
    reaches : tuple
        `Prepared.reaches`.
    before, last : tuple
        What to launch: kernel, grid, block, bytes of shared memory. An array of no elements has
        no last one.
    parts : bool
        Whether the launches before the last write a part of the results each; else they get
        `absent`.
    absent : tuple of None
        For the results, in the launches before the last.
    layout : tuple
        `csm::Layout` as the last call had it: the call's numbers, the memory that it is in, and the
        argument. Calls that only differ in these numbers, such as a seed, differ in nothing else.
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
        made = plan(prepared.problem, backend.device)
        makers = [allocator(r.shape, r.strides, r.dtype) for r in prepared.results]
        self.several = len(makers) > 1
        self.allocate = (lambda: tuple([m() for m in makers])) if self.several else makers[0]
        self.allocate_workspace = allocator((made.workspace_bytes,), (1,), np.dtype(np.uint8))
        self.reaches = prepared.reaches
        self.absent = (None,) * len(makers)
        self.parts = not all(launch.kernel.writes_all for launch in made.launches)
        self.layout: tuple[tuple[float, ...], Any, Any] = (options, None, None)
        if made.launches:
            self._numbers, self._by_value = layout_of(made), backend.by_value
            self._acc = made.launches[0].kernel["CSM_ACC"]
            self.layout = self.layout_with(options)
        steps = [
            (backend.load(s.kernel), (s.grid,), (s.block,), s.shared_bytes) for s in made.launches
        ]
        self.before = steps[:-1]
        self.last = steps[-1] if steps else None

    def layout_with(self, options: tuple[float, ...]) -> tuple[tuple[float, ...], Any, Any]:
        """Return `layout` with other numbers of the call, in memory of its own.

        Another thread may be launching with the last one.
        """
        numbers = self._numbers.copy()
        if options:
            numbers[-len(options) :] = encoded(options, self._acc)
        struct = as_struct(numbers)
        return options, struct, self._by_value(struct)


def run(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    out: Array | tuple[Array, ...] | None,
    keepdims: bool = False,
    options: tuple[float, ...] = (),
) -> Any:
    """Run one public operation: check, plan and load on the first call of a kind, then launch.

    Returns the result, or a tuple where the operation has several.
    """
    backend = backends[-1]
    outs = () if out is None else as_outs(op, out) if type(out) is tuple else (out,)
    # Of the numbers that come with a call, the plan depends on how many elements are selected.
    planned = options[:1] if options and find(op).selects else ()
    try:
        key = (signature(op, inputs, axis, dtype, outs, keepdims, planned), backend.key)
    except Exception:
        # No array of CuPy's, or no GPU: a mistake in the call is told before that.
        prepare(op, inputs, axis, dtype, outs, keepdims, planned)
        raise
    call = _calls.get(key)
    if call is None:
        prepared = prepare(op, inputs, axis, dtype, outs, keepdims, planned)
        backend.check_place(op, inputs[0])
        call = _Call(prepared, backend, options)
        if len(_calls) >= _CALLS_KEPT:
            _calls.clear()
        _calls[key] = call
    if outs:
        check_outs(op, inputs, outs, call.reaches)
    else:
        made = call.allocate()
        outs = made if call.several else (made,)
    if call.last is not None:
        layout = call.layout
        if layout[0] != options:
            call.layout = layout = call.layout_with(options)
        workspace = _run_before_last(call, inputs, outs, layout[2]) if call.before else None
        kernel, grid, block, shared = call.last
        kernel(grid, block, (*inputs, *outs, workspace, layout[2]), shared)
    return outs if call.several else outs[0]


def check(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    out: Array | tuple[Array, ...] | None,
) -> None:
    """Raise what `run` would, for a function that runs something else before."""
    outs = () if out is None else as_outs(op, out)
    prepared = prepare(op, inputs, axis, dtype, outs)
    check_outs(op, inputs, outs, prepared.reaches)


def signature(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    outs: tuple[Array, ...],
    keepdims: bool,
    options: tuple[float, ...] = (),
) -> Hashable:
    """Return a key such that calls with equal keys have equal `prepare` results, or both fail.

    Types are in it, so that a hit needs no `isinstance`; of the addresses only the alignment is.
    """
    if axis is not None and type(axis) is not int:
        axis = plain_axis(op, axis)
    if dtype is not None and type(dtype) is not tuple:
        dtype = as_dtype(op, dtype)
    if keepdims is not False and keepdims is not True:
        keepdims = plain_bool(op, "keepdims", keepdims)
    # Flat: `op` and the length tell which array an entry is of.
    key: list[Any] = [op, axis, dtype, keepdims, options]
    for a in inputs + outs:
        data = a.data
        key += (type(a), a.shape, a.strides, a.dtype, data.ptr & 15, data.device_id)
    return tuple(key)


def check_outs(
    op: str,
    inputs: tuple[Array, ...],
    outs: tuple[Array, ...],
    reaches: Sequence[Sequence[tuple[int, int, bool]]],
) -> None:
    """Do `check_overlap` if any result is near enough to an input or to an earlier result.

    `reaches` has for each result what `reach` gave of those arrays, and whether it may be them.
    """
    for i, out in enumerate(outs):  # a strict zip would take twice the time of all the rest
        start, near = out.data.ptr, reaches[i]
        for j, array in enumerate(inputs if i == 0 else inputs + outs[:i]):
            low, high, in_place = near[j]
            if low < start - array.data.ptr < high and not (in_place and array is out):
                check_overlap(op, inputs, outs)


def _run_before_last(
    call: _Call, inputs: tuple[Array, ...], outs: tuple[Array, ...], layout: Any
) -> Any:
    """Run all launches but the last; return the workspace that they write."""
    # Of this call alone, so calls on other streams cannot meet in it; CuPy's pool hands it on only
    # to work that is later on the same stream.
    workspace = call.allocate_workspace()
    given = outs if call.parts else call.absent
    for kernel, grid, block, shared in call.before:
        kernel(grid, block, (*inputs, *given, workspace, layout), shared)
    return workspace
