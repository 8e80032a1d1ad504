"""The public losses; `_losses` turns their options into launches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

if TYPE_CHECKING:
    from cusoftmax.functions._types import AnyArray, ArrayT


@overload
def cross_entropy(
    logits: ArrayT,
    target: AnyArray,
    axis: int = ...,
    weight: AnyArray | None = ...,
    ignore_index: int = ...,
    label_smoothing: float = ...,
    z_loss: float = ...,
    softcap: float | None = ...,
    reduction: str = ...,
    grad: Literal[False] = ...,
    inplace: Literal[False] = ...,
    check: bool = ...,
) -> ArrayT: ...
@overload
def cross_entropy(
    logits: ArrayT,
    target: AnyArray,
    axis: int = ...,
    weight: AnyArray | None = ...,
    ignore_index: int = ...,
    label_smoothing: float = ...,
    z_loss: float = ...,
    softcap: float | None = ...,
    reduction: str = ...,
    *,
    grad: Literal[True],
    inplace: bool = ...,
    check: bool = ...,
) -> tuple[ArrayT, ArrayT]: ...
@overload
def cross_entropy(
    logits: ArrayT,
    target: AnyArray,
    axis: int = ...,
    weight: AnyArray | None = ...,
    ignore_index: int = ...,
    label_smoothing: float = ...,
    z_loss: float = ...,
    softcap: float | None = ...,
    reduction: str = ...,
    *,
    grad: bool = ...,
    inplace: Literal[True],
    check: bool = ...,
) -> tuple[ArrayT, ArrayT]: ...
@overload
def cross_entropy(
    logits: ArrayT,
    target: AnyArray,
    axis: int = ...,
    weight: AnyArray | None = ...,
    ignore_index: int = ...,
    label_smoothing: float = ...,
    z_loss: float = ...,
    softcap: float | None = ...,
    reduction: str = ...,
    grad: bool = ...,
    inplace: bool = ...,
    check: bool = ...,
) -> ArrayT | tuple[ArrayT, ArrayT]: ...
def cross_entropy(
    logits: ArrayT,
    target: AnyArray,
    axis: int = -1,
    weight: AnyArray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    grad: bool = False,
    inplace: bool = False,
    check: bool = False,
) -> ArrayT | tuple[ArrayT, ArrayT]:
    """Cross-entropy of logits and targets and, in the same launch, its gradient.

    For a row of logits ``x`` and a target class ``t``: ``loss = log(sum_j exp(x_j)) - x_t``, and
    ``dloss/dx_j = softmax(x)_j - (j == t)``. The probabilities are never written. With `grad` the
    logits are read once if a row fits on chip, else twice, and the gradient is written once.
    Options that ``torch.nn.functional.cross_entropy`` has too mean the same.

    Parameters
    ----------
    logits : array
        Any shape and strides, with the classes along `axis`. float16, bfloat16, float32 or float64;
        integers and bool, which compute in float64.
    target : array
        Either integers, the class of each row, with the shape of `logits` without `axis`; or
        floats, the probability of each class, with the shape of `logits`.
    axis : int
        The axis of the classes.
    weight : array, optional
        A weight for each class, with shape ``(C,)`` and a float dtype.
    ignore_index : int
        The integer target of rows to ignore: their loss and gradient are exactly 0, whatever the
        logits. It may be a class or not.
    label_smoothing : float
        The part of each target, from 0 to 1, that is distributed evenly over all classes.
    z_loss : float
        Adds ``z_loss * log(sum_j exp(x_j))**2`` to the loss of each row. Of a size up to 2**126, in
        float64 arithmetic 2**1022.
    softcap : float, optional
        Replaces the logits by ``softcap * tanh(logits / softcap)``. From 2**-125 to 2**127, in
        float64 arithmetic 2**-1021 to 2**1023.
    reduction : {"mean", "sum", "none"}
        ``"none"`` gives the loss of each row. The mean is taken over the rows that are not ignored;
        with integer targets it is the sum of the losses divided by the sum of the targets' weights.
    grad : bool
        Whether to return the gradient of the result with respect to `logits` too; without
        reduction, the gradient of the sum of the losses.
    inplace : bool
        Whether to write the gradient over `logits` and return it; implies `grad`.
    check : bool
        Whether to raise an error for integer targets that are not classes. This waits for the GPU;
        nothing else here does.

    Returns
    -------
    loss : array
        Without dimensions or, without reduction, with the shape of `logits` without `axis`. Its
        dtype is that of `logits`, or float64 for integers; sums are rounded to it once.
    dlogits : array
        With `grad`: the gradient, with the shape and dtype of `logits`.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has another dtype than those accepted, or another
        argument is of the wrong kind.
    ValueError
        If an array is misaligned; if the shape of `target` or `weight` does not fit that of
        `logits`; if an option is out of range; with `check`, if a target is neither a class nor
        `ignore_index`; if `axis` is out of range (`numpy.exceptions.AxisError`).

    Notes
    -----
    If a target is neither a class nor `ignore_index`, the loss and gradient of its row are NaN, and
    so is a sum or mean of losses. The gradients of other rows are not affected, and their mean is
    divided by the weights of the other rows only.

    A row that has a NaN or a +inf, or only -inf, gives NaN. A target whose logit is -inf has a loss
    of +inf. If every row is ignored, the mean is NaN and the gradient 0. Classes of probability or
    weight 0 do not affect the loss even if their logit is -inf, where PyTorch gives NaN.

    A row has the same bits in any batch, in place or not.

    References
    ----------
    ``torch.nn.functional.cross_entropy`` of PyTorch 2.13, for the options that it has.
    docs/derivation.md: Cross-entropy.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> logits = cupy.asarray([[2.0, 4.0, 2.0, 1.0]])
    >>> loss, dlogits = cusoftmax.cross_entropy(logits, cupy.asarray([1]), grad=True)
    >>> round(float(loss), 4), dlogits.round(4)
    (0.278, array([[ 0.1025, -0.2427,  0.1025,  0.0377]]))
    """
    from cusoftmax.functions import _losses  # here, as in runtime/launch.py

    return _losses.cross_entropy(  # type: ignore[no-any-return]
        logits,
        target,
        axis,
        weight,
        ignore_index,
        label_smoothing,
        z_loss,
        softcap,
        reduction,
        grad,
        inplace,
        check,
    )


def cross_entropy_vjp(
    logits: ArrayT,
    target: AnyArray,
    dloss: AnyArray,
    axis: int = -1,
    weight: AnyArray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    check: bool = False,
    out: AnyArray | None = None,
) -> ArrayT:
    """Gradient of a loss with respect to the logits, through `cross_entropy` without reduction.

    ``dx_j = dloss * (softmax(x)_j - (j == t))`` for a target class ``t``, without other options.

    Parameters
    ----------
    logits, target
        As given to `cross_entropy`.
    dloss : array
        Gradient with respect to the loss of each row; the shape of `logits` without `axis`, and any
        accepted dtype.
    axis, weight, ignore_index, label_smoothing, z_loss, softcap, check
        As given to `cross_entropy`.
    out : array, optional
        Where to write the result: same shape as `logits`, a float dtype, any strides. It may be
        `logits` itself.

    Returns
    -------
    array
        The gradient, with the shape and dtype of `logits`; `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; ValueError also if the shape of `dloss` or `out` does not fit that of
        `logits`, or if `out` overlaps an input without being `logits` itself.

    Notes
    -----
    A `softmax(x)_j` of less than 2^-160 of the largest (float64: 2^-1086) counts as 0, however
    large `dloss` is.

    References
    ----------
    docs/derivation.md: Cross-entropy.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> logits = cupy.asarray([[2.0, 4.0, 2.0, 1.0]])
    >>> cusoftmax.cross_entropy_vjp(logits, cupy.asarray([1]), cupy.asarray([2.0])).round(4)
    array([[ 0.205 , -0.4854,  0.205 ,  0.0754]])
    """
    from cusoftmax.functions import _losses

    return _losses.cross_entropy_vjp(  # type: ignore[no-any-return]
        logits,
        target,
        dloss,
        axis,
        weight,
        ignore_index,
        label_smoothing,
        z_loss,
        softcap,
        check,
        out,
    )
