"""The command line on narrow terminals, in ASCII, and with negative numbers."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import cusoftmax
from cusoftmax.cli import main as cli
from cusoftmax.cli.check import Selection, check
from cusoftmax.cli.demo import demo
from cusoftmax.machine_code import sass

CHECKOUT = Path(cusoftmax.__file__).parents[1]


def started(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m cusoftmax`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cusoftmax", *arguments], cwd=CHECKOUT,
        env={**os.environ, **environment}, capture_output=True, check=False,
    )  # fmt: skip


def console(width: int) -> Console:
    return Console(width=width, file=io.StringIO(), highlight=False)


def written(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


@pytest.mark.parametrize("command", ["check", "demo"])
@pytest.mark.parametrize("seed", ["-1", "1.5", "one", str(1 << 64)])
def test_a_seed_is_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], command: str, seed: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--device", "emulator", f"--seed={seed}"])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"argument --seed: '{seed}' is not a seed: give an integer from 0" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["explain", "cost", "profile"])
@pytest.mark.parametrize("shape", ["-1x3", "3x-1", "-3", "-1X-3", "-1x3x4"])
def test_a_negative_size_is_named(
    capsys: pytest.CaptureFixture[str], command: str, shape: str
) -> None:
    assert cli.main([command, "softmax", shape]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"cusoftmax: error: shape {shape} has a negative size: sizes are 0 or more\n"


@pytest.mark.parametrize("axis", [["--axis", "-2,-1"], ["--axis=-2,-1"], ["--axis", "1,2"]])
def test_negative_axes_are_values(capsys: pytest.CaptureFixture[str], axis: list[str]) -> None:
    assert cli.main(["explain", "softmax", "2x3x4", *axis]) == 0
    assert "2 rows of 12 elements" in capsys.readouterr().out


ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.parametrize("environment", ASCII, ids=["ioencoding", "locale"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["demo", "--device", "emulator"],
        ["check", "--device", "emulator", "--op", "softmax", "--pattern", "group", "--quick"],
        ["info"],
        ["explain", "softmax", "1x100000"],
        ["profile", "softmax", "8x8", "--emulator"],
        ["cost", "softmax", "64x512"],
        ["kernels", "--arch", "sm_90", "--op", "softmax_jacobian", "--dtype", "float32"],
        ["explain", "softmäx", "3x4"],
    ],
    ids=lambda arguments: arguments[0] + arguments[1][:1] if len(arguments) > 1 else arguments[0],
)
def test_every_command_prints_in_ascii(arguments: list[str], environment: dict[str, str]) -> None:
    if arguments[0] in ("cost", "kernels") and sass.missing():
        pytest.skip("the tools for machine code are not installed")
    done = started(*arguments, **{"LC_ALL": "C.UTF-8", **environment})
    assert done.returncode == (2 if "softmäx" in arguments else 0), done
    assert (done.stdout + done.stderr).isascii()
    assert b"codec" not in done.stderr
    if arguments[0] == "cost":
        assert b"grid x threads" in done.stdout and b" us" in done.stdout


@pytest.mark.parametrize("width", [60, 80, 140])
def test_check_cuts_no_name(width: int) -> None:
    """The longest names are alike in all but their last letters."""
    ops = (
        "logsumexp_b_sign_scaled_biased_masked_causal",
        "logsumexp_b_vjp_scaled_biased_masked_causal",
        "log_softmax_vjp_scaled_masked_causal",
        "log_softmax_jvp_scaled_masked_causal",
    )
    on = console(width)
    assert check(on, "emulator", None, 0, True, Selection(ops)) == 0
    text = written(on)
    for name in (*ops, "float32", "group", "ok", "worst error"):
        assert name in text
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("┃ operation" in text) == (width == 140)


@pytest.mark.parametrize("width", [40, 80])
def test_demo_is_readable(width: int) -> None:
    on = console(width)
    assert demo(on, "emulator", None, 0) == 0
    text = written(on)
    for words in (
        "0.1025", "0.7573", "0.0377", "0.2222", "0.4444", "-0.0776", "0.1838", "softmax_vjp",
        "1,048,576", "float32", "argmax, as one-hot",
    ):  # fmt: skip
        assert words in text
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
    if width == 80:  # a terminal of 24 lines, one of which is the next prompt
        assert len(text.splitlines()) < 24


def test_a_failed_link_shows_what_is_missing(tmp_path: Path) -> None:
    from cusoftmax.emulator import _build

    command = " ".join(_build.compiler())
    done = started(
        "demo", "--device", "emulator",
        CXX=f"{command} -lno_such_library", CUSOFTMAX_CACHE_DIR=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 2
    said = done.stderr.decode()
    assert said.startswith(f"cusoftmax: error: {_build.compiler()[0]}: first error: ")
    assert "no_such_library" in said
    assert "collect2" not in said
    assert said.count("\n") == 1


def test_the_module_is_the_command_line() -> None:
    done = started("explain", "softmax", "3x4")
    assert done.returncode == 0
    assert done.stdout.startswith(b"softmax ")
    done = started("explain", "softmin", "3x4")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"cusoftmax: error: ")
