"""Docstrings of public functions have examples, which show what they print.

An example runs on the emulator: `cupy.asarray` gives an array of NumPy, of which a function of this
package gets a copy on the device, and the results come back as NumPy's. Its repr is CuPy's.
"""

from __future__ import annotations

import doctest
import importlib.util
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cusoftmax
import cusoftmax.distributed
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
}
if importlib.util.find_spec("torch"):
    import cusoftmax.torch

    FUNCTIONS |= {
        f"cusoftmax.torch.{name}": getattr(cusoftmax.torch, name)
        for name in cusoftmax.torch.__all__
    }


def to_numpy(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(to_numpy, value))
    return (
        emulator.asnumpy(value) if hasattr(value, "data") and hasattr(value.data, "ptr") else value
    )


def on_the_emulator(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        moved = [emulator.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        named = {
            name: emulator.asarray(a) if isinstance(a, np.ndarray) else a
            for name, a in kwargs.items()
        }
        return to_numpy(function(*moved, **named))

    return call


def stand_ins(name: str) -> dict[str, Any]:
    """Return what an example's imports give: the package's functions, and CuPy as NumPy."""
    if "torch" in name:  # takes tensors of the CPU on the emulator
        import torch

        return {"torch": torch, "ct": cusoftmax.torch}
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
    return {
        "cupy": np,
        "numpy": np,
        "nodes": SimpleNamespace(**of_nodes),
        "distributed": SimpleNamespace(**of_ranks),
        "cusoftmax": SimpleNamespace(**ours, compat=patching, streaming=cusoftmax.streaming),
        "scipy": SimpleNamespace(**theirs, special=special),
    }


def scipy_special() -> Any:
    return pytest.importorskip("scipy.special")


def examples(name: str) -> list[doctest.Example]:
    text = (inspect.getdoc(FUNCTIONS[name]) or "").replace(', device="cuda"', "")
    return doctest.DocTestParser().get_examples(text.replace(", device='cuda:0'", ""))


def test_every_function_has_an_example() -> None:
    assert [name for name in FUNCTIONS if not examples(name)] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_print_what_they_show(name: str) -> None:
    run = [e for e in examples(name) if not e.source.startswith(("import ", "from "))]
    test = doctest.DocTest(run, stand_ins(name), name, None, 0, None)
    said: list[str] = []
    with emulator.activate():
        failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not failed, "".join(said)


def test_an_example_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = SimpleNamespace(
        __doc__=">>> cusoftmax.softmax(cupy.asarray([0.0, 0.0]))\narray([0.5, 0.4])"
    )
    monkeypatch.setitem(FUNCTIONS, "cusoftmax.wrong", wrong)
    with pytest.raises(AssertionError, match=r"array\(\[0.5, 0.5\]\)"):
        test_examples_print_what_they_show("cusoftmax.wrong")
