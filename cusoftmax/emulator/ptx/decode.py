"""From the text of instructions to the form that interpreter.cpp runs.

Every register gets a slot. Two registers share one where their live ranges do not overlap, so that
a thread's slots stay in the processor's cache. A register that is read, on some way through the
kernel, before it is written has a slot of its own, and each read of it is checked as it runs.
"""

from __future__ import annotations

import ctypes
import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cusoftmax.emulator import _build

from .parse import Address, Instruction, Kernel, Operand, PtxError

_OPERANDS = 10  # as interpreter.cpp has it
_RECORD = np.dtype(
    [
        ("code", "u2"),
        ("flags", "u1"),
        ("results", "u1"),
        ("operands", "u1"),
        ("bytes", "u1"),
        ("guard", "u2"),
        ("value", "i4"),
        ("operand", "u2", (_OPERANDS,)),
    ]
)
_GUARDED, _NEGATED, _TRACKED, _SIGN_EXTENDS = 1, 2, 4, 8
_UNUSED = 4  # the first of the bits of unused words
_MOST_SLOTS, _MOST_TRACKED = 4096, 256

# In the order of interpreter.cpp's Special.
_SPECIALS = ("%tid.x", "%ntid.x", "%ctaid.x", "%nctaid.x", "%cluster_ctarank", "%laneid")
# Grids and blocks are one-dimensional.
_FIXED = {
    **{f"%{name}.{axis}": "0" for name in ("tid", "ctaid") for axis in "yz"},
    **{f"%{name}.{axis}": "1" for name in ("ntid", "nctaid") for axis in "yz"},
}

_TYPES = "|".join(f"{kind}{bits}" for kind in "bus" for bits in (8, 16, 32, 64)) + "|f32|f64"
_ACCESS = re.compile(
    rf"(?P<what>ld|st)(?P<space>\.param|\.global|\.shared::cluster|\.shared|)"
    # Hints for caches change no value.
    r"(?:\.cs|\.cg|\.ca|\.lu|\.L1::no_allocate|\.L1::evict_last|\.L2::evict_first)*"
    rf"(?:\.v(?P<count>[248]))?\.(?P<type>{_TYPES})$"
)
_MACHINE = {
    "ret": "ret",
    "exit": "ret",
    "trap": "trap",
    "bra": "bra",
    "bra.uni": "bra",
    "cp.async.cg.shared.global": "start_copy",
    "cp.async.wait_all": "finish_copies",
    "fence.proxy.async.shared::cta": "fence_async",
    "mbarrier.init.shared::cta.b64": "mbarrier_init",
    "mbarrier.arrive.expect_tx.shared::cta.b64": "mbarrier_expect",
    "mbarrier.try_wait.parity.shared::cta.b64": "mbarrier_wait",
    "mbarrier.inval.shared::cta.b64": "mbarrier_inval",
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes": "bulk_read",
    "cp.async.bulk.global.shared::cta.bulk_group": "bulk_write",
    "cp.async.bulk.commit_group": "bulk_commit",
    "cp.async.bulk.wait_group.read": "bulk_finish",
    "bar.sync": "bar_sync",
    "barrier.sync": "bar_sync",
    "bar.warp.sync": "bar_warp_sync",
    "barrier.cluster.arrive.release.aligned": "cluster_arrive",
    "barrier.cluster.wait.acquire.aligned": "cluster_wait",
    "shfl.sync.bfly.b32": "shfl_bfly",
    "shfl.sync.idx.b32": "shfl_idx",
    "vote.sync.ballot.b32": "vote_ballot",
    "vote.sync.any.pred": "vote_any",
    "vote.sync.all.pred": "vote_all",
}
# One of a kind that NVRTC numbers, one of inline assembly's braces, or the one that nobody reads.
_REGISTER = re.compile(r"%(?:p|rs|r|rd|rq|f|fd)\d+$|.+@\d+$|%unread$")
_NUMBER = re.compile(r"-?\d+$|-?0[xX][0-9a-fA-F]+U?$|0[fF][0-9a-fA-F]{8}$|0[dD][0-9a-fA-F]{16}$")


class Program(ctypes.Structure):
    """``csm::ptx::Program``."""

    _fields_ = (
        ("code", ctypes.c_void_p),
        ("constants", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p),
        ("executed", ctypes.c_void_p),
        ("block_count", ctypes.c_uint64),
        ("most", ctypes.c_uint64),
        ("most_idle", ctypes.c_uint64),
        ("idle", ctypes.c_uint64),
        ("parameter_bytes", ctypes.c_int64),
        ("constant_count", ctypes.c_int),
        ("slots", ctypes.c_int),
        ("first_tracked", ctypes.c_int),
        ("tracked_count", ctypes.c_int),
        ("name", ctypes.c_char_p),
    )


@cache
def library() -> ctypes.CDLL:
    """Return the interpreter, built if need be."""
    here = _build.HERE
    source = here / "ptx" / "interpreter.cpp"
    found = ctypes.CDLL(str(_build.build(source, (), (here, here / "ptx"), "-O2")))
    found.csm_ptx_name.argtypes = (ctypes.c_int, ctypes.POINTER(ctypes.c_int))
    found.csm_ptx_name.restype = ctypes.c_char_p
    return found


@cache
def codes() -> Mapping[tuple[str, int], int]:
    """Return the number of each instruction, by its name and how many operands it has.

    Instructions that do more than compute have the names of CSM_SPECIAL in interpreter.cpp, and -1.
    """
    found: dict[tuple[str, int], int] = {}
    count = ctypes.c_int()
    while name := library().csm_ptx_name(len(found), ctypes.byref(count)):
        found[name.decode(), count.value] = len(found)
    return found


@cache
def known_names() -> tuple[str, ...]:
    """Return the names of all computing instructions, and of those of `_MACHINE`."""
    return tuple(sorted({name for name, count in codes() if count >= 0} | {*_MACHINE}))


class _Step(NamedTuple):
    """An instruction in terms of registers: what it writes, what it reads, in slot order."""

    instruction: Instruction
    code: int
    results: tuple[str, ...]
    sources: tuple[str, ...]
    bytes: int = 0
    value: int = 0
    sign_extends: bool = False
    target: str = ""
    unused: int = 0


@dataclass(frozen=True)
class Decoded:
    """A kernel in the form that the interpreter runs.

    Attributes
    ----------
    kernel : Kernel
        As it was parsed.
    code : array of records
        The instructions; the first of each block of them counts how often it is entered.
    constants : array of uint64
        The values of the slots after the special ones.
    slots, first_tracked, tracked_count : int
        Slots in use, and which may be read before they are written.
    places : tuple of bytes
        What each instruction is called in messages.
    blocks : tuple of tuple of str
        The names of the instructions of each block.
    """

    kernel: Kernel
    code: npt.NDArray[np.void]
    constants: npt.NDArray[np.uint64]
    slots: int
    first_tracked: int
    tracked_count: int
    places: tuple[bytes, ...]
    blocks: tuple[tuple[str, ...], ...]

    @cached_property
    def c_places(self) -> ctypes.Array[ctypes.c_char_p]:
        """`places` for the runtime."""
        return (ctypes.c_char_p * len(self.places))(*self.places)


@dataclass(frozen=True)
class Executed:
    """How often threads entered each block of instructions, and so executed each instruction.

    One whose guard did not hold counts too. `entered` has an entry for each warp of a block of
    threads, each block of instructions and each of 32 lanes.
    """

    decoded: Decoded
    entered: npt.NDArray[np.uint64]

    def by_name(self) -> Counter[str]:
        """Return how often each instruction was executed, by name."""
        total: Counter[str] = Counter()
        entered = self.entered.sum(axis=(0, 2)).tolist()
        for names, times in zip(self.decoded.blocks, entered, strict=True):
            for name in names:
                total[name] += times
        return total

    def by_line(self) -> list[tuple[str, int]]:
        """Return the name of each, and how often warps did it.

        A warp did it as often as its lane that did it most. Before those of a block comes
        ``"block"``, for the block itself.
        """
        entered = self.entered.max(axis=2).sum(axis=0).tolist()
        return [
            (name, times)
            for names, times in zip(self.decoded.blocks, entered, strict=True)
            for name in ("block", *names)
        ]


def decode(kernel: Kernel) -> Decoded:
    """Bring a kernel into the form that the interpreter runs."""
    blocks = _blocks(kernel)
    tracked, slot_of, slots, constants = _allocate(blocks)
    first_tracked = len(_SPECIALS) + len(constants)
    records, places, starts = [], [], {}
    at = 0
    for number, (labels, steps) in enumerate(blocks):
        for label in labels:
            starts[label] = at
        place = steps[0].instruction.place
        records.append((codes()["block", -1], 0, 0, 0, 0, 0, number, (0,) * _OPERANDS))
        places.append(place.encode())
        at += 1 + len(steps)
        for step in steps:
            names = step.results + step.sources
            guard = step.instruction.guard
            flags = _SIGN_EXTENDS * step.sign_extends | step.unused << _UNUSED
            if guard:
                flags |= _GUARDED | _NEGATED * step.instruction.negated
            if tracked and any(name in tracked for name in (*names, guard)):
                flags |= _TRACKED
            operands = [slot_of[name] for name in names]
            records.append(
                (
                    step.code,
                    flags,
                    len(step.results),
                    len(names),
                    step.bytes,
                    slot_of[guard] if guard else 0,
                    step.value,
                    (*operands, *[0] * (_OPERANDS - len(operands))),
                )
            )
            places.append(step.instruction.place.encode())
    code = np.array(records, dtype=_RECORD)
    at = 0
    for _, steps in blocks:
        for i, step in enumerate(steps):
            if step.target:
                if step.target not in starts:
                    raise PtxError(f"{step.instruction.place}: no label {step.target}")
                code[at + 1 + i]["value"] = starts[step.target]
        at += 1 + len(steps)
    return Decoded(
        kernel,
        code,
        constants,
        slots,
        first_tracked,
        len(tracked),
        tuple(places),
        tuple(tuple(step.instruction.name for step in steps) for _, steps in blocks),
    )


_Block = tuple[list[str], list[_Step]]


def _blocks(kernel: Kernel) -> list[_Block]:
    """Return the kernel's blocks of instructions that are entered only at their first one."""
    blocks: list[_Block] = [([], [])]
    for written in kernel.code:
        if isinstance(written, str):
            if blocks[-1][1]:
                blocks.append(([], []))
            blocks[-1][0].append(written)
            continue
        step = _step(written)
        blocks[-1][1].append(step)
        if step.code in (codes()["bra", -1], codes()["ret", -1]):
            blocks.append(([], []))
    if blocks[-1][1] or len(blocks) == 1 or blocks[-2][1][-1].instruction.guard:
        raise PtxError(f"kernel {kernel.name}: a thread may run beyond its last instruction")
    return _with_all_parts(blocks[:-1])


def _with_all_parts(blocks: list[_Block]) -> list[_Block]:
    """Give values to parts of packed words that no instruction writes and none reads again."""
    pack, unpack = codes()["pack", -1], codes()["unpack", -1]
    every = [step for _, steps in blocks for step in steps]
    written = {name for step in every for name in step.results}
    readers = defaultdict(list)
    for step in every:
        for name in step.sources:
            readers[name].append(step)

    def of(step: _Step) -> _Step:
        if step.code != pack or {*step.sources} <= written:
            return step
        words = readers[step.results[0]]
        sources = [
            "0"
            if name.startswith("%")
            and name not in written
            and all(word.code == unpack and word.results[k] == "%unread" for word in words)
            else name
            for k, name in enumerate(step.sources)
        ]
        return step._replace(sources=tuple(sources))

    return [(labels, [of(step) for step in steps]) for labels, steps in blocks]


def _step(instruction: Instruction) -> _Step:
    try:
        return _access(instruction) or _machine(instruction) or _computation(instruction)
    except PtxError as error:
        raise PtxError(f"{instruction.place}: {error}") from None


def _unknown(instruction: Instruction) -> PtxError:
    return PtxError(f"unknown instruction {instruction.name} of {len(instruction.operands)}")


def _names(operand: Operand) -> tuple[str, ...]:
    if isinstance(operand, Address):
        raise PtxError(f"an address where none is expected: [{operand.base}]")
    return (operand,) if isinstance(operand, str) else operand


def _access(instruction: Instruction) -> _Step | None:
    if instruction.name == "atom.shared.add.u32":
        return _addition(instruction)
    match = _ACCESS.match(instruction.name)
    if match is None:
        return None
    places = {".param": "param", ".global": "global", ".shared": "shared", "": "generic"}
    places[".shared::cluster"] = "cluster"
    verb, place = ("load" if match["what"] == "ld" else "store"), places[match["space"]]
    code = codes().get((f"{verb}_{place}", -1))
    if code is None or len(instruction.operands) != 2:
        raise _unknown(instruction)
    address, values = instruction.operands
    if verb == "load":
        address, values = values, address
    if not isinstance(address, Address):
        raise PtxError(f"{instruction.name} without an address")
    registers = _names(values)
    if len(registers) != int(match["count"] or 1):
        raise PtxError(f"{instruction.name} of {len(registers)} registers")
    kind, size = match["type"][0], int(match["type"][1:]) // 8
    load = verb == "load"
    unused = 0  # a bit for each word that may be memory that nobody wrote
    if instruction.used and place == "shared":
        words = range(len(registers) * size // 4)
        unused = sum(1 << word for word in words if not instruction.used >> 4 * word & 15)
    return _Step(
        instruction,
        code,
        registers if load else (),
        (address.base,) if load else (address.base, *registers),
        size,
        address.offset,
        kind == "s" and load,
        unused=unused,
    )


def _addition(instruction: Instruction) -> _Step:
    match instruction.operands:
        case (str(before), Address() as address, str(value)):
            sources = address.base, value
            return _Step(
                instruction, codes()["add_shared", -1], (before,), sources, 4, address.offset
            )
    raise _unknown(instruction)


def _machine(instruction: Instruction) -> _Step | None:
    name = instruction.name
    operands = instruction.operands
    if name in ("mov.b16", "mov.b32", "mov.b64") and any(isinstance(o, tuple) for o in operands):
        to, source = (_names(operand) for operand in operands)
        parts = max(len(to), len(source))
        if parts not in (2, 4) or min(len(to), len(source)) != 1 or int(name[5:]) // parts < 8:
            raise PtxError(f"{name} of {len(source)} registers to {len(to)}")
        to = tuple("%unread" if word == "_" else word for word in to)
        code = codes()["pack" if len(to) == 1 else "unpack", -1]
        return _Step(instruction, code, to, source, int(name[5:]) // 8 // parts)
    if name not in _MACHINE:
        return None
    kind = _MACHINE[name]
    code = codes()[kind, -1]
    if kind == "bra":
        return _Step(instruction, code, (), (), target=str(operands[0]))
    if kind == "start_copy":
        return _copy(instruction, code)
    if kind.startswith(("mbarrier", "bulk")):
        return _bulk(instruction, code, kind)
    flat = tuple(word for operand in operands for word in _names(operand))
    expected = {"shfl": (5, 6), "vote": (3,), "bar": (1,)}.get(kind.split("_")[0], (0,))
    if len(flat) not in expected:
        raise _unknown(instruction)
    if kind.startswith("shfl"):
        if len(flat) == 5:  # no predicate: one that nobody reads
            flat = (flat[0], "%unread", *flat[1:])
        return _Step(instruction, code, flat[:2], flat[2:])
    if kind.startswith("vote"):
        return _Step(instruction, code, flat[:1], flat[1:])
    return _Step(instruction, code, (), flat)


def _copy(instruction: Instruction, code: int) -> _Step:
    if len(instruction.operands) == 3:
        to, source, size = instruction.operands
        if isinstance(to, Address) and isinstance(source, Address) and size == "16":
            if to.offset or source.offset:
                raise PtxError(f"{instruction.name} with an offset")
            return _Step(instruction, code, (), (to.base, source.base), 16)
    raise _unknown(instruction)


# Of bulk copies: which operands are addresses, and how many there are.
_BULK = {
    "mbarrier_init": ((0,), 2),
    "mbarrier_expect": ((1,), 3),
    "mbarrier_wait": ((1,), 3),
    "mbarrier_inval": ((0,), 1),
    "bulk_read": ((0, 1, 3), 4),
    "bulk_write": ((0, 1), 3),
    "bulk_commit": ((), 0),
    "bulk_finish": ((), 1),
}


def _bulk(instruction: Instruction, code: int, kind: str) -> _Step:
    addresses, count = _BULK[kind]
    operands = instruction.operands
    if len(operands) != count:
        raise _unknown(instruction)
    words = []
    for number, operand in enumerate(operands):
        if isinstance(operand, Address) != (number in addresses) or isinstance(operand, tuple) != (
            number in addresses
        ):
            raise _unknown(instruction)
        if isinstance(operand, Address) and operand.offset:
            raise PtxError(f"{instruction.name} with an offset")
        words.append(operand.base if isinstance(operand, Address) else str(operand))
    if kind == "mbarrier_expect":
        if words[0] != "_":
            raise PtxError(f"{instruction.name} whose result is used")
        words = words[1:]
    results = 1 if kind == "mbarrier_wait" else 0
    return _Step(instruction, code, (*words[:results],), (*words[results:],))


def _computation(instruction: Instruction) -> _Step:
    operands = instruction.operands
    code = codes().get((instruction.name, len(operands)))
    if code is None or not all(isinstance(operand, str) for operand in operands):
        raise _unknown(instruction)
    return _Step(instruction, code, operands[:1], operands[1:])  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- slots


def _allocate(
    blocks: Sequence[_Block],
) -> tuple[set[str], dict[str, int], int, npt.NDArray[np.uint64]]:
    """Return the tracked registers, the slot of every name, the slots in use, and the constants."""
    slot_of = {name: slot for slot, name in enumerate(_SPECIALS)}
    constants: dict[int, int] = {}
    number_of: dict[str, int] = {}
    for _, steps in blocks:
        for step in steps:
            for name in (*step.results, *step.sources, *filter(None, (step.instruction.guard,))):
                if name in slot_of or name in number_of:
                    continue
                text = _FIXED.get(name, name)
                if _NUMBER.match(text):
                    slot = constants.setdefault(_value(text), len(_SPECIALS) + len(constants))
                    slot_of[name] = slot
                elif _REGISTER.match(name):
                    number_of[name] = len(number_of)
                else:
                    raise PtxError(f"{step.instruction.place}: unknown operand {name}")
    intervals, at_entry = _live_ranges(blocks, number_of)
    tracked = {name for name, number in number_of.items() if at_entry >> number & 1}
    first = len(_SPECIALS) + len(constants)
    slot_of |= {name: first + i for i, name in enumerate(sorted(tracked))}
    slots = first + len(tracked)
    free: list[int] = []
    ending: list[tuple[int, int]] = []
    names = [name for name in number_of if name not in tracked]
    for name in sorted(names, key=lambda name: intervals[number_of[name]]):
        start, end = intervals[number_of[name]]
        while ending and ending[0][0] < start:
            heapq.heappush(free, heapq.heappop(ending)[1])
        if free:
            slot = heapq.heappop(free)
        else:
            slot, slots = slots, slots + 1
        slot_of[name] = slot
        heapq.heappush(ending, (end, slot))
    if slots > _MOST_SLOTS or len(tracked) > _MOST_TRACKED:
        raise PtxError(f"{slots} values at once, {len(tracked)} of them checked, are too many")
    return tracked, slot_of, slots, np.array([*constants], dtype=np.uint64)


def _value(text: str) -> int:
    kind = text[:2].lower()
    if kind in ("0f", "0d"):
        return int(text[2:], 16)
    return int(text.rstrip("U"), 0) & (1 << 64) - 1


def _live_ranges(
    blocks: Sequence[_Block], number_of: Mapping[str, int]
) -> tuple[list[tuple[int, int]], int]:
    """Return each register's live range, and those that are live at the entry.

    A range is the index of its first and its last instruction. The second result is a set, as bits:
    registers that may be read before they are written.
    """
    starts_at = {label: i for i, (labels, _) in enumerate(blocks) for label in labels}
    reads, writes, follows = [], [], []
    first = [1 << 60] * len(number_of)
    last = [-1] * len(number_of)
    at = 0
    bounds = []
    for i, (_, steps) in enumerate(blocks):
        read = written = 0
        begin = at
        for step in steps:
            guard = step.instruction.guard
            # A guarded instruction may leave its result as it was, so it also reads it.
            sources = (*step.sources, *((guard, *step.results) if guard else ()))
            for name in sources:
                if name in number_of:
                    read |= (1 << number_of[name]) & ~written
            for name in step.results:
                written |= 1 << number_of[name]
            for name in (*sources, *step.results):
                if name in number_of:
                    number = number_of[name]
                    first[number] = min(first[number], at)
                    last[number] = at
            at += 1
        bounds.append((begin, at - 1))
        reads.append(read)
        writes.append(written)
        follows.append([*_followers(steps, i, starts_at)])
    entering = [0] * len(blocks)
    changed = True
    while changed:
        changed = False
        for i in range(len(blocks) - 1, -1, -1):
            leaving = 0
            for j in follows[i]:
                leaving |= entering[j]
            now = reads[i] | leaving & ~writes[i]
            if now != entering[i]:
                entering[i], changed = now, True
    # Forwards, the first block that a register is live into; backwards, the last one.
    met = 0
    for i, (begin, _) in enumerate(bounds):
        for number in _bits(entering[i] & ~met):
            first[number] = min(first[number], begin)
        met |= entering[i]
    met = 0
    for i in range(len(blocks) - 1, -1, -1):
        leaving = 0
        for j in follows[i]:
            leaving |= entering[j]
        for number in _bits(leaving & ~met):
            last[number] = max(last[number], bounds[i][1])
        met |= leaving
    return [*zip(first, last, strict=True)], entering[0]


def _followers(steps: Sequence[_Step], i: int, starts_at: Mapping[str, int]) -> Iterator[int]:
    final = steps[-1]
    if final.target in starts_at:
        yield starts_at[final.target]
    ends = final.code in (codes()["bra", -1], codes()["ret", -1])
    if not ends or final.instruction.guard:
        yield i + 1


def _bits(of: int) -> Iterator[int]:
    while of:
        lowest = of & -of
        yield lowest.bit_length() - 1
        of ^= lowest
