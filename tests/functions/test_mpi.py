"""Four ranks under MPI, on the emulator: bits, bytes, and errors that reach every rank."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cusoftmax import distributed

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 480  # far more than it takes: a rank that waits in vain is a failure
RANKS = 4
SIZES = (1024, 0, 3072, 2125)  # as tests/functions/rank_cases.py has them


def mpirun() -> str | None:
    """Return the command that starts ranks, beside this Python or on the path."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else shutil.which("mpirun")


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    """Return what each rank printed."""
    command = mpirun()
    if command is None or not importlib.util.find_spec("mpi4py"):
        pytest.skip("mpi4py and mpirun are not installed: the extra mpi has them")
    options = ["--oversubscribe", "-n", str(RANKS)]
    if "Open MPI" in subprocess.run([command, "--version"], capture_output=True, text=True).stdout:
        options = ["--allow-run-as-root", *options]
    else:
        options = options[1:]  # MPICH has no such option
    start = [command, *options, sys.executable]
    alone = [*start, "-c", "from mpi4py import MPI; MPI.COMM_WORLD.Barrier()"]
    tried = subprocess.run(alone, capture_output=True, text=True, timeout=SECONDS)
    if tried.returncode:
        pytest.skip(f"MPI itself starts no ranks here: {tried.stderr[-300:]}")
    done = subprocess.run(
        [*start, "-m", "tests.functions.rank_cases"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == RANKS, done.stdout + done.stderr
    return sorted(lines, key=lambda line: int(line["rank"]))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_results_have_the_bits_of_one_device(found: list[dict[str, Any]], dtype: str) -> None:
    """By way of the host (float32), and with MPI that reads the arrays themselves (float16)."""
    for rank in found:
        assert len(rank[dtype]) == 9
        for op, (of_ranks, of_one) in rank[dtype].items():
            assert of_ranks == of_one, (rank["rank"], op)
        assert rank[dtype] == found[0][dtype]


@pytest.mark.parametrize(
    ("case", "own", "words"),
    [
        ("shape", "ValueError", "an array of (1,)"),
        ("dtype", "ValueError", "float32, float64"),
        ("function", "ValueError", "logsumexp of "),
        ("failure", "AxisError", "axis 7"),
        ("size", "ValueError", "size=-1"),
    ],
)
def test_an_error_of_one_rank_is_one_of_all(
    found: list[dict[str, Any]], case: str, own: str, words: str
) -> None:
    said = [rank["failures"][case] for rank in found]
    assert all(words in each for each in said), said
    assert said[-1].startswith(f"{own}: ")
    others = "RankError: " if case in ("failure", "size") else "ValueError: "
    assert all(each.startswith(others) for each in said[:-1])


def test_bytes_are_those_of_the_formula(found: list[dict[str, Any]]) -> None:
    expected = distributed.gathered_bytes("softmax", 5, SIZES, "float32")
    for rank in found:
        assert rank["calls"] == [["Allgather", 16 * RANKS], ["Allgatherv", expected]]
