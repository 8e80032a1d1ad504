"""``cusoftmax profile``: what a call moves and waits for, and why it is slower than a copy."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from cusoftmax.cli.arguments import axis_of, shape_of
from cusoftmax.machine import EMULATED_ARCH, Machine, UserError, first_line, machine
from cusoftmax.machine_code import sass
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.explain import with_noun
from cusoftmax.planning.plan import Plan
from cusoftmax.profiling import tools
from cusoftmax.profiling.emulated import SECTOR, Emulated, emulate
from cusoftmax.profiling.profile import RUNS, Times, Work, measure
from cusoftmax.profiling.read import Counters, summarise
from cusoftmax.profiling.words import limiter, occupancy, waits
from cusoftmax.runtime import backend, nvrtc

_SHORT = 20e-6  # seconds; in less, launching is a large part of the measured time
_SHOWN = 3  # most units, and most stall reasons, to print


@dataclass(frozen=True)
class Options:
    """Options that do not describe the call itself."""

    tool: str = "auto"
    emulator: bool = False
    arch: str | None = None
    kernel_only: bool = False


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Read the command line's arguments and print a profile; return the exit status."""
    if arguments.tool not in tools.TOOLS:
        raise UserError(f"there is no tool {arguments.tool!r}: give {', '.join(tools.TOOLS)}")
    work = Work(arguments.op, shape_of(arguments.shape), arguments.dtype, axis_of(arguments.axis))
    asked = Options(arguments.tool, arguments.emulator, arguments.arch, arguments.kernel_only)
    return profile(console, work, asked)


def profile(console: Console, work: Work, options: Options) -> int:
    """Print a profile; return 0, or 1 if a profiler was there and gave nothing."""
    present = backend.gpu_is_present()
    emulated = options.emulator or not present
    if options.arch is not None and not emulated:
        raise UserError("a GPU has one architecture: use --arch with --emulator")
    if not emulated:
        with machine("cuda") as on:
            return _on_gpu(console, work, options, on)
    if options.tool not in ("auto", "none"):
        raise UserError(f"there is no GPU for {options.tool} to profile: leave out --tool")
    arch = options.arch or EMULATED_ARCH
    plan = work.plan(DeviceSpec.known(arch))
    if not plan.launches:
        _lines(console, _of_plan(work, plan))
        return 0
    # What may fail comes before the first line.
    counted = emulate(work, arch) if options.emulator else None
    advice = [] if options.emulator else tools.advice(plan.device.arch, _cuda_major(), {})
    _lines(console, _of_plan(work, plan))
    if counted is not None:
        _lines(console, _of_emulated(counted))
        return 0
    _lines(console, _of_binaries(plan))
    _lines(console, _if_emulated(work, arch))
    _lines(console, [("", ""), ("no GPU", "nothing is measured. On a machine with one, install:")])
    _lines(console, [("", line) for line in advice])
    return 0


def _on_gpu(console: Console, work: Work, options: Options, on: Machine) -> int:
    plan, arch, cuda = work.plan(on.device), on.device.arch, _cuda_major()
    found = {name: tools.find_tool(name) for name in ("nvprof", "ncu", "nsys")}
    choice = tools.choose(options.tool, arch, cuda, found, options.kernel_only)
    times = (
        measure(work, on) if plan.launches else None
    )  # what may fail comes before the first line
    _lines(console, _of_plan(work, plan))
    if times is None:
        return 0
    _lines(console, _of_binaries(plan))
    _lines(console, _of_times(times))
    status = 0
    if choice.counters is not None:
        try:
            counters, command = tools.count(
                choice.counters, str(found[choice.counters]), arch, work.arguments
            )
        except tools.Refused as refused:
            _lines(
                console,
                [("counters", f"{choice.counters}: {refused}"), ("command", refused.command)],
            )
            status, choice = 1, tools.Choice(None, choice.timeline)
        else:
            _lines(console, of_counters(counters, plan, times))
            _lines(console, [("command", command)])
    if choice.timeline is not None:
        shown = _timeline(console, work, plan, choice.timeline, str(found[choice.timeline]))
        status = status if shown or options.tool == "auto" else 1
    if choice.counters is None:
        _lines(console, _if_emulated(work, f"sm_{arch}"))
        for line in (
            tools.advice(arch, cuda, found) if options.tool == "auto" and not status else ()
        ):
            _lines(console, [("to install", line)])
    return status


def _timeline(console: Console, work: Work, plan: Plan, tool: str, path: str) -> bool:
    try:
        spans, command = tools.trace(tool, path, work.arguments)
    except tools.Refused as refused:
        _lines(console, [("timeline", f"{tool}: {refused}"), ("command", refused.command)])
        return False
    shown = summarise(spans, len(plan.launches))
    if shown is not None:
        text = f"{shown.seconds * 1e6:,.1f} us of kernels a call, {shown.gap * 1e6:.1f} us between"
        idle = shown.gap > shown.seconds / 10
        _lines(console, [
            ("timeline", f"{text} kernels ({shown.kernels} kernels in {tools.CALLS} calls)"),
            ("", "the host is slower than the GPU here: calls are launch-bound" if idle else
             "the GPU does not wait for the host"),
            ("command", command),
        ])  # fmt: skip
    return True


# -------------------------------------------------------------------------------------------- lines


Lines = Iterator[tuple[str, str]]


def _lines(console: Console, lines: Lines | list[tuple[str, str]]) -> None:
    for label, text in lines:
        for part in text.split("\n"):
            console.print(
                f"{label:<12} {part}".rstrip(), markup=False, highlight=False, soft_wrap=True
            )
            label = ""


def _of_plan(work: Work, plan: Plan) -> Lines:
    shape = "x".join(str(n) for n in work.shape)
    yield (
        plan.op,
        f"{shape}, {work.dtype}, axis {work.axis}: {with_noun(plan.rows, 'row')} of {plan.n:,}",
    )
    yield "device", f"{plan.device.name} (sm_{plan.device.arch})"
    yield "pattern", f"{plan.pattern}: {plan.why}"
    for step in plan.launches:
        yield "kernel", f"{step.kernel.name}, grid {step.grid:,} x block {step.block}"
    yield "least", f"{plan.least_bytes:,} bytes: each input read once, the output written once"


def _of_times(times: Times) -> Lines:
    rates = [times.least_bytes / s / 1e9 for s in (times.seconds, times.copy_seconds)]
    turns = f", {times.sets} sets of arrays in turn" if times.sets > 1 else ""
    yield "time", f"{times.seconds * 1e6:,.1f} us, median of {RUNS} by CUDA events{turns}"
    yield (
        "bandwidth",
        f"{rates[0]:,.0f} GB/s of the least bytes; a copy of as many: "
        + (f"{rates[1]:,.0f} GB/s, {times.copy_seconds * 1e6:,.1f} us"),
    )
    yield "of copy", f"{100 * times.fraction_of_copy:.1f} %"
    if times.seconds < _SHORT:
        yield "", "too short to judge by: the launch is a good part of it; give more rows"


def of_counters(counters: list[Counters], plan: Plan, times: Times | None) -> Lines:
    """Yield what a profiler counted: traffic of the call, then each kernel."""
    dram = [c.dram_bytes for c in counters]
    moved = sum(d for d in dram if d is not None) if None not in dram else None
    over = moved / plan.least_bytes if moved is not None and plan.least_bytes else None
    if moved is not None and over is not None:
        yield "DRAM", f"{moved:,.0f} bytes, {over:.3f} x the least possible"
        left = plan.device.l2_bytes
        if over < 1:
            yield "", f"below 1: up to {left >> 20} MiB of writes are still in the L2 cache"
    fraction = times.fraction_of_copy if times else None
    for each in counters:
        yield "", ""
        yield "kernel", each.kernel
        yield from _of_kernel(each)
        yield "limiter", limiter(each, fraction, over)


def _of_kernel(of: Counters) -> Lines:
    if (seconds := of.get("seconds")) is not None:
        yield "duration", f"{seconds * 1e6:,.1f} us under the profiler, caches cold: not a timing"
    for name, counted in (("read", "dram_read"), ("written", "dram_written")):
        sectors = of.get(f"sectors_{name}")
        asked = f"; the kernel asked for {sectors * SECTOR:,.0f}" if sectors is not None else ""
        if (moved := of.get(counted)) is not None:
            yield name, f"{moved:,.0f} bytes of DRAM{asked}"
    if (text := occupancy(of)) is not None:
        yield "occupancy", text
    if (registers := of.get("registers")) is not None:
        yield "registers", f"{registers:.0f} a thread"
    if (conflicts := of.get("bank_conflicts")) is not None:
        yield "conflicts", f"{conflicts:,.0f} in shared memory's banks"
    for label, shares in (
        ("busy", of.group("busy")),
        ("waits", {reason: 100 * share for reason, share in waits(of).items()}),
    ):
        if shares:
            top = list(shares.items())[:_SHOWN]
            yield label, ", ".join(f"{name.replace('_', ' ')} {value:.0f} %" for name, value in top)


def _of_binaries(plan: Plan) -> Lines:
    """Yield the figures of the kernels' binaries."""
    missing = sass.missing()
    if missing is not None:
        yield "binary", missing
        return
    yield "compiler", f"NVRTC {nvrtc.version()}"
    kernels = tuple(dict.fromkeys(step.kernel for step in plan.launches))
    for kernel, read in zip(kernels, sass.inspect_all(kernels, plan.device.arch), strict=True):
        if isinstance(read, str):
            yield "binary", f"{kernel.name}: {read}"
            continue
        widths = [", ".join(f"{n} of {w} bytes" for w, n in of.items()) or "none"
                  for of in (read.loads, read.stores)]  # fmt: skip
        yield "binary", f"{kernel.name}: {read.registers} registers, {read.spills} spills"
        yield "", f"loads {widths[0]}; stores {widths[1]}"
        if read.per_element is not None:
            yield "", f"{read.per_element:.1f} instructions an element"


def _if_emulated(work: Work, arch: str) -> Lines:
    """Yield the emulator's counts, or why there are none; they were not asked for, so no error."""
    try:
        counted = emulate(work, arch)
    except Exception as error:  # no compiler, a row too long, an unknown architecture
        yield "emulated", f"nothing: {first_line(error)}"
    else:
        yield from _of_emulated(counted)


def _of_emulated(of: Emulated) -> Lines:
    ran, rows = of.ran.rows, of.plan.rows
    part = (
        f"{ran:,} of {rows:,} rows, which run alike"
        if ran != rows
        else f"all of {with_noun(rows, 'row')}"
    )
    yield "", ""
    yield "emulated", f"{part}; for each row:"
    for one in of.counted.kernels:
        moved = one.global_bytes_read + one.global_bytes_written
        sectors = one.sectors_read + one.sectors_written
        over = f", {sectors * SECTOR / moved:.2f} x those that the bytes fill" if moved else ""
        read, written, touched, conflicts, barriers, clusters, shuffles = (
            _per_row(count, ran)
            for count in (
                one.global_bytes_read, one.global_bytes_written, sectors, one.bank_conflicts,
                one.barriers, one.cluster_barriers, one.shuffles,
            )
        )  # fmt: skip
        yield "kernel", one.kernel
        yield "", f"{read} bytes read, {written} written, up to {one.widest_read} bytes at a time"
        yield "", f"{touched} sectors of {SECTOR} bytes{over}"
        yield "", f"{conflicts} bank conflicts, {shuffles} shuffles"
        yield "", f"barriers: {barriers} of a block, {clusters} of a cluster"
    over_least = of.moved / of.plan.least_bytes
    yield (
        "traffic",
        f"{of.moved:,.0f} bytes for {with_noun(rows, 'row')}, "
        f"{over_least:.3f} x the least possible",
    )
    yield "", "as the kernels ask for it, before any cache"


def _per_row(count: int, rows: int) -> str:
    each = count / rows
    return f"{each:,.0f}" if each == int(each) else f"{each:,.3g}"


def _cuda_major() -> int:
    try:
        import cupy

        return int(cupy.cuda.runtime.runtimeGetVersion()) // 1000
    except Exception as error:  # CuPy raises its own types for what it cannot load
        raise UserError(f"CuPy does not say its CUDA version: {first_line(error)}") from None
