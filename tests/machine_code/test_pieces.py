"""The kernels of pieces of rows spill nothing; no plan of whole rows has them."""

from __future__ import annotations

import pytest

from cusoftmax.machine_code import sass
from cusoftmax.operations.options import piece_of
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.pieces import Piece, apply_plan, chunk_of, combine_plan, partial_plan
from cusoftmax.planning.prepare import problem_for
from tests.support import exhaustive

# Those with few and many sums, in each arithmetic.
CASES = [
    ("softmax", "float32"), ("cross_entropy_grad", "float32"), ("softmax_hvp", "float64"),
    ("topk_softmax", "float64"), ("sample", "float32"),
]  # fmt: skip
OTHERS = [
    ("softmax", "float16"), ("softmax_vjp_vjp", "float64"), ("log_softmax", "bfloat16"),
    ("topk_softmax", "float16"), ("topk_softmax_gates", "float32"), ("sample", "float64"),
]  # fmt: skip


@pytest.mark.parametrize("arch", [90, *exhaustive([75, 80, 100])])
@pytest.mark.parametrize(("op", "dtype"), [*CASES, *exhaustive(OTHERS)])
def test_kernels_of_pieces_spill_nothing(op: str, dtype: str, arch: int) -> None:
    if sass.missing():
        pytest.skip(f"nothing can be compiled here: {sass.missing()}")
    name, n, device = piece_of(op), 8192, DeviceSpec.known(arch)
    k = 64 if op.startswith("topk") else None
    problem = problem_for(name, (64, n), dtype, k=k)
    dtypes = tuple(operand.dtype for operand in problem.operands)
    piece = Piece(4 * n, n, 2 * n, chunk_of(name, dtypes))
    plans = (
        partial_plan(problem, device, piece),
        combine_plan(name, dtypes, 64, device, *map(int, problem.options)),
        apply_plan(problem, device, piece),
    )
    kernels = list(dict.fromkeys(launch.kernel for plan in plans for launch in plan.launches))
    assert len(kernels) == 3
    for kernel in kernels:
        found = sass.inspect(kernel, arch)
        assert (found.spills, found.stack, found.local) == (0, 0, 0), kernel.name
