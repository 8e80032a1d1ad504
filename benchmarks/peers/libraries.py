"""Every library that cusoftmax is measured beside, each used where it is installed."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measuring.devices import Call, Device
from benchmarks.peers.peer import (
    BFLOAT16,
    InputArrays,
    MissingPeer,
    Peer,
    RefusedProblem,
    import_or_missing,
)


class CupyxPeer(Peer):
    """CuPy's own softmax."""

    name = "cupyx"
    ops = ("softmax",)

    def probe(self, device: Device) -> str:
        import cupy

        self.softmax = import_or_missing("cupyx.scipy.special").softmax
        return str(cupy.__version__)

    def prepare(
        self, device: Device, op: str, sets: Sequence[InputArrays], axis: int
    ) -> list[Call]:
        return [partial(self.softmax, x, axis=axis) for (x,) in sets]

    def result(self, device: Device, value: Any, dtype: np.dtype[Any]) -> Any:
        return value


class TorchPeer(Peer):
    """PyTorch in eager mode: the functions behind `torch.softmax` and its backward pass."""

    name = "torch"
    needs_gpu = False

    def probe(self, device: Device) -> str:
        torch = self.torch = import_or_missing("torch")
        if not device.emulated:
            import cupy

            if not torch.cuda.is_available():
                raise MissingPeer("this build of PyTorch has no CUDA, or sees no GPU")
            theirs, ours = torch.cuda.current_stream().cuda_stream, cupy.cuda.get_current_stream()
            if theirs != ours.ptr:
                raise MissingPeer("its current stream is not CuPy's")
        return str(torch.__version__)

    def tensor(self, device: Device, array: Any) -> Any:
        """Return a tensor over the same memory."""
        if array.dtype == BFLOAT16:
            bits = device.dlpack_source(array.view(np.int16))
            return self.torch.from_dlpack(bits).view(self.torch.bfloat16)
        return self.torch.from_dlpack(device.dlpack_source(array))

    def result(self, device: Device, value: Any, dtype: np.dtype[Any]) -> Any:
        if value.dtype == self.torch.bfloat16:
            return device.from_dlpack(value.view(self.torch.int16)).view(BFLOAT16)
        return device.from_dlpack(value)

    def prepare(
        self, device: Device, op: str, sets: Sequence[InputArrays], axis: int
    ) -> list[Call]:
        function = self.function(device, op, axis)
        return [partial(function, *[self.tensor(device, a) for a in inputs]) for inputs in sets]

    def function(self, device: Device, op: str, axis: int) -> Callable[..., Any]:
        """Return the operation on tensors, with inputs in the same order as in cusoftmax."""
        torch = self.torch
        if op == "softmax":
            return lambda x: torch.softmax(x, axis)
        backward = torch.ops.aten._softmax_backward_data
        return lambda y, dy: backward(dy, y, axis, y.dtype)


class TorchCompilePeer(TorchPeer):
    """The same through `torch.compile`, recompiled for each shape."""

    name = "torch.compile"
    needs_gpu = True  # it also runs on a CPU, but takes a minute to compile

    def probe(self, device: Device) -> str:
        version = super().probe(device)
        import_or_missing("torch._dynamo")
        if not device.emulated:
            import_or_missing("triton")
        return version

    def function(self, device: Device, op: str, axis: int) -> Callable[..., Any]:
        # After a number of shapes it would silently fall back to eager mode.
        self.torch._dynamo.reset()
        eager = super().function(device, op, axis)
        compiled: Callable[..., Any] = self.torch.compile(eager, dynamic=False, fullgraph=True)
        return compiled


class TritonPeer(TorchPeer):
    """A fused softmax in Triton, as in its tutorial (triton_kernels.py)."""

    name = "triton"
    axes = (-1,)
    needs_gpu = True

    def probe(self, device: Device) -> str:
        super().probe(device)
        version = str(import_or_missing("triton").__version__)
        self.kernels = import_or_missing("benchmarks.peers.triton_kernels")
        return version

    def prepare(
        self, device: Device, op: str, sets: Sequence[InputArrays], axis: int
    ) -> list[Call]:
        n, widest = sets[0][0].shape[-1], self.kernels.WIDEST
        if n > widest:
            raise RefusedProblem(f"a row of {n} is more than one block of {widest} holds")
        return super().prepare(device, op, sets, axis)

    def function(self, device: Device, op: str, axis: int) -> Callable[..., Any]:
        run, empty_like, count = self.kernels.run, self.torch.empty_like, device.spec.sm_count
        forward = op == "softmax"

        def launch(*tensors: Any) -> Any:
            out = empty_like(tensors[0])
            run(forward, tensors, out, count)
            return out

        return launch


class LigerPeer(TorchPeer):
    """Liger-Kernel, by the functions that its autograd class calls."""

    name = "liger"
    axes = (-1,)
    needs_gpu = True

    def probe(self, device: Device) -> str:
        super().probe(device)
        self.kernels = import_or_missing("liger_kernel.ops.softmax")
        self.settings = import_or_missing("liger_kernel.ops.utils").calculate_settings
        return importlib.metadata.version("liger-kernel")

    def prepare(
        self, device: Device, op: str, sets: Sequence[InputArrays], axis: int
    ) -> list[Call]:
        self.chosen = self.settings(sets[0][0].shape[-1])  # raises for rows that are too long
        return super().prepare(device, op, sets, axis)

    def function(self, device: Device, op: str, axis: int) -> Callable[..., Any]:
        if op == "softmax":
            forward = self.kernels._softmax_forward
            return lambda x: forward(x)[0]
        (block, warps), backward = self.chosen, self.kernels._softmax_backward
        return lambda y, dy: backward(dy, y, block, warps, False)


class QuackPeer(TorchPeer):
    """QuACK, by the functions that its autograd class calls."""

    name = "quack"
    dtypes = ("float16", "bfloat16", "float32")
    axes = (-1,)
    needs_gpu = True
    longest = 262144  # its table of cluster sizes ends here

    def probe(self, device: Device) -> str:
        super().probe(device)
        if device.spec.arch < 90:
            raise MissingPeer("needs sm_90 or later")
        self.kernels = import_or_missing("quack.softmax")
        return importlib.metadata.version("quack-kernels")

    def prepare(
        self, device: Device, op: str, sets: Sequence[InputArrays], axis: int
    ) -> list[Call]:
        n = sets[0][0].shape[-1]
        if n > self.longest:
            raise RefusedProblem(f"a row of {n} is longer than its table's {self.longest}")
        return super().prepare(device, op, sets, axis)

    def function(self, device: Device, op: str, axis: int) -> Callable[..., Any]:
        if op == "softmax":
            forward: Callable[..., Any] = self.kernels.softmax_fwd
            return forward
        backward = self.kernels.softmax_bwd
        return lambda y, dy: backward(dy, y)


class JaxPeer(Peer):
    """JAX, jitted: `jax.nn.softmax`, and its derivative as a function of the result.

    JAX computes on its own stream. Each call therefore imports the inputs by DLPack, which makes
    that stream wait for ours, and exports the result, which makes ours wait for it. Events on our
    stream then enclose its work, at the cost of some microseconds for the waits.
    """

    name = "jax"
    needs_gpu = False

    def probe(self, device: Device) -> str:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        jax = self.jax = import_or_missing("jax")
        import_or_missing("jax.dlpack")
        jax.config.update("jax_enable_x64", True)
        if not device.emulated and jax.default_backend() != "gpu":
            raise MissingPeer(f"it runs on {jax.default_backend()} and not on the GPU")
        return str(jax.__version__)

    def prepare(
        self, device: Device, op: str, sets: Sequence[InputArrays], axis: int
    ) -> list[Call]:
        jax, jnp, cast = self.jax, self.jax.numpy, self.jax.lax.bitcast_convert_type
        import_array, narrow = jax.dlpack.from_dlpack, sets[0][0].dtype == BFLOAT16

        def compute(*arrays: Any) -> Any:
            if narrow:
                arrays = tuple(cast(a, jnp.bfloat16) for a in arrays)
            if op == "softmax":
                value = jax.nn.softmax(arrays[0], axis=axis)
            else:
                y, dy = arrays
                value = y * (dy - (y * dy).sum(axis=axis, keepdims=True))
            return cast(value, jnp.uint16) if narrow else value

        jitted = jax.jit(compute)

        def call(*inputs: Any) -> Any:
            return device.from_dlpack(jitted(*[import_array(a) for a in inputs]))

        def export(array: Any) -> Any:
            return device.dlpack_source(array.view(np.uint16) if narrow else array)

        return [partial(call, *map(export, inputs)) for inputs in sets]

    def result(self, device: Device, value: Any, dtype: np.dtype[Any]) -> Any:
        return value.view(BFLOAT16) if dtype == BFLOAT16 else value


def all_peers() -> list[Peer]:
    """Return all peers, in the order of reports."""
    return [
        CupyxPeer(), TorchPeer(), TorchCompilePeer(), TritonPeer(), LigerPeer(), QuackPeer(),
        JaxPeer(),
    ]  # fmt: skip
