"""Where the tests run: the same ones on the emulator and, if there is one, on the GPU."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cusoftmax import emulator
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.runtime import backend
from cusoftmax.runtime.backend import gpu_is_present


class EmulatedDevice:
    """The emulator: any architecture, and any order of threads.

    Parameters
    ----------
    code : str
        What it runs: ``"source"`` or ``"ptx"``.
    """

    name = "emulator"

    def __init__(self, code: str = "source") -> None:
        self.code = code

    @property
    def spec(self) -> DeviceSpec:
        """The GPU that is planned for."""
        return backend.present_device()

    @property
    def arch(self) -> str:
        """Its architecture, such as ``"sm_90"``."""
        return f"sm_{self.spec.arch}"

    @contextlib.contextmanager
    def on(self, arch: str | None = None, seed: int = 0) -> Iterator[None]:
        """Run as another architecture, and with another order of threads."""
        with emulator.activate(arch=arch or self.arch, seed=seed, code=self.code):
            yield

    def asarray(self, array: Any, misalign: int = 0) -> Any:
        """Copy a NumPy array to the device, in C or Fortran order."""
        return emulator.asarray(array, misalign)

    def asnumpy(self, array: Any) -> Any:
        """Copy an array of the device, of any strides, to NumPy."""
        return emulator.asnumpy(array)


class CudaDevice:
    """The current GPU."""

    name = "cuda"

    @property
    def spec(self) -> DeviceSpec:
        """What the planner knows of it."""
        return DeviceSpec.current()

    @property
    def arch(self) -> str:
        """Its architecture, such as ``"sm_90"``."""
        return f"sm_{self.spec.arch}"

    @contextlib.contextmanager
    def on(self, arch: str | None = None, seed: int = 0) -> Iterator[None]:
        """Skip what is for another architecture, or for one order of threads among several."""
        if arch is not None and arch != self.arch:
            pytest.skip(f"for {arch}, and this GPU is {self.arch}")
        if seed:
            pytest.skip("the order of threads cannot be chosen on a GPU")
        yield

    def asarray(self, array: Any, misalign: int = 0) -> Any:
        """Copy a NumPy array to the device, in C or Fortran order."""
        import cupy

        source = np.asarray(array)
        order = "F" if source.flags.f_contiguous and not source.flags.c_contiguous else "C"
        source = np.asarray(source, order=order)  # type: ignore[call-overload]
        pointer = cupy.cuda.alloc(source.nbytes + misalign + 1) + misalign
        made = cupy.ndarray(source.shape, source.dtype, memptr=pointer, order=order)
        if source.size:
            pointer.copy_from_host(ctypes.c_void_p(source.ctypes.data), source.nbytes)
        return made

    def asnumpy(self, array: Any) -> Any:
        """Copy an array of the device, of any strides, to NumPy."""
        import cupy

        return cupy.asnumpy(array)


GPU = gpu_is_present()
MACHINES = ("source", "ptx", "cuda")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the machines be chosen that the tests of the public functions run on, and how many."""
    parser.addoption(
        "--machine",
        action="append",
        choices=MACHINES,
        help="where tests with the `device` fixture run: the emulator with the kernels' source, or "
        "with their PTX, or the GPU; may be repeated. By default source, and cuda if there is one",
    )
    parser.addoption(
        "--exhaustive", action="store_true", help="run the tests that repeat others, too"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that has a `device` on each of the machines."""
    if "device" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--machine") or ("source", "cuda")
    machines = [
        pytest.param(name, marks=pytest.mark.cuda) if name == "cuda" else name
        for name in MACHINES
        if name in chosen and (GPU or name != "cuda")
    ]
    metafunc.parametrize("device", machines, indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[EmulatedDevice | CudaDevice]:
    """Each machine in turn that the public functions can run on."""
    if request.param == "cuda":
        yield CudaDevice()
    else:
        with emulator.activate(code=request.param):
            yield EmulatedDevice(request.param)


@pytest.fixture
def emulated() -> Iterator[EmulatedDevice]:
    """The emulator, for what only it can do: count traffic, find faults, be another GPU."""
    with emulator.activate():
        yield EmulatedDevice()


# ---- repetitions: what other tests show too is left out unless it is asked for ----


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked ``exhaustive``; pytest counts them as deselected."""
    if not config.getoption("exhaustive"):
        left = [item for item in items if item.get_closest_marker("exhaustive")]
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left)


# ---- the half that needs a GPU: counted where the tests are collected, told by who prints ----

_left_out: list[int] = []  # by each process that collected tests


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the tests that would run on a GPU too."""
    count = 0 if GPU else sum("device" in getattr(i, "fixturenames", ()) for i in session.items)
    output = getattr(session.config, "workeroutput", None)
    if output is None:
        _left_out.append(count)
    else:
        output["left out"] = count


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the count from a worker of pytest-xdist, all of which collect all tests."""
    _left_out.append(getattr(node, "workeroutput", {}).get("left out", 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say on one line what was left out and why."""
    count = max(_left_out, default=0)
    if count:
        terminalreporter.write_line(
            f"not collected: the GPU's half of {count} tests on either machine, as CuPy sees no GPU"
        )
