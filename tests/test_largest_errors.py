"""The search for the largest errors: rows get worse, and what is exceeded is said."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import largest_errors as search
from cusoftmax import reference
from cusoftmax.contract.table import CONTRACTS

PROVED = (
    *("softmax", "softmax_vjp", "log_softmax"),
    *("logsumexp", "cross_entropy", "cross_entropy_grad"),
)


@pytest.mark.parametrize("op", PROVED)
@pytest.mark.parametrize("axis", [-1, 0])
def test_no_row_is_found_beyond_a_bound_that_is_proved(op: str, axis: int) -> None:
    error, _ = search.search(op, "float32", 40, 20, axis)
    assert 1 < error <= CONTRACTS[op].bound["float32"]


def test_rows_get_worse_and_the_worst_is_returned() -> None:
    before, _ = search.search("softmax_hvp", "float32", 8, 0)
    after, row = search.search("softmax_hvp", "float32", 8, 40)
    assert after > 1.3 * before
    assert search.errors("softmax_hvp", row).tolist() == [after]


@pytest.mark.parametrize("op", search.OPS)
def test_inputs_are_those_of_the_operation(op: str) -> None:
    rng = np.random.default_rng(0)
    rows = search.changed(rng, search.first(rng, 16, 8, "float32"))
    for name, given in zip(search.OPERATIONS[op].read, rows.inputs(op), strict=True):
        assert given.shape in ((16, 8), (16, 1))
        if name == "y":
            np.testing.assert_allclose(given.sum(1), 1, rtol=1e-6)
        elif name == "logy":
            np.testing.assert_array_equal(given, reference.log_softmax(rows.x).astype("float32"))
        elif name == "target":
            assert ((given >= 0) & (given < 8)).all()
        else:
            assert given.dtype == "float32" and np.isfinite(given).all()


def test_a_bound_that_is_exceeded_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "LENGTHS", (8,))
    assert search.main(["--op", "softmax_vjp", "--rounds", "2"]) == 0
    monkeypatch.setitem(CONTRACTS["softmax_vjp"].bound, "float32", 0.1)
    assert search.main(["--op", "softmax_vjp", "--rounds", "2"]) == 1
    assert "0.1" in capsys.readouterr().out
