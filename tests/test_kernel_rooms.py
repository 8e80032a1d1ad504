"""The folders of the kernels are rooms on floors: no file includes one on a floor above its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cusoftmax.runtime.source import UNIT, kernel_root

# From the bottom up. Rooms on one floor do not include each other.
FLOORS = (
    ("machine",),
    ("numeric",),
    ("reduce",),
    ("select", "logits"),
    ("ops", "patterns"),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# On a CPU it stands for machine/platform.cuh, and lies with the emulator.
EMULATOR = "cuda_host.h"


def includes(root: Path) -> dict[str, list[str]]:
    """Return what each kernel header includes."""
    line = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)
    return {
        header.relative_to(root).as_posix(): line.findall(header.read_text(encoding="utf-8"))
        for header in sorted(root.rglob("*.cuh"))
    }


def faults(included: dict[str, list[str]]) -> list[str]:
    """Return what is wrong with the includes of headers, in words."""
    found = []
    for header, names in included.items():
        room = header.split("/")[0]
        if room not in FLOOR:
            found.append(f"{header} is in none of the rooms {', '.join(FLOOR)}")
            continue
        for name in names:
            other = name.split("/")[0]
            if (header, name) == ("machine/platform.cuh", EMULATOR):
                continue
            if name not in included:
                found.append(f"{header} includes {name}, which is no header of the kernels")
            elif other != room and FLOOR.get(other, len(FLOORS)) >= FLOOR[room]:
                found.append(f"{header} includes {name}, which is not on a floor below it")
    return found + [f"circle: {' > '.join(circle)}" for circle in circles(included)]


def circles(included: dict[str, list[str]]) -> list[list[str]]:
    """Return the paths along includes that come back to where they began."""
    found: list[list[str]] = []
    done: set[str] = set()

    def follow(header: str, path: list[str]) -> None:
        if header in path:
            found.append([*path[path.index(header) :], header])
        elif header not in done:
            for name in included.get(header, ()):
                follow(name, [*path, header])
            done.add(header)

    for header in included:
        follow(header, [])
    return found


def test_no_include_runs_upwards_or_in_a_circle() -> None:
    included = includes(kernel_root())
    assert {header.split("/")[0] for header in included} == set(FLOOR)
    assert faults(included) == []


def test_only_the_unit_includes_by_macro() -> None:
    by_macro = [
        path.relative_to(kernel_root()).as_posix()
        for path in kernel_root().rglob("*.cu*")
        if re.search(r"^\s*#\s*include\s+[^\"<\s]", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert by_macro == [UNIT]


@pytest.mark.parametrize(
    ("header", "name", "fault"),
    [
        ("numeric/exp.cuh", "reduce/node.cuh", "not on a floor below"),
        ("select/keys.cuh", "logits/logit.cuh", "not on a floor below"),
        ("patterns/block.cuh", "ops/softmax.cuh", "not on a floor below"),
        ("numeric/double_word.cuh", "numeric/exp.cuh", "circle"),
        ("machine/config.cuh", "cuda_host.h", "no header"),
        ("core/tile.cuh", "machine/config.cuh", "in none of the rooms"),
    ],
)
def test_a_planted_include_is_found(header: str, name: str, fault: str) -> None:
    included = includes(kernel_root())
    included[header] = [*included.get(header, ()), name]
    assert any(fault in found for found in faults(included))
