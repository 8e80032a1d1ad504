"""Reads the text of a PTX module: its kernels with their parameters, instructions and labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

_BYTES = {8: 1, 16: 2, 32: 4, 64: 8}


class PtxError(ValueError):
    """The text has something that the interpreter does not know; the message names it."""


class Address(NamedTuple):
    """``[base + offset]``: a register or a symbol, and bytes."""

    base: str
    offset: int


# A register, a symbol or a number as it is written; several in braces or by `|`; an address.
Operand = str | tuple[str, ...] | Address


class Instruction(NamedTuple):
    """One instruction: ``@guard name operands;``."""

    name: str
    operands: tuple[Operand, ...]
    guard: str | None
    negated: bool
    place: str  # the line of PTX, and that of the source if a .loc gives one
    used: int = 0  # of a load: a bit for each byte that is used, if not all are


class Parameter(NamedTuple):
    """A parameter of a kernel: where its bytes lie among those of all."""

    name: str
    offset: int
    size: int


@dataclass
class Kernel:
    """An entry of a module as it is written.

    Attributes
    ----------
    name : str
        The entry's name.
    parameters : list of Parameter
        In order.
    max_threads, cluster : int
        Threads of a block that it is compiled for; blocks of a cluster.
    code : list of Instruction or str
        Instructions and, as strings, the labels between them.
    """

    name: str
    parameters: list[Parameter] = field(default_factory=list)
    max_threads: int = 1024
    cluster: int = 1
    code: list[Instruction | str] = field(default_factory=list)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters."""
        return max((p.offset + p.size for p in self.parameters), default=0)


_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{")
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.\w(\d+)\s+"
    # What a pointer points to; NVRTC says it for sm_100 and later.
    r"(?:\.ptr\s+(?:\.(?:global|const|shared|local)\s+)?(?:\.align\s+\d+\s+)?)?"
    r"([\w$]+)(?:\[(\d+)\])?\s*$"
)
_DIRECTIVE = re.compile(r"\.(\w+)\s*([\d, ]*)")
_FILE = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.M)
_TARGET = re.compile(r"^\s*\.target\s+(\w+)", re.M)
_SHARED = re.compile(r"\.extern\s+\.shared\s+\.align\s+\d+\s+\.b8\s+([\w$]+)\[\]")
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+\d+(?:.*?inlined_at\s+(\d+)\s+(\d+))?")
_TOKEN = re.compile(
    r"\s+|//[^\n]*|(?P<loc>\.loc\s[^\n]*)|(?P<label>[$\w]+):(?!:)|(?P<brace>[{}])"
    r"|(?P<statement>[^;{}]*(?:\{[^;{}]*\}[^;{}]*)*);\s*"
)
_OPERAND = re.compile(r"\{([^}]*)\}|\[([^\]]*)\]|([^\s,{}\[\]]+)")


def target(text: str) -> str:
    """Return the architecture that a module is for, such as ``"sm_90"``."""
    found = _TARGET.search(text)
    if found is None:
        raise PtxError("no .target: this is not PTX")
    return found[1]


def kernels(text: str) -> dict[str, Kernel]:
    """Return the kernels of a module by name."""
    if ".func" in text:
        raise PtxError("the module has functions beside its kernels (.func)")
    shared = set(_SHARED.findall(text))
    files = dict(_FILE.findall(text))
    found = {}
    for entry in _ENTRY.finditer(text):
        kernel = Kernel(entry[1])
        _read_parameters(kernel, entry[2])
        _read_directives(kernel, entry[3])
        kernel.code = [*_read_body(text, entry.end(), kernel, shared, files)]
        found[kernel.name] = kernel
    return found


def _read_parameters(kernel: Kernel, text: str) -> None:
    end = 0
    for written in filter(None, (part.strip() for part in text.split(","))):
        match = _PARAMETER.match(written)
        if match is None:
            raise PtxError(f"kernel {kernel.name}: unknown parameter {written!r}")
        align, bits, name, count = match.groups()
        unit = _BYTES[int(bits)]
        step = int(align or unit)
        offset = -(-end // step) * step
        kernel.parameters.append(Parameter(name, offset, unit * int(count or 1)))
        end = offset + unit * int(count or 1)


def _read_directives(kernel: Kernel, text: str) -> None:
    for name, numbers in _DIRECTIVE.findall(text):
        size = 1
        for number in filter(None, (part.strip() for part in numbers.split(","))):
            size *= int(number)
        if name == "maxntid":
            kernel.max_threads = size
        elif name == "reqnctapercluster":
            kernel.cluster = size
        elif name not in ("minnctapersm", "explicitcluster"):
            raise PtxError(f"kernel {kernel.name}: unknown directive .{name}")


def _read_body(
    text: str, start: int, kernel: Kernel, shared: set[str], files: dict[str, str]
) -> Iterator[Instruction | str]:
    # A symbol is the number that it stands for: shared memory starts at 0, and so do parameters.
    # Registers that are declared within braces have names of their own.
    scopes = [dict.fromkeys(shared, "0") | {p.name: str(p.offset) for p in kernel.parameters}]
    scope_count = 0
    source, used = "", 0
    places: dict[str, str] = {}
    at, line = start, text.count("\n", 0, start) + 1
    while True:
        token = _TOKEN.match(text, at)
        if token is None:
            raise PtxError(f"kernel {kernel.name}: unreadable at line {line}")
        at = token.end()
        kind = token.lastgroup
        if kind == "statement":
            statement = token[kind]
            if statement.startswith(".reg"):
                if len(scopes) > 1:
                    for word in re.findall(r"[\w$%]+", statement.split(None, 2)[2]):
                        scopes[-1][word] = f"{word}@{scope_count}"
            elif statement.startswith("."):
                if not statement.startswith(".pragma"):
                    raise PtxError(f"kernel {kernel.name}, line {line}: unknown {statement!r}")
                mask = re.search(r'"used_bytes_mask (\w+)"', statement)
                used = int(mask[1], 0) if mask else used
            else:
                place = f"PTX line {line}{source}"
                yield _instruction(statement, scopes[-1], place)._replace(used=used)
                used = 0
        elif kind == "loc":
            loc = token[kind]
            if loc not in places:
                places[loc] = _source_place(loc, files)
            source = places[loc]
        elif kind == "label":
            yield token[kind]
        elif kind == "brace":
            if token[kind] == "{":
                scope_count += 1
                scopes.append(dict(scopes[-1]))
            else:
                scopes.pop()
                if not scopes:
                    return
        line += text.count("\n", token.start(), at)


def _source_place(loc: str, files: dict[str, str]) -> str:
    match = _LOC.match(loc)
    if match is None:
        return ""
    number, line, caller, caller_line = match.groups()
    # Within platform.cuh, the line that called it.
    if caller and files.get(number, "").endswith("machine/platform.cuh"):
        number, line = caller, caller_line
    path = files.get(number, "")
    _, root, below = path.rpartition("cuda_kernels/")
    return f", {below if root else path.rpartition('/')[2]}:{line}"


def _instruction(statement: str, names: dict[str, str], place: str) -> Instruction:
    guard, negated = None, False
    if statement.startswith("@"):
        written, statement = statement.split(None, 1)
        negated = written[1] == "!"
        guard = written[1 + negated :]
        guard = names.get(guard, guard)
    parts = statement.split(None, 1)
    operands: list[Operand] = []
    for braces, brackets, plain in _OPERAND.findall(parts[1] if len(parts) > 1 else ""):
        if plain and "|" not in plain:
            operands.append(names.get(plain, plain))
        elif brackets:
            base, _, offset = brackets.partition("+")
            operands.append(Address(names.get(base, base), int(offset or 0)))
        else:
            words = (word.strip() for word in (braces.split(",") if braces else plain.split("|")))
            operands.append(tuple(names.get(word, word) for word in words))
    return Instruction(parts[0], tuple(operands), guard, negated, place)
