"""Runs the kernels on the CPU: no GPU needed, and every access and barrier checked."""

from ._backend import EmulatorBackend, activate, only_blocks, trace
from ._build import BuildError, CompilerNotFound
from ._memory import asarray, asnumpy, sparse
from ._run import KernelError, Report

__all__ = [
    "BuildError",
    "CompilerNotFound",
    "EmulatorBackend",
    "KernelError",
    "Report",
    "activate",
    "asarray",
    "asnumpy",
    "only_blocks",
    "sparse",
    "trace",
]
