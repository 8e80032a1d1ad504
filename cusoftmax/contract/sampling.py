"""The contracts of gumbel_softmax and sample, at one seed and temperature."""

from __future__ import annotations

from typing import Any

import numpy as np

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.operations.dtypes import compute_dtype

Array = np.ndarray[Any, np.dtype[Any]]

SEED = 0x9E3779B97F4A7C15
TEMPERATURE = 0.7


def softmax(x: Any, axis: int, **out: Any) -> Any:
    """Call `cusoftmax.gumbel_softmax`."""
    return cs.gumbel_softmax(x, axis, seed=SEED, temperature=TEMPERATURE, **out)


def softmax_exact(x: Array, axis: int, temperature: float = TEMPERATURE) -> Array:
    """Return the same, with the same noise, in extended precision."""
    return reference.gumbel_softmax(
        x, axis, seed=SEED, temperature=temperature, single=_single(x), extended=True
    )


def softmax_tolerance(x: Array, axis: int, temperature: float = TEMPERATURE) -> Array:
    """Return the error of ``y = softmax(z)`` from the rounding of ``z = (x + g) / T``.

    With the roundoff `u` of the compute dtype, the noise has an error of ``3u (1 + |g|)``, the sum
    of ``u |x + g|``, and ``1 / T`` and the product with it of as much each. An error of `d` in `z`
    changes `y` by ``y_i (d_i + sum_j y_j d_j)``.
    """
    z, restore = reference.perturbed(x, axis, SEED, _single(x))
    g, _ = reference.perturbed(np.zeros_like(x), axis, SEED, _single(x))
    y, _ = reference.rows_of(softmax_exact(x, axis, temperature), axis=axis)
    with np.errstate(all="ignore"):
        moved = np.where(np.isfinite(z), (1 + abs(g) + abs(z)) / temperature, 0)
        moved = 3 * _roundoff(x) * moved
        return restore(y[0] * (moved + (y[0] * moved).sum(axis=-1, keepdims=True)), True)


def sample(x: Any, axis: int, **out: Any) -> Any:
    """Call `cusoftmax.sample`."""
    return cs.sample(x, axis, seed=SEED, temperature=TEMPERATURE, **out)


def sample_exact(x: Array, axis: int) -> Array:
    """Return the same, with the same noise, in extended precision."""
    return reference.sample(x, axis, seed=SEED, temperature=TEMPERATURE, single=_single(x))


def sample_errors(x: Array, axis: int, drawn: Array) -> Array:
    """Return how much ``z = x / T + g`` at the drawn index is below the largest `z` of the row.

    The unit is the unit roundoff of the compute dtype times ``1 + |g| + |x / T|``, added over both
    indices. A row without a distribution must have no index.
    """
    exact = sample_exact(x, axis)
    z, _ = reference.perturbed(x, axis, SEED, _single(x), np.longdouble(TEMPERATURE))
    g, _ = reference.perturbed(np.zeros_like(x), axis, SEED, _single(x))
    got, best = drawn.reshape(-1, 1), exact.reshape(-1, 1)
    right = (got == best) | ((got >= 0) & (best >= 0) & (got < z.shape[1]))

    def at(values: Array, places: Array) -> Array:
        return np.take_along_axis(values, np.where(right, places, 0), -1)

    with np.errstate(all="ignore"):
        unit = sum(1 + abs(at(g, p)) + abs(at(z, p) - at(g, p)) for p in (got, best))
        lost = (at(z, best) - at(z, got)) / (unit * _roundoff(x))
    lost = np.where(got == best, 0, np.where(right & ~np.isnan(lost), lost, np.inf))
    return np.asarray(lost.reshape(drawn.shape).astype(np.float64))


def _single(x: Array) -> bool:
    return compute_dtype((x.dtype.name,), x.dtype.name) == "float32"


def _roundoff(x: Array) -> float:
    return reference.unit_roundoff("float32" if _single(x) else "float64")
