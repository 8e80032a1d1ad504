"""The largest probabilities of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cusoftmax.planning import checks
from cusoftmax.runtime import launch

if TYPE_CHECKING:
    import cupy
    from numpy.typing import DTypeLike


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
    op = checks.one_of("topk_softmax", "normalise", normalise, named)
    k = checks.plain_count("topk_softmax", "k", k)
    values, indices = launch.run(op, (x,), axis, dtype, out, options=(k,))
    return values, indices
