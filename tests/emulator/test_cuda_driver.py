"""CuPy on the emulated driver, which has a process of its own: it has to come before CuPy."""

from __future__ import annotations

import pathlib
import shutil

import pytest
from cupy_backends.cuda.api import runtime

from cusoftmax.emulator import _build, cuda_driver
from cusoftmax.emulator.cuda_driver import tables
from cusoftmax.runtime import source
from tests.emulator.driver_process import on_the_driver, python

# Of the tests that run on either machine, a case of every pattern that an architecture has.
LAYOUTS = "functions/test_softmax_layouts.py::test_in_place"
TOPK = "functions/test_topk_softmax.py::test_every_pattern"
WIDTHS = "functions/test_softmax_widths.py::test_every_kind_of_plan"
PATTERNS = {
    "sm_90": (
        *(f"{LAYOUTS}[cuda-{kind}]" for kind in ("group", "block x2", "split", "column")),
        *(f"{TOPK}[cuda-topk_{kind}-float32]" for kind in ("group", "block", "split", "column")),
        "functions/test_softmax_jacobian.py::test_widths[cuda-5-float32]",
        "functions/test_segment_softmax.py::test_equal_lengths_are_rows[cuda-1-float32]",
    ),
    "sm_75": (f"{WIDTHS}[cuda-softmax-stream]",),  # without clusters
    "sm_100": (f"{TOPK}[cuda-topk_group-float32]",),
}


@pytest.fixture(autouse=True)
def _compiler() -> None:
    """Skip where nothing can be built."""
    try:
        _build.compiler()
    except _build.CompilerNotFound as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("arch", PATTERNS)
def test_cupy_s_own_path_to_the_launch(arch: str) -> None:
    """What the tests say of a GPU, and on one architecture the driver's own cases."""
    cases = "emulator/driver_cases.py"
    own = cases if arch == "sm_90" else f"{cases}::test_the_device_is_the_one_that_was_asked_for"
    said = on_the_driver(arch, own, *PATTERNS[arch])
    assert "passed" in said and "skipped" not in said


# CuPy keeps what it compiled by a key of its own, which does not see what a source includes.
CACHE = """
import pathlib, sys
from cusoftmax.emulator import cuda_driver
cuda_driver.install()
from cupy.cuda import nvrtc
import cupy, cusoftmax as cs
from cusoftmax.runtime import source
root = pathlib.Path(sys.argv[1])
source.kernel_root = lambda: root
compiled, compile_program = [], nvrtc.compileProgram
def counted(program, options):
    # Not the empty program of which CuPy makes part of the key.
    compiled.extend(o for o in options if o == "--device-as-default-execution-space")
    compile_program(program, options)
nvrtc.compileProgram = counted
assert cupy.asnumpy(cs.softmax(cupy.zeros((2, 50), "f4")))[0, 0] == cupy.float32(0.02)
print(len(compiled))
"""


def test_cupy_s_cache_is_used_until_a_header_changes(tmp_path: pathlib.Path) -> None:
    kernels = tmp_path / "cuda_kernels"
    shutil.copytree(source.kernel_root(), kernels)

    def compiled() -> str:
        return python("-c", CACHE, str(kernels), CUPY_CACHE_DIR=str(tmp_path / "cache")).strip()

    first, second = compiled(), compiled()
    assert int(first) > 0 == int(second)
    with (kernels / "numeric" / "exp.cuh").open("a") as header:
        header.write("// changed\n")
    assert compiled() == first


def test_it_is_refused_once_cupy_is_imported() -> None:
    with pytest.raises(RuntimeError, match="only before CuPy is imported"):
        cuda_driver.install()


def test_an_entry_of_another_type_is_refused() -> None:
    """As of another version of CuPy."""
    with pytest.raises(tables.UnknownSignature, match=r"runtime\.malloc of this CuPy is 'intptr_t"):
        tables.replace_by(runtime, "malloc", "int (size_t, int __pyx_skip_dispatch)", None)
