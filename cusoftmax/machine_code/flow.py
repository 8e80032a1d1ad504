"""The path of a warp through machine code, and how often each instruction on it runs.

The code is divided into basic blocks, and jumps back are loops. The path is the longest one from
the entry to an exit, with each loop repeated as often as the caller says. Subroutines (the slow
path of a division) and the code for diverged warps are not on the path.

If the caller knows how often warps enter each block (`entered`), each counts with the share of its
loop's rounds that enter it: blocks that ordinary rows never enter are left out, and those that are
entered beside the path, such as that for a chunk cut short by the row's end, count too. Otherwise
the longer one of two branches counts.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from cusoftmax.machine_code.opcodes import INSTRUCTION_BYTES, Instruction

Path = list[tuple[Instruction, float]]  # in order, and how often each runs

_TARGET = re.compile(r"0x([0-9a-f]+)")
_CONDITION = re.compile(r"\s*!?U?P\d")


@dataclass
class Loop:
    """A loop: the block it starts with, its blocks, the loop around it and those inside it."""

    header: int
    blocks: set[int]
    parent: Loop | None = None
    children: list[Loop] = field(default_factory=list)
    opcodes: Counter[str] = field(default_factory=Counter)  # of all its blocks, with modifiers
    once: Counter[str] = field(
        default_factory=Counter
    )  # on the path of one round, without inner loops

    def has(self, prefix: str) -> bool:
        """Whether an opcode in the loop or in an inner one starts with `prefix`."""
        return any(opcode.startswith(prefix) for opcode in self.opcodes)

    def per_round(self, prefix: str) -> int:
        """How many opcodes of one round, without inner loops, start with `prefix`."""
        return sum(n for opcode, n in self.once.items() if opcode.startswith(prefix))

    @property
    def depth(self) -> int:
        """How many loops are around it."""
        return 0 if self.parent is None else 1 + self.parent.depth


LoopCounts = Callable[[Loop], float | None]
BlocksEntered = Callable[["BlockGraph"], Mapping[int, float]]


@dataclass(frozen=True)
class Walk:
    """A warp's way through a kernel's code.

    Attributes
    ----------
    path : list of (Instruction, float)
        The longest path.
    beside : list of (Instruction, float)
        What is executed too, sometimes instead of a part of the path.
    loops : tuple of Loop
        All loops.
    unknown : int
        How many of them have an unknown length.
    waits : float
        How often a warp waits for memory, over how often the path says so: where the number of
        instructions is known otherwise, it waits as often as it loads.
    """

    path: Path
    beside: Path
    loops: tuple[Loop, ...]
    unknown: int
    waits: float = 1.0

    @property
    def executed(self) -> Path:
        """All that is executed."""
        return [*self.path, *self.beside]

    def with_totals(self, totals: Mapping[str, float]) -> Walk:
        """Return the same way with as many instructions as `totals` has.

        Parameters
        ----------
        totals : mapping of str to float
            By stem, such as ``"SHFL"``; those of all others under ``""``, with which such count
            that this way has none of.
        """
        made: defaultdict[str, float] = defaultdict(float)
        for line, weight in self.executed:
            made[line.stem if line.stem in totals else ""] += weight
        wanted = {stem: total for stem, total in totals.items() if made[stem]}
        wanted[""] = sum(totals.values()) - sum(n for stem, n in wanted.items() if stem)
        factors = {stem: wanted.get(stem, 0.0) / (made[stem] or 1.0) for stem in made}
        path, beside = (
            [(x, n * factors[x.stem if x.stem in totals else ""]) for x, n in part]
            for part in (self.path, self.beside)
        )
        waits = factors.get("LDG", 1.0) / (factors.get("", 1.0) or 1.0)
        return Walk(path, beside, self.loops, 0, waits)


def walk(
    code: Sequence[Instruction],
    loop_counts: LoopCounts,
    base: int = 0,
    entered: BlocksEntered | None = None,
) -> Walk:
    """Return a warp's way through the code.

    Parameters
    ----------
    code : sequence of Instruction
        In order of address.
    loop_counts : callable
        Returns the rounds of a `Loop`, or None if they are unknown: it then runs as often as warps
        entered its blocks, or, where that is unknown too, counts as one round and in
        `Walk.unknown`.
    base : int
        Address of the first instruction: jumps name their target by address.
    entered : callable, optional
        Returns how often a warp enters each block, by number, as far as that is known.
    """
    graph = BlockGraph(code, base)
    roots = graph.loops()
    unknown = 0

    def rounds(loop: Loop) -> float:
        nonlocal unknown
        said = loop_counts(loop)
        if said is None and loop.header in counted:
            around = counted.get(loop.parent.header, 0.0) if loop.parent else 1.0
            said = counted[loop.header] / around if around else 0.0
        unknown += said is None
        return 1.0 if said is None else said

    shares, counted = _shares(graph, roots, entered(graph)) if entered else ({}, {})
    path, beside = _LongestPath(graph, rounds, shares).whole(roots)
    return Walk(path, beside, tuple(_flattened(roots)), unknown)


def _flattened(loops: Sequence[Loop]) -> list[Loop]:
    return [loop for root in loops for loop in (root, *_flattened(root.children))]


def _by_flow(
    block: int,
    near: Sequence[int],
    far_of: Mapping[int, Sequence[int]],
    near_of: Mapping[int, Sequence[int]],
    found: Mapping[int, float],
) -> float | None:
    """Return how often a block is entered, from the blocks on one side of it, if those say so."""
    if near and all(other in found and len(far_of[other]) == 1 for other in near):
        return sum(found[other] for other in near)
    if len(near) != 1 or near[0] not in found:
        return None
    rest = [other for other in far_of[near[0]] if other != block]
    if any(other not in found or len(near_of[other]) > 1 for other in rest):
        return None
    return max(0.0, found[near[0]] - sum(found[other] for other in rest))


def _always_before(before: Mapping[int, Sequence[int]], starts: Collection[int]) -> dict[int, int]:
    """Return, as the bits of a number, the blocks on every way to each block, itself among them.

    Ways begin at `starts`.
    """
    every = sum(1 << block for block in before)
    found = {block: 1 << block if block in starts else every for block in before}
    changed = True
    while changed:
        changed = False
        for block in before:
            if block not in starts:
                common = every
                for other in before[block]:
                    common &= found[other]
                common |= 1 << block
                changed |= common != found[block]
                found[block] = common
    return found


def _shares(
    graph: BlockGraph, roots: Sequence[Loop], entered: Mapping[int, float]
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the part of the rounds of the loop around it, or of all warps, that enter a block.

    And the rounds of each loop, by header, if a block of its own says how many.
    """
    shares: dict[int, float] = {}
    counted: dict[int, float] = {}

    def note(blocks: set[int], loops: Sequence[Loop], header: int | None) -> None:
        own = blocks.difference(*(loop.blocks for loop in loops))
        times = {block: entered[block] for block in own if block in entered}
        rounds = max((n for block, n in times.items() if block != header), default=0.0)
        if header is None:
            rounds = 1.0
        elif header in times:  # it may be entered once more, to leave the loop
            rounds = min(rounds or times[header], times[header])
        if header is not None and times:
            counted[header] = rounds
        shares.update({b: min(1.0, n / rounds) if rounds else 0.0 for b, n in times.items()})
        for loop in loops:
            note(loop.blocks, loop.children, loop.header)

    note(set(range(len(graph.blocks))), roots, None)
    return shares, counted


class BlockGraph:
    """The basic blocks in order of address, and which may follow each."""

    def __init__(self, code: Sequence[Instruction], base: int) -> None:
        jumps = [self._next(i, code[i], len(code), base) for i in range(len(code))]
        starts = {0}
        for i, to in enumerate(jumps):
            if to != (i + 1,):
                starts.update(to)
                starts.add(i + 1)
        bounds = [*sorted(s for s in starts if s < len(code)), len(code)]
        self.blocks = [tuple(code[a:b]) for a, b in pairwise(bounds)]
        number = {start: i for i, start in enumerate(bounds)}
        self.after = [
            tuple(number[to] for to in jumps[end - 1] if to < len(code)) for end in bounds[1:]
        ]

    def reached(self) -> set[int]:
        """Return the blocks that a warp may enter."""
        found: set[int] = set()
        todo = [0]
        while todo:
            block = todo.pop()
            if block not in found:
                found.add(block)
                todo.extend(self.after[block])
        return found

    def completed(self, entered: Mapping[int, float]) -> dict[int, float]:
        """Add how often other blocks are entered, as far as the branches around them say so.

        Blocks that are `alike` are entered equally often. Else what enters a block comes from those
        before it and goes to those after it. A block that is said to be entered less often than
        those that lead to it alone has instructions with predicates that did not hold.
        """
        before, after = self._neighbours
        found = {**entered, 0: 1.0}
        for block in before:
            alone = sum(found.get(other, 0.0) for other in before[block] if after[other] == [block])
            if block in found:
                found[block] = max(found[block], alone)
        while True:
            known = len(found)
            for same in self.alike:
                said = [found[block] for block in same if block in found]
                if said:
                    found.update(dict.fromkeys(same, max(said)))
            for block in before:
                if block not in found:
                    for near, far in ((before, after), (after, before)):
                        times = _by_flow(block, near[block], far, near, found)
                        if times is not None:
                            found[block] = times
                            break
                        if near[block] and not any(found.get(other, 1.0) for other in near[block]):
                            found[block] = 0.0
                            break
            if len(found) == known:
                return found

    def by_inner(self, found: Mapping[int, float]) -> dict[int, float]:
        """Return how often blocks are entered, as often as the one entered most that they lead to.

        Of those that no other way leads to: a condition around others, that is often all that such
        a block has.
        """
        before, _ = self._neighbours
        always = _always_before(before, [0])
        return {
            block: max(times)
            for block in before
            if (times := [found[inner] for inner in found if always[inner] >> block & 1])
        }

    def at_most(self, found: Mapping[int, float], most: Mapping[int, float]) -> dict[int, float]:
        """Return how often at most blocks are entered that are not in `found`, which others are.

        As often as `most` says, and as any that is always entered before or after, and between two
        times.
        """
        every = {**most, **found}
        limits = {
            block: [every[other] for other in (block, *others) if other in every]
            for block, others in self.as_often.items()
            if block not in found
        }
        return {block: min(times) for block, times in limits.items() if times}

    def all_loops(self) -> list[Loop]:
        """Return all loops, each before those inside it."""
        return _flattened(self.loops())

    @cached_property
    def _neighbours(self) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
        """The blocks before and after each, of those that a warp may enter."""
        reached = sorted(self.reached())
        after = {block: sorted(set(self.after[block])) for block in reached}
        before: dict[int, list[int]] = {block: [] for block in reached}
        for block in reached:
            for to in after[block]:
                before[to].append(block)
        return before, after

    @cached_property
    def as_often(self) -> dict[int, set[int]]:
        """The blocks that are entered at least as often as each.

        Those that are always entered before or after it, and between two times.
        """
        before, after = self._neighbours
        ends = [block for block in after if not after[block]]
        first, last = _always_before(before, [0]), _always_before(after, ends)
        cyclic = {block for loop in self.all_loops() for block in loop.blocks}

        def returns(block: int, without: int) -> bool:
            if block not in cyclic:
                return False
            seen, todo = {without}, [block]
            while todo and block not in seen:
                new = [to for to in after[todo.pop()] if to not in seen]
                seen.update(new)
                todo.extend(new)
            return block in seen

        return {
            block: {
                other
                for other in before
                if other != block
                and (first[block] | last[block]) >> other & 1
                and not returns(block, other)
            }
            for block in before
        }

    @cached_property
    def beside(self) -> dict[int, list[int]]:
        """The other ways of the branch that each block is a way of, if nothing else leads to them.

        Whatever is entered at least as often as either is entered as often as both together.
        """
        before, after = self._neighbours
        return {
            block: [
                other
                for lead in before[block]
                for other in after[lead]
                if other != block and before[other] == before[block] == [lead]
            ]
            for block in before
        }

    @cached_property
    def alike(self) -> list[list[int]]:
        """Groups of blocks such that a warp that enters one enters the others too, as often."""
        before, after = self._neighbours
        loops = self.all_loops()
        around = {
            block: frozenset(loop.header for loop in loops if block in loop.blocks)
            for block in before
        }
        ends = [block for block in after if not after[block]]
        first, last = _always_before(before, [0]), _always_before(after, ends)
        groups: list[list[int]] = []
        done: set[int] = set()
        for block in before:
            if block not in done:
                group = [
                    other
                    for other in before
                    if around[other] == around[block]
                    and (first[other] >> block & 1 and last[block] >> other & 1)
                ]
                done.update(group)
                groups.append(group)
        return [group for group in groups if len(group) > 1]

    @staticmethod
    def _next(i: int, instruction: Instruction, size: int, base: int) -> tuple[int, ...]:
        """Return the numbers of the instructions that may follow the i-th."""
        stem, operands = instruction.stem, instruction.operands
        conditional = instruction.predicated or bool(_CONDITION.match(operands))
        if stem in ("EXIT", "RET", "KILL", "BRX", "JMX"):
            return (i + 1,) if conditional else ()
        # An unconditional call returns. A conditional one is used as a jump.
        if stem not in ("BRA", "JMP", "CALL") or (stem == "CALL" and not conditional):
            return (i + 1,)
        if ".DIV" in instruction.opcode:  # taken only by diverged warps
            return (i + 1,)
        found = _TARGET.findall(operands)
        to = (int(found[-1], 16) - base) // INSTRUCTION_BYTES if found else i + 1
        if not 0 <= to < size:
            return (i + 1,)
        return (i + 1, to) if conditional else (to,)

    def loops(self) -> list[Loop]:
        """Return the outermost loops, found by a depth-first search for jumps back."""
        state: dict[int, int] = {}  # 1: on the current path of the search, 2: done
        back: list[tuple[int, int]] = []
        stack: list[tuple[int, int]] = [(0, 0)]
        while stack:
            block, place = stack.pop()
            state[block] = 1
            if place == len(self.after[block]):
                state[block] = 2
                continue
            stack.append((block, place + 1))
            to = self.after[block][place]
            if state.get(to) == 1:
                back.append((block, to))
            elif to not in state:
                stack.append((to, 0))
        before: dict[int, list[int]] = {}
        for block in state:
            for to in self.after[block]:
                before.setdefault(to, []).append(block)
        found: dict[int, Loop] = {}
        for latch, header in back:
            loop = found.setdefault(header, Loop(header, {header}))
            todo = [latch]
            while todo:
                block = todo.pop()
                if block not in loop.blocks:
                    loop.blocks.add(block)
                    todo.extend(before.get(block, ()))
        nested = sorted(found.values(), key=lambda loop: len(loop.blocks))
        for i, loop in enumerate(nested):
            for block in loop.blocks:
                loop.opcodes.update(x.opcode for x in self.blocks[block])
            loop.parent = next((x for x in nested[i + 1 :] if loop.blocks <= x.blocks), None)
            if loop.parent:
                loop.parent.children.append(loop)
        return [loop for loop in nested if loop.parent is None]


class _LongestPath:
    """The longest path; inner loops are done first, and then count as one block."""

    def __init__(
        self, graph: BlockGraph, rounds: Callable[[Loop], float], shares: Mapping[int, float]
    ) -> None:
        self.graph, self.rounds, self.shares = graph, rounds, shares

    def whole(self, roots: Sequence[Loop]) -> tuple[Path, Path]:
        return self._longest(0, set(range(len(self.graph.blocks))), roots, None)

    def _round(self, loop: Loop) -> tuple[Path, Path]:
        inner, beside = self._longest(loop.header, loop.blocks, loop.children, loop)
        held = {id(x) for child in loop.children for b in child.blocks for x in self._code(b)}
        loop.once.update(x.opcode for x, _ in inner if id(x) not in held)
        times = self.rounds(loop)
        own = loop.blocks.difference(*(child.blocks for child in loop.children))
        if self.shares and not any(self._share(block) for block in own):
            times = 0.0
        return _times(times, inner), _times(times, beside)

    def _code(self, block: int) -> tuple[Instruction, ...]:
        return self.graph.blocks[block]

    def _share(self, block: int) -> float:
        return self.shares.get(block, 1.0)

    def _longest(
        self, entry: int, blocks: set[int], loops: Sequence[Loop], of: Loop | None
    ) -> tuple[Path, Path]:
        """Return the longest path from `entry`: to an exit, or to a jump back to `of`'s header.

        And the steps of all blocks that are not on it.
        """
        holder = {block: loop for loop in loops for block in loop.blocks}
        first = {id(loop): loop.header for loop in loops}

        def node(block: int) -> int:  # an inner loop is one node, named by its header
            return first[id(holder[block])] if block in holder else block

        within = {loop.header: self._round(loop) for loop in loops}
        paths = {header: path for header, (path, _) in within.items()}
        after: dict[int, set[int]] = {}
        ends: set[int] = set()
        for block in blocks:
            for to in self.graph.after[block]:
                if of is not None and to == of.header:
                    ends.add(node(block))
                elif to in blocks and node(to) != node(block):
                    after.setdefault(node(block), set()).add(node(to))
            if of is None and not self.graph.after[block]:
                ends.add(node(block))
        own = node(entry)
        best: dict[int, tuple[float, int | None]] = {own: (self._cost(own, paths), None)}
        for at in _ordered(own, after):
            for to in after.get(at, ()):
                length = best[at][0] + self._cost(to, paths)
                if to not in best or length > best[to][0]:
                    best[to] = (length, at)
        reached = [end for end in ends if end in best] or list(best)
        at_last: int | None = max(reached, key=lambda end: best[end][0])
        way: list[int] = []
        while at_last is not None and at_last not in way:
            way.append(at_last)
            at_last = best[at_last][1]
        path = [step for block in reversed(way) for step in self._steps(block, paths)]
        beside = [step for header in best if header in within for step in within[header][1]]
        if self.shares:
            others = sorted(best.keys() - way)
            beside += [step for block in others for step in self._steps(block, paths)]
        return path, beside

    def _steps(self, block: int, paths: dict[int, Path]) -> Path:
        if block in paths:
            return paths[block]
        share = self._share(block)
        return [(x, share) for x in self._code(block)]

    def _cost(self, block: int, paths: dict[int, Path]) -> float:
        return sum(weight for _, weight in self._steps(block, paths))


def _times(times: float, steps: Path) -> Path:
    return [(x, weight * times) for x, weight in steps]


def _ordered(entry: int, after: dict[int, set[int]]) -> list[int]:
    """Return the nodes in topological order."""
    done: list[int] = []
    seen = {entry}
    stack = [(entry, iter(sorted(after.get(entry, ()))))]
    while stack:
        at, rest = stack[-1]
        to = next((x for x in rest if x not in seen), None)
        if to is None:
            done.append(at)
            stack.pop()
        else:
            seen.add(to)
            stack.append((to, iter(sorted(after.get(to, ())))))
    return done[::-1]
