"""Rounds of loops that depend on the data, from how often a kernel's PTX was executed.

The compiler's PTX has the loops of its machine code, nested in the same way and with the same kinds
of accesses, shuffles and barriers in them. A loop of the machine code gets the rounds of the loop
of PTX that it came from, fewer if it was unrolled further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cusoftmax.machine_code.flow import Loop, walk
from cusoftmax.machine_code.opcodes import INSTRUCTION_BYTES, Instruction

# What PTX and machine code have in common: the names of PTX as machine code has them.
_OPCODES = {
    "ld.global": "LDG",
    "cp.async.cg": "LDGSTS",
    "st.global": "STG",
    "ld.shared": "LDS",
    "st.shared": "STS",
    "st.shared::cluster": "ST",
    "shfl.sync.bfly": "SHFL.BFLY",
    "shfl.sync.idx": "SHFL.IDX",
    "vote.sync": "VOTE",
    "bar.sync": "BAR",
    "ex2.approx": "MUFU.EX2",
    "bra": "BRA",
    "ret": "EXIT",
}


@dataclass(frozen=True)
class ExecutedLine:
    """An instruction of PTX and how often threads executed it.

    Attributes
    ----------
    name : str
        Such as ``"ld.global.v4.f32"``.
    guarded : bool
        Whether it is executed only where a predicate holds.
    target : int or None
        Of a branch: the place of the instruction that it goes to.
    times : int
        How often, by all threads.
    warps : int
        How often by warps: as often as by the threads of the lane that executed it most.
    """

    name: str
    guarded: bool
    target: int | None
    times: int
    warps: int = 0


def counted_rounds(
    code: Sequence[Instruction], base: int, lines: Sequence[ExecutedLine]
) -> Mapping[int, float]:
    """Return the rounds of loops of machine code, by `Loop.header`.

    Parameters
    ----------
    code, base
        As of `flow.walk`.
    lines : sequence of ExecutedLine
        The same kernel's PTX, in order.

    Returns
    -------
    mapping of int to float
        For each round of the loop around, how often the longest path through a round of the loop
        was executed: on average, by its accesses, shuffles and barriers, as parts of a round may be
        left out. Of loops for which none of PTX is found, nothing.
    """
    made = [_as_machine_code(line) for line in lines]
    ptx = walk(made, lambda _: None)
    rounds: dict[int, float] = {}

    def match(found: Sequence[Loop], among: Sequence[Loop], around: float) -> None:
        rest = sorted(among, key=lambda loop: loop.start)
        for loop in sorted(found, key=lambda loop: loop.start):
            same = next((other for other in rest if _kinds(other) == _kinds(loop)), None)
            if same is None:
                continue
            rest.remove(same)
            # Rows: the loop of the plan's rounds, of which none is left out.
            times = lines[same.start].times if loop.parent is None else _times(loop, same)
            rounds[loop.header] = times / around if around else 0.0
            match(loop.children, same.children, times)

    def _times(loop: Loop, same: Loop) -> float:
        """Return how often the path through a round of `loop` is executed."""
        anchors = sum(loop.per_round(kind) for kind in _KINDS)
        if not anchors:
            return lines[same.start].times
        own = same.places.difference(*(child.places for child in same.children))
        return sum(lines[at].times for at in own if made[at].opcode.startswith(_KINDS)) / anchors

    roots = [loop for loop in walk(code, lambda _: None, base).loops if loop.parent is None]
    match(roots, [loop for loop in ptx.loops if loop.parent is None], lines[0].times)
    return rounds


def _as_machine_code(line: ExecutedLine) -> Instruction:
    parts = line.name.split(".")
    known = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    opcode = next((_OPCODES[name] for name in known if name in _OPCODES), "PTX")
    target = "" if line.target is None else f"0x{line.target * INSTRUCTION_BYTES:x}"
    return Instruction(line.guarded, opcode, target)


_KINDS = ("LDG", "STG", "LDS", "STS", "SHFL.BFLY", "SHFL.IDX", "VOTE", "BAR", "MUFU.EX2")


def _kinds(loop: Loop) -> frozenset[str]:
    return frozenset(kind for kind in _KINDS if loop.has(kind))
