"""Which room may import which: pyproject.toml has the floors, and docs/design.md describes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

grimp = pytest.importorskip("grimp", reason="import-linter is not installed")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cusoftmax", "benchmarks")
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
(FLOORS,) = (
    [{room.strip() for room in floor.split("|")} for floor in contract["layers"]]
    for contract in CONFIG["tool"]["importlinter"]["contracts"]
    if contract["type"] == "layers"
)  # from the top down


def linted(root: Path) -> tuple[int, str]:
    """Return the exit status and the output of import-linter on a checkout."""
    code = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def room_of(module: str) -> str:
    """Return the room that a module is in: a child of the package, or all of the benchmarks."""
    return ".".join(module.split(".")[: 2 if module.startswith("cusoftmax") else 1])


def faults_of_root(graph: grimp.ImportGraph) -> list[str]:
    """Return the imports that break the rule for ``cusoftmax/__init__.py``, which is on floor 5.

    It cannot be a layer, because it contains the others. It imports from ``functions`` alone, and
    what is above `cusoftmax.machine`, its neighbour on the floor, imports it.
    """
    (own,) = (number for number, floor in enumerate(FLOORS) if "cusoftmax.machine" in floor)
    above = set().union(*FLOORS[:own])
    wrong = [
        f"cusoftmax imports {module}"
        for module in graph.find_modules_directly_imported_by("cusoftmax")
        if room_of(module) != "cusoftmax.functions"
    ]
    wrong += [
        f"{module} imports cusoftmax"
        for module in graph.find_modules_that_directly_import("cusoftmax")
        if room_of(module) not in above
    ]
    return sorted(wrong)


@pytest.fixture
def graph() -> grimp.ImportGraph:
    """Return who imports whom in this checkout, under ``TYPE_CHECKING`` too."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def test_no_import_runs_upwards_or_in_a_circle() -> None:
    status, said = linted(ROOT)
    assert status == 0, said


def test_every_room_has_a_floor(graph: grimp.ImportGraph) -> None:
    rooms = {room_of(module) for module in graph.modules} - {"cusoftmax"}
    assert rooms == set().union(*FLOORS)


def test_the_root_imports_functions_alone_and_only_rooms_above_import_it(
    graph: grimp.ImportGraph,
) -> None:
    assert not faults_of_root(graph)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("cusoftmax", "cusoftmax.planning.plan"),
        ("cusoftmax.functions.explain", "cusoftmax"),
        ("cusoftmax.machine", "cusoftmax"),
    ],
)
def test_a_planted_import_of_the_root_is_found(
    graph: grimp.ImportGraph, importer: str, imported: str
) -> None:
    graph.add_import(importer=importer, imported=imported)
    assert faults_of_root(graph) == [f"{importer} imports {imported}"]


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("planning/plan.py", "import cusoftmax.runtime.launch", "No import runs upwards"),
        ("runtime/source.py", "from cusoftmax import reference", "No import runs upwards"),
        ("planning/plan.py", "from . import planner", "No circle"),
    ],
)
def test_a_planted_import_is_found(tmp_path: Path, file: str, line: str, contract: str) -> None:
    """An upward import, one of a neighbour on the same floor, and a circle within a room.

    They stand under ``TYPE_CHECKING``, which is no way around the rule.
    """
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "cusoftmax" / file).open("a", encoding="utf-8") as planted:
        planted.write(f"\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    {line}\n")
    status, said = linted(tmp_path)
    broken = [text for text in said.splitlines() if text.endswith("BROKEN")]
    assert status == 1 and any(text.startswith(contract) for text in broken), said
