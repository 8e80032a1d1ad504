"""softmax or log_softmax of logits together with a derivative product, in one launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cusoftmax.functions import _logits
from cusoftmax.runtime import launch

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cusoftmax.functions._types import AnyArray, ArrayT


Axis = int | tuple[int, ...] | None


def softmax_value_and_vjp(
    x: ArrayT,
    dy: AnyArray,
    axis: Axis = -1,
    dtype: DTypeLike | None = None,
    out: tuple[AnyArray, AnyArray] | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> tuple[ArrayT, ArrayT]:
    """Softmax of logits, and the gradient of a loss with respect to them, in one launch.

    ``y = softmax(x)`` and ``dx = y * (dy - sum_j y_j dy_j)``. Nothing is rounded between the two,
    so `dx` is right relative to itself in every dtype, also where a ``y_i`` is rounded to 1: of
    logits ``[20, 0, -1]`` and `dy` of ``[1, 0, 0]`` it is 2.8e-9, and not 0, in bfloat16 too.

    Parameters
    ----------
    x : array
        Logits, of any shape, strides and accepted dtype, as for `softmax`.
    dy : array
        Gradient of the loss with respect to `y`. Same shape; its dtype may differ.
    axis : int, tuple of int or None
        The axes that are normalised together.
    dtype : dtype, optional
        Dtype of both results, any of the floats. By default that of `out`, or the wider of the
        inputs' floats (float32 for float16 with bfloat16; float64 if one holds integers or bool).
    out : pair of arrays, optional
        Where to write the results: same shape, a float dtype, any strides. Each may be one of the
        inputs itself.
    scale, mask, bias, causal
        As for `softmax`. `dx` is the gradient with respect to `x`: `scale` times that with respect
        to a bias.

    Returns
    -------
    y, dx : array
        With the shape of `x` and the dtype that `dtype` says. Elements that `mask` or `causal` hide
        are 0 in both, whatever `dy` is there.

    Raises
    ------
    TypeError, ValueError
        As `softmax`; ValueError also if `x` and `dy` differ in shape or device, or the results
        overlap each other.

    Notes
    -----
    ``2 N max |dy|`` of a row of N elements has to be finite (docs/accuracy.md: The ends of the
    range), as for the other functions of a value and a product.

    References
    ----------
    "Derivative of the Softmax Function", eq. 1 and 5. docs/derivation.md: Confident rows.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x, dy = cupy.asarray([20.0, 0.0, -1.0]), cupy.asarray([1.0, 0.0, 0.0])
    >>> y, dx = cusoftmax.softmax_value_and_vjp(x, dy)
    >>> dx.round(12)
    array([ 2.819e-09, -2.061e-09, -7.580e-10])
    """
    return _run("softmax_value_and_vjp", (x, dy), axis, dtype, out, scale, mask, bias, causal)


def softmax_value_and_jvp(
    x: ArrayT,
    xt: AnyArray,
    axis: Axis = -1,
    dtype: DTypeLike | None = None,
    out: tuple[AnyArray, AnyArray] | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> tuple[ArrayT, ArrayT]:
    """Softmax of logits, and its change along a change of them, in one launch.

    ``y = softmax(x)`` and ``dyt = y * (xt - sum_j y_j xt_j)``. The Jacobian of softmax is
    symmetric, so this is the computation of `softmax_value_and_vjp`.

    Parameters
    ----------
    x : array
        Logits, as for `softmax`.
    xt : array
        Tangent of the logits. Same shape; its dtype may differ.
    axis, dtype, out, scale, mask, bias, causal
        As for `softmax_value_and_vjp`. With a `scale`, the tangent is that of `x`.

    Returns
    -------
    y, dyt : array
        As in `softmax_value_and_vjp`. Elements that `mask` or `causal` hide are 0 in both.

    Raises
    ------
    TypeError, ValueError
        As `softmax_value_and_vjp`.

    References
    ----------
    "Derivative of the Softmax Function", eq. 1 and 5. docs/derivation.md: Confident rows.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0])
    >>> y, dyt = cusoftmax.softmax_value_and_jvp(x, cupy.asarray([0.0, 1.0, 0.0, 0.0]))
    >>> dyt.round(4)
    array([-0.0776,  0.1838, -0.0776, -0.0286])
    """
    return _run("softmax_value_and_jvp", (x, xt), axis, dtype, out, scale, mask, bias, causal)


def log_softmax_value_and_vjp(
    x: ArrayT,
    dy: AnyArray,
    axis: Axis = -1,
    dtype: DTypeLike | None = None,
    out: tuple[AnyArray, AnyArray] | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> tuple[ArrayT, ArrayT]:
    """log_softmax of logits, and the gradient of a loss with respect to them, in one launch.

    ``logy = log_softmax(x)`` and ``dx = dy - exp(logy) * sum_j dy_j``, which is right also where an
    ``exp(logy_i)`` rounds to 1, since nothing is rounded between the two.

    Parameters
    ----------
    x : array
        Logits, as for `log_softmax`.
    dy : array
        Gradient of the loss with respect to `logy`. Same shape; its dtype may differ.
    axis, dtype, out, scale, mask, bias, causal
        As for `softmax_value_and_vjp`.

    Returns
    -------
    logy, dx : array
        As in `softmax_value_and_vjp`, but elements that `mask` or `causal` hide are -inf and 0.

    Raises
    ------
    TypeError, ValueError
        As `softmax_value_and_vjp`.

    References
    ----------
    "Derivative of the Softmax Function", on the way to eq. 5. docs/derivation.md: Confident rows.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0])
    >>> logy, dx = cusoftmax.log_softmax_value_and_vjp(x, cupy.asarray([0.0, 1.0, 0.0, 0.0]))
    >>> dx.round(4)
    array([-0.1025,  0.2427, -0.1025, -0.0377])
    """
    return _run("log_softmax_value_and_vjp", (x, dy), axis, dtype, out, scale, mask, bias, causal)


def log_softmax_value_and_jvp(
    x: ArrayT,
    xt: AnyArray,
    axis: Axis = -1,
    dtype: DTypeLike | None = None,
    out: tuple[AnyArray, AnyArray] | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> tuple[ArrayT, ArrayT]:
    """log_softmax of logits, and its change along a change of them, in one launch.

    ``logy = log_softmax(x)`` and ``dlogy = xt - sum_j exp(logy_j) xt_j``.

    Parameters
    ----------
    x : array
        Logits, as for `log_softmax`.
    xt : array
        Tangent of the logits. Same shape; its dtype may differ.
    axis, dtype, out, scale, mask, bias, causal
        As for `softmax_value_and_jvp`.

    Returns
    -------
    logy, dlogy : array
        As in `softmax_value_and_vjp`, but elements that `mask` or `causal` hide are -inf and 0.

    Raises
    ------
    TypeError, ValueError
        As `softmax_value_and_vjp`.

    References
    ----------
    "Derivative of the Softmax Function", on the way to eq. 5. docs/derivation.md: Confident rows.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> x = cupy.asarray([2.0, 4.0, 2.0, 1.0])
    >>> logy, dlogy = cusoftmax.log_softmax_value_and_jvp(x, cupy.asarray([0.0, 1.0, 0.0, 0.0]))
    >>> dlogy.round(4)
    array([-0.7573,  0.2427, -0.7573, -0.7573])
    """
    return _run("log_softmax_value_and_jvp", (x, xt), axis, dtype, out, scale, mask, bias, causal)


def _run(
    op: str,
    inputs: tuple[ArrayT, AnyArray],
    axis: Axis,
    dtype: DTypeLike | None,
    out: Any,
    scale: float | None,
    mask: AnyArray | None,
    bias: AnyArray | None,
    causal: bool,
) -> tuple[ArrayT, ArrayT]:
    if scale is None and mask is None and bias is None and causal is False:
        return launch.run(op, inputs, axis, dtype, out)  # type: ignore[return-value]
    return _logits.run(  # type: ignore[return-value]
        op, inputs, axis, dtype, out, scale=scale, mask=mask, bias=bias, causal=causal
    )
