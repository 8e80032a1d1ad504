"""From the arrays of a call to launches.

The first call of a kind is checked, planned and compiled (`runtime.calls`), and the result is kept
under the call's signature. A later call of that kind only allocates its result and launches.

Planning is imported by the first call, not with this module: it would be most of the time of
``import cusoftmax``.
"""

from __future__ import annotations

import inspect
from _thread import get_ident
from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from cusoftmax.operations.lookup import find
from cusoftmax.planning.checks import (
    Array,
    Axis,
    NotCuPy,
    ResultDtypes,
    as_dtype,
    as_outs,
    is_array,
    plain_axis,
    plain_bool,
)
from cusoftmax.runtime.backend import active_of

if TYPE_CHECKING:
    from cusoftmax.runtime.calls import Call

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")

_calls: dict[Hashable, Call] = {}
_CALLS_KEPT = 4096

# A launch that is ready: what it shares with others of its kind, its inputs, its results, its
# workspace and its layout.
Step = tuple["Call", tuple[Array, ...], tuple[Array, ...], Any, Any]


def run(
    op: str,
    inputs: tuple[A, *tuple[Any, ...]],
    axis: Axis,
    dtype: Any,
    out: Array | tuple[Array, ...] | None,
    keepdims: bool = False,
    options: tuple[float, ...] = (),
    steps: list[Step] | None = None,
) -> A:
    """Run one public operation: check, plan and load on the first call of a kind, then launch.

    A function of several launches passes a list, `steps`. The operation is then checked and made
    ready, its results are allocated, and it is added to the list instead of launched: `run_all`
    launches all steps, when none of them can be refused any more.

    Returns the result, of the type of the first input, or a tuple if the operation has several,
    which to a type checker it never has.
    """
    backend = active_of.get(get_ident()) or active_of[0]  # active(), without a call
    outs = () if out is None else as_outs(op, out) if isinstance(out, tuple) else (out,)
    # The only option that a plan depends on is the number of elements to select.
    planned_options = options[:1] if options and find(op).selects else ()
    try:
        key: Any = (
            signature(op, inputs, axis, dtype, outs, keepdims, planned_options),
            backend.key,
        )
        call = _calls.get(key)
    except Exception as error:
        key, call = error.with_traceback(None), None  # without the frames, which hold the arrays
    if call is None:
        if not all(map(is_array, inputs + outs)):
            if steps is not None:
                raise NotCuPy(find(op).function)
            lent: A = _run_lent(op, inputs, axis, dtype, out, keepdims, options)
            return lent
        from cusoftmax.runtime.calls import first_call

        failed = key if isinstance(key, Exception) else None
        call = first_call(
            backend, failed, op, inputs, axis, dtype, outs, keepdims, planned_options, options
        )
        if len(_calls) >= _CALLS_KEPT:
            _calls.clear()
        _calls[key] = call
    if outs:
        check_outs(op, inputs, outs, call.reaches)
    else:
        result = call.allocate()
        outs = result if call.several else (result,)
    if call.last is not None:
        layout = call.layout
        if layout[0] != options:
            call.layout = layout = call.layout_with(options)
        # A workspace for each call, so that calls on different streams cannot share it. CuPy's pool
        # reuses its memory only for later work on the same stream.
        workspace = call.allocate_workspace() if call.before else None
        if steps is not None:
            steps.append((call, inputs, outs, workspace, layout[2]))
        else:
            if call.before:
                _run_before_last(call, inputs, outs, workspace, layout[2])
            kernel, grid, block, shared = call.last
            kernel(grid, block, (*inputs, *outs, workspace, layout[2]), shared)
    return outs if call.several else outs[0]  # type: ignore[return-value]


def _run_lent(
    op: str, inputs: tuple[Any, ...], axis: Axis, dtype: Any, out: Any, *rest: Any
) -> Any:
    """Run an operation with arrays of which some are of other libraries."""
    from cusoftmax.runtime.foreign import Loan

    operation = find(op)
    loan = Loan(operation.function)
    lent = loan.arrays(operation.read, inputs)
    return loan.returned(run(op, lent, axis, dtype, loan.results(op, out), *rest))


def run_all(steps: list[Step]) -> None:
    """Launch the steps that `run` made ready, one after the other."""
    for call, inputs, outs, workspace, layout in steps:
        _run_before_last(call, inputs, outs, workspace, layout)
        if call.last is not None:
            kernel, grid, block, shared = call.last
            kernel(grid, block, (*inputs, *outs, workspace, layout), shared)


def signature(
    op: str,
    inputs: tuple[Array, ...],
    axis: Axis,
    dtype: Any,
    outs: tuple[Array, ...],
    keepdims: bool,
    options: tuple[float, ...] = (),
) -> Hashable:
    """Return a key such that calls with equal keys have equal `prepare` results, or all fail.

    The key has the types of the arrays, so that a repeated call needs no `isinstance`, and of their
    addresses only the alignment.
    """
    if axis is not None and type(axis) is not int:
        axis = plain_axis(find(op).function, axis)
    if dtype is not None and type(dtype) is not ResultDtypes:
        dtype = as_dtype(find(op).function, dtype)
    if keepdims is not False and keepdims is not True:
        keepdims = plain_bool(find(op).function, "keepdims", keepdims)
    # One flat tuple: `op` and the length say which array an entry belongs to.
    key: list[Any] = [op, axis, dtype, keepdims, options]
    for a in inputs + outs:
        data = a.data
        key += (type(a), a.shape, a.strides, a.dtype, data.ptr & 31, data.device_id)
    return tuple(key)


def check_outs(
    op: str,
    inputs: tuple[Array, ...],
    outs: tuple[Array, ...],
    reaches: Sequence[Sequence[tuple[int, int, bool]]],
) -> None:
    """Check a result for overlap if its address is near an input or an earlier result.

    `reaches` is `Prepared.reaches`.
    """
    for i, out in enumerate(outs):  # zip(strict=True) would double the time of this function
        start, near = out.data.ptr, reaches[i]
        for j, array in enumerate(inputs if i == 0 else inputs + outs[:i]):
            low, high, in_place = near[j]
            if low < start - array.data.ptr < high and not (in_place and array is out):
                from cusoftmax.planning.overlap import check_overlap

                check_overlap(op, inputs, outs)


def _run_before_last(
    call: Call, inputs: tuple[Array, ...], outs: tuple[Array, ...], workspace: Any, layout: Any
) -> None:
    """Run all launches but the last, which write the workspace."""
    results = outs if call.parts else call.absent
    for kernel, grid, block, shared in call.before:
        kernel(grid, block, (*inputs, *results, workspace, layout), shared)


def accepting(
    *names: str,
    optional: tuple[str, ...] = (),
    results: tuple[str, ...] = (),
    in_place: str | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function that raises `NotCuPy` take arrays of other libraries.

    It is called as it is first, and again if it raises that. So it must raise it before it launches
    anything.

    Parameters
    ----------
    names, optional, results : str
        Its parameters that are arrays, those that may also be None, and those that are written.
    in_place : str, optional
        A parameter that, if True, lets the first array be written too.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def accepted(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except NotCuPy as found:
                caller = found.caller
            # Outside of it, so that an error has no context.
            from cusoftmax.runtime.foreign import Loan  # needed for such arrays only

            loan = Loan(caller)
            given = inspect.signature(function).bind(*args, **kwargs)
            given.apply_defaults()
            taken = given.arguments
            if in_place is not None and taken[in_place] is True:
                loan.result(names[0], taken[names[0]])
            for name in (*names, *optional):
                if name in names or taken[name] is not None:
                    taken[name] = loan.array(name, taken[name])
            for name in results:
                if isinstance(taken[name], tuple):
                    each = [loan.result(f"{name}[{i}]", a) for i, a in enumerate(taken[name])]
                    taken[name] = tuple(each)
                elif taken[name] is not None:
                    taken[name] = loan.result(name, taken[name])
            returned: R = loan.returned(function(*given.args, **given.kwargs))
            return returned

        return accepted

    return decorate
