"""Instructions that the PTX machine executed, against those that the cost model reads statically.

The model counts SASS, of which some classes are PTX's one for one. Rows fill all their lanes, so
that no instruction of a warp is left out by some of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.machine_code import cost
from cusoftmax.profiling.sectors import executed_lines
from tests.machine_code.cost_support import need_tools, plan_of
from tests.support import kind


def executed(
    dtype: str, shape: tuple[int, int], arch: int
) -> tuple[Mapping[str, int], emulator.Report]:
    x = np.random.default_rng(0).normal(0, 3, shape).astype(dtype)
    with (
        emulator.activate(f"sm_{arch}", code="ptx"),
        emulator.trace(accesses=False) as report,
    ):
        cs.softmax(emulator.asarray(x))
    return report.instructions, report


def total(counts: Mapping[str, int], *beginnings: str) -> int:
    return sum(count for name, count in counts.items() if name.startswith(beginnings))


@pytest.mark.parametrize(
    ("planned", "dtype", "shape", "arch"),
    [
        ("group", "float16", (16, 1024), 90),
        ("group", "float32", (16, 1024), 80),
        ("group", "float64", (16, 512), 90),
        ("block", "float32", (2, 4096), 90),
        ("block", "float16", (2, 4096), 100),
        ("block x4", "float16", (1, 16384), 90),
        ("block x8", "float32", (1, 32768), 90),
    ],
)
def test_static_and_executed_counts_agree(
    planned: str, dtype: str, shape: tuple[int, int], arch: int
) -> None:
    need_tools()
    plan = plan_of("softmax", dtype, shape, -1, arch)
    assert kind(plan) == planned
    (launch,), (static,) = plan.launches, cost.cost(plan, executed=executed_lines(plan)).launches
    counts, report = executed(dtype, shape, arch)
    elements = shape[0] * shape[1]

    def statically(name: str) -> float:
        return static.per_element.get(name, 0.0) * elements

    accesses = 2 * elements // plan.vector  # each element is read once and written once
    assert total(counts, "ld.global", "st.global") == statically("global memory") == accesses
    assert total(counts, "shfl.") == statically("shuffle") == 32 * report.shuffles
    # The first lanes of a warp store its node: one, or one for each block of the cluster. Those of
    # the row are loaded by one warp; a lane of it stores the row's node, which all load.
    words, threads = 2 if dtype == "float16" else 3, launch.block
    cluster = launch.kernel.cluster
    if planned != "group":
        assert total(counts, "st.shared") == words * launch.grid * (cluster * threads // 32 + 1)
        assert total(counts, "ld.shared") == words * launch.grid * (32 + threads)
        assert statically("shared memory") == words * launch.grid * (2 * threads + 2 * 32)
    assert total(counts, "bar.sync") == report.barriers * launch.block
    threads_of_cluster = launch.kernel.cluster * launch.block
    waits = total(counts, "barrier.cluster.wait")
    assert waits == report.cluster_barriers * threads_of_cluster
    of_block = {"group": 0, "block": 2}.get(planned, 1)
    assert report.barriers == launch.grid * of_block
    assert counts["ret"] == launch.grid * launch.block
    if dtype != "float64":
        # A remainder of integers takes a reciprocal too.
        reciprocals = total(counts, "rcp.", "rem.s32")
        powers = total(counts, "ex2.approx")
        assert powers + reciprocals == statically("special function")
        # Of 16-bit dtypes one an element, and one for each node that is merged.
        assert elements <= powers < 1.25 * elements if dtype == "float16" else not powers
