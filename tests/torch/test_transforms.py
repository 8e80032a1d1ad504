"""Compiled graphs, exported programs, tensors without values, and `torch.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support import exhaustive
from tests.torch.torch_cases import CASES, SECOND, close, place

torch = pytest.importorskip("torch", reason="needs PyTorch, which is no dependency")

from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import cusoftmax.torch as ct

# The back-end that generates code takes seconds a case; to it all operators are alike.
COMPILED = [
    *((name, "aot_eager") for name in CASES),
    ("softmax, causal and biased", "inductor"),
    ("cross_entropy, every option", "inductor"),
    *exhaustive([(name, "inductor") for name in CASES]),
]


def gradients(function: Callable[..., Any], inputs: list[Any]) -> tuple[Any, ...]:
    """Return a result and the gradients of the inputs."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    return value.detach(), torch.autograd.grad(value, leaves, value.detach().cos())


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(("name", "backend"), COMPILED)
def test_compiled_whole(device: Any, name: str, backend: str) -> None:
    """One graph, and one for its backward pass."""
    case = CASES[name]
    inputs = case.inputs(device)
    compiled = torch.compile(case.function, fullgraph=True, backend=backend)
    close(gradients(compiled, inputs), gradients(case.reference, inputs))


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "grad": lambda f: lambda x: torch.func.grad(lambda x: f(x).sin().sum())(x),
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "hessian": lambda f: torch.func.hessian(lambda x: f(x).sin().sum()),
    "vmap of grad": lambda f: torch.vmap(torch.func.grad(lambda x: f(x[None]).sin().sum())),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    "name", ["softmax", "cross_entropy", *exhaustive(["log_softmax", "logsumexp"])]
)
def test_compiled_transforms(device: Any, name: str, transform: str) -> None:
    """The tangents too, which PyTorch's own registration of derivatives leaves at zero."""
    function, reference = CASES[name].function, CASES[name].reference
    if transform == "vmap of grad":
        function, reference = (
            (lambda x: ct.softmax(x, -1), lambda x: torch.softmax(x, -1))
            if name == "softmax"
            else (lambda x: ct.logsumexp(x, -1), lambda x: torch.logsumexp(x, -1))
        )
    x = CASES["softmax"].inputs(device)[0]
    compiled = torch.compile(TRANSFORMS[transform](function), fullgraph=True, backend="aot_eager")
    close(compiled(x), TRANSFORMS[transform](reference)(x))


def test_a_tensor_with_a_tangent_enters_a_compiled_function(device: Any) -> None:
    (x,) = CASES["softmax"].inputs(device)
    compiled = torch.compile(CASES["softmax"].function, fullgraph=True, backend="aot_eager")
    with torch.autograd.forward_ad.dual_level():
        y = compiled(torch.autograd.forward_ad.make_dual(x, x.cos()))
        got = torch.autograd.forward_ad.unpack_dual(y).tangent
    close(got, torch.func.jvp(lambda x: torch.softmax(x, -1), (x,), (x.cos(),))[1])


def test_compiled_noise_is_drawn_in_each_call(device: Any) -> None:
    """And is that of the generator's state."""
    x = torch.zeros(4, 64, device=place(device))

    def draw(x: Any) -> Any:
        return ct.sample(x), ct.gumbel_softmax(x, hard=True)

    compiled = torch.compile(draw, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    first, second = compiled(x), compiled(x)
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    torch.manual_seed(0)
    close(compiled(x), first)
    torch.manual_seed(0)
    close(draw(x), first)


class _Module(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


@pytest.mark.parametrize("name", CASES)
def test_exported(device: Any, name: str) -> None:
    """The program has the operators, for any number of rows where the case allows one."""
    case = CASES[name]
    inputs = tuple(case.inputs(device))
    program = torch.export.export(_Module(case.function), inputs)
    assert "torch.ops.cusoftmax." in program.graph_module.code
    close(program.module()(*inputs), case.reference(*inputs))


def test_exported_noise(device: Any) -> None:
    """Drawn in each call of the program."""
    x = torch.zeros(4, 64, device=place(device))
    program = torch.export.export(_Module(lambda x: ct.sample(x)), (x,)).module()
    torch.manual_seed(0)
    first, second = program(x), program(x)
    torch.manual_seed(0)
    assert torch.equal(program(x), first) and not torch.equal(first, second)


def test_exported_for_any_number_of_rows(device: Any) -> None:
    rows = torch.export.Dim("rows", min=2)
    x = torch.randn(4, 5, device=place(device))
    program = torch.export.export(
        _Module(lambda x: ct.log_softmax(x, -1)), (x,), dynamic_shapes=(({0: rows},),)
    )
    more = torch.randn(7, 5, device=place(device))
    close(program.module()(more), torch.log_softmax(more, -1), rtol=1e-6)


LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": lambda h, w, t: ct.cross_entropy(h @ w.t(), t),
    "linear_cross_entropy": lambda h, w, t: ct.linear_cross_entropy(h, w, t),
}


@pytest.mark.parametrize("name", LOSSES)
def test_exported_and_compiled_for_any_number_of_classes(device: Any, name: str) -> None:
    """Means, which divide by a number of rows, and chunks, which depend on all sizes."""

    def sized(rows: int, classes: int) -> tuple[Any, ...]:
        h, w = torch.randn(rows, 3), torch.randn(classes, 3)
        made = (h, w, torch.arange(rows) % classes)
        return tuple(tensor.to(place(device)) for tensor in made)

    rows, classes = (torch.export.Dim(each, min=2, max=999) for each in ("rows", "classes"))
    program = torch.export.export(
        _Module(LOSSES[name]),
        sized(5, 4),
        dynamic_shapes=(({0: rows}, {0: classes}, {0: rows}),),
    ).module()
    counted = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(LOSSES[name], fullgraph=True, backend=counted, dynamic=True)
    for shape in ((5, 4), (6, 7), (9, 8), (11, 13)):
        given = sized(*shape)
        for function in (program, compiled):
            close(function(*given), LOSSES[name](*given), rtol=1e-6)
    assert counted.frame_count <= 2


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "fake") for name in CASES),
        *((name, "meta") for name in ("softmax", "logsumexp", "linear_cross_entropy")),
    ],
)
def test_tensors_without_values(device: Any, name: str, kind: str) -> None:
    """Results and gradients have the shapes, dtypes and layouts of real ones."""
    case = CASES[name]
    inputs = case.inputs(device, torch.float32)
    real = gradients(case.function, inputs)
    if kind == "meta":
        made = gradients(case.function, [tensor.to("meta") for tensor in inputs])
    else:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            made = gradients(case.function, [mode.from_tensor(tensor) for tensor in inputs])
    for got, want in zip((made[0], *made[1]), (real[0], *real[1]), strict=True):
        assert (got.shape, got.dtype, got.stride()) == (want.shape, want.dtype, want.stride())


@pytest.mark.parametrize("name", SECOND)
def test_a_batch(device: Any, name: str) -> None:
    """`torch.vmap` of a function and of its gradients is a loop."""
    case = CASES[name]
    batch = [torch.stack([t, t.flip(0), -t], -1) for t in case.inputs(device)]
    if case.positive:
        batch[-1] = batch[-1].abs()

    def both(*args: Any) -> Any:
        value, pull = torch.func.vjp(case.function, *args)
        return value, pull(value.cos())

    calls = [both(*(tensor[..., i] for tensor in batch)) for i in range(3)]
    values, grads = torch.vmap(both, in_dims=-1)(*batch)
    close(values, torch.stack([value for value, _ in calls]))
    want = tuple(torch.stack(each) for each in zip(*(g for _, g in calls), strict=True))
    close(grads, want)
