"""`cusoftmax profile` of every operation: its inputs and its call are those of the contract."""

from __future__ import annotations

import math

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax.cli import main as cli
from cusoftmax.cli import profile as cli_profile
from cusoftmax.operations.lookup import find
from cusoftmax.operations.table import OPERATIONS, SAME_KERNEL
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.profiling.emulated import emulate
from cusoftmax.profiling.profile import DRAWN, Work
from cusoftmax.runtime import backend

PUBLIC = sorted({operation.public or op for op, operation in (OPERATIONS | SAME_KERNEL).items()})


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "gpu_is_present", lambda: False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["profile", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_there_are_all_operations() -> None:
    others = {"explain", "warmup", "__version__"}
    assert set(PUBLIC) == set(cs.__all__) - others


@pytest.mark.parametrize("op", PUBLIC)
def test_profile_of_every_operation(capsys: pytest.CaptureFixture[str], op: str) -> None:
    """What runs is what is planned."""
    status, out, err = run(capsys, op, "24x40x40", "--dtype", "float16", "--emulator")
    assert (status, err) == (0, "")
    planned = Work(op, (24, 40, 40), "float16").plan(DeviceSpec.known("sm_90"))
    names = [launch.kernel.name for launch in planned.launches]
    lines = [line.split()[1].rstrip(",") for line in out.splitlines() if line.startswith("kernel")]
    assert lines == names * 2
    assert "x the least possible" in out


@pytest.mark.parametrize("op", ["cross_entropy", "segment_softmax_vjp", "topk_softmax"])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dtypes_are_those_asked_for(op: str, dtype: str) -> None:
    first, *_ = Work(op, (30, 20), dtype).drawn()
    assert first.dtype.name == dtype
    assert emulate(Work(op, (30, 20), dtype), "sm_80").moved > 0


@pytest.mark.parametrize(
    ("op", "shape", "axis"),
    [
        ("softmax", (3, 1 << 22), -1),
        ("softmax_vjp", (9000, 1001), -1),
        ("logsumexp_vjp", (1001, 9000), 0),
        ("cross_entropy_vjp", (9000, 1001), 1),
        ("softmax_jacobian", (9000, 40, 40), -1),
        ("segment_softmax", (50000, 100), 0),
    ],
)
def test_large_inputs_are_drawn_in_part_and_repeated(
    op: str, shape: tuple[int, ...], axis: int
) -> None:
    drawn = Work(op, shape, "float16", axis).drawn()
    longest = max((d for d in range(len(shape)) if d != axis % len(shape)), key=lambda d: shape[d])
    few = max(1, DRAWN // (math.prod(shape) // shape[longest]))
    assert drawn[0].shape == shape or find(op).repeated
    for array in drawn[int(find(op).repeated) :]:
        if array.ndim <= longest:
            assert array.shape == (8 if op != "segment_softmax" else array.size,)
            continue
        assert array.shape[longest] == shape[longest]
        head, tail = array.take([0], longest), array.take([few], longest)
        np.testing.assert_array_equal(head, tail)
        if few > 1:
            assert (array.take([1], longest) != head).any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["softmax", "4x99999999", "--emulator"], "give a shorter row"),
        (["cross_entropy", "4x5", "--axis", "none"], "takes one axis, not None"),
        (["topk_softmax", "4x5", "--axis", "0,1"], "axis"),
        (["topk_softmax_gates", "4x5"], "is a variant: profile topk_softmax"),
        (["cross_entropy_grad", "4x5"], "is a variant: profile cross_entropy"),
        (["softmax", "4x5", "--emulator", "--arch", "sm_20"], "no architecture"),
    ],
)
def test_failures_come_before_the_first_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_a_failure_on_the_emulator_or_the_gpu_prints_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(cli_profile, "emulate", broken)
    monkeypatch.setattr(cli_profile, "_cuda_major", broken)
    for more in ([], ["--emulator"]):
        status, out, err = run(capsys, "softmax", "4x5", *more)
        assert (status, out, err) == (2, "", "cusoftmax: error: out of memory\n")
