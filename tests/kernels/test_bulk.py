"""Spans that one thread copies by bulk copies: where they are planned, and the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from benchmarks.static.tuning_problems import tuned_to
from cusoftmax import emulator
from tests.emulator.both_codes import difference, outcome
from tests.support import logits, planned

READ = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
WRITE = "cp.async.bulk.global.shared::cta.bulk_group"


@pytest.mark.parametrize("arch", ["sm_75", "sm_89", "sm_90", "sm_120"])
def test_where_spans_are_copied_in_bulk(arch: str) -> None:
    for op, shape, axis in (
        ("softmax", (60_000, 33), -1),
        ("softmax_vjp", (8192, 8191), -1),
        ("softmax", (8192, 8192), -1),
        ("softmax", (2, 400_001), -1),
        ("softmax", (500, 33), 0),
        ("topk_softmax", (8192, 8191), -1),
    ):
        for launch in planned(op, "float16", shape, axis, arch).launches:
            kernel = launch.kernel
            staged = kernel["CSM_STAGED"] != "0" and op != "topk_softmax" and axis == -1
            assert (kernel["CSM_BULK"] == "1") == (staged and arch in ("sm_90", "sm_120"))


SPECIAL = (0.0, -np.inf, np.inf, np.nan)


@pytest.mark.parametrize(
    ("rows", "n", "dtype"),
    [
        (700, 61, "float16"),  # group
        (700, 61, "float64"),
        (3, 5001, "float16"),  # block
        (3, 5001, "float32"),
        (3, 5001, "float64"),
        (2, 40_001, "float16"),  # a cluster, most of whose blocks have a whole span
        (1, 70_001, "float32"),  # split
    ],
)
def test_the_same_bits(rows: int, n: int, dtype: str) -> None:
    y, x = logits((rows, n), dtype), logits((rows, n), dtype, seed=1)
    x[0, :: n // 7] = np.resize(SPECIAL[: 1 + rows % 4], x[0, :: n // 7].shape)

    def call() -> Any:
        out = emulator.asarray(x)  # in place
        return cs.softmax_vjp(emulator.asarray(np.abs(y) / 1000), out, out=out)

    with tuned_to("STAGED_BYTES", 0), tuned_to("BULK_ARCH", 999):
        kept = outcome(call, "source", "sm_90")
    for code in ("source", "ptx"):
        with tuned_to("STAGED_BYTES", 0), emulator.trace(accesses=False) as report:
            found = outcome(call, code, "sm_90")
        assert all("_bulk" in launched.kernel for launched in report.kernels)
        assert difference(kept, found) is None
    executed = report.instructions
    assert executed[READ] >= 2 * executed[WRITE] > 0
    assert "cp.async.cg.shared.global" not in executed
