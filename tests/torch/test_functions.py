"""The functions: where they run, their memory, launches, dtypes, seeds, errors; the modules."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from benchmarks import torch_costs
from cusoftmax import emulator
from cusoftmax.runtime.backend import CudaBackend
from tests import support
from tests.torch.torch_cases import CASES, MASK, TARGET, close, place

torch = pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")

import cupy
from torch._subclasses.fake_tensor import FakeTensorMode

import cusoftmax.torch as ct

F = torch.nn.functional


# ---------------------------------------------------------------------------- where, and in what


def test_the_package_alone_imports_neither_pytorch_nor_cupy() -> None:
    code = "import cusoftmax, sys; print(sorted({'torch', 'cupy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", CASES)
def test_a_cpu_tensor_needs_the_emulator(emulated: Any, name: str) -> None:
    inputs = CASES[name].inputs(emulated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cusoftmax.runtime.backend.active", CudaBackend)
        with pytest.raises(TypeError, match=r"on the device cpu; .*cusoftmax\.emulator\.activate"):
            CASES[name].function(*inputs)


def test_a_tensor_on_another_device_is_refused(device: Any) -> None:
    if device.name == "cuda":
        x, mask = torch.zeros(2, 3, device="cuda"), torch.tensor(MASK)
        with pytest.raises(TypeError, match="mask is on the device cpu"):
            ct.softmax(x, -1, mask=mask)
    else:
        assert ct.softmax(torch.zeros(2, 3, device="meta"), -1).is_meta  # nothing is launched


def test_results_and_workspaces_are_memory_of_pytorch(device: Any) -> None:
    """For a few long rows there is a workspace; of `cross_entropy`'s mean, intermediate results."""
    made: list[Any] = []
    empty = torch.empty

    def counted(*args: Any, **options: Any) -> Any:
        made.append(empty(*args, **options))
        return made[-1]

    def refuse(nbytes: int) -> Any:
        raise AssertionError(f"{nbytes} bytes of CuPy's")

    x = torch.randn(1, 1 << 18, device=place(device))
    with pytest.MonkeyPatch.context() as patch, cupy.cuda.using_allocator(refuse):
        patch.setattr(torch, "empty", counted)
        y = ct.softmax(x, -1)
        ct.cross_entropy(x, torch.tensor([3], device=x.device))
    close(y, torch.softmax(x, -1), rtol=1e-5)
    assert made and {tensor.dtype for tensor in made} == {torch.uint8}
    assert {tensor.device for tensor in made} == {x.device}


def test_layouts_are_kept_and_any_is_read(device: Any) -> None:
    whole = torch.randn(5, 6, 4, device=place(device), dtype=torch.float64)
    for x in (whole, whole.mT, whole[:, ::2, 1:], whole[:1].expand(3, 6, 4), whole[0, 0, 0]):
        for dim in range(max(x.dim(), 1)):
            y = ct.softmax(x, dim)
            close(y, torch.softmax(x, dim))
            assert y.stride() == torch.empty_like(x).stride()
    assert ct.softmax(torch.zeros(0, 3, device=place(device)), -1).shape == (0, 3)


LAUNCHES: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "softmax": (lambda x: ct.softmax(x, -1), ["softmax"]),
    "its gradient": (
        lambda x: torch.autograd.grad(ct.softmax(x, -1), x, x.detach()),
        ["softmax", "softmax_vjp"],
    ),
    "its tangent": (
        lambda x: torch.func.jvp(lambda x: ct.softmax(x, -1), (x.detach(),), (x.detach(),)),
        ["softmax", "softmax_vjp"],
    ),
    "the gradient of its gradient": (
        lambda x: torch.autograd.grad(
            torch.autograd.grad(ct.softmax(x, -1), x, x.detach().exp(), create_graph=True),
            x,
            x.detach(),
        ),
        ["softmax", "softmax_vjp", "softmax_vjp_vjp", "softmax_vjp"],
    ),
    "the tangent of its gradient": (
        lambda x: torch.func.jvp(
            lambda x: torch.func.vjp(lambda x: ct.softmax(x, -1), x)[1](x.detach()),
            (x.detach(),),
            (x.detach(),),
        ),
        ["softmax", "softmax_vjp", "softmax_vjp", "softmax_hvp"],
    ),
    "the tangent of logsumexp's gradient": (
        lambda x: torch.func.jvp(
            torch.func.grad(lambda x: ct.logsumexp(x, -1).sum()), (x.detach(),), (x.detach(),)
        ),
        ["logsumexp", "softmax", "logsumexp_vjp", "softmax_value_and_vjp"],
    ),
    "the gradient of cross_entropy": (
        lambda x: torch.autograd.grad(ct.cross_entropy(x, torch.tensor(TARGET)), x),
        ["cross_entropy", "cross_entropy_divisor", "cross_entropy_vjp"],
    ),
    "linear_cross_entropy in two chunks": (
        lambda x: ct.linear_cross_entropy(x, x, torch.tensor(TARGET) // 2, chunk=1).backward(),
        ["cross_entropy_divisor", "cross_entropy_grad_up", "cross_entropy_grad_up"],
    ),
}


@pytest.mark.parametrize("name", LAUNCHES)
def test_derivatives_are_one_launch_each(emulated: Any, name: str) -> None:
    run, want = LAUNCHES[name]
    x = torch.randn(2, 3, dtype=torch.float64).requires_grad_()
    support._launched.clear()
    run(x)
    got = [kernel.name for kernel, _ in support._launched]
    assert [re.sub("^csm_|_group.*", "", name) for name in got] == want


# ---------------------------------------------------------------------------- dtypes and autocast

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dtypes_and_autocast_are_those_of_pytorch(kind: str, autocast: bool, dtype: Any) -> None:
    """On tensors without values, of both kinds of device."""
    enabled = torch.is_autocast_enabled(kind)
    torch.set_autocast_enabled(kind, autocast)
    try:
        with FakeTensorMode():
            x = torch.empty(2, 3, device=kind, dtype=dtype)
            target = torch.empty(2, device=kind, dtype=torch.int64)
            weight = torch.empty(3, 3, device=kind, dtype=dtype)
            for got, want in (
                (ct.softmax(x, -1), torch.softmax(x, -1)),
                (ct.softmax(x, -1, torch.float64), torch.softmax(x, -1, torch.float64)),
                (ct.log_softmax(x, -1), torch.log_softmax(x, -1)),
                (ct.logsumexp(x, -1), torch.logsumexp(x, -1)),
                (ct.gumbel_softmax(x), F.gumbel_softmax(x)),
                (ct.cross_entropy(x, target), F.cross_entropy(x, target)),
                (
                    ct.linear_cross_entropy(x, weight, target),
                    F.cross_entropy(F.linear(x, weight), target),
                ),
            ):
                assert (got.dtype, got.shape, got.device) == (want.dtype, want.shape, want.device)
    finally:
        torch.set_autocast_enabled(kind, enabled)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_gradients_have_the_dtype_of_what_they_are_of(device: Any, dtype: Any) -> None:
    """Of a float32 result: also those of float64 are as exact as it is."""
    generator = torch.Generator().manual_seed(0)
    made = (torch.randn(shape, generator=generator) for shape in ((2, 3), (3,)))
    x, bias = (tensor.to(place(device)) for tensor in made)
    x, bias = x.to(dtype).requires_grad_(), bias.requires_grad_()
    y = ct.softmax(x, -1, torch.float32, bias=bias)
    y.square().sum().backward()
    assert (y.dtype, x.grad.dtype, bias.grad.dtype) == (torch.float32, dtype, torch.float32)
    exact = x.detach().double().requires_grad_()
    torch.softmax(exact + bias.detach(), -1).square().sum().backward()
    tolerance = 4 * max(torch.finfo(each).eps for each in (dtype, torch.float32))
    torch.testing.assert_close(
        x.grad.double(), exact.grad, rtol=tolerance, atol=max(tolerance / 16, 1e-7)
    )


# ------------------------------------------------------------------------------------------ noise


def test_noise_follows_from_the_seed(device: Any) -> None:
    """It is that of the package's own functions, with a seed of the generator or a given one."""
    x = torch.randn(5, 40, device=place(device))
    own = device.asarray(x.cpu().numpy())
    y = torch.as_tensor(device.asnumpy(cs.gumbel_softmax(own, seed=7, temperature=0.5)))
    assert torch.equal(ct.gumbel_softmax(x, 0.5, seed=7).cpu(), y)
    drawn = torch.as_tensor(device.asnumpy(cs.sample(own, seed=7, temperature=2.0)))
    assert torch.equal(ct.sample(x, temperature=2.0, seed=7).cpu(), drawn)
    torch.manual_seed(3)
    first, second = ct.sample(x), ct.sample(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(ct.sample(x), first)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(ct.sample(x, generator=generator), first)


def test_hard_noise_is_one_hot_and_has_the_gradient_of_the_soft(device: Any) -> None:
    x = torch.randn(4, 9, device=place(device), dtype=torch.float64).requires_grad_()
    soft, hard = ct.gumbel_softmax(x, seed=1), ct.gumbel_softmax(x, hard=True, seed=1)
    assert torch.equal(hard.detach().round().sum(-1), torch.ones_like(hard[:, 0]))
    assert torch.equal(hard.argmax(-1), soft.argmax(-1))
    upstream = x.detach().cos()
    close(*(torch.autograd.grad(y, x, upstream)[0] for y in (hard, soft)))


# ----------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: ct.softmax(x.long(), -1), TypeError, "give dtype="),
        (lambda x: ct.softmax(x, -1, torch.int32), TypeError, "give dtype="),
        (lambda x: ct.softmax(x + 0j, -1), TypeError, "complex"),
        (lambda x: ct.softmax(x.tolist(), -1), TypeError, "input is a list, and only a torch.Tens"),
        (lambda x: ct.softmax(x.to_sparse(), -1), TypeError, r"input is torch\.sparse_coo"),
        (lambda x: ct.softmax(x.to_mkldnn(), -1), TypeError, "only strided tensors"),
        (
            lambda x: ct.softmax(torch.nested.nested_tensor([x, x]), -1),
            TypeError,
            "input is nested",
        ),
        (lambda x: ct.softmax(x, -1, mask=x.tolist()), TypeError, "mask is a list"),
        (lambda x: ct.softmax(x, -1, causal=1), TypeError, "causal=1"),
        (lambda x: ct.softmax(x, None), TypeError, "dim=None"),
        (lambda x: ct.softmax(x, True), TypeError, "dim=True"),
        (lambda x: ct.logsumexp(x, (0, 1.0)), TypeError, r"dim=\(0, 1\.0\)"),
        (lambda x: ct.sample(x, (0, 1)), TypeError, r"dim=\(0, 1\) is not accepted; give an int"),
        (lambda x: ct.gumbel_softmax(x, dim=[1]), TypeError, r"dim=\[1\]"),
        (lambda x: ct.topk_softmax(x, 2, (0, 1)), TypeError, "dim="),
        (lambda x: ct.topk_softmax(x, 2.0), TypeError, "k=2.0"),
        (lambda x: ct.sample(x, seed=1.5), TypeError, "seed=1.5"),
        (lambda x: ct.cross_entropy(x, [1, 2]), TypeError, "target is a list"),
        (lambda x: ct.cross_entropy(x, x, x.tolist()), TypeError, "weight is a list"),
        (lambda x: ct.cross_entropy(x, x, ignore_index=1), ValueError, "name no class to ignore"),
        (lambda x: ct.cross_entropy(x, x, ignore_index=0.5), TypeError, "ignore_index=0.5"),
        (lambda x: ct.softmax(x, 2), IndexError, "Dimension out of range"),
        (lambda x: ct.logsumexp(x, (0, -3)), IndexError, "Dimension out of range"),
        (lambda x: ct.softmax(x, (0, -2)), ValueError, "axis"),
        (lambda x: ct.softmax(x, 0, causal=True), ValueError, "causal"),
        (lambda x: ct.softmax(x, -1, mask=x), TypeError, "mask"),
        (lambda x: ct.softmax(x, -1, mask=x[:, :2] > 0), ValueError, "broadcast"),
        (lambda x: ct.softmax(x, -1, scale=1e30), ValueError, "scale"),
        (lambda x: ct.topk_softmax(x, 4), ValueError, "k="),
        (lambda x: ct.topk_softmax(x, 2, normalise="k"), ValueError, "normalise"),
        (lambda x: ct.gumbel_softmax(x, -1.0), ValueError, "temperature"),
        (lambda x: ct.sample(x, seed=-1), ValueError, "seed"),
        (lambda x: ct.cross_entropy(x, x.argmax(-1), reduction="max"), ValueError, "reduction"),
        (lambda x: ct.cross_entropy(x, x.argmax(0)), ValueError, "target"),
        (lambda x: ct.cross_entropy(x, x.argmax(-1), x[0, :2]), ValueError, "weight"),
        (lambda x: ct.cross_entropy(x, x.argmax(-1), label_smoothing=2.0), ValueError, "smoothing"),
        (lambda x: ct.segment_softmax(x, x), TypeError, "offsets"),
        (lambda x: ct.linear_cross_entropy(x, x.mT, x.argmax(-1)), ValueError, "shapes"),
        (lambda x: ct.linear_cross_entropy(x, x, x.argmax(0)), ValueError, "target"),
        (lambda x: ct.linear_cross_entropy(x, x, x.argmax(-1), chunk=0), ValueError, "chunk"),
        (lambda x: ct.linear_cross_entropy(x, x, x.argmax(-1), chunk=2.0), TypeError, "chunk=2.0"),
        (lambda x: ct.linear_cross_entropy(x, x, x.argmax(-1), x[0]), ValueError, "bias has shape"),
        (
            lambda x: ct.linear_cross_entropy(x, x.half(), x.argmax(-1)),
            TypeError,
            "give all one dtype",
        ),
        (
            lambda x: ct.linear_cross_entropy(x, x, x.argmax(-1), compensated=1),
            TypeError,
            "compensated=1",
        ),
    ],
)
def test_errors(device: Any, call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call(torch.zeros(2, 3, device=place(device)))


# ------------------------------------------------------------------------------- losses, modules


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_losses_of_no_rows_and_of_ignored_ones(device: Any, reduction: str) -> None:
    where = place(device)
    for x, target in (
        (torch.zeros(0, 3, device=where), torch.zeros(0, dtype=torch.int64, device=where)),
        (torch.zeros(0, 3, device=where), torch.zeros(0, 3, device=where)),
        (torch.zeros(2, 3, device=where), torch.full((2,), -100, device=where)),
        (torch.zeros(3, device=where), torch.tensor(1, device=where)),
    ):
        want = F.cross_entropy(x, target, reduction=reduction)
        torch.testing.assert_close(
            ct.cross_entropy(x, target, reduction=reduction), want, equal_nan=True
        )
    for old in ({"size_average": False}, {"reduce": False}):
        x, target = torch.randn(2, 3, device=where), torch.tensor(TARGET, device=where)
        with pytest.warns(UserWarning, match="deprecated"):
            want = F.cross_entropy(x, target, **old)
        with pytest.warns(UserWarning, match="deprecated"):
            torch.testing.assert_close(ct.cross_entropy(x, target, **old), want)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"ignore_index": 2, "reduction": "sum", "z_loss": 0.1},
    {"class_weight": True, "label_smoothing": 0.1, "softcap": 2.0},
    {"class_weight": True, "ignore_index": 2, "reduction": "none", "softcap": 2.0, "z_loss": 0.1},
    {"soft": True, "class_weight": True, "label_smoothing": 0.1, "z_loss": 0.1, "softcap": 2.0},
    {"soft": True, "reduction": "none"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "none")
@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
def test_linear_cross_entropy_has_the_options_of_cross_entropy(
    device: Any, rows: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Values and gradients, of a last chunk that is shorter too."""
    given = dict(options)
    generator = torch.Generator().manual_seed(len(rows))
    hidden, weight, bias, probabilities, each = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(place(device))
        for shape in ((*rows, 3), (4, 3), (4,), (*rows, 4), (4,))
    )
    target = probabilities.softmax(-1) if given.pop("soft", False) else probabilities.argmax(-1)
    weights = each.exp() if given.pop("class_weight", False) else None
    results = []
    for chunked in (True, False):
        leaves = [t.clone().requires_grad_() for t in (hidden, weight, bias)]
        if chunked:
            loss = ct.linear_cross_entropy(
                *leaves[:2], target, leaves[2], class_weight=weights, chunk=2, **given
            )
        else:
            logits = F.linear(*leaves).movedim(-1, 1 if len(rows) > 1 else -1)
            wanted = target.movedim(-1, 1) if target.dim() > max(len(rows), 1) > 1 else target
            loss = ct.cross_entropy(logits, wanted, weights, **given)
        gradients = torch.autograd.grad(loss, leaves, torch.ones_like(loss))
        assert not any(gradient.requires_grad for gradient in gradients)
        results.append((loss.detach(), gradients))
    close(*results)


def test_linear_cross_entropy_of_nothing(device: Any) -> None:
    """No rows, no features, no row that counts: as PyTorch has it, with gradients of 0."""
    where, dtype = place(device), torch.float64
    weight = torch.randn(4, 3, dtype=dtype, device=where)
    for hidden, layer, target in (
        (torch.zeros(0, 3), weight, torch.zeros(0)),
        (torch.zeros(2, 0), weight[:, :0], torch.zeros(2)),
        (torch.ones(2, 3), weight, torch.full((2,), -100)),
    ):
        results = []
        for function in (
            ct.linear_cross_entropy,
            lambda h, w, t: F.cross_entropy(F.linear(h, w), t),
        ):
            leaves = [hidden.to(where, dtype).requires_grad_(), layer.clone().requires_grad_()]
            loss = function(*leaves, target.long().to(where))
            results.append((loss.detach(), torch.autograd.grad(loss, leaves)))
        torch.testing.assert_close(*results, equal_nan=True)


def test_gradients_of_a_loss_that_is_kept_are_the_same_twice(device: Any) -> None:
    """The last backward pass overwrites what the others read."""
    x = torch.randn(3, 2, device=place(device)).requires_grad_()
    target = torch.tensor([0, 2, 1], device=place(device))
    loss = ct.linear_cross_entropy(x, x, target, chunk=2)
    passes = [
        torch.autograd.grad(3 * loss, x, retain_graph=kept)[0] for kept in (True, True, False)
    ]
    assert torch.equal(passes[0], passes[1]) and torch.equal(passes[0], passes[2])


def test_what_a_gradient_needs_must_not_change(device: Any) -> None:
    """And the message has the operator's name."""
    y = ct.softmax(torch.zeros(2, 3, device=place(device)).requires_grad_(), -1)
    y.add_(1)
    with pytest.raises(RuntimeError, match="output 0 of cusoftmax_softmax_backward"):
        y.sum().backward()


def test_tensors_that_are_more_than_their_memory(device: Any) -> None:
    """Negatives, zeros without memory, inference tensors, subclasses."""
    plain = torch.randn(2, 3, dtype=torch.float64, device=place(device))
    negative = torch.complex(plain, -plain).conj().imag
    assert negative.is_neg()
    zeros = torch._efficientzerotensor((2, 3), dtype=torch.float64, device=place(device))
    for x in (negative, zeros, plain.as_subclass(type("Own", (torch.Tensor,), {}))):
        close(ct.softmax(x, -1), torch.softmax(x, -1))
        assert type(ct.softmax(x, -1)) is type(x)
    with torch.inference_mode():
        close(ct.logsumexp(plain * 1, -1), torch.logsumexp(plain * 1, -1))


def test_modules_are_the_functions(device: Any) -> None:
    x = torch.randn(2, 3, device=place(device))
    mask = torch.tensor(MASK, device=place(device))
    target, weight = torch.tensor(TARGET, device=place(device)), x[0].exp()
    close(ct.Softmax(-1)(x), ct.softmax(x, -1))
    causal = ct.Softmax(-1, scale=0.3, causal=True)
    assert repr(causal) == "Softmax(dim=-1, scale=0.3, causal=True)"
    close(causal(x, mask=mask, bias=x), ct.softmax(
        x, -1, scale=0.3, causal=True, mask=mask, bias=x
    ))  # fmt: skip
    close(ct.LogSoftmax(0, scale=2.0)(x), ct.log_softmax(x, 0, scale=2.0))
    options: dict[str, Any] = {"ignore_index": 0, "label_smoothing": 0.2, "reduction": "sum"}
    loss = ct.CrossEntropyLoss(weight, z_loss=0.1, softcap=3.0, **options)
    close(loss(x, target), ct.cross_entropy(x, target, weight, z_loss=0.1, softcap=3.0, **options))
    theirs = torch.nn.CrossEntropyLoss(weight, **options)
    assert isinstance(loss, torch.nn.CrossEntropyLoss)
    assert list(loss.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("dtype", FLOATS[:3], ids=str)
def test_gradients_of_chunks_are_rounded_once(device: Any, dtype: Any) -> None:
    """A hundred chunks: sums of 16 bits alone would round a hundred times."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 8, generator=generator) for n in (200, 5))
    hidden = hidden.abs()  # so that sums grow
    target = torch.randint(5, (200,), generator=generator).to(place(device))
    errors = {}
    for compensated in (True, False):
        leaves = [t.to(place(device), dtype).requires_grad_() for t in (hidden, weight)]
        ct.linear_cross_entropy(
            *leaves, target, chunk=2, reduction="sum", compensated=compensated
        ).backward()
        exact = [t.detach().double().requires_grad_() for t in leaves]
        F.cross_entropy(F.linear(*exact), target, reduction="sum").backward()
        for name, got, want in zip(("hidden", "weight"), leaves, exact, strict=True):
            assert got.grad.dtype == dtype
            scale = want.grad.abs().max()
            worst = ((got.grad.double() - want.grad).abs().max() / scale).item()
            errors[name, compensated] = worst / torch.finfo(dtype).eps
    assert errors["hidden", True] < 4 and errors["weight", True] < 4
    if dtype.itemsize == 2:
        assert errors["weight", False] > 2 * errors["weight", True]


def test_a_scale_of_the_loss_reaches_small_gradients(device: Any) -> None:
    """As `torch.amp.GradScaler` gives one: in float16 a 4096th of most gradients has few digits."""
    generator = torch.Generator().manual_seed(0)
    # Whose products are exact.
    hidden, weight = (torch.randint(-6, 7, (n, 2), generator=generator) / 2 for n in (4096, 3))
    target = (hidden @ weight.t()).argmax(-1).to(place(device))
    got = [t.to(place(device), torch.float16).requires_grad_() for t in (hidden, weight)]
    want = [t.detach().double().requires_grad_() for t in got]
    (4096 * ct.linear_cross_entropy(*got, target)).backward()
    F.cross_entropy(F.linear(*want), target, reduction="sum").backward()
    one, other = got[0].grad.double(), want[0].grad
    largest = other.abs().amax(-1, keepdim=True)
    worst = ((one - other).abs() / largest)[largest[:, 0] > 0.02].max()
    assert worst < 4 * torch.finfo(torch.float16).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_peak_memory_is_by_formula(dtype: Any) -> None:
    """A fifth of PyTorch's at this size, where a chunk is a quarter of the rows."""
    shape = (256, 64, 2048, 64)
    own = "ct.linear_cross_entropy"
    with emulator.activate():
        for way in torch_costs.losses():
            by_formula = torch_costs.formula(way, *shape, dtype.itemsize)
            held = torch_costs.measured(way, *shape, dtype)
            assert (by_formula if way != own else 0.9 * by_formula) <= held <= 1.02 * by_formula
    for size in (2, 4):  # and at the size of a language model, by formula
        for rows, hidden, classes, chunk in (shape, torch_costs.STATED_IN_CHUNKS):
            given = (rows, hidden, classes, chunk, size)
            assert torch_costs.formula(own, *given) < 0.8 * torch_costs.formula("torch", *given)
    given = (*shape, 4)
    assert 5 * torch_costs.formula(own, *given) < torch_costs.formula("torch", *given)


def test_special_values_of_logits(device: Any) -> None:
    rows = [[1, np.inf, 0], [np.nan, 0, 1], [-np.inf] * 3, [-np.inf, 1, 0]]
    x = torch.tensor(rows, dtype=torch.float64, device=place(device))
    for got, want in (
        (ct.softmax(x, -1), torch.softmax(x, -1)),
        (ct.log_softmax(x, -1), torch.log_softmax(x, -1)),
        (ct.logsumexp(x, -1), torch.logsumexp(x, -1)),
    ):
        torch.testing.assert_close(got, want, rtol=1e-14, atol=0, equal_nan=True)
