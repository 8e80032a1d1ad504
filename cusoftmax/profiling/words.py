"""Explains a kernel's counters in words: why it is, or is not, as fast as a copy."""

from __future__ import annotations

from collections.abc import Iterator

from cusoftmax.profiling.read import Counters

AT_LIMIT = 80.0  # per cent: a unit this busy is the limiter
NEAR_COPY = 0.95  # of the copy's speed; above, there is nothing to explain
MORE_BYTES = 1.05  # times the least; above, traffic is part of the explanation
PARTLY_FILLED = 0.85  # mean fill of all waves; below, the last one leaves the GPU idle
_NO_WAIT = ("selected", "not_selected")  # issuing, and ready to issue

# Nsight Compute's stall reasons: what warps wait for.
STALLS = {
    "barrier": "the other warps at a barrier of the block",
    "branch_resolving": "branches",
    "dispatch_stall": "the dispatcher",
    "drain": "their last stores to drain",
    "imc_miss": "constants",
    "lg_throttle": "room in the queue of global memory instructions",
    "long_scoreboard": "global memory",
    "math_pipe_throttle": "a busy arithmetic pipe",
    "membar": "memory barriers",
    "mio_throttle": "room in the queue of shared memory, shuffles and special functions",
    "no_instruction": "the instruction cache",
    "not_selected": "their turn",
    "selected": "nothing",
    "short_scoreboard": "shared memory, shuffles or special functions",
    "sleeping": "nothing: they sleep",
    "tex_throttle": "room in the queue of texture instructions",
    "wait": "the fixed latency of the instruction before",
}
# What would help, for stall reasons that row reductions have.
_HELP = {
    "long_scoreboard": "more bytes in flight would help: more warps, or wider or earlier loads",
    "barrier": "more blocks on a multiprocessor would fill the pause",
    "short_scoreboard": "fewer shuffles and exchanges would help",
    "mio_throttle": "fewer shuffles and exchanges would help",
    "math_pipe_throttle": "fewer instructions an element would help",
    "wait": "more warps, or more independent work in each, would help",
    "no_instruction": "shorter code would help",
    "lg_throttle": "wider accesses would help",
}


def waits(counters: Counters) -> dict[str, float]:
    """Return the share of each stall reason among all waiting warps, largest first."""
    reasons = {k: v for k, v in counters.group("stall").items() if k not in _NO_WAIT}
    total = sum(reasons.values())
    return {reason: value / total for reason, value in reasons.items()} if total > 0 else {}


def limiter(
    counters: Counters, fraction_of_copy: float | None = None, over_least: float | None = None
) -> str:
    """Say in a sentence or two what limits a kernel.

    Parameters
    ----------
    counters : Counters
        Of the kernel.
    fraction_of_copy : float, optional
        Speed of the whole call over that of a copy of the least bytes.
    over_least : float, optional
        DRAM bytes of the whole call over the least possible.
    """
    return "; ".join(_reasons(counters, fraction_of_copy, over_least))


def _reasons(
    counters: Counters, fraction_of_copy: float | None, over_least: float | None
) -> Iterator[str]:
    busy = counters.group("busy")
    if fraction_of_copy is not None and fraction_of_copy >= NEAR_COPY:
        yield "DRAM: as fast as a copy, only fewer bytes would be faster"
        return
    moved = 1.0 if over_least is None else max(over_least, 1.0)
    if moved >= MORE_BYTES:
        yield f"it moves {moved:.2f} times the bytes that it must"
    # DRAM first: where it is at its limit, it is the cause, whatever else is busy. A copy shows
    # what that limit is; it lies below the peak.
    dram = busy.pop("DRAM", 0.0)
    slower = fraction_of_copy is not None and fraction_of_copy * moved < NEAR_COPY
    top = next((unit for unit in busy if busy[unit] >= AT_LIMIT), None)
    if dram >= AT_LIMIT and not slower:
        yield f"DRAM, at {dram:.0f} % of its peak: only fewer bytes would be faster"
    elif top == "issue":
        yield f"instruction issue, at {busy[top]:.0f} %: fewer instructions would help"
    elif top is not None:
        yield f"{top}, at {busy[top]:.0f} % of the peak"
    else:
        yield from _latency(counters)


def _latency(counters: Counters) -> Iterator[str]:
    """Yield reasons where no unit is at its limit: warps wait, or are too few."""
    waves = counters.get("waves")
    if waves is not None and waves < 1:
        yield f"too few blocks: {100 * waves:.0f} % of what the GPU holds at once"
    elif waves is not None and waves / -(-waves // 1) < PARTLY_FILLED:
        yield f"{waves:.1f} waves of blocks: the last one leaves part of the GPU idle"
    shares = waits(counters)
    if not shares:
        if waves is None:
            yield "unknown: the profiler gave neither throughputs nor stall reasons"
        return
    reason, share = next(iter(shares.items()))
    yield f"latency: {100 * share:.0f} % of waiting warps wait for {STALLS.get(reason, reason)}"
    if reason in _HELP:
        yield _HELP[reason]


def occupancy(counters: Counters) -> str | None:
    """Say how many warps were resident, how many could be, and what keeps out more."""
    achieved, most = counters.get("occupancy"), counters.get("most_occupancy")
    if achieved is None:
        return None
    text = f"{achieved:.0f} % of the warps that fit"
    if most is None:
        return text
    limits = counters.group("limit")
    least = min(limits.values(), default=0.0)
    by = " and ".join(sorted(name for name, blocks in limits.items() if blocks == least))
    blocks = f", {least:.0f} block{'s' if least != 1 else ''} on a multiprocessor" if limits else ""
    return f"{text}, {most:.0f} % possible{blocks}" + (f" (limited by {by})" if by else "")
