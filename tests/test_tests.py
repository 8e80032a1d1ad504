"""The tests' own house: who imports what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent


def imported(path: Path) -> Iterator[str]:
    """Yield the full names of the modules, and of what is taken from them, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_a_module_has_one_name_and_no_test_module_is_imported() -> None:
    """Two names for a module are two modules, with two caches."""
    alone = {p.stem for p in TESTS.rglob("*.py") if p.stem != "__init__"}
    for path in TESTS.rglob("*.py"):
        for name in imported(path):
            words = name.split(".")
            assert words[0] not in alone, f"{path} imports {name}; its name begins with tests."
            assert words[0] != "tests" or not any(w.startswith("test_") for w in words), (
                f"{path} imports {name}, which is a test module: move what is shared to support"
            )
