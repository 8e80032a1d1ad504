"""The random words and the Gumbel noise of `gumbel_softmax` and `sample`, in NumPy.

It is the counterpart of ``cuda_kernels/numeric/philox.cuh`` and ``gumbel.cuh``: the random words
and the uniform numbers made of them are the same, and the noise has the digits of
`numpy.longdouble`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint64]]
Float = np.ndarray[Any, np.dtype[Any]]

_LOW = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


def philox(seed: int, high: Words, low: Words) -> Words:
    """Philox4x32-10: four 32-bit words along a new last axis, for each counter of two 64-bit words.

    J. Salmon, M. Moraes, R. Dror, D. Shaw: "Parallel random numbers: as easy as 1, 2, 3" (2011).
    """
    half = np.uint64(32)
    a, b, c, d = np.broadcast_arrays(low & _LOW, low >> half, high & _LOW, high >> half)
    keys = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(ROUNDS):
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a = second >> half ^ b ^ np.uint64(keys[0])
        c = first >> half ^ d ^ np.uint64(keys[1])
        b, d = second & _LOW, first & _LOW
        keys = [(k + w) & 0xFFFFFFFF for k, w in zip(keys, _WEYL, strict=True)]
    return np.stack([a, b, c, d], -1)


def row_words(seed: int, rows: Words, count: int) -> Words:
    """Return the first `count` words of each row, four for each counter, by the row numbers."""
    counters = np.arange(-(-count // 4), dtype=np.uint64)
    words = philox(seed, rows[:, None], counters)
    return words.reshape(len(rows), 4 * len(counters))[:, :count]


def gumbel(seed: int, rows: Words, n: int, single: bool) -> Float:
    """Return the noise ``-log(-log(u))`` of the first `n` elements of each row.

    Parameters
    ----------
    seed : int
        From 0 to 2**64 - 1.
    rows : numpy.ndarray of uint64, shape (R,)
        The numbers of the rows.
    n : int
        How many elements.
    single : bool
        Whether u has the 32 bits of one word, for float32 arithmetic, instead of 53 bits of two.

    Returns
    -------
    numpy.ndarray of longdouble, shape (R, n)
    """
    if single:
        return gumbel_of_bits(row_words(seed, rows, n), 32)
    pairs = row_words(seed, rows, 2 * n).reshape(len(rows), n, 2)
    return gumbel_of_bits((pairs[..., 1] << np.uint64(32) | pairs[..., 0]) >> np.uint64(11), 53)


def gumbel_of_bits(bits: Words, count: int) -> Float:
    """Return the noise of ``u = (bits + 1/2) / 2**count``, by way of the smaller of u and 1 - u."""
    above = bits >> np.uint64(count - 1) == 1
    rest = np.where(above, bits ^ np.uint64((1 << count) - 1), bits)
    smaller = np.ldexp(rest.astype(np.longdouble) + np.longdouble(0.5), -count)  # of u and 1 - u
    exponential = -np.where(above, np.log1p(-smaller), np.log(smaller))
    return np.asarray(-np.log(exponential))
