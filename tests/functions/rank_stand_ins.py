"""Ranks as threads of one process, and communicators between them with the interfaces of others."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from cusoftmax.planning.checks import is_array
from cusoftmax.runtime.backend import active

SECONDS = 60  # in which ranks have to meet; one that does not come is a hang


class Meeting:
    """Where ranks lay down what they have, and see what all have."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count, timeout=SECONDS)
        self._laid: list[Any] = [None] * count

    def all_of(self, rank: int, mine: Any) -> list[Any]:
        """Return what all ranks have; BrokenBarrierError if one does not come."""
        self._laid[rank] = mine
        self._barrier.wait()
        found = list(self._laid)
        self._barrier.wait()
        return found


class Mpi:
    """The interface of mpi4py's communicators, as far as it is used; counts the bytes gathered."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting, self._rank = meeting, rank
        self.calls: list[tuple[str, int]] = []

    def Get_rank(self) -> int:
        return self._rank

    def Get_size(self) -> int:
        return self._meeting.count

    def Allgather(self, sent: np.ndarray, received: np.ndarray) -> None:
        parts = self._meeting.all_of(self._rank, sent.copy())
        received.reshape(-1)[...] = np.concatenate([part.reshape(-1) for part in parts])
        self.calls.append(("Allgather", received.nbytes))

    def Allgatherv(self, sent: Any, received: list[Any]) -> None:
        array, counts = received
        on_device = is_array(sent)  # CUDA-aware MPI reads and writes it there
        parts = self._meeting.all_of(self._rank, sent.get() if on_device else sent.copy())
        assert [len(part) for part in parts] == list(counts)
        if on_device:
            array.set(np.concatenate(parts))
        else:
            array[...] = np.concatenate(parts)
        self.calls.append(("Allgatherv", array.nbytes))


def _gather_at(meeting: Meeting, rank: int, sent: int, received: int, count: int) -> None:
    """Gather bytes at addresses of the device, as NCCL does: as many from each rank."""
    if not active().on_host:
        cupy.cuda.get_current_stream().synchronize()
    parts = meeting.all_of(rank, (sent, count))
    assert {size for _, size in parts} == {count}  # NCCL would not notice
    for i, (address, size) in enumerate(parts):
        to = received + i * size
        if active().on_host:
            ctypes.memmove(to, address, size)
        else:
            cupy.cuda.runtime.memcpy(to, address, size, cupy.cuda.runtime.memcpyDeviceToDevice)
    meeting.all_of(rank, None)  # what was sent may be freed now


class Nccl:
    """The interface of `cupy.cuda.nccl.NcclCommunicator`."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting, self._rank = meeting, rank
        self.calls: list[tuple[int, int, int]] = []  # bytes gathered, dtype, stream

    def rank_id(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._meeting.count

    def allGather(self, sent: int, received: int, count: int, dtype: int, stream: int) -> None:
        _gather_at(self._meeting, self._rank, sent, received, count)
        self.calls.append((count * self._meeting.count, dtype, stream))


class Cupyx:
    """The interface of `cupyx.distributed.NCCLBackend`."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self._meeting, self.rank, self._n_devices = meeting, rank, meeting.count
        self.calls: list[int] = []  # bytes gathered

    def all_gather(self, sent: Any, received: Any, count: int, stream: Any = None) -> None:
        assert sent.flags.c_contiguous and received.flags.c_contiguous and stream is None
        assert sent.dtype == received.dtype == np.uint8 and sent.size == count
        assert received.size == count * self._meeting.count
        _gather_at(self._meeting, self.rank, sent.data.ptr, received.data.ptr, count)
        self.calls.append(received.size)


def on_ranks(count: int, part: Callable[[int], Any]) -> list[Any]:
    """Return what `part` returns or raises on each rank."""
    results: list[Any] = [None] * count

    def run(rank: int) -> None:
        try:
            results[rank] = part(rank)
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * SECONDS)
    assert not any(thread.is_alive() for thread in threads), "a rank hangs"
    return results
