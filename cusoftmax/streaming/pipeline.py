"""Moves blocks through the device, and says what is finished when something fails."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np

from cusoftmax import nodes
from cusoftmax.planning.checks import described, plain_bool, plain_count
from cusoftmax.runtime import copies
from cusoftmax.streaming.blocks import NODES, SLOTS, Blocks, Slot
from cusoftmax.streaming.job import Job, Side, divided
from cusoftmax.streaming.mapped import check_read, check_write, share_memory

_DEFAULT_BYTES = 1 << 28


class Interrupted(KeyboardInterrupt):
    """A call was interrupted; the blocks before `resume` are finished.

    Parameters
    ----------
    message : str
        What happened, and how to go on.
    resume : int
        To be given to the same call, which then goes on from there.
    """

    def __init__(self, message: str, resume: int) -> None:
        super().__init__(message)
        self.resume = resume


class BlockError(RuntimeError):
    """A block could not be read, computed or written; the blocks before `resume` are finished.

    Parameters
    ----------
    message : str
        What happened, and how to go on.
    resume : int
        To be given to the same call, which then goes on from there.
    """

    def __init__(self, message: str, resume: int) -> None:
        super().__init__(message)
        self.resume = resume


@dataclass
class Pending:
    """A block that is on the device, and what is left to be done with it."""

    mark: Any
    number: int | None = None  # of the block; None if it has no results
    results: tuple[tuple[Side, tuple[slice, ...], np.ndarray[Any, Any]], ...] = ()


class Failed(Exception):
    """A block could not be read, computed or written."""

    def __init__(self, doing: str, number: int) -> None:
        super().__init__(doing)
        self.doing, self.number = doing, number


@contextmanager
def _failing(doing: str, number: int) -> Iterator[None]:
    """Let an error say what was being done with which block."""
    try:
        yield
    except Exception as error:
        raise Failed(doing, number) from error


class Pipeline:
    """Moves blocks through the device."""

    def __init__(self, job: Job, blocks: Blocks, show: Callable[[int], None]) -> None:
        self._job, self._blocks, self._show = job, blocks, show
        rows = min(blocks.rows, max(1, prod(job.batch)))
        size = job.slot_bytes(rows, min(blocks.elements, max(1, job.length)))
        parts = [size] * SLOTS
        if blocks.pieces > 1:
            parts += [job.node_bytes(1, blocks.elements) + NODES] * 2
        self._device = copies.open_device()
        *regions, kept = copies.regions([*parts, job.weight_bytes])
        self._slots = [Slot(region, self._device.pinned(size)) for region in regions[:SLOTS]]
        self._nodes = regions[SLOTS:]
        self._kept = Slot(kept, self._device.pinned(job.weight_bytes))
        self._weight: list[Any] = []  # the array, once it is on the device
        self._pending: deque[Pending] = deque()
        self._turn = 0
        self.finished = 0

    @property
    def total(self) -> int:
        """Blocks that have results."""
        return len(self._blocks) * self._job.pieces_written(self._blocks)

    def run(self, start: int) -> None:
        self.finished = start
        if self._job.weight:
            self._weight = [self._copied(self._kept, self._job.weight, (slice(None),), start)]
        pieces = self._job.pieces_written(self._blocks)
        for number in range(start, self.total):
            block, piece = divmod(number, pieces)
            places, first_row = self._blocks[block], self._blocks.first_row(block)
            if self._blocks.pieces == 1:
                compute = partial(self._job.whole, first_row=first_row)
                self._submit(number, places, 0, self._job.length, compute)
                continue
            if piece == 0 or number == start:
                whole = self._fold(number, places, first_row)
            first, end = self._piece(piece) if self._job.writes_elements else (0, 0)
            apply = partial(self._job.apply, whole=whole, first=first)
            self._submit(number, places, first, end, apply)
        self.finish_all()

    def finish_all(self) -> None:
        """Wait for the device, and write all results."""
        while self._pending:
            self._finish()

    def close(self) -> None:
        self._device.close()

    def _piece(self, number: int) -> tuple[int, int]:
        first = number * self._blocks.elements
        return first, min(first + self._blocks.elements, self._job.length)

    def _fold(self, number: int, places: tuple[slice, ...], first_row: int) -> nodes.Nodes:
        """Return the nodes of rows, from all of their pieces."""
        found: list[nodes.Nodes] = []

        def fold(inputs: list[Any], first: int, region: copies.Region) -> tuple[Any, ...]:
            # Kernels run one after the other: what this part has is not used any more.
            region.clear()
            with copies.allocating(region):
                made = self._job.partial(inputs, first, first_row)
                found[:] = [nodes.combine([*found, made])]
            return ()

        for piece in range(self._blocks.pieces):
            first, end = self._piece(piece)
            region = self._nodes[piece % 2]
            fold_piece = partial(fold, first=first, region=region)
            self._submit(number, places, first, end, fold_piece, results=False)
        return found[0]

    def _submit(
        self,
        number: int,
        places: tuple[slice, ...],
        first: int,
        end: int,
        compute: Callable[[list[Any]], tuple[Any, ...]],
        results: bool = True,
    ) -> None:
        """Read a block, and let the device compute it."""
        while len(self._pending) >= SLOTS:
            self._finish()
        slot, device = self._slots[self._turn], self._device
        self._turn = (self._turn + 1) % SLOTS
        slot.clear()
        inputs = [
            self._copied(slot, side, self._index(side, places, first, end), number)
            for side in self._job.read
        ]
        outgoing = []
        with _failing("computing", number):
            device.follow(copies.COMPUTE, device.mark(copies.IN))
            with device.computing(), copies.allocating(slot.region):
                made = compute(inputs + self._weight)
            done = device.mark(copies.COMPUTE)
            if not results:
                self._pending.append(Pending(done))
                return
            device.follow(copies.OUT, done)
            for side, array in zip(self._job.targets, made, strict=True):
                host = slot.host(array.shape, side.dtype)
                device.copy_out(host, array)
                outgoing.append((side, self._index(side, places, first, end), host))
            self._pending.append(Pending(device.mark(copies.OUT), number, tuple(outgoing)))

    def _index(
        self, side: Side, places: tuple[slice, ...], first: int, end: int
    ) -> tuple[slice, ...]:
        axis, shape = self._job.axis, side.array.shape
        if not (side.along or side.selected):
            return places
        along = slice(first, end) if side.along else slice(None)
        index = (*places[:axis], along, *places[axis:])
        if side not in self._job.beside.values():
            return index
        own = index[len(index) - len(shape) :]
        pairs = zip(shape, own, strict=True)
        return tuple(slice(None) if size == 1 else place for size, place in pairs)

    def _copied(self, slot: Slot, side: Side, index: tuple[slice, ...], number: int) -> Any:
        """Return an array on the device that is copied from a part of a source."""
        host = self._read(slot, side, index, number)
        array = slot.region.array(host.shape, host.dtype)
        self._device.copy_in(array, host)
        return array

    def _read(
        self, slot: Slot, side: Side, index: tuple[slice, ...], number: int
    ) -> np.ndarray[Any, Any]:
        with _failing(f"reading {side.name} of", number):
            check_read(side.array, index)
            found = np.asarray(side.array[index])
            if side.along and side is not self._job.weight:
                found = found[(np.newaxis,) * (len(self._job.shape) - found.ndim)]
                found = np.moveaxis(found, self._job.axis, -1)
            host = slot.host(found.shape, side.dtype)
            host[...] = found
        return host

    def _finish(self) -> None:
        """Write the results of the oldest block on the device."""
        block = self._pending[0]
        number = self.finished if block.number is None else block.number
        with _failing("computing", number):
            self._device.wait(block.mark)
        for side, index, host in block.results:
            with _failing(f"writing {side.name} of", number):
                check_write(side.array, index)
                apart = side.along or side.selected
                side.array[index] = np.moveaxis(host, -1, self._job.axis) if apart else host
        self._pending.popleft()
        if block.number is not None:
            self.finished = block.number + 1
            self._show(self.finished)

    def left(self) -> tuple[int, str]:
        """Return with which `resume` the same call goes on, and say so."""
        if all(target.given for target in self._job.targets):
            return self.finished, f"finished, and resume={self.finished} goes on"
        return 0, "lost, as no out was given"

    def named(self, number: int) -> str:
        """Return a block's number and place, in words."""
        per_row = self._job.pieces_written(self._blocks)
        block, piece = divmod(number, per_row)
        where = ", ".join(f"{place.start}:{place.stop}" for place in self._blocks[block])
        words = f"block {number} of {self.total}"
        words += f" (rows [{where}])" if where else ""
        if per_row > 1:
            words += f", elements {':'.join(map(str, self._piece(piece)))} of each"
        return words


@contextmanager
def _shown(function: str, total: int, done: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """Show the progress, if standard error is a terminal."""
    if not progress or not sys.stderr.isatty():
        yield lambda finished: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{function}, blocks", total=total, completed=done)
        yield lambda finished: bar.update(task, completed=finished)


def run(job: Job, device_bytes: Any, progress: Any, resume: Any) -> Any:
    """Run a job; return its targets."""
    op = job.function
    progress = plain_bool(op, "progress", progress)
    resume = plain_count(op, "resume", resume)
    if device_bytes is None:
        device_bytes = min(copies.free_bytes() // 2, _DEFAULT_BYTES)
    blocks = divided(job, plain_count(op, "device_bytes", device_bytes))
    total = len(blocks) * job.pieces_written(blocks)
    if not 0 <= resume <= total:
        raise ValueError(f"{op}: resume={described(resume)}, but there are {total} blocks")
    targets = tuple(side.array for side in job.targets)
    _check_targets(job, resume)
    if total:
        with _shown(op, total, resume, progress) as show:
            _moved(Pipeline(job, blocks, show), op, resume)
    return targets if len(targets) > 1 else targets[0]


def _check_targets(job: Job, resume: int) -> None:
    """Refuse results that take the place of inputs or of each other, and to go on in new ones."""
    for i, target in enumerate(job.targets):
        if resume and not target.given:
            raise ValueError(
                f"{job.function}: resume={resume} goes on in the results of the call that failed, "
                f"and {target.name} is not given; give what that call was given"
            )
        weight = [job.weight] if job.weight else []
        for side in (*job.read, *weight, *job.targets[:i]):
            if share_memory(target.array, side.array):
                raise ValueError(
                    f"{job.function}: {target.name} shares memory with {side.name}; give it memory "
                    f"of its own"
                )


def _moved(pipeline: Pipeline, op: str, resume: int) -> None:
    """Move all blocks; what is on the device when something fails is finished first."""
    try:
        try:
            pipeline.run(resume)
        except Failed as failed:
            if not failed.doing.startswith("writing"):
                pipeline.finish_all()  # where an earlier block fails, that is what is said
            raise
        except KeyboardInterrupt:
            pipeline.finish_all()
            done = f"{op}: interrupted after {pipeline.finished} of {pipeline.total} blocks"
            resume, how = pipeline.left()
            raise Interrupted(f"{done}, which are {how}", resume) from None
    except Failed as failed:
        cause = failed.__cause__
        with suppress(Exception):  # of a device that says its error again
            pipeline.close()
        resume, how = pipeline.left()
        raise BlockError(
            f"{op}: {failed.doing} {pipeline.named(failed.number)} failed: "
            f"{type(cause).__name__}: {cause}; blocks before {pipeline.finished} are {how}",
            resume,
        ) from cause
    except BaseException:
        pipeline.close()
        raise
    pipeline.close()
