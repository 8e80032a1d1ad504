"""log_softmax and logsumexp, with their derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cusoftmax.functions import _logits
from cusoftmax.runtime import arrays, launch

if TYPE_CHECKING:
    import cupy
    from numpy.typing import DTypeLike

Axis = int | tuple[int, ...] | None


def log_softmax(
    x: cupy.ndarray,
    axis: Axis = -1,
    dtype: DTypeLike | None = None,
    out: cupy.ndarray | None = None,
    *,
    scale: float | None = None,
    mask: cupy.ndarray | None = None,
    bias: cupy.ndarray | None = None,
    causal: bool = False,
) -> cupy.ndarray:
    """Logarithm of softmax, without the underflow of its small entries.

    ``y_i = x_i - m - log sum_j exp(x_j - m)`` with ``m = max_j x_j``. Both parts are at most 0, so
    no digits cancel, and the logarithm is taken of 1 plus the *other* terms, so that float32 and
    float64 results next to 0 are right too (Blanchard, Higham and Higham, IMA J. Numer. Anal. 41,
    2021); of float16 and bfloat16 to 2^-22.

    Parameters
    ----------
    x, axis, dtype, out, scale, mask, bias, causal
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
    Elements that `mask` or `causal` hide are -inf, and count for nothing.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> cusoftmax.log_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0])).round(4)
    array([-2.278, -0.278, -2.278, -3.278])
    """
    if scale is None and mask is None and bias is None and causal is False:
        return launch.run("log_softmax", (x,), axis, dtype, out)
    return _logits.run(
        "log_softmax", (x,), axis, dtype, out, scale=scale, mask=mask, bias=bias, causal=causal
    )


def log_softmax_vjp(
    logy: cupy.ndarray,
    dy: cupy.ndarray,
    axis: Axis = -1,
    out: cupy.ndarray | None = None,
    *,
    scale: float | None = None,
    mask: cupy.ndarray | None = None,
    causal: bool = False,
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
    scale, mask, causal
        As given to `log_softmax`. A bias has no part in this: what it did is in `logy`.

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
    if scale is None and mask is None and causal is False:
        return launch.run("log_softmax_vjp", (logy, dy), axis, None, out)
    return _logits.run(
        "log_softmax_vjp", (logy, dy), axis, None, out, scale=scale, mask=mask, causal=causal
    )


def log_softmax_jvp(
    logy: cupy.ndarray,
    xt: cupy.ndarray,
    axis: Axis = -1,
    out: cupy.ndarray | None = None,
    *,
    scale: float | None = None,
    mask: cupy.ndarray | None = None,
    causal: bool = False,
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
    scale, mask, causal
        As given to `log_softmax`. A bias has no part in this: what it did is in `logy`.

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
    if scale is None and mask is None and causal is False:
        return launch.run("log_softmax_jvp", (logy, xt), axis, None, out)
    return _logits.run(
        "log_softmax_jvp", (logy, xt), axis, None, out, scale=scale, mask=mask, causal=causal
    )


def logsumexp(
    x: cupy.ndarray,
    axis: Axis = -1,
    keepdims: bool = False,
    b: cupy.ndarray | None = None,
    return_sign: bool = False,
    dtype: DTypeLike | None = None,
    out: cupy.ndarray | tuple[cupy.ndarray, cupy.ndarray] | None = None,
    *,
    scale: float | None = None,
    mask: cupy.ndarray | None = None,
    bias: cupy.ndarray | None = None,
    causal: bool = False,
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
    scale, mask, bias, causal
        As for `softmax`: the sum is of ``b_j exp(scale * x_j + bias_j)`` over what is not hidden.

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
    count as 0.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> cusoftmax.logsumexp(cupy.asarray([1000.0, 1000.0]))  # 1000 + log 2
    array(1000.69314718)
    """
    weights = () if b is None else (arrays.broadcast("logsumexp", "b", b, "x", x),)
    name = ("logsumexp_b" if weights else "logsumexp") + ("_sign" if return_sign else "")
    if scale is None and mask is None and bias is None and causal is False:
        return launch.run(name, (x, *weights), axis, dtype, out, keepdims)
    return _logits.run(
        *(name, (x, *weights), axis, dtype, out),
        scale=scale,
        mask=mask,
        bias=bias,
        causal=causal,
        keepdims=keepdims,
    )


def logsumexp_vjp(
    x: cupy.ndarray,
    dy: cupy.ndarray,
    axis: Axis = -1,
    keepdims: bool = False,
    b: cupy.ndarray | None = None,
    out: cupy.ndarray | None = None,
    *,
    scale: float | None = None,
    mask: cupy.ndarray | None = None,
    bias: cupy.ndarray | None = None,
    causal: bool = False,
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
    axis, keepdims, b, scale, mask, bias, causal
        As given to `logsumexp`. Hidden elements have the gradient 0.
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
    weights = () if b is None else (arrays.broadcast("logsumexp_vjp", "b", b, "x", x),)
    name = "logsumexp_b_vjp" if weights else "logsumexp_vjp"
    if scale is None and mask is None and bias is None and causal is False:
        return launch.run(name, (x, *weights, dy), axis, None, out, keepdims)
    return _logits.run(
        *(name, (x, *weights), axis, None, out),
        scale=scale,
        mask=mask,
        bias=bias,
        causal=causal,
        rows=(dy,),
        keepdims=keepdims,
    )
