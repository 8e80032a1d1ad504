"""The public functions by their signatures, and arguments that they accept."""

from __future__ import annotations

import inspect
from typing import Any

import cupy
import numpy as np

import cusoftmax as cs
from cusoftmax.operations.lookup import find

SHAPE = (4, 6)
Arguments = dict[str, Any]

NAMES = [name for name in cs.__all__ if callable(getattr(cs, name))]
OF_ARRAYS = [name for name in NAMES if name not in ("explain", "warmup")]


def on_host(array: np.ndarray, device: int = 0, kind: type = cupy.ndarray) -> Any:
    """Return a CuPy array over the memory of a NumPy array, with any strides."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    memory = cupy.cuda.memory.UnownedMemory(base.ctypes.data, max(base.nbytes, 1), base, device)
    start = cupy.cuda.memory.MemoryPointer(memory, array.ctypes.data - base.ctypes.data)
    return kind(array.shape, array.dtype, memptr=start, strides=array.strides)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(getattr(cs, name)).parameters)


def values_of(name: str, parameter: str) -> np.ndarray:
    """Return values for an array argument, as the table of operations describes it."""
    operation = find(name)
    if parameter == "offsets":
        return np.array([0, 1, SHAPE[0]])
    if parameter == "weight":
        return np.ones(SHAPE[1], np.float32)
    shape = SHAPE[:1] if parameter in operation.row_inputs else SHAPE
    kind = np.int64 if parameter in operation.indices else np.float32
    return np.zeros(shape, bool if parameter == "mask" else kind)


def required(name: str) -> Arguments:
    """Return the arguments without a default."""
    if name == "explain":
        return {"op": "softmax", "shape": SHAPE}
    if name == "warmup":
        return {"shapes": [SHAPE]}
    return {
        p.name: on_host(values_of(name, p.name)) if "Array" in p.annotation else 1
        for p in parameters(name).values()
        if p.default is inspect.Parameter.empty
    }
