"""The largest probabilities, softmax with noise, and samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cusoftmax.operations.options import COLDEST
from cusoftmax.reference._rows import Float, Restore, rows_of, softmax_rows
from cusoftmax.reference._softmax import softmax
from cusoftmax.reference.philox import gumbel


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
        Logits of any shape and real dtype. NaN counts as the largest; equal ones are taken in the
        order of their indices.
    k : int
        How many to select.
    axis, extended
        As for `softmax`.
    normalise : {"row", "topk"}
        Whether the probabilities sum to 1 over the row or over the `k`.
    """
    x = np.asarray(x)
    # ~ reverses the order of integers exactly, even beyond 2**53.
    falling = ~x if x.dtype.kind in "iub" else -x.astype(np.float64)
    order = (
        np.argsort(falling, axis, kind="stable")
        if x.dtype.kind in "iub"
        else np.lexsort((falling, ~np.isnan(falling)), axis)
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
    """Softmax of ``(x + g) / temperature``, with the kernels' noise ``g`` to all digits.

    Parameters
    ----------
    x, axis, extended
        As for `softmax`.
    seed, temperature
        As in `cusoftmax.gumbel_softmax`. Temperature 0, or less than 2**-100, gives 1 at the
        largest ``x + g``.
    single : bool
        Whether to use the noise of float32 arithmetic instead of that of float64.
    """
    z, restore = perturbed(x, axis, seed, single)
    if temperature >= COLDEST:
        with np.errstate(all="ignore"):
            return restore(softmax_rows(z / np.longdouble(temperature)), extended)
    drawn = _drawn(z)[:, None]
    places = np.arange(z.shape[1]) == drawn
    return restore(np.where(drawn < 0, np.nan, places), extended)


def sample(
    x: ArrayLike, axis: int = -1, *, seed: int, temperature: float = 1.0, single: bool = True
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A draw from ``softmax(x / temperature)`` for each row, with the kernels' noise.

    Parameters
    ----------
    x, axis, seed, temperature, single
        As for `gumbel_softmax`. Temperature 0, or less than 2**-100, gives the index of the largest
        of `x`, the first of several.
    """
    if temperature < COLDEST:
        return np.asarray(np.argmax(np.asarray(x), axis), np.int64)
    t = np.longdouble(temperature)
    z, restore = perturbed(x, axis, seed, single, t)
    return np.asarray(restore.values(_drawn(z), False, False), np.int64)


def perturbed(
    x: ArrayLike, axis: int, seed: int, single: bool, temperature: Any = 1.0
) -> tuple[Float, Restore]:
    """Return rows of ``x / temperature + g``, and what restores the shape of `x`."""
    (x_,), restore = rows_of(x, axis=axis)
    numbers = np.arange(len(x_), dtype=np.uint64)
    with np.errstate(all="ignore"):
        return x_ / temperature + gumbel(seed, numbers, x_.shape[1], single), restore


def _drawn(z: Float) -> Float:
    """Return the index of the largest element of each row; -1 if that is not finite."""
    best = z.max(axis=-1)
    return np.where(np.isfinite(best), z.argmax(axis=-1), -1)
