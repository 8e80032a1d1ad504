"""Compiles kernels and reads the binaries: registers, spills, memory accesses, instructions.

Needs no GPU and no driver: NVRTC compiles for any architecture, and NVIDIA's ``cuobjdump`` and
``nvdisasm`` (from the installed ``nvidia-cuda-*`` wheels, else from the PATH) read the result.
`gate` says what must hold of a binary.
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
from itertools import accumulate, groupby
from pathlib import Path

from cusoftmax.machine_code.catalog import elements_held
from cusoftmax.machine_code.flow import walk
from cusoftmax.machine_code.opcodes import INSTRUCTION_BYTES, Instruction, access_bytes
from cusoftmax.planning.plan import Kernel
from cusoftmax.runtime import nvrtc

BULK_BYTES = 16  # what a bulk copy counts as: an access of its unit


class ToolError(RuntimeError):
    """A kernel or one of NVIDIA's tools cannot be used: the message says which and why."""


@dataclass(frozen=True)
class Compiled:
    """A kernel's binary for one architecture.

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
        Global memory instructions by the bytes that a thread accesses; workspace included. Bulk
        copies count as `BULK_BYTES`.
    generic : int
        Memory instructions with generic addresses: writes to other blocks of the cluster.
    exponentials, shuffles, barriers : int
        Number of ``MUFU.EX2``, of shuffles, and of barriers of a block.
    cluster_arrivals, cluster_waits : int
        Number of the two halves of cluster barriers.
    instructions : int
        All machine instructions, without the padding at the end.
    main : int
        Those on the longest way through the code, with one round of each loop: without subroutines
        (division's slow path), code for diverged warps, and runs of NOPs: NVRTC up to 13.1 puts 4
        after each float64 instruction for sm_120, while the float64 unit is busy with it anyway.
    per_element : float or None
        `main` divided by `catalog.elements_held`. A static count: of two ways the longer one counts
        even if few rows take it, and both passes over a row (stream) count. None for a launch that
        reads no elements.
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
    cluster_arrivals: int
    cluster_waits: int
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
    """Compile and read several kernels: for each a `Compiled`, or the compiler's error message.

    Much faster than one at a time: nvdisasm takes longer to start than to work.
    """
    number = int(str(arch).removeprefix("sm_"))
    binaries: list[bytes | str] = [compile_or_error(kernel, number) for kernel in kernels]
    good = [binary for binary in binaries if isinstance(binary, bytes)]
    texts = [code_bytes(binary) for binary in good]
    bases = accumulate((len(text) for text in texts), initial=0)
    codes = zip(bases, disassemble(texts, number), strict=False)
    return [
        _read(kernel, number, binary, *next(codes)) if isinstance(binary, bytes) else binary
        for kernel, binary in zip(kernels, binaries, strict=True)
    ]


# ------------------------------------------------------------------------------------------- tools


def missing() -> str | None:
    """Return why nothing can be inspected here, or None if it can."""
    try:
        nvrtc.version()
        for tool in ("cuobjdump", "nvdisasm"):
            _tool(tool)
    except (nvrtc.CompilerError, ToolError) as error:
        return str(error)
    return None


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
        both = "nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
        raise ToolError(f"{name} is absent: pip install {both}")
    return path_found


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([_tool(tool), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{tool} failed: {done.stderr.strip()[:500]}")
    return done.stdout


def compile_or_error(kernel: Kernel, arch: int) -> bytes | str:
    """Return a kernel's binary, or the compiler's error message."""
    try:
        binary = nvrtc.compile_cubin(kernel, arch)
    except nvrtc.CompilerError as error:
        return str(error)
    # CuPy drops the last byte, as if it ended a string: restore the length that the headers imply.
    tables = struct.unpack_from("<QQ", binary, 0x20)  # of program headers, of section headers
    sizes = struct.unpack_from("<HHHH", binary, 0x36)  # of an entry, number of entries
    ends = [tables[0] + sizes[0] * sizes[1], tables[1] + sizes[2] * sizes[3]]
    ends += [offset + length for _, offset, length in _sections(binary)]
    return binary + bytes(max(0, max(ends) - len(binary)))


# ------------------------------------------------------------------------------------- ELF and SASS


def _sections(binary: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of each section that has bytes in the ELF file."""
    padded = binary + b"\0"
    (table,) = struct.unpack_from("<Q", padded, 0x28)
    size, count, names = struct.unpack_from("<HHH", padded, 0x3A)
    entries = [struct.unpack_from("<IIQQQQ", padded, table + size * i) for i in range(count)]
    for name, kind, _, _, offset, length in entries:
        start = entries[names][4] + name
        if kind != 8:  # SHT_NOBITS
            yield padded[start : padded.index(b"\0", start)].decode(), offset, length


def code_bytes(binary: bytes) -> bytes:
    """Return a kernel's machine code."""
    for name, offset, length in _sections(binary):
        if name.startswith(".text."):
            return binary[offset : offset + length]
    raise ToolError("a compiled kernel holds no code")


_LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)$", re.M)


def disassemble(texts: Sequence[bytes], arch: int) -> list[list[Instruction]]:
    """Return the instructions of each kernel's code."""
    found: list[list[Instruction]] = [[] for _ in texts]
    if not texts:
        return found
    owners = [i for i, text in enumerate(texts) for _ in range(len(text) // INSTRUCTION_BYTES)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code"
        path.write_bytes(b"".join(texts))
        listing = _run("nvdisasm", "--binary", f"SM{arch}", str(path))
    for offset, predicate, opcode, operands in _LINE.findall(listing):
        owner = owners[int(offset, 16) // INSTRUCTION_BYTES]
        found[owner].append(Instruction(bool(predicate), opcode, operands))
    return found


def resource_usage(binary: bytes, arch: int) -> dict[str, int]:
    """Return the resources that cuobjdump reports, such as ``{"REG": 32, "STACK": 0, ...}``."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        listing = _run("cuobjdump", "--dump-resource-usage", str(path))
    usage = {key: int(value) for key, value in re.findall(r"\b([A-Z]+):(\d+)", listing)}
    if arch >= 90:  # whose shared memory includes 1024 bytes that the system reserves
        usage["SHARED"] %= 1024
    return usage


def _read(
    kernel: Kernel, arch: int, binary: bytes, base: int, found: list[Instruction]
) -> Compiled:
    while found and found[-1].opcode == "NOP":
        found.pop()
    if found and found[-1].opcode == "BRA":  # to itself, and never reached
        found.pop()
    stems = [instruction.stem for instruction in found]
    counts = Counter(stems)

    def accesses(stem: str, bulk: str) -> dict[int, int]:
        copies = stem + "STS"  # LDGSTS: from global to shared memory
        widths = Counter(access_bytes(x.opcode) for x in found if x.stem in (stem, copies))
        if whole := sum(x.opcode.startswith(bulk) for x in found):
            widths[BULK_BYTES] += whole
        return dict(sorted(widths.items()))

    path = [instruction.stem for instruction, _ in walk(found, lambda _: 1.0, base).path]
    nops = (len([*run]) for stem, run in groupby(path) if stem == "NOP")
    main = len(path) - sum(length for length in nops if length > 1)
    elements = elements_held(kernel)
    usage = resource_usage(binary, arch)
    return Compiled(
        kernel=kernel,
        arch=f"sm_{arch}",
        registers=usage["REG"],
        stack=usage["STACK"],
        local=usage["LOCAL"],
        shared=usage["SHARED"],
        spill_loads=counts["LDL"],
        spill_stores=counts["STL"],
        loads=accesses("LDG", "UBLKCP.S"),
        stores=accesses("STG", "UBLKCP.G"),
        generic=counts["LD"] + counts["ST"],
        exponentials=sum(x.opcode.startswith("MUFU.EX2") for x in found),
        shuffles=counts["SHFL"],
        barriers=counts["BAR"],
        cluster_arrivals=counts["UCGABAR_ARV"],
        cluster_waits=counts["UCGABAR_WAIT"],
        instructions=len(found),
        main=main,
        per_element=main / elements if elements else None,
    )
