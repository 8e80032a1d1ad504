"""Who holds which element of a small launch on the emulator: read off its accesses to memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

import cusoftmax as cs
from benchmarks.measuring.accesses import KINDS, Notes, noted
from cusoftmax import emulator
from cusoftmax.planning.plan import WARP, Plan

Array = np.ndarray[Any, np.dtype[Any]]
# Of one access: the block, its thread, the first element and how many neighbours it is of.
Access = tuple[int, int, int, int]


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
        What was planned for the shape.
    launched : str
        The kernels, their blocks and threads, in words.
    readers : Holders
        Who first reads an element of the input in global memory, or copies it from there.
    holders : Holders
        Who first reads it where it then lies: in shared memory if it was put there, else as above.
    result : tuple of numpy.ndarray
        What the call returned.
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
        if example.lengths:
            offsets = emulator.asarray(np.cumsum((0, *example.lengths)))
            result = (cs.segment_softmax(given, offsets),)
        elif example.k:
            result = cs.topk_softmax(given, example.k, axis=example.axis)
        else:
            result = (getattr(cs, example.op)(given, axis=example.axis),)
        plan = cs.explain(
            example.op, shape=example.shape, dtype=example.dtype, axis=example.axis,
            arch=example.arch,
        )  # fmt: skip
        first = int(given.data.ptr)
        nobody = Holders(*(np.full(x.size, -1) for _ in range(3)))
        readers = holders = nobody
        for notes in found.launches:
            read = _first(_reads(notes, first, x), x.size)
            readers = readers.before(read)
            holders = holders.before(_first(_held(notes, first, x), x.size).before(read))
        kernels = [f"{k.kernel} on {k.grid} × {k.block} threads" for k in report.kernels]
        more = f" and {len(kernels) - 2} more" if len(kernels) > 2 else ""
        launched = ", ".join(kernels[:2]) + more
        return Seen(plan, launched, readers, holders, tuple(map(emulator.asnumpy, result)))


def _of_input(notes: Notes, first: int, x: Array) -> Array:
    """Return which accesses read the input from global memory."""
    reads = np.isin(notes["kind"], (KINDS.index("global read"), KINDS.index("copy")))
    within = (notes["address"] >= first) & (notes["address"] < first + x.nbytes)
    return np.asarray(reads & within)


def _reads(notes: Notes, first: int, x: Array) -> Iterator[Access]:
    """Yield the reads of the input in global memory."""
    for note in notes[_of_input(notes, first, x)]:
        start = (int(note["address"]) - first) // x.itemsize
        yield int(note["block"]), int(note["thread"]), start, int(note["bytes"]) // x.itemsize


def _held(notes: Notes, first: int, x: Array) -> Iterator[Access]:
    """Yield the reads of elements in shared memory, where a copy or a thread had put them.

    A thread stores what it has read in the order in which it read it.
    """
    place: dict[tuple[int, int], int] = {}  # the element at a byte of a block's shared memory
    loaded: dict[tuple[int, int], list[tuple[int, int]]] = {}  # by a thread, and not yet stored
    for note, of_input in zip(notes, _of_input(notes, first, x), strict=True):
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
