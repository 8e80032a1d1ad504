"""The largest errors that a search finds, beside the bounds of the numerical contract.

    python -m benchmarks.largest_errors [--op NAME ...] [--dtype float32] [--axis 0] [--rounds 100]

Rows begin where roundings may go in one direction: of few distinct numbers, whose errors are alike,
or with one element that has nearly all of the row. Those with the largest errors are kept and
changed a little, round by round. Kernels run on the emulator. docs/accuracy.md says of which bounds
this is the evidence. The exit status is 1 if one is exceeded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cusoftmax import emulator, reference
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.operations.table import OPERATIONS

Array = np.ndarray[Any, np.dtype[Any]]

OPS = (
    *("softmax", "log_softmax", "logsumexp", "cross_entropy", "cross_entropy_grad"),
    *("softmax_vjp", "log_softmax_vjp", "log_softmax_jvp", "logsumexp_vjp"),
    *("softmax_vjp_vjp", "softmax_hvp"),
    *("softmax_value_and_vjp", "log_softmax_value_and_vjp", "log_softmax_value_and_jvp"),
)
LENGTHS = (8, 40, 300)
STARTS = 4  # of the search, each from other rows
KEPT, CHILDREN = 32, 8  # rows that are kept, and new ones of each
VECTORS = 2  # dy, v and the like; an operation has at most so many


@dataclass
class Rows:
    """Rows to try: logits and vectors, of shapes (rows, n) and (VECTORS, rows, n), and classes."""

    x: Array
    v: Array
    target: Array

    def of(self, chosen: Any) -> Rows:
        return Rows(self.x[chosen], self.v[:, chosen], self.target[chosen])

    def and_(self, other: Rows) -> Rows:
        return Rows(
            np.concatenate((self.x, other.x)),
            np.concatenate((self.v, other.v), axis=1),
            np.concatenate((self.target, other.target)),
        )

    def inputs(self, op: str) -> tuple[Array, ...]:
        """Return the inputs of an operation, in the dtype of the rows."""
        vectors, found = iter(self.v), []
        for name in OPERATIONS[op].read:
            if name in ("x", "logits"):
                found.append(self.x)
            elif name == "target":
                found.append(self.target[:, None])
            elif name in ("y", "logy"):
                of = reference.softmax if name == "y" else reference.log_softmax
                found.append(of(self.x).astype(self.x.dtype))
            else:
                vector = next(vectors)
                found.append(vector if name in OPERATIONS[op].inputs else vector[:, :1])
        return tuple(found)


def first(rng: np.random.Generator, count: int, n: int, dtype: str) -> Rows:
    """Return rows of few distinct logits, half of them below one that dominates."""
    few = rng.normal(0, 10, (count, 3))
    x = np.take_along_axis(few, rng.integers(0, 3, (count, n)), 1)
    half = np.arange(count) % 2 == 0
    gap = rng.uniform(-1, 30 if dtype == "float32" else 60, count) + x.max(1)
    x[half, rng.integers(0, n, count)[half]] = gap[half]
    x -= np.where(rng.random((count, 1)) < 0.5, x.max(1, keepdims=True), 0)  # the maximum is 0
    v = np.where(rng.random((VECTORS, count, n)) < 0.5, 1, rng.normal(0, 1, (VECTORS, count, n)))
    return Rows(x.astype(dtype), v.astype(dtype), x.argmax(1))


def changed(rng: np.random.Generator, rows: Rows) -> Rows:
    """Return the rows, of whose logits and vectors one number each, or all equal ones, changed."""
    x, v, target = rows.x.copy(), rows.v.copy(), rows.target.copy()
    count, n = x.shape
    every = np.arange(count)
    for array in (x, *v):
        place, other = rng.integers(0, n, (2, count))
        old = array[every, place]
        steps = np.spacing(np.maximum(np.abs(old), 1e-3)) * rng.integers(-4, 5, count)
        way = rng.integers(0, 6, count)
        new = np.select(
            [way == 0, way == 1, way == 2, way == 3],
            [old + steps, array[every, other], old * rng.uniform(0.9, 1.1, count), 0 * old],
            old,
        ).astype(array.dtype)
        alike = (array == old[:, None]) & (rng.random(count) < 0.5)[:, None]
        alike[every, place] = True
        array[...] = np.where(alike, new[:, None], array)
    away = rng.random(count) < 0.05
    target[away] = rng.integers(0, n, count)[away]
    return Rows(x, v, target)


def errors(op: str, rows: Rows, axis: int = -1) -> Array:
    """Return the largest error of each row, in the unit of the operation's bound."""
    contract, inputs = CONTRACTS[op], rows.inputs(op)
    if axis == 0:
        inputs = tuple(np.ascontiguousarray(a.T) for a in inputs)
    with emulator.activate():
        got = contract.call(*map(emulator.asarray, inputs), axis=axis)
        results = tuple(map(emulator.asnumpy, got if isinstance(got, tuple) else (got,)))
    found = contract.errors(inputs, axis, results)
    each = [error.T if axis == 0 else error for error in found]
    return np.asarray(np.max([error.reshape(len(rows.x), -1).max(1) for error in each], axis=0))


def search(
    op: str, dtype: str, n: int, rounds: int, axis: int = -1, seed: int = 0
) -> tuple[float, Rows]:
    """Return the largest error that is found, in the unit of the operation's bound, and its row."""
    rng = np.random.default_rng(seed)
    rows = first(rng, KEPT * CHILDREN, n, dtype)
    found = errors(op, rows, axis)
    for _ in range(rounds):
        best = np.argsort(-found, kind="stable")[:KEPT]
        rows, found = rows.of(best), found[best]
        new = changed(rng, rows.of(np.repeat(np.arange(KEPT), CHILDREN)))
        rows, found = rows.and_(new), np.concatenate((found, errors(op, new, axis)))
    return float(found.max()), rows.of([found.argmax()])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--op", nargs="+", choices=OPS, default=OPS)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--axis", type=int, choices=(-1, 0), default=-1, help="0: down columns")
    parser.add_argument("--rounds", type=int, default=100, help="default: %(default)s")
    given = parser.parse_args(arguments)
    table = Table("operation", *(f"N = {n}" for n in LENGTHS), "bound", "unit")
    exceeded = False
    for op in given.op:
        rounds = {n: given.rounds * 40 // max(n, 40) for n in LENGTHS}  # a long row takes longer
        found = [
            max(search(op, given.dtype, n, rounds[n], given.axis, k)[0] for k in range(STARTS))
            for n in LENGTHS
        ]
        bound = CONTRACTS[op].bound[given.dtype]
        exceeded |= max(found) > bound
        table.add_row(op, *(f"{e:.2f}" for e in found), f"{bound:g}", CONTRACTS[op].unit)
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    return int(exceeded)


if __name__ == "__main__":
    sys.exit(main())
