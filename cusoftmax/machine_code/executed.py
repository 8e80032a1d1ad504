"""What a few rows executed of a kernel's PTX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ExecutedLine:
    """An instruction of PTX and how often warps executed it.

    Attributes
    ----------
    name : str
        Such as ``"ld.global.v4.f32"``, or ``"block"`` before the instructions of a block.
    warps : int
        How often: as often as the threads of the lane that executed it most.
    """

    name: str
    warps: int


# What machine code has as often as PTX, by how the names of PTX begin.
_SAME = {
    "shfl": "SHFL",
    "ld.global": "LDG",
    "st.global": "STG",
    "ld.shared": "LDS",
    "st.shared": "STS",
    "atom.shared": "ATOMS",
}


def totals_of(lines: Sequence[ExecutedLine]) -> Mapping[str, float]:
    """Return how many instructions a warp executed: those of `_SAME`, under ``""`` the others.

    Machine code has the shuffles and accesses of its PTX, and 0.7 to 1.0 times as many others.
    """
    warps = max(lines[0].warps, 1)
    totals = dict.fromkeys((*_SAME.values(), ""), 0.0)
    for line in lines:
        if line.name != "block":
            stem = next((x for name, x in _SAME.items() if line.name.startswith(name)), "")
            totals[stem] += line.warps / warps
    return totals
