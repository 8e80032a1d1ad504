"""The report of results files: targets, merged files, tables and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from benchmarks import report
from benchmarks.measuring.results import (
    DRY_RUN_STAMP,
    Clocks,
    Machine,
    Measurement,
    Results,
    ResultsError,
    Times,
    WorstError,
    save,
)  # fmt: skip
from benchmarks.reporting.page import markdown_page
from benchmarks.reporting.sheets import GpuSheet, gather
from benchmarks.reporting.targets import Verdict, verdicts

ITEMSIZE = {"float16": 2, "float32": 4, "float64": 8}
COPY = 3000.0  # GB/s


def measured(
    who: str = "cusoftmax",
    of_copy: float = 0.96,
    n: int = 4096,
    *,
    suite: str = "sweep",
    op: str = "softmax",
    dtype: str = "float16",
    rows: int = 0,
    axis: int = -1,
    sigma: float = 1.0,
    how: str = "events",
    seconds: float | None = None,
    failed: str | None = None,
    error: float = 0.5,
) -> Measurement:
    """Return a measurement of about 256 MiB, at a fraction of the copy's bandwidth."""
    rows = rows or (256 << 20) // (2 * n * ITEMSIZE[dtype]) + 1
    nbytes = 2 * rows * n * ITEMSIZE[dtype]
    made = Measurement(
        suite, op, dtype, rows, n, axis, sigma, who, None, how, None, nbytes, failed=failed
    )
    if failed is None:
        t = seconds or nbytes / (of_copy * COPY * 1e9)
        made.times = Times(t, t, t, t, t, t, 9)
        made.gb_per_s, made.copy_gb_per_s = nbytes / t / 1e9, COPY
        made.fraction_of_copy = made.gb_per_s / COPY
        made.worst_error = WorstError(error, "ulp")
    return made


def run_of(
    *measurements: Measurement, gpu: str = "H100", day: int = 1, dry_run: bool = False
) -> Results:
    """Return a run with these measurements."""
    clocks = Clocks(1980, 2619, 1980, 2619)
    machine = Machine(gpu, "sm_90", 132, 50 << 20, "580.1", clocks, 700.0, 40, "a processor")
    peers = {"torch": {"version": "2.11"}, "triton": {"version": "3.6"}, "cupyx": {"version": "14"}}
    started = f"2026-11-{day:02}T10:00:00+00:00"
    return Results(
        dry_run, started, "python -m benchmarks.run", "a" * 40, False, machine,
        {"cupy": "14.2"}, peers | {"jax": {"missing": "not installed"}}, list(measurements),
        ["sweep: one cell"], started,
    )  # fmt: skip


@pytest.fixture
def sheet(tmp_path: Path) -> Callable[..., GpuSheet]:
    """Return a function that saves measurements as a run and reads them into a sheet."""

    def make(*measurements: Measurement, **run: Any) -> GpuSheet:
        (made,) = gather([save(run_of(*measurements, **run), tmp_path / "run.json")])
        return made

    return make


def verdict(sheet: GpuSheet, words: str) -> Verdict:
    """Return the only verdict whose target contains these words."""
    (found,) = [v for v in verdicts(sheet) if words in v.target]
    return found


# ------------------------------------------------------------------------------------- the targets


def test_targets_without_measurements_are_not_measured(sheet: Callable[..., GpuSheet]) -> None:
    assert {v.state for v in verdicts(sheet())} == {"not measured"}


def test_fractions_of_the_copy(sheet: Callable[..., GpuSheet]) -> None:
    made = sheet(
        measured(of_copy=0.96),
        measured(of_copy=0.949, n=8192),
        measured(of_copy=0.91, n=1000),
        measured(of_copy=0.5, n=524288),  # longer than any row of the target
        measured(of_copy=0.2, n=64, rows=8),  # less traffic than the target requires
        measured(of_copy=0.93, dtype="float64"),
        measured(of_copy=0.89, suite="axis0", axis=0, rows=4096),
    )
    powers = verdict(made, "N a power of two")
    assert (powers.state, powers.number, powers.cells, powers.short) == ("missed", "94.9 %", 2, 1)
    assert "8192" in powers.worst
    assert verdict(made, "every other N").state == "met"
    assert verdict(made, "float64 on").number == "93.0 %"
    assert verdict(made, "axis 0").state == "missed"


def test_float64_has_no_target_on_other_gpus(sheet: Callable[..., GpuSheet]) -> None:
    made = sheet(measured(of_copy=0.3, dtype="float64"), gpu="NVIDIA L4")
    assert verdict(made, "float64 on").state == "not measured"


def test_ratios_to_peers(sheet: Callable[..., GpuSheet]) -> None:
    made = sheet(
        measured(seconds=1e-3),
        measured("torch", seconds=2e-3),
        measured("triton", seconds=1.5e-3),
        measured("cupyx", seconds=6e-3),
        measured(seconds=1e-3, n=8192),
        measured("torch", seconds=1.125e-3, n=8192),
        measured("triton", seconds=0.9e-3, n=8192),
    )
    first, second = made.cells()
    best = made.best_peer(first)
    assert best is not None
    assert (best.who, best.ratio) == ("triton", pytest.approx(1.5))
    least = verdict(made, "never below 1.00")
    assert (least.state, least.number, least.short) == ("missed", "0.90×", 1)
    assert str(second) in least.worst
    assert verdict(made, "PyTorch eager: at least 1.3").number == "1.50×"  # √(2 · 1.125)
    assert verdict(made, "over cupyx").state == "met"


def test_failure_of_ours_misses_the_targets(sheet: Callable[..., GpuSheet]) -> None:
    made = sheet(measured(failed="out of memory"), measured("torch"))
    for words in ("N a power of two", "never below 1.00"):
        assert verdict(made, words).state == "missed"
        assert "out of memory" in verdict(made, words).worst


@pytest.mark.parametrize(("next_to", "state"), [(0.87, "met"), (0.86, "missed"), (1.07, "missed")])
def test_steps_between_neighbours(
    sheet: Callable[..., GpuSheet], next_to: float, state: str
) -> None:
    made = sheet(
        measured(of_copy=0.96, n=1024, rows=999, suite="cliffs"),
        measured(of_copy=next_to, n=1032, rows=998, suite="cliffs"),
        measured(of_copy=0.3, n=8192, rows=99, suite="cliffs"),  # no neighbour
    )
    found = verdict(made, "no step of more than 10 %")
    assert (found.state, found.cells) == (state, 1)


def test_spread_of_the_logits_and_one_row(sheet: Callable[..., GpuSheet]) -> None:
    made = sheet(
        measured(suite="range", seconds=1e-3),
        measured(suite="range", seconds=1.03e-3, sigma=50.0),
        measured(suite="few_rows", rows=1, n=131072, seconds=1e-5),
        measured("torch", suite="few_rows", rows=1, n=131072, seconds=4e-5),
        measured(suite="few_rows", rows=1, n=4096, seconds=1e-5),
        measured("torch", suite="few_rows", rows=1, n=4096, seconds=1e-5),
    )
    assert verdict(made, "σ 50").number == "3.0 %"
    one_row = verdict(made, "one row")
    assert (one_row.state, one_row.number, one_row.cells) == ("met", "4.00×", 1)


def test_overhead_is_compared_with_the_matching_launch(sheet: Callable[..., GpuSheet]) -> None:
    host = {"suite": "overhead", "rows": 1, "n": 32, "how": "host"}
    made = sheet(
        measured(seconds=4.5e-6, **host),
        measured("cusoftmax, out=", seconds=4e-6, **host),
        measured("rawkernel", seconds=2.5e-6, **host),
        measured("rawkernel, empty_like", seconds=4.4e-6, **host),
        measured("torch", seconds=5e-6, **host),
    )
    bare = verdict(made, "bare RawKernel")
    assert (bare.state, bare.number, bare.cells, bare.short) == ("missed", "1.60×", 2, 1)
    assert verdict(made, "at most torch.softmax").number == "0.90×"


# --------------------------------------------------------------------------------- files together


def test_newest_measurement_of_a_cell_counts(tmp_path: Path) -> None:
    new = save(run_of(measured(of_copy=0.97), day=2), tmp_path / "a.json")
    old = save(
        run_of(measured(of_copy=0.5), measured("torch", of_copy=0.6), measured(n=64), day=1),
        tmp_path / "b.json",
    )
    (made,) = gather([new, old])
    (cell,) = [c for c in made.cells() if c.n == 4096]
    best = made.best_peer(cell)
    assert best is not None
    assert best.ratio == pytest.approx(0.97 / 0.6)
    assert [s.name for s in made.sources] == ["b.json", "a.json"]
    assert made.mixed_cells == 1
    text = markdown_page([(made, [])])
    assert "`b.json`" in text
    assert "In 1 cell the contenders were measured in different runs." in text


def test_dry_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry = save(run_of(measured(how="host"), dry_run=True), tmp_path / "dry.json")
    real = save(run_of(measured()), tmp_path / "real.json")
    assert report.main([str(real), str(dry), "--out", str(tmp_path / "out")]) == 2
    assert "times mean nothing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ResultsError, match="measured on a GPU"):
        gather([dry, real], dry_run=True)


def test_dry_run_is_stamped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[list[str]] = []
    close = plt.close
    monkeypatch.setattr(
        plt, "close", lambda f: (texts.append([t.get_text() for t in f.texts]), close(f))
    )
    run = run_of(
        measured(how="host"),
        measured("torch", how="host"),
        measured(suite="few_rows", rows=1, how="host"),
        measured(suite="cliffs", how="host"),
        dry_run=True,
    )
    dry = save(run, tmp_path / "dry.json")
    assert report.main([str(dry), "--dry-run", "--out", str(tmp_path)]) == 0
    assert len(texts) == len(list(tmp_path.glob("*.png"))) == 5
    assert all(DRY_RUN_STAMP in found for found in texts)
    page = (tmp_path / report.PAGE).read_text()
    assert page.count("times mean nothing") >= 2
    assert "**met**" not in page
    assert "**missed**" not in page


def test_two_gpus_have_pictures_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    close = plt.close
    monkeypatch.setattr(plt, "close", lambda f: (titles.append(f.get_suptitle()), close(f)))
    both = (measured(), measured("torch", of_copy=0.7))
    files = [
        save(run_of(*both, gpu="NVIDIA H100", day=1), tmp_path / "a.json"),
        save(run_of(*both, gpu="NVIDIA L4", day=2), tmp_path / "b.json"),
    ]
    report.main([*map(str, files), "--out", str(tmp_path)])
    assert {s.gpu for s in gather(files)} == {"NVIDIA H100", "NVIDIA L4"}
    assert all(("H100" in t) != ("L4" in t) for t in titles)
    assert len(list(tmp_path.glob("nvidia-h100-*.png"))) == len(titles) // 2 == 3
    page = (tmp_path / report.PAGE).read_text()
    for fact in (
        "580.1",
        "1980 of 1980",
        "2026-11-01",
        "aaaaaaaaaaaa",
        "jax missing",
        "benchmarks.run",
    ):
        assert fact in page
    for picture in tmp_path.glob("*.png"):
        assert f"({picture.name})" in page
