"""Times of contenders side by side: one sample of each per round, in random order."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from benchmarks.measuring.devices import Call, Device
from cusoftmax.machine import first_line

WARM_UP_ROUNDS = 3
FIRST_LEAD, LONGEST_LEAD = 50e-6, 20e-3  # seconds that the GPU waits while the host enqueues


@dataclass
class Contender:
    """One implementation of a problem, as calls on different memory.

    Attributes
    ----------
    name : hashable
    calls : sequence of callable
        One for each set of inputs. Every sample, of whichever contender, uses the next set.
    seconds : list of float
        The samples.
    failed : str or None
        Why it was not timed any further.
    lead : float
        Seconds that the GPU waits before a sample, so that the host can enqueue all of the call.
    """

    name: Any
    calls: Sequence[Call]
    seconds: list[float] = field(default_factory=list)
    failed: str | None = None
    lead: float = FIRST_LEAD

    def call(self, turn: int) -> Call:
        return self.calls[turn % len(self.calls)]


@dataclass(frozen=True)
class Effort:
    """How much to measure: `runs` rounds, or as many as fit in `seconds`, but at least 3."""

    runs: int
    seconds: float
    batch: int = 200  # calls per sample where the host's clock is used
    warm: float = 0.05  # least seconds of untimed rounds: an idle GPU lowers its clocks


def on_device(device: Device, contenders: Sequence[Contender], effort: Effort, evict: bool) -> None:
    """Time each call on the device, without the time that the host needs to enqueue it."""

    turns = count()

    def take(contender: Contender) -> float:
        for _ in range(8):
            seconds, enqueued = device.time_call(contender.call(next(turns)), contender.lead, evict)
            if enqueued <= contender.lead or contender.lead >= LONGEST_LEAD:
                break
            # The GPU may have been idle while the host still enqueued: repeat with a longer wait.
            contender.lead = min(2 * enqueued, LONGEST_LEAD)
        return seconds

    _take_turns(contenders, take, effort)


def on_host(device: Device, contenders: Sequence[Contender], effort: Effort) -> None:
    """Time whole calls by the host's clock: until they return, not until the device finishes."""

    def take(contender: Contender) -> float:
        device.synchronize()
        calls = [contender.call(turn) for turn in range(effort.batch)]
        begun = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - begun) / effort.batch

    _take_turns(contenders, take, effort)
    device.synchronize()


def _take_turns(
    contenders: Sequence[Contender], take: Callable[[Contender], float], effort: Effort
) -> None:
    order = random.Random(0)
    begun = time.perf_counter()
    number = -WARM_UP_ROUNDS
    with _no_garbage_collection():
        while number < effort.runs:
            spent = time.perf_counter() - begun
            if number > 2 and spent > effort.seconds:
                break
            going = [c for c in contenders if c.failed is None]
            order.shuffle(going)
            for contender in going:
                try:
                    seconds = take(contender)
                except Exception as error:
                    contender.failed = first_line(error)
                    continue
                if number >= 0:
                    contender.seconds.append(seconds)
            if number != -1 or spent >= effort.warm or not going:
                number += 1


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
