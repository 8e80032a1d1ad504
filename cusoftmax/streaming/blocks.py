"""How rows are divided into blocks, and the places that blocks have on the device."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from cusoftmax.runtime import copies

SLOTS = 2  # blocks on the device: one is computed while another is copied
LEAST = 1024  # elements of a piece: a multiple of every chunk
NODES = 1 << 14  # bytes for the nodes of a row's pieces, which are combined as they come


@dataclass(frozen=True)
class Blocks:
    """How rows are divided: blocks of `rows` of them, or pieces of `elements` of one.

    Rows of a block differ in the last dimensions of `batch`, and in some places of the one before.
    """

    batch: tuple[int, ...]
    length: int
    rows: int
    elements: int

    @property
    def pieces(self) -> int:
        """Pieces of a row."""
        return max(1, -(-self.length // self.elements))

    def _split(self) -> tuple[int, int, int]:
        """Return the dimension that is cut, the places of a block there, and the cuts."""
        d, inner = len(self.batch), 1
        while d and inner * self.batch[d - 1] <= self.rows:
            d -= 1
            inner *= self.batch[d]
        if not d:
            return 0, 0, 1
        step = max(1, self.rows // inner)
        return d, step, -(-self.batch[d - 1] // step)

    def __len__(self) -> int:
        d, _, cuts = self._split()
        return prod(self.batch[: max(d - 1, 0)]) * cuts if prod(self.batch) else 0

    def __getitem__(self, number: int) -> tuple[slice, ...]:
        """Return the places of a block in each dimension of `batch`."""
        d, step, cuts = self._split()
        inner = tuple(slice(0, size) for size in self.batch[d:])
        if not d:
            return inner
        outer, cut = divmod(number, cuts)
        places = np.unravel_index(outer, self.batch[: d - 1]) if d > 1 else ()
        end = min(self.batch[d - 1], (cut + 1) * step)
        return (*(slice(int(i), int(i) + 1) for i in places), slice(cut * step, end), *inner)

    def first_row(self, number: int) -> int:
        """Return the number of a block's first row, in C order."""
        starts = [place.start for place in self[number]]
        return int(np.ravel_multi_index(starts, self.batch)) if starts else 0


class Slot:
    """A place for a block: on the device, and for its copies in pinned memory of the host."""

    def __init__(self, region: copies.Region, memory: np.ndarray[Any, Any]) -> None:
        self.region, self._memory, self._used = region, memory, 0

    def clear(self) -> None:
        self.region.clear()
        self._used = 0

    def host(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Return pinned memory."""
        nbytes = prod(shape) * dtype.itemsize
        part = self._memory[self._used : self._used + nbytes]
        self._used += copies.padded(nbytes)
        return part.view(dtype).reshape(shape)
