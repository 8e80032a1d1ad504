"""Who holds which element of a small launch on the emulator: read off its accesses to memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import cusoftmax as cs
from benchmarks.measuring.accesses import KINDS, Notes, noted
from cusoftmax import emulator, nodes
from cusoftmax.operations.options import piece_of
from cusoftmax.planning import pieces
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import WARP, Plan
from cusoftmax.planning.prepare import problem_for

Array = np.ndarray[Any, np.dtype[Any]]
# Of one access: the block, its thread, the first element and how many neighbours it is of.
Access = tuple[int, int, int, int]
READS: tuple[str, ...] = ("global read", "copy")
WRITES: tuple[str, ...] = ("global write",)


@dataclass(frozen=True)
class Example:
    """A call whose launches are looked at.

    Attributes
    ----------
    op, shape, dtype, arch, axis
        As of ``cs.explain``.
    k : int
        Of topk_softmax.
    lengths : tuple of int
        Of the segments of segment_softmax.
    edges : tuple of int
        Of the pieces of a row, whose nodes are made one after the other.
    blocks : tuple of int
        The blocks to run; all by default.
    """

    op: str
    shape: tuple[int, ...]
    dtype: str
    arch: str = "sm_90"
    axis: int = -1
    k: int = 0
    lengths: tuple[int, ...] = ()
    edges: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Holders:
    """For each element a block, a thread of it and the thread's how-manieth access; or -1."""

    block: Array
    thread: Array
    turn: Array

    @property
    def warp(self) -> Array:
        return np.where(self.thread < 0, -1, self.thread // WARP)

    def before(self, other: Holders) -> Holders:
        """Return these, and the other ones for elements that these do not have."""
        mine = self.block >= 0
        return Holders(
            np.where(mine, self.block, other.block),
            np.where(mine, self.thread, other.thread),
            np.where(mine, self.turn, other.turn),
        )


@dataclass(frozen=True)
class Seen:
    """What launches did.

    Attributes
    ----------
    plan : Plan
        What was planned for the shape, or for the first piece.
    launched : str
        The kernels, their blocks and threads, in words.
    readers : Holders
        Who first reads an element of the input in global memory, or copies it from there. Of
        softmax_jacobian, which adds nothing up: who writes an element of the result.
    holders : Holders
        Who first reads it where it then lies: in shared memory if it was put there, else as above.
    result : tuple of numpy.ndarray
        What the call returned; of pieces the arrays of their nodes.
    """

    plan: Plan
    launched: str
    readers: Holders
    holders: Holders
    result: tuple[Array, ...]


def see(example: Example) -> Seen:
    """Run the call, and find who reads each element."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(example.shape).astype(example.dtype)
    some = emulator.only_blocks(example.blocks) if example.blocks else nullcontext()
    with emulator.activate(example.arch), noted() as found, emulator.trace(False) as report, some:
        given = emulator.asarray(x)
        looked, kinds = given, READS
        if example.edges:
            result = tuple(
                nodes.partial(
                    given[:, start:end], example.op, offset=start, length=example.shape[-1]
                ).array
                for start, end in pairwise(example.edges)
            )
        elif example.op == "softmax_jacobian":  # the shape is that of the matrix
            result = (cs.softmax_jacobian(given[0]),)
            looked, kinds = result[0], WRITES
        elif example.lengths:
            offsets = emulator.asarray(np.cumsum((0, *example.lengths)))
            result = (cs.segment_softmax(given, offsets),)
        elif example.k:
            result = cs.topk_softmax(given, example.k, axis=example.axis)
        else:
            result = (getattr(cs, example.op)(given, axis=example.axis),)
        first, array = int(looked.data.ptr), emulator.asnumpy(looked)
        nobody = Holders(*(np.full(array.size, -1) for _ in range(3)))
        readers = holders = nobody
        for notes in found.launches:
            some_of = _accesses_of(notes, first, array, kinds)
            read = _first(_accesses(notes, first, array, some_of), array.size)
            readers = readers.before(read)
            held = _first(_held(notes, first, array, some_of), array.size)
            holders = holders.before(held.before(read))
        kernels = [f"{k.kernel} on {k.grid} × {k.block} threads" for k in report.kernels]
        more = f" and {len(kernels) - 2} more" if len(kernels) > 2 else ""
        launched = ", ".join(kernels[:2]) + more
        return Seen(
            _plan(example), launched, readers, holders, tuple(map(emulator.asnumpy, result))
        )


def _plan(example: Example) -> Plan:
    if example.edges:
        op, size, n = piece_of(example.op), example.edges[1], example.shape[-1]
        problem = problem_for(op, (*example.shape[:-1], size), example.dtype)
        chunk = pieces.chunk_of(op, (example.dtype,) * 2)
        device = DeviceSpec.known(example.arch)
        return pieces.partial_plan(problem, device, pieces.Piece(n, 0, size, chunk))
    return cs.explain(
        example.op, shape=example.shape, dtype=example.dtype, axis=example.axis, arch=example.arch
    )


def _accesses_of(notes: Notes, first: int, x: Array, kinds: Sequence[str]) -> Array:
    """Return which accesses are of an array in global memory, and of some kinds."""
    some = np.isin(notes["kind"], [KINDS.index(kind) for kind in kinds])
    within = (notes["address"] >= first) & (notes["address"] < first + x.nbytes)
    return np.asarray(some & within)


def _accesses(notes: Notes, first: int, x: Array, some: Array) -> Iterator[Access]:
    for note in notes[some]:
        start = (int(note["address"]) - first) // x.itemsize
        yield int(note["block"]), int(note["thread"]), start, int(note["bytes"]) // x.itemsize


def _held(notes: Notes, first: int, x: Array, some: Array) -> Iterator[Access]:
    """Yield the reads of elements in shared memory, where a copy or a thread had put them.

    A thread stores what it has read in the order in which it read it.
    """
    place: dict[tuple[int, int], int] = {}  # the element at a byte of a block's shared memory
    loaded: dict[tuple[int, int], list[tuple[int, int]]] = {}  # by a thread, and not yet stored
    for note, of_input in zip(notes, some, strict=True):
        kind, block, thread = KINDS[note["kind"]], int(note["block"]), int(note["thread"])
        offset, count = int(note["offset"]), int(note["bytes"]) // x.itemsize
        start = (int(note["address"]) - first) // x.itemsize
        waiting = loaded.setdefault((block, thread), [])
        if kind == "global read" and of_input:
            waiting.append((start, count))
        elif kind == "shared read" and (block, offset) in place:
            yield block, thread, place[block, offset], max(count, 1)
        elif kind == "copy" or (kind == "shared write" and waiting and waiting[0][1] == count):
            if kind == "shared write":
                start, _ = waiting.pop(0)
            for number in range(count):
                place[block, offset + number * x.itemsize] = start + number


def _first(accesses: Iterator[Access], size: int) -> Holders:
    """Return the first thread that accesses each element."""
    found = Holders(*(np.full(size, -1) for _ in range(3)))
    turns: Counter[tuple[int, int]] = Counter()
    for block, thread, start, count in accesses:
        fresh = found.block[start : start + count] < 0
        if fresh.any():
            found.block[start : start + count][fresh] = block
            found.thread[start : start + count][fresh] = thread
            found.turn[start : start + count][fresh] = turns[block, thread]
            turns[block, thread] += 1
    return found
