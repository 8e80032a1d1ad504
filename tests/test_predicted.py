"""The table and the picture of predicted speed, and that they say what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cusoftmax.machine_code.chips import Chip
from tests.machine_code.cost_support import need_tools

predicted = pytest.importorskip("benchmarks.predicted")
ROOT = Path(__file__).resolve().parents[1]


def test_chips_of_the_document_are_those_of_the_model() -> None:
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([A-Z].*?) \| (\d.*?) \| (\d.*?) \| (\d.*?) \|$", page, re.M)
    assert set(predicted.CHIPS) < {name for name, *_ in rows} and len(rows) == 8
    for name, *cells in rows:
        chip = Chip.named(name)
        figures = (chip.copy_bandwidth / 1e12, chip.l2_bandwidth / 1e12, chip.latency)
        sources = (chip.copy_bandwidth, chip.l2_bandwidth, chip.latency)
        for cell, value, source, digits in zip(cells, figures, sources, (2, 1, 0), strict=True):
            assert cell == f"{value:.{digits}f}" + ", assumed" * source.assumed


def test_a_case_is_predicted() -> None:
    need_tools()
    case = predicted.Case("softmax", "float16", 4096, "H100")
    found = predicted.predict([case])[case]
    assert 0.5 < found.fraction <= 1 and found.traffic_limit == 1 and found.blocks >= 2


def test_rows_that_are_read_twice_have_a_limit_that_their_traffic_sets() -> None:
    need_tools()
    case = predicted.Case("softmax", "float64", 1 << 17, "A100")
    found = predicted.predict([case])[case]
    assert found.fraction <= found.traffic_limit < 0.8


def test_the_table_gives_fractions_and_reasons() -> None:
    fast, slow, twice = (predicted.Case("softmax", "float32", n, "A100") for n in (1, 2, 3))
    found = {
        fast: predicted.Prediction(0.97, "memory", 8, 1.0),
        slow: predicted.Prediction(0.41, "phases", 1, 1.0),
        twice: predicted.Prediction(0.66, "memory", 2, 0.67),
    }
    table = predicted.table("softmax", [1, 2, 3], ["float32"], ["A100"], found)
    assert predicted.STAMP in str(table.title)
    assert [*table.columns[1].cells] == ["0.97", "0.41", "0.66"]
    assert [*predicted.reasons(found)] == [
        "softmax float32 2 A100: 0.41, resident blocks (1)",
        "softmax float32 3 A100: 0.66, memory bandwidth; its traffic allows 0.67",
    ]


@pytest.mark.parametrize(
    ("row_bytes", "access", "sectors"),
    [
        (4096, 16, 128),  # rows that start at a sector
        (4096, 2, 128),
        (2002, 2, 2002 / 32 + 32 * 15 / 16),  # 1001 float16 elements, 64 bytes a warp
        (2000, 16, 2000 / 32 + 4 * 1 / 2),  # half of the rows start at a sector
        (66, 2, 66 / 32 + 2 * 15 / 16),
    ],
)
def test_sectors_of_a_peers_row(row_bytes: int, access: int, sectors: float) -> None:
    peer_cost = pytest.importorskip("benchmarks.static.peer_cost")
    assert peer_cost.sectors_touched(row_bytes, access) == pytest.approx(sectors)
