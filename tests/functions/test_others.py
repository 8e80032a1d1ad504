"""Sums of exponentials of which one dominates: the others are known to all their digits.

log_softmax of that logit, logsumexp near 0, its loss and gradient are the sum of the others. Rows
are made so that plain additions would lose small ones of these one by one beside a larger one, all
in one direction: ten units in the last place and more.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import nodes
from cusoftmax.contract.table import CONTRACTS
from tests.support import (
    LONG_PLAN_KINDS,
    MAIN_PLAN_KINDS,
    assert_kept,
    assert_plan,
    bits,
    case,
    dtype_of,
    exhaustive,
    planned,
)

Array = np.ndarray[Any, np.dtype[Any]]

OPS = ("log_softmax", "logsumexp", "cross_entropy", "cross_entropy_grad")
INF = np.inf
POWERS, CHAIN, HALF = "powers", "chain", "half"  # where the small ones are


def row(n: int, dtype: str, small: str, largest: int, far: float) -> Array:
    """Return a row with one logit that dominates, at a place of its own, and 0.

    At place 0 is one that is `far` below it, and others of not quite half of its last place are
    where it is added to sums of one element: at powers of two and along a lane's elements, or at
    the places next to it, which a thread of a column has. Beyond the first half there is nothing
    with `half`, so that only some of the row's parts have all of it.
    """
    digits = np.finfo(dtype).nmant + 1
    x = np.full(n, -INF)
    places = [*range(1, 16)] if small == CHAIN else [1 << k for k in range(n.bit_length())]
    places += [] if small == CHAIN else [*range(128, n // 2 if small == HALF else n, 128)]
    x[[place for place in places if place < n]] = far - (digits + 0.02) * np.log(2)
    x[0] = far
    x[largest] = 0
    return x.astype(dtype)


def rows_of(n: int, dtype: str, number: int) -> Array:
    """Return three rows, whose largest is near the others, in the middle and last."""
    far = -20.0 * (number + 1) * np.log(2) + 1e-4
    small = (POWERS, CHAIN, HALF)[number]
    return np.stack([row(n, dtype, small, at, far) for at in (11, n // 2 + 1, n - 1)])


def cases() -> Iterator[Any]:
    kinds = [k for k in MAIN_PLAN_KINDS if k not in LONG_PLAN_KINDS]
    told = [(op, "float32", k) for op in ("log_softmax", "cross_entropy_grad") for k in kinds]
    told += [(op, "float32", k) for op in ("logsumexp", "cross_entropy") for k in kinds[:2]]
    told += [("log_softmax", "float64", k) for k in ("group", "block", "column")]
    yield from told
    every = [(op, d, k) for op in OPS for d in ("float32", "float64") for k in kinds]
    yield from exhaustive([given for given in every if given not in told])


@pytest.mark.parametrize(("op", "dtype", "wanted"), [*cases()])
def test_none_of_the_others_is_lost(device: Any, op: str, dtype: str, wanted: str) -> None:
    found = case(wanted, op, dtype)
    n = found.shape[found.axis]
    with device.on(found.arch):
        assert_plan(planned(op, dtype, found.shape, found.axis, found.arch), wanted)
        for number in range(3):
            x = rows_of(n, dtype, number)
            given = [x, x.argmax(1)[:, None]][: 1 + ("cross" in op)]
            inputs = tuple(a if found.axis else np.ascontiguousarray(a.T) for a in given)
            got = CONTRACTS[op].call(*map(device.asarray, inputs), axis=found.axis)
            results = tuple(map(device.asnumpy, got if isinstance(got, tuple) else (got,)))
            assert_kept(op, inputs, found.axis, results)


@pytest.mark.parametrize(
    ("n", "plans"),
    [
        (40000, {"sm_75": "stream", "sm_80": "block parked", "sm_90": "block x8"}),
        (70016, {"sm_80": "split", "sm_90": "block x8"}),
    ],
)
def test_bits_are_the_same_whoever_adds(device: Any, n: int, plans: dict[str, str]) -> None:
    """Rows of which chunks, and some of their unions, lack their largest."""
    rng = np.random.default_rng(0)
    rows = [row(n, "float32", POWERS, at, -9.0) for at in (3, 1500, n - 1)]
    for spread in (3, 6, 12):  # in some chunks one dominates, in others none does
        rows.append(rng.normal(0, spread, n).astype(np.float32))
    rows.append(np.where(rng.random(n) < 0.99, -INF, rows[-1]).astype(np.float32))
    rows.append(np.where(np.arange(n) % 1024 == 7, 0, -30).astype(np.float32))  # equal maxima
    x = np.stack(rows)
    found = {}
    for arch, wanted in plans.items():
        with device.on(arch):
            assert_plan(planned("log_softmax", "float32", x.shape, -1, arch), wanted)
            given = device.asarray(x)
            found[wanted] = cs.log_softmax(given), cs.logsumexp(given)
    cuts = [0, 3072, 4096, 11264, n]
    with device.on("sm_90"):
        parts = [(a, given[:, a:b]) for a, b in pairwise(cuts)]
        of = [nodes.partial(part, "log_softmax", offset=a, length=n) for a, part in parts]
        whole = nodes.combine([nodes.combine(of[:2]), nodes.combine(of[2:])])
        results = [device.asnumpy(nodes.apply(part, whole, offset=a)) for a, part in parts]
        of = [nodes.partial(part, "logsumexp", offset=a, length=n) for a, part in parts]
        whole = nodes.combine([nodes.combine(of[:3]), of[3]])
        sums = nodes.apply(given[:, :0], whole, offset=0)
        found["pieces"] = device.asarray(np.concatenate(results, axis=1)), sums
    names = [*found]
    for name in names[1:]:
        for one, other in zip(found[names[0]], found[name], strict=True):
            assert (bits(device.asnumpy(one)) == bits(device.asnumpy(other))).all(), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_maxima_of_several_chunks(device: Any, dtype: str) -> None:
    """Two equal ones, and NaN and infinities beside chunks that lack their largest."""
    n = 5000
    x = np.full((6, n), -60.0)
    x[0, [5, 4000]] = 0  # the logarithm of 2
    x[1, [5, 6]] = 0
    x[2, [5, 4000]] = INF
    x[3, [5, 4000]] = 0, np.nan
    x[4, [5, 4000]] = 0, INF
    x[5] = -INF
    x[5, [5, 4000]] = -1e30, 3
    inputs = (x.astype(dtype),)
    for axis in (-1, 0):
        given = device.asarray(inputs[0] if axis else np.ascontiguousarray(inputs[0].T))
        for op in ("logsumexp", "log_softmax"):
            got = device.asnumpy(getattr(cs, op)(given, axis=axis))
            results = (got if axis or op == "logsumexp" else got.T,)
            assert_kept(op, inputs, -1, results)


SUBNORMAL = ("cross_entropy", "cross_entropy_grad", "cross_entropy_vjp", "cross_entropy_soft")


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        *((op, "split") for op in SUBNORMAL),
        *(
            ("cross_entropy_grad", k)
            for k in MAIN_PLAN_KINDS
            if k not in {*LONG_PLAN_KINDS, "split"}
        ),
    ],
)
def test_others_below_the_smallest_number_add_up(device: Any, op: str, wanted: str) -> None:
    """In bfloat16: each exponential is a subnormal float32, their sum and some others are not."""
    found = case(wanted, op, "bfloat16")
    n = found.shape[found.axis]
    x = np.random.default_rng(n).uniform(-89.3, -88.3, (3, n))
    x[:, n // 2] = -85  # in other chunks than the largest, where rows have several
    x[:, -1] = -72
    target = np.array([0, 1, 9])
    x[range(3), target] = 0
    x[0, [n // 2, -1]] = -88
    x[1, -1] = -85
    x = x.astype(dtype_of("bfloat16"))
    probabilities = (np.arange(n) == target[:, None]).astype(x.dtype)
    given: tuple[Array, ...] = (x, probabilities if "soft" in op else target)
    up = np.array([1.0, 2.0**-4, 2.0**20]).astype(x.dtype)
    truths = [
        np.asarray(each, np.float64)
        for each in cs.reference.cross_entropy(*given, reduction="none", extended=True)
    ]
    with device.on(found.arch):
        assert_plan(planned(op, "bfloat16", found.shape, found.axis, found.arch), wanted)
        turned = tuple(
            device.asarray(a if found.axis or a.ndim == 1 else np.ascontiguousarray(a.T))
            for a in given
        )
        if op == "cross_entropy_vjp":
            results: tuple[Any, ...] = (
                cs.cross_entropy_vjp(*turned, device.asarray(up), axis=found.axis),
            )
            truths = [truths[1] * up.astype(np.float64)[:, None], truths[1]]
        else:
            both = op == "cross_entropy_grad"
            got = cs.cross_entropy(*turned, axis=found.axis, reduction="none", grad=both)
            results = got if both else (got,)
    normal = np.abs(truths[-1]) > 2.0**-126  # of the row's largest: else 0 before a gradient, too
    for result, truth in zip(results, truths, strict=False):
        value = device.asnumpy(result).astype(np.float64)
        value = value if found.axis or value.ndim == 1 else value.T
        kept = (np.abs(truth) > 2.0**-126) & (normal if truth.ndim > 1 else True)
        assert kept[..., 0].all() if truth.ndim == 1 else kept[range(3), target].all()
        np.testing.assert_allclose(value[kept], truth[kept], rtol=2.0**-8, atol=0)
        assert (np.abs(value[~kept]) < np.maximum(2.0**-125, 1.01 * np.abs(truth[~kept]))).all()
