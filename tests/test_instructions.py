"""Instructions an element and the time to issue them, beside their targets."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import instructions
from benchmarks.static import predictions
from benchmarks.static.predictions import Case, cost_of
from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import Cost, cost
from cusoftmax.planning.plan import Plan
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


def test_cases_that_share_kernels_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    need_tools()
    threads: dict[object, set[int]] = {}
    together: list[int] = []

    def ask(case: Case) -> int:
        kernel = case.plan.launches[0].kernel, case.plan.device.arch
        threads.setdefault(kernel, set()).add(threading.get_ident())
        time.sleep(0.02)  # for other threads to begin
        return case.n

    monkeypatch.setattr(predictions, "_model", lambda: "another model")
    monkeypatch.setattr(predictions, "cost_of", ask)
    monkeypatch.setattr(predictions, "codes", lambda kernels, arch: together.append(arch))
    monkeypatch.setattr(predictions, "_TOGETHER", 1)
    chips = ("H100", "A100", "H200")
    cases = [Case("softmax", "float16", n, chip) for chip in chips for n in (4095, 4096)]
    assert predictions.costs(cases) == {case: case.n for case in cases}
    assert [len(found) for found in threads.values()] == [1, 1, 1, 1]
    assert sorted(together) == [80, 80, 90, 90]


def test_what_was_found_is_kept_until_what_it_follows_from_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    need_tools()
    ran: list[object] = []
    monkeypatch.setenv("CUSOFTMAX_CACHE_DIR", str(tmp_path))

    def ask(plan: Plan, chip: Chip) -> Cost:
        ran.append(plan)
        return cost(plan, chip, level2_bytes=(1e9,))

    monkeypatch.setattr(predictions, "predicted_cost", ask)
    found = cost_of(CASE)
    assert cost_of(CASE) == found and len(ran) == 1
    assert cost_of(replace(CASE, chip="H200")) != found and len(ran) == 2
    for file in (tmp_path / "predicted").iterdir():
        file.write_bytes(file.read_bytes()[:-40])  # a run was killed
    assert cost_of(CASE) == found and len(ran) == 3
    monkeypatch.setattr(predictions, "_instructions", lambda kernel, arch: "other instructions")
    assert cost_of(CASE) == found and len(ran) == 4
    monkeypatch.setattr(predictions, "_model", lambda: "another model")
    assert cost_of(CASE) == found and len(ran) == 5


def test_a_kernels_instructions_do_not_depend_on_where_they_are_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need_tools()
    (launch,) = CASE.plan.launches
    text = predictions.ptx.compiled(launch.kernel, 90)
    later = text.replace("\t.loc\t1 ", "\t.loc\t1 1").replace('"/', '"/elsewhere/')
    told = predictions._instructions.__wrapped__
    monkeypatch.setattr(predictions.ptx, "compiled", lambda kernel, arch: given)
    given = text
    found = told(launch.kernel, 90)
    given = later
    assert later != text and told(launch.kernel, 90) == found
    given = text.replace("ld.global", "ld.global.nc", 1)
    assert given != text and told(launch.kernel, 90) != found
