"""What the tasks of a graph run: whole rows of a block, or pieces of them by their nodes.

A block of CuPy stays on its device. One of NumPy is copied to what runs the kernels, the emulator
if it is active and else the current GPU, and the results are NumPy's again. Nodes go the same way.

On the device the elements of a row are neighbours in memory: the order of their sums is then the
same for all blocks, whatever their layout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import cusoftmax as cs
from cusoftmax import nodes
from cusoftmax.planning.checks import Array, as_dtype, is_array
from cusoftmax.runtime import arrays
from cusoftmax.runtime.backend import active, gpu_is_present

ELEMENT, ROW, CLASS = "element", "row", "class"  # what an array has a value for


@dataclass(frozen=True)
class Task:
    """A function, and what its calls for all blocks have in common.

    Attributes
    ----------
    op : str
        The function.
    axis, length : int
        The axis of the rows, and their length.
    takes : tuple of str
        For each block that a task gets: `ELEMENT`, `ROW` or, for the last one, `CLASS`.
    dtypes : tuple of str
        Their dtypes.
    gives : tuple of str
        `ELEMENT` or `ROW` for each result.
    options : tuple of pairs
        What is passed by name.
    """

    op: str
    axis: int
    length: int
    takes: tuple[str, ...]
    dtypes: tuple[str, ...]
    gives: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()

    def rows(self, *blocks: Any) -> Any:
        """Return the results of whole rows."""
        place = _Place(self.op, blocks[0])
        inputs, weight = self._lent(place, blocks)
        options = dict(self.options) | weight
        if self.op == "cross_entropy":
            options["reduction"] = "none"
        made = getattr(cs, self.op)(*inputs, axis=-1, **options)
        if len(self.gives) == 1:
            return self._back(place, made, self.gives[0])
        return tuple(self._back(place, *each) for each in zip(made, self.gives, strict=True))

    def partial(self, offset: int, *blocks: Any) -> nodes.Nodes:
        """Return the nodes of a piece of each row."""
        place = _Place(self.op, blocks[0])
        (x, *others), weight = self._lent(place, blocks)
        options = dict(self.options) | weight
        made = nodes.partial(x, self.op, *others, offset=offset, length=self.length, **options)
        return replace(made, array=place.back(made.array))

    def combine(self, made: list[nodes.Nodes]) -> nodes.Nodes:
        """Return the nodes of neighbouring pieces as those of one."""
        place = _Place(self.op, made[0].array)
        joined = nodes.combine([replace(each, array=place.lent(each.array)) for each in made])
        return replace(joined, array=place.back(joined.array))

    def apply(self, offset: int, whole: nodes.Nodes, *blocks: Any) -> Any:
        """Return the result of a piece that has a value for each element."""
        place = _Place(self.op, blocks[0])
        (x, *others), weight = self._lent(place, blocks)
        node = replace(whole, array=place.lent(whole.array))
        made = nodes.apply(x, node, *others, offset=offset, **weight)
        return self._back(place, made[1] if isinstance(made, tuple) else made, ELEMENT)

    def values(self, whole: nodes.Nodes, *blocks: Any) -> Any:
        """Return the result that has a value for each row; `blocks` have none for each element."""
        place = _Place(self.op, whole.array)
        node = replace(whole, array=place.lent(whole.array))
        given, batch = iter(blocks), whole.array.shape[1:-1]
        inputs = []
        for takes, dtype in zip(self.takes, self.dtypes, strict=True):
            if takes == ELEMENT:
                inputs.append(arrays.empty((*batch, 0), as_dtype(self.op, dtype)))
            else:
                inputs.append(place.lent(next(given)))
        weight = {"weight": inputs.pop()} if CLASS in self.takes else {}
        made = nodes.apply(inputs[0], node, *inputs[1:], offset=0, **weight)
        return place.back(made[0] if isinstance(made, tuple) else made)

    def _lent(self, place: _Place, blocks: tuple[Any, ...]) -> tuple[list[Array], dict[str, Array]]:
        """Return blocks on the device, their rows along the last axis, and the weight by name."""
        lent = [
            place.lent(np.moveaxis(block, self.axis, -1) if takes == ELEMENT else block)
            for takes, block in zip(self.takes, blocks, strict=True)
        ]
        weight = {"weight": lent.pop()} if CLASS in self.takes else {}
        return lent, weight

    def _back(self, place: _Place, array: Array, gives: str) -> Any:
        made = place.back(array)
        return np.moveaxis(made, -1, self.axis) if gives == ELEMENT else made


class _Place:
    """Where a task computes, and whether its blocks have to be copied there."""

    def __init__(self, caller: str, block: Any) -> None:
        self._backend, self._copies = active(), not is_array(block)
        if self._copies and not self._backend.on_host and not gpu_is_present():
            raise RuntimeError(
                f"{caller}: this process has no GPU, and the emulator is not active in it; call "
                f"within emulator.activate() or, for a cluster, register the plugin "
                f"cusoftmax.dask.workers.EmulatorPlugin with the client"
            )

    def lent(self, block: Any) -> Array:
        """Return a block on the device, the elements of its last dimension side by side."""
        if not self._copies:
            side_by_side = not block.size or block.shape[-1:] in ((), (1,))
            if side_by_side or block.strides[-1] == block.dtype.itemsize:
                return block
            if not self._backend.on_host:
                import cupy

                return cupy.ascontiguousarray(block)
        host = self._backend.shared(block) if is_array(block) else np.asarray(block)
        array = arrays.empty(host.shape, host.dtype)
        if self._backend.on_host:
            self._backend.shared(array)[...] = host
        else:
            array.set(np.ascontiguousarray(host))
        return array

    def back(self, array: Array) -> Any:
        """Return a result as the blocks are: an array of NumPy, or of CuPy."""
        return self._backend.to_host(array) if self._copies else array
