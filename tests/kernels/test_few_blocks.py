"""Blocks that go on to a second piece of work: the same bits as with a block for each.

The planner gives each piece a block of its own, but for very many short rows, so that in few other
tests a block begins anew with what the last piece left in its shared memory. The emulator reports a
race there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from cusoftmax.contract.table import CONTRACTS
from cusoftmax.operations.operation import PATTERNS
from tests.support import assert_kept, bits, blocks_of_each_launch, dtype_of, kind

BLOCKS = 3
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Call:
    """A call whose launches have more pieces of work than `BLOCKS`."""

    kind: str
    op: str
    shape: tuple[int, ...]
    axis: int = -1
    dtype: str = "float32"
    arch: str = "sm_90"


CALLS = (
    Call("group", "softmax", (29, 600)),
    # Staged: a warp's rows, of which the last block has not all; their losses computed together.
    Call("group", "softmax", (131, 1001)),
    Call("group", "cross_entropy_grad", (131, 513)),
    Call("group", "softmax_vjp", (541, 771), dtype="float16"),  # two chunks a warp
    Call("block", "softmax", (7, 5000), arch="sm_80"),
    Call("block x2", "softmax_vjp", (7, 5000)),
    Call("block x8", "softmax_vjp", (7, 33001)),
    Call("block parked", "softmax_vjp", (5, 12000), dtype="float64", arch="sm_80"),
    Call("stream", "softmax", (11, 20001), dtype="float64", arch="sm_75"),
    Call("stream parked", "softmax", (109, 16400), dtype="float64", arch="sm_80"),  # odd rounds
    Call("stream parked", "log_softmax", (109, 12001), dtype="float64", arch="sm_80"),  # staged
    Call("stream parked", "softmax_vjp", (109, 6001), dtype="float64", arch="sm_80"),  # the same
    Call("stream parked", "softmax_vjp", (109, 50001), dtype="float16", arch="sm_80"),  # in place
    Call("stream parked", "gumbel_softmax", (109, 32000), arch="sm_80"),
    Call("stream parked", "softmax_scaled_biased_masked_causal", (109, 32001), arch="sm_80"),
    Call("stream parked", "cross_entropy_grad", (109, 50257), arch="sm_80"),
    Call("split", "softmax_vjp", (2, 70001), arch="sm_80"),
    Call("column", "softmax", (7, 100, 3), 1),
    Call("column x2", "softmax", (5, 250, 38), 1),
    Call("column x4", "softmax", (3, 500, 39), 1),
    Call("column stream", "softmax", (1100, 336), 0, arch="sm_75"),
    Call("column stream parked", "softmax_vjp", (1100, 872), 0, arch="sm_80"),
    Call("column long", "softmax_vjp", (4001, 33), 0, arch="sm_80"),
    Call("column long", "logsumexp", (4001, 150), 0, arch="sm_80"),
    Call("map", "softmax_jacobian", (5, 61, 61)),
    Call("segment", "segment_softmax", (30000, 1), 0),
    Call("topk_group", "topk_softmax", (61, 200)),
    Call("topk_block", "topk_softmax", (7, 3001)),
    Call("topk_split", "topk_softmax", (5, 33001)),
    Call("topk_column", "topk_softmax", (1500, 60), 0),
    Call("topk_column", "topk_softmax", (20001, 5), 0),
)


def test_every_pattern_is_tried() -> None:
    assert {call.kind.split()[0] for call in CALLS} == set(PATTERNS)


@pytest.mark.parametrize("call", CALLS, ids=lambda c: f"{c.kind}-{c.op}".replace(" ", "-"))
def test_few_blocks_give_the_same_bits(device: Any, call: Call) -> None:
    contract = CONTRACTS[call.op]
    rng = np.random.default_rng(0)
    inputs = contract.draw(rng, call.shape, call.axis, dtype_of(call.dtype))

    def run(blocks: int) -> tuple[np.ndarray, ...]:
        with blocks_of_each_launch(blocks) as plans:
            got = contract.call(*(device.asarray(a) for a in inputs), axis=call.axis)
        *_, plan = plans  # the Jacobian has another, of its rows, before
        assert kind(plan) == call.kind, plan.why
        # All that work on the elements; before segments a few blocks look at the offsets.
        working = plan.launches[1:] if call.kind == "segment" else plan.launches
        assert all(step.grid > BLOCKS * step.kernel.cluster for step in working)
        return tuple(device.asnumpy(r) for r in (got if isinstance(got, tuple) else (got,)))

    with device.on(call.arch):
        whole = run(0)
    assert_kept(contract, inputs, call.axis, whole)
    for seed in SEEDS if device.name == "emulator" else SEEDS[:1]:
        with device.on(call.arch, seed):
            few = run(BLOCKS)
        for one, other in zip(whole, few, strict=True):
            np.testing.assert_array_equal(bits(one), bits(other))
