"""What the tasks of a graph run: whole rows of a block, or pieces of them by their nodes.

A block of CuPy stays on its device. One of NumPy is copied to what runs the kernels, the emulator
if it is active and else the current GPU, and the results are NumPy's again. Nodes go the same way.

On the device the elements of a row are neighbours in memory: the order of their sums is then the
same for all blocks, whatever their layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

import cusoftmax as cs
from cusoftmax import nodes
from cusoftmax.planning.checks import Array, as_dtype, is_array
from cusoftmax.runtime import arrays, copies
from cusoftmax.runtime.backend import active, gpu_is_present

# What an array has a value for; of results also: each of a few elements that are selected in a row.
ELEMENT, ROW, CLASS, SELECTED = "element", "row", "class", "selected"


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
        For each block that a task gets: `ELEMENT`, `ROW` or `CLASS`.
    dtypes : tuple of str
        Their dtypes.
    gives : tuple of str
        `ELEMENT`, `ROW` or `SELECTED` for each result.
    options : tuple of pairs
        What is passed by name.
    named : tuple of str
        The names by which the last blocks are passed, as ``weight`` or ``mask``.
    batch, starts : tuple of int
        Of a function to which it matters which rows of all a block has: the sizes of the array in
        its dimensions but `axis`, and where the block begins there.
    """

    op: str
    axis: int
    length: int
    takes: tuple[str, ...]
    dtypes: tuple[str, ...]
    gives: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    named: tuple[str, ...] = ()
    batch: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether a row's result depends on its number."""
        return self.op == "sample"

    @property
    def selected(self) -> int:
        """How many elements of a row are selected."""
        return int(dict(self.options)["k"])

    def rows(self, *blocks: Any) -> Any:
        """Return the results of whole rows."""
        if self.draws:  # `cusoftmax.sample` takes its rows to be all there are
            return self.values(self.partial(0, *blocks))
        place = _Place(self.op, blocks[0])
        inputs, more = self._lent(place, blocks)
        options = dict(self.options) | more
        if self.op == "cross_entropy":
            options["reduction"] = "none"
        return self._back(place, getattr(cs, self.op)(*inputs, axis=-1, **options), self.gives)

    def partial(self, offset: int, *blocks: Any) -> nodes.Nodes:
        """Return the nodes of a piece of each row."""
        place = _Place(self.op, blocks[0])
        (x, *others), more = self._lent(place, blocks)
        options = dict(self.options) | more
        options |= {"offset": offset, "length": self.length}
        if not self.draws:
            made = nodes.partial(x, self.op, *others, **options)
            return replace(made, array=place.back(made.array))
        runs = [
            nodes.partial(x[where], self.op, first_row=first, **options)
            for where, first in self._runs(x.shape[:-1])
        ]
        array = copies.stacked([run.array for run in runs])
        shape = (*array.shape[1:2], *x.shape[:-1], *array.shape[-1:])
        return replace(runs[0], array=place.back(array.reshape(shape)))

    def combine(self, made: list[nodes.Nodes]) -> nodes.Nodes:
        """Return the nodes of neighbouring pieces as those of one."""
        place = _Place(self.op, made[0].array)
        joined = nodes.combine([replace(each, array=place.lent(each.array)) for each in made])
        return replace(joined, array=place.back(joined.array))

    def apply(self, offset: int, whole: nodes.Nodes, *blocks: Any) -> Any:
        """Return the results of a piece that have a value for each element."""
        place = _Place(self.op, blocks[0])
        (x, *others), more = self._lent(place, blocks)
        node = replace(whole, array=place.lent(whole.array))
        made = nodes.apply(x, node, *others, offset=offset, **more)
        return self._back(place, *self._some(made, of_elements=True))

    def values(self, whole: nodes.Nodes, *blocks: Any) -> Any:
        """Return the results that rows have; `blocks` have no values for each element."""
        place = _Place(self.op, whole.array)
        node = replace(whole, array=place.lent(whole.array))
        given, batch = iter(blocks), whole.array.shape[1:-1]
        inputs = []
        for takes, dtype in zip(self.takes, self.dtypes, strict=True):
            if takes == ELEMENT:
                inputs.append(arrays.empty((*batch, 0), as_dtype(self.op, dtype)))
            else:
                inputs.append(place.lent(next(given)))
        (x, *others), more = self._apart(inputs)
        made = nodes.apply(x, node, *others, offset=0, **more)
        return self._back(place, *self._some(made, of_elements=False))

    def _lent(self, place: _Place, blocks: tuple[Any, ...]) -> tuple[list[Array], dict[str, Array]]:
        """Return blocks on the device, their rows along the last axis, and some by name."""
        for block, dtype in zip(blocks, self.dtypes, strict=True):
            if block.dtype.name != dtype:
                raise TypeError(
                    f"{self.op}: a block has dtype {block.dtype}, and its array of Dask {dtype}; "
                    f"give map_blocks, or whatever made it, the dtype that blocks will have"
                )
        lent = [
            place.lent(np.moveaxis(block, self.axis, -1) if takes == ELEMENT else block)
            for takes, block in zip(self.takes, blocks, strict=True)
        ]
        return self._apart(lent)

    def _apart(self, inputs: list[Array]) -> tuple[list[Array], dict[str, Array]]:
        """Return those that are passed by place, and those by name."""
        count = len(inputs) - len(self.named)
        return inputs[:count], dict(zip(self.named, inputs[count:], strict=True))

    def _runs(self, sizes: tuple[int, ...]) -> Iterator[tuple[Any, int]]:
        """Yield the parts of a block whose rows follow one another, and their first numbers."""
        cut = max((d for d, size in enumerate(sizes) if size != self.batch[d]), default=0)
        if not cut or not prod(sizes):
            yield ..., sum(self.starts[:1]) * prod(self.batch[1:])
            return
        for outer in np.ndindex(sizes[:cut]):
            place = [*map(sum, zip(self.starts, outer, strict=False)), *self.starts[cut:]]
            yield outer, int(np.ravel_multi_index(place, self.batch))

    def _some(self, made: Any, *, of_elements: bool) -> tuple[Any, tuple[str, ...]]:
        """Return those results that have a value for each element, or those that do not."""
        chosen = [i for i, gives in enumerate(self.gives) if (gives == ELEMENT) == of_elements]
        if isinstance(made, tuple):
            made = tuple(made[i] for i in chosen) if len(chosen) > 1 else made[chosen[0]]
        return made, tuple(self.gives[i] for i in chosen)

    def _back(self, place: _Place, made: Any, gives: tuple[str, ...]) -> Any:
        """Return a result, or a tuple of them, as the blocks are."""
        if isinstance(made, tuple):
            return tuple(self._back(place, *each) for each in zip(made, zip(gives), strict=True))
        array = place.back(made)
        return array if gives[0] == ROW else np.moveaxis(array, -1, self.axis)


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
