"""PyTorch's own sample inputs (``OpInfo``), of each function that there is here under its name.

PyTorch has no error inputs for any of these functions. What is left out is in `LEFT_OUT`; a sample,
dtype or variant that is neither tried nor there fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import exhaustive
from tests.torch.torch_cases import place

torch = pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")
pytest.importorskip("expecttest", reason="PyTorch's OpInfo needs the package expecttest")

import cusoftmax.torch as ct

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

# How many samples of each function there are in each float dtype.
SAMPLES = {
    "softmax": 14,  # half of them with dtype=
    "log_softmax": 14,
    "logsumexp": 15,  # 5 in 16 bits, which PyTorch draws from one range instead of three
    "nn.functional.cross_entropy": 21,
    "masked.softmax": 24,
    "masked.log_softmax": 24,
    "masked.logsumexp": 75,
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


def of_tensors(function: Callable[..., Any], sample: Any) -> tuple[Callable[..., Any], list[Any]]:
    """Return a function of those of a sample's tensors that have derivatives, and these."""
    args = [sample.input, *sample.args]
    places = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.requires_grad]

    def run(*tensors: Any) -> Any:
        whole = list(args)
        for i, tensor in zip(places, tensors, strict=True):
            whole[i] = tensor
        return function(*whole, **sample.kwargs)

    return run, [args[i].detach() for i in places]


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


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, dtype) for name in FUNCTIONS for dtype in (torch.float32, torch.float64)),
        *((name, torch.bfloat16) for name in FUNCTIONS if "masked" not in name),
        *exhaustive([(name, torch.bfloat16) for name in FUNCTIONS if "masked" in name]),
        *exhaustive([(name, torch.float16) for name in FUNCTIONS]),
    ],
    ids=str,
)
def test_values(device: Any, name: str, dtype: Any) -> None:
    tried = samples(name, device, dtype)
    one_range = name == "logsumexp" and dtype.itemsize == 2
    assert len(tried) == SAMPLES[name] // (3 if one_range else 1)
    for entry, sample in tried:
        compare(name, entry, sample)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives(device: Any, name: str) -> None:
    """Gradients and tangents, of targets that are probabilities too."""
    for entry, sample in samples(name, device, torch.float64):
        results = []
        upstream = None
        for function in (entry.op, FUNCTIONS[name]):
            run, tensors = of_tensors(function, sample)
            value, pull = torch.func.vjp(run, *tensors)
            if upstream is None:  # nothing comes from above where PyTorch has no finite value
                counts = value.isfinite()
                upstream = torch.where(counts, value.cos(), 0)
            tangent = torch.func.jvp(run, tuple(tensors), tuple(t.cos() for t in tensors))[1]
            grads = pull(upstream)
            if "masked" in name:  # of a row that is masked whole PyTorch's gradient is NaN
                grads = tuple(torch.nan_to_num(grad) for grad in grads)
            results.append((grads, torch.where(counts, tangent, 0)))
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_dtypes(device: Any, name: str) -> None:
    """Integers and bool, where PyTorch takes them, or a reason not to try."""
    for dtype in sorted(set().union(*(e.dtypes for e in entries(name))) - set(FLOATS), key=str):
        kind = "complex" if dtype.is_complex else "integer"
        if (name, kind) in LEFT_OUT:
            continue
        for entry, sample in samples(name, device, dtype):
            compare(name, entry, sample)
