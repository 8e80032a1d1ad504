"""Docstrings of public functions say what users need, and their examples print what they show."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from numpydoc.docscrape import NumpyDocString
from numpydoc.validate import validate

from cusoftmax import emulator
from tests.written import FUNCTIONS, stand_ins

ROOT = Path(__file__).resolve().parents[1]


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


# ---- what a docstring must say

# numpydoc's rules that are not kept: sections that not every function needs (ES01, SA01), types of
# parameters that are described with others or by another function's words (PR04), results that have
# names (RT02), and summaries that begin with the name log_softmax (SS02).
LEFT_OUT = {"ES01", "SA01", "PR04", "RT02", "SS02"}
WITHOUT_A_FORMULA = re.compile(r"(explain|warmup|patch)$|\.emulator\.|\.[A-Z]\w*$")
DTYPE = re.compile(r"dtype|\b(b?float|u?int)\d+|\bbool\b|\bint(eger)?s?\b|\bfloats?\b|indices")
ELSEWHERE = re.compile(r"\b[Aa]s(?: `?\w+`?)* (?:for|given to|in) `([\w.]+)`|\bAs `([\w.]+)`")
HEADINGS = re.findall(r"^## (.+)$", (ROOT / "docs" / "derivation.md").read_text("utf-8"), re.M)


def said_of(name: str) -> NumpyDocString:
    return NumpyDocString(inspect.getdoc(FUNCTIONS[name]) or "")


def elsewhere(name: str, text: str) -> bool:
    """Whether `text` sends the reader to another function or argument that is documented."""
    module = name.rpartition(".")[0]
    own = {n for p in said_of(name)["Parameters"] for n in p.name.split(", ")}
    found = {next(filter(None, groups)) for groups in ELSEWHERE.findall(text)}
    return bool(found) and all(
        n in own
        or n in FUNCTIONS
        or f"{module}.{n}" in FUNCTIONS
        or n.startswith(("torch.", "scipy."))
        for n in found
    )


def missing(name: str) -> list[str]:
    """Return what the docstring of a public function does not say of its arrays and its result."""
    doc, text = said_of(name), inspect.getdoc(FUNCTIONS[name]) or ""
    wanting: list[str] = []
    for parameter in [*doc["Parameters"], *doc["Returns"]]:
        words = " ".join([parameter.name, parameter.type, *parameter.desc])
        if not re.search(r"\barrays?\b|Tensor|ndarray", f"{parameter.name} {parameter.type}"):
            continue
        if not re.search(r"shape|dimension|\(\.\.\.", words) and not elsewhere(name, words):
            wanting.append(f"shape of {parameter.name or 'the result'}")
        if not DTYPE.search(words) and not elsewhere(name, words):
            wanting.append(f"dtype of {parameter.name or 'the result'}")
    if WITHOUT_A_FORMULA.search(name):
        return wanting
    if not doc["Raises"]:
        wanting.append("errors")
    for raised in doc["Raises"]:
        if not raised.desc or not all(n.endswith("Error") for n in raised.type.split(", ")):
            wanting.append(f"when {raised.type} is raised")
    if not re.search(r"``[^`]*(=|exp|sum|softmax\()[^`]*``", text) and not elsewhere(name, text):
        wanting.append("formula")
    peer = re.search(r"`(torch|scipy|cusoftmax)\.[\w.]+`", text) if name.count(".") > 1 else None
    named = re.findall(r"docs/derivation\.md: ([^.]+)\.", text)
    if not peer and not (doc["References"] and named and set(named) <= set(HEADINGS)):
        wanting.append("source: a paper, or a heading of docs/derivation.md")
    return wanting


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_follows_numpydoc(name: str) -> None:
    errors = validate(name)["errors"]
    assert [error for error in errors if error[0] not in LEFT_OUT] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_docstring_says_shapes_dtypes_errors_formula_and_source(name: str) -> None:
    assert missing(name) == []


def test_a_docstring_that_says_too_little_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def poor(x: object) -> None:
        """Return something.

        Parameters
        ----------
        x : array
            The input.

        Returns
        -------
        array
            The result.
        """

    monkeypatch.setitem(FUNCTIONS, "cusoftmax.poor", poor)
    assert [
        words.partition(" of ")[0].partition(":")[0] for words in missing("cusoftmax.poor")
    ] == [
        *("shape", "dtype", "shape", "dtype"),
        *("errors", "formula", "source"),
    ]
