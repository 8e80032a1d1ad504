"""The path of a warp through machine code, and how often each instruction on it runs.

The code is divided into basic blocks, and jumps back are loops. The path is the longest one from
the entry to an exit, with each loop repeated as often as the caller says. Of two branches the
longer one counts: a full chunk, not one cut short by the end of the row. Subroutines (the slow path
of a division) and the code for diverged warps are not on the path.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cusoftmax.machine_code.opcodes import INSTRUCTION_BYTES, Instruction

Path = list[tuple[Instruction, float]]  # in order, and how often each runs

_TARGET = re.compile(r"0x([0-9a-f]+)")
_CONDITION = re.compile(r"\s*!?U?P\d")


@dataclass
class Loop:
    """A loop: the block it starts with, its blocks, the loop around it and those inside it."""

    header: int
    start: int  # the place of its first instruction
    blocks: set[int]
    places: set[int] = field(default_factory=set)  # of its instructions
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


@dataclass(frozen=True)
class Walk:
    """The path through a kernel's code, its loops, and how many of them have an unknown length."""

    path: Path
    loops: tuple[Loop, ...]
    unknown: int


def walk(code: Sequence[Instruction], loop_counts: LoopCounts, base: int = 0) -> Walk:
    """Return the longest path through the code.

    Parameters
    ----------
    code : sequence of Instruction
        In order of address.
    loop_counts : callable
        Returns the rounds of a `Loop`, or None if they are unknown: it then counts as one round,
        and in `Walk.unknown`.
    base : int
        Address of the first instruction: jumps name their target by address.
    """
    graph = _BlockGraph(code, base)
    roots = graph.loops()
    unknown = 0

    def rounds(loop: Loop) -> float:
        nonlocal unknown
        said = loop_counts(loop)
        unknown += said is None
        return 1.0 if said is None else said

    path = _LongestPath(graph, rounds).whole(roots)
    return Walk(path, tuple(_flattened(roots)), unknown)


def _flattened(loops: Sequence[Loop]) -> list[Loop]:
    return [loop for root in loops for loop in (root, *_flattened(root.children))]


class _BlockGraph:
    """The basic blocks in order of address, and which may follow each."""

    def __init__(self, code: Sequence[Instruction], base: int) -> None:
        jumps = [self._next(i, code[i], len(code), base) for i in range(len(code))]
        starts = {0}
        for i, to in enumerate(jumps):
            if to != (i + 1,):
                starts.update(to)
                starts.add(i + 1)
        bounds = [*sorted(s for s in starts if s < len(code)), len(code)]
        self.starts = bounds
        self.blocks = [tuple(code[a:b]) for a, b in pairwise(bounds)]
        number = {start: i for i, start in enumerate(bounds)}
        self.after = [
            tuple(number[to] for to in jumps[end - 1] if to < len(code)) for end in bounds[1:]
        ]

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
            loop = found.setdefault(header, Loop(header, self.starts[header], {header}))
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
                loop.places.update(range(self.starts[block], self.starts[block + 1]))
            loop.parent = next((x for x in nested[i + 1 :] if loop.blocks <= x.blocks), None)
            if loop.parent:
                loop.parent.children.append(loop)
        return [loop for loop in nested if loop.parent is None]


class _LongestPath:
    """The longest path; inner loops are done first, and then count as one block."""

    def __init__(self, graph: _BlockGraph, rounds: Callable[[Loop], float]) -> None:
        self.graph, self.rounds = graph, rounds

    def whole(self, roots: Sequence[Loop]) -> Path:
        return self._longest(0, set(range(len(self.graph.blocks))), roots, None)

    def _round(self, loop: Loop) -> Path:
        inner = self._longest(loop.header, loop.blocks, loop.children, loop)
        held = {id(x) for child in loop.children for b in child.blocks for x in self._code(b)}
        loop.once.update(x.opcode for x, _ in inner if id(x) not in held)
        times = self.rounds(loop)
        return [(x, weight * times) for x, weight in inner]

    def _code(self, block: int) -> tuple[Instruction, ...]:
        return self.graph.blocks[block]

    def _longest(
        self, entry: int, blocks: set[int], loops: Sequence[Loop], of: Loop | None
    ) -> Path:
        """Return the longest path from `entry`: to an exit, or to a jump back to `of`'s header."""
        holder = {block: loop for loop in loops for block in loop.blocks}
        first = {id(loop): loop.header for loop in loops}

        def node(block: int) -> int:  # an inner loop is one node, named by its header
            return first[id(holder[block])] if block in holder else block

        paths = {loop.header: self._round(loop) for loop in loops}
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
        return [step for block in reversed(way) for step in self._steps(block, paths)]

    def _steps(self, block: int, paths: dict[int, Path]) -> Path:
        return paths[block] if block in paths else [(x, 1.0) for x in self._code(block)]

    def _cost(self, block: int, paths: dict[int, Path]) -> float:
        return sum(weight for _, weight in self._steps(block, paths))


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
