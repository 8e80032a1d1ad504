"""The same call on the kernels' source and on their PTX gives the same bits.

Approximate instructions have the same errors on both, drawn from the seed. So every difference is
a fault: of the source's half of the emulator, of the interpreter, or of the compiler.

One case of every pattern and dtype, and one of every pattern on other architectures; with
``--exhaustive`` all cases of `cusoftmax check`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest

from cusoftmax import emulator
from cusoftmax.cli.check import (
    SMALLEST_CHIP,
    CheckedCase,
    Form,
    find_case,
    names_of_cases,
    with_special_rows,
)
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.machine import machine
from cusoftmax.operations.dtypes import FLOATS
from cusoftmax.operations.operation import PATTERNS
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.checks import as_dtype
from tests.emulator.both_codes import compiled_for, difference, outcome
from tests.support import case as case_of_kind
from tests.support import exhaustive

# What compiles to other instructions by architecture: bfloat16 has none below sm_80, clusters begin
# with sm_90, pairs of float32 with sm_100.
OTHER_ARCHS = {"sm_75": "bfloat16", "sm_80": "float64", "sm_100": "float32", "sm_120": "float16"}


def first_of(pattern: str) -> str:
    """Return the first operation that has the pattern."""
    return next(op for op, operation in OPERATIONS.items() if pattern in operation.patterns)


def chosen() -> list[Any]:
    here = [("sm_90", first_of(p), dtype, Form(p)) for p in PATTERNS for dtype in FLOATS]
    others = OTHER_ARCHS.items()
    elsewhere = [(arch, first_of(p), dtype, Form(p)) for arch, dtype in others for p in PATTERNS]
    every = [("sm_90", *names) for names in names_of_cases(quick=False, most_blocks=8)]
    return [*here, *elsewhere, *exhaustive(names for names in every if names not in here)]


def named(part: Any) -> str:
    return str(part).replace(" ", "").replace(",", "-")


@functools.cache
def found(op: str, dtype: str, form: Form, arch: str) -> CheckedCase:
    with machine("emulator", arch, 0, "source") as on:
        return find_case(op, dtype, form, on, SMALLEST_CHIP)


def compare(op: str, dtype: str, shape: tuple[int, ...], axis: int, arch: str, seed: int) -> None:
    rng = np.random.default_rng([seed, *shape])
    contract = CONTRACTS[op]
    inputs = contract.draw(rng, shape, axis, as_dtype(op, dtype))
    names = OPERATIONS[op].inputs
    if dtype in FLOATS and names[0] == "x" and "b" not in names:
        inputs = (with_special_rows(inputs[0], axis), *inputs[1:])

    def call() -> Any:
        return contract.call(*map(emulator.asarray, inputs), axis=axis)

    source, ptx = (outcome(call, code, arch, seed) for code in ("source", "ptx"))
    assert difference(source, ptx) is None


@pytest.mark.parametrize(("arch", "op", "dtype", "form"), chosen(), ids=named)
def test_source_and_ptx_give_the_same_bits(arch: str, op: str, dtype: str, form: Form) -> None:
    case = found(op, dtype, form, arch)
    # Rows for the pattern "stream" are planned for the chip with the least shared memory.
    planned_for = f"sm_{case.plan.device.arch}"
    small = math.prod(case.shape) < 20_000
    with compiled_for(arch):
        for seed in range(2) if small else (1,):
            compare(op, dtype, case.shape, case.axis, planned_for, seed)


@pytest.mark.parametrize("op", ["softmax", "softmax_vjp"])
@pytest.mark.parametrize("kind", ["block x2", "block x4", "block x8", "column x2", "column x8"])
def test_clusters_give_the_same_bits(op: str, kind: str) -> None:
    case = case_of_kind(kind, op, "float32")
    for seed in range(2):
        compare(op, "float32", case.shape, case.axis, case.arch, seed)
