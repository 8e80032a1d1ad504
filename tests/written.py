"""What examples in docstrings and pages are run with.

`cupy.asarray` gives an array of NumPy there, of which a function of this package gets a copy on the
emulator, and the results come back as NumPy's. Its repr is CuPy's.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cusoftmax
import cusoftmax.distributed
import cusoftmax.nodes
import cusoftmax.streaming
from cusoftmax import emulator
from cusoftmax.compat import scipy

OF_NODES = ("partial", "combine", "apply")
FUNCTIONS = {
    **{
        f"cusoftmax.{name}": getattr(cusoftmax, name)
        for name in cusoftmax.__all__
        if callable(getattr(cusoftmax, name))
    },
    **{f"cusoftmax.compat.scipy.{name}": getattr(scipy, name) for name in scipy.__all__},
    **{f"cusoftmax.nodes.{name}": getattr(cusoftmax.nodes, name) for name in OF_NODES},
    **{
        f"cusoftmax.streaming.{name}": getattr(cusoftmax.streaming, name)
        for name in cusoftmax.streaming.__all__
        if inspect.isfunction(getattr(cusoftmax.streaming, name))
    },
    **{
        f"cusoftmax.distributed.{name}": getattr(cusoftmax.distributed, name)
        for name in cusoftmax.distributed.__all__
        if name != "RankError"
    },
    **{
        f"cusoftmax.emulator.{name}": getattr(emulator, name)
        for name in ("activate", "asarray", "asnumpy", "trace")
    },
}
if importlib.util.find_spec("torch"):
    import cusoftmax.torch

    FUNCTIONS |= {
        f"cusoftmax.torch.{name}": getattr(cusoftmax.torch, name)
        for name in cusoftmax.torch.__all__
    }
if importlib.util.find_spec("dask"):
    import dask.array

    import cusoftmax.dask

    FUNCTIONS |= {
        f"cusoftmax.dask.{name}": getattr(cusoftmax.dask, name) for name in cusoftmax.dask.__all__
    }


def on_the_emulator(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` for NumPy's arrays, which are copied to the device and back."""

    def call(*args: Any, **kwargs: Any) -> Any:
        given: list[tuple[np.ndarray[Any, Any], Any]] = []

        def to_device(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(to_device, value))
            if not isinstance(value, np.ndarray):
                return value
            if not any(host is value for host, _ in given):
                given.append((value, emulator.asarray(value)))
            return next(array for host, array in given if host is value)

        def to_host(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(to_host, value))
            if not (given and hasattr(value, "data") and hasattr(value.data, "ptr")):
                return value
            for host, array in given:
                if array is value:
                    return host
            return emulator.asnumpy(value)

        moved = {name: to_device(value) for name, value in kwargs.items()}
        result = function(*map(to_device, args), **moved)
        for host, array in given:
            host[...] = emulator.asnumpy(array)
        return to_host(result)

    return call


def stand_ins(name: str) -> dict[str, Any]:
    """Return what an example's imports give: the package's functions, and CuPy as NumPy."""
    if "torch" in name:  # takes tensors of the CPU on the emulator
        import torch

        return {"torch": torch, "ct": cusoftmax.torch, "cs": cusoftmax}
    if "dask" in name:  # takes blocks of NumPy
        return {"dask": dask, "cusoftmax": cusoftmax}
    if "emulator" in name:  # the functions themselves
        return {"numpy": np, "emulator": emulator, "cusoftmax": cusoftmax}
    ours = {
        n.rpartition(".")[2]: on_the_emulator(f) for n, f in FUNCTIONS.items() if n.count(".") == 1
    }
    patching = SimpleNamespace(scipy=SimpleNamespace(patch=scipy.patch))
    theirs = {
        n: on_the_emulator(getattr(scipy, n)) for n in ("softmax", "log_softmax", "logsumexp")
    }
    special = SimpleNamespace(softmax=on_the_emulator(lambda x: scipy_special().softmax(x)))
    of_ranks = {
        n.rpartition(".")[2]: on_the_emulator(f)
        for n, f in FUNCTIONS.items()
        if n.startswith("cusoftmax.distributed.")
    }
    of_nodes = {n: on_the_emulator(getattr(cusoftmax.nodes, n)) for n in OF_NODES}
    package = SimpleNamespace(**ours, compat=patching, streaming=cusoftmax.streaming)
    return {
        "cupy": np,
        "numpy": np,
        "nodes": SimpleNamespace(**of_nodes),
        "distributed": SimpleNamespace(**of_ranks),
        "cusoftmax": package,
        "cs": package,
        "scipy": SimpleNamespace(**theirs, special=special),
    }


def scipy_special() -> Any:
    return pytest.importorskip("scipy.special")
