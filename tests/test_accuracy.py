"""The table of worst errors, and another checkout's beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import accuracy


def test_numbers_of_another_checkout_stand_beside_these(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    written, older = tmp_path / "now.json", tmp_path / "before.json"
    monkeypatch.setattr(accuracy, "DTYPES", ("float32",))
    monkeypatch.setattr(accuracy, "QUICK_LENGTHS", {7: 4, 128: 2})
    monkeypatch.setattr("sys.argv", ["", "--quick", "--json", str(written)])
    assert accuracy.main() == 0
    found = json.loads(written.read_text())
    assert {(r["op"], r["n"]) for r in found} == {(op, n) for op in accuracy.OPS for n in (7, 128)}
    assert "before" not in capsys.readouterr().out
    changed = [r | {"error": {"cusoftmax": 42.125}} for r in found if r["n"] == 7]
    older.write_text(json.dumps(changed))
    monkeypatch.setattr("sys.argv", ["", "--quick", "--before", str(older)])
    assert accuracy.main() == 0
    shown = capsys.readouterr().out
    assert shown.count("42.125") == shown.count("not measured") == len(accuracy.OPS)
