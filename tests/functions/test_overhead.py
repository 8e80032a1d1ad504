"""What a repeated call does on the host, counted without a clock."""

from __future__ import annotations

import dis
import pathlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import cupy
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax.emulator import _build, _memory
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.runtime import backend, calls, launch, source

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = str(pathlib.Path(cs.__file__).parent)

# Bytecode instructions of this package in one repeated call, as CPython 3.11 counts them, and what
# other versions may add.
INSTRUCTIONS = {
    "softmax(x)": 183,
    "softmax(x, axis=0)": 183,
    "softmax(x, out=out)": 270,
    "softmax(x, out=x)": 279,
    "softmax(long)": 234,
    "softmax_vjp(y, x)": 208,
    "softmax_vjp(y, x, out=out)": 318,
    "softmax_jvp(y, x)": 208,
}
MARGIN = 1.15

# What builds a string, a dictionary, a set, a class or a function, or imports.
COSTLY = (
    *("BUILD_STRING", "FORMAT_", "CONVERT_VALUE", "BUILD_MAP", "BUILD_CONST_KEY_MAP", "DICT_"),
    *("BUILD_SET", "LOAD_BUILD_CLASS", "MAKE_FUNCTION", "IMPORT_"),
)


class Nothing:
    """A machine whose kernels do nothing."""

    device = DeviceSpec.known("sm_90")
    key = "nothing"
    on_host = True

    def __init__(self) -> None:
        self.launches: list[tuple[Any, ...]] = []

    def check_place(self, op: str, array: Any) -> None: ...

    def load(self, kernel: Any) -> Any:
        return lambda *launch: self.launches.append(launch)

    def by_value(self, struct: Any) -> Any:
        return struct


@pytest.fixture
def nothing() -> Iterator[Nothing]:
    machine = Nothing()
    launch._calls.clear()
    with cupy.cuda.using_allocator(_memory.allocate):
        backend.push_backend(machine)
        try:
            yield machine
        finally:
            backend.pop_backend(machine)
            launch._calls.clear()


def arrays() -> dict[str, Any]:
    """Return the names that the calls above use."""
    x, y, out = (cupy.empty((4, 32), "float32") for _ in range(3))
    return {"x": x, "y": y, "out": out, "long": cupy.empty((1, 1 << 17), "float16"), **vars(cs)}


def instructions(call: Callable[[], Any]) -> tuple[Counter[str], list[str]]:
    """Return the instructions that the package executes in `call`, and its functions called."""
    executed: Counter[str] = Counter()
    called: list[str] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if pathlib.Path(frame.f_code.co_filename).parent == pathlib.Path(PACKAGE, "emulator"):
            return None  # the emulator's allocator
        if event == "call":
            called.append(frame.f_code.co_name)
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            executed[dis.opname[frame.f_code.co_code[frame.f_lasti]]] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return executed, called


@pytest.mark.parametrize("call", INSTRUCTIONS)
def test_a_repeated_call_does_little(nothing: Nothing, call: str) -> None:
    names = arrays()
    code = compile(call, "call", "eval")
    eval(code, names)
    first = len(nothing.launches)
    executed, called = instructions(lambda: eval(code, names))
    assert len(nothing.launches) == 2 * first > 0
    expected = [call.partition("(")[0], "run", "signature"]
    expected += ["check_outs"] if "out=" in call else []
    expected += ["_run_before_last"] if first > 1 else []
    assert called == expected
    assert not [name for name in executed if name.startswith(COSTLY)], executed
    assert executed.total() <= MARGIN * INSTRUCTIONS[call], (call, executed.total(), executed)


def test_a_repeated_call_plans_nothing(nothing: Nothing, monkeypatch: pytest.MonkeyPatch) -> None:
    names = arrays()
    for call in INSTRUCTIONS:
        eval(call, names)

    def refuse(*_: Any) -> Any:
        raise AssertionError("made again")

    for module, name in [
        (calls, "prepare"),
        (calls, "plan"),
        (calls, "layout_of"),
        (source, "options"),
        (source, "code"),
        (Nothing, "load"),
    ]:
        monkeypatch.setattr(module, name, refuse)
    for call in INSTRUCTIONS:
        eval(call, names)
    with pytest.raises(AssertionError, match="made again"):
        cs.softmax(names["x"][1:])


def test_numbers_of_a_call_are_no_other_call(nothing: Nothing) -> None:
    logits, target = cupy.empty((4, 32), "float32"), cupy.empty(4, "int64")
    for k in range(1000):
        cs.cross_entropy(logits, target, ignore_index=k, z_loss=k / 7, reduction="none")
    assert len(launch._calls) == 1
    words = [np.frombuffer(launch[2][-1].tobytes(), np.int64) for launch in nothing.launches]
    count = len(KERNELS["cross_entropy"].options)
    assert [int(w[-count]) for w in words] == [*range(1000)]
    z = np.array([w[5 - count] for w in words], np.int32).view(np.float32)
    np.testing.assert_array_equal(z, np.arange(1000, dtype=np.float32) / np.float32(7))
    # All the rest of the struct is the same, and of each launch's own memory.
    assert len({w[:-count].tobytes() for w in words}) == 1
    # The elements that are selected are what a plan depends on.
    for k in (3, 4, 3, 4):
        assert cs.topk_softmax(logits, k)[0].shape == (4, k)
    assert len(launch._calls) == 3


def test_a_call_allocates_its_result_and_its_workspace(nothing: Nothing) -> None:
    names = arrays()
    for call in INSTRUCTIONS:
        sizes: list[int] = []

        def allocate(size: int, sizes: list[int] = sizes) -> Any:
            sizes.append(size)
            return _memory.allocate(size)

        with cupy.cuda.using_allocator(allocate):
            eval(call, names)
        wanted = 0 if "out=" in call else 2 if "long" in call else 1
        assert len(sizes) == wanted, (call, sizes)


def test_the_current_device_is_asked_for_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = iter((0, 1, 0))
    monkeypatch.setattr(cupy.cuda, "get_device_id", lambda: next(numbers))
    gpu = backend.CudaBackend()
    assert (gpu.key, gpu.key, gpu.key) == (0, 1, 0)


# Before CuPy is imported its launch has to be replaced, hence a process of its own.
ARGUMENTS = """
import numpy as np
from benchmarks.static import null_driver
driver = null_driver.install()
import cupy, cusoftmax as cs
from cusoftmax.runtime import backend, launch
backend.push_backend(driver.backend())
x = [cupy.empty((3, 4, 32), "f4").transpose(1, 0, 2) for _ in range(2)]
for op, given in (("softmax", x[:1]), ("softmax_vjp", x)):
    y = getattr(cs, op)(*given)
    struct = next(reversed(launch._calls.values())).layout[1]
    count = len(given) + 2
    copies = driver.copy_arguments([8] * count + [struct.nbytes])
    launches = driver.launches
    getattr(cs, op)(*given, out=y)
    assert driver.launches == launches + 1
    pointers = np.frombuffer(copies.raw, np.uint64, count).tolist()
    assert pointers == [*(a.data.ptr for a in given), y.data.ptr, 0]
    assert copies.raw[8 * count :] == struct.tobytes()
print("passed as they are")
"""


def test_arguments_reach_the_driver() -> None:
    """CuPy's own packing, with nothing behind it: pointers, none, and the struct by value."""
    try:
        _build.compiler()
    except _build.CompilerNotFound as missing:
        pytest.skip(str(missing))
    command = [sys.executable, "-c", ARGUMENTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "passed as they are" in done.stdout, done.stderr
