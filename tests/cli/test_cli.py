"""The command line: what it prints, its exit status, and that its errors are one line."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cusoftmax
from cusoftmax.cli import check, info
from cusoftmax.cli import main as cli
from cusoftmax.cli.check import Form, compare, find_case
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.machine import first_line, machine
from cusoftmax.operations.dtypes import FLOATS
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.runtime import backend


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line; return exit status, output and errors."""
    try:
        status = cli.main(arguments)
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain", "softmin", "4x5"], "no operation 'softmin'"),
        (["explain", "softmax", "4by5"], "'4by5' is not a shape"),
        (["explain", "softmax", "4x-5"], "negative"),
        (["explain", "softmax", "4x5", "--dtype", "float8"], "'float8' is not a dtype"),
        (["explain", "softmax", "4x5", "--dtype", "complex64"], "complex64"),
        (["explain", "softmax", "4x5", "--axis", "2"], "axis 2 is out of bounds"),
        (["explain", "softmax", "4x5", "--axis", "row"], "'row' is not an axis"),
        (["explain", "softmax", "4x5", "--arch", "sm_20"], "no architecture 'sm_20'"),
        (["explain", "softmax"], "required: shape"),
        (["demo", "--arch", "vega"], "no architecture 'vega'"),
        (["check", "--op", "softmin"], "--op 'softmin' does not exist; there are softmax, "),
        (["check", "--op", "softmax,"], "--op '' does not exist"),
        (["check", "--pattern", "split,rows"], "--pattern 'rows' does not exist; there are group,"),
        (["check", "--dtype", "half"], "--dtype 'half' does not exist; there are float16, "),
        (["check", "--op", "softmax", "--pattern", "map"], "patterns group, block, stream"),
        (["check", "--op", "log_softmax", "--dtype", "int32"], "dtypes float16, bfloat16, float32"),
        (["check", "--op", "sample", "--dtype", "float64", "--quick"], "of --quick has operation"),
        (["dance"], "invalid choice: 'dance'"),
        ([], "required"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.startswith("cusoftmax: error: ")
    assert err.count("\n") == 1


def test_no_gpu_to_run_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "gpu_is_present", lambda: False)
    status, _, err = run(capsys, "demo", "--device", "cuda")
    assert status == 2
    assert "no GPU" in err
    assert err.count("\n") == 1


def test_no_cupy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    for command in ("demo", "check"):
        status, _, err = run(capsys, command)
        assert status == 2
        assert "cusoftmax[cuda13]" in err
        assert err.count("\n") == 1
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "cupy" in out


def test_no_compiler(tmp_path: Path) -> None:
    # In a process of its own: the compiler is looked for once.
    hide = "import sys; sys.modules['ziglang'] = None; from cusoftmax.cli.main import main; "
    done = subprocess.run(
        [sys.executable, "-c", hide + "sys.exit(main(['demo', '--device', 'emulator']))"],
        env={**os.environ, "PATH": str(tmp_path), "CXX": ""},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(cusoftmax.__file__).parents[1],
    )
    assert done.returncode == 2
    assert "ziglang" in done.stderr
    assert done.stderr.count("\n") == 1


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(
        capsys, "explain", "softmax", "4096x32000", "--dtype", "float16", "--arch", "sm_90"
    )
    assert status == 0
    for words in (
        "4,096 rows of 32,000",
        "block",
        "csm_softmax_block_f16_v8",
        "16 bytes",
        "1.00 x",
        "one order for all",
    ):
        assert words in out
    _, out, _ = run(capsys, "explain", "softmax_jacobian", "40x20")
    assert "each element by itself" in out and "one order for all" not in out  # of no sum
    _, out, _ = run(capsys, "explain", "softmax_jvp", "2x3x4", "--axis", "none")
    assert "1 row of 24 elements" in out
    _, out, _ = run(capsys, "explain", "softmax", "2x3x4", "--axis=-2,-1", "--out-dtype", "float16")
    assert "2 rows of 12 elements" in out
    assert "out: float16" in out
    _, out, _ = run(capsys, "explain", "softmax", "0x4")
    assert "nothing is launched" in out


def test_explain_of_passing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "explain", "softmax", "1x1000000", "--arch", "sm_90")
    assert "split" in out
    assert "1.50 x the least possible" in out
    assert "workspace" in out


def test_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = run(capsys, "info")
    assert status == 0
    for words in (cusoftmax.__version__, "NVRTC", "GPU", "compiler", "cache", "extra cuda13"):
        assert words in out

    def broken() -> str:
        raise RuntimeError("the driver is\nof another age")

    monkeypatch.setattr(info, "_driver", broken)
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "not found: the driver is" in out


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "demo", "--device", "emulator")
    assert (status, err) == (0, "")
    first, _, *lines = out.splitlines()
    assert "emulator" in first
    assert [line.split()[0] for line in lines[:3]] == ["one", "logits", "softmax"]
    assert out.isascii()  # no frames, no colours: a pipe gets plain text
    assert "\x1b" not in out
    for words in ("0.1025", "0.7573", "0.0377", "0.2222", "0.4444", "0.1111", "0.1838"):
        assert words in out
    assert "1,048,576" in out  # 64 x 4096 float16, read once and written once
    assert "not measured" in out


def test_the_demo_is_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "demo.png"
    status, out, err = run(capsys, "demo", "--device", "emulator", "--plot", str(file))
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == f"picture: {file}"
    assert file.read_bytes().startswith(b"\x89PNG")


def test_the_drawn_jacobians_have_their_numbers() -> None:
    figures = pytest.importorskip("matplotlib.figure")
    plot = importlib.import_module("cusoftmax.cli.plot")
    figure = figures.Figure()
    axes = figure.subplots(1, 2)
    y = np.array([[0.25, 0.75], [0.5, 0.5]])
    jacobians = np.array([np.diag(row) - np.outer(row, row) for row in y])
    plot.heat_maps(figure, axes, y, jacobians, (1.0, 2.0))
    words = [[text.get_text() for text in axis.texts] for axis in axes]
    assert words == [["0.188", "−0.188", "−0.188", "0.188"], ["0.250", "−0.250", "−0.250", "0.250"]]
    assert axes[1].get_title() == "temperature 2\ny = 0.50  0.50"


def test_a_demo_that_cannot_be_drawn_says_so_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "cusoftmax.cli.plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, err = run(capsys, "demo", "--plot", str(tmp_path / "demo.png"))
    assert (status, out) == (2, "")
    assert "matplotlib is not installed" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("op", "pattern"), [(op, p) for op, o in OPERATIONS.items() for p in o.patterns]
)
def test_check_reaches_every_pattern(op: str, pattern: str, request: pytest.FixtureRequest) -> None:
    first = next(name for name, operation in OPERATIONS.items() if pattern in operation.patterns)
    with machine("emulator") as on:
        case = find_case(op, "float16", Form(pattern), on, "sm_75")
        assert case.plan.pattern == pattern
        # test_family compares the others.
        if op == first or request.config.getoption("exhaustive"):
            assert compare(case, on, 0).passed


def test_check_is_narrowed_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--op", "softmax_vjp", "--pattern", "group,column", "--dtype", "float32")
    status, out, err = run(capsys, "check", *asked, "--dtype", "int8", "--device", "emulator")
    assert (status, err) == (0, "")
    assert "4 passed, 0 failed" in out
    assert out.count("│ softmax_vjp ") == 4
    for words in ("float32", "int8", "group", "column"):
        assert out.count(f"│ {words} ") == 2


def test_check_without_names_takes_all_cases() -> None:
    every = list(check.names_of_cases(False, 8))
    assert check.selected_names(False, check.Selection(), 8) == every
    assert {(op, form.pattern) for op, _, form in every} == {
        (op, p) for op in OPERATIONS for p in OPERATIONS[op].patterns
    }


def test_check_reaches_clusters_of_every_size() -> None:
    """Every operation has one in each dtype, every dtype all sizes; float dtypes large ones too."""
    sizes = defaultdict(set)
    with machine("emulator") as on:
        for op, dtype, form in check.names_of_cases(False, on.device.max_cluster):
            if form.pattern in ("block", "column"):
                case = find_case(op, dtype, form, on, "sm_75")
                (blocks,) = {launch.kernel.cluster for launch in case.plan.launches}
                sizes[form.pattern, dtype].add(blocks)
                sizes[form.pattern, dtype, op].add(blocks)
    for at, found in sizes.items():
        if at[0] == "block" and len(at) == 3:
            assert {1} < found, at
        elif len(at) == 2 or "softmax" in at:
            large = {16} if at[1] in FLOATS else set()
            assert found == {1, 2, 4, 8} | large, at


@pytest.mark.parametrize("pattern, name", [("block", "_LENGTHS"), ("column", "_COLUMN_LENGTHS")])
def test_check_finds_sizes_between_those_it_knows(
    monkeypatch: pytest.MonkeyPatch, pattern: str, name: str
) -> None:
    lengths = getattr(check, name)
    monkeypatch.setattr(check, name, (min(lengths), max(lengths)))
    with machine("emulator") as on:
        for form in check.forms_of("softmax", "float32", False, on.device.max_cluster):
            if form.pattern == pattern:
                assert form.is_of(find_case("softmax", "float32", form, on, "sm_75").plan)


def test_check_without_clusters() -> None:
    forms = {form for _, _, form in check.names_of_cases(False, 1)}
    assert Form("block", 1, 0) in forms and Form("column", 1, 1) in forms
    assert max(form.blocks for form in forms) == 1


@pytest.mark.parametrize("arch", [75, 80, 86, 89])
def test_check_streams_columns_without_clusters(arch: int) -> None:
    with machine("emulator") as on:
        small = replace(on, device=DeviceSpec.known(arch))
        forms = [f for f in check.forms_of("softmax", "float16", False, 1) if f.streamed]
        for form, dtype in itertools.product(forms, ("float16", "float32")):
            case = find_case("softmax", dtype, form, small, None)
            assert case.plan.launches[0].kernel["CSM_STAGE"] == "5" and form.is_of(case.plan)
    assert len(forms) == 1


@pytest.mark.parametrize("pattern", ["block", "column"])
def test_check_in_clusters(pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--op", "softmax", "--pattern", pattern, "--dtype", "float64")
    status, out, _ = run(capsys, "check", *asked, "--device", "emulator")
    assert status == 0, out
    for form in (*(f"{pattern} x {blocks}" for blocks in (2, 4, 8)), f"{pattern} "):
        assert f"│ {form}" in out
    assert ("column, 3 launches" in out) == (pattern == "column")


def test_check_says_where_a_result_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = CONTRACTS["softmax"]

    def wrong_element(x: Any, axis: int) -> Any:
        from cusoftmax import emulator

        y = emulator.asnumpy(right.call(x, axis=axis))
        y[0, 7] = 0.5
        return emulator.asarray(y)

    monkeypatch.setitem(CONTRACTS, "softmax", replace(right, call=wrong_element))
    asked = ("--op", "softmax", "--pattern", "group", "--dtype", "float32", "--seed", "3")
    status, out, _ = run(capsys, "check", *asked, "--device", "emulator")
    assert status == 1
    for words in (
        "softmax of float32: ", " of the bound\n", "out[0, 7]", "got    0.5\n", "want   ",
        "plan   group: csm_softmax_group_f32_v1_l", "seed   3\n", " ulp, of 3 allowed\n",
    ):  # fmt: skip
        assert words in out, out


def test_check_fails_on_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    with machine("emulator") as on:
        case = find_case("softmax", "float32", Form("group"), on, None)
        right = CONTRACTS["softmax"]

        def called(call: Any) -> None:
            monkeypatch.setitem(CONTRACTS, "softmax", replace(right, call=call))

        # The maximum subtracted nowhere, as if: scaled by a little more than the bound allows.
        called(lambda x, axis: _scaled(right.call(x, axis=axis)))
        outcome = compare(case, on, 0)
        assert not outcome.passed
        assert "ulp" in outcome.text
        told = outcome.details.splitlines()
        assert told[0].startswith("softmax of float32: ") and len(told) < 10
        assert f"group: {case.plan.launches[0].kernel.name}" in told[1]

        def broken(x: object, axis: int) -> object:
            raise RuntimeError("a kernel did wrong")

        called(broken)
        assert compare(case, on, 0) == type(outcome)(False, "a kernel did wrong")


def _scaled(y: object) -> object:
    from cusoftmax import emulator

    return emulator.asarray(emulator.asnumpy(y) * (1 + 2.0**-20))


def test_first_line_prefers_what_the_compiler_said() -> None:
    assert first_line(RuntimeError("g++ x.cu\nx.cu:1: error: no")) == "x.cu:1: error: no"
    assert first_line(ValueError()) == "ValueError"


def test_module_and_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cusoftmax", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(cusoftmax.__file__).parents[1],
    )
    assert done.stdout.strip() == f"cusoftmax {cusoftmax.__version__}"
