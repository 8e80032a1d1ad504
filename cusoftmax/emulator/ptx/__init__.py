"""Runs what NVRTC makes of the kernels, their PTX, on the CPU: an interpreter with all checks."""

from .decode import known_names
from .kernel import Module, PtxKernel, compiled, load
from .parse import PtxError

__all__ = ["Module", "PtxError", "PtxKernel", "compiled", "known_names", "load"]
