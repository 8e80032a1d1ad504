"""The public functions. From here a call goes through `_problem`, `_planner` and `_launch`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from cusoftmax import _checks, _launch

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


def softmax_jacobian(
    y: cupy.ndarray, dtype: DTypeLike | None = None, out: cupy.ndarray | None = None
) -> cupy.ndarray:
    """Jacobian of softmax over the last axis, ``diag(y) - y y^T``, in one pass of writing.

    ``J_ij = dy_i/dx_j = y_i (delta_ij - y_j)`` ('Derivative of the Softmax Function', eq. 5): on
    the diagonal ``y_i (1 - y_i)``, off it ``-y_i y_j``. It is symmetric, and its rows and columns
    sum to 0. For products with vectors `softmax_vjp` needs no matrix.

    Parameters
    ----------
    y : cupy.ndarray, shape (..., n)
        The result of `softmax`, of any strides and accepted dtype.
    dtype : dtype, optional
        Dtype of the result, any of the floats. By default that of `y`, or of `out`.
    out : cupy.ndarray, shape (..., n, n), optional
        Where to write the result: a float dtype, any strides.

    Returns
    -------
    cupy.ndarray, shape (..., n, n)
        The matrix of each row; `out` if it was given.

    Raises
    ------
    TypeError
        If an array is not a CuPy array, or a dtype is not accepted.
    ValueError
        If `y` has no dimensions; if `out` has another shape, device or dtype than is asked for, has
        elements that share memory, or overlaps `y`.

    Notes
    -----
    Each entry is rounded once (16-bit dtypes: from float32, where it was rounded before).

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> cusoftmax.softmax_jacobian(y)[1].round(4)
    array([-0.0776,  0.1838, -0.0776, -0.0286])
    """
    rows = _launch.repeated("softmax_jacobian", "y", y)
    return _launch.run("softmax_jacobian", (rows, y), -1, dtype, out)


def softmax_vjp_vjp(
    y: cupy.ndarray,
    dy: cupy.ndarray,
    g: cupy.ndarray,
    axis: Axis = -1,
    out: tuple[cupy.ndarray, cupy.ndarray] | None = None,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Gradients of a loss with respect to both inputs of `softmax_vjp`: its own VJP.

    With ``dx = y * (dy - sum_j y_j dy_j)`` and `g` the gradient with respect to ``dx``:
    ``gy = g * (dy - sum_j y_j dy_j) - dy * sum_j y_j g_j`` and ``gdy = y * (g - sum_j y_j g_j)``,
    both in one pass over memory.

    Parameters
    ----------
    y, dy : cupy.ndarray
        The inputs of `softmax_vjp`.
    g : cupy.ndarray
        Gradient of the loss with respect to its result. Same shape; dtypes may differ.
    axis : int, tuple of int or None
        The axes of the softmax.
    out : pair of cupy.ndarray, optional
        Where to write the results: same shape, a float dtype, any strides. Each may be one of the
        inputs itself.

    Returns
    -------
    pair of cupy.ndarray
        The gradients with respect to `y` and to `dy`, in the widest of the inputs' floats.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`; ValueError also if the results overlap each other.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> e = cupy.eye(4)
    >>> gy, gdy = cusoftmax.softmax_vjp_vjp(y, e[1], e[0])
    >>> gdy.round(4)  # J is symmetric: row 0 of it
    array([ 0.092 , -0.0776, -0.0105, -0.0039])
    """
    return _launch.run("softmax_vjp_vjp", (y, dy, g), axis, None, out)  # type: ignore[no-any-return]


def softmax_hvp(
    y: cupy.ndarray,
    dy: cupy.ndarray,
    v: cupy.ndarray,
    axis: Axis = -1,
    out: cupy.ndarray | None = None,
) -> cupy.ndarray:
    """Product of a vector with the Hessian of ``x -> sum_i dy_i softmax(x)_i``.

    It is the change of `softmax_vjp`'s result along a change `v` of softmax's input: with
    ``yt = y * (v - sum_j y_j v_j)``, ``yt * (dy - sum_j y_j dy_j) - y * sum_j yt_j dy_j``. The last
    sum is ``sum_j y_j v_j dy_j`` less the product of the other two, so one pass is enough.

    Parameters
    ----------
    y, dy : cupy.ndarray
        The inputs of `softmax_vjp`.
    v : cupy.ndarray
        Tangent of softmax's input. Same shape; dtypes may differ.
    axis : int, tuple of int or None
        The axes of the softmax.
    out : cupy.ndarray, optional
        Where to write the result: same shape, a float dtype, any strides. It may be an input
        itself.

    Returns
    -------
    cupy.ndarray
        The product, in the widest of the inputs' floats.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> y = cusoftmax.softmax(cupy.asarray([0.0, 0.0]))
    >>> cusoftmax.softmax_hvp(y, cupy.asarray([1.0, 0.0]), cupy.asarray([1.0, 0.0]))
    array([0., 0.])
    """
    return _launch.run("softmax_hvp", (y, dy, v), axis, None, out)


def log_softmax(
    x: cupy.ndarray,
    axis: Axis = -1,
    dtype: DTypeLike | None = None,
    out: cupy.ndarray | None = None,
) -> cupy.ndarray:
    """Logarithm of softmax, without the underflow of its small entries.

    ``y_i = x_i - m - log sum_j exp(x_j - m)`` with ``m = max_j x_j``. Both parts are at most 0, so
    no digits cancel, and the logarithm is taken of 1 plus the *other* terms, so that float32 and
    float64 results next to 0 are right too (Blanchard, Higham and Higham, IMA J. Numer. Anal. 41,
    2021); of float16 and bfloat16 to 2^-22.

    Parameters
    ----------
    x, axis, dtype, out
        As for `softmax`.

    Returns
    -------
    cupy.ndarray
        The result, of the shape of `x`; `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    Notes
    -----
    A NaN or a +inf makes its row NaN, as do entries that are all -inf; single entries of -inf stay.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> cusoftmax.log_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0])).round(4)
    array([-2.278, -0.278, -2.278, -3.278])
    """
    return _launch.run("log_softmax", (x,), axis, dtype, out)


def log_softmax_vjp(
    logy: cupy.ndarray, dy: cupy.ndarray, axis: Axis = -1, out: cupy.ndarray | None = None
) -> cupy.ndarray:
    """Gradient of a loss with respect to log_softmax's input: the vector-Jacobian product.

    ``dx = dy - exp(logy) * sum_j dy_j``: the transpose of ``d logy_i/dx_j = delta_ij - y_j``
    ('Derivative of the Softmax Function', on the way to eq. 5), applied to `dy`.

    Parameters
    ----------
    logy : cupy.ndarray
        The result of `log_softmax`, which is at most 0, of any shape, strides and accepted dtype.
    dy : cupy.ndarray
        Gradient of the loss with respect to `logy`. Same shape; its dtype may differ.
    axis : int, tuple of int or None
        The `axis` that was given to `log_softmax`.
    out : cupy.ndarray, optional
        Where to write the result: same shape, a float dtype, any strides. It may be `logy` or `dy`
        itself.

    Returns
    -------
    cupy.ndarray
        The gradient, in the dtype that `softmax_vjp` would give.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> logy = cusoftmax.log_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> cusoftmax.log_softmax_vjp(logy, cupy.asarray([0.0, 1.0, 0.0, 0.0])).round(4)
    array([-0.1025,  0.2427, -0.1025, -0.0377])
    """
    return _launch.run("log_softmax_vjp", (logy, dy), axis, None, out)


def log_softmax_jvp(
    logy: cupy.ndarray, xt: cupy.ndarray, axis: Axis = -1, out: cupy.ndarray | None = None
) -> cupy.ndarray:
    """Change of log_softmax's result along a change of its input: the Jacobian-vector product.

    ``dyt = xt - sum_j exp(logy_j) xt_j``.

    Parameters
    ----------
    logy : cupy.ndarray
        The result of `log_softmax`, which is at most 0, of any shape, strides and accepted dtype.
    xt : cupy.ndarray
        Tangent of log_softmax's input. Same shape; its dtype may differ.
    axis : int, tuple of int or None
        The `axis` that was given to `log_softmax`.
    out : cupy.ndarray, optional
        Where to write the result: same shape, a float dtype, any strides. It may be `logy` or `xt`
        itself.

    Returns
    -------
    cupy.ndarray
        The tangent of log_softmax's result, in the dtype that `softmax_vjp` would give.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> logy = cusoftmax.log_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]))
    >>> bool(abs(cusoftmax.log_softmax_jvp(logy, cupy.ones(4))).max() < 1e-15)  # a shift of all
    True
    """
    return _launch.run("log_softmax_jvp", (logy, xt), axis, None, out)


def logsumexp(
    x: cupy.ndarray,
    axis: Axis = -1,
    keepdims: bool = False,
    b: cupy.ndarray | None = None,
    return_sign: bool = False,
    dtype: DTypeLike | None = None,
    out: cupy.ndarray | tuple[cupy.ndarray, cupy.ndarray] | None = None,
) -> cupy.ndarray | tuple[cupy.ndarray, cupy.ndarray]:
    """``log(sum_j b_j exp(x_j))`` along one or more axes, without overflow, in one pass over `x`.

    ``m + log sum_j b_j exp(x_j - m)`` with ``m`` the largest ``x_j`` of a weight other than 0.
    The meaning is that of `scipy.special.logsumexp`.

    Parameters
    ----------
    x : cupy.ndarray
        Any shape, strides and accepted dtype, as for `softmax`.
    axis : int, tuple of int or None
        The axes that are summed over: all of them for None.
    keepdims : bool
        Whether these axes stay in the result, with size 1.
    b : cupy.ndarray, optional
        Weights, of the shape of `x` or one that broadcasts to it (no copy is made), of any sign.
        Where a weight is 0 the element counts for nothing, even if it is +inf or NaN.
    return_sign : bool
        Whether to return the logarithm of the sum's magnitude, and with it the sum's sign. Without,
        a negative sum gives NaN.
    dtype : dtype, optional
        Dtype of the results, any of the floats. By default the wider float of `x` and `b`; float64
        for integers and bool.
    out : cupy.ndarray, or a pair of them with `return_sign`, optional
        Where to write the results: of their shape, a float dtype, any strides.

    Returns
    -------
    cupy.ndarray, or a pair of them
        The logarithm, of the shape of `x` without `axis`; with `return_sign` also the sign: 1, -1,
        0 or NaN.

    Raises
    ------
    TypeError
        If an array is not a CuPy array, a dtype is not accepted, or `axis` is not made of integers.
    ValueError
        If `b` does not broadcast to `x`; if `out` has another shape, device or dtype than is asked
        for, has elements that share memory, or overlaps an input; if `axis` is out of range
        (`numpy.exceptions.AxisError`) or names an axis twice.

    Notes
    -----
    An empty sum is -inf, as is one of nothing but -inf; a +inf gives +inf, a NaN gives NaN. Nothing
    waits for the GPU, whatever the options. In float32 arithmetic weights below 2^-126
    count as 0. Weights that do not change along `axis` are read slowly; add their logarithm to the
    result instead.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> cusoftmax.logsumexp(cupy.asarray([1000.0, 1000.0]))  # 1000 + log 2
    array(1000.69314718)
    """
    weights = () if b is None else (_launch.broadcast("logsumexp", "b", b, "x", x),)
    name = ("logsumexp_b" if weights else "logsumexp") + ("_sign" if return_sign else "")
    return _launch.run(name, (x, *weights), axis, dtype, out, keepdims)


def logsumexp_vjp(
    x: cupy.ndarray,
    dy: cupy.ndarray,
    axis: Axis = -1,
    keepdims: bool = False,
    b: cupy.ndarray | None = None,
    out: cupy.ndarray | None = None,
) -> cupy.ndarray:
    """Gradient of a loss with respect to logsumexp's input: the vector-Jacobian product.

    ``dx_i = dy * b_i exp(x_i) / sum_j b_j exp(x_j)``; without weights ``dy * softmax(x)``. It is
    computed from `x`, not from logsumexp's rounded result, which loses as many digits as that is
    large.

    Parameters
    ----------
    x : cupy.ndarray
        The input of `logsumexp`.
    dy : cupy.ndarray
        Gradient of the loss with respect to logsumexp's result, of the shape of that; its dtype may
        differ.
    axis, keepdims, b
        As given to `logsumexp`.
    out : cupy.ndarray, optional
        Where to write the result: the shape of `x`, a float dtype, any strides. It may be `x`
        itself.

    Returns
    -------
    cupy.ndarray
        The gradient. Its dtype is that of `out` if given, else the wider float of `x` and `b`.

    Raises
    ------
    TypeError, ValueError
        As `logsumexp`; ValueError also if `dy` has another shape than the result of `logsumexp`.

    Notes
    -----
    A row whose weighted sum is 0, or that has a NaN or a +inf, gives NaN. With float32 arithmetic
    the sum, relative to the largest term's exponential, has to lie between 2^-126 and 2^126.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0])
    >>> cusoftmax.logsumexp_vjp(x, cupy.asarray(1.0)).round(4)  # softmax(x)
    array([0.1025, 0.7573, 0.1025, 0.0377])
    """
    weights = () if b is None else (_launch.broadcast("logsumexp_vjp", "b", b, "x", x),)
    name = "logsumexp_b_vjp" if weights else "logsumexp_vjp"
    return _launch.run(name, (x, *weights, dy), axis, None, out, keepdims)


def segment_softmax(
    x: cupy.ndarray,
    offsets: cupy.ndarray,
    out: cupy.ndarray | None = None,
    dtype: DTypeLike | None = None,
) -> cupy.ndarray:
    """Softmax of each of many segments of unequal length, laid end to end.

    Segment ``s`` is ``x[offsets[s]:offsets[s + 1]]``, and softmax is taken along it: over the edges
    of a node in graph attention, or over a sequence of a packed batch. The lengths are never known
    to the host, so nothing waits for the GPU.

    Parameters
    ----------
    x : cupy.ndarray, shape (E, ...)
        The segments' elements, of any strides and accepted dtype, as for `softmax`. Further
        dimensions, such as the heads of graph attention, are columns with the same segments.
    offsets : cupy.ndarray, shape (S + 1,)
        Where the segments begin, and where the last ends: int32 or int64, from 0 up to E. A segment
        may be empty.
    out : cupy.ndarray, optional
        Where to write the result: same shape as `x`, a float dtype, any strides. It may be `x`
        itself.
    dtype : dtype, optional
        Dtype of the result, any of the floats. By default that of `x`, or of `out`.

    Returns
    -------
    cupy.ndarray
        The result, of the shape of `x`; `out` if it was given.

    Raises
    ------
    TypeError
        If an array is not a CuPy array, or a dtype is not accepted.
    ValueError
        If `x` has no dimensions, or `offsets` not one or no entry; if `offsets` or `out` is on
        another device, or `out` has another shape or dtype than is asked for, has elements that
        share memory, or overlaps an input without being `x`.

    Notes
    -----
    Offsets that do not rise from 0 to E, which only the GPU can see, make the whole result NaN.

    A segment has the bits that `softmax` gives it as a contiguous row of that dtype, wherever it
    stands and whatever the others are. Short segments are read once and long ones twice. Columns
    that lie side by side are read one after the other, by accesses that are not contiguous.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0, 0.0, 0.0])
    >>> cusoftmax.segment_softmax(x, cupy.asarray([0, 4, 4, 6])).round(4)
    array([0.1025, 0.7573, 0.1025, 0.0377, 0.5   , 0.5   ])
    """
    return _launch.run("segment_softmax", (x, offsets), 0, dtype, out)


def segment_softmax_vjp(
    y: cupy.ndarray,
    dy: cupy.ndarray,
    offsets: cupy.ndarray,
    out: cupy.ndarray | None = None,
) -> cupy.ndarray:
    """Gradient of a loss with respect to segment_softmax's input: the vector-Jacobian product.

    ``dx = y * (dy - sum_j y_j dy_j)``, the sum over each element's own segment.

    Parameters
    ----------
    y : cupy.ndarray, shape (E, ...)
        The result of `segment_softmax`, of any strides and accepted dtype.
    dy : cupy.ndarray, shape (E, ...)
        Gradient of the loss with respect to `y`. Same shape; its dtype may differ.
    offsets : cupy.ndarray, shape (S + 1,)
        As given to `segment_softmax`.
    out : cupy.ndarray, optional
        Where to write the result: same shape, a float dtype, any strides. It may be `y` or `dy`
        itself.

    Returns
    -------
    cupy.ndarray
        The gradient, in the dtype that `softmax_vjp` would give.

    Raises
    ------
    TypeError, ValueError
        As `segment_softmax`; ValueError also if `y` and `dy` differ in shape or device.

    Notes
    -----
    As for `segment_softmax`, offsets that do not rise from 0 to E make the whole result NaN.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> offsets = cupy.asarray([0, 4, 4, 6])
    >>> y = cusoftmax.segment_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0, 0.0, 0.0]), offsets)
    >>> cusoftmax.segment_softmax_vjp(y, cupy.asarray([0.0, 1, 0, 0, 0, 1]), offsets).round(4)
    array([-0.0776,  0.1838, -0.0776, -0.0286, -0.25  ,  0.25  ])
    """
    return _launch.run("segment_softmax_vjp", (y, dy, offsets), 0, None, out)


def topk_softmax(
    x: cupy.ndarray,
    k: int,
    axis: int = -1,
    normalise: Literal["row", "topk"] = "row",
    dtype: DTypeLike | None = None,
    out: tuple[cupy.ndarray, cupy.ndarray] | None = None,
) -> tuple[cupy.ndarray, cupy.ndarray]:
    """The `k` largest probabilities of each row and their indices, in one pass over the logits.

    ``y_i = exp(x_i - m) / s`` of the `k` largest ``x_i``, with ``m = max_j x_j`` and ``s`` the sum
    of ``exp(x_j - m)`` over the row or over the `k`. All logits are read once, whatever the length
    of a row, and `k` values and indices are written; the other probabilities are not formed.

    Parameters
    ----------
    x : cupy.ndarray
        Any shape but that of no dimensions, any strides and accepted dtype, as for `softmax`.
    k : int
        How many, from 1 to 64, and at most the length of a row.
    axis : int
        The axis along which a row lies.
    normalise : {"row", "topk"}
        Over what the probabilities are normalised: ``"row"`` gives those of `softmax`; ``"topk"``
        makes the `k` of each row sum to 1, as the gates of a mixture of experts.
    dtype : dtype, optional
        Dtype of the values, any of the floats. By default that of `x`, or of ``out[0]``; float64
        for integers and bool.
    out : pair of cupy.ndarray, optional
        Where to write values and indices: of their shape, a float dtype and int64, any strides,
        apart from `x`.

    Returns
    -------
    values, indices : cupy.ndarray
        Both of the shape of `x` with `k` in the place of the length of `axis`. The values fall, or
        stay equal, along it. The indices are int64, from 0, as `cupy.take_along_axis` wants them.

    Raises
    ------
    TypeError
        If an array is not a CuPy array, a dtype is not accepted, or `k` or `axis` is no integer.
    ValueError
        If `k` is less than 1, more than 64 or more than the elements of a row; if `normalise` is
        not known; if `x` has no dimensions; if an array of `out` has another shape, device or dtype
        than is asked for, has elements that share memory, or overlaps another array; if `axis` is
        out of range (`numpy.exceptions.AxisError`).

    Notes
    -----
    Equal logits are taken in the order of their indices; -0 and +0 are equal. Logits are compared
    exactly as stored: subnormals, and 64-bit integers beyond 2**53, which only their probabilities
    take at float64 values. Two logits that differ may round to equal probabilities.

    A NaN or a +inf makes all values of its row NaN, as do entries that are all -inf. Indices are
    valid all the same: NaN counts as larger than +inf, as in `torch.topk` and `jax.lax.top_k`, so
    that it comes first. An entry of -inf has the value 0, and is picked where nothing better is
    left.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> values, indices = cusoftmax.topk_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]), 2)
    >>> values.round(4), indices
    (array([0.7573, 0.1025]), array([1, 0]))
    """
    named = {"row": "topk_softmax", "topk": "topk_softmax_gates"}
    op = _checks.one_of("topk_softmax", "normalise", normalise, named)
    k = _checks.plain_count("topk_softmax", "k", k)
    values, indices = _launch.run(op, (x,), axis, dtype, out, options=(k,))
    return values, indices


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
    """Say how a call would run, without running it: the plan for contiguous arrays of `shape`.

    Parameters
    ----------
    op : str
        Name of a function of this package: ``"softmax"``, ``"softmax_vjp"``, ``"logsumexp"``, …
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
    k : int, optional
        That of `topk_softmax`. By default 8, or the length of a row where that is less.

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
    return _launch.explain(op, shape, dtype, axis, arch, out_dtype, order, k)


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
        Shapes that will be used. Shapes with the same plan share their kernels.
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
    _launch.warmup(ops, shapes, dtypes, axis, k)
