"""Logits that are scaled, biased or hidden."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax.reference._rows import Float, widen


def logits(
    x: ArrayLike,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
) -> tuple[Float, Float]:
    """What a softmax is taken of, ``scale * x + bias``, and where it is seen at all.

    Parameters
    ----------
    x : array_like
        Of any shape and real dtype.
    scale : float
        Factor of `x`.
    mask, bias : array_like, optional
        They broadcast to `x`: True where an element is seen; what is added.
    causal : bool
        Whether row i of the last two axes, of q rows of n elements, sees only the first
        i + 1 + n - q of them.

    Returns
    -------
    logits, seen : numpy.ndarray
        `numpy.longdouble`, -inf where not seen; and bool.
    """
    z, kept = widen(x), seen(x, mask, causal)
    with np.errstate(all="ignore"):
        if scale != 1:
            z = z * widen(scale)
        if bias is not None:
            z = z + np.broadcast_to(widen(bias), z.shape)
    return shown(kept, z, -np.inf), kept


def seen(x: ArrayLike, mask: ArrayLike | None, causal: bool) -> Float:
    """Return where an array of the shape of `x` is seen, as in `logits`."""
    shape = np.shape(x)
    kept = np.broadcast_to(True if mask is None else np.asarray(mask, bool), shape)
    if causal:
        queries, keys = shape[-2:]
        kept = kept & np.tri(queries, keys, keys - queries, dtype=bool)
    return kept


def shown(kept: Float, values: ArrayLike, hidden: float) -> Float:
    """Return `values`, with `hidden` where they are not `kept`."""
    whole = np.asarray(values)
    if whole.shape != kept.shape:
        raise ValueError(f"shapes {[kept.shape, whole.shape]} differ; give arrays of one shape")
    return np.where(kept, whole, np.asarray(hidden, whole.dtype))
