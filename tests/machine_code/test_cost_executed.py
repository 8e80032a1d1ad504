"""Launches whose loops depend on the data cost what a few rows of theirs executed."""

from __future__ import annotations

import pytest

from cusoftmax.machine_code.cost import cost
from cusoftmax.profiling.sectors import executed_lines
from tests.machine_code.cost_support import need_tools, plan_of


@pytest.mark.parametrize(
    ("op", "dtype", "shape", "axis"),
    [
        ("topk_softmax", "float32", (512, 50257), -1),
        ("topk_softmax", "float64", (4096, 128), -1),
        ("topk_softmax", "float32", (3000, 64), 0),
        ("sample", "float32", (512, 9001), -1),
        ("segment_softmax", "float16", (100_000,), 0),
    ],
)
def test_what_a_selection_executes(op: str, dtype: str, shape: tuple[int, ...], axis: int) -> None:
    need_tools()
    plan = plan_of(op, dtype, shape, axis, 90)
    lines = executed_lines(plan)
    for launch, ran, planned in zip(
        cost(plan, executed=lines).launches, lines, plan.launches, strict=True
    ):
        warps = planned.grid * planned.block // 32
        scale = warps * 32 / (plan.rows * plan.n) / ran[0].warps
        made = [line for line in ran if line.name != "block"]
        assert launch.executed and launch.unknown_loops == 0
        assert launch.instructions == pytest.approx(sum(x.warps for x in made) * scale)
        shuffles = sum(x.warps for x in made if x.name.startswith("shfl"))
        assert launch.per_element.get("shuffle", 0.0) >= 0.999 * shuffles * scale  # and votes


@pytest.mark.parametrize("op", ["topk_softmax", "sample"])
def test_no_launch_that_loads_is_faster_than_memory(op: str) -> None:
    """Of the second launch few warps load; the others' share does not shorten their wait."""
    need_tools()
    plan = plan_of(op, "float32", (4, 32000), -1, 90)
    found = cost(plan, executed=executed_lines(plan))
    assert len(found.launches) == 2
    for launch in found.launches:
        assert launch.seconds > found.chip.latency / found.chip.clock


@pytest.mark.parametrize(
    ("op", "shape", "axis"),
    [
        ("softmax", (512, 1000), -1),
        ("topk_softmax", (4096, 128), -1),  # sorted: no loop depends on the data
        ("topk_softmax", (4096, 100), -1),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_path_is_about_what_is_executed(
    op: str, dtype: str, shape: tuple[int, ...], axis: int
) -> None:
    """Of PTX, machine code has at most as much: constants and addresses are folded in."""
    need_tools()
    plan = plan_of(op, dtype, shape, axis, 90)
    (ran,) = executed_lines(plan)
    (launch,) = cost(plan, executed=(ran,)).launches
    assert not launch.executed and launch.unknown_loops == 0
    warps = plan.launches[0].grid * plan.launches[0].block // 32
    made = sum(x.warps for x in ran if x.name != "block") / ran[0].warps
    assert 0.7 < launch.instructions / (made * warps * 32 / (plan.rows * plan.n)) < 1.0
