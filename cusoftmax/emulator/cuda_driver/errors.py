"""The exceptions of the emulated driver."""

from __future__ import annotations

from .._run import KernelError

# Of cudaError_t, those that CuPy looks for and those that say most.
INVALID_VALUE, OUT_OF_MEMORY, INVALID_DEVICE, INVALID_HANDLE, NOT_READY = 1, 2, 101, 400, 600
ILLEGAL_ADDRESS, CAPTURE_UNSUPPORTED, CAPTURE_IMPLICIT = 700, 900, 906


class DriverError(KernelError):
    """A call of the driver that a GPU's would refuse, or that the emulated one does not offer."""


def status_error(status: int, text: str) -> Exception:
    """Return CuPy's exception for a status of the CUDA runtime, with what is wrong."""
    from cupy_backends.cuda.api import runtime

    error: Exception = runtime.CUDARuntimeError(status)
    error.args = (f"{error}: {text}",)
    return error


def not_offered(name: str) -> DriverError:
    """Return the exception of an entry that CuPy reached and that nothing stands in for."""
    return DriverError(f"{name}: the emulated driver does not offer it")
