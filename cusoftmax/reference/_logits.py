"""Logits that are scaled, biased or hidden, and derivatives with hidden elements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax.planning.checks import Axis
from cusoftmax.reference._rows import Float, rows_of, two_product, two_sum, widen


def logits(
    x: ArrayLike,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
) -> tuple[Float, Float]:
    """Return ``scale * x + bias``, whose softmax is taken, and which elements are not hidden.

    Parameters
    ----------
    x : array_like
        Of any shape and real dtype.
    scale : float
        Factor of `x`.
    mask, bias : array_like, optional
        Broadcast to `x`. The mask is True for elements that are not hidden; the bias is added.
    causal : bool
        Whether to hide all but the first i + 1 + n - q elements of row i, of the last two axes with
        q rows of n elements.

    Returns
    -------
    logits, seen : numpy.ndarray
        In `numpy.longdouble`, with -inf for hidden elements; and as bool.
    """
    z, _, kept = logits_of_two_words(x, scale, mask, bias, causal)
    return z, kept


def logits_of_two_words(
    x: ArrayLike,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
) -> tuple[Float, Float, Float]:
    """Return what `logits` does, with a second word of the logits before what is not hidden.

    Of a logit of 2**18 a `numpy.longdouble` has lost more than the exponential's last place.
    """
    z, kept = widen(x), seen(x, mask, causal)
    low = np.zeros_like(z)
    with np.errstate(all="ignore"):
        if scale != 1:
            z, low = two_product(z, widen(scale))
        if bias is not None:
            z, lost = two_sum(z, np.broadcast_to(widen(bias), z.shape))
            z, low = two_sum(z, low + lost)
    return shown(kept, z, -np.inf), shown(kept, low, 0), kept


def seen(x: ArrayLike, mask: ArrayLike | None, causal: bool) -> Float:
    """Return which elements of an array of the shape of `x` are not hidden, as in `logits`."""
    shape = np.shape(x)
    kept = np.broadcast_to(True if mask is None else np.asarray(mask, bool), shape)
    if causal:
        queries, keys = shape[-2:]
        kept = kept & np.tri(queries, keys, keys - queries, dtype=bool)
    return kept


def shown(kept: Float, values: ArrayLike, hidden: float) -> Float:
    """Return `values`, with `hidden` in place of those that are not `kept`."""
    whole = np.asarray(values)
    if whole.shape != kept.shape:
        raise ValueError(f"shapes {[kept.shape, whole.shape]} differ; give arrays of one shape")
    return np.where(kept, whole, np.asarray(hidden, whole.dtype))


def derivative(
    product: Callable[[Float, Float], Float],
    result: ArrayLike,
    vector: ArrayLike,
    axis: Axis,
    hidden: float,
    scale: float,
    mask: ArrayLike | None,
    causal: bool,
    extended: bool,
) -> Float:
    """Return `scale` times a Jacobian product of each row, computed without hidden elements.

    `product` takes rows of a function's result, in which `hidden` replaces hidden elements, and
    rows of a vector, in which 0 does. In the returned array they are 0.
    """
    kept = seen(result, mask, causal)
    rows, restore = rows_of(shown(kept, widen(result), hidden), shown(kept, vector, 0), axis=axis)
    with np.errstate(all="ignore"):
        return shown(kept, restore(widen(scale) * product(*rows), extended), 0)
