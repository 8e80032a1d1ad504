"""The kernels of pieces of rows pass the compile gate; no plan of whole rows has them."""

from __future__ import annotations

import pytest

from cusoftmax.machine_code import catalog, gate
from cusoftmax.operations.options import piece_of
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.pieces import combine_plan
from cusoftmax.planning.prepare import problem_for
from tests.support import exhaustive

# Those with few and many sums, in each arithmetic, and those that select.
CASES = [
    ("softmax", "float32"), ("cross_entropy_grad", "float32"), ("softmax_hvp", "float64"),
    ("topk_softmax", "float64"), ("sample", "float32"),
]  # fmt: skip
OTHERS = [
    ("softmax", "float16"), ("softmax_vjp_vjp", "float64"), ("log_softmax", "bfloat16"),
    ("log_softmax_jvp", "float32"), ("logsumexp", "float32"), ("topk_softmax", "float16"),
    ("topk_softmax_gates", "float32"), ("sample", "float64"),
    ("softmax_value_and_vjp_scaled_biased_masked_causal", "float32"),
]  # fmt: skip


@pytest.mark.parametrize("arch", [90, *exhaustive([75, 80, 100])])
@pytest.mark.parametrize(("op", "dtype"), [*CASES, *exhaustive(OTHERS)])
def test_kernels_of_pieces_pass_the_gate(
    op: str, dtype: str, arch: int, request: pytest.FixtureRequest
) -> None:
    if gate.missing():
        pytest.skip(f"nothing can be compiled here: {gate.missing()}")
    kernels = catalog.representative(catalog.piece_kernels(arch, op, dtype))
    stages = {kernel["CSM_STAGE"] for kernel in kernels}
    assert stages == ({"0", "1", "3"} if op == "logsumexp" else {"0", "1", "2"})
    if not request.config.getoption("--exhaustive"):  # evenly spaced rows, the longest lists
        widest = max(int(kernel["CSM_VEC"]) for kernel in kernels)
        most = max(int(kernel["CSM_SLOTS"]) for kernel in kernels if kernel["CSM_LANES"] == "32")
        kernels = tuple(
            kernel
            for kernel in kernels
            if kernel["CSM_BATCH_DIMS"] == "1"
            and kernel["CSM_SLOTS"] == str(most)
            and (kernel["CSM_VEC"] == str(widest) or not catalog.reads_elements(kernel))
        )
    assert {kernel["CSM_STAGE"] for kernel in kernels} == stages
    _, wrong = gate.check(arch, kernels, None)
    assert not wrong


@pytest.mark.parametrize("op", ["softmax", "topk_softmax", "sample"])
def test_combining_needs_no_kernel_of_its_own(op: str) -> None:
    name, device = piece_of(op), DeviceSpec.known(90)
    problem = problem_for(name, (64, 8192), "float32")
    dtypes = tuple(operand.dtype for operand in problem.operands)
    (launch,) = combine_plan(name, dtypes, 64, device, *map(int, problem.options)).launches
    assert launch.kernel in catalog.piece_kernels(90, op, "float32")
