"""The operators as such: `torch.library.opcheck`, and the tangents and gradients of each."""

from __future__ import annotations

from typing import Any

import pytest

from tests.torch.torch_cases import MASK, TARGET, WEIGHT, close, place

torch = pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")

from torch.autograd import forward_ad

from cusoftmax.torch import linear_loss
from cusoftmax.torch.derivatives import RULES
from cusoftmax.torch.operators import OPERATORS, ops

F64 = torch.float64
OF_LINEAR = {operator.name: operator for operator in (linear_loss._LOSSES, linear_loss._TOTAL)}
ALL = OPERATORS | OF_LINEAR


def arguments(name: str, device: Any) -> tuple[Any, ...]:
    """Return the arguments of a call; functions of `y` have one that is a softmax."""
    where = place(device)
    generator = torch.Generator().manual_seed(2)
    x, v, w = (torch.randn(2, 3, generator=generator, dtype=F64).to(where) for _ in range(3))
    mask = torch.tensor(MASK, device=where)
    y = torch.softmax(torch.where(mask, x, -1e300), -1)
    bias, row = v[:1].clone(), w[:, :1].clone()
    shape = ([-1], -1.3, False, F64)
    if name.startswith(("softmax_vjp", "softmax_hvp")):
        y = y * mask.any(-1, keepdim=True)
    classes = torch.tensor(TARGET, device=where)
    weight = torch.tensor(WEIGHT, device=where, dtype=F64)
    loss = (-1, -100, 0.1, 0.1, 2.0)
    offsets, seed = torch.tensor([0, 0, 2], device=where), torch.tensor(5)
    linear = (-100, 0.1, 0.1, 2.0, 2, True, F64)
    return {
        "softmax": (x, mask, bias, *shape),
        "log_softmax": (x, None, bias, *shape),
        "logsumexp": (x, None, bias, *shape),
        "softmax_vjp": (y, v, mask, *shape),
        "log_softmax_vjp": (x.log_softmax(-1), v, None, [-1], 0.7, True, F64),
        "log_softmax_jvp": (x.log_softmax(-1), v, None, [-1], 0.7, True, F64),
        "logsumexp_vjp": (x, row, mask, bias, *shape),
        "softmax_vjp_vjp": (x.softmax(0), v, w, [-2]),
        "softmax_hvp": (x.softmax(-1), v, w, [-1], F64),
        "softmax_value_and_vjp": (x, v, mask, bias, *shape),
        "cross_entropy": (x, classes, weight, *loss, F64),
        "cross_entropy_vjp": (x, v.exp(), row[:, 0], weight, *loss),
        "cross_entropy_divisor": (classes, weight, -100, 3, F64),
        "gumbel_softmax": (x, seed, -1, 0.7, F64),
        "sample": (x, seed, -1, 0.7),
        "topk_softmax": (x, 2, -1, False, F64),
        "segment_softmax": (x, offsets, F64),
        "segment_softmax_vjp": (x.softmax(0), v, offsets, F64),
        "linear_cross_entropy": (x, w.tile(2, 1), classes, bias[0, :1].repeat(4), None, *linear),
        "linear_cross_entropy_total": (
            *(x, w.tile(2, 1), v.tile(1, 2)[:, :4].exp(), row[:, 0], None, None), *linear,
        ),
    }[name]  # fmt: skip


def differentiable(name: str, args: tuple[Any, ...]) -> list[int]:
    """Return the numbers of the operands that have derivatives."""
    fixed = {"mask", "weight", "class_weight", "seed", "offsets"}
    if name in OF_LINEAR:
        fixed = {"target", "upstream", "class_weight"}
    names = ALL[name].names[: len(ALL[name].tensors)]
    return [
        i for i, (called, arg) in enumerate(zip(names, args, strict=False))
        if called not in fixed and arg is not None and arg.is_floating_point()
    ]  # fmt: skip


def tensors(result: Any) -> list[Any]:
    """Return the float results of a call."""
    whole = result if isinstance(result, tuple) else (result,)
    return [tensor for tensor in whole if tensor.is_floating_point()]


@pytest.mark.parametrize("name", ALL)
def test_opcheck(device: Any, name: str) -> None:
    """Schema, fake results, registrations, and a compiled graph with its backward pass."""
    args = list(arguments(name, device))
    for i in differentiable(name, tuple(args)):
        args[i] = args[i].clone().requires_grad_()
    operator = getattr(ops, name).default
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    # No input of the first two has a derivative; of the last, PyTorch would differentiate results
    # that are gradients.
    if name not in ("cross_entropy_divisor", "sample", "linear_cross_entropy_total"):
        tests.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(operator, tuple(args), test_utils=tests)


def test_every_operator_is_here(device: Any) -> None:
    names = {name.split("::")[1] for name in torch._C._dispatch_get_all_op_names() if
             name.startswith("cusoftmax::")}  # fmt: skip
    assert names == set(ALL) and set(RULES) == set(OPERATORS)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"sample", "cross_entropy_divisor"}))
def test_tangents_and_gradients_of_an_operator_called_by_itself(device: Any, name: str) -> None:
    """The tangent is a difference quotient, and gradients contracted with it say the same.

    A change of `y` is one that softmax can make, `J(y) u`: elsewhere its functions have no meaning.
    """
    args = arguments(name, device)
    operator = getattr(ops, name).default
    places = differentiable(name, args)
    changes: dict[int, Any] = {}
    for i in places:
        u = torch.sin(3 * args[i] + i)
        called = ALL[name].names[i]
        dim = 0 if "segment" in name or name == "softmax_vjp_vjp" else -1
        if called == "y":
            u = args[i] * (u - (args[i] * u).sum(dim, keepdim=True))
        elif called == "logy":
            u = u - (args[i].exp() * u).sum(dim, keepdim=True)
        changes[i] = u

    def at(step: float) -> list[Any]:
        moved = list(args)
        for i, u in changes.items():
            moved[i] = args[i] + step * u
        return tensors(operator(*moved))

    h = 1e-6
    quotient = [(a - b) / (2 * h) for a, b in zip(at(h), at(-h), strict=True)]
    if name == "linear_cross_entropy_total":
        quotient = quotient[:1]  # its gradients have no derivatives
    else:
        with forward_ad.dual_level():
            dual = list(args)
            for i, u in changes.items():
                dual[i] = forward_ad.make_dual(args[i], u)
            outs = tensors(operator(*dual))
            got = [forward_ad.unpack_dual(out).tangent for out in outs]
        torch.testing.assert_close(got, quotient, rtol=1e-7, atol=1e-8, equal_nan=True)
    leaves = list(args)
    for i in places:
        leaves[i] = args[i].clone().requires_grad_()
    outs = tensors(operator(*leaves))[: len(quotient)]
    pulled = [torch.cos(out.detach()) for out in outs]
    gradients = torch.autograd.grad(outs, [leaves[i] for i in places], pulled)
    along = sum((g * changes[i]).sum() for g, i in zip(gradients, places, strict=True))
    want = sum((q * p).sum() for q, p in zip(quotient, pulled, strict=True))
    torch.testing.assert_close(along, want, rtol=1e-6, atol=1e-8)


def another(called: str, operand: Any) -> Any:
    """Return other values of an operand, as meaningful as the first."""
    if called == "seed":
        return operand + 1
    if called == "offsets":
        return torch.tensor([0, 1, 2], device=operand.device)
    return operand if called == "y" else operand.flip(0)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_calls_is_as_many_calls(device: Any, name: str) -> None:
    """`torch.vmap`, with a batch in all operands or in some, at the front or at the end."""
    args = arguments(name, device)
    operator = getattr(ops, name).default
    count = len(ALL[name].tensors)
    given = [i for i in range(count) if args[i] is not None]
    own = [i for i in given if ALL[name].names[i] != "seed"]
    for batched in {tuple(given), tuple(own), (0,), tuple(own[1:])} - {()}:
        for dim in (0, -1):
            stacked, in_dims = list(args), [None] * len(args)
            for i in batched:
                at = 0 if ALL[name].names[i] == "seed" else dim
                stacked[i] = torch.stack([args[i], another(ALL[name].names[i], args[i])], at)
                in_dims[i] = at
            got = torch.vmap(operator, tuple(in_dims))(*stacked)
            pairs = list(zip(stacked, in_dims, strict=True))
            calls = [
                operator(*(a if d is None else a.select(d, n) for a, d in pairs)) for n in range(2)
            ]
            if isinstance(got, tuple):
                close(got, tuple(torch.stack(each) for each in zip(*calls, strict=True)))
            else:
                close(got, torch.stack(calls))


def test_operators_take_negative_dimensions(device: Any) -> None:
    """With which a batch may come before the others."""
    x = torch.zeros(2, 3, device=place(device))
    for dim in (0, 1, -3):
        with pytest.raises(IndexError, match=f"dim={dim} of a tensor with 2 dimensions"):
            ops.softmax(x, None, None, [dim], 1.0, False, torch.float32)
