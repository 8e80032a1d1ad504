"""What the compiler made of a kernel: registers, spills, memory accesses, instruction counts.

Needs no GPU and no driver: NVRTC compiles for any architecture, and NVIDIA's ``cuobjdump`` and
``nvdisasm`` (found among the installed ``nvidia-cuda-*`` wheels, else on the PATH) read the result.
What must hold of it is `cusoftmax._inspect`.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from cusoftmax.machine_code.catalog import elements_held
from cusoftmax.planning.plan import Kernel
from cusoftmax.runtime.source import UNIT, code, options

_INSTRUCTION = 16  # bytes of a machine instruction, on every architecture from sm_75 to sm_120


class ToolError(RuntimeError):
    """NVRTC, cuobjdump or nvdisasm is absent or refused: the message says which and why."""


@dataclass(frozen=True)
class Compiled:
    """One binary, as compiled for one architecture.

    Attributes
    ----------
    kernel : Kernel
        What was compiled.
    arch : str
        ``"sm_90"``.
    registers, stack, local, shared : int
        Registers of a thread; bytes of stack and of local memory of a thread; bytes of static
        shared memory of a block.
    spill_loads, spill_stores : int
        Instructions that read or write local memory.
    loads, stores : dict of int to int
        Global memory instructions by bytes of one thread's access. Workspace is included.
    generic : int
        Memory instructions through generic addresses: a cluster's writes to its other blocks.
    exponentials, shuffles, barriers : int
        Counts of ``MUFU.EX2``, of shuffles, and of barriers of a block or a cluster.
    instructions : int
        All machine instructions, but the padding at the end.
    main : int
        Those from the entry to the first unconditional jump or exit after the last global store.
        Out-of-line code is left out: division's slow path, shuffles of diverged warps. So are runs
        of NOPs: NVRTC up to 13.1 puts 4 after each float64 instruction for sm_120, while the
        float64 unit is busy with it anyway.
    per_element : float or None
        `main` over the elements of one input that a thread holds in the code: those of one tile, or
        of two where the kernel has one in registers and parks others. Static: a loop over chunks or
        over nodes counts once, and where a row is passed over twice (stream) both passes count.
        None for a launch that reads no elements.
    """

    kernel: Kernel
    arch: str
    registers: int
    stack: int
    local: int
    shared: int
    spill_loads: int
    spill_stores: int
    loads: dict[int, int]
    stores: dict[int, int]
    generic: int
    exponentials: int
    shuffles: int
    barriers: int
    instructions: int
    main: int
    per_element: float | None

    @property
    def spills(self) -> int:
        """Instructions that touch local memory."""
        return self.spill_loads + self.spill_stores


def inspect(kernel: Kernel, arch: str | int) -> Compiled:
    """Compile a kernel for an architecture and read the result."""
    (result,) = inspect_all((kernel,), arch)
    if isinstance(result, str):
        raise ToolError(f"{kernel.name}: {result}")
    return result


def inspect_all(kernels: Sequence[Kernel], arch: str | int) -> list[Compiled | str]:
    """Compile and read several kernels: a `Compiled` each, or the compiler's complaint.

    Much quicker than one at a time: starting nvdisasm takes longer than its work.
    """
    number = int(str(arch).removeprefix("sm_"))
    binaries: list[bytes | str] = [_attempt(kernel, number) for kernel in kernels]
    good = [binary for binary in binaries if isinstance(binary, bytes)]
    codes = iter(_disassemble([_text(binary) for binary in good], number))
    return [
        _read(kernel, number, binary, next(codes)) if isinstance(binary, bytes) else binary
        for kernel, binary in zip(kernels, binaries, strict=True)
    ]


# ------------------------------------------------------------------------------------------- tools


def missing() -> str | None:
    """Return why nothing can be inspected here, or None if it can."""
    try:
        nvrtc_version()
        for tool in ("cuobjdump", "nvdisasm"):
            _tool(tool)
    except ToolError as error:
        return str(error)
    return None


@cache
def nvrtc_version() -> str:
    """Return NVRTC's version, as in ``"13.0"``."""
    try:
        from cupy.cuda import nvrtc

        return ".".join(map(str, nvrtc.getVersion()))
    except Exception as error:  # CuPy has its own types for a library that cannot be loaded
        raise ToolError(f"NVRTC is not usable: {error}") from error


@cache
def _tool(name: str) -> str:
    """Return the path of one of NVIDIA's tools."""
    try:
        import nvidia

        folders = [Path(folder) for folder in nvidia.__path__]
    except ImportError:
        folders = []
    for folder in folders:  # nvidia/cu13/bin, or for CUDA 12 nvidia/cuda_nvdisasm/bin
        for path in sorted(folder.glob(f"*/bin/{name}*")):
            if path.stem == name:
                return str(path)
    path_found = shutil.which(name)
    if path_found is None:
        raise ToolError(f"{name} is absent: pip install nvidia-cuda-{name}")
    return path_found


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([_tool(tool), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{tool} failed: {done.stderr.strip()[:500]}")
    return done.stdout


def compile_cubin(kernel: Kernel, arch: int) -> bytes:
    """Compile a kernel as CuPy's RawKernel would, but for any architecture and with no driver."""
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(code(), UNIT, (), ())
    try:
        nvrtc.compileProgram(program, [*options(kernel), "-ftz=true", f"-arch=sm_{arch}"])
        return bytes(nvrtc.getCUBIN(program))
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program)
        said = [line for line in log.splitlines() if "error" in line] or [str(error)]
        raise ToolError(f"does not compile for sm_{arch}: {said[0].strip()}") from error
    finally:
        nvrtc.destroyProgram(program)


def _attempt(kernel: Kernel, arch: int) -> bytes | str:
    try:
        binary = compile_cubin(kernel, arch)
    except ToolError as error:
        return str(error)
    # CuPy takes the last byte for the end of a string, and drops it. It is a table's or section's.
    tables = struct.unpack_from("<QQ", binary, 0x20)  # of program headers, of section headers
    sizes = struct.unpack_from("<HHHH", binary, 0x36)  # of an entry, number of entries
    ends = [tables[0] + sizes[0] * sizes[1], tables[1] + sizes[2] * sizes[3]]
    ends += [offset + length for _, offset, length in _sections(binary)]
    return binary + bytes(max(0, max(ends) - len(binary)))


# ------------------------------------------------------------------------------------- ELF and SASS


def _sections(binary: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of the sections of an ELF file that have bytes in it."""
    padded = binary + b"\0"
    (table,) = struct.unpack_from("<Q", padded, 0x28)
    size, count, names = struct.unpack_from("<HHH", padded, 0x3A)
    entries = [struct.unpack_from("<IIQQQQ", padded, table + size * i) for i in range(count)]
    for name, kind, _, _, offset, length in entries:
        start = entries[names][4] + name
        if kind != 8:  # SHT_NOBITS
            yield padded[start : padded.index(b"\0", start)].decode(), offset, length


def _text(binary: bytes) -> bytes:
    """Return a kernel's machine code."""
    for name, offset, length in _sections(binary):
        if name.startswith(".text."):
            return binary[offset : offset + length]
    raise ToolError("a compiled kernel holds no code")


_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)$", re.M)


def _disassemble(texts: Sequence[bytes], arch: int) -> list[list[tuple[bool, str, str]]]:
    """Return each code's instructions: whether under a predicate, opcode, operands."""
    found: list[list[tuple[bool, str, str]]] = [[] for _ in texts]
    if not texts:
        return found
    owners = [i for i, text in enumerate(texts) for _ in range(len(text) // _INSTRUCTION)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code"
        path.write_bytes(b"".join(texts))
        listing = _run("nvdisasm", "--binary", f"SM{arch}", str(path))
    for offset, predicate, opcode, operands in _LINE.findall(listing):
        found[owners[int(offset, 16) // _INSTRUCTION]].append((bool(predicate), opcode, operands))
    return found


def _resources(binary: bytes) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        listing = _run("cuobjdump", "--dump-resource-usage", str(path))
    return {key: int(value) for key, value in re.findall(r"\b([A-Z]+):(\d+)", listing)}


def _access_bytes(opcode: str) -> int:
    parts = opcode.split(".")
    for width, size in (("U8", 1), ("S8", 1), ("U16", 2), ("S16", 2), ("64", 8), ("128", 16)):
        if width in parts:
            return size
    return 32 if "256" in parts else 4


def _read(kernel: Kernel, arch: int, binary: bytes, found: list[tuple[bool, str, str]]) -> Compiled:
    while found and found[-1][1] == "NOP":
        found.pop()
    if found and found[-1][1] == "BRA":  # a jump to itself, where nothing comes
        found.pop()
    stems = [opcode.split(".", 1)[0] for _, opcode, _ in found]
    counts = Counter(stems)

    def accesses(stem: str) -> dict[int, int]:
        widths = (_access_bytes(opcode) for _, opcode, _ in found if opcode.startswith(stem))
        return dict(sorted(Counter(widths).items()))

    last_store = max((i for i, stem in enumerate(stems) if stem == "STG"), default=0)
    main = next(
        (
            i + 1
            for i, (predicated, _, operands) in enumerate(found)
            # A jump may carry its predicate as an operand.
            if i > last_store and stems[i] in ("EXIT", "BRA") and not predicated
            and not re.match(r"\s*!?U?P\d", operands)
        ),
        len(found),
    )  # fmt: skip
    nops = (len([*run]) for stem, run in groupby(stems[:main]) if stem == "NOP")
    main -= sum(length for length in nops if length > 1)
    elements = elements_held(kernel)
    usage = _resources(binary)
    return Compiled(
        kernel=kernel,
        arch=f"sm_{arch}",
        registers=usage["REG"],
        stack=usage["STACK"],
        local=usage["LOCAL"],
        # What sm_90 and later reserve for themselves is none of the kernel's.
        shared=usage["SHARED"] % 1024 if arch >= 90 else usage["SHARED"],
        spill_loads=counts["LDL"],
        spill_stores=counts["STL"],
        loads=accesses("LDG"),
        stores=accesses("STG"),
        generic=counts["LD"] + counts["ST"],
        exponentials=sum(opcode.startswith("MUFU.EX2") for _, opcode, _ in found),
        shuffles=counts["SHFL"],
        barriers=counts["BAR"] + counts["UCGABAR_WAIT"],
        instructions=len(found),
        main=main,
        per_element=main / elements if elements else None,
    )
