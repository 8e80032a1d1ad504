"""Kernels from PTX, launched on the CPU."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cusoftmax.emulator import _abi, _cache, _run
from cusoftmax.planning.plan import WARP
from cusoftmax.runtime import nvrtc, source

from . import decode, parse

if TYPE_CHECKING:
    from cusoftmax.planning.plan import Kernel

# Blocks of instructions that a thread may enter before it is taken to run for ever.
MOST_ENTERED = 1 << 28
# The same on the average of all threads of a cluster, while none of them accesses global memory: to
# fold a row's nodes takes a few hundred.
MOST_IDLE = 1 << 14


@functools.cache
def compiled(kernel: Kernel, arch: int) -> str:
    """Return the PTX that NVRTC makes of a kernel for an architecture, kept in the cache's folder.

    Its instructions are those that CuPy would load; lines with ``.loc`` are added.
    """
    made_of = source.identity(kernel, f"compute_{arch}") + nvrtc.build()
    name = hashlib.sha256(made_of.encode()).hexdigest()[:32]
    path = _cache.cache_folder() / f"{kernel.name[:80]}-{name}.ptx"
    kept = _cache.sealed(path)
    if kept is None:
        text = nvrtc.compile_ptx(kernel, arch)
        _cache.keep(path, text.encode())
        return text
    return kept.decode()


@functools.cache
def load(text: str) -> Module:
    """Return the module whose PTX this is."""
    return Module(text)


class Module:
    """The kernels of a PTX text.

    Parameters
    ----------
    text : str
        PTX, as NVRTC makes it.

    Attributes
    ----------
    target : str
        The architecture that it is for, such as ``"sm_90"``.
    kernels : dict of str to Kernel
        As they were parsed, by name.

    Raises
    ------
    PtxError
        If something in the text is not known; the message names it.
    """

    def __init__(self, text: str) -> None:
        self.target = parse.target(text)
        self.kernels = parse.kernels(text)

    def kernel(self, name: str, roles: Sequence[str] = ()) -> PtxKernel:
        """Return a kernel that can be launched; `roles` as of `EmulatedKernel`."""
        if name not in self.kernels:
            raise parse.PtxError(f"no kernel {name} among {', '.join(self.kernels)}")
        return PtxKernel(_decoded(self, name), roles)


@functools.cache
def _decoded(module: Module, name: str) -> decode.Decoded:
    return decode.decode(module.kernels[name])


class PtxKernel(_run.EmulatedKernel):
    """A kernel whose PTX is interpreted.

    Parameters
    ----------
    decoded : Decoded
        The kernel.
    roles : sequence of str
        As of `EmulatedKernel`.
    """

    def __init__(self, decoded: decode.Decoded, roles: Sequence[str] = ()) -> None:
        written = decoded.kernel
        super().__init__(written.name, roles, written.cluster, written.max_threads)
        self.decoded = decoded

    @property
    def parameters(self) -> tuple[tuple[int, int], ...]:
        """Return where each parameter lies among the bytes of all, and its size."""
        return tuple((p.offset, p.size) for p in self.decoded.kernel.parameters)

    def run(
        self,
        grid: int,
        block: int,
        parameters: bytes,
        shared_bytes: int,
        arrays: Sequence[tuple[int, int]],
        seed: int = 0,
    ) -> _run.LaunchTraffic:
        """Run it with the bytes of its parameters, as a driver does.

        Parameters
        ----------
        grid, block : int
            Blocks, and threads of a block.
        parameters : bytes
            All parameters, each at its place.
        shared_bytes : int
            Dynamic shared memory.
        arrays : sequence of (int, int)
            Address and size of each range of memory that the launch may access; 8 at most.
        seed : int
            Draws the order in which threads run and the errors of approximate instructions.
        """
        call = _abi.LaunchStruct()
        if len(arrays) > len(call.array):
            raise _run.KernelError(
                f"kernel {self.name}: {len(arrays)} arrays, but it may have {len(call.array)}"
            )
        for described, (pointer, nbytes) in zip(call.array, arrays, strict=False):
            _abi.describe(described, pointer, (nbytes,), (1,), 1, "both")
        call.arrays = len(arrays)
        written = self.decoded.kernel.parameters
        values = [parameters[p.offset : p.offset + p.size] for p in written]
        return self._launch(call, values, grid, block, shared_bytes, seed)

    def _set_code(self, call: _abi.LaunchStruct, values: Sequence[bytes]) -> Any:
        decoded = self.decoded
        written = decoded.kernel
        if len(values) != len(written.parameters):
            raise _run.KernelError(
                f"kernel {self.name}: {len(values)} arguments, but it has "
                f"{len(written.parameters)} parameters"
            )
        parameters = np.zeros(written.parameter_bytes, dtype=np.uint8)
        for i, (parameter, value) in enumerate(zip(written.parameters, values, strict=True)):
            if len(value) != parameter.size:
                raise _run.KernelError(
                    f"kernel {self.name}: argument {i} has {len(value)} bytes, but the parameter "
                    f"has {parameter.size}"
                )
            end = parameter.offset + parameter.size
            parameters[parameter.offset : end] = np.frombuffer(value, dtype=np.uint8)
        shape = (-(-call.block // WARP), len(decoded.blocks), WARP)
        entered = np.zeros(shape, dtype=np.uint64)
        program = decode.Program(
            code=decoded.code.ctypes.data,
            constants=decoded.constants.ctypes.data,
            parameters=parameters.ctypes.data,
            executed=entered.ctypes.data,
            block_count=len(decoded.blocks),
            most=MOST_ENTERED,
            most_idle=MOST_IDLE * self.cluster,
            parameter_bytes=len(parameters),
            constant_count=len(decoded.constants),
            slots=decoded.slots,
            first_tracked=decoded.first_tracked,
            tracked_count=decoded.tracked_count,
            name=self.name.encode(),
        )
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(program))
        _run.set_library(call, decode.library())
        call.args = ctypes.cast(pointers, ctypes.POINTER(ctypes.c_void_p))
        call.places = ctypes.cast(decoded.c_places, ctypes.POINTER(ctypes.c_char_p))
        return entered, program, pointers, parameters

    def _executed(self, kept: Any) -> decode.Executed:
        return decode.Executed(self.decoded, kept[0])
