"""`python -m benchmarks.same_bits`: a part of it, a difference that it must see, and its record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import same_bits
from cusoftmax import nodes
from cusoftmax.operations.dtypes import FLOATS

RECORD = Path(__file__).resolve().parents[1] / "docs" / "same_bits.txt"
PART = ["--op", "logsumexp", "--dtype", "float32"]


def test_all_ways_have_the_bits_of_one_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert same_bits.main(PART) == 0
    line, last = capsys.readouterr().out.splitlines()[2:]
    assert re.match(r"logsumexp +float32 +[0-9a-f]{16}  4 of 4    3 of 3 ", line)
    assert re.fullmatch(r"(\d+) of \1 have the bits of one device", last)


def test_a_difference_of_one_bit_is_seen(
    device: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    apply = nodes.apply

    def wrong(*given: Any, **options: Any) -> Any:
        found = device.asnumpy(apply(*given, **options))
        found.view(np.uint32)[-1] ^= 1
        return device.asarray(found)

    monkeypatch.setattr(nodes, "apply", wrong)
    assert same_bits.main(PART) == 1
    said = capsys.readouterr().out
    assert "DIFFER: 2 pieces; 3 pieces; 4 pieces; 7 pieces; streamed with device_bytes=" in said


def test_values_of_rows_that_pieces_do_not_share_are_a_difference() -> None:
    whole = (np.zeros(same_bits.ROWS),)
    assert same_bits.digest(same_bits.joined([whole, whole], whole)) == same_bits.digest(whole)
    other = (np.array([0.0, -0.0, 0.0]),)
    assert same_bits.digest(same_bits.joined([whole, other], whole)) != same_bits.digest(whole)


def test_the_record_has_every_operation_and_says_that_all_agree() -> None:
    *lines, last = RECORD.read_text(encoding="utf-8").splitlines()[2:]
    found = [tuple(line.split()[:2]) for line in lines]
    renew = (
        "renew it, with the extras dask and mpi: python -m benchmarks.same_bits > " + RECORD.name
    )
    assert {*found} >= {(op, dtype) for op in nodes.OPERATIONS for dtype in FLOATS}, renew
    assert re.fullmatch(r"(\d+) of \1 have the bits of one device", last), renew
    assert not any("DIFFER" in line for line in lines), renew
