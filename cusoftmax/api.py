"""The public functions. From here a call goes through `_problem`, `_planner` and `_launch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cusoftmax import _launch

if TYPE_CHECKING:
    import cupy
    from numpy.typing import DTypeLike

    from cusoftmax._plan import Plan

Axis = int | tuple[int, ...] | None


def softmax(
    x: cupy.ndarray,
    axis: Axis = -1,
    dtype: DTypeLike | None = None,
    out: cupy.ndarray | None = None,
) -> cupy.ndarray:
    """Softmax along one or more axes, in one pass over memory wherever a row fits on chip.

    ``y_i = exp(x_i) / sum_j exp(x_j)`` ('Derivative of the Softmax Function', eq. 1), computed as
    ``exp(x_i - m) / sum_j exp(x_j - m)`` with ``m = max_j x_j``, so that nothing overflows.

    Parameters
    ----------
    x : cupy.ndarray
        Any shape and any strides. float16, bfloat16, float32 or float64; integers and bool, which
        compute in float64.
    axis : int, tuple of int or None
        The axes that are normalised together: all of them for None, each element alone for ``()``.
    dtype : dtype, optional
        Dtype of the result, any of the floats. By default that of `x`, or of `out`; float64 for
        integers and bool.
    out : cupy.ndarray, optional
        Where to write the result: same shape as `x`, a float dtype, any strides. It may be `x`
        itself.

    Returns
    -------
    cupy.ndarray
        The result, of the shape of `x`; `out` if it was given.

    Raises
    ------
    TypeError
        If an array is not a CuPy array, a dtype is not accepted, or `axis` is not made of integers.
    ValueError
        If `out` has another shape, device or dtype than is asked for, has elements that share
        memory, or overlaps `x` without being it; if `axis` is out of range
        (`numpy.exceptions.AxisError`) or names an axis twice.

    Notes
    -----
    A NaN or a +inf makes its row NaN, as do entries that are all -inf; single entries of -inf give
    0.

    A row of no elements gives no elements; SciPy refuses it, for want of a maximum. An array of no
    dimensions is one row of one element, for any `axis` of None, (), 0 or -1, as in SciPy.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0])).round(4)
    array([0.1025, 0.7573, 0.1025, 0.0377])
    """
    return _launch.run("softmax", (x,), axis, dtype, out)


def softmax_vjp(
    y: cupy.ndarray, dy: cupy.ndarray, axis: Axis = -1, out: cupy.ndarray | None = None
) -> cupy.ndarray:
    """Gradient of a loss with respect to softmax's input: the vector-Jacobian product.

    ``dx = J^T dy = y * (dy - sum_j y_j dy_j)``, the contraction of ``dy_i/dx_j = y_i (delta_ij -
    y_j)`` ('Derivative of the Softmax Function', eq. 5) with `dy`.

    Parameters
    ----------
    y : cupy.ndarray
        The result of `softmax`, of any shape, strides and accepted dtype.
    dy : cupy.ndarray
        Gradient of the loss with respect to `y`. Same shape; its dtype may differ.
    axis : int, tuple of int or None
        The `axis` that was given to `softmax`.
    out : cupy.ndarray, optional
        Where to write the result: same shape, a float dtype, any strides. It may be `y` or `dy`
        itself.

    Returns
    -------
    cupy.ndarray
        The gradient. Its dtype is that of `out` if given, else the wider of the inputs' floats
        (float32 for float16 with bfloat16; float64 if an input holds integers or bool).

    Raises
    ------
    TypeError
        If an array is not a CuPy array, a dtype is not accepted, or `axis` is not made of integers.
    ValueError
        If `y` and `dy` differ in shape or device; if `out` does, has elements that share memory, or
        overlaps an input without being it; if `axis` is out of range (`numpy.exceptions.AxisError`)
        or names an axis twice.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> cusoftmax.softmax_vjp(y, cupy.asarray([0.0, 1.0, 0.0, 0.0])).round(4)  # a row of J
    array([-0.0776,  0.1838, -0.0776, -0.0286])
    """
    return _launch.run("softmax_vjp", (y, dy), axis, None, out)


def softmax_jvp(
    y: cupy.ndarray, xt: cupy.ndarray, axis: Axis = -1, out: cupy.ndarray | None = None
) -> cupy.ndarray:
    """Change of softmax's result along a change of its input: the Jacobian-vector product.

    ``dyt = J xt = y * (xt - sum_j y_j xt_j)``. The Jacobian of softmax is symmetric, so this is the
    computation of `softmax_vjp`, under the name that forward-mode differentiation gives it.

    Parameters
    ----------
    y : cupy.ndarray
        The result of `softmax`, of any shape, strides and accepted dtype.
    xt : cupy.ndarray
        Tangent of softmax's input. Same shape; its dtype may differ.
    axis : int, tuple of int or None
        The `axis` that was given to `softmax`.
    out : cupy.ndarray, optional
        Where to write the result: same shape, a float dtype, any strides. It may be `y` or `xt`
        itself.

    Returns
    -------
    cupy.ndarray
        The tangent of softmax's result, in the dtype that `softmax_vjp` would give.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> bool(abs(cusoftmax.softmax_jvp(y, cupy.ones(4))).max() < 1e-15)  # rows of J sum to 0
    True
    """
    return _launch.run("softmax_jvp", (y, xt), axis, None, out)


def explain(
    op: str,
    *,
    shape: Sequence[int],
    dtype: DTypeLike | tuple[DTypeLike, ...] = "float32",
    axis: Axis = -1,
    arch: str | int | None = None,
    out_dtype: DTypeLike | None = None,
    order: str = "C",
) -> Plan:
    """Say how a call would run, without running it: the plan for contiguous arrays of `shape`.

    Parameters
    ----------
    op : str
        ``"softmax"``, ``"softmax_vjp"`` or ``"softmax_jvp"``.
    shape : sequence of int
        Shape of the inputs.
    dtype : dtype or tuple of dtypes
        Dtype of every input, or one for each.
    axis : int, tuple of int or None
        As in the function itself.
    arch : str or int, optional
        Architecture to plan for, such as ``"sm_90"``. By default the current device, or sm_90 where
        there is none.
    out_dtype : dtype, optional
        Dtype of the result. By default the one that the function would choose.
    order : {"C", "F"}
        Memory order of the arrays.

    Returns
    -------
    Plan
        What would be launched, and why. ``print`` it for the plan in words.

    Raises
    ------
    TypeError
        If a dtype is not accepted, or `axis` is not made of integers.
    ValueError
        If `op`, `arch` or `order` is not known, a size is negative, or `axis` is out of range or
        repeated.

    Examples
    --------
    >>> import cusoftmax
    >>> cusoftmax.explain("softmax", shape=(4096, 32000), dtype="float16", arch="sm_90").pattern
    'block'
    """
    return _launch.explain(op, shape, dtype, axis, arch, out_dtype, order)


def warmup(
    ops: Sequence[str] = ("softmax", "softmax_vjp"),
    *,
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[DTypeLike] = ("float32",),
    axis: Axis = -1,
) -> None:
    """Compile the kernels for contiguous arrays ahead of their first use, on the current device.

    Call it before a CUDA graph is captured or a request is timed. CuPy keeps compiled kernels on
    disk, so that a later process only loads them.

    Parameters
    ----------
    ops : sequence of str
        ``"softmax"``, ``"softmax_vjp"``, ``"softmax_jvp"``.
    shapes : sequence of shapes
        Shapes that will be used. Shapes with the same plan share their kernels.
    dtypes : sequence of dtypes
        Dtypes of the inputs; each is paired with each operation and shape.
    axis : int, tuple of int or None
        As in the functions.

    Raises
    ------
    TypeError, ValueError
        As `explain`.

    Examples
    --------
    >>> import cusoftmax
    >>> cusoftmax.warmup(shapes=[(4096, 32000)], dtypes=["float16", "bfloat16"])
    """
    _launch.warmup(ops, shapes, dtypes, axis)
