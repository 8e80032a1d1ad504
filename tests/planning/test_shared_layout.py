"""What the host and the kernels both compute: the compiler refuses a disagreement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import pytest

from cusoftmax import emulator
from cusoftmax.machine_code import sass
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Kernel, layout_words
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.runtime import nvrtc
from cusoftmax.runtime.source import UNIT, kernel_root

# An option that states a number of the host's, a kernel that has it, and a wrong value.
STATED = {
    "CSM_NODE_WORDS": ("softmax", (3, 40), -1),
    "CSM_REGISTER_INPUTS": ("softmax_vjp", (3, 40), -1),
    "CSM_WARP": ("softmax", (3, 40), -1),
    "CSM_LAYOUT_BYTES": ("softmax", (3, 40), -1),
    "CSM_LAYOUT_WORDS": ("softmax", (3, 40), -1),
    "CSM_OPTION_NAMES": ("gumbel_softmax", (3, 40), -1),
    "CSM_PARKED_WORDS": ("softmax", (3, 5000), -1),
    "CSM_PITCH": ("topk_softmax", (3000, 8), 0),
    "CSM_LIST_BYTES": ("topk_softmax", (3, 5000), -1),
    "CSM_SEGMENT_TILE": ("segment_softmax", (5000,), 0),
    "CSM_SEGMENT_SHARED_BYTES": ("segment_softmax", (5000,), 0),
}


def kernel_of(op: str, shape: tuple[int, ...], axis: int) -> Kernel:
    """Return the last kernel of a plan, which writes the results."""
    return plan(problem_for(op, shape, "float32", axis), DeviceSpec.known(90)).launches[-1].kernel


ptx_of = cache(partial(nvrtc.compile_ptx, arch=90))


def wrong(macro: str, value: str) -> str:
    """Return another value: the next number, two fields exchanged, or another name."""
    if macro == "CSM_LAYOUT_WORDS":
        return value.replace("rows=1,", "rows=2,").replace("rounds=2,", "rounds=1,")
    if macro == "CSM_OPTION_NAMES":
        return value.replace("seed", "need")
    return str(int(value) + 1)


@pytest.fixture(params=STATED)
def disagreeing(request: pytest.FixtureRequest) -> Iterator[tuple[Kernel, Kernel]]:
    """A kernel as it is planned, and with one number that the host would have wrong."""
    right = kernel_of(*STATED[request.param])
    macros = tuple(
        (m, wrong(m, v) if m == request.param else v) for m, v in right.macros if m != "CSM_NAME"
    )
    assert macros != tuple((m, v) for m, v in right.macros if m != "CSM_NAME")
    yield right, replace(right, macros=(("CSM_NAME", right.name), *macros))


def test_nvrtc_refuses_a_disagreement(disagreeing: tuple[Kernel, Kernel]) -> None:
    if (reason := sass.missing()) is not None:
        pytest.skip(reason)
    right, wrong = disagreeing
    assert ptx_of(right)
    with pytest.raises(nvrtc.CompilerError, match="error"):
        nvrtc.compile_ptx(wrong, 90)


def test_the_emulator_refuses_a_disagreement() -> None:
    from cusoftmax.emulator import _run

    right = kernel_of("softmax", (3, 40), -1)
    macros = tuple((m, "1" if m == "CSM_LAYOUT_BYTES" else v) for m, v in right.macros)
    roles = ("read", "write", "both")
    with pytest.raises(emulator.BuildError, match="Layout has another size"):
        _run.HostKernel(
            kernel_root() / UNIT, right.name, macros, (kernel_root(),), cluster=1,
            max_threads=right.max_threads, roles=roles,
        ).launch(1, 128, (), 0)  # fmt: skip


def test_fields_follow_each_other() -> None:
    words = layout_words(operands=3, batch_dims=2, row_dims=4, options=0)
    assert words["n"] == 0
    assert words["inner_stride"] == 9
    assert words["batch_size"] == 9 + 3
    assert words["option"] == 9 + 3 + 2 + 4 + 6 + 12
    assert words["end"] == words["option"] + 1  # an array of no options has one element
