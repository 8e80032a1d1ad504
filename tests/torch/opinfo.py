"""PyTorch's own sample inputs (``OpInfo``): what is tried with them, and how many there are.

    python -m tests.torch.opinfo [FUNCTION ...]

counts them: tried, passed, and left out with the reason. Values, on the GPU or the emulator;
test_opinfo.py asserts the same, and derivatives besides.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

import cusoftmax.torch as ct
from cusoftmax.machine import machine
from tests.torch.torch_cases import place

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _masked_logsumexp(x: Any, dim: Any = None, keepdim: bool = False, mask: Any = None) -> Any:
    return ct.logsumexp(x, () if dim is None else dim, keepdim, mask=mask)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "softmax": ct.softmax,
    "log_softmax": ct.log_softmax,
    "logsumexp": ct.logsumexp,
    "nn.functional.cross_entropy": ct.cross_entropy,
    "masked.softmax": ct.softmax,
    "masked.log_softmax": ct.log_softmax,
    "masked.logsumexp": _masked_logsumexp,
}

# Samples that are not tried: the function and the kind of dtype, and why.
LEFT_OUT = {
    ("softmax", "complex"): "complex numbers have no largest one",
    ("log_softmax", "complex"): "complex numbers have no largest one",
    ("logsumexp", "complex"): "complex numbers have no largest one",
    ("masked.logsumexp", "complex"): "complex numbers have no largest one",
    ("masked.logsumexp", "integer"): "PyTorch rounds the logarithm to an integer",
}

# The contract: 1 ulp in 16 bits, 3 in float32, 4 in float64; logsumexp's is relative to its terms.
ABSOLUTE = {torch.float16: 1e-6, torch.bfloat16: 1e-6, torch.float32: 1e-7, torch.float64: 1e-15}


def entries(name: str) -> list[Any]:
    """Return PyTorch's entries of a function: softmax has one with and one without `dtype`."""
    from torch.testing._internal.common_methods_invocations import op_db  # takes seconds

    return [entry for entry in op_db if entry.name == name]


def samples(name: str, device: Any, dtype: Any) -> list[tuple[Any, Any]]:
    """Return entries, each with one of its samples of a dtype."""
    torch.manual_seed(0)
    differentiable = dtype.is_floating_point
    return [
        (entry, sample)
        for entry in entries(name)
        if dtype in entry.dtypes
        for sample in entry.sample_inputs(place(device), dtype, requires_grad=differentiable)
    ]


def agree(name: str, got: Any, want: Any) -> None:
    """Assert that a result is PyTorch's, of float64, rounded.

    A row in which all is masked is NaN in PyTorch, and a sum of nothing here.
    """
    __tracebackhide__ = True
    eps = torch.finfo(got.dtype).eps
    if "masked" in name:
        empty = want.isnan()
        assert ((got == 0) | (got == -torch.inf))[empty].all()
        got, want = (torch.where(empty, 0, tensor) for tensor in (got, want))
    absolute = 16 * eps if "logsumexp" in name else ABSOLUTE[got.dtype]
    torch.testing.assert_close(got.double(), want.double(), rtol=4 * eps, atol=absolute)


def doubled(value: Any) -> Any:
    """Return a float tensor or dtype in float64, and anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().double() if value.is_floating_point() else value
    return torch.float64 if isinstance(value, torch.dtype) else value


def compare(name: str, entry: Any, sample: Any) -> None:
    """Call both functions, PyTorch's also in float64: its 16-bit results are less accurate."""
    __tracebackhide__ = True
    args = (sample.input, *sample.args)
    got, own = (f(*args, **sample.kwargs) for f in (FUNCTIONS[name], entry.op))
    assert got.dtype == own.dtype and got.shape == own.shape
    exact = entry.op(*map(doubled, args), **{k: doubled(v) for k, v in sample.kwargs.items()})
    agree(name, got.detach(), exact)


def kind_of(dtype: Any) -> str:
    """Return under which name a dtype is counted."""
    if dtype.is_complex:
        return "complex"
    return str(dtype).removeprefix("torch.") if dtype.is_floating_point else "integer"


def count(name: str, device: Any) -> dict[str, Counter[str]]:
    """Return for each kind of dtype how many samples of a function were what."""
    counts: dict[str, Counter[str]] = {}
    for dtype in sorted(set().union(*(entry.dtypes for entry in entries(name))), key=str):
        kind = kind_of(dtype)
        found = counts.setdefault(kind, Counter())
        for entry, sample in samples(name, device, dtype):
            if (name, kind) in LEFT_OUT:
                found["left out"] += 1
                continue
            found["tried"] += 1
            try:
                compare(name, entry, sample)
            except Exception as failed:
                print(f"{name}, {dtype}: {failed}", file=sys.stderr)
            else:
                found["passed"] += 1
    return counts


def main(names: list[str]) -> int:
    """Print a line for each function and kind; return 1 if a sample failed."""
    failed = False
    print("function: kind of dtype: samples tried, passed, left out")
    with machine() as on:
        device = SimpleNamespace(name="emulator" if on.emulated else "cuda")
        for name in names or list(FUNCTIONS):
            for kind, found in count(name, device).items():
                reason = LEFT_OUT.get((name, kind))
                print(
                    f"{name}: {kind}: {found['tried']}, {found['passed']}, {found['left out']}"
                    + f" ({reason})" * (reason is not None),
                    flush=True,
                )
                failed |= found["tried"] != found["passed"]
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
