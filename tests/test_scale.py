"""docs/scale.md says what the command prints, and its formulas are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import scale
from cusoftmax import distributed

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_page_shows_what_the_command_prints() -> None:
    printed = "\n".join(scale.lines()).strip("\n")
    assert f"```text\n{printed}\n```" in PAGE, "renew the block from `python -m benchmarks.scale`"


def test_counted_bytes_on_the_page_are_those_of_the_formula() -> None:
    found = re.findall(r"^  (\w+) +counted +(\d+)  formula +(\d+)  to agree (\d+)$", PAGE, re.M)
    functions = ["softmax", "softmax_vjp", "cross_entropy", "topk_softmax", "sample"]
    assert [op for op, *_ in found] == functions
    for op, counted, formula, agreed in found:
        expected = distributed.gathered_bytes(op, scale.ROWS, scale.SIZES, "float32", k=scale.K)
        assert int(counted) == int(formula) == expected and int(agreed) == 16 * len(scale.SIZES)


@pytest.mark.parametrize(
    ("op", "words", "wide", "options"),
    [
        *((op, 4, 4, {}) for op in ("softmax", "log_softmax", "logsumexp", "logsumexp_vjp")),
        ("log_softmax_vjp", 4, 4, {}),
        ("softmax_vjp", 4, 8, {}),
        ("cross_entropy", 5, 5, {}),
        ("cross_entropy_vjp", 5, 5, {}),
        ("cross_entropy", 7, 7, {"smooth": True}),
        ("cross_entropy", 8, 8, {"soft": True}),
        ("cross_entropy", 9, 9, {"smooth": True, "weight": True}),
        ("topk_softmax", 4 + 3 * 5, 4 + 2 * 5, {"k": 5}),
        ("topk_softmax", 3 * 5, 2 * 5, {"k": 5, "normalise": "topk"}),
        ("sample", 3, 2, {}),
    ],
)
def test_words_of_a_node(op: str, words: int, wide: int, options: dict[str, Any]) -> None:
    """Of float64, `wide`; of float32 too, but for selections, whose keys have its 32 bits."""
    single = words if op in ("topk_softmax", "sample") else wide
    of_dtype = {
        "float16": 4 * words,
        "bfloat16": 4 * words,
        "float32": 4 * single,
        "float64": 8 * wide,
    }
    for dtype, expected in of_dtype.items():
        assert distributed.gathered_bytes(op, 1, (4096,), dtype, **options) == expected


def test_the_crossing_is_where_bytes_take_as_long() -> None:
    work = scale.WORKLOADS[0]
    gpus = scale.crossing(work)
    nodes = distributed.gathered_bytes(work.op, work.rows, (work.length,), work.dtype) * gpus
    part = work.passes * work.rows * work.length * 2 / gpus
    assert nodes / scale.INFINIBAND == pytest.approx(part / scale.CHIP.copy_bandwidth)


def test_a_ring_has_a_step_for_each_other_gpu() -> None:
    assert scale.gather_seconds(1, 10**6) == 0
    assert scale.gather_seconds(8, 0) == pytest.approx(6.6e-6 + 7 * 0.6e-6)
    assert scale.gather_seconds(16, 0) == pytest.approx(6.6e-6 + 14 * 1.0e-6 + 2.7e-6)
    many = scale.gather_seconds(16, 1 << 34)  # bytes are all that counts
    assert many == pytest.approx((1 << 34) * 15 / 16 / scale.INFINIBAND, rel=0.01)
