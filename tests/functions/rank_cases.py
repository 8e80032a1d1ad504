"""What each rank of tests/functions/test_mpi.py does, and prints: a line of JSON for a case.

mpirun -n 4 python -m tests.functions.rank_cases
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

import cusoftmax as cs
from benchmarks.measuring.communicators import Counted
from cusoftmax import distributed, emulator

LENGTH = 6 * 1024 + 77
SIZES = (1024, 0, 3072, LENGTH - 4096)  # uneven, and one rank has none
OPTIONS: dict[str, Any] = {"label_smoothing": 0.1, "grad": True}


def digest(parts: list[np.ndarray]) -> str:
    """Return a digest of the bits of arrays, joined along the classes."""
    joined = np.ascontiguousarray(np.concatenate(parts, axis=-1))
    return hashlib.sha256(joined.tobytes()).hexdigest()


def drawn(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Return logits; tests.support has them too, but takes longer to import than all else here."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def bits_of(ranks: distributed.Ranks, communicator: Any, dtype: str) -> dict[str, list[str]]:
    """Return for each function a digest of the ranks' results, and that of one device's."""
    x, v = drawn((3, LENGTH), dtype), drawn((3, LENGTH), dtype, seed=1)
    target = np.array([5, 4095, -100])

    def part(array: np.ndarray) -> Any:
        end = ranks.offset + ranks.size
        return emulator.asarray(np.ascontiguousarray(array[:, ranks.offset : end]))

    tied = np.round(x)  # equal logits on all ranks
    mine, whole, classes = part(x), emulator.asarray(x), emulator.asarray(target)
    loss, dlogits = distributed.cross_entropy(mine, classes, ranks, **OPTIONS)
    values, indices = distributed.topk_softmax(part(tied), 9, ranks)
    of_ranks = {
        "softmax": distributed.softmax(mine, ranks),
        "log_softmax": distributed.log_softmax(mine, ranks),
        "logsumexp": distributed.logsumexp(mine, ranks),
        "softmax_vjp": distributed.softmax_vjp(part(v), mine, ranks),
        "loss": loss,
        "dlogits": dlogits,
        "values": values,
        "indices": indices,
        "sample": distributed.sample(mine, ranks, seed=7),
    }
    loss, dlogits = cs.cross_entropy(whole, classes, reduction="none", **OPTIONS)
    values, indices = cs.topk_softmax(emulator.asarray(tied), 9)
    of_one = {
        "softmax": cs.softmax(whole),
        "log_softmax": cs.log_softmax(whole),
        "logsumexp": cs.logsumexp(whole),
        "softmax_vjp": cs.softmax_vjp(emulator.asarray(v), whole),
        "loss": loss,
        "dlogits": dlogits,
        "values": values,
        "indices": indices,
        "sample": cs.sample(whole, seed=7),
    }
    made = {}
    for name, result in of_ranks.items():
        own = emulator.asnumpy(result)
        parts = communicator.allgather(own)
        if own.shape[-1] != ranks.size:  # values of rows, which all ranks have
            assert all(each.tobytes() == own.tobytes() for each in parts)
            parts = [own]
        made[name] = [digest(parts), digest([emulator.asnumpy(of_one[name])])]
    return made


def failures(ranks: distributed.Ranks) -> dict[str, str]:
    """Return what this rank raises in each of the calls in which one goes wrong."""
    x = emulator.asarray(drawn((2, ranks.size), "float32"))
    last = ranks.rank == ranks.count - 1
    calls: dict[str, Callable[[], Any]] = {
        "shape": lambda: distributed.softmax(x[:1] if last else x, ranks),
        "dtype": lambda: distributed.softmax(x, ranks, dtype="float64" if last else None),
        "function": lambda: (distributed.logsumexp if last else distributed.softmax)(x, ranks),
        "failure": lambda: distributed.softmax(x, ranks, axis=7 if last else -1),
        "size": lambda: distributed.Ranks(MPI.COMM_WORLD, -1 if last else 1024),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
            said[name] = "nothing"
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
    return said


def main() -> None:
    """Run all cases, and print what this rank found."""
    communicator = MPI.COMM_WORLD
    rank = communicator.Get_rank()
    found: dict[str, Any] = {"rank": rank}
    with emulator.activate():
        for aware in (False, True):
            ranks = distributed.Ranks(communicator, SIZES[rank], cuda_aware=aware)
            dtype = "float16" if aware else "float32"
            found[dtype] = bits_of(ranks, communicator, dtype)
        found["failures"] = failures(ranks)
        counted = Counted(communicator)
        ranks = distributed.Ranks(counted, SIZES[rank])
        counted.calls.clear()
        distributed.softmax(emulator.asarray(np.zeros((5, ranks.size), np.float32)), ranks)
        found["calls"] = counted.calls
    print(json.dumps(found), flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
