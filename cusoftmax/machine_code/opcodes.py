"""Machine instructions: the class, execution unit, latency and registers of each.

The table holds the opcodes that NVIDIA's compilers emit for these kernels and for Triton's. Any
other opcode has the class "other"; a test fails if a planned kernel contains one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

INSTRUCTION_BYTES = 16  # on every architecture from sm_75 to sm_120


class Instruction(NamedTuple):
    """One machine instruction, as nvdisasm writes it."""

    predicated: bool
    opcode: str
    operands: str

    @property
    def stem(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.split(".", 1)[0]


# In the order in which reports list them.
CLASSES = (
    "global memory", "shared memory", "shuffle", "conversion", "float", "double",
    "special function", "integer", "move", "control", "spill", "other",
)  # fmt: skip


class OpcodeKind(NamedTuple):
    """The class of an opcode and its unit: a key of `chips.Chip.rates`, or "" for none."""

    name: str
    unit: str


def _by_stem(rows: dict[tuple[str, str], str]) -> dict[str, OpcodeKind]:
    return {stem: OpcodeKind(*kind) for kind, stems in rows.items() for stem in stems.split()}


# FMA: multiply and add of float32. ALU: comparisons, logic, adds of integers, selections, moves.
# XU: special functions and the slow conversions. LSU: memory and shuffles. Opcodes without a unit
# (branches, the uniform datapath) cost only an issue slot.
_KIND_OF_STEM = _by_stem(
    {
        ("global memory", "lsu"): "LDG STG LDGSTS ATOMG ATOM RED REDG",
        ("shared memory", "lsu"): "LDS STS LDSM STSM ATOMS LD ST",  # generic: a cluster's memory
        ("spill", "lsu"): "LDL STL",
        ("shuffle", "lsu"): "SHFL",
        ("shuffle", "alu"): "VOTE REDUX MATCH",
        ("shuffle", ""): "VOTEU CREDUX",
        ("conversion", "xu"): "F2F F2I I2F FRND",
        ("conversion", "alu"): "F2FP I2FP F2IP PRMT",
        ("conversion", ""): "UI2F UF2F UF2I UI2FP UPRMT",
        ("float", "fma"): "FADD FMUL FFMA FADD2 FMUL2 FFMA2 FSWZADD",
        ("float", "alu"): "FMNMX FMNMX3 FSEL FSETP FSET FCHK",
        ("float", ""): "UFADD UFMUL UFFMA UFSEL UFSETP UFSET UFMNMX",
        ("float", "half"): "HADD2 HMUL2 HFMA2 HMNMX2 HSETP2 HSET2",
        ("double", "double"): "DADD DMUL DFMA DSETP DMNMX",
        ("special function", "xu"): "MUFU",
        ("integer", "alu"): (
            "IADD3 IADD LOP3 LEA SHF SHL SHR ISETP IABS IMNMX VIMNMX VIMNMX3 VIADD VIADDMNMX SEL "
            "PLOP3 P2R R2P BMSK SGXT LOP ISCADD ICMP VABSDIFF"
        ),
        ("integer", "xu"): "POPC FLO BREV",
        ("integer", "imad"): "IMAD XMAD IDP",
        ("integer", ""): (
            "UIADD3 UIMAD ULEA ULOP3 USHF UISETP USEL UPLOP3 UFLO UBREV UPOPC UP2UR UBMSK USGXT "
            "UVIADD UVIMNMX UIMNMX UIADD UIABS"
        ),
        ("move", "alu"): "MOV MOV32I R2UR",
        ("move", ""): "UMOV CS2R S2R S2UR LDC LDCU ULDC CS2UR UR2UP",
        ("control", ""): (
            "BRA BRX JMP EXIT CALL RET BSSY BSYNC BREAK BMOV WARPSYNC BAR NOP YIELD ENDCOLLECTIVE "
            "MEMBAR ERRBAR CGAERRBAR CCTL UCGABAR_ARV UCGABAR_WAIT DEPBAR LDGDEPBAR NANOSLEEP BPT "
            "KILL ACQBULK PREEXIT SYNCS B2R FENCE ELECT WARPGROUP UCGABAR"
        ),
    }
)
_MOVE, _CONVERSION = OpcodeKind("move", "imad"), "conversion"


@lru_cache(maxsize=65536)
def kind_of(instruction: Instruction) -> OpcodeKind:
    """Return the class and unit of an instruction.

    Compilers also move and convert with arithmetic: a multiplication by 1 or by 2^16 (bfloat16 is
    the upper half of a float32), half-precision arithmetic with zeros. Those count as moves and
    conversions.
    """
    opcode, operands, stem = instruction.opcode, instruction.operands, instruction.stem
    kind = _KIND_OF_STEM.get(stem, OpcodeKind("other", ""))
    if stem == "IMAD" and ".MOV" in opcode:
        return _MOVE
    if stem in ("IMAD", "SHF", "LOP3") and re.search(r", 0x(10000|ffff0000)\b", operands):
        return OpcodeKind(_CONVERSION, kind.unit)
    if opcode.startswith("HADD2.F32"):
        if "-RZ, -RZ" in operands or ", RZ, RZ" in operands:  # a constant
            return OpcodeKind("move", "half")
        return OpcodeKind(_CONVERSION, "half")
    if stem == "HFMA2" and re.match(r"\s*U?R\d+, -?RZ, -?RZ,", operands):
        return OpcodeKind("move", "half")
    if stem == "CCTL" or stem.startswith("UCGABAR"):
        return OpcodeKind("control", "")
    return kind


# ---------------------------------------------------------------------------------------- registers

_REGISTER = re.compile(r"(?<![\w])([-~|!]*)(U?[RP])(\d+)\b(\.64)?")
_NO_RESULT = re.compile(  # opcodes that write no register: stores, barriers, branches
    r"ST|RED|BAR|BRA|EXIT|CALL|RET|BS|WARPSYNC|NOP|MEMBAR|CCTL|LDGSTS|LDGDEPBAR|DEPBAR|\w*ERRBAR|R2P"
)
_REGISTER_PAIRS = ("DADD", "DMUL", "DFMA", "DMNMX")


def access_bytes(opcode: str) -> int:
    """Return the bytes that a memory instruction moves for one thread."""
    parts = opcode.split(".")
    for width, size in (("U8", 1), ("S8", 1), ("U16", 2), ("S16", 2), ("64", 8), ("128", 16)):
        if width in parts:
            return size
    return 32 if "256" in parts else 4


@lru_cache(maxsize=65536)
def registers_of(instruction: Instruction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the registers that an instruction writes and those that it reads.

    Where an instruction has several results (an addition with carry), only the first operand counts
    as written, or the first two of a comparison or shuffle. The others count as read, which
    overestimates how long the instruction waits.
    """
    stem, opcode = instruction.stem, instruction.opcode
    fields = instruction.operands.rstrip(" ;").split(",")
    results = (
        0 if _NO_RESULT.match(stem) else 2 if stem in ("ISETP", "FSETP", "DSETP", "SHFL") else 1
    )
    written: list[str] = []
    read: list[str] = []
    for place, field in enumerate(fields):
        for _, letter, digits, wide in _REGISTER.findall(field):
            number = int(digits)
            count = 1
            if place < results and letter == "R":
                count = max(1, access_bytes(opcode) // 4) if stem[:2] == "LD" else count
                count = (
                    2
                    if stem in _REGISTER_PAIRS or ".WIDE" in opcode or ".F64." in opcode
                    else count
                )
            elif wide or (stem in (*_REGISTER_PAIRS, "DSETP") and letter == "R"):
                count = 2
            elif stem == "STG" and place == len(fields) - 1:
                count = max(1, access_bytes(opcode) // 4)
            names = [f"{letter}{number + i}" for i in range(count)]
            (written if place < results else read).extend(names)
    return tuple(written), tuple(read)


def latency(instruction: Instruction) -> int:
    """Return about how many cycles pass until a dependent instruction can start.

    Rounded from published microbenchmarks (Jia et al. 2018 and 2019; Luo et al. 2024): 4 for
    arithmetic in registers, 8 to 29 for the other units. Loads from global memory are left out:
    they take the chip's memory latency.
    """
    kind = kind_of(instruction)
    by_class = {"shared memory": 29, "shuffle": 24, "special function": 18, "double": 8}
    if kind.name in by_class:
        return by_class[kind.name]
    if kind.unit == "xu" or instruction.stem in ("S2R", "S2UR", "LDC", "LDCU", "BAR"):
        return 18
    return 4
