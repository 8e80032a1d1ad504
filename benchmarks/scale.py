"""Bytes, launches and seconds of rows that are divided among GPUs, by formula.

    python -m benchmarks.scale
    mpirun -n 4 python -m benchmarks.scale --count

The first prints what is predicted for 1 to 1024 GPUs; docs/scale.md says how, and where the figures
of the network come from. The second counts what the ranks of a call on the emulator gather, beside
the formula; it needs mpi4py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measuring.communicators import Counted
from cusoftmax import distributed
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.machine_code.chips import Chip
from cusoftmax.operations.dtypes import ITEMSIZE

STAMP = "predicted, not measured"
CHIP = Chip.named("H100")
GPUS = tuple(1 << k for k in range(11))
NODE = 8  # GPUs that NVLink joins
NVLINK, INFINIBAND = 450e9, 400e9  # bytes a second, one way: of a GPU, and of a node's 8 adapters
LAUNCH = 3e-6  # seconds from one kernel's end to the next one's, assumed
LAUNCHES = 5  # two for nodes, two to fold them, one for results
# The start of a ring, and a step by NVLink, from node to node, and by NVLink where there are more
# nodes than one; the share of the bandwidth within a node and beyond, and the most of it: NCCL's
# own estimates of its protocols LL and Simple, in seconds and bytes a second.
PROTOCOLS = {
    "LL": ((6.6e-6, 0.6e-6, 2.7e-6, 1.0e-6), (1 / 3, 1 / 4), (87.7e9, 20.4e9)),
    "Simple": ((8.4e-6, 3.4e-6, 14.0e-6, 3.4e-6), (1.0, 1.0), (NVLINK, INFINIBAND)),
}


@dataclass(frozen=True)
class Workload:
    """A function of rows, and how often it reads or writes each element."""

    op: str
    rows: int
    length: int
    dtype: str
    passes: int
    k: int | None = None  # elements that are selected in a row

    def __str__(self) -> str:
        selected = f", k = {self.k}," if self.k else ""
        return f"{self.op}{selected} of {self.rows} rows of {self.length} classes, {self.dtype}"

    def gathered(self, sizes: Sequence[int], *, padded: bool) -> int:
        """Return the bytes of a call's all-gather."""
        rows, dtype = self.rows, self.dtype
        return distributed.gathered_bytes(self.op, rows, sizes, dtype, k=self.k, padded=padded)


# A vocabulary at the rows of training and of decoding, and as many classes as 1024 GPUs can have.
WORKLOADS = (
    Workload("cross_entropy", 8192, 131072, "float16", 3),
    Workload("softmax", 64, 131072, "float16", 3),
    Workload("topk_softmax", 64, 131072, "float16", 1, k=50),
    Workload("cross_entropy", 1024, 1 << 20, "float16", 3),
)


@dataclass(frozen=True)
class Prediction:
    """A call on so many GPUs, in bytes of each of them and in seconds."""

    gpus: int
    slice_bytes: int
    gathered: int
    memory: float
    launches: float
    gather: float

    @property
    def seconds(self) -> float:
        """The whole call; nothing of it runs beside the rest."""
        return self.memory + self.launches + self.gather

    @property
    def limit(self) -> str:
        """What takes the most of it."""
        parts = {"memory": self.memory, "launches": self.launches, "gather": self.gather}
        return max(parts, key=lambda name: parts[name])


def gather_seconds(gpus: int, gathered: int) -> float:
    """Return the time of an all-gather around a ring, by the faster of NCCL's protocols."""
    if gpus == 1:
        return 0.0
    nodes = -(-gpus // NODE)
    several, sent = nodes > 1, gathered * (gpus - 1) / gpus
    times = []
    for (start, link, network, beside), shares, most in PROTOCOLS.values():
        within = beside if several else link
        latency = start + (gpus - nodes) * within + (nodes - 1) * network
        bandwidth = min(most[several], shares[several] * (INFINIBAND if several else NVLINK))
        times.append(latency + sent / bandwidth)
    return min(times)


def predict(work: Workload, gpus: int) -> Prediction:
    """Predict a call on so many GPUs, with NCCL."""
    sizes = distributed.slices(work.length, gpus)
    slice_bytes = work.rows * max(sizes) * ITEMSIZE[work.dtype]
    gathered = work.gathered(sizes, padded=True)
    memory = (work.passes * slice_bytes + gathered) / CHIP.copy_bandwidth
    launches = (LAUNCHES if gpus > 1 else LAUNCHES - 2) * LAUNCH  # alone, there is nothing to fold
    return Prediction(gpus, slice_bytes, gathered, memory, launches, gather_seconds(gpus, gathered))


def crossing(work: Workload) -> float:
    """Return from how many GPUs on the nodes' bytes take longer than the slice, latencies aside."""
    one = work.gathered((work.length,), padded=False)
    whole = work.passes * work.rows * work.length * ITEMSIZE[work.dtype]
    return float((whole / CHIP.copy_bandwidth / (one / INFINIBAND)) ** 0.5)


def lines(works: Sequence[Workload] = WORKLOADS) -> Iterator[str]:
    """Yield what the command prints."""
    for work in works:
        yield f"{work}; {CHIP.name}, {NODE} to a node; {STAMP}"
        head = ("GPUs", "slice, MB", "gathered, MB", "memory, us", "launches, us", "gather, us")
        yield f"{head[0]:>6}  {'  '.join(head[1:])}   call, us  limit"
        for gpus in GPUS:
            if gpus * 1024 > work.length:
                yield f"{gpus:6}  a slice would be less than a chunk of 1024"
                continue
            p = predict(work, gpus)
            times = (p.memory, p.launches, p.gather, p.seconds)
            memory, launches, gather, call = (f"{1e6 * t:.1f}" for t in times)
            yield (
                f"{gpus:6}  {p.slice_bytes / 1e6:9.2f}  {p.gathered / 1e6:12.3f}  {memory:>10}  "
                f"{launches:>12}  {gather:>10}  {call:>8}  {p.limit}"
            )
        yield f"the bytes alone take longer than the slice beyond {crossing(work):.0f} GPUs"
        yield ""


# Of what is counted: uneven slices, of which one is empty; and how many elements are selected.
ROWS, SIZES, K = 5, (1024, 0, 3072, 2125), 2


def counted(communicator: Any) -> list[str]:
    """Return, for calls on the emulator, the bytes gathered and those of the formula."""
    from cusoftmax import emulator

    wrapped = Counted(communicator)
    sizes = (
        SIZES if wrapped.Get_size() == len(SIZES) else distributed.slices(6221, wrapped.Get_size())
    )
    made = [f"{ROWS} rows in slices of {sizes}, float32: bytes that each rank has after a call"]
    with emulator.activate():
        ranks = distributed.Ranks(wrapped, sizes[wrapped.Get_rank()])
        x = emulator.asarray(np.zeros((ROWS, ranks.size), np.float32))
        target = emulator.asarray(np.zeros(ROWS, np.int64))
        calls: dict[str, Callable[[], Any]] = {
            "softmax": lambda: distributed.softmax(x, ranks),
            "softmax_vjp": lambda: distributed.softmax_vjp(x, x, ranks),
            "cross_entropy": lambda: distributed.cross_entropy(x, target, ranks, grad=True),
            "topk_softmax": lambda: distributed.topk_softmax(x, K, ranks),
            "sample": lambda: distributed.sample(x, ranks, seed=0),
        }
        for op, call in calls.items():
            wrapped.calls.clear()
            call()
            (_, agreed), (_, nodes) = wrapped.calls
            formula = distributed.gathered_bytes(op, ROWS, sizes, "float32", k=K)
            made.append(f"  {op:<13}  counted {nodes:5}  formula {formula:5}  to agree {agreed}")
    return made


def main() -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", action="store_true", help="as a rank of mpirun: count the bytes")
    if parser.parse_args().count:
        from mpi4py import MPI

        found = counted(MPI.COMM_WORLD)
        if MPI.COMM_WORLD.Get_rank() == 0:
            print("\n".join(found))
        return 0
    print("\n".join(lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
