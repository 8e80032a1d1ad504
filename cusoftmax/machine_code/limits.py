"""The time that a kernel needs of each resource of a chip, and how many blocks fit at once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from cusoftmax.machine_code.chips import (
    FILL,
    ISSUE,
    REGISTER_UNIT,
    REGISTERS,
    Chip,
)
from cusoftmax.machine_code.flow import Walk
from cusoftmax.machine_code.opcodes import access_bytes, kind_of, latency, registers_of
from cusoftmax.planning.builder import ceil_div
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import WARP

# Keys of the resources, and their names in reports.
LIMITERS = {
    "memory": "memory bandwidth",
    "level2": "level 2 cache bandwidth",
    "issue": "issue slots",
    "fma": "float32 units",
    "half": "half-precision units",
    "double": "float64 units",
    "alu": "integer, comparison and move units",
    "imad": "integer multiply units",
    "xu": "special functions and slow conversions",
    "lsu": "load, store and shuffle units",
    "latency": "latency: too little work resident to cover it",
    "phases": "resident blocks: too few for one to load while another computes",
}

_BARRIERS = ("BAR", "UCGABAR_WAIT")
_BULK_READ = "UBLKCP.S"  # to shared memory


@dataclass(frozen=True)
class Occupancy:
    """How many blocks of a kernel a multiprocessor holds, and which resource limits them."""

    blocks: int
    warps: int
    share: float  # of the warps that a multiprocessor can hold
    limit: str  # "registers", "shared memory", "warps" or "blocks"


def occupancy(
    chip: Chip, device: DeviceSpec, registers: int, threads: int, shared: int
) -> Occupancy:
    """Return how many blocks a multiprocessor holds."""
    warps = ceil_div(threads, WARP)
    of_warp = ceil_div(registers * WARP, REGISTER_UNIT) * REGISTER_UNIT
    # All registers of a warp lie in one of 4 banks, each a quarter of the register file.
    limits = {
        "warps": chip.warps // warps,
        "registers": ISSUE * (REGISTERS // ISSUE // of_warp) // warps if of_warp else chip.blocks,
        "shared memory": chip.blocks,
        "blocks": chip.blocks,
    }
    taken = shared + device.reserved_shared
    if taken:
        limits["shared memory"] = device.shared_per_sm // taken
    limit = min(limits, key=lambda key: limits[key])
    blocks = limits[limit]
    return Occupancy(blocks, blocks * warps, blocks * warps / chip.warps, limit)


def needed_in_flight(chip: Chip, device: DeviceSpec) -> float:
    """Bytes that each multiprocessor must have in flight: bandwidth × idle latency."""
    return chip.copy_bandwidth * chip.latency / chip.clock / device.sm_count


def in_flight(found: Walk, bulk: int = 0) -> int:
    """Return the most bytes that a thread loads at once on its path.

    Instructions start in order: a load is in flight until an instruction needs its result, and that
    instruction waits for earlier loads too. Copies to shared memory are in flight until a barrier
    waits for them. `bulk` is a thread's share of what bulk copies load.
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
        elif instruction.opcode.startswith(_BULK_READ):
            copied = bulk
        elif instruction.stem in ("DEPBAR", "BAR"):
            copied = 0
        most = max(most, copied + sum(size for _, size in waiting))
    return most


def spilled_bytes(found: Walk) -> float:
    """Return the bytes that a thread reads from and writes to local memory."""
    return sum(
        weight * access_bytes(x.opcode) for x, weight in found.executed if x.stem in ("LDL", "STL")
    )


def lone_warp_cycles(found: Walk, memory: int) -> float:
    """Return the cycles that a warp takes alone on a multiprocessor, its stalls included.

    `memory` is the latency of a load from global memory.
    """
    ready: dict[str, float] = {}
    now = total = copied = 0.0
    for instruction, weight in found.path:
        if not weight:
            continue
        written, read = registers_of(instruction)
        start = max([now, *(ready.get(name, 0.0) for name in read)])
        if instruction.stem in ("DEPBAR", "BAR"):  # the thread that waits for a bulk copy is there
            start = max(start, copied)
        takes = memory if instruction.stem == "LDG" else latency(instruction)
        if instruction.stem == "LDGSTS" or instruction.opcode.startswith(_BULK_READ):
            copied = start + memory
        for name in written:  # both ways of a branch may be here, of which one loads it
            ready[name] = max(ready.get(name, 0.0), start + takes)
        total += (start + 1 - now) * weight
        now = start + 1
    return total


def phases_follow(found: Walk) -> bool:
    """Return whether a block loads nothing between its last barrier and its stores.

    Then all of its warps load, then compute, then store, and memory waits while they compute. Where
    a warp loads after the barrier (the next row, or the same again), the phases of warps overlap.
    """
    stems = [instruction.stem for instruction, weight in found.path if weight]
    stored = [i for i, stem in enumerate(stems) if stem == "STG"]
    if not stored:
        return False
    barriers = [i for i, stem in enumerate(stems[: stored[0]]) if stem in _BARRIERS]
    loads = [i for i, stem in enumerate(stems[: stored[-1]]) if stem in ("LDG", "LDGSTS")]
    return bool(barriers and loads) and loads[0] < barriers[-1] and loads[-1] < barriers[-1]


def limits(
    found: Walk,
    chip: Chip,
    device: DeviceSpec,
    resident: Occupancy,
    grid: int,
    warps: int,
    moved: float,
    through_level2: float,
    conflicts: float = 0.0,
) -> dict[str, float]:
    """Return the seconds that each resource of `LIMITERS` needs for a launch.

    `moved` and `through_level2` are the bytes that memory and the level 2 cache serve; `conflicts`
    are the turns of shared memory that conflicts of its banks take, of a cycle each.

    The multiprocessor with the most blocks counts. A block alone takes as long as one of its warps
    alone, or, if that is longer, as a warp waits for memory plus the time that the block's warps
    take of the busiest unit. Resident blocks overlap; to the latency, the time of the bytes through
    the multiprocessor's port is added.

    Where the phases of a block follow each other, memory serves a block that is alone only while
    that loads or stores: with R blocks resident it takes no less than one Rth of memory's time and
    the block's own together.
    """
    busiest = ceil_div(grid, device.sm_count)  # blocks
    cycles: defaultdict[str, float] = defaultdict(float)
    for instruction, weight in found.executed:
        unit = kind_of(instruction).unit
        cycles["issue"] += weight / ISSUE
        if unit == "lsu":
            words = 1.0 if instruction.stem == "SHFL" else access_bytes(instruction.opcode) / 4
            cycles[unit] += weight * max(1.0, words) * WARP / chip.rates[unit]
        elif unit:
            cycles[unit] += weight * WARP / chip.rates[unit]
            if unit == "imad":  # the float32 units execute it
                cycles["fma"] += weight * WARP / chip.rates["fma"]
    if conflicts:
        cycles["lsu"] += conflicts / grid / warps
    times = {unit: used * warps * busiest / chip.clock for unit, used in cycles.items()}
    times["memory"] = moved / chip.copy_bandwidth
    times["level2"] = through_level2 / chip.l2_bandwidth
    working = max(cycles.values(), default=0.0) * warps
    computing = lone_warp_cycles(found, 0)
    waits = (lone_warp_cycles(found, int(chip.latency)) - computing) * found.waits  # for memory
    if found.waits != 1.0 and any(x.stem == "LDG" for x, weight in found.path if weight):
        waits = max(waits, chip.latency)  # an average: warps that load wait whole
    lone = waits + max(computing, working)
    overlapping = max(1, min(resident.blocks, busiest))
    # A block starts as soon as another ends, so blocks do not run in whole rounds.
    one_by_one = busiest * lone / chip.clock
    port = busiest * moved / grid / FILL / chip.clock
    times["latency"] = (one_by_one + port) / overlapping
    if phases_follow(found):
        served = max(times["memory"], times["level2"])
        times["phases"] = (served + one_by_one) / overlapping
    return {key: times[key] for key in LIMITERS if key in times}
