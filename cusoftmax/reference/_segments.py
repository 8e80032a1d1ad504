"""Segments: rows of unequal length that lie end to end."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax.reference._rows import Float
from cusoftmax.reference._softmax import softmax, softmax_vjp


def segment_softmax(x: ArrayLike, offsets: ArrayLike, *, extended: bool = False) -> Float:
    """Softmax of each ``x[offsets[s]:offsets[s + 1]]`` along the first axis.

    Parameters
    ----------
    x : array_like, shape (E, ...)
        Logits of any real dtype.
    offsets : array_like, shape (S + 1,)
        Where each segment begins, and where the last one ends: rising from 0 to E.
    extended : bool
        As for `softmax`.
    """
    return _by_segment(lambda part: softmax(part, 0, extended=extended), offsets, extended, x)


def segment_softmax_vjp(
    y: ArrayLike, dy: ArrayLike, offsets: ArrayLike, *, extended: bool = False
) -> Float:
    """Gradient through `segment_softmax`: `softmax_vjp` of each segment.

    Parameters
    ----------
    y, dy : array_like, shape (E, ...)
        The result of `segment_softmax` and the gradient with respect to it.
    offsets, extended
        As for `segment_softmax`.
    """

    def product(part: Float, other: Float) -> Float:
        return softmax_vjp(part, other, 0, extended=extended)

    return _by_segment(product, offsets, extended, y, dy)


def segment_sum(values: ArrayLike, offsets: ArrayLike) -> Float:
    """Sum of each segment in float64, repeated for each of its elements."""

    def total(part: Float) -> Float:
        return np.broadcast_to(part.astype(np.float64).sum(0, keepdims=True), part.shape)

    return _by_segment(total, offsets, False, values)


def _by_segment(
    function: Callable[..., Float], offsets: ArrayLike, extended: bool, *arrays: ArrayLike
) -> Float:
    """Return `function` of each segment of arrays of one shape; all NaN if offsets do not rise."""
    whole = [np.asarray(a) for a in arrays]
    cuts = np.asarray(offsets).astype(np.int64)
    result = np.full(whole[0].shape, np.nan, np.longdouble if extended else np.float64)
    if cuts[0] == 0 and cuts[-1] == len(result) and (np.diff(cuts) >= 0).all():
        for begin, end in pairwise(cuts):
            if begin < end:
                result[begin:end] = function(*(a[begin:end] for a in whole))
    return result
