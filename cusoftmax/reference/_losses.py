"""Cross-entropy and its gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax.reference._rows import Float, log_of_sum, rows_of, single, softmax_rows, widen


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
        Any shape and real dtype, with the classes along `axis`.
    target : array_like
        Classes, as integers with the shape of `logits` without `axis`; or probabilities, as floats
        with the shape of `logits`.
    axis, weight, ignore_index, label_smoothing, z_loss, softcap, reduction
        As in `cusoftmax.cross_entropy`.
    dloss : array_like, optional
        Factor of each row's gradient, for ``reduction="none"``.
    extended : bool
        As for `softmax`.

    Returns
    -------
    loss, gradient : numpy.ndarray
        Both are NaN in rows whose target is neither a class nor `ignore_index`.
    """
    (x,), restore = rows_of(logits, axis=axis)
    rows, classes = x.shape
    w = np.ones(classes, np.longdouble) if weight is None else widen(weight)
    hard = np.asarray(target)
    soft = hard.dtype.kind not in "iu"
    e = np.longdouble(label_smoothing)
    if soft:
        y = rows_of(target, axis=axis)[0][0]
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
        log = log_of_sum(x) if classes else np.full(rows, -np.inf)
        below = np.where(p == 0, 0, p * ((m[:, None] - x) + log[:, None])).sum(axis=-1)
        # Rows that have a NaN or only -inf are NaN even if the weight of every class is 0.
        below = np.where(np.isnan(m) | ~np.isfinite(m), np.nan, below)
        z = 2 * np.longdouble(z_loss) * (m + log) if z_loss else np.zeros(rows)
        loss = below + z / 2 * (m + log)
        q = softmax_rows(x)
        # If q is close to 1, q - 1 is minus the sum of the others, and sum p - p that of their p.
        rest, lessened, lowered = q.copy(), p.copy(), np.zeros_like(q)
        if classes:
            top = q.argmax(axis=-1)[:, None]
            most = np.take_along_axis(q, top, -1)
            near = most > 0.5
            for values, own in ((rest, most), (lessened, np.take_along_axis(p, top, -1))):
                np.put_along_axis(values, top, 0, -1)
                others = -values.sum(axis=-1)[:, None]
                np.put_along_axis(values, top, np.where(near, others, own), -1)
            np.put_along_axis(lowered, top, near, -1)
        gradient = (p.sum(axis=-1) + z)[:, None] * rest - lessened + z[:, None] * lowered
        gradient = gradient * slope
    for values in (loss, gradient):
        values[bad], values[ignored] = np.nan, 0
    with np.errstate(all="ignore"):
        if dloss is not None:
            gradient = np.where(ignored[:, None], 0, gradient * widen(dloss).reshape(-1, 1))
        if reduction == "mean":
            gradient = np.where(ignored[:, None], 0, gradient / total)
            return single(loss.sum() / total, extended), restore(gradient, extended)
        if reduction == "sum":
            return single(loss.sum(), extended), restore(gradient, extended)
    return restore.values(loss, extended, False), restore(gradient, extended)
