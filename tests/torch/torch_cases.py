"""What the tests of `cusoftmax.torch` share: a case of each function, beside PyTorch's own words.

Inputs are small: each call runs on the emulator, and derivatives make hundreds of calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")

import cusoftmax.torch as ct

F = torch.nn.functional


@dataclass(frozen=True)
class Case:
    """A function of tensors that have derivatives, and what it should be.

    Attributes
    ----------
    function, reference : callable
        This package's and PyTorch's; both take the inputs.
    shapes : tuple of tuple of int
        Those of the inputs, which are normal.
    positive : bool
        Whether the last input is made positive: probabilities.
    second : bool
        Whether there are second derivatives.
    """

    function: Callable[..., Any]
    reference: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...] = ((2, 3),)
    positive: bool = False
    second: bool = True

    def inputs(self, device: Any, dtype: Any = torch.float64) -> list[Any]:
        """Return inputs on a device of the tests, the same in each call."""
        generator = torch.Generator().manual_seed(1)
        made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in self.shapes]
        if self.positive:
            made[-1] = made[-1].exp()
        return [tensor.to(place(device), dtype) for tensor in made]


def place(device: Any) -> str:
    """Return PyTorch's name of a machine that tests run on."""
    return "cuda" if device.name == "cuda" else "cpu"


def _on(x: Any, values: Any) -> Any:
    return torch.tensor(values, device=x.device)


MASK = [[True, False, True], [False, False, False]]
TARGET = [2, 0]
WEIGHT = [0.3, 2.0, 0.7]


def _visible(x: Any, y: Any) -> Any:
    """Return a result without the infinities of hidden elements, of which no difference is right.

    A row of nothing else is 0 here.
    """
    return torch.where(_on(x, MASK), y, 0)


def _hidden(x: Any, hides: float = -1e300) -> Any:
    return torch.where(_on(x, MASK), x, hides)


def _seen(x: Any) -> Any:
    """Return the rows in which something is visible."""
    return _on(x, MASK).any(-1, keepdim=True)


def _causal(x: Any) -> Any:
    seen = torch.ones(x.shape[-2:], dtype=torch.bool, device=x.device)
    return torch.where(seen.tril(x.shape[-1] - x.shape[-2]), x, -1e300)


def _everything(loss: Callable[..., Any], smooth: float = 0.1) -> Callable[..., Any]:
    def run(x: Any, *targets: Any) -> Any:
        target = targets[0] if targets else _on(x, TARGET)
        weight = _on(x, WEIGHT).to(x.dtype)
        return loss(x, target, weight, label_smoothing=smooth, z_loss=0.1, softcap=2.0)

    return run


def _written_out(
    x: Any, target: Any, weight: Any, label_smoothing: float, z_loss: float, softcap: float
) -> Any:
    u = softcap * torch.tanh(x / softcap)
    loss = F.cross_entropy(u, target, weight, label_smoothing=label_smoothing)
    squares = z_loss * torch.logsumexp(u, -1) ** 2
    count = len(x) if target.is_floating_point() else weight[target].sum()
    return loss + squares.sum() / count


def _gumbel(x: Any) -> Any:
    """Take the noise from the result, as what has no derivative."""
    y = ct.gumbel_softmax(x.detach(), 0.7, seed=3)
    return torch.softmax((x + (0.7 * y.log() - x.detach()).detach()) / 0.7, -1)


def _segments(x: Any) -> Any:
    return torch.cat([torch.softmax(x[:2], 0), torch.softmax(x[2:], 0)])


def _topk(x: Any, normalise: str) -> Any:
    values, indices = torch.topk(x, 2)
    if normalise == "topk":
        return torch.softmax(values, -1)
    return torch.softmax(x, -1).gather(-1, indices)


CASES = {
    "softmax": Case(lambda x: ct.softmax(x, -1), lambda x: torch.softmax(x, -1)),
    "softmax, masked and scaled": Case(
        lambda x: ct.softmax(x, -1, mask=_on(x, MASK), scale=-1.3),
        lambda x: torch.softmax(_hidden(-1.3 * x), -1) * _seen(x),
    ),
    "softmax, causal and biased": Case(
        lambda x, b: ct.softmax(x, -1, causal=True, bias=b, scale=0.7),
        lambda x, b: torch.softmax(_causal(0.7 * x + b), -1),
        ((2, 3), (1, 3)),
    ),
    "softmax, dim 0": Case(lambda x: ct.softmax(x, 0), lambda x: torch.softmax(x, 0)),
    "log_softmax": Case(lambda x: ct.log_softmax(x, -1), lambda x: torch.log_softmax(x, -1)),
    "log_softmax, masked and biased": Case(
        lambda x, b: _visible(x, ct.log_softmax(x, -1, mask=_on(x, MASK), bias=b, scale=-1.3)),
        lambda x, b: _visible(x, torch.log_softmax(_hidden(-1.3 * x + b), -1)) * _seen(x),
        ((2, 3), (3,)),
    ),
    "log_softmax, causal": Case(
        lambda x: ct.log_softmax(x, -1, causal=True).exp(),
        lambda x: torch.log_softmax(_causal(x), -1).exp(),
    ),
    "logsumexp": Case(
        lambda x: ct.logsumexp(x, (0, 1), keepdim=True),
        lambda x: torch.logsumexp(x, (0, 1), keepdim=True),
    ),
    "logsumexp, masked and biased": Case(
        lambda x, b: torch.where(
            _seen(x)[:, 0], ct.logsumexp(x, -1, mask=_on(x, MASK), bias=b, scale=0.7), 0
        ),
        lambda x, b: torch.where(
            _seen(x)[:, 0], torch.logsumexp(_hidden(0.7 * x + b), -1), 0
        ),
        ((2, 3), (1,)),
    ),
    "cross_entropy": Case(
        lambda x: ct.cross_entropy(x, _on(x, TARGET)),
        lambda x: F.cross_entropy(x, _on(x, TARGET)),
    ),
    "cross_entropy of each row": Case(
        lambda x: ct.cross_entropy(x, _on(x, [[1], [2]]), reduction="none", ignore_index=2),
        lambda x: F.cross_entropy(x, _on(x, [[1], [2]]), reduction="none", ignore_index=2),
        ((2, 3, 1),),
    ),
    "cross_entropy, every option": Case(_everything(ct.cross_entropy), _everything(_written_out)),
    "cross_entropy of probabilities": Case(ct.cross_entropy, F.cross_entropy, ((2, 3),) * 2, True),
    "cross_entropy of probabilities, every option": Case(
        _everything(ct.cross_entropy), _everything(_written_out), ((2, 3),) * 2, True
    ),
    "gumbel_softmax": Case(lambda x: ct.gumbel_softmax(x, 0.7, seed=3), _gumbel),
    "topk_softmax": Case(lambda x: ct.topk_softmax(x, 2)[0], lambda x: _topk(x, "row")),
    "topk_softmax, gates": Case(
        lambda x: ct.topk_softmax(x, 2, normalise="topk")[0], lambda x: _topk(x, "topk")
    ),
    "segment_softmax": Case(
        lambda x: ct.segment_softmax(x, _on(x, [0, 2, 2, 3])), _segments, ((3, 2),)
    ),
    "linear_cross_entropy": Case(
        lambda h, w, b: ct.linear_cross_entropy(h, w, _on(h, [3, 0, 2]), b, chunk=2),
        lambda h, w, b: F.cross_entropy(F.linear(h, w, b), _on(h, [3, 0, 2])),
        ((3, 2), (4, 2), (4,)),
        second=False,
    ),
    "linear_cross_entropy of each row": Case(
        lambda h, w: ct.linear_cross_entropy(
            h, w, _on(h, [3, 0, 2]), reduction="none", label_smoothing=0.1, chunk=2
        ),
        lambda h, w: F.cross_entropy(
            F.linear(h, w), _on(h, [3, 0, 2]), reduction="none", label_smoothing=0.1
        ),
        ((3, 2), (4, 2)),
        second=False,
    ),
}  # fmt: skip

SECOND = [name for name, case in CASES.items() if case.second]


def close(got: Any, want: Any, rtol: float = 1e-11) -> None:
    """Assert that float64 results agree, tuples of them too."""
    __tracebackhide__ = True
    torch.testing.assert_close(got, want, rtol=rtol, atol=1e-12)
