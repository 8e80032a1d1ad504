"""Every example of the pages in docs/ is run: what it prints is what the page shows.

A page is read from top to bottom, as one session. Its functions run on the emulator, with NumPy's
arrays in the place of CuPy's (`written.stand_ins`).
"""

from __future__ import annotations

import doctest
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cusoftmax import emulator
from tests.written import stand_ins

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(?<!<!-- needs a GPU -->\n)^```python\n(.*?)^```$", re.M | re.S)
PAGES = [
    page for page in sorted(ROOT.glob("docs/**/*.md")) if BLOCK.search(page.read_text("utf-8"))
]
# What a page imports and the examples get in another form.
REPLACED = re.compile(r"^(>>> )?import (cupy|cusoftmax as cs|torch|cusoftmax\.torch as ct)\n", re.M)


def blocks(text: str) -> list[tuple[int, str]]:
    """Return the examples of a page, each with the number of lines before it."""
    return [(text.count("\n", 0, m.start(1)), m[1]) for m in BLOCK.finditer(text)]


def run(page: str, text: str) -> None:
    """Run the examples of a page; AssertionError if one prints something else than is shown."""
    names: dict[str, Any] = stand_ins("torch" if "import torch" in text else "")
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    with emulator.activate():
        for line, block in blocks(text):
            # One takes CuPy's place for the rest of a process, the other starts processes.
            if "cuda_driver" in block or "LocalCluster" in block:
                subprocess.run([sys.executable, "-c", block], check=True, cwd=ROOT, timeout=300)
                continue
            block = REPLACED.sub("\n", block).replace(', device="cuda"', "")
            if ">>>" not in block:
                exec(compile("\n" * line + block, page, "exec"), names)
                continue
            test = doctest.DocTestParser().get_doctest(block, names, page, page, line)
            runner.run(test, out=said.append, clear_globs=False)
            names = test.globs
    assert not said, "".join(said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_a_page_print_what_it_shows(page: Path) -> None:
    text = page.read_text("utf-8")
    for module in ("torch", "dask.array"):
        if f"import {module}" in text and not importlib.util.find_spec(module.partition(".")[0]):
            pytest.skip(f"{module} is not installed")
    run(str(page.relative_to(ROOT)), text)


def test_every_page_of_the_guide_is_run() -> None:
    without = {"command-line.md", "programs.md"}
    guide = {page.name for page in ROOT.glob("docs/guide/*.md")}
    assert guide - without <= {page.name for page in PAGES}


def test_an_example_that_is_wrong_is_noticed() -> None:
    shown = (
        "# Page\n\n```python\n>>> cs.softmax(cupy.asarray([0.0, 0.0]))\narray([0.5, 0.4])\n```\n"
    )
    with pytest.raises(AssertionError, match=r'File "page", line 4(.|\n)*array\(\[0.5, 0.5\]\)'):
        run("page", shown)
