"""Compiles kernels for any architecture as CuPy's RawKernel does for its device, with no driver."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from cusoftmax.runtime import source

if TYPE_CHECKING:
    from cusoftmax.planning.plan import Kernel


class CompilerError(RuntimeError):
    """NVRTC is absent, or refuses a kernel: the message says why."""


@cache
def version() -> str:
    """Return NVRTC's version, as in ``"13.0"``."""
    try:
        from cupy.cuda import nvrtc

        return ".".join(map(str, nvrtc.getVersion()))
    except Exception as error:  # CuPy raises errors of its own for libraries it cannot load
        raise CompilerError(f"NVRTC is not usable: {error}") from error


@cache
def build() -> str:
    """Return what NVRTC writes of itself into PTX: its release, and which build of it this is."""
    version()  # raises if there is no NVRTC
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram("", "nothing.cu", (), ())
    try:
        nvrtc.compileProgram(program, ())
        ptx: str = nvrtc.getPTX(program).decode()
    finally:
        nvrtc.destroyProgram(program)
    return "\n".join(line for line in ptx.splitlines() if line.startswith("//"))


def compile_cubin(kernel: Kernel, arch: int) -> bytes:
    """Return the binary that CuPy loads on a GPU of this architecture, such as 90."""
    binary: bytes = _compile(kernel, f"sm_{arch}", (), "getCUBIN")
    return binary


def compile_ptx(kernel: Kernel, arch: int, line_info: bool = True) -> str:
    """Return the PTX that CuPy loads under ``CUPY_COMPILE_WITH_PTX=1``.

    Parameters
    ----------
    kernel : Kernel
        What to compile.
    arch : int
        An architecture, such as 90.
    line_info : bool
        Whether the PTX names, by ``.loc``, the lines of the sources it comes from. CuPy does not
        ask for that; the instructions are the same.
    """
    ptx: bytes = _compile(kernel, f"compute_{arch}", ("-lineinfo",) * line_info, "getPTX")
    return ptx.decode()


def _compile(kernel: Kernel, target: str, more: tuple[str, ...], result: str) -> Any:
    version()  # raises if there is no NVRTC
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(source.code(), source.UNIT, (), ())
    try:
        nvrtc.compileProgram(program, (*source.all_options(kernel, target), *more))
        return getattr(nvrtc, result)(program)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        said = [line for line in log.splitlines() if "error" in line] or [str(error)]
        raise CompilerError(f"does not compile for {target}: {said[0].strip()}") from error
    finally:
        nvrtc.destroyProgram(program)
