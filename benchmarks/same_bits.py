"""One digest of each operation's results, however its rows are divided and whoever computes them.

    python -m benchmarks.same_bits [--op softmax,sample] [--dtype float32]

The ways are: whole on one device; in 2, 3, 4 and 7 pieces (`cusoftmax.nodes`); streamed with three
sizes of device memory; arrays of Dask of three chunkings; four ranks of MPI, which this command
starts. Dask and MPI are tried where they are installed, the functions that each way has. The exit
status is 1 if two ways differ in a bit, or if there is a NaN, which the inputs give no cause for.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import cusoftmax as cs
from benchmarks.measuring.communicators import start_of_ranks
from cusoftmax import distributed, nodes, reference, streaming
from cusoftmax.cli.arguments import names_of
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.machine import Machine, UserError, machine
from cusoftmax.operations.dtypes import FLOATS

Array = np.ndarray[Any, Any]
Results = tuple[Array, ...]

ROWS, LENGTH = 3, 12 * 1024 + 64
# Where pieces begin: multiples of 1024, a multiple of every chunk. A piece of four is empty.
CUTS = (
    (0, 5120, LENGTH),
    (0, 1024, 8192, LENGTH),
    (0, 1024, 1024, 7168, LENGTH),
    (0, 1024, 4096, 5120, 6144, 8192, 11264, LENGTH),
)
FOUR = CUTS[2]
CHUNKS = {"rows": (2, LENGTH), "classes": (ROWS, 3072), "both, off the boundaries": (1, 2500)}
# What each operation reads: logits x, softmax y or its logarithm, elements v, values of rows r,
# classes t.
INPUTS = {
    "softmax_vjp": "y v",
    "softmax_jvp": "y v",
    "softmax_hvp": "y v v",
    "softmax_vjp_vjp": "y v v",
    "log_softmax_vjp": "logy v",
    "log_softmax_jvp": "logy v",
    "logsumexp_vjp": "x r",
    "softmax_value_and_vjp": "x v",
    "softmax_value_and_jvp": "x v",
    "log_softmax_value_and_vjp": "x v",
    "log_softmax_value_and_jvp": "x v",
    "cross_entropy": "x t",
    "cross_entropy_vjp": "x t r",
}
_LOSS = {"label_smoothing": 0.1, "z_loss": 1e-3}
KINDS = ("pieces", "streamed", "Dask", "ranks")
OPTIONS: dict[str, dict[str, Any]] = {
    "cross_entropy": {"grad": True, **_LOSS},
    "cross_entropy_vjp": _LOSS,
    "topk_softmax": {"k": 5},
    "sample": {"seed": 7},
}


class Case(NamedTuple):
    """An operation and a dtype."""

    op: str
    dtype: str

    @property
    def options(self) -> dict[str, Any]:
        return OPTIONS.get(self.op, {})

    def inputs(self) -> list[Array]:
        """Draw what the operation reads, the same in every process."""
        rng = np.random.default_rng(0)
        kind = np.dtype(getattr(ml_dtypes, self.dtype, self.dtype))

        def draw(what: str) -> Array:
            if what == "t":
                return np.array([0, LENGTH - 1, -100])
            if what == "r":
                return rng.standard_normal(ROWS).astype(kind)
            values = rng.standard_normal((ROWS, LENGTH)) * 3
            if what in ("y", "logy"):
                values[:, 2] += 12  # one class dominates
                function = reference.softmax if what == "y" else reference.log_softmax
                values = function(values, -1)
            return values.astype(kind)

        return [draw(what) for what in INPUTS.get(self.op, "x").split()]


def sliced(array: Array, first: int, end: int) -> Array:
    """Return the elements of a piece; values of rows are whole in each."""
    if array.shape != (ROWS, LENGTH):
        return array
    return np.ascontiguousarray(array[:, first:end])


def joined(parts: Sequence[Results], whole: Results) -> Results:
    """Put the results of pieces together. If their values of rows differ, all of them are kept."""

    def join(found: Sequence[Array], expected: Array) -> Array:
        if expected.shape == (ROWS, LENGTH):
            return np.concatenate(found, axis=-1)
        alike = all(each.tobytes() == found[0].tobytes() for each in found)
        return found[0] if alike else np.concatenate(found)

    return tuple(
        join(found, each) for found, each in zip(zip(*parts, strict=True), whole, strict=True)
    )


def digest(results: Results) -> str:
    """Return a digest of the bits, shapes and dtypes of results."""
    found = hashlib.sha256()
    for each in results:
        found.update(f"{each.dtype} {each.shape} ".encode())
        found.update(np.ascontiguousarray(each).tobytes())
    return found.hexdigest()[:16]


def several(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


# --------------------------------------------------------------------------------------- the ways


def whole(case: Case, on: Machine) -> Results:
    """Compute whole rows on one device."""
    reduction = {"reduction": "none"} if case.op == "cross_entropy" else {}
    given = map(on.asarray, case.inputs())
    results = getattr(cs, case.op)(*given, **case.options, **reduction)
    return tuple(map(on.asnumpy, several(results)))


def in_pieces(case: Case, on: Machine, cuts: tuple[int, ...]) -> list[Results]:
    """Compute each piece of the rows by its nodes."""
    inputs = case.inputs()

    def piece(first: int, end: int) -> list[Any]:
        return [on.asarray(sliced(each, first, end)) for each in inputs]

    def partial(first: int, end: int) -> nodes.Nodes:
        x, *others = piece(first, end)
        place = {"offset": first, "length": LENGTH}
        return nodes.partial(x, case.op, *others, **place, **case.options)

    def apply(first: int, end: int) -> Results:
        x, *others = piece(first, end)
        results = nodes.apply(x, folded, *others, offset=first)
        return tuple(map(on.asnumpy, several(results)))

    places = list(pairwise(cuts))
    folded = nodes.combine([partial(*place) for place in places])
    return [apply(*place) for place in places]


def device_sizes(case: Case) -> tuple[int | None, ...]:
    """Return three sizes: for all rows, for some of them, and for pieces of one.

    Of logsumexp, float16 rows without results need no more than their pieces.
    """
    size = FLOATS[case.dtype]
    return None, 10 * LENGTH * size, 34_000 + 12_000 * size


def streamed(case: Case, device_bytes: int | None) -> Results:
    """Compute arrays of the host in blocks."""
    function = getattr(streaming, case.op)
    options = {**case.options, "device_bytes": device_bytes, "progress": False}
    return several(function(*case.inputs(), **options))


def of_dask(case: Case, chunks: tuple[int, ...]) -> Results:
    """Compute arrays of Dask."""
    import dask
    import dask.array as da

    lazy = [da.from_array(each, chunks=chunks[: each.ndim]) for each in case.inputs()]
    function = getattr(importlib.import_module("cusoftmax.dask"), case.op)
    with dask.config.set(scheduler="threads", num_workers=2):
        found: Results = dask.compute(*several(function(*lazy, **case.options)))
    return found


def of_rank(case: Case, on: Machine, ranks: distributed.Ranks) -> Results:
    """Compute this rank's slice."""
    end = ranks.offset + ranks.size
    given = [on.asarray(sliced(each, ranks.offset, end)) for each in case.inputs()]
    results = getattr(distributed, case.op)(*given, ranks=ranks, **case.options)
    return tuple(map(on.asnumpy, several(results)))


def has_dask(op: str) -> bool:
    """Whether a function for arrays of Dask can be tried."""
    if not all(map(importlib.util.find_spec, ("dask", "cusoftmax.dask"))):
        return False
    return hasattr(importlib.import_module("cusoftmax.dask"), op)


def ways(case: Case, on: Machine, expected: Results) -> Iterator[tuple[str, str, Results]]:
    """Yield the kind, the name and the results of each way but ranks."""
    for cuts in CUTS:
        yield "pieces", f"{len(cuts) - 1} pieces", joined(in_pieces(case, on, cuts), expected)
    if hasattr(streaming, case.op):
        for size in device_sizes(case):
            yield "streamed", f"streamed with device_bytes={size}", streamed(case, size)
    if has_dask(case.op):
        for name, chunks in CHUNKS.items():
            yield "Dask", f"chunks of Dask: {name}", of_dask(case, chunks)


# --------------------------------------------------------------------------------------- the ranks


def as_rank(cases: Sequence[Case], communicator: Any) -> dict[str, str]:
    """Return, on the first of four ranks, for each case the digest of what all of them found."""
    rank, found = communicator.Get_rank(), {}
    with machine() as on:
        ranks = distributed.Ranks(communicator, FOUR[rank + 1] - FOUR[rank])
        for case in cases:
            parts = communicator.allgather(of_rank(case, on, ranks))
            if rank == 0:
                found[" ".join(case)] = digest(joined(parts, whole(case, on)))
    return found


def by_ranks(cases: Sequence[Case]) -> dict[str, str]:
    """Start four ranks, and return a digest for each case; none where there is no MPI."""
    start = start_of_ranks(len(FOUR) - 1)
    if start is None or not cases:
        return {}
    names = [f"--rank={' '.join(case)}" for case in cases]
    command = [*start, "-m", "benchmarks.same_bits", *names]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the ranks failed:\n{done.stdout}{done.stderr}")
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


# --------------------------------------------------------------------------------------- the table


@dataclass
class Row:
    """What was found for a case: the digest of whole rows, and for each way whether it has it."""

    digest: str
    alike: list[tuple[str, str, bool]]  # kind, name

    def said(self) -> str:
        """Return the counts of each kind, and what differs."""
        words = []
        for kind in KINDS:
            found = [same for each, _, same in self.alike if each == kind]
            words.append(f"{sum(found)} of {len(found)}" if found else "-")
        counts = "  ".join(f"{word:<8}" for word in words)
        wrong = [name for _, name, same in self.alike if not same]
        return f"{counts}  DIFFER: {'; '.join(wrong)}" if wrong else counts


def tried(cases: Sequence[Case]) -> dict[Case, Row]:
    """Compute all cases in all ways."""
    with machine() as on:

        def one(case: Case) -> Row:
            expected = whole(case, on)
            invalid = any(np.isnan(each.astype(np.float64)).any() for each in expected)
            mine = "has a NaN" if invalid else digest(expected)
            made = [
                (kind, name, digest(each) == mine) for kind, name, each in ways(case, on, expected)
            ]
            return Row(mine, made)

        with ThreadPoolExecutor(os.cpu_count() if on.emulated else 1) as pool:
            rows = dict(zip(cases, pool.map(one, cases), strict=True))
    for name, found in by_ranks([case for case in cases if hasattr(distributed, case.op)]).items():
        row = rows[Case(*name.split())]
        row.alike.append(("ranks", "four ranks of MPI", found == row.digest))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--op", action="append", default=[], help="of `nodes.OPERATIONS`; A,B")
    parser.add_argument("--dtype", action="append", default=[], help="of the inputs; A,B")
    parser.add_argument("--rank", action="append", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.rank:
        from mpi4py import MPI

        found = as_rank([Case(*name.split()) for name in given.rank], MPI.COMM_WORLD)
        if found:
            print(json.dumps(found), flush=True)
        return 0
    try:
        ops = names_of("--op", given.op, nodes.OPERATIONS) or nodes.OPERATIONS
        dtypes = names_of("--dtype", given.dtype, FLOATS) or tuple(FLOATS)
    except UserError as error:
        parser.error(str(error))
    rows = tried([Case(op, dtype) for op in ops for dtype in dtypes])
    print(f"{ROWS} rows of {LENGTH} elements: digests of whole rows, and how many ways have them")
    heads = "  ".join(f"{kind:<8}" for kind in KINDS)
    print(f"{'operation':<27}{'dtype':<10}{'digest':<18}{heads}".rstrip())
    for case, row in rows.items():
        print(f"{case.op:<27}{case.dtype:<10}{row.digest:<18}{row.said()}".rstrip())
    alike = [same for row in rows.values() for *_, same in row.alike]
    print(f"{sum(alike)} of {len(alike)} have the bits of one device")
    return 0 if all(alike) else 1


if __name__ == "__main__":
    sys.exit(main())
