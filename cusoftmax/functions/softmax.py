"""softmax and its derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cusoftmax.functions import _logits
from cusoftmax.planning.checks import NotCuPy, as_dtype, as_outs, is_array
from cusoftmax.runtime import arrays, launch
from cusoftmax.runtime.launch import accepting

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cusoftmax.functions._types import AnyArray, ArrayT


Axis = int | tuple[int, ...] | None


def softmax(
    x: ArrayT,
    axis: Axis = -1,
    dtype: DTypeLike | None = None,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Softmax along one or more axes, of rows of any length and layout.

    ``y_i = exp(x_i) / sum_j exp(x_j)``, computed as ``exp(x_i - m) / sum_j exp(x_j - m)`` with
    ``m = max_j x_j``, so that nothing overflows.

    Parameters
    ----------
    x : array
        Any shape and any strides. float16, bfloat16, float32 or float64; integers and bool, which
        compute in float64.
    axis : int, tuple of int or None
        The axes that are normalised together. None means all of them; ``()`` means none, so that
        each element is a row.
    dtype : dtype, optional
        Float dtype of the result. By default that of `out` or, without `out`, that of `x`, and
        float64 for integers and bool.
    out : array, optional
        Where to write the result: same shape as `x`, a float dtype, any strides. It may be `x`
        itself.
    scale : float, optional
        Factor of the logits, the inverse of a temperature: 0, or an absolute value from 2**-64 to
        2**64.
    mask : array of bool, optional
        True for elements that take part. It is broadcast to the shape of `x` without a copy.
    bias : array, optional
        Added to the scaled logits, and broadcast to the shape of `x` as `mask` is. Any accepted
        dtype, which does not affect that of the result.
    causal : bool
        Whether to hide later keys from each query: of the last two axes, with q rows of n elements,
        row i uses only its first i + 1 + n - q elements, and the last row all of them. `axis` must
        be the last one.

    Returns
    -------
    array
        The result, with the shape of `x` and the dtype that `dtype` says; `out` if it was given.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has another dtype than those accepted, or another
        argument is of the wrong kind.
    ValueError
        If an array is misaligned; if `out` has the wrong shape, device or dtype, has elements that
        share memory, or overlaps `x` without being the same array; if `axis` is out of range
        (`numpy.exceptions.AxisError`) or repeated; if `scale` is out of range, or `mask` or `bias`
        does not broadcast.

    Notes
    -----
    A row that has a NaN or a +inf, or only -inf, is NaN. Other entries of -inf give 0.

    With `scale` or `bias` the result is the softmax of ``z = scale * x + bias``, computed in two
    words. The error bound holds while ``abs(scale * x)`` and ``abs(bias)`` are below 2^22 (float64:
    2^50); beyond, z has a relative error of 2^-48 (2^-106) of these. Overflow and infinities follow
    floating-point rules. Elements hidden by `mask` or `causal` are exact zeros and do not affect
    the others, whatever their value; a row in which all are hidden is all zeros.

    An empty row gives an empty row, where SciPy raises an error. As in SciPy, an array without
    dimensions is one row of one element, for an `axis` of None, (), 0 or -1.

    References
    ----------
    "Derivative of the Softmax Function", eq. 1. docs/derivation.md: The function.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0])).round(4)
    array([0.1025, 0.7573, 0.1025, 0.0377])
    """
    if scale is None and mask is None and bias is None and causal is False:
        return launch.run("softmax", (x,), axis, dtype, out)
    return _logits.run(
        "softmax", (x,), axis, dtype, out, scale=scale, mask=mask, bias=bias, causal=causal
    )


def softmax_vjp(
    y: ArrayT,
    dy: AnyArray,
    axis: Axis = -1,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Gradient of a loss with respect to softmax's input: the vector-Jacobian product.

    ``dx = J^T dy = y * (dy - sum_j y_j dy_j)``, the contraction of ``dy_i/dx_j = y_i (delta_ij -
    y_j)`` with `dy`. With a `scale` the result is multiplied by it. The gradient with respect to a
    bias is the result without the scale, summed over the axes along which the bias was broadcast.

    Parameters
    ----------
    y : array
        The result of `softmax`; any shape, strides and accepted dtype.
    dy : array
        Gradient of the loss with respect to `y`. Same shape; its dtype may differ.
    axis : int, tuple of int or None
        The `axis` that was given to `softmax`.
    out : array, optional
        Where to write the result: same shape, a float dtype, any strides. It may be `y` or `dy`
        itself.
    scale, mask, causal
        As given to `softmax`. There is no `bias`, because its effect is in `y`.

    Returns
    -------
    array
        The gradient, with the shape of `y`. Its dtype is that of `out` if given, else the wider of
        the inputs' dtypes: float32 for float16 with bfloat16, and float64 if an input holds
        integers or bool.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has another dtype than those accepted, or another
        argument is of the wrong kind.
    ValueError
        If an array is misaligned; if `y`, `dy` and `out` differ in shape or device; if `out` has
        elements that share memory, or overlaps an input without being the same array; if `axis` is
        out of range (`numpy.exceptions.AxisError`) or repeated; if `scale` is out of range, or
        `mask` does not broadcast.

    Notes
    -----
    `y` must sum to 1, as a softmax does. Where one element of a float32 or float64 `y` is above one
    half, the sum takes it as 1 less the others: so the gradient is right also where that element is
    rounded to 1. For float16 and bfloat16 see `softmax_value_and_vjp`. Entries of `dy` may be up to
    half of the largest number (docs/accuracy.md: The ends of the range).

    References
    ----------
    "Derivative of the Softmax Function", eq. 5. docs/derivation.md: Its products with a vector.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> cusoftmax.softmax_vjp(y, cupy.asarray([0.0, 1.0, 0.0, 0.0])).round(4)  # a row of J
    array([-0.0776,  0.1838, -0.0776, -0.0286])
    """
    if scale is None and mask is None and causal is False:
        return launch.run("softmax_vjp", (y, dy), axis, None, out)
    return _logits.run(
        "softmax_vjp", (y, dy), axis, None, out, scale=scale, mask=mask, causal=causal
    )


def softmax_jvp(
    y: ArrayT,
    xt: AnyArray,
    axis: Axis = -1,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Change of softmax's result along a change of its input: the Jacobian-vector product.

    ``dyt = J xt = y * (xt - sum_j y_j xt_j)``. The Jacobian of softmax is symmetric, so this is the
    same computation as `softmax_vjp`, under its name in forward-mode differentiation.

    Parameters
    ----------
    y : array
        The result of `softmax`; any shape, strides and accepted dtype.
    xt : array
        Tangent of softmax's input. Same shape; its dtype may differ.
    axis, out, scale, mask, causal
        As for `softmax_vjp`.

    Returns
    -------
    array
        The tangent of softmax's result; its dtype as in `softmax_vjp`.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`.

    References
    ----------
    "Derivative of the Softmax Function", eq. 5. docs/derivation.md: Its products with a vector.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> bool(abs(cusoftmax.softmax_jvp(y, cupy.ones(4))).max() < 1e-15)  # rows of J sum to 0
    True
    """
    if scale is None and mask is None and causal is False:
        return launch.run("softmax_jvp", (y, xt), axis, None, out)
    return _logits.run(
        "softmax_jvp", (y, xt), axis, None, out, scale=scale, mask=mask, causal=causal
    )


def softmax_jacobian(
    y: ArrayT, dtype: DTypeLike | None = None, out: AnyArray | None = None
) -> ArrayT:
    """Jacobian of softmax over the last axis, ``diag(y) - y y^T``, written once.

    ``J_ij = dy_i/dx_j = y_i (delta_ij - y_j)``: on the diagonal ``y_i (1 - y_i)``, off
    it ``-y_i y_j``. It is symmetric, and its rows and columns sum to 0. To multiply it with a
    vector, use `softmax_vjp`, which needs no matrix.

    Parameters
    ----------
    y : array, shape (..., n)
        The result of `softmax`; any strides and accepted dtype.
    dtype : dtype, optional
        Float dtype of the result. By default that of `out` or, without `out`, that of `y`.
    out : array, shape (..., n, n), optional
        Where to write the result: a float dtype, any strides.

    Returns
    -------
    array, shape (..., n, n)
        The matrix of each row, in the dtype that `dtype` says; `out` if it was given.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has another dtype than those accepted, or another
        argument is of the wrong kind.
    ValueError
        If an array is misaligned; if `y` has no dimensions; if `out` has the wrong shape, device or
        dtype, has elements that share memory, or overlaps `y`.

    Notes
    -----
    Each entry is rounded once; in 16-bit dtypes twice, the first time to float32. In float32 and
    float64 the diagonal of a class with ``y_m`` above one half is ``y_m * sum_(j != m) y_j``, which
    keeps the digits that ``1 - y_m`` has lost: `y` must sum to 1. A first launch forms that sum,
    once for each row.

    References
    ----------
    "Derivative of the Softmax Function", eq. 5. docs/derivation.md: Its derivative.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> cusoftmax.softmax_jacobian(y)[1].round(4)
    array([-0.0776,  0.1838, -0.0776, -0.0286])
    """
    return _jacobian(y, dtype, out)  # type: ignore[no-any-return]


@accepting("y", results=("out",))
def _jacobian(y: Any, dtype: Any, out: Any) -> Any:
    """The Jacobian of softmax, by one launch or, where the diagonal needs a sum, by two."""
    rows = arrays.repeated("softmax_jacobian", "y", y)
    operands = (y, *(() if out is None else as_outs("softmax_jacobian", out)))
    if not all(map(is_array, operands)):
        raise NotCuPy("softmax_jacobian")
    kinds = {str(a.dtype) for a in operands}
    if dtype is not None and out is None:
        kinds.add(str(as_dtype("softmax_jacobian", dtype)))
    if not kinds <= {"float32", "float64"}:
        return launch.run("softmax_jacobian", (rows, y), -1, dtype, out)
    steps: list[launch.Step] = []
    others = launch.run("softmax_others", (y,), -1, max(kinds), None, steps=steps)
    each = tuple(arrays.broadcast_to(words[..., None], y.shape) for words in others)
    result = launch.run("softmax_jacobian_others", (rows, y, *each), -1, dtype, out, steps=steps)
    launch.run_all(steps)
    return result


def softmax_vjp_vjp(
    y: ArrayT,
    dy: AnyArray,
    g: AnyArray,
    axis: Axis = -1,
    out: tuple[AnyArray, AnyArray] | None = None,
) -> tuple[ArrayT, ArrayT]:
    """Both gradients of a loss with respect to the inputs of `softmax_vjp`: its own VJP.

    With ``dx = y * (dy - sum_j y_j dy_j)`` and `g` the gradient with respect to ``dx``:
    ``gy = g * (dy - sum_j y_j dy_j) - dy * sum_j y_j g_j`` and ``gdy = y * (g - sum_j y_j g_j)``,
    both in one pass over memory.

    Parameters
    ----------
    y, dy : array
        As given to `softmax_vjp`.
    g : array
        Gradient of the loss with respect to its result. Same shape; the dtypes may differ.
    axis : int, tuple of int or None
        The axes of the softmax.
    out : pair of arrays, optional
        Where to write the results: same shape, a float dtype, any strides. Each may be one of the
        inputs itself.

    Returns
    -------
    pair of arrays
        The gradients with respect to `y` and to `dy`, with their shape, in the widest of the
        inputs' dtypes.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`; ValueError also if the results overlap each other.

    Notes
    -----
    The sums take `y` as `softmax_vjp` does. The gradient with respect to `y` is determined up to a
    constant along a row, since rows of `y` sum to 1; the next VJP, through softmax, removes it.
    It is finite where ``4 max |dy| max |g|`` of a row is.

    References
    ----------
    docs/derivation.md: Second order.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> e = cupy.eye(4)
    >>> gy, gdy = cusoftmax.softmax_vjp_vjp(y, e[1], e[0])
    >>> gdy.round(4)  # J is symmetric: row 0 of it
    array([ 0.092 , -0.0776, -0.0105, -0.0039])
    """
    return launch.run("softmax_vjp_vjp", (y, dy, g), axis, None, out)  # type: ignore[return-value]


def softmax_hvp(
    y: ArrayT,
    dy: AnyArray,
    v: AnyArray,
    axis: Axis = -1,
    out: AnyArray | None = None,
) -> ArrayT:
    """Product of a vector with the Hessian of ``x -> sum_i dy_i softmax(x)_i``.

    It is the change of `softmax_vjp`'s result along a change `v` of softmax's input: with
    ``yt = y * (v - sum_j y_j v_j)``, ``yt * (dy - sum_j y_j dy_j) - y * sum_j yt_j dy_j``. The last
    sum is ``sum_j y_j v_j dy_j`` minus the product of the other two, so one pass is enough.

    Parameters
    ----------
    y, dy : array
        As given to `softmax_vjp`.
    v : array
        Tangent of softmax's input. Same shape; the dtypes may differ.
    axis, out
        As for `softmax_vjp`.

    Returns
    -------
    array
        The product, with the shape of `y`, in the widest of the inputs' dtypes.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`.

    Notes
    -----
    The sums take `y` as `softmax_vjp` does, which must sum to 1.

    Products are formed before `y` makes them small: where ``8 max |v| max |dy|`` of a row is not
    finite (beyond 3.4e38 in float32), entries may be infinite or NaN though the true ones are
    numbers. The result is linear in each vector, so either may be scaled.

    References
    ----------
    docs/derivation.md: Second order.
    docs/accuracy.md: The ends of the range.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([0.0, 0.0]))
    >>> cusoftmax.softmax_hvp(y, cupy.asarray([1.0, 0.0]), cupy.asarray([1.0, 0.0]))
    array([0., 0.])
    """
    return launch.run("softmax_hvp", (y, dy, v), axis, None, out)
