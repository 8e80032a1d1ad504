"""PyTorch's tensors as the kernels' arrays, with its current stream and its allocator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import torch

from cusoftmax.planning.checks import Array, full_name
from cusoftmax.runtime import arrays, backend

_DTYPES = {
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.bool: np.dtype(np.bool_),
    torch.uint8: np.dtype(np.uint8),
    torch.uint16: np.dtype(np.uint16),
    torch.uint32: np.dtype(np.uint32),
    torch.uint64: np.dtype(np.uint64),
    torch.int8: np.dtype(np.int8),
    torch.int16: np.dtype(np.int16),
    torch.int32: np.dtype(np.int32),
    torch.int64: np.dtype(np.int64),
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(caller: str, name: str, value: Any) -> None:
    """Raise TypeError unless a value is a tensor of plain, strided memory."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{caller}: {name} is a {full_name(type(value))}, and only a torch.Tensor is accepted"
        )
    if value.layout is not torch.strided or value.is_nested:
        raise TypeError(
            f"{caller}: {name} is {'nested' if value.is_nested else value.layout}, and only "
            f"strided tensors are accepted; pass {name}.to_dense(), or {name}.to_padded_tensor(0.0)"
        )


def check_place(caller: str, name: str, tensor: torch.Tensor) -> None:
    """Raise TypeError unless the kernels can reach the tensor's memory where they run now."""
    emulated = not isinstance(backend.active(), backend.CudaBackend)
    kind = tensor.device.type
    if kind == ("cpu" if emulated else "cuda"):
        return
    where = f"{caller}: {name} is on the device {tensor.device}"
    if emulated:
        raise TypeError(f"{where}, but the emulator is active, which runs on the CPU: use .cpu()")
    raise TypeError(
        f"{where}; the kernels run on a CUDA GPU: use .cuda(), or call within "
        f"`with cusoftmax.emulator.activate():`, which runs them on the CPU, slowly"
    )


def as_array(caller: str, name: str, tensor: torch.Tensor) -> Array:
    """Return a CuPy array over a tensor's memory."""
    check_place(caller, name, tensor)
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        known = ", ".join(str(known) for known in _DTYPES)
        raise TypeError(f"{caller}: {name} has dtype {tensor.dtype}; accepted are {known}")
    size = dtype.itemsize
    strides = tuple([stride * size for stride in tensor.stride()])
    device = tensor.device.index or 0
    return arrays.over(tensor.data_ptr(), tuple(tensor.shape), strides, dtype, tensor, device)


class launching:
    """Within the block launches go to PyTorch's current stream, and workspaces are its memory.

    PyTorch's allocator gives memory back in the order of the current stream, so that a workspace
    may be released as soon as the launch that uses it is under way.
    """

    def __init__(self, device: torch.device) -> None:
        import cupy

        self._contexts = [cupy.cuda.using_allocator(_allocator(device))]
        if device.type == "cuda":
            self._contexts = [
                cupy.cuda.Device(device.index or 0),
                cupy.cuda.Stream.from_external(torch.cuda.current_stream(device)),
                *self._contexts,
            ]

    def __enter__(self) -> None:
        for context in self._contexts:
            context.__enter__()

    def __exit__(self, *_: object) -> None:
        for context in reversed(self._contexts):
            context.__exit__(None, None, None)


@cache
def _allocator(device: torch.device) -> Callable[[int], Any]:
    def allocate(nbytes: int) -> Any:
        room = torch.empty(max(nbytes, 1), dtype=torch.uint8, device=device)
        return arrays.memory(room.data_ptr(), nbytes, room, device.index or 0)

    return allocate
