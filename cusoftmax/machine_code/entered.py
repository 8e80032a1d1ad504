"""How often a warp enters each block of machine code, from how often the kernel's PTX was executed.

The compiler keeps the floating-point arithmetic, accesses, shuffles and barriers of PTX's blocks,
and about their order; integers, moves and branches it makes anew. So each block of machine code
gets the neighbouring blocks of PTX that have together what it has. It is entered as often as the
one of them that is entered most: a short one may have become instructions with predicates, which
take their issue slot whether they hold or not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
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
    "exponential": (("ex2",), ("MUFU.EX2",), 8),
    "logarithm": (("lg2",), ("MUFU.LG2",), 8),
    "reciprocal": (("rcp",), ("MUFU.RCP", "MUFU.RCP64H"), 8),
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
_OF_RECIPROCAL = 5  # DFMA that follow MUFU.RCP64H
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
    theirs, times, places, jumped = _of_ptx(lines)
    numbers = sorted(graph.reached())
    codes = [graph.blocks[number] for number in numbers]
    ours = _rows(map(_of_code, codes))
    predicated = _rows(_of_code([x for x in code if x.predicated]) for code in codes) @ _WEIGHTS
    place = {number: i for i, number in enumerate(numbers)}
    for part, whole in _parts(graph, numbers).items():
        for rows in (ours, predicated):
            rows[place[whole]] += rows[place[part]]
            rows[place[part]] = 0
    # A number for each group of blocks that are entered equally often, and for each other block.
    group = {block: -block for block in numbers}
    group |= {block: number for number, same in enumerate(graph.alike, 1) for block in same}
    found = _matched(
        ours,
        predicated,
        theirs,
        jumped,
        [times[k] for k in places],
        lines[0].warps,
        [group[block] for block in numbers],
        [{group[other] for other in graph.as_often[block]} for block in numbers],
        [[place[other] for other in graph.beside[block]] for block in numbers],
    )
    # The compiler moves code between blocks that are entered equally often, and what is never
    # entered counts nothing, however much of it was dropped.
    groups: defaultdict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    left = {k for k, place in enumerate(places) if times[place]}
    for i, number in enumerate(numbers):
        groups[group[number]][0].append(i)
        groups[group[number]][1].extend(found.get(i, ()))
        left.difference_update(found.get(i, ()))
    for k in [
        *left
    ]:  # nor has PTX a block of its own then, if the compiler spread it over a group's
        around = [
            blocks
            for _, blocks in groups.values()
            if blocks
            and min(blocks) < k < max(blocks)
            and max(times[places[i]] for i in blocks) == times[places[k]]
        ]
        if around:
            min(around, key=lambda blocks: max(blocks) - min(blocks)).append(k)
            left.remove(k)
    both, every = 0.0, float(theirs[[*left]].sum(axis=0) @ _WEIGHTS)
    for mine, blocks in groups.values():
        if not blocks or any(times[places[k]] for k in blocks):
            own, other = ours[mine].sum(axis=0), theirs[blocks].sum(axis=0)
            both += float(np.minimum(own, other) @ _WEIGHTS)
            every += float((own + other) @ _WEIGHTS)
    return Matching(
        {numbers[i]: max(times[places[k]] for k in blocks) for i, blocks in found.items()},
        {numbers[i]: n for i, n in _most(found, len(numbers), times, places).items()},
        1 - 2 * both / max(every, 1.0),
    )


def _parts(graph: BlockGraph, numbers: Sequence[int]) -> dict[int, int]:
    """Return blocks that are one block of PTX with one before them, and which that is.

    A division calls a subroutine for numbers that are far from one, and goes on behind the call.
    """
    whole: dict[int, int] = {}
    for before, call, part in zip(numbers, numbers[1:], numbers[2:], strict=False):
        calls = any(x.stem == "CALL" for x in graph.blocks[call])
        around = graph.after[before] == (call, part) and graph.after[call] == (part,)
        if calls and around and not any(_of_code(graph.blocks[call])):
            whole[part] = whole.get(before, before)
    return whole


def _rows(counts: Iterable[Sequence[float]]) -> _Array:
    return np.array([*counts], dtype=float).reshape(-1, len(_KINDS))


def _places(rows: _Array) -> _Array:
    """Return which part of a code lies before each of its blocks."""
    sizes = rows @ _WEIGHTS
    found: _Array = (np.cumsum(sizes) - sizes) / max(float(sizes.sum()), 1.0)
    return found


def _of_ptx(
    lines: Sequence[ExecutedLine],
) -> tuple[_Array, list[int], list[int], npt.NDArray[np.bool_]]:
    """Return what each block of PTX has that has anything; how often warps entered every block.

    Then the numbers of the former among all, and whether a branch is right before each of them.
    """
    found: list[tuple[Counter[str], int]] = []
    jumped = []
    last = ""
    for line in lines:
        if line.name == "block":
            found.append((Counter(), line.warps))
            jumped.append(last.startswith("bra"))
        elif kind := _kind_of_ptx(line.name):
            found[-1][0][kind] += 1
            found[-1][0]["double"] += _OF_RECIPROCAL * line.name.startswith("rcp.rn.f64")
        last = line.name
    places = [i for i, (block, _) in enumerate(found) if block]
    rows = [[found[i][0][kind] for kind in _KINDS] for i in places]
    return _rows(rows), [times for _, times in found], places, np.array(jumped, dtype=bool)[places]


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
    stems.update(".".join(x.opcode.split(".")[:2]) for x in block if x.stem == "MUFU")
    stems["FMNMX"] += stems["FMNMX3"]  # a maximum of three is two
    return [float(sum(stems[stem] for stem in opcodes)) for _, opcodes, _ in _KINDS.values()]


def _matched(
    ours: _Array,
    predicated: _Array,
    theirs: _Array,
    jumped: npt.NDArray[np.bool_],
    times: Sequence[int],
    warps: int,
    groups: Sequence[int],
    as_often: Sequence[Set[int]],
    beside: Sequence[Collection[int]],
) -> dict[int, tuple[int, ...]]:
    """Return which neighbouring ones of their blocks belong to each of ours, if any do.

    Those that have most in common, and least apart, come first. Of several blocks of PTX that one
    has become, those that a branch may jump over, and those that are entered less often, have
    predicates there. Of several pairs that are alike, the one that is at about the same place in
    both codes comes first. No block is entered more often than one that is always entered too, nor
    are the ways of a branch together.

    Parameters
    ----------
    ours, theirs : array
        A row for each block, a column for each kind.
    predicated : array
        How much of each of our blocks has a predicate.
    jumped : array
        Whether a branch is right before each of their blocks.
    times : sequence of int
        How often warps entered their blocks.
    warps : int
        How often they entered the first of ours.
    groups : sequence of int
        The group of each of our blocks; those of a group are entered equally often.
    as_often : sequence of sets of int
        The groups that are entered at least as often as each of our blocks.
    beside : sequence of collections of int
        The other ways of the branch that each of our blocks is a way of.
    """
    places, passed = _places(theirs), _places(ours)
    pairs: list[tuple[float, int, tuple[int, ...]]] = []
    # Neighbours, and neighbours but for blocks that no warp entered.
    for chosen in (range(len(theirs)), [i for i, n in enumerate(times) if n]):
        some = theirs[chosen]
        sizes, place = some @ _WEIGHTS, places[chosen]
        total = np.vstack([np.zeros(some.shape[1]), some.cumsum(axis=0)])
        often = np.array(times)[chosen]
        same, most = sizes, often  # of those that are entered most, how much and how often
        skips = jumped[chosen] | (np.diff(chosen, prepend=-1) > 1)
        after_jumps = np.append(0.0, (sizes * skips).cumsum())
        for joined in range(1, min(_MOST_JOINED, len(some)) + 1):
            if joined > 1:
                most, last = most[:-1], often[joined - 1 :]
                same = same[:-1] * (most >= last) + sizes[joined - 1 :] * (last >= most)
                most = np.maximum(most, last)
            part = total[joined:] - total[:-joined]
            size = part @ _WEIGHTS
            # Of several the first may have been jumped over, or be what the others became part of.
            first = np.diff(after_jumps)[: len(size)] * (joined > 1)
            held = np.maximum(
                after_jumps[joined:] - after_jumps[1 : len(some) - joined + 2], size - same
            )
            for number, block in enumerate(ours):
                apart = np.abs(part - block) @ _WEIGHTS
                has = predicated[number]
                apart += 0.4 * np.abs(has - np.clip(has, held, held + first))
                gain = size + block @ _WEIGHTS - 4 * apart
                likely = np.flatnonzero(gain + 2 * apart > 0)
                # With 2 or more, a part in the wrong order finds nothing that it has.
                gain -= 1.9 * size * np.abs(place[: len(size)] - passed[number])
                pairs.extend((float(gain[i]), number, (*chosen[i : i + joined],)) for i in likely)
    pairs.sort(key=lambda pair: (-pair[0], len(pair[2])))
    found: dict[int, tuple[int, ...]] = {}
    taken: set[int] = set()
    said = {groups[0]: warps}  # how often groups are entered
    least: dict[int, int] = {}  # how often at least, by those that are not entered more often
    sizes = ours @ _WEIGHTS
    alone = Counter(groups)
    for _, number, blocks in pairs:
        if number in found or not taken.isdisjoint(blocks):
            continue
        entered, group = max(times[i] for i in blocks), groups[number]
        if any(entered > said.get(other, entered) for other in as_often[number]):
            continue
        ways = [way for way in beside[number] if way in found]
        either = entered + sum(max(times[i] for i in found[way]) for way in ways)
        around = {other for way in ways for other in as_often[number] & as_often[way]}
        if any(either > said.get(other, either) for other in around):
            continue
        # Of a barrier alone that PTX jumps over, machine code has a predicate: it may be entered.
        if entered == 0 and ours[number].sum() == ours[number, _BARRIER]:
            if predicated[number]:
                taken.update(blocks)
            continue
        # What has predicates is entered, whether they hold or not.
        never_said = alone[group] == 1 and 2 * predicated[number] > sizes[number]
        if not never_said and not least.get(group, 0) <= entered == said.setdefault(group, entered):
            continue
        for other in as_often[number]:
            least[other] = max(least.get(other, 0), either if other in around else entered)
        found[number] = blocks
        taken.update(blocks)
    return found
