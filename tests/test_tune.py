"""Proposals for thresholds, and the script of the first hour on a new GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report, sanitize, tune
from benchmarks.measuring.results import DRY_RUN_STAMP
from benchmarks.static import tuning_problems
from cusoftmax.planning import tuning as tuned
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.runtime import backend, launch
from tests.support import LONG_PLAN_KINDS, PLAN_KINDS

SESSION = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_session.sh"


# ------------------------------------------------------------------------------------- thresholds


def _times(*speeds: dict[int, float], again: float = 1.0) -> list[tune.ProblemTimes]:
    problem = tuning_problems.TuningProblem("softmax", "float16", (4, 4096), -1)
    return [
        tune.ProblemTimes(problem, {v: 1 / s for v, s in each.items()}, 1 / again)
        for each in speeds
    ]


def test_faster_value_is_proposed_with_evidence() -> None:
    cells = _times({64: 1.2, 128: 1.0, 256: 0.9}, {64: 1.1, 128: 1.0, 256: 0.9}, again=1.01)
    made = tune.propose("GROUP_THREADS", 128, cells, "NVIDIA H100", "2026-11-22")
    assert made.value == 64
    assert made.means[64] == pytest.approx((1.2 * 1.1) ** 0.5)
    assert made.row.startswith('GROUP_THREADS = Tuned(64, "NVIDIA H100", "of 64, 128, 256: +14.9%')
    assert eval(made.row.partition(" = ")[2], {"Tuned": tuned.Tuned}) == 64


@pytest.mark.parametrize(
    ("speed", "again", "said"), [(1.02, 1.03, "within the noise"), (0.8, 1.01, "all slower")]
)
def test_value_stays_without_a_clear_gain(speed: float, again: float, said: str) -> None:
    cells = _times({64: speed, 128: 1.0}, again=again)
    made = tune.propose("GROUP_THREADS", 128, cells, "NVIDIA H100", "2026-11-22")
    assert made.value == 128
    assert said in made.row


def test_affected_problems_are_found_by_planning() -> None:
    device, before = DeviceSpec.known("sm_90"), launch._calls
    problems = [
        tuning_problems.TuningProblem("softmax", "float16", (3, n), -1)
        for n in (512, 4096, 65536, 131072)
    ]
    found = tuning_problems.affected("SPLIT_LENGTH", (65536, 131072), device, problems)
    assert [p.shape[1] for p in found] == [65536]
    assert tuned.SPLIT_LENGTH == 65536
    assert launch._calls is before
    with pytest.raises(ValueError, match="1024 are possible"):
        tuning_problems.affected("BLOCK_WARPS", (64,), device, problems)


def test_tuning_on_the_emulator_proposes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    name = "GROUP_THREADS"
    assert tune.main([name, "--values", "64", "--cells", "1", "--device", "emulator"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("# dry run on the emulator")
    assert getattr(tuned, name) == 128


def test_numbers_that_change_bits_are_not_tunable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune.main(["WORDS_IN_REGISTERS"])
    assert "not tunable" in capsys.readouterr().err
    every = {n for n, v in vars(tuned).items() if isinstance(v, tuned.Tuned)}
    assert set(tuning_problems.tunable_names()) == every - set(tuning_problems.NOT_TUNABLE)


# ------------------------------------------------------------------------------------ the session


def _session(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SESSION), *arguments],
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
    )


def test_session_runs_a_quick_part(tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(SESSION)], check=True)
    done = _session("--dry-run", "--out", str(tmp_path), "bench:range", "report")
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / "summary.txt").read_text()
    assert "dry run" in summary
    assert done.stdout.endswith(summary)
    lines = {line.split()[0]: line for line in summary.splitlines()}
    assert " ok " in lines["bench:range"]
    assert " ok " in lines["report"]
    assert DRY_RUN_STAMP.capitalize() in (tmp_path / "report" / report.PAGE).read_text()


def test_session_continues_after_a_failed_part(tmp_path: Path) -> None:
    done = _session("--dry-run", "--out", str(tmp_path), "smoke", "bench:cold", TIME_LIMIT="0.02")
    assert done.returncode == 1
    cut = [
        line for line in (tmp_path / "summary.txt").read_text().splitlines() if "cut off" in line
    ]
    assert [line.split()[0] for line in cut] == ["smoke", "bench:cold"]


@pytest.mark.parametrize("wrong", ["nope", "bench:nope", "smoke:sweep", "--nope"])
def test_session_refuses_unknown_parts_and_options(tmp_path: Path, wrong: str) -> None:
    done = _session("--dry-run", "--out", str(tmp_path / "out"), wrong)
    assert done.returncode == 2
    assert wrong in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(backend.gpu_is_present(), reason="needs a machine without a GPU")
def test_session_without_a_gpu_says_so(tmp_path: Path) -> None:
    done = _session("--out", str(tmp_path), "tests")
    assert done.returncode == 1
    assert "--dry-run needs none" in done.stdout
    assert not (tmp_path / "tests.log").exists()


def test_sanitised_calls_have_every_kind_of_plan() -> None:
    specs = [DeviceSpec.known(arch) for arch in sanitize.EMULATED_ARCHS]
    made = list(sanitize.calls(specs, sanitize.MAX_ELEMENTS[True], ("float32",), True))
    assert {call.kind for _, call in made} >= set(PLAN_KINDS) - LONG_PLAN_KINDS
    most = sanitize.MAX_ELEMENTS[False]
    longer = list(sanitize.smallest_calls("softmax_vjp", "float32", specs[0], most))
    assert {call.kind for call in longer} >= LONG_PLAN_KINDS
