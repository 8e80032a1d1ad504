"""cross_entropy against PyTorch's on the CPU: values, and gradients by automatic derivatives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs

torch = pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")

ROWS, CLASSES = 7, 33
REDUCTIONS = ("none", "sum", "mean")


def theirs(x: Any, target: Any, upstream: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return PyTorch's loss and gradient, options of ours alone written out."""
    logits = torch.tensor(x, requires_grad=True)
    z_loss, softcap = options.pop("z_loss"), options.pop("softcap")
    weight = options.pop("weight")
    given = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    reduction = options.pop("reduction")
    aim = torch.tensor(target)
    weights = None if weight is None else torch.tensor(weight)
    loss = torch.nn.functional.cross_entropy(
        given, aim, weight=weights, reduction=reduction, **options
    )
    if z_loss:
        squares = z_loss * torch.logsumexp(given, 1) ** 2
        total = torch.tensor(float(len(x)))
        if not aim.is_floating_point():
            counts = aim != options["ignore_index"]
            squares = torch.where(counts, squares, 0.0)
            own = torch.ones(()) if weights is None else weights[torch.where(counts, aim, 0)]
            total = (counts * own).sum()
        by = {"none": squares, "sum": squares.sum(), "mean": squares.sum() / total}
        loss = loss + by[reduction]
    loss.backward(torch.tensor(upstream) if reduction == "none" else None)
    return loss.detach().numpy(), logits.grad.numpy()


@pytest.mark.parametrize("softcap", [None, 4.0])
@pytest.mark.parametrize("z_loss", [0.0, 1e-3])
@pytest.mark.parametrize("smoothing", [0.0, 0.15, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["hard", "none ignored", "soft"])
def test_every_combination(
    device: Any, kind: str, weighted: bool, smoothing: float, z_loss: float, softcap: float | None
) -> None:
    rng = np.random.default_rng(1)
    x, weight = rng.normal(0, 3, (ROWS, CLASSES)), rng.uniform(0.1, 3, CLASSES)
    target: Any = rng.integers(0, CLASSES, ROWS)
    if kind == "hard":
        target[[1, 4]] = 3
    if kind == "soft":
        target = rng.dirichlet(np.ones(CLASSES), ROWS)
    upstream = rng.normal(size=ROWS)
    for reduction, ignored in itertools.product(REDUCTIONS, (-100, 3)):
        options: dict[str, Any] = {
            "weight": weight if weighted else None,
            "label_smoothing": smoothing,
            "z_loss": z_loss,
            "softcap": softcap,
            "ignore_index": -100 if kind == "soft" else ignored,
        }
        loss, gradient = theirs(x, target, upstream, reduction=reduction, **options)
        arrays = [device.asarray(a) for a in (x, target)]
        options["weight"] = device.asarray(weight) if weighted else None
        mine, dlogits = cs.cross_entropy(*arrays, reduction=reduction, grad=True, **options)
        if reduction == "none":
            dlogits = cs.cross_entropy_vjp(*arrays, device.asarray(upstream), **options)
        np.testing.assert_allclose(device.asnumpy(mine), loss, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(device.asnumpy(dlogits), gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", [(4, 6), (2, 6, 5), (2, 6, 3, 4), (6,)])
@pytest.mark.parametrize("soft", [False, True])
def test_classes_are_where_axis_says(device: Any, shape: tuple[int, ...], soft: bool) -> None:
    """PyTorch has them along axis 1, of one row along axis 0."""
    rng = np.random.default_rng(2)
    axis = min(1, len(shape) - 1)
    x = rng.normal(0, 2, shape)
    target: Any = rng.integers(0, 6, shape[:axis] + shape[axis + 1 :])
    if soft:
        target = np.exp(x[::-1])
    for reduction in REDUCTIONS:
        want = torch.nn.functional.cross_entropy(
            torch.tensor(x), torch.tensor(target), reduction=reduction
        )
        got = cs.cross_entropy(
            device.asarray(x), device.asarray(target), axis=axis, reduction=reduction
        )
        np.testing.assert_allclose(device.asnumpy(got), want.numpy(), rtol=1e-13)


@pytest.mark.parametrize(
    "row",
    [
        [1, np.nan, 0, 2],
        [1, np.inf, 0, 2],
        [1, -np.inf, 0, 2],
        [-np.inf, 1, 0, 2],
        [-np.inf] * 4,
        [0, -1e300, 0, 0],
        [1e300, -1e300, 1e300, 0],
    ],
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_special_values(device: Any, row: list[float], reduction: str) -> None:
    x, target = np.array([row, [0, 1, 2, 3]], float), np.array([0, 3])
    logits = torch.tensor(x, requires_grad=True)
    want = torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction=reduction)
    want.backward(torch.ones(2, dtype=torch.float64) if reduction == "none" else None)
    loss, gradient = cs.cross_entropy(
        device.asarray(x), device.asarray(target), reduction=reduction, grad=True
    )
    np.testing.assert_allclose(device.asnumpy(loss), want.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(
        device.asnumpy(gradient), logits.grad.numpy(), rtol=1e-13, atol=1e-300
    )


def test_all_ignored(device: Any) -> None:
    x, target = np.zeros((2, 3)), np.full(2, -100)
    want = torch.nn.functional.cross_entropy(torch.tensor(x), torch.tensor(target))
    got = cs.cross_entropy(device.asarray(x), device.asarray(target))
    np.testing.assert_array_equal(device.asnumpy(got), want.numpy())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_loss_has_the_dtype_of_the_logits(device: Any, dtype: str) -> None:
    x = np.random.default_rng(0).normal(0, 3, (64, 9)).astype(dtype)
    target = np.arange(64) % 9
    for reduction in REDUCTIONS:
        want = torch.nn.functional.cross_entropy(
            torch.tensor(x), torch.tensor(target), reduction=reduction
        ).numpy()
        got = cs.cross_entropy(device.asarray(x), device.asarray(target), reduction=reduction)
        assert device.asnumpy(got).dtype == want.dtype
        tolerance = 8 * np.finfo(dtype).eps
        np.testing.assert_allclose(device.asnumpy(got), want, rtol=tolerance, atol=tolerance)
