"""The public functions: they check arguments, and name what blocks are moved for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from cusoftmax.operations.dtypes import FLOATS, INDICES, INPUTS, compute_dtype, output_dtype
from cusoftmax.operations.options import cross_entropy_name
from cusoftmax.planning.checks import (
    as_dtype,
    check_choice,
    check_selection,
    check_shape,
    described,
    plain_bool,
)
from cusoftmax.streaming.job import Job, checked, rows_of, target_of, transformed, wanted_dtype
from cusoftmax.streaming.pipeline import run

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


def softmax(
    source: Any,
    out: Any = None,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: Any = None,
    bias: Any = None,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Softmax of an array of the host, in blocks: ``y_i = exp(x_i) / sum_j exp(x_j)``.

    As `cusoftmax.softmax`, of what the device does not hold at once.

    Parameters
    ----------
    source : array of the host
        What has a shape, a dtype that `cusoftmax.softmax` accepts, and gives NumPy arrays for
        slices.
    out : array of the host, optional
        What takes results by slices: the shape of `source`, and a float dtype. It
        shares no memory with `source`.
    axis : int
        The axis of the rows.
    dtype : dtype, optional
        Dtype of the result, by default that of `out` or, without `out`, that of `source`, and
        float64 for integers and bool.
    scale : float, optional
        As in `cusoftmax.softmax`.
    mask, bias : array of the host, optional
        As in `cusoftmax.softmax`: of the shape of `source`, or one that broadcasts to it.
    device_bytes : int, optional
        The most memory that is taken on the device. As many bytes or fewer are pinned on the host.
        By default half of what is free, and at most 256 MiB.
    progress : bool
        Whether to show the progress on standard error, if that is a terminal.
    resume : int
        What an `Interrupted` or a `BlockError` of the same call says, with the same arguments, of
        which `out` is one.

    Returns
    -------
    array of the host
        `out` or, if it was not given, an array of NumPy of the shape of `source` and of `dtype`.

    Raises
    ------
    TypeError
        If an array is none of the host or has a dtype that is not accepted, or another argument is
        of the wrong kind.
    ValueError
        If `out` has another shape or shares memory with an input, `device_bytes` is too few for a
        piece of 1024 elements, `resume` is no block or there is no `out` to go on in; if `axis` is
        out of range (`numpy.exceptions.AxisError`).
    BlockError
        If a block cannot be read, computed or written: the message names it and its rows.

    Notes
    -----
    After Ctrl-C, the blocks that are on the device are finished. `Interrupted`, which is a
    KeyboardInterrupt, then says with which `resume` the same call goes on.

    Each row is read once if the device holds it twice, with its results, and else twice. Rows have
    the bits of `cusoftmax.softmax` of contiguous rows, whatever `device_bytes` and `axis` are.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> x = numpy.array([[2.0, 4.0, 2.0, 1.0]])  # or numpy.memmap, or a dataset
    >>> cusoftmax.streaming.softmax(x).round(4)
    array([[0.1025, 0.7573, 0.1025, 0.0377]])
    """
    logits = {"scale": scale, "mask": mask, "bias": bias}
    job = Job.of_one("softmax", source, out, axis, dtype, **logits)
    return run(job, device_bytes, progress, resume)


def log_softmax(
    source: Any,
    out: Any = None,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: Any = None,
    bias: Any = None,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Logarithm of softmax of an array of the host: ``y_i = x_i - log(sum_j exp(x_j))``.

    As `cusoftmax.log_softmax`, in blocks.

    Parameters
    ----------
    source, out, axis, dtype, scale, mask, bias, device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    array of the host
        `out` or, if it was not given, an array of NumPy of the shape of `source` and of `dtype`.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> cusoftmax.streaming.log_softmax(numpy.array([[2.0, 4.0, 2.0, 1.0]])).round(4)
    array([[-2.278, -0.278, -2.278, -3.278]])
    """
    logits = {"scale": scale, "mask": mask, "bias": bias}
    job = Job.of_one("log_softmax", source, out, axis, dtype, **logits)
    return run(job, device_bytes, progress, resume)


def logsumexp(
    source: Any,
    out: Any = None,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    scale: float | None = None,
    mask: Any = None,
    bias: Any = None,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Logarithm of a sum of exponentials of an array of the host: ``log(sum_j exp(x_j))``.

    As `cusoftmax.logsumexp`, in blocks.

    Parameters
    ----------
    source : array of the host
        As in `softmax`.
    out : array of the host, optional
        What takes results by slices: the shape of `source` without the axis, and a float dtype.
    axis, dtype, scale, mask, bias, device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    array of the host
        `out` or, if it was not given, an array of NumPy of `dtype`, of the shape of `source`
        without the axis.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`.

    Notes
    -----
    Each row is read once, however long.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> cusoftmax.streaming.logsumexp(numpy.array([[2.0, 4.0, 2.0, 1.0]])).round(4)
    array([4.278])
    """
    logits = {"scale": scale, "mask": mask, "bias": bias}
    job = Job.of_one("logsumexp", source, out, axis, dtype, **logits)
    return run(job, device_bytes, progress, resume)


def softmax_vjp(
    y: Any,
    dy: Any,
    out: Any = None,
    axis: int = -1,
    *,
    scale: float | None = None,
    mask: Any = None,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Gradient with respect to softmax's input: ``dx = y * (dy - sum_j y_j dy_j)``.

    As `cusoftmax.softmax_vjp`, in blocks.

    Parameters
    ----------
    y, dy : array of the host
        The result of softmax, and the gradient with respect to it, of one shape. Their dtypes are
        those that `cusoftmax.softmax_vjp` accepts.
    out : array of the host, optional
        What takes results by slices: the same shape, and the dtype of the result. It shares
        no memory with `y` or `dy`.
    axis, scale, mask, device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    array of the host
        `out` or, if it was not given, an array of NumPy of their shape, and of the wider of their
        dtypes.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> y, dy = numpy.array([[0.25, 0.75]]), numpy.array([[1.0, 0.0]])
    >>> cusoftmax.streaming.softmax_vjp(y, dy)
    array([[ 0.1875, -0.1875]])
    """
    op = "softmax_vjp"
    sources = [checked(op, "y", y, INPUTS), checked(op, "dy", dy, INPUTS)]
    shape, axis = rows_of(op, "y", sources[0], axis)
    check_shape(op, "dy", tuple(dy.shape), "y", shape, shape)
    wide = as_dtype(op, output_dtype([side.dtype.name for side in sources]))
    kernel, options, beside = transformed(op, shape, scale, mask)
    targets = [target_of(op, "out", out, shape, wide, True)]
    job = Job(op, kernel, shape, axis, sources, targets, options, beside)
    return run(job, device_bytes, progress, resume)


def cross_entropy(
    logits: Any,
    target: Any,
    out: Any = None,
    axis: int = -1,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    grad: bool = False,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Loss of each row of logits, ``log(sum_j exp(x_j)) - x_t``, and the gradient of their sum.

    As `cusoftmax.cross_entropy` without a reduction, in blocks.

    Parameters
    ----------
    logits : array of the host
        Any shape and accepted dtype, with the classes along `axis`.
    target : array of the host
        Integers, the class of each row, with the shape of `logits` without `axis`; or floats, the
        probability of each class, with the shape of `logits`.
    out : array of the host, or two, optional
        What takes the losses by slices; with `grad` a tuple, of what takes the losses and the
        gradient. Of the shapes and the dtype of the results.
    axis : int
        The axis of the classes.
    weight : array of the host, optional
        A weight for each class, with shape ``(C,)`` and a float dtype. The device has all of it,
        however many of `device_bytes` that takes.
    ignore_index, label_smoothing, z_loss, softcap
        As in `cusoftmax.cross_entropy`.
    grad : bool
        Whether to return the gradient too.
    device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    loss : array of the host
        The loss of each row, with the shape of `logits` without the axis. Its dtype is that of
        `logits`, or float64 for integers.
    dlogits : array of the host
        With `grad`: the gradient, with the shape of `logits` and the dtype of the loss.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`; and if an option is out of range.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> logits, target = numpy.array([[2.0, 4.0, 2.0, 1.0]]), numpy.array([1])
    >>> loss, dlogits = cusoftmax.streaming.cross_entropy(logits, target, grad=True)
    >>> loss.round(4), dlogits.round(4)
    (array([0.278]), array([[ 0.1025, -0.2427,  0.1025,  0.0377]]))
    """
    op = "cross_entropy"
    grad = plain_bool(op, "grad", grad)
    first = checked(op, "logits", logits, INPUTS)
    second = checked(op, "target", target, (*INDICES, *FLOATS))
    shape, axis = rows_of(op, "logits", first, axis)
    of_rows = shape[:axis] + shape[axis + 1 :]
    soft = second.dtype.name in FLOATS
    check_shape(op, "target", tuple(target.shape), "logits", shape, shape if soft else of_rows)
    second.along = soft
    table = None
    if weight is not None:
        table = checked(op, "weight", weight, tuple(FLOATS))
        check_shape(op, "weight", tuple(weight.shape), "logits", shape, (shape[axis],))
    wide = as_dtype(op, output_dtype([first.dtype.name]))
    losses, gradient = _two(op, out, "losses, gradient") if grad else (out, None)
    targets = [target_of(op, "out[0]" if grad else "out", losses, of_rows, wide, False)]
    if grad:
        targets.append(target_of(op, "out[1]", gradient, shape, wide, True))
    options = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "softcap": softcap,
        "grad": grad,
    }
    # The numbers are checked before a block is read.
    from cusoftmax.functions._losses import Options

    counted = [side.dtype.name for side in (first, *([second] if soft else []), table) if side]
    arithmetic = compute_dtype(counted, wide.name)
    Options.checked(op, arithmetic, ignore_index, label_smoothing, z_loss, softcap)
    kernel = cross_entropy_name(
        soft=soft,
        weight=table is not None,
        smooth=not soft and label_smoothing > 0,
        capped=softcap is not None,
        result="grad" if grad else "",
    )
    job = Job(op, kernel, shape, axis, [first, second], targets, options, weight=table)
    return run(job, device_bytes, progress, resume)


def topk_softmax(
    source: Any,
    k: int,
    out: Any = None,
    axis: int = -1,
    *,
    normalise: Literal["row", "topk"] = "row",
    dtype: DTypeLike | None = None,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """The `k` largest probabilities of rows of the host, and their indices.

    ``y_i = exp(x_i) / sum_j exp(x_j)`` for the `k` largest ``x_i``: as `cusoftmax.topk_softmax`, in
    blocks.

    Parameters
    ----------
    source : array of the host
        As in `softmax`.
    k : int
        How many to select: from 1 to 64, and at most the length of a row.
    out : two arrays of the host, optional
        What takes values and indices by slices: of the results' shape, of a float dtype and int64.
    axis : int
        The axis of the rows.
    normalise : {"row", "topk"}
        Whether the sum is over all of the row or over the `k` that are selected.
    dtype : dtype, optional
        Dtype of the values, by default that of ``out[0]`` or, without `out`, that of `source`, and
        float64 for integers and bool.
    device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    values, indices : array of the host
        Those of `out` or, if it was not given, arrays of NumPy: of the shape of `source` but with
        `k` elements along `axis`, in descending order of the values.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`; and if `k` or `normalise` is not one of those above.

    Notes
    -----
    Each row is read once, however long.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> x = numpy.array([[2.0, 4.0, 2.0, 1.0]])
    >>> values, indices = cusoftmax.streaming.topk_softmax(x, 2)
    >>> values.round(4), indices
    (array([[0.7573, 0.1025]]), array([[1, 0]]))
    """
    from cusoftmax.functions.selection import selection_of

    op = "topk_softmax"
    side = checked(op, "source", source, INPUTS)
    shape, axis = rows_of(op, "source", side, axis)
    kernel, numbers = selection_of(op, k, normalise)
    check_selection(op, *numbers, shape, (axis,))
    k = int(k)
    values, indices = _two(op, out, "values, indices")
    wide = wanted_dtype(op, side, dtype, "out[0]", values)
    has = (*shape[:axis], k, *shape[axis + 1 :])
    targets = [
        target_of(op, "out[0]", values, has, wide, False, k),
        target_of(op, "out[1]", indices, has, as_dtype(op, "int64"), False, k),
    ]
    options = {"k": k, "normalise": normalise}
    job = Job(op, kernel, shape, axis, [side], targets, options, dtype=wide)
    return run(job, device_bytes, progress, resume)


def sample(
    source: Any,
    out: Any = None,
    axis: int = -1,
    *,
    seed: int,
    temperature: float = 1.0,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """One draw from ``softmax(x / temperature)`` for each row of the host, an index.

    As `cusoftmax.sample`, in blocks: the draws of a seed are those of contiguous rows.

    Parameters
    ----------
    source : array of the host
        As in `softmax`.
    out : array of the host, optional
        What takes the draws by slices: the shape of `source` without the axis, and int64.
    axis : int
        The axis of the rows.
    seed, temperature
        As in `cusoftmax.sample`.
    device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    array of the host
        `out` or, if it was not given, an array of NumPy of int64, of the shape of `source` without
        the axis. -1 for a row without a distribution.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`; and if `seed` or `temperature` is out of range.

    Notes
    -----
    Each row is read once, however long.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> x = numpy.array([[2.0, 4.0, 2.0, 1.0]] * 5)
    >>> cusoftmax.streaming.sample(x, seed=7)
    array([3, 2, 0, 1, 1])
    """
    from cusoftmax.functions.sampling import draw_of

    op = "sample"
    side = checked(op, "source", source, INPUTS)
    shape, axis = rows_of(op, "source", side, axis)
    check_choice(op, shape, (axis,))
    kernel, _ = draw_of(op, seed, temperature)
    has = shape[:axis] + shape[axis + 1 :]
    target = target_of(op, "out", out, has, as_dtype(op, "int64"), False)
    options = {"seed": seed, "temperature": temperature}
    job = Job(op, kernel, shape, axis, [side], [target], options)
    return run(job, device_bytes, progress, resume)


def _two(op: str, out: Any, words: str) -> tuple[Any, Any]:
    """Return the two arrays for results, or None for each."""
    if out is None:
        return None, None
    if not isinstance(out, tuple) or len(out) != 2:
        raise TypeError(f"{op}: out={described(out)}; give two: {words}")
    return out
