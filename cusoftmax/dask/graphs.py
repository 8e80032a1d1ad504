"""Graphs of tasks: chunks that pieces of rows can have, and the tree of their nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, product
from math import prod
from operator import getitem
from typing import Any

import dask.array as da
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from cusoftmax.dask.tasks import ELEMENT, ROW, SELECTED, Task

UNIT = 1024  # elements: pieces of rows begin at its multiples, whatever the dtypes are
_TOGETHER = 8  # nodes that one task combines

Chunks = tuple[tuple[int, ...], ...]


def build(task: Task, inputs: Sequence[Any], metas: Sequence[Any]) -> tuple[Any, ...]:
    """Return the results of a function as arrays of Dask, one for each of `metas`."""
    graph = _Graph(task, _aligned(task, inputs))
    return graph.of_rows(metas) if graph.pieces == 1 else graph.of_pieces(metas)


# ------------------------------------------------------------------------------------------- chunks


def _aligned(task: Task, inputs: Sequence[Any]) -> list[Any]:
    """Return inputs with chunks in common, whose boundaries in the rows pieces can have."""
    dims = tuple(range(inputs[0].ndim))
    of = {ELEMENT: dims, ROW: tuple(d for d in dims if d != task.axis)}
    pairs = [(array, of.get(takes)) for array, takes in zip(inputs, task.takes, strict=True)]
    known = [part for array, index in pairs if index is not None for part in (array, index)]
    common, _ = da.unify_chunks(*known, warn=False)
    # Nothing is one chunk: Dask does not rechunk it to several.
    chunks = divided(tuple(tuple(common[d]) if sum(common[d]) else (0,) for d in dims), task.axis)
    aligned = []
    for array, index in pairs:
        wanted = ((sum(array.shape),),) if index is None else tuple(chunks[d] for d in index)
        # By tasks, which a graph shows, and in no larger parts than before and after.
        aligned.append(array.rechunk(wanted, block_size_limit=1, method="tasks"))
    return aligned


def divided(chunks: Chunks, axis: int) -> Chunks:
    """Return chunks that pieces of rows can have along `axis`, and none with more elements.

    Rows of at most a unit are not divided. Where boundaries lie within a unit, there are new ones.
    A chunk that must become longer gets fewer rows, but one at least.
    """
    along = chunks[axis]
    length, most = sum(along), max(along, default=0)
    starts = accumulate(along[:-1])
    if length <= UNIT:
        new: tuple[int, ...] = (length,)
    elif all(start % UNIT == 0 or start == length for start in starts):
        new = along
    else:
        new = _parts(length, max(most // UNIT, 1) * UNIT)
    result = [*chunks[:axis], new, *chunks[axis + 1 :]]
    largest = [max(sizes, default=0) for sizes in result]
    room = prod(largest[:axis] + largest[axis + 1 :]) * most // max(largest[axis], 1)
    for d in range(len(result)):
        rows = prod(size for e, size in enumerate(largest) if e != axis)
        if d != axis and rows > max(room, 1):
            step = max(1, room // (rows // largest[d]))
            result[d] = tuple(part for size in result[d] for part in _parts(size, step))
            largest[d] = min(largest[d], step)
    return tuple(result)


def _parts(size: int, step: int) -> tuple[int, ...]:
    """Divide a size into parts of `step`, and what is left."""
    whole, left = divmod(size, step)
    return (*(step,) * whole, *((left,) if left or not whole else ()))


# ------------------------------------------------------------------------------------------- graphs

Place = tuple[int, ...]  # of a block in each dimension, or in each but that of the rows
# What the results are called, where there are two.
_WORDS = {
    "cross_entropy": ("loss", "gradient"),
    "softmax_vjp_vjp": ("gy", "gdy"),
    "topk_softmax": ("values", "indices"),
}


class _Graph:
    """The graph of a call: its layers beside those of the inputs, whose chunks are aligned."""

    def __init__(self, task: Task, inputs: Sequence[Any]) -> None:
        self._task, self._inputs = task, inputs
        self._chunks: Chunks = inputs[0].chunks
        self._token = tokenize(task, *(array.name for array in inputs))
        merged = HighLevelGraph.merge(*(array.dask for array in inputs))
        self._layers, self._needs = dict(merged.layers), dict(merged.dependencies)
        self._sources = {array.name for array in inputs}
        self._starts = [(0, *accumulate(sizes)) for sizes in self._kept(self._chunks)]
        self._rows = list(product(*(range(len(sizes)) for sizes in self._kept(self._chunks))))

    @property
    def pieces(self) -> int:
        """How many chunks a row lies in."""
        return len(self._chunks[self._task.axis])

    def of_rows(self, metas: Sequence[Any]) -> tuple[Any, ...]:
        """Return the results of rows that lie in one chunk each."""
        tasks = {
            self._at(rows, 0): (self._of(rows).rows, *self._blocks(rows, 0)) for rows in self._rows
        }
        return tuple(self._results(range(len(metas)), tasks, self._sources, metas))

    def of_pieces(self, metas: Sequence[Any]) -> tuple[Any, ...]:
        """Return the results of rows that lie in several chunks."""
        task, gives = self._task, self._task.gives
        starts = (0, *accumulate(self._chunks[task.axis]))
        each = list(product(self._rows, range(self.pieces)))
        partial = self._layer(
            "partial",
            {
                (*rows, i): (self._of(rows).partial, starts[i], *self._blocks(rows, i))
                for rows, i in each
            },
            self._sources,
        )
        combine, node = self._tree(partial)
        of_elements = {
            self._at(rows, i): (task.apply, starts[i], node[rows], *self._blocks(rows, i))
            for rows, i in each
        }
        of_rows = {
            self._at(rows, 0): (task.values, node[rows], *self._blocks(rows, None))
            for rows in self._rows
        }
        needs, found = {combine, *self._sources}, dict[int, Any]()
        for tasks, elements in ((of_elements, True), (of_rows, False)):
            some = [i for i, kind in enumerate(gives) if (kind == ELEMENT) == elements]
            found |= zip(some, self._results(some, tasks, needs, metas), strict=True)
        return tuple(found[i] for i in range(len(gives)))

    def _results(
        self, some: Sequence[int], tasks: Mapping[Place, Any], needs: set[str], metas: Sequence[Any]
    ) -> Iterator[Any]:
        """Yield some of the results, of which each task makes one or, if there are more, a tuple.

        Tasks are those of blocks; where results are those of rows, of the first block in each row.
        """
        gives = self._task.gives
        words = _WORDS.get(self._task.op, ("value", self._task.op.rpartition("_")[2]))
        if len(some) > 1:
            both = self._layer("", tasks, needs)
            needs = {both}
        for number, i in enumerate(some):
            made: dict[Place, Any] = {}
            for at, task in tasks.items():
                place = self._kept(at) if gives[i] == ROW else at
                made[place] = task if len(some) == 1 else (getitem, (both, *at), number)
            yield self._array(words[i] if len(gives) > 1 else "", gives[i], made, needs, metas[i])

    def _tree(self, partial: str) -> tuple[str, dict[Place, Any]]:
        """Combine the nodes of a layer; return the new one, and the keys of whole rows' nodes."""
        name = self._named("combine")
        tasks: dict[Place, Any] = {}
        node: dict[Place, Any] = {}
        for rows in self._rows:
            keys: list[Any] = [(partial, *rows, i) for i in range(self.pieces)]
            level = 0
            while len(keys) > 1:
                groups = [keys[i : i + _TOGETHER] for i in range(0, len(keys), _TOGETHER)]
                keys = []
                for i, group in enumerate(groups):
                    if len(group) > 1:
                        tasks[*rows, level, i] = (self._task.combine, group)
                        group = [(name, *rows, level, i)]
                    keys += group
                level += 1
            (node[rows],) = keys
        return self._layer("combine", tasks, {partial}), node

    def _named(self, word: str) -> str:
        """Return a layer's name, of which Dask's dashboard shows all but the token."""
        words = ("cusoftmax", *self._task.op.split("_"), *((word,) if word else ()))
        return "-".join((*words, self._token))

    def _layer(self, word: str, tasks: Mapping[Place, Any], needs: set[str]) -> str:
        """Add a layer; return its name."""
        name = self._named(word)
        self._layers[name] = {(name, *place): task for place, task in tasks.items()}
        self._needs[name] = needs
        return name

    def _array(
        self, word: str, kind: str, tasks: Mapping[Place, Any], needs: set[str], meta: Any
    ) -> Any:
        """Return the array of a result, whose layer it adds."""
        axis, chunks = self._task.axis, self._chunks
        if kind == ROW:
            chunks = self._kept(chunks)
        elif kind == SELECTED:
            chunks = (*chunks[:axis], (self._task.selected,), *chunks[axis + 1 :])
        name = self._named(word)
        layer = {(name, *place): task for place, task in tasks.items()}
        graph = HighLevelGraph({**self._layers, name: layer}, {**self._needs, name: needs})
        return da.Array(graph, name, chunks, meta=meta)

    def _of(self, rows: Place) -> Task:
        """Return the task of a block, which knows where its rows are if they are to be numbered."""
        if not self._task.draws:
            return self._task
        starts = tuple(of[i] for of, i in zip(self._starts, rows, strict=True))
        return replace(self._task, starts=starts)

    def _kept(self, of_dimensions: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what is of other dimensions than that of the rows."""
        axis = self._task.axis
        return of_dimensions[:axis] + of_dimensions[axis + 1 :]

    def _at(self, rows: Place, piece: int) -> Place:
        axis = self._task.axis
        return (*rows[:axis], piece, *rows[axis:])

    def _blocks(self, rows: Place, piece: int | None) -> list[Any]:
        """Return the keys of blocks; without a piece, of those that have none."""
        keys: list[Any] = []
        for array, takes in zip(self._inputs, self._task.takes, strict=True):
            if takes == ELEMENT and piece is not None:
                keys.append((array.name, *self._at(rows, piece)))
            elif takes != ELEMENT:
                keys.append((array.name, *(rows if takes == ROW else (0,))))
        return keys
