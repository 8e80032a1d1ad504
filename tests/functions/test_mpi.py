"""Four ranks under MPI, on the emulator: bits, bytes, and errors that reach every rank."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measuring.communicators import start_of_ranks
from cusoftmax import distributed

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 480  # far more than it takes: a rank that waits in vain is a failure
RANKS = 4
SIZES = (1024, 0, 3072, 2125)  # as tests/functions/rank_cases.py has them


@pytest.fixture(scope="module")
def start() -> list[str]:
    """Return the command that starts the ranks."""
    command = start_of_ranks(RANKS)
    if command is None:
        pytest.skip("mpi4py and mpirun are not installed: the extra mpi has them")
    alone = [*command, "-c", "from mpi4py import MPI; MPI.COMM_WORLD.Barrier()"]
    tried = subprocess.run(alone, capture_output=True, text=True, timeout=SECONDS)
    if tried.returncode:
        pytest.skip(f"MPI itself starts no ranks here: {tried.stderr[-300:]}")
    return command


@pytest.fixture(scope="module")
def found(start: list[str]) -> list[dict[str, Any]]:
    """Return what each rank printed."""
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


@pytest.mark.parametrize("fault", ["raise LookupError('lost')", "os.kill(os.getpid(), 9)"])
def test_a_program_that_fails_between_calls_ends_on_all_ranks(start: list[str], fault: str) -> None:
    """By mpi4py's own way to start a program, as docs/pieces.md says."""
    program = f"""
import os
from cusoftmax import distributed
from mpi4py import MPI
if MPI.COMM_WORLD.Get_rank() == 2: {fault}
distributed.Ranks(MPI.COMM_WORLD, 1024)
"""
    done = subprocess.run(
        [*start, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode
    assert ("LookupError: lost" if "Lookup" in fault else "Killed") in done.stdout + done.stderr


def test_bytes_are_those_of_the_formula(found: list[dict[str, Any]]) -> None:
    expected = distributed.gathered_bytes("softmax", 5, SIZES, "float32")
    for rank in found:
        assert rank["calls"] == [["Allgather", 16 * RANKS], ["Allgatherv", expected]]
