"""Accesses that the caches are told not to keep: where they are planned, and the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from benchmarks.static.tuning_problems import tuned_to
from cusoftmax import emulator
from tests.emulator.both_codes import difference, outcome
from tests.support import logits, planned

LOAD, STORE = "ld.global.L1::no_allocate.v4.b32", "st.global.cs.v4.b32"


def is_uncached(op: str, dtype: str, shape: tuple[int, ...], axis: int = -1) -> bool:
    found = {s.kernel["CSM_UNCACHED"] for s in planned(op, dtype, shape, axis, "sm_90").launches}
    assert len(found) == 1
    return found == {"1"}


def test_only_results_that_no_cache_keeps() -> None:
    """Of an H100, whose level 2 cache has 50 MiB."""
    half = 25 << 20
    for op, dtype, size in (("softmax", "float16", 2), ("softmax_value_and_vjp", "float32", 8)):
        assert not is_uncached(op, dtype, (1 << 20, 4096))  # as long as it was not measured
        with tuned_to("UNCACHED_PERCENT", 50):
            for n in (512, 8192):
                rows = half // (n * size)
                assert not is_uncached(op, dtype, (rows, n))
                assert is_uncached(op, dtype, (rows + 1, n))
            assert not is_uncached(op, dtype, (8192, 8191))  # by way of shared memory
            assert not is_uncached(op, dtype, (8192, 1 << 20))  # read twice
            assert not is_uncached(op, dtype, (512, 1 << 16), 0)  # narrow accesses
    with tuned_to("UNCACHED_PERCENT", 50):
        assert not is_uncached("logsumexp", "float32", (1 << 20, 4096))  # a value of each row


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("n", [304, 4096])
def test_the_same_bits(n: int, dtype: str) -> None:
    rows = 60_000 // n
    y, x = logits((rows, n), dtype), logits((rows, n), dtype, seed=1)

    def call() -> Any:
        out = emulator.asarray(x)  # in place
        return cs.softmax_vjp(emulator.asarray(np.abs(y) / n), out, out=out)

    kept = outcome(call, "source", "sm_75")
    for code in ("source", "ptx"):
        with tuned_to("UNCACHED_PERCENT", 1), emulator.trace(accesses=False) as report:
            found = outcome(call, code, "sm_75")
        assert all("_uncached" in launched.kernel for launched in report.kernels)
        assert difference(kept, found) is None
    executed = report.instructions
    assert executed[LOAD] == 2 * executed[STORE] > 0
    assert not {name for name in executed if name.startswith(("ld.global.v4", "st.global.v4"))}
