"""Pictures of who holds which element: of a small launch of each pattern on the emulator.

Nothing here is drawn by hand: `benchmarks.static.accesses` notes which thread of which block reads
which element, and boxes are runs of elements that one thread, warp or block has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cusoftmax as cs
from benchmarks.drawings import look
from benchmarks.static.accesses import KINDS, Notes, noted
from cusoftmax import emulator
from cusoftmax.planning.plan import WARP, Plan

Array = np.ndarray[Any, np.dtype[Any]]
# Light enough for black text, and light beside dark in grey: neighbours differ without colour.
TINTS = ("#FFFFFF", "#A6CEE8", "#F3E3B0", "#C9C9C9", "#F5D3E2", "#9FD9C5", "#E8E8E8", "#F0B27A")


@dataclass(frozen=True)
class Example:
    """A call that runs in a pattern.

    Attributes
    ----------
    title : str
        What the picture shows, as a sentence.
    op, shape, dtype, arch, axis
        As of ``cs.explain``.
    k : int
        Of topk_softmax.
    blocks : tuple of int
        The blocks to run; all by default.
    """

    title: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    arch: str = "sm_90"
    axis: int = -1
    k: int = 0
    blocks: tuple[int, ...] = ()
    lengths: tuple[int, ...] = ()  # of segments


@dataclass(frozen=True)
class Holders:
    """For each element of the input the block, the thread of it, and the thread's how-manieth."""

    block: Array
    thread: Array
    turn: Array

    @property
    def warp(self) -> Array:
        return np.where(self.thread < 0, -1, self.thread // WARP)

    @property
    def lane(self) -> Array:
        return np.where(self.thread < 0, -1, self.thread % WARP)


@dataclass(frozen=True)
class Seen:
    """A launch on the emulator.

    Attributes
    ----------
    plan : Plan
        What ran.
    readers : list of Holders
        Of each launch, who first read an element in global memory, by itself or by a copy.
    holders : Holders
        Of the last launch, who reads an element where it then lies: in shared memory if it was put
        there, else as `readers`.
    result : tuple of numpy.ndarray
        What the call returned.
    """

    plan: Plan
    readers: list[Holders]
    holders: Holders
    result: tuple[Array, ...]


def see(example: Example) -> Seen:
    """Run the call, and find who reads each element."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(example.shape).astype(example.dtype)
    some = emulator.only_blocks(example.blocks) if example.blocks else nullcontext()
    with emulator.activate(example.arch), noted() as found, some:
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
        readers = [_readers(notes, first, x) for notes in found.launches]
        holders = _holders(found.launches[-1], first, x)
        return Seen(plan, readers, holders or readers[-1], tuple(map(emulator.asnumpy, result)))


def _of_input(notes: Notes, first: int, x: Array) -> Array:
    """Return which accesses read the input from global memory."""
    reads = np.isin(notes["kind"], (KINDS.index("global read"), KINDS.index("copy")))
    return reads & (notes["address"] >= first) & (notes["address"] < first + x.nbytes)


def _readers(notes: Notes, first: int, x: Array) -> Holders:
    def elements() -> Iterator[tuple[int, int, int, int]]:
        for note in notes[_of_input(notes, first, x)]:
            start = (int(note["address"]) - first) // x.itemsize
            yield int(note["block"]), int(note["thread"]), start, int(note["bytes"]) // x.itemsize

    return _first(elements(), x.size)


def _first(accesses: Iterator[tuple[int, int, int, int]], size: int) -> Holders:
    """Return the first thread that accesses each element; an access is of neighbours."""
    found = Holders(*(np.full(size, -1) for _ in range(3)))
    turns: Counter[tuple[int, int]] = Counter()
    for block, thread, start, count in accesses:
        fresh = found.block[start : start + count] < 0
        if not fresh.any():
            continue
        for values, value in (
            (found.block, block), (found.thread, thread), (found.turn, turns[block, thread]),
        ):  # fmt: skip
            values[start : start + count][fresh] = value
        turns[block, thread] += 1
    return found


def _holders(notes: Notes, first: int, x: Array) -> Holders | None:
    """Return who reads the elements in shared memory; None if none were put there whole."""
    place: dict[tuple[int, int], int] = {}  # block and byte of shared memory: element
    loaded: dict[
        tuple[int, int], list[tuple[int, int]]
    ] = {}  # what a thread has read, to be stored
    inputs = _of_input(notes, first, x)
    reads: list[tuple[int, int, int, int]] = []
    for note, of_input in zip(notes, inputs, strict=True):
        kind, block = KINDS[note["kind"]], int(note["block"])
        offset, count = int(note["offset"]), int(note["bytes"]) // x.itemsize
        start = (int(note["address"]) - first) // x.itemsize
        thread = (block, int(note["thread"]))
        if of_input and kind == "global read":
            loaded.setdefault(thread, []).append((start, count))
        elif kind == "shared write" and loaded.get(thread) and loaded[thread][0][1] == count:
            start, _ = loaded[thread].pop(0)
            of_input = np.True_
        if of_input and kind != "global read":
            for number in range(count):
                place[block, offset + number * x.itemsize] = start + number
        elif kind == "shared read" and (block, offset) in place:
            reads.append((*thread, place[block, offset], max(count, 1)))
    found = _first(iter(reads), x.size)
    return None if (found.block < 0).all() else found


# ---------------------------------------------------------------------------------------- drawing


def boxes(
    axis: Any,
    owners: Array,
    label: Callable[[Any], str],
    tint: Callable[[Any], int],
    *,
    height: float = 0.86,
    size: float = 8.0,
    first: Sequence[float] = (),
) -> None:
    """Draw lines of elements, each a row of `owners`, as boxes of neighbours with one owner.

    Parameters
    ----------
    axis : Axes
        Where to: x is the element within the line, y the line.
    owners : numpy.ndarray
        Of shape (lines, elements, what identifies the owner); -1 for nobody.
    label : callable
        What stands in an owner's box, if it has room.
    tint : callable
        Which of the tints the box has.
    height : float
        Of a box; lines are 1 apart.
    size : float
        Of the text, in points.
    first : sequence of float
        Where each line begins, if not at 0.
    """
    width = owners.shape[1]
    points = look.WIDTH * 72 * 0.86 / width  # of an element, about
    for number, line in enumerate(owners):
        begin = first[number] if len(first) else 0
        edges = np.flatnonzero((np.diff(line, axis=0) != 0).any(1)) + 1
        for start, end in zip((0, *edges), (*edges, width), strict=True):
            owner = tuple(int(v) for v in line[start])
            if owner[0] < 0:
                continue
            axis.broken_barh(
                [(begin + start, end - start)], (number - height / 2, height),
                facecolor=TINTS[tint(owner) % len(TINTS)], edgecolor="black", linewidth=0.5,
            )  # fmt: skip
            text = label(owner)
            room = (end - start) * points
            if text and len(text) * size * 0.58 <= room:
                axis.text(begin + (start + end) / 2, number, text, ha="center", va="center",
                          fontsize=size)  # fmt: skip
    axis.set_xlim(0, width)
    axis.set_ylim(len(owners) - 0.5, -0.5)
    axis.spines[:].set_visible(False)
    axis.tick_params(left=False)


def _stack(*parts: Array) -> Array:
    return np.stack(parts, axis=-1)


def _lines(values: Array, width: int) -> Array:
    """Fold what is known of elements into lines of a width; nobody holds what is missing."""
    missing = -values.shape[0] % width
    rest = np.full((missing, *values.shape[1:]), -1)
    return np.concatenate((values, rest)).reshape(-1, width, *values.shape[1:])


def _numbers(axis: Any, words: Sequence[str]) -> None:
    axis.set_yticks(range(len(words)), words)


def _registers(axis: Any, holders: Holders, block: int, thread: int, row: str) -> None:
    """Draw what one thread has, in the order in which it reads: a box for each access."""
    mine = np.flatnonzero((holders.block == block) & (holders.thread == thread))
    turns = holders.turn[mine]
    order = np.argsort(turns, kind="stable")
    boxes(axis, _stack(turns[order])[None], lambda o: _span(mine[turns == o[0]]), lambda o: o[0])
    axis.set_xticks([])
    _numbers(axis, [row])


def _span(elements: Array) -> str:
    first, last = int(elements.min()), int(elements.max())
    return f"{first}–{last}" if last > first else f"{first}"


def _lane(owner: tuple[int, ...]) -> str:
    return f"{owner[-1] % WARP}"


def _chunk(axis: Any, holders: Holders, chunk: int, title: str) -> None:
    """Draw the first chunk, four accesses of a warp to a line: which lane holds what."""
    thread = holders.thread[:chunk]
    width = int((holders.turn[:chunk] == 0).sum())  # what the lanes read first
    boxes(axis, _lines(_stack(thread), width), _lane, lambda o: o[0], size=7.5)
    axis.set_title(title, loc="left")
    starts = range(0, chunk, width)
    _numbers(axis, [f"{start}–{start + width - 1}" for start in starts])
    axis.set_xticks([])


def group(example: Example, file: Path) -> str:
    """Short rows: lanes of a warp, each with whole vectors."""
    seen = see(example)
    _, n = example.shape
    lines = _lines(_stack(seen.holders.thread), n)
    caption = _caption("Boxes are accesses of one lane, with its number.", seen, example)
    with look.picture(file, 2.6, example.title, caption, nrows=2,
                      gridspec_kw={"height_ratios": (len(lines), 1)}) as (_, grid):  # fmt: skip
        above, below = grid[:, 0]
        boxes(above, lines, _lane, lambda o: o[0], size=7.5)
        _numbers(above, [f"row {r}" for r in range(len(lines))])
        above.set_title("which lane of warp 0 holds it", loc="left")
        above.set_xticks(range(0, n + 1, 16))
        _registers(below, seen.holders, 0, 0, "lane 0")
        below.set_title("what lane 0 has in its registers, in the order of its reads", loc="left")
    return caption


def long_row(example: Example, file: Path) -> str:
    """Long rows: chunks of warps, over one block or many; then one chunk and one thread."""
    seen = see(example)
    held, plan = seen.holders, seen.plan
    rows, n = example.shape
    shown = min(rows, 2) if not example.blocks else 1
    many = plan.launches[-1].grid // rows > 1
    warps = plan.launches[-1].block // WARP
    width = min(n, plan.chunk * warps)
    size = shown * n
    lines = _lines(_stack(held.block[:size], held.warp[:size]), width)
    caption = _caption(
        "Boxes above are chunks of one warp; in the middle accesses of one lane, with its number.",
        seen, example,
    )  # fmt: skip
    ratios = (0.42 * len(lines) + 0.5, 0.23 * (plan.chunk // 128) + 0.4, 0.6)
    with look.picture(file, sum(ratios) + 0.5, example.title, caption, nrows=3,
                      gridspec_kw={"height_ratios": ratios}) as (_, grid):  # fmt: skip
        top, middle, below = grid[:, 0]
        boxes(top, lines, lambda o: f"warp {o[1]}" if warps <= 8 else f"{o[1]}",
              (lambda o: o[0]) if many else (lambda o: o[1]))  # fmt: skip
        _numbers(
            top,
            [_line_name(line, number, width, n, many, shown) for number, line in enumerate(lines)],
        )
        top.set_title(_heading(many, shown, warps), loc="left")
        top.set_xticks(range(0, width + 1, plan.chunk))
        _chunk(
            middle,
            held,
            plan.chunk,
            "the first chunk, in elements of the row: which lane of warp 0",
        )
        _registers(below, held, 0, 0, "lane 0")
        below.set_title("the elements that lane 0 of it has, in the order of its reads", loc="left")
        if example.k:
            _mark_picks(top, seen, n, width)
    return caption


def _line_name(line: Array, number: int, width: int, n: int, many: bool, shown: int) -> str:
    if many:
        return f"block {line[0][0]}"
    if shown > 1:
        return f"row {number * width // n}, block {line[0][0]}"
    return f"round {number}" if width < n else f"block {line[0][0]}"


def _heading(many: bool, shown: int, warps: int) -> str:
    where = "the row, a line for each block" if many else "the rows" if shown > 1 else "the row"
    return f"{where}: which {'warp of the block ' if many else 'warp '}holds it"


def _mark_picks(axis: Any, seen: Seen, n: int, width: int) -> None:
    """Mark the elements that were selected."""
    for row, indices in enumerate(seen.result[1][:2]):
        for index in indices:
            place = row * n + int(index)
            axis.plot(place % width, place // width + 0.28, marker="v", color="#D55E00",
                      markeredgecolor="black", markersize=7, zorder=5)  # fmt: skip


def column(example: Example, file: Path) -> str:
    """Columns: lanes side by side, warps one below another."""
    seen = see(example)
    rows, columns = example.shape
    held = seen.holders
    owners = _lines(_stack(held.block, held.thread), columns)
    changes = np.flatnonzero((np.diff(owners, axis=0) != 0).any((1, 2))) + 1
    starts = [0, *changes]
    caption = _caption("Boxes are what one thread holds, with its lane.", seen, example)
    with look.picture(file, 0.3 * len(starts) + 1.2, example.title, caption) as (_, ((axis,),)):
        boxes(axis, owners[starts], _lane, lambda o: 2 * o[0] + o[1] // WARP, height=1.0)
        ends = [*changes, rows]
        _numbers(axis, [f"{a}–{b - 1}" for a, b in zip(starts, ends, strict=True)])
        axis.set_ylabel("rows of the array")
        axis.set_xlabel("columns: the sums run down each of them")
        axis.set_xticks(range(0, columns + 1, 16))
    return caption


def _two_lines(axis: Any, seen: Seen, size: int, edges: Sequence[int], words: str) -> None:
    """Draw who copies the first elements to shared memory, above who holds them there."""
    copied, held = seen.readers[-1], seen.holders
    lines = _lines(np.concatenate((_stack(copied.thread[:size]), _stack(held.thread[:size]))), size)
    boxes(axis, lines, lambda o: f"{o[0]}", lambda o: o[0], size=7.5)
    for edge in edges:
        axis.plot((edge, edge), (-0.5, 1.5), color="#D55E00", linewidth=2, zorder=6)
    _numbers(axis, ["copied by\nthread", f"{words} by\nthread"])
    axis.set_xticks([e for e in edges if e <= size])


def staged(example: Example, file: Path) -> str:
    """Rows off the boundaries of sectors: copied as one span, and held from there."""
    seen = see(example)
    _, n = example.shape
    edges = range(0, 4 * n + 1, n)
    caption = _caption(
        "Boxes have the number of the thread; orange lines are where rows begin, which is at no "
        "multiple of 8 elements, 16 bytes.", seen, example,
    )  # fmt: skip
    with look.picture(file, 2.0, example.title, caption) as (_, ((axis,),)):
        _two_lines(axis, seen, 4 * n, edges, "held")
        axis.set_xlabel("elements of the first four rows, which lie end to end")
    return caption


def segment(example: Example, file: Path) -> str:
    """Segments: tiles of keys for blocks, then lanes of each segment."""
    seen = see(example)
    edges = np.cumsum((0, *example.lengths))
    width, size = 1024, 160
    (total,) = example.shape
    read = seen.readers[-1]
    blocks = _lines(_stack(read.block), width)
    caption = _caption(
        "Orange lines are where segments begin. Above, boxes are what one block reads; below, what "
        "one thread does, with its number.", seen, example,
    )  # fmt: skip
    ratios = (0.25 * len(blocks) + 0.5, 1.3)
    with look.picture(file, sum(ratios) + 0.5, example.title, caption, nrows=2,
                      gridspec_kw={"height_ratios": ratios}) as (_, grid):  # fmt: skip
        above, below = grid[:, 0]
        boxes(above, blocks, lambda o: f"block {o[0]}", lambda o: o[0])
        for edge in edges[edges < total]:
            line = edge // width
            above.plot(
                (edge % width,) * 2, (line - 0.43, line + 0.43), color="#D55E00", linewidth=1.2
            )
        _numbers(above, [f"{line * width}–" for line in range(len(blocks))])
        above.set_title("the elements, segment after segment: which block", loc="left")
        above.set_xticks([])
        _two_lines(below, seen, size, [int(e) for e in edges if e <= size], "held")
        below.set_title("the first of them: which thread of block 0", loc="left")
    return caption


def _caption(words: str, seen: Seen, example: Example) -> str:
    launches = "; ".join(
        f"{launch.kernel.name}, blocks: {launch.grid}, threads of each: {launch.block}"
        for launch in seen.plan.launches
    )
    shape = " x ".join(map(str, example.shape))
    return (
        f"{words} {example.op} of {shape} {example.dtype} elements, axis {example.axis}, planned "
        f"for {example.arch} ({launches}). Data: every access of the launch, noted by the emulator as "
        "`python -m benchmarks.pictures` drew it."
    )


_MIXED = (5, 0, 35, 60, 60, 90, 3, 200, 31, 16, 300, 8, 900, 12, 700, 40, 1500, 6000, 77, 128, 20)

PICTURES: dict[str, tuple[Example, Callable[[Example, Path], str]]] = {
    "pattern_group": (
        Example(
            "Group: a few lanes of a warp hold a row in registers", "softmax", (4, 128), "float32"
        ),
        group,
    ),
    "pattern_block": (
        Example(
            "Block: each warp of a block holds a chunk of the row",
            "softmax",
            (2, 4096),
            "float32",
            "sm_80",
        ),
        long_row,
    ),
    "pattern_cluster": (
        Example(
            "Cluster: eight blocks hold one row and exchange sums", "softmax", (1, 32768), "float32"
        ),
        long_row,
    ),
    "pattern_stream": (
        Example(
            "Stream: one block passes over the row, in rounds, twice",
            "softmax",
            (12, 65536),
            "float32",
            "sm_75",
            blocks=(0,),
        ),
        long_row,
    ),
    "pattern_split": (
        Example(
            "Split: many blocks, each a piece of the row, in two launches",
            "softmax",
            (1, 131072),
            "float32",
            "sm_80",
        ),
        long_row,
    ),
    "pattern_column": (
        Example(
            "Column: lanes side by side, each with a piece of its columns",
            "softmax",
            (128, 128),
            "float32",
            "sm_80",
            0,
        ),
        column,
    ),
    "pattern_staged": (
        Example(
            "Staged rows: copied whole, then held as they are needed",
            "softmax",
            (128, 33),
            "float16",
        ),
        staged,
    ),
    "pattern_topk": (
        Example(
            "Top-k: warps hold chunks, and keep the best of each",
            "topk_softmax",
            (2, 4096),
            "float32",
            k=4,
        ),
        long_row,
    ),
    "pattern_segment": (
        Example(
            "Segment: equal tiles for blocks, lanes for each segment",
            "segment_softmax",
            (sum(_MIXED),),
            "float32",
            axis=0,
            lengths=_MIXED,
        ),
        segment,
    ),
}
