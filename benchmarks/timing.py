"""Times of contenders side by side: one sample of each in turn, in another order every round."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from cusoftmax._cli_machine import first_line

from benchmarks.devices import Call, Device
from benchmarks.results import Times

WARM_UP = 3
FIRST_LEAD, LONGEST_LEAD = 50e-6, 20e-3  # seconds that the GPU waits for the host


@dataclass
class Contender:
    """Who computes a problem, by calls that do the same on different memory.

    Attributes
    ----------
    name : hashable
    calls : sequence of callable
        One for each set of inputs. From sample to sample, whoever it is of, the next set is used.
    seconds : list of float
        The samples.
    failed : str or None
        Why there are no more of them.
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
    """How much to measure: rounds, unless they take longer than `seconds`; never fewer than 3."""

    runs: int
    seconds: float
    batch: int = 200  # calls of one sample by the host's clock
    warm: float = 0.05  # seconds of untimed rounds at least: an idle GPU lowers its clocks


def on_device(device: Device, contenders: Sequence[Contender], effort: Effort, evict: bool) -> None:
    """Time each call on the device: what a stream is busy for, free of the host's part."""

    turns = count()

    def take(contender: Contender) -> float:
        for _ in range(8):
            seconds, enqueued = device.sample(contender.call(next(turns)), contender.lead, evict)
            if enqueued <= contender.lead or contender.lead >= LONGEST_LEAD:
                break
            # The GPU may have stood idle while the host was still at it: wait longer, again.
            contender.lead = min(2 * enqueued, LONGEST_LEAD)
        return seconds

    _rounds(contenders, take, effort)


def on_host(device: Device, contenders: Sequence[Contender], effort: Effort) -> None:
    """Time whole calls by the host's clock: until they return, not until the device is done."""

    def take(contender: Contender) -> float:
        device.synchronize()
        calls = [contender.call(turn) for turn in range(effort.batch)]
        begun = time.perf_counter()
        for call in calls:
            call()
        return (time.perf_counter() - begun) / effort.batch

    _rounds(contenders, take, effort)
    device.synchronize()


def _rounds(
    contenders: Sequence[Contender], take: Callable[[Contender], float], effort: Effort
) -> None:
    order = random.Random(0)
    begun = time.perf_counter()
    number = -WARM_UP
    with _no_collector():
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
def _no_collector() -> Iterator[None]:
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def quantiles(seconds: Sequence[float]) -> Times:
    """Return median and quantiles."""
    q10, q25, median, q75, q90 = np.quantile(seconds, (0.1, 0.25, 0.5, 0.75, 0.9)).tolist()
    return Times(median, q10, q25, q75, q90, float(min(seconds)), len(seconds))
