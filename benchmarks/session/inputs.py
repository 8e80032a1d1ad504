"""The input arrays of a cell, and how results computed from them are judged."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from benchmarks.measuring.devices import Array, Device
from benchmarks.measuring.results import WorstError
from benchmarks.measuring.timing import Effort
from benchmarks.peers.peer import BFLOAT16, Peer
from benchmarks.suites.cells import Cell
from benchmarks.suites.operations import OPERATIONS
from cusoftmax import reference

JUDGED_ELEMENTS = 1 << 15  # results are judged in as many rows as make this, at least 1, at most 8


class RandomPool:
    """Normal numbers in device memory, drawn once; input arrays are copied from it."""

    def __init__(self, device: Device, seed: int = 0) -> None:
        self.device = device
        # Not a power of two, or all rows of such a length would be equal.
        size = (1 << 12 if device.emulated else 1 << 22) + 4099
        self._drawn = np.random.default_rng(seed).standard_normal(size)
        self._order = random.Random(seed)
        self._uploaded: dict[tuple[str, float], Array] = {}

    def fill(self, array: Array, sigma: float) -> None:
        """Fill a contiguous array with numbers of standard deviation `sigma`.

        Each call starts at another place of the pool.
        """
        key = (array.dtype.name, sigma)
        if key not in self._uploaded:
            self._uploaded[key] = self.device.upload((self._drawn * sigma).astype(array.dtype))
        source, size = self._uploaded[key], array.dtype.itemsize
        done, at = 0, self._order.randrange(source.size)
        while done < array.size:
            count = min(array.size - done, source.size - at)
            self.device.copy_bytes(
                array.data.ptr + done * size, source.data.ptr + at * size, count * size
            )
            done, at = done + count, 0


@dataclass
class Session:
    """What all cells of a run share."""

    device: Device
    peers: Sequence[Peer]
    effort: Effort
    pool: RandomPool


class CellInputs:
    """Several sets of a cell's inputs, with logits of one standard deviation."""

    def __init__(self, session: Session, cell: Cell, sigma: float, sets: int) -> None:
        self.cell, self.device = cell, session.device
        self.operation = OPERATIONS[cell.op]
        self.dtype = BFLOAT16 if cell.dtype == "bfloat16" else np.dtype(cell.dtype)
        self.sets = [
            [
                self._make(session.pool, contents, sigma, i < len(self.operation.table.inputs))
                for i, contents in enumerate(self.operation.inputs)
            ]
            for _ in range(sets)
        ]
        order = random.Random(0)
        count = min(cell.rows, max(1, min(8, JUDGED_ELEMENTS // cell.n)))
        self.rows = sorted({0, cell.rows - 1, *order.sample(range(cell.rows), count)})[-count:]
        self._judged = [self.device.fetch_rows(a, cell.axis, self.rows) for a in self.sets[0]]

    def _shape(self, has_elements: bool) -> tuple[int, ...]:
        """Return the shape of an array with whole rows, or with one value per row."""
        if has_elements:
            return self.cell.shape
        return (self.cell.rows, 1) if self.cell.axis else (1, self.cell.rows)

    def _make(self, pool: RandomPool, contents: str, sigma: float, has_elements: bool) -> Array:
        array = cupy.empty(self._shape(has_elements), self.dtype)
        pool.fill(array, 1.0 if contents == "normal" else sigma)
        if contents in OPERATIONS:
            OPERATIONS[contents].call([array], self.cell.axis, array)
        return array

    def outputs(self) -> list[Any]:
        """Return an output, or a tuple of several, for each set of inputs, filled with NaN."""
        table, made = self.operation.table, []
        for _ in self.sets:
            arrays = tuple(
                cupy.empty(self._shape(i < len(table.outputs)), self.dtype)
                for i in range(len(table.written))
            )
            for array in arrays:
                self.device.fill_with_nan(array)
            made.append(arrays if len(arrays) > 1 else arrays[0])
        return made

    def judge(self, result: Any) -> WorstError:
        """Return the largest error in the judged rows; ValueError if it is too large."""
        results = result if isinstance(result, tuple) else (result,)
        got = []
        for i, each in enumerate(results):
            expected = self._shape(i < len(self.operation.table.outputs))
            if tuple(each.shape) != expected or each.dtype != self.dtype:
                raise ValueError(f"a result of shape {tuple(each.shape)} and dtype {each.dtype}")
            got.append(self.device.fetch_rows(each, self.cell.axis, self.rows))
        worst, unit = self.operation.worst(tuple(self._judged), tuple(got)), self._unit
        if not worst <= 1 / (8 * reference.unit_roundoff(self.cell.dtype)):  # relative error 1/8
            raise ValueError(f"wrong result: worst error {worst:.3g} {unit}")
        return WorstError(worst, unit)

    @property
    def _unit(self) -> str:
        return self.operation.contract.unit
