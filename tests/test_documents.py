"""What the documents show is what the commands print, and README's example runs.

Run by itself (``PYTHONPATH=. python FILE``), this file renews the output that is shown.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from cusoftmax import emulator
from cusoftmax.cli import main as cli
from cusoftmax.machine_code import sass
from cusoftmax.machine_code.chips import Chip
from cusoftmax.runtime import backend, nvrtc

ROOT = next(place for place in Path(__file__).resolve().parents if (place / "README.md").exists())
PAGE = ROOT / "docs" / "profile.md"

# A command, indented, and the first block of text after it, with no other command between.
SHOWN = re.compile(
    r"^    cusoftmax (?P<command>.+)\n(?:(?!    |```).*\n)*"
    r"```text\n(?P<output>(?:(?!```).*\n)*)```$",
    re.M,
)
# What depends on the compiler: from its name to the next blank line.
COMPILED = re.compile(r"^compiler .*?\n\n", re.M | re.S)


def examples() -> list[tuple[str, str]]:
    return [(m["command"], m["output"]) for m in SHOWN.finditer(PAGE.read_text(encoding="utf-8"))]


def printed(command: str) -> str:
    """Return what a command prints on a machine without a GPU."""
    out = io.StringIO()
    with (
        mock.patch.object(backend, "gpu_is_present", lambda: False),
        contextlib.redirect_stdout(out),
    ):
        assert cli.main(shlex.split(command)) == 0
    return out.getvalue()


def test_the_tests_that_the_page_on_pytorch_names_exist() -> None:
    page = (ROOT / "docs" / "torch.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests" / "torch").glob("*.py"))
    assert named and named <= set(re.findall(r"^def (test_\w+)", tests, re.M))


def test_examples_are_found() -> None:
    (first, binary), (second, _) = examples()
    assert first == "profile softmax 8192x32000 --dtype float16"
    assert second == "profile softmax 40000x1024 --axis 0 --emulator --arch sm_90"
    assert COMPILED.search(binary)


@pytest.mark.parametrize("number", range(2))
def test_shown_output_is_what_the_command_prints(number: int) -> None:
    command, shown = examples()[number]
    if "--emulator" not in command and sass.missing():
        pytest.skip(f"nothing can be compiled here: {sass.missing()}")
    got = printed(command)
    if f"NVRTC {nvrtc.version()}\n" not in shown:  # figures of another compiler
        got, shown = COMPILED.sub("", got), COMPILED.sub("", shown)
    assert got == shown, "run this file by itself to renew docs/profile.md"


def test_figures_in_the_words_are_those_of_the_output() -> None:
    page, (_, shown) = PAGE.read_text(encoding="utf-8"), examples()[0]
    found = re.search(r"(\d+) registers, 0 spills", shown)
    assert found is not None
    registers = int(found[1])
    assert f"{registers} registers times 512 threads are {registers * 512:,} of" in page
    assert 65536 // 3 < registers * 512 <= 65536 // 2  # two blocks fit, not three


def test_bandwidths_are_those_of_the_table_of_chips() -> None:
    page = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    measured = dict(re.findall(r"(H\d+)\s+\((\d\.\d) TB/s\)", page))
    assert set(measured) == {"H100", "H200"}
    for name, rate in measured.items():
        assert Chip.named(name).copy_bandwidth == float(rate) * 1e12


def test_readme_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """On the emulator, where `emulator.asarray` stands in for `cupy.asarray`, as README says."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)

    def asarray(values: Any, dtype: Any) -> Any:
        return emulator.asarray(np.array(values, dtype))

    assert "import cupy\n" in example
    with emulator.activate():
        names: dict[str, Any] = {"cupy": SimpleNamespace(asarray=asarray)}
        exec(example.replace("import cupy\n", ""), names)
        np.testing.assert_allclose(emulator.asnumpy(names["y"]).sum(-1), 1, rtol=1e-6)
    assert "csm_softmax_block_f16_v8" in capsys.readouterr().out


def test_readme_says_of_what_a_draw_depends() -> None:
    """The same row has another draw at another place, and the same at the same."""
    import cusoftmax as cs

    x = np.tile(np.random.default_rng(0).standard_normal(50).astype(np.float32), (8, 1))
    with emulator.activate():
        whole = emulator.asnumpy(cs.gumbel_softmax(emulator.asarray(x), seed=1))
        part = emulator.asnumpy(cs.gumbel_softmax(emulator.asarray(x[:3]), seed=1))
        alone = emulator.asnumpy(cs.gumbel_softmax(emulator.asarray(x[2:3]), seed=1))
    np.testing.assert_array_equal(whole[:3], part)
    assert (alone[0] != whole[2]).any()
    np.testing.assert_array_equal(alone[0], whole[0])


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    for command, shown in examples():
        text = text.replace(shown, printed(command))
    PAGE.write_text(text, encoding="utf-8")
    sys.exit()
