"""What the kernels must agree with: the softmax family in NumPy.

Inputs are taken at their float64 values, so every accepted dtype is exact but for integers beyond
2**53, which the kernels round the same way. Results are float64, or with ``extended=True`` in
`numpy.longdouble`, whose 11 further bits (on x86) make it a judge of float64 results too. Where
`longdouble` is no wider than float64, `EXTENDED` is False and float64 results can be judged to a
few units in the last place only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax._checks import Axis, resolve_axes
from cusoftmax._philox import gumbel

Float = np.ndarray[Any, np.dtype[Any]]

EXTENDED = bool(np.finfo(np.longdouble).nmant > 52)

# Bits of the stored significand and exponent of the smallest normal number.
_FORMATS = {
    "float16": (10, -14),
    "bfloat16": (7, -126),
    "float32": (23, -126),
    "float64": (52, -1022),
}


def softmax(
    x: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Softmax by its definition, ``exp(x_i - m) / sum_j exp(x_j - m)``.

    Parameters
    ----------
    x : array_like
        Logits of any shape and real dtype.
    axis : int, tuple of int or None
        Axes that are normalised together.
    scale, mask, bias, causal
        As for `logits`, of which this is the softmax.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    numpy.ndarray
        Softmax of `x`, accurate to the last bits of its dtype. A row with a NaN, a +inf or nothing
        but -inf is NaN. Hidden elements are 0.
    """
    z, kept = logits(x, scale, mask, bias, causal)
    rows, restore = _rows(z, axis=axis)
    return shown(kept, restore(_softmax_rows(rows[0]), extended), 0)


def softmax_vjp(
    y: ArrayLike,
    dy: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Product of softmax's Jacobian with a vector, ``y * (dy - sum_j y_j dy_j)``.

    Parameters
    ----------
    y, dy : array_like
        Softmax's result and the gradient with respect to it, of one shape.
    axis : int, tuple of int or None
        The axes of the softmax.
    scale, mask, causal
        As given to `softmax`.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    numpy.ndarray
        The gradient with respect to softmax's input.
    """
    kept = seen(y, mask, causal)
    (y_, dy_), restore = _rows(shown(kept, y, 0), shown(kept, dy, 0), axis=axis)
    with np.errstate(all="ignore"):
        product = y_ * (dy_ - (y_ * dy_).sum(axis=-1, keepdims=True))
        return shown(kept, restore(_widen(scale) * product, extended), 0)


def softmax_jvp(
    y: ArrayLike,
    xt: ArrayLike,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: ArrayLike | None = None,
    causal: bool = False,
    extended: bool = False,
) -> Float:
    """Product of softmax's Jacobian with a tangent: `softmax_vjp`, the Jacobian being symmetric."""
    return softmax_vjp(y, xt, axis, scale=scale, mask=mask, causal=causal, extended=extended)


def softmax_vjp_vjp(
    y: ArrayLike, dy: ArrayLike, g: ArrayLike, axis: Axis = -1, *, extended: bool = False
) -> tuple[Float, Float]:
    """Gradients of `softmax_vjp` with respect to `y` and `dy`, contracted with `g`.

    Parameters
    ----------
    y, dy, g : array_like
        The inputs of `softmax_vjp` and the gradient with respect to its result, of one shape.
    axis : int, tuple of int or None
        The axes of the softmax.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.
    """
    (y_, dy_, g_), restore = _rows(y, dy, g, axis=axis)
    with np.errstate(all="ignore"):
        of_dy = (y_ * dy_).sum(axis=-1, keepdims=True)
        of_g = (y_ * g_).sum(axis=-1, keepdims=True)
        return (
            restore(g_ * (dy_ - of_dy) - dy_ * of_g, extended),
            restore(y_ * (g_ - of_g), extended),
        )


def softmax_hvp(
    y: ArrayLike, dy: ArrayLike, v: ArrayLike, axis: Axis = -1, *, extended: bool = False
) -> Float:
    """Hessian of ``<dy, softmax(x)>`` applied to `v`: `softmax_vjp` of a changing `y`.

    Parameters
    ----------
    y, dy, v : array_like
        Softmax's result, the weights of its sum, and the tangent of softmax's input.
    axis : int, tuple of int or None
        The axes of the softmax.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.
    """
    (y_, dy_, v_), restore = _rows(y, dy, v, axis=axis)
    with np.errstate(all="ignore"):
        yt = y_ * (v_ - (y_ * v_).sum(axis=-1, keepdims=True))
        inner = dy_ - (y_ * dy_).sum(axis=-1, keepdims=True)
        return restore(yt * inner - y_ * (yt * dy_).sum(axis=-1, keepdims=True), extended)


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
    x : array_like
        Logits of any shape and real dtype.
    axis : int, tuple of int or None
        Axes that are normalised together.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    numpy.ndarray
        Accurate to the last bits also where it is nearly 0. NaN as in `softmax`. Hidden elements
        are -inf.
    """
    z, kept = logits(x, scale, mask, bias, causal)
    rows, restore = _rows(z, axis=axis)
    x_ = rows[0]
    if x_.size == 0:
        return restore(x_, extended)
    with np.errstate(all="ignore"):
        log = x_ - x_.max(axis=-1, keepdims=True) - _log_of_sum(x_)[:, None]
    return shown(kept, restore(log, extended), -np.inf)


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
    axis : int, tuple of int or None
        The axes of the softmax.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.
    """
    kept = seen(logy, mask, causal)
    (logy_, dy_), restore = _rows(shown(kept, logy, 0), shown(kept, dy, 0), axis=axis)
    with np.errstate(all="ignore"):
        product = dy_ - np.exp(logy_) * dy_.sum(axis=-1, keepdims=True)
        return shown(kept, restore(_widen(scale) * product, extended), 0)


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
    axis : int, tuple of int or None
        The axes of the softmax.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.
    """
    kept = seen(logy, mask, causal)
    (logy_, xt_), restore = _rows(shown(kept, logy, -np.inf), shown(kept, xt, 0), axis=axis)
    with np.errstate(all="ignore"):
        product = xt_ - (np.exp(logy_) * xt_).sum(axis=-1, keepdims=True)
        return shown(kept, restore(_widen(scale) * product, extended), 0)


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
    """``log(sum_j b_j exp(x_j))``, for one row of any length; meaning as in `scipy.special`.

    Parameters
    ----------
    x : array_like
        Of any shape and real dtype.
    axis : int, tuple of int or None
        Axes that are summed over.
    b : array_like, optional
        Weights, of the shape of `x`; an element of weight 0 counts for nothing, even +inf.
    keepdims : bool
        Whether the axes stay, with size 1.
    return_sign : bool
        Whether to return the logarithm of the sum's magnitude, and its sign, as a pair.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    numpy.ndarray, or two
        -inf for an empty sum; NaN for a negative one without `return_sign`.
    """
    z, _ = logits(x, scale, mask, bias, causal)
    given = (z,) if b is None else (z, b)
    rows, restore = _rows(*given, axis=axis)
    with np.errstate(all="ignore"):
        m, s = _weighted_sum(*rows)
        log = np.log(np.abs(s))
        if b is None and rows[0].shape[1]:
            log = np.where(np.isfinite(m), _log_of_sum(rows[0]), log)
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
        Gradient with respect to its result, of the shape of that.
    axis, b, keepdims
        As given to `logsumexp`.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.
    """
    z, kept = logits(x, scale, mask, bias, causal)
    given = (z,) if b is None else (z, b)
    rows, restore = _rows(*given, axis=axis)
    upstream = _widen(dy).reshape(-1, 1)
    if rows[0].size == 0:
        return restore(rows[0], extended)
    if b is None:
        dx = _softmax_rows(rows[0]) * upstream
        return shown(kept, restore(_widen(scale) * dx, extended), 0)
    with np.errstate(all="ignore"):
        m, s = _weighted_sum(*rows)
        e = np.where(rows[1] == 0, 0, rows[1] * np.exp(rows[0] - _shift(m)[:, None]))
        dx = e / s[:, None] * upstream
        return shown(kept, restore(_widen(scale) * dx, extended), 0)


def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    axis: int = -1,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    reduction: str = "mean",
    dloss: ArrayLike | None = None,
    *,
    extended: bool = False,
) -> tuple[Float, Float]:
    """Cross-entropy and its gradient with respect to `logits`; meaning as in `torch`.

    Parameters
    ----------
    logits : array_like
        Of any shape and real dtype, the classes along `axis`.
    target : array_like
        Integers, of the shape of `logits` without `axis`: classes. Or floats, of the shape of
        `logits`: probabilities.
    axis, weight, ignore_index, label_smoothing, z_loss, softcap, reduction
        As in `cusoftmax.cross_entropy`.
    dloss : array_like, optional
        For ``reduction="none"``, what the gradient of each row is multiplied by.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    loss, gradient : numpy.ndarray
        A row whose target is neither a class nor `ignore_index` is NaN in both.
    """
    (x,), restore = _rows(logits, axis=axis)
    rows, classes = x.shape
    w = np.ones(classes, np.longdouble) if weight is None else _widen(weight)
    hard = np.asarray(target)
    soft = hard.dtype.kind not in "iu"
    e = np.longdouble(label_smoothing)
    if soft:
        y = _rows(target, axis=axis)[0][0]
        ignored = bad = np.zeros(rows, bool)
        p = w * ((1 - e) * y + e / max(classes, 1))
        total = np.longdouble(rows)
    else:
        t = hard.reshape(-1).astype(object)
        ignored = np.array([k == ignore_index for k in t], bool)
        bad = ~ignored & np.array([not 0 <= k < classes for k in t], bool)
        place = np.array([k if 0 <= k < classes else 0 for k in t], np.int64)
        own = np.arange(classes) == place[:, None]
        p = (1 - e) * np.where(own, w, 0) + e / max(classes, 1) * w
        total = (w[place] * ~(ignored | bad)).sum() if classes else np.longdouble(0)
    with np.errstate(all="ignore"):
        slope = np.ones_like(x)
        if softcap is not None:
            cap = np.longdouble(softcap)
            slope = 1 / np.cosh(x / cap) ** 2
            x = cap * np.tanh(x / cap)
        m = x.max(axis=-1, initial=-np.inf)
        m = np.where(np.isnan(x).any(axis=-1), np.nan, m)
        log = _log_of_sum(x) if classes else np.full(rows, -np.inf)
        below = np.where(p == 0, 0, p * ((m[:, None] - x) + log[:, None])).sum(axis=-1)
        # NaN, and rows of nothing but -inf, also where no weight asks for their logarithm.
        below = np.where(np.isnan(m) | ~np.isfinite(m), np.nan, below)
        z = 2 * np.longdouble(z_loss) * (m + log) if z_loss else np.zeros(rows)
        loss = below + z / 2 * (m + log)
        q = _softmax_rows(x)
        one = (p.sum(axis=-1) + z)[:, None]
        # q - 1 of a target next to 1 is less the others' sum.
        rest, lowered = q.copy(), np.zeros_like(q)
        if classes:
            top = q.argmax(axis=-1)[:, None]
            near = np.take_along_axis(q, top, -1) > 0.5
            np.put_along_axis(rest, top, 0, -1)
            others = -rest.sum(axis=-1)[:, None]
            np.put_along_axis(rest, top, np.where(near, others, np.take_along_axis(q, top, -1)), -1)
            np.put_along_axis(lowered, top, near, -1)
        gradient = one * rest - (p - one * lowered)
        gradient = gradient * slope
    for values in (loss, gradient):
        values[bad], values[ignored] = np.nan, 0
    if dloss is not None:
        gradient = np.where(ignored[:, None], 0, gradient * _widen(dloss).reshape(-1, 1))
    with np.errstate(all="ignore"):
        if reduction == "mean":
            gradient = np.where(ignored[:, None], 0, gradient / total)
            return _single(loss.sum() / total, extended), restore(gradient, extended)
        if reduction == "sum":
            return _single(loss.sum(), extended), restore(gradient, extended)
    return restore.values(loss, extended, False), restore(gradient, extended)


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


def softmax_jacobian(y: ArrayLike, *, extended: bool = False) -> Float:
    """Jacobian of softmax over the last axis as ``diag(y) - outer(y, y)``.

    Parameters
    ----------
    y : array_like, shape (..., n)
        Softmax's result.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.

    Returns
    -------
    numpy.ndarray, shape (..., n, n)
        ``J[..., i, j]``, the derivative of ``y_i`` with respect to ``x_j``. Symmetric, and its rows
        and columns sum to 0.
    """
    y_ = _widen(y) if extended else np.asarray(y, dtype=np.float64)
    with np.errstate(all="ignore"):
        diagonal = np.where(np.eye(y_.shape[-1], dtype=bool), y_[..., None], 0)
        return np.asarray(diagonal - y_[..., :, None] * y_[..., None, :])


def softmax_jacobian_entries(y: ArrayLike) -> Float:
    """Jacobian of one row, entry by entry: ``y_i (1 - y_i)`` where i = j, else ``-y_i y_j``.

    Parameters
    ----------
    y : array_like, shape (n,)
        Softmax's result.

    Returns
    -------
    numpy.ndarray, shape (n, n)
        The same as `softmax_jacobian`, by the two cases of the derivation.
    """
    y_ = np.asarray(y, dtype=np.float64)
    jacobian = np.empty((y_.size, y_.size))
    for i, y_i in enumerate(y_):
        for j, y_j in enumerate(y_):
            jacobian[i, j] = y_i * (1 - y_i) if i == j else -y_i * y_j
    return jacobian


def topk_softmax(
    x: ArrayLike,
    k: int,
    axis: int = -1,
    normalise: str = "row",
    *,
    extended: bool = False,
) -> tuple[Float, np.ndarray[Any, np.dtype[np.int64]]]:
    """The `k` largest probabilities along an axis, and their indices, by a stable sort.

    Parameters
    ----------
    x : array_like
        Logits of any shape and real dtype. NaN counts as the largest; equal ones come in the order
        of their indices.
    k : int
        How many.
    axis : int
        The axis of the softmax.
    normalise : {"row", "topk"}
        Whether probabilities sum to 1 over the row or over the `k`.
    extended : bool
        Whether to return values in `numpy.longdouble` instead of float64.
    """
    x = np.asarray(x)
    # Integers beyond 2**53 are compared as they are: ~ reverses their order.
    falling = ~x if x.dtype.kind in "iub" else -x.astype(np.float64)
    order = (
        np.lexsort((falling, ~np.isnan(falling)), axis)
        if x.dtype.kind not in "iub"
        else (np.argsort(falling, axis, kind="stable"))
    )
    indices = np.take(order, np.arange(k), axis).astype(np.int64)
    if normalise == "topk":
        return softmax(np.take_along_axis(x, indices, axis), axis, extended=extended), indices
    return np.take_along_axis(softmax(x, axis, extended=extended), indices, axis), indices


def gumbel_softmax(
    x: ArrayLike,
    axis: int = -1,
    *,
    seed: int,
    temperature: float = 1.0,
    single: bool = True,
    extended: bool = False,
) -> Float:
    """Softmax of ``(x + g) / temperature``, with the noise that the kernels make, to all digits.

    Parameters
    ----------
    x : array_like
        Logits of any shape and real dtype.
    axis : int
        The axis of the softmax.
    seed, temperature
        As in `cusoftmax.gumbel_softmax`; with temperature 0, 1 at the largest ``x + g``.
    single : bool
        Whether the kernels compute in float32, which has noise of its own.
    extended : bool
        Whether to return `numpy.longdouble` instead of float64.
    """
    z, restore = perturbed(x, axis, seed, single)
    if temperature > 0:
        with np.errstate(all="ignore"):
            return restore(_softmax_rows(z / np.longdouble(temperature)), extended)
    drawn = _drawn(z)[:, None]
    places = np.arange(z.shape[1]) == drawn
    return restore(np.where(drawn < 0, np.nan, places), extended)


def sample(
    x: ArrayLike, axis: int = -1, *, seed: int, temperature: float = 1.0, single: bool = True
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A draw from ``softmax(x / temperature)`` for each row, with the noise that the kernels make.

    Parameters
    ----------
    x, axis, seed, temperature, single
        As in `gumbel_softmax`; with temperature 0, the largest of `x`.
    """
    if temperature == 0:
        return np.asarray(np.argmax(np.asarray(x), axis), np.int64)
    t = np.longdouble(temperature)
    z, restore = perturbed(x, axis, seed, single, t)
    return np.asarray(restore.values(_drawn(z), False, False), np.int64)


def perturbed(
    x: ArrayLike, axis: int, seed: int, single: bool, temperature: Any = 1.0
) -> tuple[Float, _Restore]:
    """Return rows of ``x / temperature + g``, and what takes them back to the shape of `x`."""
    (x_,), restore = _rows(x, axis=axis)
    numbers = np.arange(len(x_), dtype=np.uint64)
    with np.errstate(all="ignore"):
        return x_ / temperature + gumbel(seed, numbers, x_.shape[1], single), restore


def _drawn(z: Float) -> Float:
    """Return the place of the largest of each row; -1 where there is none to choose."""
    best = z.max(axis=-1)
    return np.where(np.isfinite(best), z.argmax(axis=-1), -1)


def ulp_error(result: ArrayLike, exact: ArrayLike, *, flush_to_zero: bool = False) -> Float:
    """Error of `result` in units in the last place of its dtype, at the exact value.

    Parameters
    ----------
    result : array_like
        What is judged: float16, bfloat16, float32 or float64.
    exact : array_like
        The exact values, from a function of this module with ``extended=True``.
    flush_to_zero : bool
        Whether a zero is right for an exact value below the smallest normal number.

    Returns
    -------
    numpy.ndarray of float64
        Errors, 0 where both are NaN or the same infinity, infinite where only one is.
    """
    values = np.asarray(result)
    bits, lowest = _FORMATS[values.dtype.name]
    got = _widen(values)
    want = np.asarray(exact, dtype=np.longdouble)
    with np.errstate(all="ignore"):
        exponent = np.where(want == 0, lowest, np.maximum(np.frexp(want)[1] - 1, lowest))
        error = np.abs(got - want) / np.ldexp(np.longdouble(1), exponent - bits)
    agree = (got == want) | (np.isnan(got) & np.isnan(want))
    if flush_to_zero:
        agree |= (got == 0) & (np.abs(want) < np.ldexp(np.longdouble(1), lowest))
    finite = np.isfinite(got) & np.isfinite(want)
    return np.where(agree, 0.0, np.where(finite, error, np.inf)).astype(np.float64)


def unit_roundoff(dtype: str) -> float:
    """Return u, half the spacing of the numbers of `dtype` above 1."""
    return float(2.0 ** -(_FORMATS[dtype][0] + 1))


def vjp_bound(y: ArrayLike, dy: ArrayLike, axis: Axis = -1, u: float = 1.0) -> Float:
    """Bound of the error of `softmax_vjp`, ``u * |y_i| * (|dy_i| + sum_j |y_j dy_j|)``.

    Parameters
    ----------
    y, dy : array_like
        The inputs of `softmax_vjp`.
    axis : int, tuple of int or None
        The axes of the softmax.
    u : float
        Unit roundoffs that are allowed, such as ``4 * unit_roundoff("float32")``.

    Returns
    -------
    numpy.ndarray of float64
        The largest error allowed in each element.
    """
    (y_, dy_), restore = _rows(y, dy, axis=axis)
    with np.errstate(all="ignore"):
        total = np.abs(y_ * dy_).sum(axis=-1, keepdims=True)
        return restore(u * np.abs(y_) * (np.abs(dy_) + total), False)


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
    z, kept = _widen(x), seen(x, mask, causal)
    with np.errstate(all="ignore"):
        if scale != 1:
            z = z * _widen(scale)
        if bias is not None:
            z = z + np.broadcast_to(_widen(bias), z.shape)
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


def _single(value: Any, extended: bool) -> Float:
    return np.asarray(value, np.longdouble if extended else np.float64)


def _widen(values: ArrayLike) -> Float:
    given = np.asarray(values)
    if given.dtype == np.longdouble:
        return given
    return given.astype(np.float64).astype(np.longdouble)


def _softmax_rows(x: Float) -> Float:
    if x.size == 0:
        return x
    with np.errstate(all="ignore"):
        e = _exponentials(x, x.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _exponentials(x: Float, m: Float) -> Float:
    """Return ``exp(x - m)``, which magnifies what the difference loses to rounding: put it back."""
    d = x - m
    back = d - x
    lost = (x - (d - back)) - (m + back)
    e = np.exp(d)
    e += e * np.where(np.isfinite(lost), lost, 0)
    return np.asarray(e)


def _shift(m: Float) -> Float:
    return np.where(np.isneginf(m), 0, m)


def _log_of_sum(x: Float) -> Float:
    """Return ``log sum_j exp(x_j - m)`` of each row, accurate next to 0 too."""
    top = x.argmax(axis=-1)[:, None]
    m = np.take_along_axis(x, top, -1)
    others = _exponentials(x, m)
    first = np.take_along_axis(others, top, -1)[:, 0]  # 1, or NaN among infinities
    np.put_along_axis(others, top, 0, -1)
    return np.asarray(np.log1p(others.sum(axis=-1) + (first - 1)))


def _weighted_sum(x: Float, b: Float | None = None) -> tuple[Float, Float]:
    """Return the maximum of each row's elements with a weight, and the sum relative to it."""
    if b is None:
        b = np.ones_like(x)
    counted = np.where(b == 0, -np.inf, x)
    m = counted.max(axis=-1, initial=-np.inf)
    m = np.where(np.isnan(counted).any(axis=-1), np.nan, m)
    with np.errstate(all="ignore"):
        e = np.where(np.isposinf(counted), np.inf, _exponentials(counted, _shift(m)[:, None]))
    return m, np.where(b == 0, 0, b * e).sum(axis=-1)


class _Restore:
    """Takes rows back to the shape that they were cut from."""

    def __init__(
        self, shape: tuple[int, ...], order: tuple[int, ...], axes: tuple[int, ...]
    ) -> None:
        self.kept = tuple(1 if d in axes else size for d, size in enumerate(shape))
        self.reduced = tuple(size for d, size in enumerate(shape) if d not in axes)
        self.moved = tuple(shape[d] for d in order)
        self.inverse = tuple(int(d) for d in np.argsort(order))

    def values(self, rows: Float, extended: bool, keepdims: bool) -> Float:
        """Take one value a row to the shape of what a reduction leaves."""
        whole = rows.reshape(self.kept if keepdims else self.reduced)
        return whole.astype(np.longdouble if extended else np.float64)

    def __call__(self, rows: Float, extended: bool) -> Float:
        whole = rows.reshape(self.moved).transpose(self.inverse)
        with np.errstate(all="ignore"):
            return whole.astype(np.longdouble if extended else np.float64, order="C")


def _rows(*arrays: ArrayLike, axis: Axis) -> tuple[list[Float], _Restore]:
    """Return arrays as contiguous rows, over which NumPy sums in pairs and not one by one."""
    wide = [_widen(a) for a in arrays]
    shape = wide[0].shape
    if any(w.shape != shape for w in wide):
        raise ValueError(f"shapes {[w.shape for w in wide]} differ; give arrays of one shape")
    axes = resolve_axes("reference", axis, len(shape))
    order = (*(d for d in range(len(shape)) if d not in axes), *axes)
    length = int(np.prod([shape[d] for d in axes], dtype=np.int64))
    rows = int(np.prod([shape[d] for d in order[: len(shape) - len(axes)]], dtype=np.int64))
    cut = [np.ascontiguousarray(w.transpose(order)).reshape(rows, length) for w in wide]
    return cut, _Restore(shape, order, axes)
