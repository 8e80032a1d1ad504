"""What machine/platform.cuh says of its arithmetic holds on every machine: NaN, ties, one rounding.

Results of the public functions hardly show some of it: a row with a NaN is NaN in most of them,
whatever `maximum` makes of it. So an operation of the tests alone (platform_functions.cuh) has the
functions' own results.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax.operations import table
from cusoftmax.operations.operation import Operation
from cusoftmax.runtime import launch

SOURCE = Path(__file__).with_name("platform_functions.cuh")
# With a digest, because what is kept of compiled kernels does not see that file.
NAME = f"functions_{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
FUNCTIONS = Operation(
    name=NAME,
    inputs=("a", "b", "c"),
    outputs=("maximum", "fused", "at_least", "reciprocal"),
    formula="functions of platform.cuh",
    patterns=("map",),
    source=f"../../tests/kernels/{SOURCE.stem}",
)
VALUES = (np.nan, -np.inf, np.inf, 0.0, -1.0, 3.0, 1.0 / 3.0, 1e30, -2.5e-30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_all_triples(device: Any, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setitem(table.KERNELS, NAME, FUNCTIONS)
    a, b, c = (grid.reshape(1, -1) for grid in np.meshgrid(*[np.array(VALUES, dtype)] * 3))
    results = launch.run(NAME, tuple(map(device.asarray, (a, b, c))), -1, None, None)
    maximum, fused, bounded, inverse = map(device.asnumpy, results)
    with np.errstate(all="ignore"):
        known = ~np.isnan(a)
        np.testing.assert_array_equal(maximum[known], np.fmax(a, b)[known])
        np.testing.assert_array_equal(fused, fused_once(a, b, c))
        least = np.where(np.isnan(b), c, b)
        known = ~np.isnan(least)
        np.testing.assert_array_equal(bounded[known], np.maximum(a, least)[known])
        np.testing.assert_array_equal(inverse, 1 / a)


def fused_once(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return ``a * b + c``, rounded once to the dtype of these numbers."""
    rounded = []
    for triple in zip(a.flat, b.flat, c.flat, strict=True):
        with mpmath.workprec(1000):
            p, q, r = map(mpmath.mpf, map(float, triple))
            exact = p * q + r
        with mpmath.workprec(np.finfo(a.dtype).nmant + 1):
            rounded.append(float(+exact))
    return np.array(rounded, a.dtype).reshape(a.shape)


def near_ties(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 numbers on and next to the middle of two of a 16-bit dtype, and the nearest.

    Those next to it are so near that float32 has no number between.
    """
    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    # Of both parities; the smallest ones of float16 are subnormal.
    lower = np.array([1, 2, 3, 0x3FF, 0x400, 0x3C00, 0x3C01, 0x4A7E, 0x4A7F], np.uint16)
    lower = lower[3:] if dtype == "bfloat16" else lower  # float32 flushes its subnormal numbers
    below, above = (bits.view(kind).astype(np.float64) for bits in (lower, lower + np.uint16(1)))
    middle = (below + above) / 2
    even = np.where(lower % 2 == 0, below, above)
    x, nearest = [middle], [even]
    for distance in 2.0 ** -np.array([26, 30, 40, 52]):
        x += [middle * (1 - distance), middle * (1 + distance)]
        nearest += [below, above]
    both = [np.concatenate([*part, *(-array for array in part)]) for part in (x, nearest)]
    return both[0], both[1]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float64_is_rounded_once(device: Any, dtype: str) -> None:
    """Results that float64 arithmetic has exactly: of one element, and of sums that vanish."""
    x, nearest = near_ties(dtype)
    got = cs.logsumexp(device.asarray(x[:, None]), dtype=dtype)
    np.testing.assert_array_equal(device.asnumpy(got).astype(np.float64), nearest)
    one = np.ones_like(x)
    y, dy = (device.asarray(np.stack(columns, axis=1)) for columns in ((x, one), (one, -x)))
    out = device.asarray(np.zeros((len(x), 2), got.dtype))
    cs.softmax_vjp(y, dy, out=out)
    np.testing.assert_array_equal(device.asnumpy(out)[:, 0].astype(np.float64), nearest)
