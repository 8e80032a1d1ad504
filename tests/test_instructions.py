"""Instructions an element and the time to issue them, beside their targets."""

from __future__ import annotations

import pytest

from benchmarks import instructions
from benchmarks.static.predictions import Case, cost_of, each_once
from tests.machine_code.cost_support import need_tools

CASE = Case("softmax", "float16", 4096, "H100")


def test_the_table_says_what_is_over_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    need_tools()
    targets = [instructions.Target("softmax", "float16", "H100", most) for most in (1, 1000)]
    monkeypatch.setattr(instructions, "TARGETS", targets)
    *_, kernel, _, now, met = (
        [*column.cells] for column in instructions.instruction_table().columns
    )
    assert kernel[0].startswith("csm_softmax_block_f16") and now[0] == now[1]
    assert met == [f"{float(now[0]) - 1:.1f} more", "met"]


def test_issue_time_is_that_of_all_launches() -> None:
    need_tools()
    found = cost_of(Case("softmax", "float32", 1 << 20, "A100", rows=1))
    assert len(found.launches) == 2
    issue, memory = (sum(k.times[of] for k in found.launches) for of in ("issue", "memory"))
    assert instructions.issue_share(found) == pytest.approx(issue / memory)


def test_what_misses_is_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_tools()
    monkeypatch.setattr(instructions, "MOST_ISSUE", {"H100": 0.0, "H200": 100.0})
    asked = ["", "--issue", "--op", "softmax", "--dtype", "float16", "--n", "4096"]
    monkeypatch.setattr("sys.argv", asked)
    assert instructions.main() == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("softmax float16 4096 "))
    share = instructions.issue_share(cost_of(CASE))
    assert line.startswith(f"softmax float16 4096 H100: {share:.2f} of the memory's time")
    assert "1 of 2 within their target" in shown


def test_a_kernel_is_compiled_once_for_all_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(
        "benchmarks.static.predictions.compiled", lambda plan: made.append(plan.launches[0].kernel)
    )
    cases = [Case("softmax", "float16", n, chip) for n in (4095, 4096) for chip in ("H100", "H200")]
    assert each_once(cases, lambda case: case.n) == {case: case.n for case in cases}
    assert len(made) == len(set(made)) == 2
