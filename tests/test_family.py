"""The table of what is predicted for the family."""

from __future__ import annotations

import pytest

from tests.machine_code.cost_support import need_tools

family = pytest.importorskip("benchmarks.family")


def test_each_call_is_planned_as_its_name_says() -> None:
    patterns = {call.what: call.on("H100", "float16").plan.pattern for call in family.CALLS}
    assert patterns["softmax, axis 0"] == patterns["softmax, axis 0, tall"] == "column"
    assert patterns["segment_softmax"] == "segment"
    assert patterns["softmax, one row"] == "split"
    assert patterns["topk_softmax, k = 8 of 128"] == "topk_group"
    assert patterns["logsumexp"] == "stream"
    for call in family.CALLS:
        plan = call.on("A100", "float32").plan
        assert (plan.n, plan.rows) == (call.n, call.rows)
        assert plan.device.arch == 80


def test_what_is_below_its_aim_is_marked() -> None:
    need_tools()
    calls = [
        family.Call("as asked", "topk_softmax", 64, 1000, aim=0.0, aim_b200=0.0),
        family.Call("short of it", "softmax", 64, 128, aim=2.0, aim_b200=2.0),
    ]
    cases = family.cases(calls, ["float16"])
    table = family.table(calls, ["float16"], family.costs(cases))
    *_, instructions, _blocks, a100, h100, h200, b200, _limiter = (
        [*column.cells] for column in table.columns
    )
    # Two more lines of each, as their copies are too small to be more than a wait for memory.
    assert [cell.endswith("*") for cell in instructions] == [True, *[False] * 5]
    for fractions in (a100, h100, h200, b200):
        assert [cell.endswith("!") for cell in fractions] == [*[False] * 3, True, False, False]
        assert all(float(fractions[i + 1]) < float(fractions[i].strip("! ")) for i in (0, 3))
