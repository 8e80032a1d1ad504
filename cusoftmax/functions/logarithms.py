"""log_softmax and logsumexp, with their derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from cusoftmax.functions import _logits
from cusoftmax.operations.lookup import find
from cusoftmax.planning.checks import NotCuPy, plain_bool
from cusoftmax.runtime import arrays, launch

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cusoftmax.functions._types import AnyArray, ArrayT

Axis = int | tuple[int, ...] | None


def log_softmax(
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
    """Logarithm of softmax, without the underflow of its small entries.

    ``y_i = x_i - m - log sum_j exp(x_j - m)`` with ``m = max_j x_j``. Both terms are at most 0, so
    no digits cancel. The logarithm is computed as that of 1 plus the *other* terms, so that float32
    and float64 results close to 0 are accurate too; float16 and bfloat16 results are accurate
    to 2^-22 there.

    Parameters
    ----------
    x, axis, dtype, out, scale, mask, bias, causal
        As for `softmax`.

    Returns
    -------
    array
        The result, with the shape of `x` and the dtype that `dtype` says; `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As `softmax`.

    Notes
    -----
    A row that has a NaN or a +inf, or only -inf, is NaN. Other entries of -inf stay -inf. Elements
    hidden by `mask` or `causal` are -inf and do not affect the others.

    References
    ----------
    P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA J. Numer. Anal. 41 (2021).
    docs/derivation.md: The logarithm, on its way.

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
    logy: ArrayT,
    dy: AnyArray,
    axis: Axis = -1,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Gradient of a loss with respect to log_softmax's input: the vector-Jacobian product.

    ``dx = dy - exp(logy) * sum_j dy_j``: the transpose of ``d logy_i/dx_j = delta_ij - y_j``,
    applied to `dy`.

    Parameters
    ----------
    logy : array
        The result of `log_softmax`, so at most 0; any shape, strides and accepted dtype.
    dy : array
        Gradient of the loss with respect to `logy`. Same shape; its dtype may differ.
    axis, out, scale, mask, causal
        As for `softmax_vjp`.

    Returns
    -------
    array
        The gradient; its dtype as in `softmax_vjp`.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`.

    Notes
    -----
    ``2 sum |dy|`` of a row has to be finite (docs/accuracy.md: The ends of the range).

    References
    ----------
    "Derivative of the Softmax Function", on the way to eq. 5.
    docs/derivation.md: The logarithm, on its way.

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
    logy: ArrayT,
    xt: AnyArray,
    axis: Axis = -1,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Change of log_softmax's result along a change of its input: the Jacobian-vector product.

    ``dyt = xt - sum_j exp(logy_j) xt_j``.

    Parameters
    ----------
    logy : array
        The result of `log_softmax`, so at most 0; any shape, strides and accepted dtype.
    xt : array
        Tangent of log_softmax's input. Same shape; its dtype may differ.
    axis, out, scale, mask, causal
        As for `softmax_vjp`.

    Returns
    -------
    array
        The tangent of log_softmax's result; its dtype as in `softmax_vjp`.

    Raises
    ------
    TypeError, ValueError
        As `softmax_vjp`.

    References
    ----------
    "Derivative of the Softmax Function", on the way to eq. 5.
    docs/derivation.md: The logarithm, on its way.

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


# `out` has one type in all of them: by an array of CuPy, which is Any, two could not be told apart.
@overload
def logsumexp(
    x: ArrayT,
    axis: Axis = ...,
    keepdims: bool = ...,
    b: AnyArray | None = ...,
    return_sign: Literal[False] = ...,
    dtype: DTypeLike | None = ...,
    out: AnyArray | tuple[AnyArray, AnyArray] | None = ...,
    *,
    scale: float | None = ...,
    mask: AnyArray | None = ...,
    bias: AnyArray | None = ...,
    causal: bool = ...,
) -> ArrayT: ...
@overload
def logsumexp(
    x: ArrayT,
    axis: Axis = ...,
    keepdims: bool = ...,
    b: AnyArray | None = ...,
    *,
    return_sign: Literal[True],
    dtype: DTypeLike | None = ...,
    out: AnyArray | tuple[AnyArray, AnyArray] | None = ...,
    scale: float | None = ...,
    mask: AnyArray | None = ...,
    bias: AnyArray | None = ...,
    causal: bool = ...,
) -> tuple[ArrayT, ArrayT]: ...
@overload
def logsumexp(
    x: ArrayT,
    axis: Axis = ...,
    keepdims: bool = ...,
    b: AnyArray | None = ...,
    return_sign: bool = ...,
    dtype: DTypeLike | None = ...,
    out: AnyArray | tuple[AnyArray, AnyArray] | None = ...,
    *,
    scale: float | None = ...,
    mask: AnyArray | None = ...,
    bias: AnyArray | None = ...,
    causal: bool = ...,
) -> ArrayT | tuple[ArrayT, ArrayT]: ...
def logsumexp(
    x: ArrayT,
    axis: Axis = -1,
    keepdims: bool = False,
    b: AnyArray | None = None,
    return_sign: bool = False,
    dtype: DTypeLike | None = None,
    out: AnyArray | tuple[AnyArray, AnyArray] | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT | tuple[ArrayT, ArrayT]:
    """``log(sum_j b_j exp(x_j))`` along one or more axes, without overflow, in one pass over `x`.

    ``m + log sum_j b_j exp(x_j - m)``, where ``m`` is the largest ``x_j`` whose weight is not 0.
    The meaning is that of `scipy.special.logsumexp`.

    Parameters
    ----------
    x : array
        Any shape, strides and accepted dtype, as for `softmax`.
    axis : int, tuple of int or None
        The axes that are summed over; None means all of them.
    keepdims : bool
        Whether these axes stay in the result, with size 1.
    b : array, optional
        Weights of any sign and accepted dtype, broadcast to the shape of `x` without a copy. An
        element of weight 0 does not take part, even if it is +inf or NaN.
    return_sign : bool
        Whether to return the logarithm of the sum's absolute value, together with the sum's sign.
        If not, a negative sum gives NaN.
    dtype : dtype, optional
        Float dtype of the results. By default that of `out` or, without `out`, the wider of those
        of `x` and `b`, and float64 for integers and bool.
    out : array, or a pair of them with `return_sign`, optional
        Where to write the results: their shape, a float dtype, any strides.
    scale, mask, bias, causal
        As for `softmax`: the sum is that of ``b_j exp(scale * x_j + bias_j)`` over the elements
        that are not hidden.

    Returns
    -------
    array, or a pair of them
        The logarithm, with the shape of `x` without `axis` and the dtype that `dtype` says; with
        `return_sign` also the sign: 1, -1, 0 or NaN.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has another dtype than those accepted, or another
        argument is of the wrong kind.
    ValueError
        If an array is misaligned; if `b`, `mask` or `bias` does not broadcast to `x`; if `out` has
        the wrong shape, device or dtype, has elements that share memory, or overlaps an input; if
        `axis` is out of range (`numpy.exceptions.AxisError`) or repeated; if `scale` is out of
        range.

    Notes
    -----
    The result is -inf for an empty sum and for one of only -inf; +inf if there is a +inf; NaN if
    there is a NaN. No option waits for the GPU. In float32 arithmetic, weights below 2^-126 are
    taken as 0.

    References
    ----------
    P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA J. Numer. Anal. 41 (2021).
    docs/derivation.md: The logarithm, on its way.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> cusoftmax.logsumexp(cupy.asarray([1000.0, 1000.0]))  # 1000 + log 2
    array(1000.69314718)
    """
    name = "logsumexp" + "_b" * (b is not None)
    name += "_sign" * plain_bool("logsumexp", "return_sign", return_sign)
    if b is None and scale is None and mask is None and bias is None and causal is False:
        return launch.run(name, (x,), axis, dtype, out, keepdims)
    return _run(name, x, b, (), axis, dtype, out, keepdims, mask, bias, scale, causal)  # type: ignore[no-any-return]


def _run(
    name: str,
    x: Any,
    b: Any,
    rows: tuple[Any, ...],
    axis: Any,
    dtype: Any,
    out: Any,
    keepdims: bool,
    mask: Any,
    bias: Any,
    scale: Any,
    causal: Any,
) -> Any:
    """Run logsumexp or its derivative with the options that change each element."""
    try:
        weights = () if b is None else (arrays.broadcast(find(name).function, "b", b, "x", x),)
    except NotCuPy:
        pass
    else:
        if scale is None and mask is None and bias is None and causal is False:
            return launch.run(name, (x, *weights, *rows), axis, dtype, out, keepdims)
        return _logits.run(
            *(name, (x, *weights), axis, dtype, out),
            scale=scale,
            mask=mask,
            bias=bias,
            causal=causal,
            rows=rows,
            keepdims=keepdims,
        )
    from cusoftmax.runtime.foreign import Loan  # needed for arrays of other libraries only

    loan = Loan(find(name).function)
    x, b = loan.arrays(("x", "b"), (x, b))
    result = _run(name, x, b, rows, axis, dtype, out, keepdims, mask, bias, scale, causal)
    return loan.returned(result)


def logsumexp_vjp(
    x: ArrayT,
    dy: AnyArray,
    axis: Axis = -1,
    keepdims: bool = False,
    b: AnyArray | None = None,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Gradient of a loss with respect to logsumexp's input: the vector-Jacobian product.

    ``dx_i = dy * b_i exp(x_i) / sum_j b_j exp(x_j)``; without weights ``dy * softmax(x)``. It is
    computed from `x`, because ``exp(x - logsumexp(x))`` would lose digits to the rounding of
    logsumexp, more the larger that is.

    Parameters
    ----------
    x : array
        As given to `logsumexp`.
    dy : array
        Gradient of the loss with respect to logsumexp's result. Same shape as that; its dtype may
        differ.
    axis, keepdims, b
        As given to `logsumexp`.
    out : array, optional
        Where to write the result: same shape as `x`, a float dtype, any strides. It may be `x`
        itself.
    scale, mask, bias, causal
        As given to `logsumexp`. Hidden elements have the gradient 0.

    Returns
    -------
    array
        The gradient, with the shape of `x`. Its dtype is that of `out` if given, else the wider of
        those of `x` and `b`.

    Raises
    ------
    TypeError, ValueError
        As `logsumexp`; ValueError also if `dy` does not have the shape of logsumexp's result.

    Notes
    -----
    A row in which nothing but -inf has a weight is a sum of nothing: its gradient is exactly 0,
    even for a `dy` that is infinite or NaN, as of a row that is hidden whole. Another row is NaN if
    its weighted sum is 0, or if an element with a weight is NaN or +inf. In float32 arithmetic the
    sum must lie between 2^-126 and 2^126 times the largest exponential.

    References
    ----------
    P. Blanchard, D. J. Higham and N. J. Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA J. Numer. Anal. 41 (2021).
    docs/derivation.md: The logarithm, on its way.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0])
    >>> cusoftmax.logsumexp_vjp(x, cupy.asarray(1.0)).round(4)  # softmax(x)
    array([0.1025, 0.7573, 0.1025, 0.0377])
    """
    if b is None and scale is None and mask is None and bias is None and causal is False:
        return launch.run("logsumexp_vjp", (x, dy), axis, None, out, keepdims)
    name = "logsumexp_vjp" if b is None else "logsumexp_b_vjp"
    return _run(name, x, b, (dy,), axis, None, out, keepdims, mask, bias, scale, causal)  # type: ignore[no-any-return]
