"""Every operation of the table, in every kind of plan, against its reference and its bound.

`test_family_edges` has what is no ordinary call.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax.contract.logits import transforms
from cusoftmax.contract.table import CONTRACTS, Arrays, OperationContract
from cusoftmax.operations.table import OPERATIONS
from tests.support import (
    DTYPES,
    MAIN_PLAN_KINDS,
    assert_kept,
    assert_plan,
    bits,
    case,
    dtype_of,
    planned,
)

PATTERNS = ("group", "block", "split", "column")

# These have tests of their own.
APART = (
    "softmax", "softmax_vjp", "softmax_jacobian", "segment_softmax", "segment_softmax_vjp",
    "topk_softmax", "topk_softmax_gates", "gumbel_softmax", "sample",
)  # fmt: skip
OPS = tuple(op for op in CONTRACTS if op not in APART and not op.startswith("cross_entropy"))


def run(device: Any, member: OperationContract, inputs: Arrays, axis: int) -> Arrays:
    """Return the results of a call on a device as NumPy arrays."""
    got = member.call(*(device.asarray(a) for a in inputs), axis=axis)
    return tuple(device.asnumpy(r) for r in (got if isinstance(got, tuple) else (got,)))


def judge(
    member: OperationContract, inputs: Arrays, axis: int, results: Arrays, dtype: str
) -> None:
    __tracebackhide__ = True
    assert all(r.dtype == dtype_of(dtype) for r in results)
    assert_kept(member, inputs, axis, results)


def test_every_operation_is_in_the_family() -> None:
    assert set(CONTRACTS) == set(OPERATIONS)


def cases() -> Iterator[tuple[str, str, str]]:
    """Yield operation, dtype and kind of plan: all kinds in float32, one a pattern in the rest.

    The kinds differ in who sums what, and not in what the operation does there.
    """
    for op in OPS:
        for dtype in DTYPES:
            if OPERATIONS[op].source and dtype not in ("float16", "float64"):
                continue
            for wanted in MAIN_PLAN_KINDS:
                if transforms(op):  # all features together; one by one in test_logits.py
                    if len(OPERATIONS[op].features) > 2 and wanted in PATTERNS:
                        yield op, dtype, wanted
                    continue
                if "parked" in wanted and not OPERATIONS[op].outputs:
                    continue  # nothing is kept where nothing is read again
                if dtype == "bfloat16" and wanted != "group":
                    continue  # float16 but for its conversions
                if dtype == "float32" or wanted in PATTERNS:
                    yield op, dtype, wanted


@pytest.mark.parametrize(("op", "dtype", "wanted"), [*cases()])
def test_each_kind_of_plan(
    request: pytest.FixtureRequest, device: Any, op: str, dtype: str, wanted: str
) -> None:
    member = CONTRACTS[op]
    found = case(wanted, op, dtype)
    rng = np.random.default_rng(zlib.crc32(f"{op} {wanted}".encode()))
    inputs = member.draw(rng, found.shape, found.axis, dtype_of(dtype))
    with device.on(found.arch):
        assert_plan(planned(op, dtype, found.shape, found.axis, found.arch), wanted)
        results = run(device, member, inputs, found.axis)
        judge(member, inputs, found.axis, results, dtype)
        if "causal" in OPERATIONS[op].features:
            return  # a row is another where it stands elsewhere
        if dtype != "float32" and not request.config.getoption("exhaustive"):
            return  # who sums what is the same in all dtypes
        # A row has the same bits among fewer (two: a single column would be a contiguous row).
        few = tuple(np.take(a, [1, 0], 0 if found.axis else 1) for a in inputs)
        again = run(device, member, few, found.axis)
    for many, two in zip(results, again, strict=True):
        axis = 0 if many.ndim == 1 or found.axis else 1
        np.testing.assert_array_equal(bits(np.take(many, [1, 0], axis)), bits(two))


@pytest.mark.parametrize("op", OPS)
def test_in_place(device: Any, op: str) -> None:
    member, operation = CONTRACTS[op], OPERATIONS[op]
    if not operation.outputs:
        pytest.skip("its result has another shape than its inputs")
    inputs = member.draw(np.random.default_rng(5), (6, 1500), -1, np.float32)
    expected = run(device, member, inputs, -1)
    arrays = [device.asarray(a) for a in inputs]
    function = getattr(cs, operation.public or op)
    outs = tuple(arrays[: len(expected)])
    out = outs if len(outs) > 1 else outs[0]
    if transforms(op):
        got = member.call(*arrays, axis=-1, out=out)
    else:
        given = {"b": arrays.pop(1)} if "b" in operation.inputs else {}
        if operation.row_inputs:
            given["keepdims"] = True
        got = function(*arrays, **given, out=out)
    assert all(a is b for a, b in zip(got if len(outs) > 1 else (got,), outs, strict=True))
    for out, want in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(bits(device.asnumpy(out)), bits(want))


def test_results_of_two_dtypes_are_refused(device: Any) -> None:
    x = device.asarray(np.zeros((2, 3), np.float32))
    out = device.asarray(np.zeros((2, 3), np.float16)), device.asarray(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="the results are float16, float64; give arrays of one"):
        cs.softmax_vjp_vjp(x, x, x, out=out)


def test_an_overflowed_sum_of_gradients(device: Any) -> None:
    for n in (8, 4000):
        logy = np.full((1, n), -np.log(n), np.float32)
        dy = np.full((1, n), 3e38, np.float32)
        got = device.asnumpy(cs.log_softmax_vjp(device.asarray(logy), device.asarray(dy)))
        assert np.all(np.isneginf(got))
