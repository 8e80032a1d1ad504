"""Loops whose rounds depend on the data are counted as the kernel's PTX runs."""

from __future__ import annotations

import pytest

from cusoftmax.machine_code.cost import compiled, cost
from cusoftmax.machine_code.executed import ExecutedLine, counted_rounds
from cusoftmax.machine_code.flow import walk
from cusoftmax.profiling.sectors import executed_lines
from tests.machine_code.cost_support import need_tools, plan_of, sass


def test_rounds_are_those_of_the_loop_with_the_same_accesses() -> None:
    code = sass(
        """
        LDG.E R1, [R2.64]
        SHFL.BFLY P0, R1, R1, 0x1, 0x1f     # 1: the inner loop, twice a round
        SHFL.BFLY P0, R1, R1, 0x2, 0x1f
        @P0 BRA 0x10
        @P1 BRA 0x0
        STG.E [R2.64], R1
        EXIT
        """
    )
    lines = [
        ExecutedLine("block", False, None, 64),
        ExecutedLine("ld.global.f32", False, None, 640),
        ExecutedLine("shfl.sync.bfly.b32", False, None, 6400),
        ExecutedLine("bra", True, 2, 6400),
        ExecutedLine("bra.uni", True, 1, 640),
        ExecutedLine("st.global.f32", False, None, 64),
        ExecutedLine("ret", False, None, 64),
    ]
    rounds = counted_rounds(code, 0, lines)
    assert sorted(rounds.values()) == [5.0, 10.0]
    path = walk(code, lambda loop: rounds[loop.header]).path
    assert sum(weight for line, weight in path if line.stem == "SHFL") == 6400 / 64


@pytest.mark.parametrize(
    ("op", "n"), [("topk_softmax", 4096), ("topk_softmax", 50257), ("sample", 9001)]
)
def test_a_selection_costs_the_shuffles_that_it_makes(op: str, n: int) -> None:
    need_tools()
    plan = plan_of(op, "float32", (512, n), -1, 90)
    lines = executed_lines(plan)
    found = cost(plan, executed=lines)
    (launch,), (code,) = found.launches, compiled(plan)
    assert launch.unknown_loops == 0
    threads = lines[0][0].times
    shuffles = sum(line.times for line in lines[0] if line.name.startswith("shfl"))
    rounds = counted_rounds(code.instructions, code.base, lines[0])
    path = walk(code.instructions, lambda loop: rounds[loop.header], code.base).path
    counted = sum(weight for line, weight in path if line.stem == "SHFL")
    assert counted == pytest.approx(shuffles / threads, rel=0.1)
    # Without the counts, the loops that insert elements are taken to make few rounds.
    assert launch.instructions > cost(plan).launches[0].instructions
