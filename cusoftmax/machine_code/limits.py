"""The resources of a chip that a kernel takes, and the time that each of them needs for it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from cusoftmax.machine_code.chips import (
    FILL,
    ISSUE,
    REGISTER_UNIT,
    REGISTERS,
    RESERVED_SHARED,
    Chip,
)
from cusoftmax.machine_code.flow import Walk
from cusoftmax.machine_code.opcodes import access_bytes, kind_of, latency, registers_of
from cusoftmax.planning.builder import ceil_div
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import WARP

# A limiter's key, and what it is called.
LIMITERS = {
    "memory": "memory bandwidth",
    "issue": "issue slots",
    "fma": "float32 units",
    "half": "half-precision units",
    "double": "float64 units",
    "alu": "integer, comparison and move units",
    "imad": "integer multiply units",
    "xu": "special functions and slow conversions",
    "lsu": "load, store and shuffle units",
    "latency": "latency: too little work resident to cover it",
}


@dataclass(frozen=True)
class Occupancy:
    """Blocks that a multiprocessor holds of one kernel, and what limits them."""

    blocks: int
    warps: int
    share: float  # of the warps that it could hold
    limit: str  # "registers", "shared memory", "warps" or "blocks"


def occupancy(
    chip: Chip, device: DeviceSpec, registers: int, threads: int, shared: int
) -> Occupancy:
    """Return how many blocks a multiprocessor holds."""
    warps = ceil_div(threads, WARP)
    of_warp = ceil_div(registers * WARP, REGISTER_UNIT) * REGISTER_UNIT
    # A warp's registers are in one of 4 banks: each holds a quarter of the registers.
    limits = {
        "warps": chip.warps // warps,
        "registers": ISSUE * (REGISTERS // ISSUE // of_warp) // warps if of_warp else chip.blocks,
        "shared memory": chip.blocks,
        "blocks": chip.blocks,
    }
    taken = shared + (RESERVED_SHARED if chip.arch >= 80 else 0)
    if taken:
        limits["shared memory"] = device.shared_per_sm // taken
    limit = min(limits, key=lambda key: limits[key])
    blocks = limits[limit]
    return Occupancy(blocks, blocks * warps, blocks * warps / chip.warps, limit)


def needed_in_flight(chip: Chip, device: DeviceSpec) -> float:
    """Bytes that must be moving for each multiprocessor: bandwidth × idle latency."""
    return chip.copy_bandwidth * chip.latency / chip.clock / device.sm_count


def in_flight(found: Walk) -> int:
    """Return the most bytes that a thread has loading at once, on its path.

    Instructions start in order: a load is in flight until an instruction needs its result, which
    also waits for the loads before it. Copies to shared memory fly until they are waited for.
    """
    waiting: list[tuple[frozenset[str], int]] = []
    copied = most = 0
    for instruction, weight in found.path:
        if not weight:
            continue
        written, read = registers_of(instruction)
        needs = set(read)
        last = max((i for i, (names, _) in enumerate(waiting) if needs & names), default=-1)
        waiting = waiting[last + 1 :]
        if instruction.stem == "LDG":
            waiting.append((frozenset(written), access_bytes(instruction.opcode)))
        elif instruction.stem == "LDGSTS":
            copied += access_bytes(instruction.opcode)
        elif instruction.stem == "DEPBAR":
            copied = 0
        most = max(most, copied + sum(size for _, size in waiting))
    return most


def spilled_bytes(found: Walk) -> float:
    """Return the bytes that a thread reads and writes of its own local memory."""
    return sum(
        weight * access_bytes(x.opcode) for x, weight in found.path if x.stem in ("LDL", "STL")
    )


def alone(found: Walk, memory: int) -> float:
    """Return the cycles of one warp with a multiprocessor to itself: in order, waiting as it must.

    `memory` is the latency of a load.
    """
    ready: dict[str, float] = {}
    now = total = copied = 0.0
    for instruction, weight in found.path:
        if not weight:
            continue
        written, read = registers_of(instruction)
        start = max([now, *(ready.get(name, 0.0) for name in read)])
        if instruction.stem == "DEPBAR":
            start = max(start, copied)
        takes = memory if instruction.stem == "LDG" else latency(instruction)
        if instruction.stem == "LDGSTS":
            copied = start + memory
        for name in written:
            ready[name] = start + takes
        total += (start + 1 - now) * weight
        now = start + 1
    return total


def limits(
    found: Walk,
    chip: Chip,
    device: DeviceSpec,
    held: Occupancy,
    grid: int,
    warps: int,
    moved: float,
) -> dict[str, float]:
    """Return the seconds that each resource of `LIMITERS` needs for a launch.

    What a multiprocessor does is counted for the one with most blocks. A block by itself takes as
    long as one warp needs alone; or, if that is more, as a warp waits for memory and the block's
    warps then need of the busiest unit; and its bytes on their way through the multiprocessor's
    port. Resident blocks overlap.
    """
    busiest = ceil_div(grid, device.sm_count)  # blocks
    cycles: defaultdict[str, float] = defaultdict(float)
    for instruction, weight in found.path:
        unit = kind_of(instruction).unit
        cycles["issue"] += weight / ISSUE
        if unit == "lsu":
            words = 1.0 if instruction.stem == "SHFL" else access_bytes(instruction.opcode) / 4
            cycles[unit] += weight * max(1.0, words) * WARP / chip.rates[unit]
        elif unit:
            cycles[unit] += weight * WARP / chip.rates[unit]
            if unit == "imad":  # by the float32 units
                cycles["fma"] += weight * WARP / chip.rates["fma"]
    times = {unit: used * warps * busiest / chip.clock for unit, used in cycles.items()}
    times["memory"] = moved / chip.copy_bandwidth
    working = max(cycles.values(), default=0.0) * warps
    lone = alone(found, chip.latency)
    waits = lone - alone(found, 0)  # of a warp, for memory
    lone = max(lone, waits + working) + moved / grid / FILL
    # Blocks start as others end, so a launch is no whole number of rounds.
    times["latency"] = lone * max(1.0, busiest / max(1, held.blocks)) / chip.clock
    return {key: times[key] for key in LIMITERS if key in times}
