"""The functions of rows whose classes are divided among ranks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.exceptions import AxisError

from cusoftmax import nodes
from cusoftmax.distributed.communicators import Gather
from cusoftmax.distributed.ranks import Ranks
from cusoftmax.operations.lookup import find
from cusoftmax.planning.checks import full_name, wrong_kind
from cusoftmax.planning.pieces import checked_piece

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cusoftmax.functions._types import AnyArray, ArrayT


_Result = TypeVar("_Result")


def softmax(
    x: ArrayT,
    ranks: Ranks,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Softmax of rows that are divided among ranks: ``y_i = exp(x_i) / sum_j exp(x_j)``.

    The sum is over the elements of all ranks. All ranks call this together.

    Parameters
    ----------
    x : array
        This rank's slice of each row: of any shape with ``ranks.size`` elements along `axis`, which
        are neighbours in memory, and as many rows on all ranks. The dtypes that `cusoftmax.softmax`
        accepts.
    ranks : Ranks
        The communicator and the slices.
    axis : int
        The axis of the rows.
    dtype : dtype, optional
        Dtype of the result, by default that of `out` or, without `out`, that of `x`, and float64
        for integers and bool.
    out : array, optional
        Where to write the result: of the shape of `x`, and of a float dtype. It may be `x` itself.
    scale, mask, bias, causal
        As in `cusoftmax.softmax`; `scale` and `causal` are the same on all ranks. `mask` and `bias`
        are this rank's slices, or broadcast to the shape of `x`. `causal` counts the elements of
        whole rows, from rank 0 on.

    Returns
    -------
    array
        This rank's slice of the result, of the shape of `x` and the dtype `dtype`.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has a dtype that is not accepted, or another
        argument is of the wrong kind.
    ValueError
        If `x` has another number of elements than ``ranks.size``, a slice begins or ends within a
        chunk, or the elements of a row are not neighbours in memory; if `out` has another shape; if
        the calls of the ranks differ in function, shapes, dtypes or options; if `axis` is out of
        range (`numpy.exceptions.AxisError`).
    RankError
        If another rank raises an error.

    Notes
    -----
    One all-gather, of `gathered_bytes`; with MPI, or NCCL and a `control`, one more of 16 bytes a
    rank before. The slice is read twice and written once, by at most five launches.

    The result has the bits of `cusoftmax.softmax` of whole, contiguous rows on one device, however
    they are divided.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> ranks = distributed.Ranks(None, 4)  # or mpi4py's MPI.COMM_WORLD in place of None
    >>> distributed.softmax(cupy.asarray([[2.0, 4.0, 2.0, 1.0]]), ranks).round(4)
    array([[0.1025, 0.7573, 0.1025, 0.0377]])
    """
    more, options = {"bias": bias, "mask": mask}, {"scale": scale, "causal": causal}
    result = _run("softmax", ranks, x, (), axis, out, dtype, more, options)
    return result  # type: ignore[no-any-return]


def log_softmax(
    x: ArrayT,
    ranks: Ranks,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Logarithm of softmax of rows among ranks: ``y_i = x_i - log(sum_j exp(x_j))``.

    The bits are those of `cusoftmax.log_softmax` on one device.

    Parameters
    ----------
    x, ranks, axis, dtype, out, scale, mask, bias, causal
        As in `softmax`.

    Returns
    -------
    array
        This rank's slice of the result, of the shape of `x` and the dtype `dtype`.

    Raises
    ------
    TypeError, ValueError, RankError
        As `softmax`.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> x = cupy.asarray([[2.0, 4.0, 2.0, 1.0]])
    >>> distributed.log_softmax(x, distributed.Ranks(None, 4)).round(4)
    array([[-2.278, -0.278, -2.278, -3.278]])
    """
    more, options = {"bias": bias, "mask": mask}, {"scale": scale, "causal": causal}
    result = _run("log_softmax", ranks, x, (), axis, out, dtype, more, options)
    return result  # type: ignore[no-any-return]


def logsumexp(
    x: ArrayT,
    ranks: Ranks,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Logarithm of the sum of exponentials of rows among ranks: ``log(sum_j exp(x_j))``.

    The bits are those of `cusoftmax.logsumexp` on one device.

    Parameters
    ----------
    x, ranks, axis, dtype
        As in `softmax`.
    out : array, optional
        Where to write the result: of the shape of `x` without the axis, and of a float dtype.
    scale, mask, bias, causal
        As in `softmax`.

    Returns
    -------
    array
        A value for each row, the same on all ranks: of the shape of `x` without the axis, and the
        dtype `dtype`.

    Raises
    ------
    TypeError, ValueError, RankError
        As `softmax`.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> x = cupy.asarray([[2.0, 4.0, 2.0, 1.0]])
    >>> distributed.logsumexp(x, distributed.Ranks(None, 4)).round(4)
    array([4.278])
    """
    more, options = {"bias": bias, "mask": mask}, {"scale": scale, "causal": causal}
    result = _run("logsumexp", ranks, x, (), axis, out, dtype, more, options)
    return result  # type: ignore[no-any-return]


def softmax_vjp(
    y: ArrayT,
    dy: AnyArray,
    ranks: Ranks,
    axis: int = -1,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Gradient with respect to softmax's input: ``dx_i = y_i * (dy_i - sum_j y_j dy_j)``.

    The bits are those of `cusoftmax.softmax_vjp` on one device.

    Parameters
    ----------
    y, dy : array
        This rank's slices of the result of softmax and of the gradient with respect to it: of one
        shape, with ``ranks.size`` elements along `axis`. Their dtypes may differ.
    ranks, axis
        As in `softmax`.
    out : array, optional
        Where to write the result: of the shape of `y`, and of a float dtype. It may be `y` or `dy`.
    scale, mask, causal
        As in `softmax`.

    Returns
    -------
    array
        This rank's slice of the gradient, of the shape of `y`; by default of the widest dtype of
        the inputs.

    Raises
    ------
    TypeError, ValueError, RankError
        As `softmax`.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> y, dy = cupy.asarray([[0.25, 0.75]]), cupy.asarray([[1.0, 0.0]])
    >>> distributed.softmax_vjp(y, dy, distributed.Ranks(None, 2))
    array([[ 0.1875, -0.1875]])
    """
    more, options = {"mask": mask}, {"scale": scale, "causal": causal}
    result = _run("softmax_vjp", ranks, y, (dy,), axis, out, None, more, options)
    return result  # type: ignore[no-any-return]


def log_softmax_vjp(
    logy: ArrayT,
    dy: AnyArray,
    ranks: Ranks,
    axis: int = -1,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Gradient with respect to log_softmax's input: ``dx_i = dy_i - exp(logy_i) * sum_j dy_j``.

    The bits are those of `cusoftmax.log_softmax_vjp` on one device.

    Parameters
    ----------
    logy, dy : array
        This rank's slices of the result of log_softmax and of the gradient with respect to it: of
        one shape, with ``ranks.size`` elements along `axis`. Their dtypes may differ.
    ranks, axis, out, scale, mask, causal
        As in `softmax_vjp`.

    Returns
    -------
    array
        This rank's slice of the gradient, of the shape of `logy`; by default of the widest dtype of
        the inputs.

    Raises
    ------
    TypeError, ValueError, RankError
        As `softmax`.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> logy, dy = cupy.zeros((1, 1)), cupy.asarray([[2.0]])
    >>> distributed.log_softmax_vjp(logy, dy, distributed.Ranks(None, 1))
    array([[0.]])
    """
    more, options = {"mask": mask}, {"scale": scale, "causal": causal}
    result = _run("log_softmax_vjp", ranks, logy, (dy,), axis, out, None, more, options)
    return result  # type: ignore[no-any-return]


def logsumexp_vjp(
    x: ArrayT,
    dy: AnyArray,
    ranks: Ranks,
    axis: int = -1,
    out: AnyArray | None = None,
    *,
    scale: float | None = None,
    mask: AnyArray | None = None,
    bias: AnyArray | None = None,
    causal: bool = False,
) -> ArrayT:
    """Gradient with respect to logsumexp's input: ``dx_i = dy * exp(x_i) / sum_j exp(x_j)``.

    The bits are those of `cusoftmax.logsumexp_vjp` on one device.

    Parameters
    ----------
    x : array
        As in `softmax`.
    dy : array
        The gradient with respect to each row's logsumexp, whole on all ranks: of the shape of `x`
        without the axis. Its dtype may differ.
    ranks, axis, out, scale, mask, bias, causal
        As in `softmax`.

    Returns
    -------
    array
        This rank's slice of the gradient, of the shape of `x`; by default of the widest dtype of
        the inputs.

    Raises
    ------
    TypeError, ValueError, RankError
        As `softmax`.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> x, dy = cupy.asarray([[2.0, 4.0, 2.0, 1.0]]), cupy.asarray([10.0])
    >>> distributed.logsumexp_vjp(x, dy, distributed.Ranks(None, 4)).round(4)
    array([[1.0249, 7.5731, 1.0249, 0.377 ]])
    """
    more, options = {"bias": bias, "mask": mask}, {"scale": scale, "causal": causal}
    result = _run("logsumexp_vjp", ranks, x, (dy,), axis, out, None, more, options)
    return result  # type: ignore[no-any-return]


def cross_entropy(
    logits: ArrayT,
    target: AnyArray,
    ranks: Ranks,
    axis: int = -1,
    weight: AnyArray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    grad: bool = False,
    out: AnyArray | tuple[AnyArray, ...] | None = None,
) -> Any:
    """Loss of each row of logits among ranks, and the gradient of their sum.

    ``loss = log(sum_j exp(x_j)) - x_t`` and ``dloss/dx_i = softmax(x)_i - (i == t)``, with the sum
    and the class ``t`` over the classes of all ranks.

    Parameters
    ----------
    logits : array
        This rank's slice of each row: of any shape with ``ranks.size`` elements along `axis`, which
        are neighbours in memory, and of a dtype that `cusoftmax.cross_entropy` accepts.
    target : array
        Integers, the class of each row, which counts from the row's first element on rank 0: whole
        on all ranks, of the shape of `logits` without the axis. Or floats, the probabilities of
        this rank's classes, of the shape of `logits`.
    ranks : Ranks
        The communicator and the slices.
    axis : int
        The axis of the classes.
    weight : array, optional
        A weight for each class of all ranks, whole on all ranks, with shape ``(ranks.length,)`` and
        a float dtype.
    ignore_index, label_smoothing, z_loss, softcap
        As in `cusoftmax.cross_entropy`.
    grad : bool
        Whether to return the gradient too.
    out : array or tuple of arrays, optional
        Where to write the losses; with `grad` a tuple, of losses and gradient: of the shapes and
        the dtype of the results. The gradient may be written over `logits`.

    Returns
    -------
    loss : array
        The loss of each row, the same on all ranks: of the shape of `logits` without the axis, and
        the dtype of `logits`, or float64 for integers.
    dlogits : array
        With `grad`: this rank's slice of the gradient, of the shape of `logits` and the dtype of
        the losses.

    Raises
    ------
    TypeError, ValueError, RankError
        As `softmax`; ValueError too if `target` or `weight` has another shape, or an option is out
        of range.

    Notes
    -----
    There is no reduction. The gradient of a mean is `cross_entropy_vjp` with ``dloss`` of one over
    the number of rows.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> logits, target = cupy.asarray([[2.0, 4.0, 2.0, 1.0]]), cupy.asarray([1])
    >>> ranks = distributed.Ranks(None, 4)
    >>> loss, dlogits = distributed.cross_entropy(logits, target, ranks, grad=True)
    >>> loss.round(4), dlogits.round(4)
    (array([0.278]), array([[ 0.1025, -0.2427,  0.1025,  0.0377]]))
    """
    options = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "softcap": softcap,
        "grad": grad,
    }
    more = {"weight": weight}
    return _run("cross_entropy", ranks, logits, (target,), axis, out, None, more, options)


def cross_entropy_vjp(
    logits: ArrayT,
    target: AnyArray,
    dloss: AnyArray,
    ranks: Ranks,
    axis: int = -1,
    weight: AnyArray | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    out: AnyArray | None = None,
) -> ArrayT:
    """Gradient of a loss of `cross_entropy`'s: ``dx_i = dloss * (softmax(x)_i - (i == t))``.

    The bits are those of `cusoftmax.cross_entropy_vjp` on one device.

    Parameters
    ----------
    logits, target
        As in `cross_entropy`.
    dloss : array
        The gradient with respect to the loss of each row, whole on all ranks: of the shape of
        `logits` without the axis. Its dtype may differ.
    ranks, axis, weight, ignore_index, label_smoothing, z_loss, softcap
        As in `cross_entropy`.
    out : array, optional
        Where to write the result: of the shape and dtype of the result. It may be `logits` itself.

    Returns
    -------
    array
        This rank's slice of the gradient, of the shape and dtype of `logits`.

    Raises
    ------
    TypeError, ValueError, RankError
        As `cross_entropy`.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> logits, target = cupy.asarray([[2.0, 4.0, 2.0, 1.0]]), cupy.asarray([1])
    >>> dloss, ranks = cupy.asarray([10.0]), distributed.Ranks(None, 4)
    >>> distributed.cross_entropy_vjp(logits, target, dloss, ranks).round(4)
    array([[ 1.0249, -2.4269,  1.0249,  0.377 ]])
    """
    options = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "softcap": softcap,
    }
    others, more = (target, dloss), {"weight": weight}
    result = _run("cross_entropy_vjp", ranks, logits, others, axis, out, None, more, options)
    return result  # type: ignore[no-any-return]


def topk_softmax(
    x: ArrayT,
    k: int,
    ranks: Ranks,
    axis: int = -1,
    normalise: Literal["row", "topk"] = "row",
    dtype: DTypeLike | None = None,
    out: tuple[AnyArray, AnyArray] | None = None,
) -> tuple[ArrayT, ArrayT]:
    """The `k` largest probabilities of rows among ranks, and their indices in the whole rows.

    ``y_i = exp(x_i) / sum_j exp(x_j)`` for the `k` largest ``x_i`` of all ranks. Every rank gets
    all of them. Values and indices are those of `cusoftmax.topk_softmax` on one device.

    Parameters
    ----------
    x : array
        As in `softmax`.
    k : int
        How many to select: from 1 to 64, and at most ``ranks.length``. A slice may have fewer.
    ranks, axis
        As in `softmax`.
    normalise : {"row", "topk"}
        Whether the sum is over the classes of all ranks or over the `k` that are selected.
    dtype : dtype, optional
        Dtype of the values, by default that of ``out[0]`` or, without `out`, that of `x`, and
        float64 for integers and bool.
    out : pair of arrays, optional
        Where to write values and indices: of the results' shape, of a float dtype and int64.

    Returns
    -------
    values, indices : array
        The same on all ranks, of the shape of `x` but with `k` elements along `axis`, in descending
        order of the values. The int64 indices count from the row's first element on rank 0.

    Raises
    ------
    TypeError, ValueError, RankError
        As `softmax`; ValueError too if `k` or `normalise` is not one of those above.

    Notes
    -----
    One all-gather of `gathered_bytes`: from each rank its best `k`, and nodes as in `softmax` with
    ``normalise="row"``. The slice is read once; after the all-gather nothing of it is read.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> x = cupy.asarray([[2.0, 4.0, 2.0, 1.0]])
    >>> values, indices = distributed.topk_softmax(x, 2, distributed.Ranks(None, 4))
    >>> values.round(4), indices
    (array([[0.7573, 0.1025]]), array([[1, 0]]))
    """
    options = {"k": k, "normalise": normalise}
    result = _run("topk_softmax", ranks, x, (), axis, out, dtype, options=options)
    return result  # type: ignore[no-any-return]


def sample(
    x: ArrayT,
    ranks: Ranks,
    axis: int = -1,
    *,
    seed: int,
    temperature: float = 1.0,
    out: AnyArray | None = None,
) -> ArrayT:
    """One draw from ``softmax(x / temperature)`` for each row, over the classes of all ranks.

    It is the index of the largest ``x / temperature + g``, with Gumbel noise ``g`` that follows
    from the seed, the row and the element's index in the whole row. So it is the draw of
    `cusoftmax.sample` on one device, and every rank gets it.

    Parameters
    ----------
    x, ranks, axis
        As in `softmax`.
    seed, temperature
        As in `cusoftmax.sample`; the same on all ranks.
    out : array, optional
        Where to write the result: of the shape of `x` without the axis, and int64.

    Returns
    -------
    array of int64
        An index for each row, the same on all ranks, which counts from the row's first element on
        rank 0: of the shape of `x` without the axis. -1 for a row without a distribution.

    Raises
    ------
    TypeError, ValueError, RankError
        As `softmax`; ValueError too if `seed` or `temperature` is out of range.

    Notes
    -----
    One all-gather of `gathered_bytes`: a key and an index from each rank, for each row. The slice
    is read once.

    Examples
    --------
    >>> import cupy
    >>> from cusoftmax import distributed
    >>> x = cupy.asarray([[2.0, 4.0, 2.0, 1.0]] * 5)
    >>> distributed.sample(x, distributed.Ranks(None, 4), seed=7)
    array([3, 2, 0, 1, 1])
    """
    options = {"seed": seed, "temperature": temperature}
    return _run("sample", ranks, x, (), axis, out, options=options)  # type: ignore[no-any-return]


def _run(
    op: str,
    ranks: Ranks,
    x: Any,
    others: tuple[Any, ...],
    axis: Any,
    out: Any,
    dtype: Any = None,
    more: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> Any:
    """Call a function on this rank, together with the others; `more` are arrays, or None."""
    if not isinstance(ranks, Ranks):
        raise wrong_kind(op, "ranks", ranks, "the Ranks of a communicator")

    more = more or {}

    def own() -> tuple[tuple[nodes.Nodes, Gather], str]:
        _check_size(op, ranks, x, axis)
        wanted = dtype
        if dtype is None and not op.startswith("cross_entropy") and op != "sample":
            wanted = getattr(out[0] if isinstance(out, tuple) and out else out, "dtype", None)
        made = nodes.partial(
            x,
            op,
            *others,
            offset=ranks.offset,
            length=ranks.length,
            axis=axis,
            dtype=wanted if isinstance(wanted, np.dtype) else dtype,
            **more,
            **(options or {}),
        )
        _check_out(op, made, x, out)
        gather = ranks.prepared(made.kernel, made.dtypes, made.array)
        return (made, gather), _said(made, ranks)

    made, gather = ranks.agreed(op, lambda: _named(op, own))
    whole = made
    if ranks.count > 1:
        whole = _folded(made, gather)
    place = {"offset": ranks.offset, "out": out}
    return _named(op, lambda: nodes.apply(x, whole, *others, **place, **more))


def _named(op: str, call: Callable[[], _Result]) -> _Result:
    """Return what a call does; its errors name the user's function in place of one of `nodes`."""
    try:
        return call()
    except (TypeError, ValueError) as error:
        failed = error
    if type(failed) not in (TypeError, ValueError, AxisError):
        raise failed
    words = [
        re.sub(r"^(partial|apply)(?=:|$)", op, a) if isinstance(a, str) else a for a in failed.args
    ]
    raise type(failed)(*words).with_traceback(failed.__traceback__)


def _folded(made: nodes.Nodes, gather: Gather) -> nodes.Nodes:
    """Return the nodes of whole rows, folded in one launch however many ranks there are."""
    from cusoftmax.runtime import pieces

    gathered = gather() if prod(made.array.shape[1:]) else made.array
    whole = checked_piece(made.kernel, made.dtypes, 0, made.length, made.length, made.op)
    joined, k = [(gathered, whole)], nodes.selected(made)
    array, _ = pieces.combine(made.kernel, made.dtypes, joined, k)
    return replace(made, array=array, offset=0, size=made.length)


def _said(made: nodes.Nodes, ranks: Ranks) -> str:
    """Return what has to be the same on all ranks, in words."""
    options = "".join(f", {name}={value!r}" for name, value in made.options)
    return (
        f"{made.op} of {', '.join(made.dtypes)} (inputs and results) of rows in an array of "
        f"{made.array.shape[1:-1]}{options}, in slices of {ranks.sizes} elements, as {made.kernel}"
    )


def _check_size(caller: str, ranks: Ranks, x: Any, axis: Any) -> None:
    """Refuse a slice of another size than was agreed on; `nodes.partial` refuses the rest."""
    shape = tuple(getattr(x, "shape", ()))
    along = isinstance(axis, int) and -len(shape) <= axis < len(shape)
    if along and shape[axis] != ranks.size:
        raise ValueError(
            f"{caller}: the array has shape {shape} and so {shape[axis]} elements of each row, but "
            f"this rank's slice has {ranks.size}; give its slice, or make other Ranks"
        )


def _check_out(caller: str, made: nodes.Nodes, x: Any, out: Any) -> None:
    """Refuse arrays for results that do not fit, before other ranks compute theirs."""
    if out is None:
        return
    operation = find(made.kernel)
    dtypes = made.dtypes[len(operation.read) :]
    batch: tuple[int, ...] = made.array.shape[1:-1]
    if operation.selects_many:
        along = made.axis % len(x.shape)
        batch = (*batch[:along], nodes.selected(made), *batch[along:])
    fits = [
        (tuple(x.shape) if name in operation.outputs else batch, dtype)
        for name, dtype in zip(operation.written, dtypes, strict=True)
    ]
    if caller == "cross_entropy":
        fits.reverse()  # the loss comes first
    given = out if isinstance(out, tuple) else (out,)
    if len(given) != len(fits):
        count = f"{len(given)} array{'s' * (len(given) != 1)}"
        raise TypeError(f"{caller}: out has {count}; give {len(fits)}")
    for each, (shape, dtype) in zip(given, fits, strict=True):
        if not hasattr(each, "shape") or not hasattr(each, "dtype"):
            raise TypeError(f"{caller}: out is a {full_name(type(each))}; give an array")
        if tuple(each.shape) != shape:
            raise ValueError(f"{caller}: out has shape {tuple(each.shape)}; give it shape {shape}")
        if str(each.dtype).rpartition(".")[2] != dtype:  # of PyTorch: torch.float32
            raise TypeError(f"{caller}: out has dtype {each.dtype}, and the result {dtype}")
