"""Docstrings of public functions have examples, which show what they print."""

from __future__ import annotations

import doctest
import inspect
from types import SimpleNamespace

import pytest

from cusoftmax import emulator
from tests.written import FUNCTIONS, stand_ins


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
