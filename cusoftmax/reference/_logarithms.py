"""log_softmax, logsumexp and their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax.planning.checks import Axis
from cusoftmax.reference._logits import derivative, logits_of_two_words, shown
from cusoftmax.reference._rows import (
    Centred,
    Float,
    below_maximum,
    log_of_sum,
    only,
    rows_of,
    softmax_rows,
    weighted_terms,
    widen,
)

_HALF = -np.log(np.longdouble(2))  # the logarithm of one half


def log_softmax(
    x: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Logarithm of softmax, ``x_i - m - log sum_j exp(x_j - m)``.

    Parameters
    ----------
    x, axis, scale, mask, bias, causal, extended
        As for `softmax`.

    Returns
    -------
    numpy.ndarray
        Accurate to the last bits even close to 0. NaN as in `softmax`. Hidden elements are -inf.
    """
    z, low, kept = logits_of_two_words(x, scale, mask, bias, causal)
    rows, restore = rows_of(z, low, axis=axis)
    return shown(kept, restore(_log_rows(*rows), extended), -np.inf)


def _log_rows(x: Float, low: Float) -> Float:
    if x.size == 0:
        return x
    with np.errstate(all="ignore"):
        return np.asarray(below_maximum(x, low)[0] - log_of_sum(x, low)[:, None])


def log_softmax_vjp(
    logy: ArrayLike,
    dy: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Gradient through `log_softmax`, ``dy - exp(logy) * sum_j dy_j``.

    Parameters
    ----------
    logy, dy : array_like
        The result of `log_softmax` and the gradient with respect to it, of one shape.
    axis, scale, mask, causal, extended
        As for `softmax`.
    """
    return derivative(_less_sum, logy, dy, axis, -np.inf, scale, mask, causal, extended)


def _less_sum(logy: Float, dy: Float) -> Float:
    """Return ``dy - exp(logy) sum_j dy_j``, right also where ``exp(logy)`` is next to 1."""
    total = dy.sum(axis=-1, keepdims=True)
    near = (dy - total) - np.expm1(logy) * total
    above = (logy > _HALF) & np.isfinite(total)
    return np.asarray(np.where(above, near, dy - np.exp(logy) * total))


def _less_mean(logy: Float, xt: Float) -> Float:
    """Return ``xt - sum_j exp(logy_j) xt_j``, right also where an ``exp(logy_j)`` is next to 1."""
    dominant = only(logy > _HALF)
    left = -np.where(dominant, np.expm1(logy), 0).sum(axis=-1, keepdims=True)
    return np.asarray(Centred(np.exp(logy), xt, dominant, left).less_mean)


def log_softmax_jvp(
    logy: ArrayLike,
    xt: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Change of `log_softmax` along `xt`, ``xt - sum_j exp(logy_j) xt_j``.

    Parameters
    ----------
    logy, xt : array_like
        The result of `log_softmax` and the tangent of its input, of one shape.
    axis, scale, mask, causal, extended
        As for `softmax`.
    """
    return derivative(_less_mean, logy, xt, axis, -np.inf, scale, mask, causal, extended)


def log_softmax_value_and_vjp(
    x: ArrayLike,
    dy: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> tuple[Float, Float]:
    """Logarithm of the softmax of logits, and the gradient through it for the gradient `dy`.

    Parameters
    ----------
    x, dy : array_like
        Logits and the gradient with respect to their log_softmax, of one shape.
    axis : int, tuple of int or None
        Axes that are normalised together.
    scale, mask, bias, causal
        As for `logits`, of which this is the log_softmax.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    logy, dx : numpy.ndarray
        Hidden elements are -inf and 0.
    """
    return _value_and(_less_sum, x, dy, axis, (scale, mask, bias, causal), extended)


def log_softmax_value_and_jvp(
    x: ArrayLike,
    xt: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> tuple[Float, Float]:
    """Logarithm of the softmax of logits, and its change along `xt`.

    The parameters and results are as for `log_softmax_value_and_vjp`.
    """
    return _value_and(_less_mean, x, xt, axis, (scale, mask, bias, causal), extended)


def _value_and(
    product: Callable[[Float, Float], Float],
    x: ArrayLike,
    v: ArrayLike,
    axis: Axis,
    options: tuple[Any, ...],
    extended: bool,
) -> tuple[Float, Float]:
    z, low, kept = logits_of_two_words(x, *options)
    (z_, low_, v_), restore = rows_of(z, low, shown(kept, v, 0), axis=axis)
    logy_ = _log_rows(z_, low_)
    with np.errstate(all="ignore"):
        change = restore(widen(options[0]) * product(logy_, v_), extended)
    return shown(kept, restore(logy_, extended), -np.inf), shown(kept, change, 0)


def logsumexp(
    x: ArrayLike,
    axis: Axis = -1,
    b: ArrayLike | None = None,
    *,
    keepdims: bool = False,
    return_sign: bool = False,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Any:
    """``log(sum_j b_j exp(x_j))`` of each row; meaning as in `scipy.special`.

    Parameters
    ----------
    x, axis, scale, mask, bias, causal, extended
        As for `softmax`; the sum is over `axis`.
    b : array_like, optional
        Weights, with the shape of `x`. An element of weight 0 does not take part, even if it is
        +inf.
    keepdims : bool
        Whether the axes stay, with size 1.
    return_sign : bool
        Whether to return a pair: the logarithm of the sum's absolute value, and the sum's sign.

    Returns
    -------
    numpy.ndarray, or a pair of them
        -inf for an empty sum; NaN for a negative one without `return_sign`.
    """
    z, low, kept = logits_of_two_words(x, scale, mask, bias, causal)
    given = (z, low) if b is None else (z, low, shown(kept, b, 0))
    rows, restore = rows_of(*given, axis=axis)
    with np.errstate(all="ignore"):
        m, terms = weighted_terms(*rows)
        s = terms.sum(axis=-1)
        log = np.log(np.abs(s))
        if b is None and rows[0].shape[1]:
            log = np.where(np.isfinite(m), log_of_sum(rows[0], rows[1]), log)
        value, sign = m + log, np.sign(s)
    if return_sign:
        return tuple(restore.values(v, extended, keepdims) for v in (value, sign))
    with np.errstate(all="ignore"):
        return restore.values(np.where(sign < 0, np.nan, value), extended, keepdims)


def logsumexp_vjp(
    x: ArrayLike,
    dy: ArrayLike,
    axis: Axis = -1,
    b: ArrayLike | None = None,
    *,
    keepdims: bool = False,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Gradient through `logsumexp`, ``dy * b_i exp(x_i) / sum_j b_j exp(x_j)``.

    Parameters
    ----------
    x : array_like
        The input of `logsumexp`.
    dy : array_like
        Gradient with respect to its result, with the shape of that.
    axis, b, keepdims, scale, mask, bias, causal, extended
        As for `logsumexp`.

    Returns
    -------
    numpy.ndarray
        0 for a row in which nothing but -inf has a weight, and NaN for one in which +inf has one.
    """
    z, low, kept = logits_of_two_words(x, scale, mask, bias, causal)
    given = (z, low) if b is None else (z, low, shown(kept, b, 0))
    rows, restore = rows_of(*given, axis=axis)
    upstream = widen(dy).reshape(-1, 1)
    if rows[0].size == 0:
        return restore(rows[0], extended)
    with np.errstate(all="ignore"):
        m, terms = weighted_terms(*rows)
        s = terms.sum(axis=-1)
        if b is None:
            y = softmax_rows(*rows)
        else:
            y = np.where(np.isposinf(m)[:, None], np.nan, terms / s[:, None])
        empty = np.isneginf(m) & (s == 0)
        dx = np.where(empty[:, None], 0, widen(scale) * y * upstream)
        return shown(kept, restore(dx, extended), 0)
