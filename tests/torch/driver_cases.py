"""`cusoftmax.torch` on the emulated driver; test_torch_driver.py runs these in another process.

``python -m pytest -p tests.emulated_driver tests/torch/driver_cases.py``

A PyTorch without CUDA has no tensors there. These are tensors over memory of the emulated GPU that
say they are on it, and a mode under which PyTorch makes such; they go to the operators' kernels as
the dispatcher would hand them over.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import cupy
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import cusoftmax.torch  # noqa: F401
from cusoftmax import reference
from cusoftmax.emulator.cuda_driver import Machine
from cusoftmax.torch.operators import OPERATORS
from tests.support import check_softmax, logits

X = logits((3, 500), "float32")
LONG = logits((1, 1 << 17), "float32")  # many blocks a row, which need a workspace
OPTIONS = ([-1], 1.0, False, torch.float32)


class OnGpu(torch.Tensor):
    """A tensor over a CuPy array."""

    array: Any
    device = property(lambda self: torch.device("cuda", self.array.data.device_id))


def over(array: Any) -> OnGpu:
    """Return a tensor over a CuPy array, of float32 or bytes."""
    memory = (ctypes.c_char * max(array.nbytes, 1)).from_address(array.data.ptr)
    dtype = torch.uint8 if array.dtype == np.uint8 else torch.float32
    made = torch.frombuffer(memory, dtype=dtype, count=array.size).view(array.shape)
    tensor = made.as_subclass(OnGpu)
    tensor.array = array
    return tensor


class Allocating(TorchFunctionMode):
    """New tensors of a GPU are over memory of it, and counted; they are kept, as a pool does."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[OnGpu] = []

    def new(self, device: torch.device, shape: Any, dtype: Any) -> OnGpu:
        """Return a tensor, not made by the allocator that asks for it."""
        with cupy.cuda.Device(device.index), cupy.cuda.using_allocator(None):
            self.made.append(over(cupy.ndarray(shape, dtype)))
        return self.made[-1]

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        if function is torch.empty and torch.device(options.get("device", "cpu")).type == "cuda":
            return self.new(options["device"], args[0], np.uint8)
        if function is torch.empty_like or function is torch.Tensor.new_empty:
            shape = args[1] if len(args) > 1 else args[0].shape
            return self.new(args[0].device, tuple(shape), np.float32)
        return function(*args, **options)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what PyTorch calls the current stream, which it is to CuPy at no time."""
    made = cupy.cuda.Stream(non_blocking=True)
    given = type("Stream", (), {"__cuda_stream__": lambda self: (0, made.ptr)})()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: given)
    return made


@pytest.fixture
def pytorch() -> Iterator[Allocating]:
    """Let PyTorch allocate on the GPU."""
    with Allocating() as mode:
        yield mode


@pytest.mark.filterwarnings("error")
def test_launches_go_to_the_current_stream(
    machine: Machine, stream: Any, pytorch: Allocating
) -> None:
    """And the host does not wait for it."""
    x = over(cupy.asarray(X))  # to free an array is to wait
    y = OPERATORS["softmax"].kernel(x, None, None, *OPTIONS)
    assert not machine.launches, "the host waited"
    assert cupy.cuda.get_current_stream() == cupy.cuda.Stream.null
    stream.synchronize()
    (ran,) = machine.launches
    assert ran.stream == stream.ptr and ran.device == 0
    check_softmax(y.array.get(), X)


def test_the_default_stream(
    machine: Machine, pytorch: Allocating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's number of it is 0."""
    given = type("Stream", (), {"__cuda_stream__": lambda self: (0, 0)})()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: given)
    with cupy.cuda.Stream(non_blocking=True):
        y = OPERATORS["softmax"].kernel(over(cupy.asarray(X)), None, None, *OPTIONS)
    check_softmax(y.array.get(stream=cupy.cuda.Stream.null), X)
    assert machine.launches[0].stream == 0


def test_launches_go_to_the_tensors_device(
    machine: Machine, pytorch: Allocating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever is current, which it is again afterwards."""
    with cupy.cuda.Device(1):
        there = cupy.cuda.Stream(non_blocking=True)
        x = over(cupy.asarray(X))
    asked = []

    def current(device: Any = None) -> Any:
        asked.append(device)
        return type("Stream", (), {"__cuda_stream__": lambda self: (0, there.ptr)})()

    monkeypatch.setattr(torch.cuda, "current_stream", current)
    y = OPERATORS["softmax"].kernel(x, None, None, *OPTIONS)
    assert asked == [torch.device("cuda", 1)] and cupy.cuda.Device().id == 0
    with cupy.cuda.Device(1):
        there.synchronize()
        check_softmax(y.array.get(), X)
    (ran,) = machine.launches
    assert ran.stream == there.ptr and ran.device == 1


def test_tensors_of_two_devices_are_refused(pytorch: Allocating, stream: Any) -> None:
    with cupy.cuda.Device(1):
        y = over(cupy.asarray(X))
    x = over(cupy.asarray(X))
    with pytest.raises(ValueError, match="device"):
        OPERATORS["softmax_vjp"].kernel(x, y, None, *OPTIONS)
    with pytest.raises(TypeError, match="dy is on the device cpu; the kernels run on a CUDA GPU"):
        OPERATORS["softmax_vjp"].kernel(x, torch.from_numpy(X), None, *OPTIONS)


def test_a_capture_has_the_workspaces_of_pytorch(
    machine: Machine, stream: Any, pytorch: Allocating
) -> None:
    """A result and a workspace; each replay reads what the input is then."""
    x = over(cupy.asarray(LONG))
    OPERATORS["softmax"].kernel(x, None, None, *OPTIONS)  # compiles
    stream.synchronize()
    machine.launches.clear()
    pytorch.made.clear()
    with stream:
        stream.begin_capture()
    y = OPERATORS["softmax"].kernel(x, None, None, *OPTIONS)
    with stream:
        graph = stream.end_capture()
    result, workspace = pytorch.made
    assert result is y and workspace.dtype == torch.uint8
    assert not machine.launches, "only recorded"
    for seed in (1, 2):
        x.array.set(logits(LONG.shape, "float32", seed=seed))
        with stream:
            graph.launch()
            stream.synchronize()
        check_softmax(y.array.get(), x.array.get())
    assert {ran.stream for ran in machine.launches} == {stream.ptr}
    assert len(machine.launches) == 4


def test_rows_of_losses(machine: Machine, stream: Any, pytorch: Allocating) -> None:
    """A row result, whose dtype and shape differ from the input's."""
    target = cupy.asarray(np.eye(500, dtype=np.float32)[[3, 1, 4]])
    losses = OPERATORS["cross_entropy"].kernel(
        *(over(cupy.asarray(X)), over(target), None), *(-1, -100, 0.0, 0.0, None, torch.float32)
    )
    stream.synchronize()
    want = -np.log(reference.softmax(X.astype(np.float64)))[range(3), [3, 1, 4]]
    np.testing.assert_allclose(losses.array.get(), want, rtol=1e-6)
