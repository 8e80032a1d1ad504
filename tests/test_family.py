"""Every operation of the family, in every kind of plan, against its reference and its bound."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cusoftmax._family import FAMILY, Arrays, Member
from cusoftmax._ops import OPERATIONS
from tests.support import DTYPES, KINDS, assert_plan, bits, case, dtype_of, planned

PATTERNS = ("group", "block", "split", "column")

# The first two have tests of their own, with every width.
OPS = tuple(op for op in FAMILY if op not in ("softmax", "softmax_vjp"))


def run(device: Any, member: Member, inputs: Arrays, axis: int) -> Arrays:
    """Return the results of a call on a device as NumPy arrays."""
    got = member.call(*(device.asarray(a) for a in inputs), axis=axis)
    return tuple(device.asnumpy(r) for r in (got if isinstance(got, tuple) else (got,)))


def judge(member: Member, inputs: Arrays, axis: int, results: Arrays, dtype: str) -> None:
    assert all(r.dtype == dtype_of(dtype) for r in results)
    worst = member.worst(inputs, axis, results)
    assert worst <= 1, f"{member.op} of {dtype}: {worst:.4g} of the bound"


def test_every_operation_is_in_the_family() -> None:
    assert list(FAMILY) == list(OPERATIONS)


def cases() -> Iterator[tuple[str, str, str]]:
    """Yield operation, dtype and kind of plan: all kinds in float32, one a pattern in the rest.

    The kinds differ in who sums what, and not in what the operation does there.
    """
    for op in OPS:
        for dtype in DTYPES:
            if OPERATIONS[op].source and dtype not in ("float16", "float64"):
                continue
            for wanted in KINDS:
                if "parked" in wanted and not OPERATIONS[op].outputs:
                    continue  # nothing is kept where nothing is read again
                if dtype == "float32" or wanted in PATTERNS:
                    yield op, dtype, wanted


@pytest.mark.parametrize(("op", "dtype", "wanted"), [*cases()])
def test_each_kind_of_plan(device: Any, op: str, dtype: str, wanted: str) -> None:
    member = FAMILY[op]
    found = case(wanted, op, dtype)
    rng = np.random.default_rng(zlib.crc32(f"{op} {wanted}".encode()))
    inputs = member.draw(rng, found.shape, found.axis, dtype_of(dtype))
    with device.on(found.arch):
        assert_plan(planned(op, dtype, found.shape, found.axis, found.arch), wanted)
        results = run(device, member, inputs, found.axis)
        judge(member, inputs, found.axis, results, dtype)
        # A row has the same bits among fewer (two: a single column would be a contiguous row).
        few = tuple(np.take(a, [1, 0], 0 if found.axis else 1) for a in inputs)
        again = run(device, member, few, found.axis)
    for many, two in zip(results, again, strict=True):
        axis = 0 if many.ndim == 1 or found.axis else 1
        np.testing.assert_array_equal(bits(np.take(many, [1, 0], axis)), bits(two))
