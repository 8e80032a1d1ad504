"""Plans without arrays: what a call will run, and its kernels compiled ahead."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from cusoftmax.planning.checks import Axis, plain_list, wrong_kind
from cusoftmax.runtime.backend import active, present_device

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cusoftmax.planning.plan import Plan

_SHAPES = "a list of shapes, such as [(4096, 32000)]"


def explain(
    op: str,
    *,
    shape: Sequence[int],
    dtype: DTypeLike | tuple[DTypeLike, ...] = "float32",
    axis: Axis = -1,
    arch: str | int | None = None,
    out_dtype: DTypeLike | None = None,
    order: str = "C",
    k: int | None = None,
) -> Plan:
    """Return the plan that a call with contiguous arrays of `shape` would run, without running it.

    Parameters
    ----------
    op : str
        Name of a function of this package, such as ``"softmax"`` or ``"logsumexp_vjp"``.
    shape : sequence of int
        Shape of the inputs.
    dtype : dtype or tuple of dtypes
        Dtype of every input, or one for each.
    axis : int, tuple of int or None
        As in the function.
    arch : str or int, optional
        Architecture to plan for, such as ``"sm_90"``. By default the current device, or sm_90 if
        there is none.
    out_dtype : dtype, optional
        Dtype of the result; by default the function's own default.
    order : {"C", "F"}
        Memory order of the arrays.
    k : int, optional
        As in `topk_softmax`. By default 8, or the length of a row if that is less.

    Returns
    -------
    Plan
        What would be launched, and why. ``print`` shows it in words.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If `op`, `arch` or `order` is not known, a size is negative, or `axis` is out of range or
        repeated.

    Notes
    -----
    The plan is that of the kernels which do the work. The small launches that some calls have
    beside them are left out: those of a mean or a sum of losses, and that of `softmax_jacobian` in
    float32 and float64, which adds up each row without its largest element first.

    Examples
    --------
    >>> import cusoftmax
    >>> cusoftmax.explain("softmax", shape=(4096, 32000), dtype="float16", arch="sm_90").pattern
    'block'
    """
    from cusoftmax.planning.device import DeviceSpec  # here, as in runtime/launch.py
    from cusoftmax.planning.explain import Explanation
    from cusoftmax.planning.planner import plan
    from cusoftmax.planning.prepare import problem_for

    problem = problem_for(op, shape, dtype, axis, out_dtype, order, k)
    device = DeviceSpec.known(arch, "explain") if arch is not None else present_device()
    return Explanation(**vars(plan(problem, device)))


def warmup(
    ops: Sequence[str] = ("softmax", "softmax_vjp"),
    *,
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[DTypeLike] = ("float32",),
    axis: Axis = -1,
    k: int | None = None,
) -> None:
    """Compile the kernels for contiguous arrays ahead of their first use, on the current device.

    Call it before a CUDA graph is captured or a request is timed. CuPy keeps compiled kernels on
    disk, so that a later process only loads them.

    Parameters
    ----------
    ops : sequence of str
        Names of functions of this package.
    shapes : sequence of shapes
        The shapes of the calls to come. Shapes with the same plan share their kernels.
    dtypes : sequence of dtypes
        Dtypes of the inputs; each is paired with each operation and shape.
    axis : int, tuple of int or None
        As in the functions.
    k : int, optional
        As in `explain`.

    Raises
    ------
    TypeError, ValueError
        As `explain`.

    Examples
    --------
    >>> import cusoftmax
    >>> cusoftmax.warmup(shapes=[(4096, 32000)], dtypes=["float16", "bfloat16"])
    """
    from cusoftmax.planning.planner import plan  # here, as in runtime/launch.py
    from cusoftmax.planning.prepare import problem_for

    names = plain_list("warmup", "ops", ops, "a list of names, such as ['softmax']")
    sizes = plain_list("warmup", "shapes", shapes, _SHAPES)
    if any(not isinstance(shape, Sequence) for shape in sizes):
        raise wrong_kind("warmup", "shapes", shapes, _SHAPES)
    kinds = plain_list("warmup", "dtypes", dtypes, "a list of dtypes, such as ['float32']")
    # All are checked before the first is compiled.
    problems = [
        problem_for(op, shape, dtype, axis, k=k, caller="warmup")
        for op, shape, dtype in product(names, sizes, kinds)
    ]
    backend = active()
    for problem in problems:
        for launch in plan(problem, backend.device).launches:
            backend.load(launch.kernel)
