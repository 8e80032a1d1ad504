"""PyTorch's own sample inputs (``OpInfo``), of each function that there is here under its name.

PyTorch has no error inputs for any of these functions. What is left out is in `opinfo.LEFT_OUT`; a
sample, dtype or variant that is neither tried nor there fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import exhaustive

torch = pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")
pytest.importorskip("expecttest", reason="PyTorch's OpInfo needs the package expecttest")

from tests.torch.opinfo import FLOATS, FUNCTIONS, LEFT_OUT, agree, compare, entries, samples

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


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in FUNCTIONS),
        *((name, torch.bfloat16) for name in FUNCTIONS if "masked" not in name),
        *exhaustive([(name, torch.bfloat16) for name in FUNCTIONS if "masked" in name]),
        *exhaustive([(name, torch.float16) for name in FUNCTIONS]),
    ],
    ids=str,
)
def test_values(device: Any, name: str, dtype: Any) -> None:
    """Those of float64 are compared with the derivatives."""
    tried = samples(name, device, dtype)
    one_range = name == "logsumexp" and dtype.itemsize == 2
    assert len(tried) == SAMPLES[name] // (3 if one_range else 1)
    for entry, sample in tried:
        compare(name, entry, sample)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives(device: Any, name: str) -> None:
    """Values, gradients and tangents, of targets that are probabilities too."""
    tried = samples(name, device, torch.float64)
    assert len(tried) == SAMPLES[name]
    for entry, sample in tried:
        values, results = [], []
        upstream = None
        for function in (entry.op, FUNCTIONS[name]):
            run, tensors = of_tensors(function, sample)
            value, pull = torch.func.vjp(run, *tensors)
            values.append(value)
            if upstream is None:  # nothing comes from above where PyTorch has no finite value
                counts = value.isfinite()
                upstream = torch.where(counts, value.cos(), 0)
            tangent = torch.func.jvp(run, tuple(tensors), tuple(t.cos() for t in tensors))[1]
            grads = pull(upstream)
            if "masked" in name:  # of a row that is masked whole PyTorch's gradient is NaN
                grads = tuple(torch.nan_to_num(grad) for grad in grads)
            results.append((grads, torch.where(counts, tangent, 0)))
        agree(name, *reversed(values))
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
