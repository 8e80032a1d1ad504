"""Pictures of who holds which element, one for each pattern.

Nothing here is drawn by hand: boxes are runs of neighbours that one thread, warp or block has in a
launch on the emulator (`holders`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drawings import look
from benchmarks.drawings.holders import Array, Example, Holders, Seen, see
from cusoftmax.planning.plan import WARP

# Light enough for black text. Neighbours have another and a frame, so that they differ in grey too.
TINTS = ("#FFFFFF", "#A6CEE8", "#F3E3B0", "#C9C9C9", "#F5D3E2", "#9FD9C5", "#E8E8E8", "#F0B27A")
MARK = "#D55E00"
Owner = tuple[int, ...]


def boxes(
    axis: Any,
    owners: Array,
    label: Callable[[Owner], str],
    tint: Callable[[Owner], int],
    *,
    height: float = 0.86,
    size: float = 8.0,
) -> None:
    """Draw lines of elements, each as boxes of neighbours that have one owner.

    Parameters
    ----------
    axis : Axes
        Where to: x is the element within its line, y the line.
    owners : numpy.ndarray
        Of shape (lines, elements, numbers that name the owner); -1 for nobody.
    label : callable
        What stands in an owner's box, if it has room.
    tint : callable
        Which of the tints the box has.
    height : float
        Of a box; lines are 1 apart.
    size : float
        Of the text, in points.
    """
    width = owners.shape[1]
    points = look.WIDTH * 72 * 0.86 / width  # of an element, about
    for number, line in enumerate(owners):
        edges = np.flatnonzero((np.diff(line, axis=0) != 0).any(1)) + 1
        for start, end in zip((0, *edges), (*edges, width), strict=True):
            owner = tuple(int(v) for v in line[start])
            if owner[0] < 0:
                continue
            axis.broken_barh(
                [(start, end - start)], (number - height / 2, height),
                facecolor=TINTS[tint(owner) % len(TINTS)], edgecolor="black", linewidth=0.5,
            )  # fmt: skip
            text = label(owner)
            if len(text) * size * 0.58 <= (end - start) * points:
                middle = (start + end) / 2
                axis.text(middle, number, text, ha="center", va="center", fontsize=size)
    axis.set_xlim(0, width)
    axis.set_ylim(len(owners) - 0.5, -0.5)
    axis.spines[:].set_visible(False)
    axis.tick_params(left=False)


def _named(*numbers: Array) -> Array:
    return np.stack(numbers, axis=-1)


def _lines(owners: Array, width: int) -> Array:
    """Fold elements into lines of a width; nobody has what is missing of the last."""
    rest = np.full((-owners.shape[0] % width, *owners.shape[1:]), -1)
    return np.concatenate((owners, rest)).reshape(-1, width, *owners.shape[1:])


def _side(axis: Any, words: Sequence[str]) -> None:
    axis.set_yticks(range(len(words)), words)


def _lane(owner: Owner) -> str:
    return str(owner[-1] % WARP)


def _last(owner: Owner) -> int:
    return owner[-1]


def _chunk(axis: Any, held: Holders, chunk: int) -> None:
    """Draw the first chunk, one access of the warp to a line."""
    width = int((held.turn[:chunk] == 0).sum())
    boxes(axis, _lines(_named(held.thread[:chunk]), width), _lane, _last, size=7.5)
    axis.set_title("the first chunk, in elements: which lane of warp 0", loc="left")
    _side(axis, [f"{start}–{start + width - 1}" for start in range(0, chunk, width)])
    axis.set_xticks([])


def _lane_0(axis: Any, held: Holders, size: int) -> None:
    """Draw what the first lane has of the first elements: a box for each access."""
    mine = np.flatnonzero((held.block[:size] == 0) & (held.thread[:size] == 0))
    turns = held.turn[mine]

    def elements(owner: Owner) -> str:
        some = mine[turns == owner[0]]
        return f"{some.min()}–{some.max()}"

    boxes(axis, _named(np.sort(turns))[None], elements, _last)
    axis.set_title("which elements lane 0 has of it, in the order of its reads", loc="left")
    axis.set_xticks([])
    _side(axis, ["lane 0"])


def group(title: str, example: Example, file: Path) -> str:
    """Draw short rows: lanes of a warp, each with whole vectors."""
    seen = see(example)
    rows, n = example.shape
    caption = _caption("Boxes are accesses of one lane, with its number.", seen, example, file)
    shape = {"nrows": 2, "gridspec_kw": {"height_ratios": (rows, 1)}}
    with look.picture(file, 2.6, title, caption, **shape) as (_, ((above,), (below,))):
        boxes(above, _lines(_named(seen.holders.thread), n), _lane, _last, size=7.5)
        _side(above, [f"row {row}" for row in range(rows)])
        above.set_title("which lane of warp 0", loc="left")
        above.set_xticks(range(0, n + 1, 16))
        _lane_0(below, seen.holders, n)
    return caption


def long_row(title: str, example: Example, file: Path) -> str:
    """Draw long rows: chunks of warps, over one block or many; then a chunk and a lane of it."""
    seen = see(example)
    rows, n = example.shape
    held, chunk, block = seen.holders, seen.plan.chunk, seen.plan.launches[-1].block
    shown = 1 if example.blocks else rows
    width = min(n, chunk * block // WARP)
    lines = _lines(_named(held.block, held.warp)[: shown * n], width)
    many = len({*held.block[:n]}) > 1  # blocks of a row
    words = "Boxes above are chunks of one warp; below, accesses of one lane, with its number."
    if example.k:
        words += f" Triangles are the {example.k} largest of each row."
    caption = _caption(words, seen, example, file)
    heights = (min(0.42, 4 / len(lines)) * len(lines) + 0.5, 0.23 * (chunk / 128) + 0.4, 0.6)
    shape = {"nrows": 3, "gridspec_kw": {"height_ratios": heights}}
    with look.picture(file, sum(heights) + 0.5, title, caption, **shape) as (_, grid):
        above, middle, below = grid[:, 0]
        short = max(width // chunk, len(lines)) > 8
        boxes(above, lines, lambda o: f"{o[1]}" if short else f"warp {o[1]}",
              _first if many else _last)  # fmt: skip
        names = [f"block {line[0][0]}" for line in lines]
        if shown > 1:
            names = [f"row {number * width // n}, {name}" for number, name in enumerate(names)]
        elif not many:
            names = [f"round {number}" for number in range(len(lines))]
        _side(above, names)
        above.set_title(f"{'the rows' if shown > 1 else 'the row'}: which warp", loc="left")
        above.set_xticks(range(0, width + 1, chunk * (1 + width // chunk // 9)))
        _chunk(middle, held, chunk)
        _lane_0(below, held, chunk)
        for row, indices in enumerate(seen.result[1][:shown] if example.k else ()):
            for place in row * n + indices:
                above.plot(place % width, place // width + 0.28, "v", color=MARK,
                           markeredgecolor="black", markersize=7, zorder=5)  # fmt: skip
    return caption


def _first(owner: Owner) -> int:
    return owner[0]


def column(title: str, example: Example, file: Path) -> str:
    """Draw columns: lanes side by side, warps one below another."""
    seen = see(example)
    rows, columns = example.shape
    owners = _lines(_named(seen.holders.block, seen.holders.thread), columns)
    starts = [0, *(np.flatnonzero((np.diff(owners, axis=0) != 0).any((1, 2))) + 1)]
    blocks = len({*seen.holders.block})
    words = "Boxes are what one thread has, with its lane; tints are warps, or other blocks."
    caption = _caption(words, seen, example, file)
    with look.picture(file, 0.3 * len(starts) + 1.3, title, caption) as (_, ((axis,),)):
        boxes(axis, owners[starts], _lane, lambda o: 4 * o[0] + o[1] // WARP, height=1.0)
        sides = np.flatnonzero(np.diff(owners[0, :, 0])) + 1
        axis.vlines(sides, -0.5, len(starts) - 0.5, color="black", linewidth=3, zorder=6)
        axis.set_title(f"which lane; {blocks} blocks lie side by side", loc="left")
        _side(axis, [f"{a}–{b - 1}" for a, b in zip(starts, (*starts[1:], rows), strict=True)])
        axis.set_ylabel("rows of the array")
        axis.set_xlabel("columns: sums run down each of them")
        axis.set_xticks(range(0, columns + 1, 16))
    return caption


def _copied_and_held(axis: Any, seen: Seen, size: int, edges: Sequence[int]) -> None:
    """Draw who copies the first elements to shared memory, above who holds them there."""
    both = (seen.readers.thread[:size], seen.holders.thread[:size])
    boxes(axis, _named(np.stack(both)), lambda o: str(o[0]), _last, size=7.5)
    edges = [edge for edge in edges if edge <= size]
    axis.vlines(edges, -0.5, 1.5, color=MARK, linewidth=2, zorder=6, clip_on=False)
    _side(axis, ["copied by\nthread", "held by\nthread"])
    axis.set_xticks(edges)


def staged(title: str, example: Example, file: Path) -> str:
    """Draw rows off the boundaries of sectors: copied as one span, and held from there."""
    seen = see(example)
    _, n = example.shape
    words = "Boxes have the number of the thread; orange lines are where rows begin."
    caption = _caption(words, seen, example, file)
    with look.picture(file, 2.0, title, caption) as (_, ((axis,),)):
        _copied_and_held(axis, seen, 4 * n, range(0, 4 * n + 1, n))
        axis.set_xlabel("elements of the first four rows, which lie end to end")
    return caption


def segment(title: str, example: Example, file: Path) -> str:
    """Draw segments: tiles of keys for blocks, then lanes of each segment."""
    seen = see(example)
    (total,) = example.shape
    edges = [int(edge) for edge in np.cumsum((0, *example.lengths))]
    width, size = 1024, 160
    lines = _lines(_named(seen.readers.block), width)
    words = "Orange lines are where segments begin; boxes are what one block or thread has."
    caption = _caption(words, seen, example, file)
    heights = (0.25 * len(lines) + 0.5, 1.3)
    shape = {"nrows": 2, "gridspec_kw": {"height_ratios": heights}}
    with look.picture(file, sum(heights) + 0.5, title, caption, **shape) as (_, grid):
        above, below = grid[:, 0]
        boxes(above, lines, lambda o: f"block {o[0]}", _last)
        for line, place in (divmod(edge, width) for edge in edges if edge < total):
            above.vlines(place, line - 0.43, line + 0.43, color=MARK, linewidth=1.5, zorder=6)
        _side(above, [f"{line * width}–" for line in range(len(lines))])
        above.set_title("the elements, segment after segment: which block", loc="left")
        above.set_xticks([])
        _copied_and_held(below, seen, size, edges)
        below.set_title("the first of them: which thread of block 0", loc="left")
    return caption


def matrix(title: str, example: Example, file: Path) -> str:
    """Draw the Jacobian of a row: which lane writes what."""
    seen = see(example)
    n, _ = example.shape
    words = "Boxes are accesses of one lane, with its number; triangles are the diagonal."
    caption = _caption(words, seen, example, file)
    with look.picture(file, 3.4, title, caption) as (_, ((axis,),)):
        boxes(axis, _lines(_named(seen.holders.thread), n), _lane, _last, size=7.5)
        place = np.arange(n)
        axis.plot(place + 0.5, place, "v", color=MARK, markeredgecolor="black", markersize=5)
        axis.set_title("the matrix of one row: which lane of warp 0 writes it", loc="left")
        _side(axis, [f"row {row}" for row in place])
        axis.set_xticks(range(0, n + 1, 4))
    return caption


def piece(title: str, example: Example, file: Path) -> str:
    """Draw a row in pieces: the warps that have its chunks, and the subtrees of the nodes."""
    seen = see(example)
    n, chunk = example.shape[-1], seen.plan.chunk
    words = "Orange lines are where pieces begin; each box of the last line has one node."
    caption = _caption(words, seen, example, file)
    starts = [*example.edges]
    subtrees = np.empty(n, int)
    for number, array in enumerate(seen.result):  # a node ends with the level of its subtree
        place = example.edges[number]
        for level in array[:, 0, -1].astype(int):
            subtrees[place : place + (chunk << level)] = place // chunk
            place += chunk << level
            starts.append(place)
    places = np.arange(n)
    pieces = np.searchsorted(example.edges, places, side="right") - 1
    lines = [_named(0 * places, pieces, pieces)]
    lines += [_named(0 * places + 1, seen.holders.warp, places // chunk)]
    lines += [_named(0 * places + 2, subtrees, subtrees)]

    def label(owner: Owner) -> str:
        what, number, _ = owner
        if what == 2:
            size = min(start for start in starts if start > number * chunk) // chunk - number
            return "1" if size == 1 else f"{size} chunks"
        return f"{('piece', 'warp')[what]} {number}"

    with look.picture(file, 1.7, title, caption) as (_, ((axis,),)):
        boxes(axis, np.stack(lines), label, _last, size=7.0)
        axis.vlines(example.edges[1:-1], -0.5, 2.5, color=MARK, linewidth=2.5, zorder=6)
        _side(axis, ["the row", "chunks", "nodes"])
        axis.set_xticks(range(0, n + 1, 2 * chunk))
        axis.set_xlabel("elements of the row")
    return caption


def _caption(words: str, seen: Seen, example: Example, file: Path) -> str:
    shape = " × ".join(map(str, example.shape))
    call = f"{example.op} of {shape} {example.dtype} elements, axis {example.axis}"
    return (
        f"{words} Call: {call}, planned for {example.arch}: {seen.launched}. Data: accesses of "
        f"these launches on the emulator, as `python -m benchmarks.pictures {file.stem}` drew it."
    )


_MIXED = (5, 0, 35, 60, 60, 90, 3, 200, 31, 16, 300, 8, 900, 12, 700, 40, 1500, 6000, 77, 128, 20)
Drawn = Callable[[str, Example, Path], str]

PICTURES: dict[str, tuple[str, Example, Drawn]] = {
    "pattern_group": (
        "Group: a few lanes of a warp hold a row in registers",
        Example("softmax", (4, 128), "float32"),
        group,
    ),
    "pattern_block": (
        "Block: each warp of a block holds a chunk of the row",
        Example("softmax", (2, 4096), "float32", "sm_80"),
        long_row,
    ),
    "pattern_cluster": (
        "Cluster: the blocks of a cluster hold one row, and exchange their sums",
        Example("softmax", (1, 32768), "float32"),
        long_row,
    ),
    "pattern_stream": (
        "Stream: one block passes over the row, in rounds, and then once more",
        Example("softmax", (12, 65536), "float32", "sm_75", blocks=(0,)),
        long_row,
    ),
    "pattern_split": (
        "Split: many blocks take a piece of the row each, in two launches",
        Example("softmax", (1, 131072), "float32", "sm_80"),
        long_row,
    ),
    "pattern_column": (
        "Column: threads side by side, and one below another in each column",
        Example("softmax", (128, 128), "float32", "sm_80", 0),
        column,
    ),
    "pattern_staged": (
        "Staged rows: copied as one span, then held row by row",
        Example("softmax", (40000, 33), "float16", "sm_80", blocks=(0,)),
        staged,
    ),
    "pattern_topk": (
        "Top-k: warps hold chunks of the row, and keep the largest of each",
        Example("topk_softmax", (2, 4096), "float32", k=4),
        long_row,
    ),
    "pattern_segment": (
        "Segment: blocks take equal tiles, lanes the segments in them",
        Example("segment_softmax", (sum(_MIXED),), "float32", "sm_80", 0, lengths=_MIXED),
        segment,
    ),
    "pattern_piece": (
        "Piece: a part of a row becomes nodes, one for each of its largest subtrees",
        Example("softmax", (1, 16384), "float32", edges=(0, 5120, 12288, 16384)),
        piece,
    ),
    "pattern_map": (
        "Map: each element is computed by itself, here those of a Jacobian",
        Example("softmax_jacobian", (16, 16), "float32"),
        matrix,
    ),
}
