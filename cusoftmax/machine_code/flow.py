"""The path of a warp through machine code, and how often each of its instructions runs.

The code is cut into basic blocks, loops are found by their jumps back, and the path is the longest
one through the code from the entry to an exit, with each loop gone round as often as the caller
says. So of two ways the longer one counts: a chunk that is full, not one cut short by the row's
end. Not on the path are subroutines (slow ways of a division) and the code for diverged warps.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from cusoftmax.machine_code.opcodes import Instruction

Path = list[tuple[Instruction, float]]  # in order, with how often each runs

_TARGET = re.compile(r"0x([0-9a-f]+)")
_CONDITION = re.compile(r"\s*!?U?P\d")
_BYTES = 16  # of an instruction


@dataclass
class Loop:
    """A loop: its header's block, its blocks, what it holds and what holds it."""

    header: int
    blocks: set[int]
    parent: Loop | None = None
    children: list[Loop] = field(default_factory=list)
    opcodes: Counter[str] = field(default_factory=Counter)  # of all its blocks, modifiers included
    once: Counter[str] = field(default_factory=Counter)  # of the path of one round, no inner loops

    def has(self, prefix: str) -> bool:
        """Whether the loop, inner ones included, holds an opcode that starts so."""
        return any(opcode.startswith(prefix) for opcode in self.opcodes)

    def per_round(self, prefix: str) -> int:
        """How many instructions of one round, without inner loops, start so."""
        return sum(n for opcode, n in self.once.items() if opcode.startswith(prefix))

    @property
    def depth(self) -> int:
        """0 for a loop that no other holds."""
        return 0 if self.parent is None else 1 + self.parent.depth


LoopCounts = Callable[[Loop], float | None]


@dataclass(frozen=True)
class Walk:
    """The path through a kernel's code, its loops, and how many of these nobody could weight."""

    path: Path
    loops: tuple[Loop, ...]
    unknown: int


def walk(code: Sequence[Instruction], trips: LoopCounts, base: int = 0) -> Walk:
    """Return the longest path through the code.

    Parameters
    ----------
    code : sequence of Instruction
        In order of address.
    trips : callable
        Rounds of a loop, from the `Loop`; None where unknown, which counts as one and is reported.
    base : int
        Address of the first instruction, as the jumps' operands have it.
    """
    graph = _Graph(code, base)
    roots = graph.loops()
    unknown = 0

    def rounds(loop: Loop) -> float:
        nonlocal unknown
        said = trips(loop)
        unknown += said is None
        return 1.0 if said is None else said

    path = _Walker(graph, rounds).whole(roots)
    return Walk(path, tuple(_all(roots)), unknown)


def _all(loops: Sequence[Loop]) -> list[Loop]:
    return [loop for root in loops for loop in (root, *_all(root.children))]


class _Graph:
    """Basic blocks by number, in order of address, and the jumps between them."""

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

    @staticmethod
    def _next(i: int, instruction: Instruction, size: int, base: int) -> tuple[int, ...]:
        """Return the instructions that may follow one."""
        stem, operands = instruction.stem, instruction.operands
        conditional = instruction.predicated or bool(_CONDITION.match(operands))
        if stem in ("EXIT", "RET", "KILL", "BRX", "JMX"):
            return (i + 1,) if conditional else ()
        # A call without a condition comes back. One with a condition is a jump in disguise.
        if stem not in ("BRA", "JMP", "CALL") or (stem == "CALL" and not conditional):
            return (i + 1,)
        if ".DIV" in instruction.opcode:  # only if the warp has diverged
            return (i + 1,)
        found = _TARGET.findall(operands)
        to = (int(found[-1], 16) - base) // _BYTES if found else i + 1
        if not 0 <= to < size:
            return (i + 1,)
        return (i + 1, to) if conditional else (to,)

    def loops(self) -> list[Loop]:
        """Return the outermost loops, inner ones within, from the jumps back of a search."""
        state: dict[int, int] = {}  # 1: on the search's way, 2: done
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


class _Walker:
    """Longest paths, loop by loop from the inside out."""

    def __init__(self, graph: _Graph, rounds: Callable[[Loop], float]) -> None:
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

        def node(block: int) -> int:  # a loop is one node, by its header
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
    """Return nodes in an order in which each comes after those that lead to it."""
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
