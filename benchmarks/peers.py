"""The peers: others' implementations of the same operations, each used where it is installed.

A peer gets the very memory that cusoftmax reads, by DLPack, and runs on the same stream. bfloat16,
which not every exchange knows, crosses as 16-bit integers. What a peer raises is recorded as its
result; it never ends a run.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from benchmarks.devices import Call, Device

FLOATS = ("float16", "bfloat16", "float32", "float64")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
Inputs = Sequence[Any]  # cupy.ndarray


class MissingPeer(Exception):
    """Why a peer cannot take part."""


class RefusedProblem(Exception):
    """Why a peer does not take a problem that others do."""


class Peer:
    """One implementation.

    `ops` names the operations that it has, `axes` the axes, `dtypes` the dtypes; what lies outside
    is left out of a comparison without a word.
    """

    name: str
    ops: tuple[str, ...] = ("softmax", "softmax_vjp")
    dtypes: tuple[str, ...] = FLOATS
    axes: tuple[int, ...] = (-1, 0)
    needs_gpu = True

    def probe(self, device: Device) -> str:
        """Return the version, or raise `MissingPeer`."""
        raise NotImplementedError

    def supports(self, op: str, dtype: str, axis: int) -> bool:
        return op in self.ops and dtype in self.dtypes and axis in self.axes

    def prepare(self, device: Device, op: str, sets: Sequence[Inputs], axis: int) -> list[Call]:
        """Return a call for each set of inputs; its result is for `result`."""
        raise NotImplementedError

    def result(self, device: Device, value: Any, dtype: np.dtype[Any]) -> Any:
        """Return what a call gave as an array that `device.rows` reads."""
        raise NotImplementedError


def probe(peers: Sequence[Peer], device: Device) -> tuple[list[Peer], dict[str, dict[str, str]]]:
    """Return the peers that are there, and of each its version or the reason why it is missing."""
    there, told = [], {}
    for peer in peers:
        try:
            if peer.needs_gpu and device.emulated:
                raise MissingPeer("needs a GPU")
            told[peer.name] = {"version": peer.probe(device)}
            there.append(peer)
        except MissingPeer as reason:
            told[peer.name] = {"missing": str(reason)}
        except Exception as error:  # a peer that is installed and broken is missing too
            line = str(error).strip().splitlines()
            told[peer.name] = {"missing": f"{type(error).__name__}: {line[0] if line else ''}"}
    return there, told


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPeer(f"cannot be imported: {error}".splitlines()[0]) from None


class CupyxPeer(Peer):
    """CuPy's own."""

    name = "cupyx"
    ops = ("softmax",)

    def probe(self, device: Device) -> str:
        import cupy

        self.softmax = _import("cupyx.scipy.special").softmax
        return str(cupy.__version__)

    def prepare(self, device: Device, op: str, sets: Sequence[Inputs], axis: int) -> list[Call]:
        return [partial(self.softmax, x, axis=axis) for (x,) in sets]

    def result(self, device: Device, value: Any, dtype: np.dtype[Any]) -> Any:
        return value


class TorchPeer(Peer):
    """PyTorch, eager: what `torch.softmax` and its backward pass call."""

    name = "torch"
    needs_gpu = False

    def probe(self, device: Device) -> str:
        torch = self.torch = _import("torch")
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
            bits = device.exchange(array.view(np.int16))
            return self.torch.from_dlpack(bits).view(self.torch.bfloat16)
        return self.torch.from_dlpack(device.exchange(array))

    def result(self, device: Device, value: Any, dtype: np.dtype[Any]) -> Any:
        if value.dtype == self.torch.bfloat16:
            return device.adopt(value.view(self.torch.int16)).view(BFLOAT16)
        return device.adopt(value)

    def prepare(self, device: Device, op: str, sets: Sequence[Inputs], axis: int) -> list[Call]:
        function = self.function(device, op, axis)
        return [partial(function, *[self.tensor(device, a) for a in inputs]) for inputs in sets]

    def function(self, device: Device, op: str, axis: int) -> Callable[..., Any]:
        """Return the operation on tensors, inputs in the order of cusoftmax."""
        torch = self.torch
        if op == "softmax":
            return lambda x: torch.softmax(x, axis)
        backward = torch.ops.aten._softmax_backward_data
        return lambda y, dy: backward(dy, y, axis, y.dtype)


class TorchCompilePeer(TorchPeer):
    """The same through `torch.compile`, for each shape anew."""

    name = "torch.compile"
    needs_gpu = True  # it would work on a CPU, but compiles for a minute

    def probe(self, device: Device) -> str:
        version = super().probe(device)
        _import("torch._dynamo")
        if not device.emulated:
            _import("triton")
        return version

    def function(self, device: Device, op: str, axis: int) -> Callable[..., Any]:
        # Past a number of shapes it would quietly fall back to eager: forget the earlier ones.
        self.torch._dynamo.reset()
        eager = super().function(device, op, axis)
        compiled: Callable[..., Any] = self.torch.compile(eager, dynamic=False, fullgraph=True)
        return compiled


class TritonPeer(TorchPeer):
    """Triton's fused softmax, written in the manner of its tutorial (triton_kernels.py)."""

    name = "triton"
    axes = (-1,)
    needs_gpu = True

    def probe(self, device: Device) -> str:
        super().probe(device)
        version = str(_import("triton").__version__)
        self.kernels = _import("benchmarks.triton_kernels")
        return version

    def prepare(self, device: Device, op: str, sets: Sequence[Inputs], axis: int) -> list[Call]:
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
    """Liger-Kernel's, by the functions that its autograd class calls."""

    name = "liger"
    axes = (-1,)
    needs_gpu = True

    def probe(self, device: Device) -> str:
        super().probe(device)
        self.kernels = _import("liger_kernel.ops.softmax")
        self.settings = _import("liger_kernel.ops.utils").calculate_settings
        return importlib.metadata.version("liger-kernel")

    def prepare(self, device: Device, op: str, sets: Sequence[Inputs], axis: int) -> list[Call]:
        self.chosen = self.settings(sets[0][0].shape[-1])  # raises for rows that it does not take
        return super().prepare(device, op, sets, axis)

    def function(self, device: Device, op: str, axis: int) -> Callable[..., Any]:
        if op == "softmax":
            forward = self.kernels._softmax_forward
            return lambda x: forward(x)[0]
        (block, warps), backward = self.chosen, self.kernels._softmax_backward
        return lambda y, dy: backward(dy, y, block, warps, False)


class QuackPeer(TorchPeer):
    """QuACK's, by the functions that its autograd class calls."""

    name = "quack"
    dtypes = ("float16", "bfloat16", "float32")
    axes = (-1,)
    needs_gpu = True
    longest = 262144  # beyond, its cluster sizes have no entry

    def probe(self, device: Device) -> str:
        super().probe(device)
        if device.spec.arch < 90:
            raise MissingPeer("needs sm_90 or later")
        self.kernels = _import("quack.softmax")
        return importlib.metadata.version("quack-kernels")

    def prepare(self, device: Device, op: str, sets: Sequence[Inputs], axis: int) -> list[Call]:
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
    """JAX, jitted: `jax.nn.softmax`, and the rule by which it is differentiated given its result.

    JAX computes on a stream of its own. Each call therefore imports the inputs by DLPack, which
    makes that stream wait for ours, and exports the result, which makes ours wait for it: so the
    events on our stream are around its work, and the few microseconds of the waits are in its time.
    """

    name = "jax"
    needs_gpu = False

    def probe(self, device: Device) -> str:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        jax = self.jax = _import("jax")
        _import("jax.dlpack")
        jax.config.update("jax_enable_x64", True)
        if not device.emulated and jax.default_backend() != "gpu":
            raise MissingPeer(f"it runs on {jax.default_backend()} and not on the GPU")
        return str(jax.__version__)

    def prepare(self, device: Device, op: str, sets: Sequence[Inputs], axis: int) -> list[Call]:
        jax, jnp, cast = self.jax, self.jax.numpy, self.jax.lax.bitcast_convert_type
        take, narrow = jax.dlpack.from_dlpack, sets[0][0].dtype == BFLOAT16

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
            return device.adopt(jitted(*[take(a) for a in inputs]))

        def lend(array: Any) -> Any:
            return device.exchange(array.view(np.uint16) if narrow else array)

        return [partial(call, *map(lend, inputs)) for inputs in sets]

    def result(self, device: Device, value: Any, dtype: np.dtype[Any]) -> Any:
        return value.view(BFLOAT16) if dtype == BFLOAT16 else value


def every_peer() -> list[Peer]:
    """Return all peers, in the order of reports."""
    return [
        CupyxPeer(), TorchPeer(), TorchCompilePeer(), TritonPeer(), LigerPeer(), QuackPeer(),
        JaxPeer(),
    ]  # fmt: skip
