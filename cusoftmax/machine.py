"""Where the command line runs the public functions: on the GPU, or on the emulator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from cusoftmax import emulator
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.runtime import backend

DEVICE_CHOICES = ("auto", "cuda", "emulator")
EMULATED_ARCH = "sm_90"  # the default


class UserError(Exception):
    """An error that the user can fix; its message is one line and says how."""


@dataclass(frozen=True)
class Machine:
    """Where the public functions run, and how arrays get there and back."""

    device: DeviceSpec
    emulated: bool
    asarray: Callable[[np.ndarray[Any, Any]], Any]
    asnumpy: Callable[[Any], np.ndarray[Any, Any]]
    code: str = ""  # what the emulator runs: "source" or "ptx"

    @property
    def title(self) -> str:
        """A description, for people."""
        arch = f"sm_{self.device.arch}"
        if self.emulated:
            what = {"source": "the CUDA kernels", "ptx": "the kernels' PTX"}[self.code]
            return f"the emulator: {what} on this CPU, planned for {arch}"
        return f"the GPU: {self.device.name} ({arch})"


def require_cupy() -> None:
    """Raise `UserError`, with the command that installs CuPy, if it cannot be imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns of a missing CUDA toolkit, which is not needed
        try:
            import cupy  # noqa: F401
        except ImportError as error:
            raise UserError(
                f'CuPy cannot be imported ({first_line(error)}): pip install "cusoftmax[cuda13]"'
            ) from None


@contextmanager
def machine(
    kind: str = "auto", arch: str | None = None, seed: int = 0, code: str | None = None
) -> Iterator[Machine]:
    """Run the public functions on a GPU or on the emulator within the block.

    Parameters
    ----------
    kind : {"auto", "cuda", "emulator"}
        ``"auto"`` means the GPU if there is one, else the emulator.
    arch : str, optional
        The architecture that the emulator plans for. If it is given, ``"auto"`` is the emulator.
    seed : int
        Seed of the emulator's thread order and of its approximate instructions.
    code : {"source", "ptx"}, optional
        What the emulator runs; ``"source"`` by default. If it is given, ``"auto"`` is the emulator.
    """
    require_cupy()
    present = backend.gpu_is_present()
    if kind == "cuda" and not present:
        raise UserError("there is no GPU: run on the CPU with --device emulator")
    if kind == "cuda" and arch is not None:
        raise UserError("a GPU has one architecture: use --arch with --device emulator")
    if kind == "cuda" and code is not None:
        raise UserError("a GPU runs its own code: use --emulator-code with --device emulator")
    if kind == "cuda" or (kind == "auto" and present and arch is None and code is None):
        import cupy

        yield Machine(DeviceSpec.current(), False, cupy.asarray, cupy.asnumpy)
        return
    arch, code = arch or EMULATED_ARCH, code or emulator.CODES[0]
    with emulator.activate(arch=arch, seed=seed, code=code):
        yield Machine(DeviceSpec.known(arch), True, emulator.asarray, emulator.asnumpy, code)


def first_line(error: BaseException) -> str:
    """Return the most useful line of an error's message, or its type if there is no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line]  # a compiler's, below its command line
    return (errors or lines or [type(error).__name__])[0]
