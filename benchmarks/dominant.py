"""The derivative of the class that dominates: relative error against the gap, beside the peers.

    python -m benchmarks.dominant [--dtype float32|float64]

Logits are ``[gap, 0, -1]``, the vector is one-hot at the first class, and the entry judged is that
class's. On the emulator if there is no GPU. PyTorch and SciPy are compared where they are
installed: SciPy's softmax with the formula ``y * (v - sum(y * v))``.
`benchmarks.pictures` draws it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.runtime.backend import gpu_is_present

Array = np.ndarray[Any, np.dtype[Any]]
Entry = Callable[[Array, Array], float]  # from logits and a vector

TABLE_GAPS = (3, 6, 9, 12, 15, 20, 40, 80)


def _ours() -> dict[str, Entry]:
    place = _to_device if gpu_is_present() else emulator.asarray

    def call(function: Callable[..., Any], *arrays: Array) -> Any:
        got = function(*(place(a) for a in arrays))
        return tuple(map(_to_host, got)) if isinstance(got, tuple) else _to_host(got)

    def of_y(x: Array, v: Array) -> float:
        return float(call(cs.softmax_vjp, call(cs.softmax, x), v)[0])

    def of_log(x: Array, v: Array) -> float:
        return float(call(cs.log_softmax_vjp, call(cs.log_softmax, x), v)[0])

    def loss(x: Array, v: Array) -> float:
        def gradient(logits: Any, target: Any) -> Any:
            return cs.cross_entropy(logits, target, grad=True)[1]

        return float(call(gradient, x[None], v[None])[0, 0])

    return {
        "softmax_vjp": of_y,
        "softmax_value_and_vjp": lambda x, v: float(call(cs.softmax_value_and_vjp, x, v)[1][0]),
        "log_softmax_vjp": of_log,
        "cross_entropy, one-hot": loss,
    }


def _to_device(array: Array) -> Any:
    import cupy

    return cupy.asarray(array)


def _to_host(array: Any) -> Array:
    return np.asarray(array.get() if gpu_is_present() else emulator.asnumpy(array))


def _peers() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    with contextlib.suppress(ImportError):
        special = importlib.import_module("scipy.special")

        def formula(x: Array, v: Array) -> float:
            y = special.softmax(x)
            return float((y * (v - (y * v).sum()))[0])

        found["SciPy's y, the formula"] = formula
    with contextlib.suppress(ImportError):
        torch = importlib.import_module("torch")

        def backward(name: str) -> Entry:
            def entry(x: Array, v: Array) -> float:
                logits = torch.tensor(x, requires_grad=True)
                getattr(torch, name)(logits, 0).backward(torch.tensor(v))
                return float(logits.grad[0])

            return entry

        found["PyTorch softmax"] = backward("softmax")
        found["PyTorch log_softmax"] = backward("log_softmax")
    return found


def errors(entry: Entry, name: str, dtype: str, gaps: tuple[int, ...]) -> Iterator[float]:
    """Yield the relative error of an entry for each gap."""
    for gap in gaps:
        x, v = np.array([gap, 0, -1], dtype), np.array([1, 0, 0], dtype)
        y, product = reference.softmax_value_and_vjp(x, v, extended=True)
        truth = product[0]
        if "log" in name:
            truth = 1 - y[0] if y[0] < 0.5 else y[1:].sum()
        elif "cross" in name:
            truth = -y[1:].sum()
        yield float(abs(entry(x, v) - truth) / abs(truth))


def entries() -> dict[str, Entry]:
    """Return what is compared: our functions, and the peers' where they are installed."""
    return _ours() | _peers()


def main() -> None:
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    args = parser.parse_args()
    with contextlib.nullcontext() if gpu_is_present() else emulator.activate():
        compared = entries()
        table = Table(title=f"relative error, {args.dtype}")
        table.add_column("gap", justify="right")
        for name in compared:
            table.add_column(name, justify="right")
        columns = [[*errors(e, n, args.dtype, TABLE_GAPS)] for n, e in compared.items()]
        for gap, *values in zip(TABLE_GAPS, *columns, strict=True):
            table.add_row(str(gap), *(f"{value:.0e}" for value in values))
        Console(width=None if sys.stdout.isatty() else 160).print(table)  # a file has no width


if __name__ == "__main__":
    main()
