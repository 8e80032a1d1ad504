"""How often a warp enters each block of machine code, from how often the kernel's PTX was executed.

The compiler keeps the floating-point arithmetic, accesses, shuffles and barriers of PTX's blocks,
and about their order; integers, moves and branches it makes anew. So each block of machine code
gets the neighbouring blocks of PTX that have together what it has. It is entered as often as the
one of them that is entered most: a short one may have become instructions with predicates, which
take their issue slot whether they hold or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cusoftmax.machine_code.executed import ExecutedLine
from cusoftmax.machine_code.flow import BlockGraph
from cusoftmax.machine_code.opcodes import Instruction

_Array = npt.NDArray[np.float64]

# By the kind that both have: how the names of PTX begin, the opcodes, and how much a difference of
# one counts. What the compiler may fold into something else counts least.
_KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], float]] = {
    "load": (("ld.global",), ("LDG",), 8),
    "copy": (("cp.async.cg",), ("LDGSTS",), 8),
    "bulk copy": (("cp.async.bulk.shared", "cp.async.bulk.global"), ("UBLKCP",), 8),
    "bulk barrier": (("mbarrier.", "cp.async.bulk.wait"), ("SYNCS", "UTMACMDFLUSH"), 8),
    "store": (("st.global",), ("STG",), 8),
    "shared load": (("ld.shared",), ("LDS",), 4),
    "shared store": (("st.shared",), ("STS", "ST"), 4),
    "shuffle": (("shfl",), ("SHFL",), 8),
    "barrier": (("bar.sync", "barrier.cluster"), ("BAR", "UCGABAR_ARV", "UCGABAR_WAIT"), 8),
    "special": (("ex2", "lg2", "rcp"), ("MUFU",), 8),
    "rounding": (("cvt.rzi.f32.f32", "cvt.rzi.f64.f64"), ("FRND",), 4),
    "pair": ((), ("FADD2", "FMUL2", "FFMA2"), 1),
    "double": ((), ("DADD", "DMUL", "DFMA"), 1),
    "single": ((), ("FADD", "FMUL", "FFMA"), 1),
    "maximum": ((), ("FMNMX", "FMNMX3"), 1),
}
_BULK = {stem for kind in ("bulk copy", "bulk barrier") for stem in _KINDS[kind][1]}
_BARRIER = [*_KINDS].index("barrier")
_WEIGHTS = np.array([weight for _, _, weight in _KINDS.values()])
_ARITHMETIC = {"add", "sub", "mul", "fma"}
_TYPES = {"f32": "single", "f32x2": "pair", "f64": "double"}
_MOST_JOINED = 64  # blocks of PTX in one of machine code
MOST_APART = 0.15  # of what the codes have, if they are the same kernel's


def blocks_entered(graph: BlockGraph, lines: Sequence[ExecutedLine]) -> Mapping[int, float]:
    """Return how often a warp enters each block of machine code, by number, on average over all.

    Of blocks that have nothing of what PTX has, that follows from those around them, as far as it
    does. Nothing is returned if the codes differ much.

    Parameters
    ----------
    graph : BlockGraph
        The machine code's blocks.
    lines : sequence of ExecutedLine
        The same kernel's PTX, in order.
    """
    matching = match(graph, lines)
    if matching.apart > MOST_APART:
        return {}
    warps = max(lines[0].warps, 1)
    found = graph.completed({block: n / warps for block, n in matching.times.items()})
    # What is around the copies that one thread starts is that thread's, if it has nothing else.
    copies = {
        block: times
        for block, times in found.items()
        if any(x.stem in _BULK for x in graph.blocks[block])
    }
    around = {
        block: times
        for block, times in graph.by_inner(copies).items()
        if not any(_of_code(graph.blocks[block]))
    }
    most = {block: n / warps for block, n in matching.most.items()}
    found = around | found
    return graph.at_most(found, most) | found


@dataclass(frozen=True)
class Matching:
    """Which PTX the blocks of machine code came from.

    Attributes
    ----------
    times : dict of int to int
        How often warps entered blocks, by number, of those that have PTX.
    most : dict of int to int
        How often at most they entered others: as often as the PTX between that of the blocks before
        and after.
    apart : float
        The part of what both codes have, of the kinds that PTX and machine code have in common,
        that has no counterpart.
    """

    times: dict[int, int]
    most: dict[int, int]
    apart: float


def match(graph: BlockGraph, lines: Sequence[ExecutedLine]) -> Matching:
    """Find the PTX of each block of machine code."""
    theirs, times, places = _of_ptx(lines)
    numbers = sorted(graph.reached())
    codes = [graph.blocks[number] for number in numbers]
    ours = _rows(map(_of_code, codes))
    predicated = _rows(_of_code([x for x in code if x.predicated]) for code in codes) @ _WEIGHTS
    group = {block: number for number, same in enumerate(graph.alike) for block in same}
    around = {block: loop.header for loop in graph.all_loops() for block in loop.blocks}
    found = _matched(
        ours,
        predicated,
        theirs,
        [times[k] for k in places],
        [group.get(block) for block in numbers],
        [group.get(around.get(block, 0)) for block in numbers],
    )
    both = sum(
        float(np.minimum(ours[i], theirs[[*blocks]].sum(axis=0)) @ _WEIGHTS)
        for i, blocks in found.items()
    )
    whole = float(ours.sum(axis=0) @ _WEIGHTS + theirs.sum(axis=0) @ _WEIGHTS)
    return Matching(
        {numbers[i]: max(times[places[k]] for k in blocks) for i, blocks in found.items()},
        {numbers[i]: n for i, n in _most(found, len(numbers), times, places).items()},
        1 - 2 * both / max(whole, 1.0),
    )


def _rows(counts: Iterable[Sequence[float]]) -> _Array:
    return np.array([*counts], dtype=float).reshape(-1, len(_KINDS))


def _places(rows: _Array) -> _Array:
    """Return which part of a code lies before each of its blocks."""
    sizes = rows @ _WEIGHTS
    found: _Array = (np.cumsum(sizes) - sizes) / max(float(sizes.sum()), 1.0)
    return found


def _of_ptx(lines: Sequence[ExecutedLine]) -> tuple[_Array, list[int], list[int]]:
    """Return what each block of PTX has that has anything; how often warps entered every block.

    And last the numbers of the former among all.
    """
    found: list[tuple[Counter[str], int]] = []
    for line in lines:
        if line.name == "block":
            found.append((Counter(), line.warps))
        elif kind := _kind_of_ptx(line.name):
            found[-1][0][kind] += 1
    places = [i for i, (block, _) in enumerate(found) if block]
    rows = [[found[i][0][kind] for kind in _KINDS] for i in places]
    return _rows(rows), [times for _, times in found], places


def _most(
    found: Mapping[int, tuple[int, ...]], count: int, times: Sequence[int], places: Sequence[int]
) -> dict[int, int]:
    """Return how often at most blocks were entered that have nothing of what PTX has."""
    most: dict[int, int] = {}
    known = sorted(found)
    for before, after in pairwise(known):
        between = times[places[max(found[before])] + 1 : places[min(found[after])]]
        if between:
            most.update(dict.fromkeys(range(before + 1, after), max(between)))
    return most


def _kind_of_ptx(name: str) -> str | None:
    stem, *modifiers = name.split(".")
    if modifiers and modifiers[-1] in _TYPES:
        if stem in _ARITHMETIC:
            return _TYPES[modifiers[-1]]
        if stem in ("min", "max") and modifiers[-1] == "f32":
            return "maximum"
    return next((kind for kind, (names, _, _) in _KINDS.items() if name.startswith(names)), None)


def _of_code(block: Sequence[Instruction]) -> list[float]:
    stems = Counter(instruction.stem for instruction in block)
    stems["FMNMX"] += stems["FMNMX3"]  # a maximum of three is two
    return [float(sum(stems[stem] for stem in opcodes)) for _, opcodes, _ in _KINDS.values()]


def _matched(
    ours: _Array,
    predicated: _Array,
    theirs: _Array,
    times: Sequence[int],
    groups: Sequence[int | None],
    headers: Sequence[int | None],
) -> dict[int, tuple[int, ...]]:
    """Return which neighbouring ones of their blocks belong to each of ours, if any do.

    Those that have most in common, and least apart, come first. Of several blocks of PTX that one
    has become, all but the largest have predicates there. Of several pairs that are alike, the one
    that is at about the same place in both codes comes first.

    Parameters
    ----------
    ours, theirs : array
        A row for each block, a column for each kind.
    predicated : array
        How much of each of our blocks has a predicate.
    times : sequence of int
        How often warps entered their blocks.
    groups : sequence of int or None
        Which of our blocks are entered equally often.
    headers : sequence of int or None
        Which group the first block of the loop around each is in: none is entered more often.
    """
    places, passed = _places(theirs), _places(ours)
    pairs: list[tuple[float, int, tuple[int, ...]]] = []
    # Neighbours, and neighbours but for blocks that no warp entered.
    for chosen in (range(len(theirs)), [i for i, n in enumerate(times) if n]):
        some = theirs[chosen]
        sizes, place = some @ _WEIGHTS, places[chosen]
        total = np.vstack([np.zeros(some.shape[1]), some.cumsum(axis=0)])
        largest = sizes.copy()
        for joined in range(1, min(_MOST_JOINED, len(some)) + 1):
            if joined > 1:
                largest = np.maximum(largest[:-1], sizes[joined - 1 :])
            part = total[joined:] - total[:-joined]
            size = part @ _WEIGHTS
            for number, block in enumerate(ours):
                apart = np.abs(part - block) @ _WEIGHTS
                apart += 0.4 * np.abs(size - largest - predicated[number])
                gain = size + block @ _WEIGHTS - 2 * apart
                gain -= 0.5 * size * np.abs(place[: len(size)] - passed[number])
                likely = np.flatnonzero(gain > 0)
                pairs.extend((float(gain[i]), number, (*chosen[i : i + joined],)) for i in likely)
    pairs.sort(key=lambda pair: (-pair[0], len(pair[2])))
    found: dict[int, tuple[int, ...]] = {}
    taken: set[int] = set()
    said: dict[int | None, int] = {}
    for _, number, blocks in pairs:
        if number in found or not taken.isdisjoint(blocks):
            continue
        entered = max(times[i] for i in blocks)
        if entered > said.get(headers[number], entered):
            continue
        # Of a barrier alone that PTX jumps over, machine code has a predicate.
        over = entered == 0 and ours[number].sum() == ours[number, _BARRIER]
        group = None if over else groups[number]
        if group is None or said.setdefault(group, entered) == entered:
            found[number] = blocks
            taken.update(blocks)
    return found
