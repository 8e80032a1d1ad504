"""The public losses; `_losses` turns their options into launches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import cupy


def cross_entropy(
    logits: cupy.ndarray,
    target: cupy.ndarray,
    axis: int = -1,
    weight: cupy.ndarray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    grad: bool = False,
    inplace: bool = False,
    check: bool = False,
) -> cupy.ndarray | tuple[cupy.ndarray, cupy.ndarray]:
    """Cross-entropy of logits against targets and, in the same launch, its gradient.

    For a row of logits ``x`` and a target class ``t``: ``loss = log(sum_j exp(x_j)) - x_t``, and
    ``dloss/dx_j = softmax(x)_j - (j == t)``. The probabilities are never written: with `grad` the
    logits are read once, wherever a row fits on the chip (else twice), and the gradient is written
    once. The meaning is that of ``torch.nn.functional.cross_entropy``, where that has one.

    Parameters
    ----------
    logits : cupy.ndarray
        Of any shape and strides, with the classes along `axis`. float16, bfloat16, float32 or
        float64; integers and bool, which compute in float64.
    target : cupy.ndarray
        Either integers, the class of each row: of the shape of `logits` without `axis`. Or floats,
        the probability of each class: of the shape of `logits`.
    axis : int
        The axis of the classes.
    weight : cupy.ndarray, optional
        A weight for each class, of shape ``(C,)`` and a float dtype.
    ignore_index : int
        The target of rows that count for nothing: their loss and gradient are exactly 0, whatever
        the logits. For integer targets; it may be out of the range of classes, or in it.
    label_smoothing : float
        From 0 to 1: the part of each target that is shared out evenly among all classes.
    z_loss : float
        Adds ``z_loss * log(sum_j exp(x_j))**2`` to the loss of each row.
    softcap : float, optional
        Takes ``softcap * tanh(logits / softcap)`` for the logits.
    reduction : {"mean", "sum", "none"}
        The mean is over the rows that are not ignored: with integer targets, the sum of the losses
        over the sum of the targets' weights. ``"none"`` gives the loss of each row.
    grad : bool
        Whether to return the gradient of the result with respect to `logits` too; without
        reduction, that of the sum of the losses.
    inplace : bool
        Whether to write the gradient over `logits`, and return it: implies `grad`.
    check : bool
        Whether to look for integer targets that name no class, which waits for the GPU. Nothing
        else here does.

    Returns
    -------
    loss : cupy.ndarray
        Of the shape of `logits` without `axis`, or of no dimensions. Its dtype is that of `logits`,
        float64 for integers; sums are formed before they are rounded to it.
    dlogits : cupy.ndarray
        With `grad`: of the shape and dtype of `logits`.

    Raises
    ------
    TypeError
        If an array is not a CuPy array, a dtype is not accepted, or a number is none.
    ValueError
        If `target` or `weight` has another shape than follows from `logits`; if an option is out of
        its range; with `check`, for the first row whose target is neither a class nor
        `ignore_index`. `numpy.exceptions.AxisError` if `axis` is out of range.

    Notes
    -----
    A target that is neither a class nor `ignore_index` makes the loss and gradient of its row NaN,
    and so a sum or mean over it; the gradients of other rows stay right, and the mean divides by
    the weights of the others.

    A row with a NaN or a +inf gives NaN, as does one of nothing but -inf. A target at -inf has the
    loss +inf. The mean is NaN where every row is ignored; the gradient is 0 then. Classes of
    probability or weight 0 count for nothing, even at -inf, where PyTorch has NaN.

    The same row has the same bits in any batch, and in place or not.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> logits = cupy.asarray([[2.0, 4.0, 2.0, 1.0]])
    >>> loss, dlogits = cusoftmax.cross_entropy(logits, cupy.asarray([1]), grad=True)
    >>> loss.round(4), dlogits.round(4)
    (array(0.278), array([[ 0.1025, -0.2427,  0.1025,  0.0377]]))
    """
    from cusoftmax.functions import _losses  # here, as in runtime/launch.py

    return _losses.cross_entropy(
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
    logits: cupy.ndarray,
    target: cupy.ndarray,
    dloss: cupy.ndarray,
    axis: int = -1,
    weight: cupy.ndarray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    check: bool = False,
    out: cupy.ndarray | None = None,
) -> cupy.ndarray:
    """Gradient of a loss with respect to the logits, through `cross_entropy` without reduction.

    Parameters
    ----------
    logits, target, axis, weight, ignore_index, label_smoothing, z_loss, softcap, check
        As given to `cross_entropy`.
    dloss : cupy.ndarray
        Gradient with respect to the loss of each row: of the shape of `logits` without `axis`.
    out : cupy.ndarray, optional
        Where to write the result: the shape of `logits`, a float dtype, any strides. It may be
        `logits` itself.

    Returns
    -------
    cupy.ndarray
        The gradient, of the dtype of `logits`; `out` if it was given.

    Raises
    ------
    TypeError, ValueError
        As `cross_entropy`; ValueError also if `dloss` or `out` has another shape than follows from
        `logits`, or `out` overlaps an input without being `logits`.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> logits = cupy.asarray([[2.0, 4.0, 2.0, 1.0]])
    >>> cusoftmax.cross_entropy_vjp(logits, cupy.asarray([1]), cupy.asarray([2.0])).round(4)
    array([[ 0.205 , -0.4854,  0.205 ,  0.0754]])
    """
    from cusoftmax.functions import _losses

    return _losses.cross_entropy_vjp(
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
