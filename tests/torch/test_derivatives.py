"""Every derivative, by differences (PyTorch's own checks) and beside PyTorch's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import exhaustive
from tests.torch.torch_cases import CASES, SECOND, Case, close, place

torch = pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")

from torch.autograd import forward_ad, gradcheck, gradgradcheck

import cusoftmax.torch as ct


def leaves(case: Case, device: Any) -> list[Any]:
    """Return a case's inputs, with gradients to come."""
    return [tensor.requires_grad_() for tensor in case.inputs(device)]


@pytest.mark.parametrize("name", CASES)
def test_first_by_differences(device: Any, name: str) -> None:
    """Backward and forward mode, and batches of both."""
    case = CASES[name]
    assert gradcheck(
        case.function,
        leaves(case, device),
        # With gradients to come, linear_cross_entropy has no forward mode: the next test.
        check_forward_ad=case.second,
        check_batched_grad=True,
        check_batched_forward_grad=case.second,
    )


@pytest.mark.parametrize("name", CASES)
def test_first_beside_pytorch(device: Any, name: str) -> None:
    """Value, `torch.func.vjp`, `torch.func.jvp`, `jacrev` and `jacfwd`."""
    case = CASES[name]
    inputs = case.inputs(device)
    numbers = tuple(range(len(inputs)))
    tangents = tuple(tensor.cos() for tensor in inputs)
    results = []
    for function in (case.function, case.reference):
        value, pull = torch.func.vjp(function, *inputs)
        results.append((
            value,
            pull(value.cos()),
            torch.func.jvp(function, tuple(inputs), tangents)[1],
            torch.func.jacrev(function, numbers)(*inputs),
            torch.func.jacfwd(function, numbers)(*inputs),
        ))  # fmt: skip
    close(*results)


@pytest.mark.parametrize("name", SECOND)
def test_second_by_differences(device: Any, name: str) -> None:
    """Gradients of gradients, and forward mode over them."""
    case = CASES[name]
    inputs = leaves(case, device)
    assert gradgradcheck(case.function, inputs, check_fwd_over_rev=True, check_batched_grad=True)


ORDERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "forward over reverse": (torch.func.jacfwd, torch.func.jacrev),  # torch.func.hessian
    "reverse over reverse": (torch.func.jacrev, torch.func.jacrev),
    "reverse over forward": (torch.func.jacrev, torch.func.jacfwd),
    "forward over forward": (torch.func.jacfwd, torch.func.jacfwd),
}


@pytest.mark.parametrize(
    ("name", "order"),
    [
        *((name, order) for name in SECOND for order in ORDERS if order != "reverse over reverse"),
        *exhaustive([(name, "reverse over reverse") for name in SECOND]),  # as by differences
    ],
)
def test_second_beside_pytorch(device: Any, name: str, order: str) -> None:
    """All four ways to a Hessian."""
    case = CASES[name]
    inputs = case.inputs(device)
    numbers = tuple(range(len(inputs)))
    outer, inner = ORDERS[order]
    results = []
    for function in (case.function, case.reference):

        def loss(*args: Any, function: Callable[..., Any] = function) -> Any:
            return (function(*args) ** 3).sum()

        results.append(outer(inner(loss, numbers), numbers)(*inputs))
    close(*results, rtol=1e-10)


def test_reverse_over_forward_without_functorch(device: Any) -> None:
    """A dual tensor with gradients to come: the tangent has a gradient."""
    x = torch.randn(2, 3, dtype=torch.float64, device=place(device)).requires_grad_()
    v = x.detach().cos()
    with forward_ad.dual_level():
        y = ct.softmax(forward_ad.make_dual(x, v), -1)
        (got,) = torch.autograd.grad((forward_ad.unpack_dual(y).tangent ** 2).sum(), x)
    want = torch.func.grad(
        lambda x: (torch.func.jvp(lambda x: torch.softmax(x, -1), (x,), (v,))[1] ** 2).sum()
    )(x.detach())
    close(got, want)


@pytest.mark.parametrize("name", ["softmax", "softmax, masked and scaled", "cross_entropy"])
@pytest.mark.parametrize("order", [torch.func.jacfwd, torch.func.jacrev])
def test_third_beside_pytorch(device: Any, name: str, order: Any) -> None:
    case = CASES[name]
    results = []
    for function in (case.function, case.reference):
        hessian = torch.func.hessian(lambda x, function=function: (function(x) ** 2).sum())
        results.append(order(hessian)(*case.inputs(device)))
    close(*results, rtol=1e-9)


def test_weights_of_classes_have_no_derivative(device: Any) -> None:
    x, target = torch.randn(2, 3, device=place(device)), torch.tensor([1, 2], device=place(device))
    weight = torch.rand(3, device=place(device)).requires_grad_()
    for reduction in ("mean", "sum"):
        with pytest.raises(NotImplementedError, match="weight has no derivative"):
            ct.cross_entropy(x, target, weight, reduction=reduction).backward()
        with pytest.raises(NotImplementedError, match="weight has no derivative"):
            torch.func.jvp(
                lambda w, r=reduction: ct.cross_entropy(x, target, w, reduction=r),
                (weight.detach(),),
                (weight.detach(),),
            )


def test_the_derivatives_of_linear_cross_entropy_end_at_the_first(device: Any) -> None:
    """And say so, forward mode of a call whose gradients are computed with it as well."""
    case = CASES["linear_cross_entropy"]
    inputs = leaves(case, device)
    (gradient,) = torch.autograd.grad(case.function(*inputs), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(gradient.sum(), inputs[0])
    with pytest.raises(NotImplementedError, match="forward mode of a call"):
        torch.func.hessian(case.function)(*(tensor.detach() for tensor in inputs))
    rows = CASES["linear_cross_entropy of each row"]
    few = leaves(rows, device)
    (gradient,) = torch.autograd.grad(rows.function(*few).sum(), few[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        torch.autograd.grad(gradient.sum(), few[0])


def test_a_gradient_at_temperature_0_raises(device: Any) -> None:
    x = torch.randn(2, 3, device=place(device)).requires_grad_()
    y = ct.gumbel_softmax(x, 0.0, seed=1)
    assert (y.amax(-1) == 1).all()
    with pytest.raises(NotImplementedError, match="temperature"):
        y.sum().backward()
