"""Sectors that launches touch: whole where rows are aligned, known where they are not."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.cli.main import main
from cusoftmax.machine_code.cost import cost
from cusoftmax.planning.plan import Plan
from cusoftmax.profiling import sectors
from cusoftmax.profiling.sectors import (
    bank_conflicts,
    executed_lines,
    level2_bytes,
    supposed_offsets,
)
from tests.machine_code.cost_support import need_tools, plan_of


def over_least(plan: Plan) -> float:
    return sum(level2_bytes(plan)) / plan.least_bytes


@pytest.mark.parametrize(
    ("op", "dtype", "shape", "axis", "arch", "pattern"),
    [
        ("softmax", "float16", (1 << 16, 128), -1, 90, "group"),
        ("softmax_vjp", "float32", (5000, 8192), -1, 90, "block"),
        ("log_softmax", "float64", (600, 65536), -1, 90, "block"),
        ("softmax", "float32", (64, 4096), 0, 80, "column"),
        ("softmax_causal", "float16", (8192, 8192), -1, 90, "block"),  # of which nothing is hidden
    ],
)
def test_aligned_rows_touch_no_sector_twice(
    op: str, dtype: str, shape: tuple[int, ...], axis: int, arch: int, pattern: str
) -> None:
    plan = plan_of(op, dtype, shape, axis, arch)
    assert plan.pattern == pattern
    assert over_least(plan) == pytest.approx(1, abs=1e-3)


def test_rows_read_twice_touch_their_sectors_twice() -> None:
    stream = plan_of("softmax", "float16", (512, 1 << 17), -1, 80)
    kept = stream.launches[0].block // 32 + stream.passes  # of 128 chunks
    assert stream.pattern == "stream"
    assert over_least(stream) == pytest.approx(1.5 - kept / 128 / 2, abs=1e-3)


@pytest.mark.parametrize("op", ["softmax", "cross_entropy_grad", "topk_softmax"])
@pytest.mark.parametrize("n", [33, 1001])
def test_a_few_blocks_touch_what_all_of_them_do(op: str, n: int) -> None:
    """Beside what whole launches touch, of rows enough for every start within a sector."""
    rows = 1024
    x = np.zeros((rows, n), np.float16)
    with emulator.activate("sm_90"):
        given = emulator.asarray(x)
        target = emulator.asarray(np.zeros(rows, np.int64))
        with emulator.trace() as counted:
            if op == "softmax":
                cs.softmax(given)
            elif op == "topk_softmax":
                cs.topk_softmax(given, 8)
            else:
                cs.cross_entropy(given, target, reduction="none", grad=True)
    (launch,) = counted.kernels
    plan = plan_of(op, "float16", (rows, n), -1, 90)
    assert plan.launches[0].kernel.name == launch.kernel
    whole = 32 * (launch.sectors_read + launch.sectors_written)
    assert level2_bytes(plan)[0] == pytest.approx(whole, rel=0.02)
    in_place = plan.launches[0].kernel["CSM_STAGED"] == "0"
    assert (whole > 1.05 * plan.least_bytes) == in_place


def test_conflicts_of_banks_are_those_of_whole_launches() -> None:
    assert bank_conflicts(plan_of("softmax", "float16", (1 << 16, 128), -1, 90)) == (0,)
    folded, rows = plan_of("softmax_vjp", "float64", (300, 8192), -1, 90), np.zeros((300, 8192))
    segments = plan_of("segment_softmax", "float16", (100_000,), 0, 90)
    offsets = supposed_offsets(segments).astype(np.int64)
    with emulator.activate("sm_90"), emulator.trace() as counted:
        cs.softmax_vjp(emulator.asarray(rows), emulator.asarray(rows))
        cs.segment_softmax(
            emulator.asarray(np.zeros(100_000, np.float16)), emulator.asarray(offsets)
        )
    each = [launch.bank_conflicts for launch in counted.kernels]
    assert bank_conflicts(folded) == (each[0],) and each[0] > 0
    assert bank_conflicts(segments) == tuple(each[1:]) and each[2] > 0


def test_supposed_segments_vary_about_their_mean() -> None:
    plan = plan_of("segment_softmax", "float16", (100_000,), 0, 90)
    lengths = np.diff(supposed_offsets(plan))
    assert len(lengths) == plan.problem.segments == 3031 and lengths.sum() == 100_000
    assert set(lengths[:1000]) >= set(range(17, 50)) and lengths.min() >= 16 and lengths.max() <= 50


def test_the_command_line_counts_conflicts_of_banks(capsys: pytest.CaptureFixture[str]) -> None:
    need_tools()
    given = ["cost", "segment_softmax", "100000", "--dtype", "float16", "--arch", "sm_90"]
    assert main([*given, "--json"]) == 0
    told = [launch["seconds"]["lsu"] for launch in json.loads(capsys.readouterr().out)["launches"]]
    plan = plan_of("segment_softmax", "float16", (100_000,), 0, 90)
    without = cost(plan, None, level2_bytes(plan), executed_lines(plan))
    for seconds, launch, of, more in zip(
        told, plan.launches, without.launches, bank_conflicts(plan), strict=True
    ):
        busiest = -(-launch.grid // plan.device.sm_count)  # blocks
        cycles = (seconds - of.times["lsu"]) * without.chip.clock
        assert cycles == pytest.approx(more / launch.grid * busiest, rel=1e-6, abs=1e-3)


def test_equal_launches_are_counted_once_for_all_gpus() -> None:
    made = [plan_of("softmax", "float32", (1 << 16, 128), -1, arch) for arch in (80, 90)]
    assert made[0] != made[1] and level2_bytes(made[0]) is level2_bytes(made[1])


def test_threads_do_not_count_each_others_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [plan_of("softmax", "float32", (1 << 14, n), -1, 90) for n in (2001, 8000)]
    alone = [level2_bytes(plan) for plan in plans]
    sectors._counted.cache_clear()
    choose = emulator.only_blocks

    @contextlib.contextmanager
    def and_wait(blocks: Sequence[int]) -> Iterator[None]:
        with choose(blocks):
            time.sleep(0.2)  # for the other thread to choose its own
            yield

    monkeypatch.setattr(emulator, "only_blocks", and_wait)
    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(level2_bytes, plans)] == alone


def test_the_command_line_says_when_the_cache_is_the_limit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    need_tools()
    given = ["cost", "softmax", "1000000x200", "--dtype", "float32", "--order", "F", "--json"]
    assert main([*given, "--arch", "sm_90"]) == 0
    launch = json.loads(capsys.readouterr().out)["launches"][0]
    assert launch["level2_bytes"] >= launch["memory_bytes"]
    assert set(launch["seconds"]) >= {"memory", "level2"}
