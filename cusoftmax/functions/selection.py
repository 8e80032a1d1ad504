"""The largest probabilities of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from cusoftmax.planning import checks
from cusoftmax.runtime import launch

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from cusoftmax.functions._types import AnyArray, ArrayT


def topk_softmax(
    x: ArrayT,
    k: int,
    axis: int = -1,
    normalise: Literal["row", "topk"] = "row",
    dtype: DTypeLike | None = None,
    out: tuple[AnyArray, AnyArray] | None = None,
) -> tuple[ArrayT, ArrayT]:
    """The `k` largest probabilities of each row and their indices, in one pass over the logits.

    ``y_i = exp(x_i - m) / s`` for the `k` largest ``x_i``, with ``m = max_j x_j`` and ``s`` the sum
    of ``exp(x_j - m)`` over the row or over the `k`. Rows of any length are read once, and only `k`
    values and indices are written; the other probabilities are not computed.

    Parameters
    ----------
    x : array
        Logits, with at least one dimension; strides and dtypes as for `softmax`.
    k : int
        How many to select: from 1 to 64, and at most the length of a row.
    axis : int
        The axis of the softmax.
    normalise : {"row", "topk"}
        ``"row"`` gives the probabilities of `softmax`. ``"topk"`` makes the `k` values of each row
        sum to 1, like the gates of a mixture of experts.
    dtype : dtype, optional
        Float dtype of the values. By default that of ``out[0]`` or, without `out`, that of `x`, and
        float64 for integers and bool.
    out : pair of arrays, optional
        Where to write values and indices: their shape, a float dtype and int64, any strides. They
        may not overlap `x`.

    Returns
    -------
    values, indices : array
        Both have the shape of `x`, but with `k` elements along `axis`, in descending order of the
        values. The indices are int64, as for `cupy.take_along_axis`.

    Raises
    ------
    TypeError
        If an array is none that a GPU reads or has another dtype than those accepted, or another
        argument is of the wrong kind.
    ValueError
        If an array is misaligned; if `k` is less than 1, more than 64 or more than the length of a
        row; if `normalise` is not known; if `x` has no dimensions; if an array of `out` has the
        wrong shape, device or dtype, has elements that share memory, or overlaps another array; if
        `axis` is out of range (`numpy.exceptions.AxisError`).

    Notes
    -----
    Equal logits are selected in the order of their indices; -0 and +0 are equal. The comparison is
    exact, also of subnormals and of 64-bit integers beyond 2**53; only probabilities are computed
    from float64 values. Logits that differ may round to equal probabilities.

    All values of a row are NaN if it has a NaN or a +inf, or only -inf. The indices are valid in
    any case: NaN comes before +inf, as in `torch.topk` and `jax.lax.top_k`. An entry of -inf has
    the value 0, and is selected only if no other is left.

    References
    ----------
    docs/derivation.md: The largest probabilities.

    Examples
    --------
    >>> import cupy, cusoftmax
    >>> values, indices = cusoftmax.topk_softmax(cupy.asarray([2.0, 4.0, 2.0, 1.0]), 2)
    >>> values.round(4), indices
    (array([0.7573, 0.1025]), array([1, 0]))
    """
    op, options = selection_of("topk_softmax", k, normalise)
    return launch.run(op, (x,), axis, dtype, out, options=options)  # type: ignore[return-value]


def selection_of(caller: str, k: Any, normalise: Any) -> tuple[str, tuple[int]]:
    """Return the operation that selects `k` elements, and its options."""
    named = {"row": "topk_softmax", "topk": "topk_softmax_gates"}
    op = named[checks.plain_choice(caller, "normalise", normalise, named)]
    return op, (checks.plain_count(caller, "k", k),)
