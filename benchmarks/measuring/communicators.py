"""Ranks of MPI: what starts them, and a communicator that counts what its operations bring."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


def start_of_ranks(count: int) -> list[str] | None:
    """Return the command that starts so many ranks of what Python is given; None without MPI.

    It is the one beside this Python, or on the path. A rank that fails ends the others.
    """
    beside = Path(sys.executable).with_name("mpirun")
    command = str(beside) if beside.exists() else shutil.which("mpirun")
    if command is None or not importlib.util.find_spec("mpi4py"):
        return None
    said = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
    # MPICH has no such options, and needs none.
    options = ["--allow-run-as-root", "--oversubscribe"] if "Open MPI" in said else []
    return [command, *options, "-n", str(count), sys.executable, "-m", "mpi4py"]


class Counted:
    """One of mpi4py's, as far as `cusoftmax.distributed` uses it.

    Attributes
    ----------
    calls : list of (str, int)
        Each call's name, and the bytes that this rank has after it.
    """

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        self.calls: list[tuple[str, int]] = []

    def Get_rank(self) -> int:
        """Return this rank's number."""
        return int(self._communicator.Get_rank())

    def Get_size(self) -> int:
        """Return how many ranks there are."""
        return int(self._communicator.Get_size())

    def Allgather(self, sent: Any, received: Any) -> None:
        """Gather as much from each rank."""
        self._communicator.Allgather(sent, received)
        self.calls.append(("Allgather", received.nbytes))

    def Allgatherv(self, sent: Any, received: Any) -> None:
        """Gather what each rank has."""
        self._communicator.Allgatherv(sent, received)
        self.calls.append(("Allgatherv", received[0].nbytes))
