"""A CUDA driver without a GPU, below CuPy: ``cupy.RawKernel`` and its launches run PTX on the CPU.

CuPy's modules call the CUDA runtime and driver through tables of C functions (`tables`). `install`
replaces all that may reach the driver, before CuPy is imported and for the rest of the process.
Above them nothing is changed: CuPy compiles with its own options, keeps what it compiled on disk,
allocates, packs arguments and chooses streams as it does on a GPU.
"""

from __future__ import annotations

import os
import sys

from cusoftmax.planning.device import DeviceSpec

from .entries import DriverEntries, Machine, RuntimeEntries
from .errors import DriverError, not_offered
from .tables import replace_all

__all__ = ["DriverError", "Machine", "install"]


def install(arch: str = "sm_90", devices: int = 2, seed: int = 0) -> Machine:
    """Let CuPy find emulated GPUs, for the rest of this process.

    Parameters
    ----------
    arch : str
        The architecture of the devices, such as ``"sm_90"``.
    devices : int
        How many of them there are.
    seed : int
        Draws the order in which threads run and the errors of approximate instructions.

    Returns
    -------
    Machine
        What happens on the devices.

    Raises
    ------
    RuntimeError
        If CuPy is imported already.
    """
    if "cupy" in sys.modules:
        raise RuntimeError("the emulated driver can be installed only before CuPy is imported")
    os.environ["CUPY_COMPILE_WITH_PTX"] = "1"  # or CuPy would compile to machine code
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's kernels are compiled in and pass by the tables
    from cupy_backends.cuda.api import driver, runtime

    machine = Machine(DeviceSpec.known(arch), devices, seed)
    tables = {driver: DriverEntries(machine), runtime: RuntimeEntries(machine)}
    replace_all(tables, not_offered, machine.lock)
    return machine
