"""Kernels compiled with no GPU are those that CuPy compiles: with the same options, in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cusoftmax.emulator import _build
from cusoftmax.machine_code import sass
from cusoftmax.machine_code.catalog import problem_of
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Kernel
from cusoftmax.planning.planner import plan
from cusoftmax.runtime import nvrtc

ROOT = Path(__file__).resolve().parents[2]


def softmax_kernel() -> Kernel:
    problem = problem_of("softmax", "float32", (4, 1000), -1)
    return plan(problem, DeviceSpec.known(90)).launches[0].kernel


# CuPy takes the architecture from the device, and reads CUPY_COMPILE_WITH_PTX when it is imported:
# hence a process of its own, in which the driver seems to have a device.
RECORDED = """
import contextlib, json
from benchmarks.static import null_driver
null_driver.install()
from cupy.cuda import compiler, nvrtc as library
from cusoftmax.machine_code.catalog import problem_of
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.planner import plan
from cusoftmax.runtime import backend, nvrtc, source

class Compiled(Exception):
    pass

sources, recorded = {}, []
create, compile = library.createProgram, library.compileProgram

def keep(code, *rest):
    program = create(code, *rest)
    sources[program] = code
    return program

def record(program, options):
    if not sources[program]:  # CuPy asks the compiler for its version
        return compile(program, options)
    assert sources[program] == source.code()
    recorded.append(list(options))
    raise Compiled

compiler._get_arch = lambda: "90"
library.createProgram, library.compileProgram = keep, record
h100 = DeviceSpec.known(90)
kernel = plan(problem_of("softmax", "float32", (4, 1000), -1), h100).launches[0].kernel
for call in (
    lambda: backend._load(kernel, h100, 0),
    lambda: nvrtc.compile_ptx(kernel, 90, line_info=False)
    if compiler._use_ptx
    else nvrtc.compile_cubin(kernel, 90),
):
    with contextlib.suppress(Compiled):
        call()
print(json.dumps(recorded))
"""


def usable() -> None:
    if (reason := sass.missing()) is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("ptx", ["0", "1"])
def test_cupy_gives_the_compiler_the_same_options(ptx: str, tmp_path: Path) -> None:
    usable()
    try:
        _build.compiler()  # for the driver that does nothing
    except _build.CompilerNotFound as missing:
        pytest.skip(str(missing))
    own = {"CUPY_COMPILE_WITH_PTX": ptx, "CUPY_CACHE_DIR": str(tmp_path)}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("CUPY_")}
    done = subprocess.run(
        [sys.executable, "-c", RECORDED],
        cwd=ROOT, env=plain | own, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    theirs, ours = json.loads(done.stdout)
    # Folders of headers, of which the kernels include none (tests/test_kernel_rooms.py).
    headers = [option for option in theirs if option.startswith("-I") and option not in ours]
    assert all("cupy" in folder or "cuda" in folder for folder in headers)
    assert [option for option in theirs if option not in headers] == ours


def test_ptx_names_lines_where_asked() -> None:
    usable()
    kernel = softmax_kernel()
    plain, lined = (nvrtc.compile_ptx(kernel, 90, line_info=asked) for asked in (False, True))
    assert f".entry {kernel.name}(" in plain
    assert ".target sm_90" in plain
    assert ".loc" not in plain
    assert "patterns/group.cuh" in lined


@pytest.mark.parametrize("compile", [nvrtc.compile_cubin, nvrtc.compile_ptx])
def test_an_unknown_architecture_is_refused(compile: object) -> None:
    usable()
    with pytest.raises(nvrtc.CompilerError, match=r"does not compile for (sm|compute)_12345"):
        compile(softmax_kernel(), 12345)  # type: ignore[operator]


@pytest.mark.parametrize(("arch", "refused"), [(89, True), (90, False)])
def test_bulk_copies_are_refused_before_sm_90(arch: int, refused: bool) -> None:
    problem = problem_of("softmax", "float32", (4096, 1001), -1)
    kernel = plan(problem, DeviceSpec.known(90)).launches[0].kernel
    assert kernel["CSM_BULK"] == "1"
    made = sass.compile_or_error(kernel, arch)
    assert ("bulk copies need sm_90" in str(made)) == refused
    assert isinstance(made, str) == refused
