"""Arrays as rows in extended precision, and the functions of rows that the references share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax.planning.checks import Axis, resolve_axes

Float = np.ndarray[Any, np.dtype[Any]]


def widen(values: ArrayLike) -> Float:
    """Return the float64 values of an array in extended precision."""
    array = np.asarray(values)
    if array.dtype == np.longdouble:
        return array
    return array.astype(np.float64).astype(np.longdouble)


def single(value: Any, extended: bool) -> Float:
    """Return one value as a result."""
    return np.asarray(value, np.longdouble if extended else np.float64)


def two_sum(a: Float, b: Float) -> tuple[Float, Float]:
    """Return the rounded sum, and what it lost: 0 where that is not finite."""
    whole = a + b
    back = whole - a
    lost = (a - (whole - back)) + (b - back)
    return whole, np.where(np.isfinite(lost), lost, 0)


def two_product(a: Float, b: Float) -> tuple[Float, Float]:
    """Return the rounded product, and what it lost: 0 where that is not finite."""
    splitter = np.longdouble(2) ** ((np.finfo(np.longdouble).nmant + 2) // 2) + 1
    (high_a, low_a), (high_b, low_b) = (
        (high, v - high) for v in (a, b) for high in (splitter * v - (splitter * v - v),)
    )
    whole = a * b
    lost = ((high_a * high_b - whole) + high_a * low_b + low_a * high_b) + low_a * low_b
    return whole, np.where(np.isfinite(lost), lost, 0)


def softmax_rows(x: Float, low: Float | None = None) -> Float:
    """Return softmax of each row, of numbers with a second word if that is given."""
    if x.size == 0:
        return x
    with np.errstate(all="ignore"):
        e = exponentials(x, low)
        return np.asarray(e / e.sum(axis=-1, keepdims=True))


def exponentials(x: Float, low: Float | None = None) -> Float:
    """Return ``exp(x + low - m)``, m the row's maximum, as right as the result's precision is."""
    d, lost = below_maximum(x, low)
    e = np.exp(d)
    e += e * lost
    return np.asarray(e)


def below_maximum(x: Float, low: Float | None = None) -> tuple[Float, Float]:
    """Return ``x + low - m`` in two words, m the row's maximum: exp magnifies what one loses."""
    words = np.zeros_like(x) if low is None else low
    m, m_low = maximum_of(x, words)
    d, lost = two_sum(x, -shift_of(m)[:, None])
    return two_sum(d, lost + (words - m_low[:, None]))


def maximum_of(x: Float, low: Float) -> tuple[Float, Float]:
    """Return the maximum of each row of numbers of two words."""
    m = x.max(axis=-1, initial=-np.inf)
    m = np.where(np.isnan(x).any(axis=-1), np.nan, m)
    m_low = np.where(x == m[:, None], low, -np.inf).max(axis=-1, initial=-np.inf)
    return m, np.where(np.isfinite(m_low), m_low, 0)


def only(marked: Float) -> Float:
    """Return where the only marked element of each row is, if it has just one."""
    return np.asarray(marked & (marked.sum(axis=-1, keepdims=True) == 1))


def above_half(y: ArrayLike, rows: Float) -> Float:
    """Return where the only element above one half of each of the `rows` of `y` is.

    Nowhere in 16-bit dtypes, whose rows hardly sum to 1, nor in integers, which are no softmax.
    """
    dtype = np.asarray(y).dtype
    precise = dtype.kind == "f" and dtype.itemsize >= 4
    return only(rows > 0.5) & precise


class Centred:
    """A vector less its mean over each row with the weights `y`, right also next to 1.

    The weight where `dominant` is counts as 1 less the sum of the others, or as 1 less `left`.

    Attributes
    ----------
    there : numpy.ndarray
        The vector at the dominant element, a column; 0 in rows without.
    beyond : numpy.ndarray
        The mean less that.
    from_there, less_mean : numpy.ndarray
        The vector less the one, and less the mean.
    """

    def __init__(self, y: Float, v: Float, dominant: Float, left: Float | None = None) -> None:
        there = np.where(dominant, v, 0).sum(axis=-1, keepdims=True)
        finite = np.isfinite(there)  # if it is not, it is the mean
        self.there = np.where(finite, there, 0)
        if left is None:
            left = np.where(dominant, 0, y).sum(axis=-1, keepdims=True)
        others = np.where(dominant, 0, y * v).sum(axis=-1, keepdims=True)
        lacking = np.where(dominant.any(axis=-1, keepdims=True), left * self.there, 0)
        self.beyond = np.where(finite, others - lacking, there)
        self.from_there = v - self.there
        self.less_mean = self.from_there - self.beyond


def shift_of(m: Float) -> Float:
    """Return maxima that can be subtracted: 0 in place of -inf."""
    return np.where(np.isneginf(m), 0, m)


def log_of_sum(x: Float, low: Float | None = None) -> Float:
    """Return ``log sum_j exp(x_j + low_j - m)`` of each row, accurate even close to 0."""
    others = exponentials(x, low)
    top = others.argmax(axis=-1)[:, None]
    first = np.take_along_axis(others, top, -1)[:, 0]  # 1, or NaN among infinities
    np.put_along_axis(others, top, 0, -1)
    return np.asarray(np.log1p(others.sum(axis=-1) + (first - 1)))


def weighted_terms(x: Float, low: Float, b: Float | None = None) -> tuple[Float, Float]:
    """Return each row's maximum over elements whose weight is not 0, and the terms of its sum.

    They are relative to the maximum and its second word.
    """
    if b is None:
        b = np.ones_like(x)
    counted = np.where(b == 0, -np.inf, x)
    with np.errstate(all="ignore"):
        e = np.where(np.isposinf(counted), np.inf, exponentials(counted, low))
        return maximum_of(counted, low)[0], np.where(b == 0, 0, b * e)


class Restore:
    """Restores the shape of the arrays that rows were made of."""

    def __init__(
        self, shape: tuple[int, ...], order: tuple[int, ...], axes: tuple[int, ...]
    ) -> None:
        self.kept = tuple(1 if d in axes else size for d, size in enumerate(shape))
        self.reduced = tuple(size for d, size in enumerate(shape) if d not in axes)
        self.moved = tuple(shape[d] for d in order)
        self.inverse = tuple(int(d) for d in np.argsort(order))

    def values(self, rows: Float, extended: bool, keepdims: bool) -> Float:
        """Return one value for each row in the shape that a reduction leaves."""
        whole = rows.reshape(self.kept if keepdims else self.reduced)
        return whole.astype(np.longdouble if extended else np.float64)

    def __call__(self, rows: Float, extended: bool) -> Float:
        whole = rows.reshape(self.moved).transpose(self.inverse)
        with np.errstate(all="ignore"):
            return whole.astype(np.longdouble if extended else np.float64, order="C")


def rows_of(*arrays: ArrayLike, axis: Axis) -> tuple[list[Float], Restore]:
    """Return arrays as contiguous rows, for which NumPy uses pairwise summation."""
    wide = [widen(a) for a in arrays]
    shape = wide[0].shape
    if any(w.shape != shape for w in wide):
        raise ValueError(f"shapes {[w.shape for w in wide]} differ; give arrays of one shape")
    axes = resolve_axes("reference", axis, len(shape))
    order = (*(d for d in range(len(shape)) if d not in axes), *axes)
    length = int(np.prod([shape[d] for d in axes], dtype=np.int64))
    rows = int(np.prod([shape[d] for d in order[: len(shape) - len(axes)]], dtype=np.int64))
    cut = [np.ascontiguousarray(w.transpose(order)).reshape(rows, length) for w in wide]
    return cut, Restore(shape, order, axes)
