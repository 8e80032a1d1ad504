"""What a type checker says of scripts that use the package."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_overloads

import pytest

import cusoftmax as cs
from cusoftmax.compat import scipy

ROOT = Path(__file__).resolve().parents[1]
TYPED = ROOT / "tests" / "typed"


def checked(script: str) -> subprocess.CompletedProcess[str]:
    """Return what ``mypy --strict`` says of a script, with the package of this checkout."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    command = [sys.executable, "-m", "mypy", "--config-file", str(TYPED / "mypy.ini")]
    return subprocess.run(
        [*command, str(TYPED / script)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_users_script() -> None:
    done = checked("user_script.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_mistakes_are_found() -> None:
    lines = (TYPED / "wrong_script.py").read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    said = checked("wrong_script.py").stdout
    found = {int(line.split(":")[1]) for line in said.splitlines() if ": error:" in line}
    assert found == wrong, said


@pytest.mark.parametrize("function", [cs.logsumexp, cs.cross_entropy, scipy.logsumexp])
def test_overloads_name_every_parameter(function: Any) -> None:
    names = list(inspect.signature(function).parameters)
    overloads = get_overloads(function)
    assert len(overloads) > 2
    for overload in overloads:
        assert list(inspect.signature(overload).parameters) == names
