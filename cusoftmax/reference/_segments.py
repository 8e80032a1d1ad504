"""Rows of unequal length, laid end to end."""

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
        From 0 up to E.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.
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
    offsets : array_like, shape (S + 1,)
        From 0 up to E.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.
    """

    def product(part: Float, other: Float) -> Float:
        return softmax_vjp(part, other, 0, extended=extended)

    return _by_segment(product, offsets, extended, y, dy)


def segment_sum(values: ArrayLike, offsets: ArrayLike) -> Float:
    """Sum of each segment in float64, repeated over it."""

    def total(part: Float) -> Float:
        return np.broadcast_to(part.astype(np.float64).sum(0, keepdims=True), part.shape)

    return _by_segment(total, offsets, False, values)


def _by_segment(
    function: Callable[..., Float], offsets: ArrayLike, extended: bool, *arrays: ArrayLike
) -> Float:
    """Return `function` of each segment of arrays of one shape; all NaN for bad offsets."""
    whole = [np.asarray(a) for a in arrays]
    cuts = np.asarray(offsets).astype(np.int64)
    result = np.full(whole[0].shape, np.nan, np.longdouble if extended else np.float64)
    if cuts[0] == 0 and cuts[-1] == len(result) and (np.diff(cuts) >= 0).all():
        for begin, end in pairwise(cuts):
            if begin < end:
                result[begin:end] = function(*(a[begin:end] for a in whole))
    return result
