"""Predicts the time of a plan on a GPU from its machine code; no GPU is needed.

For each launch, the instructions on a warp's path (`flow`, `loop_counts`, `entered`) and the
resources that the compiler reports give the time that each resource of the chip needs: memory,
issue slots, arithmetic units, and the latency that too few resident blocks cannot hide. The longest
is the predicted time, and its resource the predicted limiter. docs/cost.md says what the model
leaves out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cusoftmax.machine_code import sass
from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.entered import blocks_entered
from cusoftmax.machine_code.executed import ExecutedLine, totals_of
from cusoftmax.machine_code.flow import BlocksEntered, LoopCounts, walk
from cusoftmax.machine_code.limits import (
    LIMITERS,
    Occupancy,
    in_flight,
    limits,
    needed_in_flight,
    occupancy,
    spilled_bytes,
)
from cusoftmax.machine_code.loop_counts import loop_counts_of
from cusoftmax.machine_code.opcodes import CLASSES, INSTRUCTION_BYTES, Instruction, kind_of
from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.table import KERNELS
from cusoftmax.planning.builder import ceil_div
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import WARP, Kernel, Launch, Plan


@dataclass(frozen=True)
class KernelCost:
    """The predicted cost of one launch.

    Attributes
    ----------
    name : str
        Name of the kernel.
    registers : int
        Registers of a thread.
    spills : int
        Instructions that access local memory.
    shared_bytes : int
        Shared memory of a block.
    threads, grid : int
        Threads of a block, and blocks.
    occupancy : Occupancy
        Resident blocks.
    per_element : dict of str to float
        Instructions an element, by class; an instruction of a warp counts 32 times.
    in_flight_thread, in_flight : int
        Most bytes that a thread, and the resident threads of a multiprocessor, load at once.
    memory_bytes : float
        Bytes read from and written to memory.
    level2_bytes : float
        Bytes of the sectors that the level 2 cache serves: 32 for each that an instruction of a
        warp touches.
    times : dict of str to float
        Seconds that each resource of `LIMITERS` needs.
    unknown_loops : int
        Loops of unknown length, which count as one round.
    executed : bool
        Whether `per_element` adds up to the PTX that was executed on a few rows, as where elements
        are selected or segments searched; the classes then share it as they share the longest path.
        Machine code takes 0.7 to 1.0 times as many instructions. Otherwise the path is counted.
    """

    name: str
    registers: int
    spills: int
    shared_bytes: int
    threads: int
    grid: int
    occupancy: Occupancy
    per_element: dict[str, float]
    in_flight_thread: int
    in_flight: int
    memory_bytes: float
    level2_bytes: float
    times: dict[str, float]
    unknown_loops: int
    executed: bool

    @property
    def instructions(self) -> float:
        """Instructions an element, of all classes."""
        return sum(self.per_element.values())

    @property
    def limiter(self) -> str:
        """Key in `LIMITERS` of the resource that takes longest."""
        return max(self.times, key=lambda key: self.times[key])

    @property
    def seconds(self) -> float:
        """Predicted time."""
        return max(self.times.values())


@dataclass(frozen=True)
class Cost:
    """The predicted cost of a plan on a chip."""

    plan: Plan
    chip: Chip
    launches: tuple[KernelCost, ...]

    @property
    def seconds(self) -> float:
        """Predicted time of all launches together."""
        return sum(launch.seconds for launch in self.launches)

    @property
    def copy_seconds(self) -> float:
        """Time of a kernel that copies, and moves the fewest bytes the problem needs."""
        return self.chip.copy_seconds(self.plan.least_bytes)

    @property
    def fraction_of_copy(self) -> float:
        """Predicted speed divided by the speed of that copy."""
        return self.copy_seconds / self.seconds if self.launches else 1.0

    @property
    def fraction_of_bandwidth(self) -> float:
        """The fewest bytes over the predicted time, as a part of a large copy's bandwidth."""
        share = self.plan.least_bytes / self.chip.copy_bandwidth / self.copy_seconds
        return self.fraction_of_copy * share

    @property
    def copy_is_short(self) -> bool:
        """Whether the copy's time is its wait for memory, so that both fractions differ by 1 %."""
        return self.fraction_of_bandwidth < 0.99 * self.fraction_of_copy

    @property
    def slowest(self) -> KernelCost:
        """The launch that takes longest."""
        return max(self.launches, key=lambda launch: launch.seconds)

    @property
    def limiter(self) -> str:
        """The predicted limiter of the slowest launch, in words."""
        return LIMITERS[self.slowest.limiter] if self.launches else "nothing is launched"

    @property
    def instructions(self) -> float:
        """Instructions an element, of all launches together."""
        return sum(launch.instructions for launch in self.launches)

    @property
    def needed_in_flight(self) -> float:
        """Bytes that must be loading in each multiprocessor: bandwidth × latency (Little's law)."""
        return needed_in_flight(self.chip, self.plan.device)


def cost(
    plan: Plan,
    chip: Chip | None = None,
    level2_bytes: Sequence[float] | None = None,
    executed: Sequence[Sequence[ExecutedLine]] = (),
    conflicts: Sequence[float] | None = None,
) -> Cost:
    """Predict the cost of a plan.

    Parameters
    ----------
    plan : Plan
        What `cusoftmax.explain` returns.
    chip : Chip, optional
        By default the plan's device, or the representative chip of its architecture.
    level2_bytes : sequence of float, optional
        Bytes of the sectors that each launch touches, as `profiling.sectors.level2_bytes` counts
        them. By default every sector counts as used whole.
    executed : sequence of sequences of ExecutedLine
        Of each launch, how often its PTX was executed on a few ordinary rows, as
        `profiling.sectors.executed_lines` returns it: each part of the code then counts as often
        as those rows enter it, and kernels whose loops depend on the data have as many instructions
        as they executed. Without it the longest way through the code counts, and such loops are
        taken to be short.
    conflicts : sequence of float, optional
        How many turns more shared memory takes to serve each launch, because of conflicts of its
        banks, as `profiling.sectors.bank_conflicts` counts them. By default none.

    Raises
    ------
    ToolError
        If NVRTC, cuobjdump or nvdisasm is absent, or a kernel does not compile.
    """
    chip = chip or Chip.of(plan.device)
    return Cost(
        plan, chip, _launches(plan, chip, compiled(plan), level2_bytes, executed, conflicts)
    )


@dataclass(frozen=True)
class Code:
    """A kernel's machine code, its first address in the listing, and the resources it takes."""

    instructions: tuple[Instruction, ...]
    base: int
    registers: int
    shared: int  # static
    stack: int  # bytes of local memory, of a thread


def read_code(binaries: Sequence[bytes], arch: int) -> list[Code]:
    """Disassemble cubins of one kernel each; one call for many is faster."""
    texts = [sass.code_bytes(binary) for binary in binaries]
    result, base = [], 0
    for binary, text, listed in zip(binaries, texts, sass.disassemble(texts, arch), strict=True):
        if len(listed) * INSTRUCTION_BYTES != len(text):
            raise sass.ToolError("nvdisasm wrote lines that this version does not understand")
        used = sass.resource_usage(binary, arch)
        stack = max(used["STACK"], used["LOCAL"])
        result.append(Code(tuple(listed), base, used["REG"], used["SHARED"], stack))
        base += len(text)
    return result


def compiled(plan: Plan) -> list[Code]:
    """Compile and read a plan's kernels, in the order of the launches."""
    return codes([launch.kernel for launch in plan.launches], plan.device.arch)


_CODES: dict[tuple[Kernel, int], Code] = {}


def codes(kernels: Iterable[Kernel], arch: int) -> list[Code]:
    """Compile and read kernels: many together are faster."""
    every = list(kernels)
    new = [kernel for kernel in dict.fromkeys(every) if (kernel, arch) not in _CODES]
    binaries = []
    for kernel in new:
        binary = sass.compile_or_error(kernel, arch)
        if isinstance(binary, str):
            raise sass.ToolError(f"{kernel.name}: {binary}")
        binaries.append(binary)
    _CODES.update(zip(((kernel, arch) for kernel in new), read_code(binaries, arch), strict=True))
    return [_CODES[kernel, arch] for kernel in every]


def depends_on_data(launch: Launch, lines: Sequence[ExecutedLine]) -> bool:
    """Whether the data say how often loops run: elements are selected, segments found.

    The best of short rows are sorted without such loops: no loop then ran a broken number of times.
    """
    kernel, warps = launch.kernel, lines[0].warps
    if kernel["CSM_PATTERN"] == "topk_group":
        return any(line.warps > warps and line.warps % warps for line in lines)
    return int(kernel["CSM_SLOTS"]) > 0 or kernel["CSM_PATTERN"] == "segment"


def _launches(
    plan: Plan,
    chip: Chip,
    codes: Sequence[Code],
    level2_bytes: Sequence[float] | None,
    executed: Sequence[Sequence[ExecutedLine]],
    conflicts: Sequence[float] | None,
) -> tuple[KernelCost, ...]:
    def entered(number: int) -> BlocksEntered | None:
        return partial(blocks_entered, lines=executed[number]) if executed else None

    def totals(number: int, launch: Launch) -> Mapping[str, float] | None:
        if executed and depends_on_data(launch, executed[number]):
            return totals_of(executed[number])
        return None

    touched = level2_bytes or (0.0,) * len(codes)
    return tuple(
        kernel_cost(
            launch.kernel.name,
            code,
            loop_counts_of(plan, launch),
            chip,
            plan.device,
            grid=launch.grid,
            threads=launch.block,
            shared_bytes=launch.shared_bytes,
            elements=plan.rows * plan.n,
            memory_bytes=partial(memory_bytes, plan, launch),
            level2_bytes=sectors,
            conflicts=conflicts[number] if conflicts else 0.0,
            entered=entered(number),
            totals=totals(number, launch),
        )
        for number, (launch, code, sectors) in enumerate(
            zip(plan.launches, codes, touched, strict=True)
        )
    )


def kernel_cost(
    name: str,
    code: Code,
    loop_counts: LoopCounts,
    chip: Chip,
    device: DeviceSpec,
    *,
    grid: int,
    threads: int,
    shared_bytes: int,
    elements: int,
    memory_bytes: Callable[[int], float],
    level2_bytes: float = 0.0,
    conflicts: float = 0.0,
    entered: BlocksEntered | None = None,
    totals: Mapping[str, float] | None = None,
) -> KernelCost:
    """Predict the cost of one launch of any kernel.

    Parameters
    ----------
    name, code, loop_counts, chip, device
        The kernel's name and machine code, the rounds of its loops, and where it runs.
    grid, threads, shared_bytes : int
        Blocks, threads of a block, dynamic shared memory of a block.
    elements : int
        Elements of the problem, to divide the instructions by.
    memory_bytes : callable
        Returns the bytes that the launch moves, given how many blocks the whole chip holds at once.
    level2_bytes : float
        Bytes of the sectors that it touches, if more than what it moves.
    conflicts : float
        Turns of shared memory that conflicts of its banks take.
    entered : callable, optional
        Returns how often a warp enters the blocks of its code, as `flow.walk` takes it.
    totals : mapping of str to float, optional
        How many instructions a warp executes, as `flow.Walk.with_totals` takes it, if that is known
        otherwise than from the loops.
    """
    found = walk(code.instructions, loop_counts, code.base, entered)
    if totals is not None:
        found = found.with_totals(totals)
    shared = shared_bytes + code.shared
    resident = occupancy(chip, device, code.registers, threads, shared)
    on_chip = min(grid, max(1, resident.blocks) * device.sm_count)  # blocks
    moved = memory_bytes(on_chip)
    if code.stack:  # spills that half of the level 2 cache cannot hold
        share = device.l2_bytes / 2 / (code.stack * threads * on_chip)
        moved += spilled_bytes(found) * threads * grid * max(0.0, 1 - share)
    through_level2 = max(level2_bytes, moved)
    warps = ceil_div(threads, WARP)
    classes: defaultdict[str, float] = defaultdict(float)
    for instruction, weight in found.executed:
        classes[kind_of(instruction).name] += weight
    scale = grid * warps * WARP / elements
    loading = in_flight(found, shared_bytes // threads)
    return KernelCost(
        name,
        code.registers,
        sum(x.stem in ("LDL", "STL") for x in code.instructions),
        shared,
        threads,
        grid,
        resident,
        {name: classes[name] * scale for name in CLASSES if classes[name]},
        loading,
        loading * threads * min(resident.blocks, ceil_div(grid, device.sm_count)),
        moved,
        through_level2,
        limits(found, chip, device, resident, grid, warps, moved, through_level2, conflicts),
        found.unknown,
        totals is not None,
    )


def _read_again(plan: Plan, launch: Launch) -> tuple[float, float]:
    """Return the part of a row that a block reads again, and what it reads between.

    Of that only what takes room in the level 2 cache.
    """
    kernel = launch.kernel
    parks = kernel["CSM_PARKS"] != "0"
    if plan.pattern == "stream" and not parks:
        return 1.0, 0.0
    columns = plan.pattern == "column"  # whose threads hold the last round, and park rounds
    of_round = plan.chunk * (launch.block // (int(kernel["CSM_LANES"]) if columns else WARP))
    if columns:
        before = (ceil_div(plan.n, of_round) - 1) * of_round
        return (before - of_round * plan.passes * parks) / plan.n, 1 - before / plan.n
    widths = [ITEMSIZE[o.dtype] * plan.vector for o in plan.problem.operands]
    hinted = kernel["CSM_UNCACHED"] != "0" and min(widths) >= 4
    again = (plan.n - of_round - plan.passes * plan.chunk) / plan.n
    return again, 0.0 if hinted else of_round / plan.n


def memory_bytes(plan: Plan, launch: Launch, resident: int) -> float:
    """Return the bytes that a launch reads from and writes to memory.

    Data read twice comes from the level 2 cache the second time, if half of the cache holds all
    that was read in between: the rows of all resident blocks (stream), or the whole input (a later
    launch). Segments are taken to be shorter than a tile: the launch for longer ones finds none.
    """
    count = len(KERNELS[plan.op].read)
    read, output = sum(plan.operand_bytes[:count]), sum(plan.operand_bytes[count:])
    cache = plan.device.l2_bytes / 2
    stage = int(launch.kernel["CSM_STAGE"])
    if plan.pattern == "segment":  # offsets are read once, and leave 16 bits for each segment
        offsets, places = plan.operand_bytes[count - 1], 2 * plan.problem.segments
        return (offsets + places, read - offsets + places + output, 0)[stage]
    if plan.pattern == "topk_split":
        return plan.workspace_bytes + (output if stage else read)
    if plan.pattern == "stream" or (plan.pattern == "column" and stage == 5):
        of_block = plan.rows / launch.grid if stage else 1
        again, after = _read_again(plan, launch) if plan.reads > 1 else (0.0, 0.0)
        held = cache / (resident * of_block * read / plan.rows)  # of a row
        return read * (1 + max(0.0, again - max(0.0, held - after))) + output
    again = read if read > cache and plan.reads > 1 else 0
    if plan.pattern == "split":
        return read if stage == 0 else again + output
    if plan.pattern == "column" and stage:
        if stage == 2:
            return plan.workspace_bytes
        if stage > 2:  # from its end
            again = max(0, read - plan.device.l2_bytes // 2)
        return read if stage == 1 else again + output
    return read + output
