"""Runs the kernels on the CPU and checks every access and barrier; no GPU is needed."""

from ._backend import CODES, EmulatorBackend, activate, only_blocks, trace
from ._build import BuildError, CompilerNotFound
from ._memory import asarray, asnumpy, sparse, view_of
from ._run import KernelError, Report

__all__ = [
    "CODES",
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
    "view_of",
]
