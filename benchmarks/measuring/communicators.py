"""A communicator that counts what its collective operations bring."""

from __future__ import annotations

from typing import Any


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
