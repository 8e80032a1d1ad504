"""The tests' own house: who imports what, and what a failing comparison prints."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from tests.support import check_softmax

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


def test_a_failing_comparison_is_one_short_block(emulated: Any) -> None:
    """And says what ran last of that operation, not what ran since."""
    x = np.zeros((3, 5000), np.float32)
    with emulated.on("sm_80", seed=3):
        y = emulated.asnumpy(cs.softmax(emulated.asarray(x)))
        cs.softmax_vjp(emulated.asarray(y), emulated.asarray(x))
    y[1, 700] *= 1.5
    with pytest.raises(AssertionError) as raised:
        check_softmax(y, x)
    first, *lines = str(raised.value).splitlines()
    assert first.startswith("softmax of float32: ") and first.endswith(" of the bound")
    assert [line.split()[0] for line in lines] == ["plan", "seed", "at", "got", "want", "error"]
    assert lines[:3] == [
        "  plan   block: csm_softmax_block_f32_v4", "  seed   3", "  at     out[1, 700]"
    ]  # fmt: skip
