"""What ranks say to one another: bytes from host to host, and arrays from device to device.

What can fail on one rank is in `prepared`, which no other rank waits for. The function that it
returns is the collective alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Protocol

import numpy as np

from cusoftmax.planning.checks import Array, described
from cusoftmax.runtime import arrays, copies
from cusoftmax.runtime.backend import active, to_host

_UINT8 = 1  # ncclUint8 of nccl.h; CuPy has the name only where it finds the library

Gather = Callable[[], Array]


class Messages(Protocol):
    """Says bytes to all ranks."""

    rank: int
    size: int

    def exchange(self, message: bytes) -> list[bytes]:
        """Return the messages of all ranks, which are of one length."""


class Alone:
    """The only rank."""

    rank, size = 0, 1

    def exchange(self, message: bytes) -> list[bytes]:
        """Return the messages of all ranks, which are of one length."""
        return [message]

    def prepared(self, array: Array, counts: Sequence[int]) -> Gather:
        """Return what gathers the arrays of all ranks, joined along the first dimension.

        Rank i has ``counts[i]`` places there; the other dimensions are alike.
        """
        return lambda: array


class Mpi:
    """A communicator of mpi4py. With `aware`, MPI reads and writes the memory of the device."""

    def __init__(self, communicator: Any, aware: bool) -> None:
        self._communicator, self._aware = communicator, aware
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()

    def exchange(self, message: bytes) -> list[bytes]:
        received = np.empty((self.size, len(message)), np.uint8)
        self._communicator.Allgather(np.frombuffer(message, np.uint8).copy(), received)
        return [row.tobytes() for row in received]

    def prepared(self, array: Array, counts: Sequence[int]) -> Gather:
        one = _bytes_of_one(array)
        sizes = [count * one for count in counts]
        made = arrays.empty((sum(counts), *array.shape[1:]), array.dtype)
        if self._aware:
            sent, received = (active().shared(_as_bytes(each)) for each in (array, made))
            if not active().on_host:  # MPI does not wait for the stream
                _stream().synchronize()
        else:
            sent = to_host(array).reshape(-1).view(np.uint8)
            received = np.empty(sum(sizes), np.uint8)

        def gather() -> Array:
            self._communicator.Allgatherv(sent, [received, sizes])
            if not self._aware:
                _fill(made, received.view(made.dtype).reshape(made.shape))
            return made

        return gather


class Nccl:
    """A communicator of NCCL, CuPy's own or that of `cupyx.distributed`.

    All is done in the order of the current stream, and the host waits for nothing. NCCL gathers as
    much from each rank: what a rank has less than the most is filled up, and cut out thereafter.
    """

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        if hasattr(communicator, "allGather"):
            self.rank, self.size = int(communicator.rank_id()), int(communicator.size())
        else:
            self.rank, self.size = int(communicator.rank), int(communicator._n_devices)

    def exchange(self, message: bytes) -> list[bytes]:
        """Return the messages of all ranks, by way of the devices, which the host waits for."""
        sent = arrays.empty((1, len(message)), np.dtype(np.uint8))
        _fill(sent, np.frombuffer(message, np.uint8).reshape(sent.shape))
        return [row.tobytes() for row in to_host(self.prepared(sent, [1] * self.size)())]

    def prepared(self, array: Array, counts: Sequence[int]) -> Gather:
        most = max(counts)
        sent, shape = array, array.shape[1:]
        if len(array) < most:
            sent = arrays.empty((most, *shape), array.dtype)
            copies.copy(sent[: len(array)], array)
        received = arrays.empty((self.size, most, *shape), array.dtype)
        joined = received.reshape(-1, *shape) if min(counts) == most else None
        made = arrays.empty((sum(counts), *shape), array.dtype) if joined is None else joined

        def gather() -> Array:
            self._all_gather(_as_bytes(sent), _as_bytes(received))
            if joined is None:
                places = pairwise(np.cumsum([0, *counts]).tolist())
                for (start, end), each in zip(places, received, strict=True):
                    copies.copy(made[start:end], each[: end - start])
            return made

        return gather

    def _all_gather(self, sent: Array, received: Array) -> None:
        if hasattr(self._communicator, "all_gather"):
            self._communicator.all_gather(sent, received, sent.size)
            return
        stream = 0 if active().on_host else _stream().ptr
        places = sent.data.ptr, received.data.ptr
        self._communicator.allGather(*places, sent.size, _UINT8, stream)


def transport_of(name: str, communicator: Any, aware: bool) -> Alone | Mpi | Nccl:
    """Return what gathers over a communicator; TypeError for what is none."""
    if communicator is None:
        return Alone()
    if hasattr(communicator, "Allgatherv"):
        return Mpi(communicator, aware)
    if any(hasattr(communicator, name) for name in ("allGather", "all_gather")):
        return Nccl(communicator)
    raise TypeError(
        f"Ranks: {name}={described(communicator)} is not accepted; give a communicator of "
        f"mpi4py, a cupy.cuda.nccl.NcclCommunicator, what cupyx.distributed.init_process_group "
        f"returns, or None for a single rank"
    )


def _bytes_of_one(array: Array) -> int:
    return int(prod(array.shape[1:]) * array.dtype.itemsize)


def _as_bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def _stream() -> Any:
    import cupy

    return cupy.cuda.get_current_stream()


def _fill(array: Array, host: np.ndarray[Any, Any]) -> None:
    """Copy from the host to a contiguous array."""
    if active().on_host:
        active().shared(array)[...] = host
    else:
        array.set(host)
