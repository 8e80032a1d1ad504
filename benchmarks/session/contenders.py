"""Who takes part in a cell: cusoftmax, every peer that supports the problem, and the copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from benchmarks.measuring.results import COPY, OURS, WorstError
from benchmarks.measuring.timing import Contender
from benchmarks.peers.peer import Peer
from benchmarks.session.inputs import CellInputs, Session
from benchmarks.suites.cells import Cell
from cusoftmax.machine import first_line

# The calls of a contender, and a function that converts the value of a call to a result array.
CallsAndResult = tuple[list[Any], Callable[[Any], Any]]


@dataclass
class CheckedContender(Contender):
    """A contender and the error of its first result. Its name is a pair: who, and sigma."""

    error: WorstError | None = None


def check_contender(
    name: Any, prepare: Callable[[], CallsAndResult], judge: Callable[[Any], WorstError]
) -> CheckedContender:
    """Prepare a contender, call it once and judge the result; an exception makes it failed."""
    try:
        calls, result = prepare()
        return CheckedContender(name, calls, error=judge(result(calls[0]())))
    except Exception as error:
        return CheckedContender(name, (), failed=one_line(error))


def one_line(error: BaseException) -> str:
    """Return an exception as one line."""
    return f"{type(error).__name__}: {first_line(error)}"[:300]


def contenders(
    session: Session, cell: Cell, inputs: CellInputs, sigma: float
) -> list[CheckedContender]:
    """Return cusoftmax and every peer that supports the operation, ready to be timed."""
    device, operation = session.device, inputs.operation

    def ours() -> CallsAndResult:
        pairs = list(zip(inputs.sets, inputs.outputs(), strict=True))
        calls = [lambda s=s, out=out: operation.call(s, cell.axis, out) for s, out in pairs]
        return calls, lambda value: value

    checked = [check_contender((OURS, sigma), ours, inputs.judge)]
    for peer in session.peers:
        if cell.peers is not None and peer.name not in cell.peers:
            continue
        if not peer.supports(cell.op, cell.dtype, cell.axis):
            continue

        def theirs(peer: Peer = peer) -> CallsAndResult:
            calls = peer.prepare(device, cell.op, inputs.sets, cell.axis)
            return calls, lambda value: peer.result(device, value, inputs.dtype)

        checked.append(check_contender((peer.name, sigma), theirs, inputs.judge))
    return checked


def copy_contender(session: Session, cell: Cell, sets: int) -> CheckedContender:
    """Return a copy within device memory of as much traffic as the cell needs at least."""
    nbytes = max(1, cell.least_bytes // 2)  # every byte is read once and written once
    calls = []
    for _ in range(sets):
        source, target = (cupy.empty(-(-nbytes // 2), np.float16) for _ in range(2))
        session.pool.fill(source, 1.0)
        calls.append(
            lambda t=target, s=source: session.device.copy_bytes(t.data.ptr, s.data.ptr, nbytes)
        )
    return CheckedContender((COPY, cell.sigmas[0]), calls)
