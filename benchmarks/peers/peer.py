"""What a peer is, and which peers can take part here.

A peer reads the same memory as cusoftmax, by DLPack, and runs on the same stream. bfloat16, which
not every library exchanges, is passed as 16-bit integers. An exception that a peer raises is
recorded as its result; it never ends a run.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.measuring.devices import Call, Device
from benchmarks.suites.operations import DTYPES

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
InputArrays = Sequence[Any]  # cupy.ndarray


class MissingPeer(Exception):
    """The reason why a peer cannot take part."""


class RefusedProblem(Exception):
    """The reason why a peer does not accept a problem."""


class Peer:
    """Another library's implementation.

    `ops`, `dtypes` and `axes` are what it supports; it is silently left out of other comparisons.
    """

    name: str
    ops: tuple[str, ...] = ("softmax", "softmax_vjp")
    dtypes: tuple[str, ...] = DTYPES
    axes: tuple[int, ...] = (-1, 0)
    needs_gpu = True

    def probe(self, device: Device) -> str:
        """Return the version, or raise `MissingPeer`."""
        raise NotImplementedError

    def supports(self, op: str, dtype: str, axis: int) -> bool:
        return op in self.ops and dtype in self.dtypes and axis in self.axes

    def prepare(
        self, device: Device, op: str, sets: Sequence[InputArrays], axis: int
    ) -> list[Call]:
        """Return a call for each set of inputs; `result` converts what the calls return."""
        raise NotImplementedError

    def result(self, device: Device, value: Any, dtype: np.dtype[Any]) -> Any:
        """Convert the value of a call to an array that `device.fetch_rows` accepts."""
        raise NotImplementedError


def probe(peers: Sequence[Peer], device: Device) -> tuple[list[Peer], dict[str, dict[str, str]]]:
    """Return the peers that can take part, and every peer's version or why it is missing."""
    available, found = [], {}
    for peer in peers:
        try:
            if peer.needs_gpu and device.emulated:
                raise MissingPeer("needs a GPU")
            found[peer.name] = {"version": peer.probe(device)}
            available.append(peer)
        except MissingPeer as reason:
            found[peer.name] = {"missing": str(reason)}
        except Exception as error:  # an installed but broken peer counts as missing
            line = str(error).strip().splitlines()
            found[peer.name] = {"missing": f"{type(error).__name__}: {line[0] if line else ''}"}
    return available, found


def import_or_missing(name: str) -> Any:
    """Import a module; raise `MissingPeer` if that fails."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPeer(f"cannot be imported: {error}".splitlines()[0]) from None
