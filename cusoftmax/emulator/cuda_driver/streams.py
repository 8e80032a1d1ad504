"""Streams, events, captures and graphs.

What is put on a stream waits there until somebody has to wait for it, as late as the rules of CUDA
allow: a result that is read too early is then still unwritten, as it can be on a GPU.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .errors import (
    CAPTURE_IMPLICIT,
    CAPTURE_UNSUPPORTED,
    INVALID_HANDLE,
    NOT_READY,
    DriverError,
    status_error,
)

T = TypeVar("T")


class Handles(Generic[T]):
    """Objects by the numbers that CuPy holds them by."""

    def __init__(self, what: str, first: int) -> None:
        self._what = what
        self._next = first
        self._objects: dict[int, T] = {}

    def add(self, made: T) -> int:
        """Return the handle of a new object."""
        self._next += 16
        self._objects[self._next] = made
        return self._next

    def __getitem__(self, handle: int) -> T:
        if handle not in self._objects:
            raise status_error(INVALID_HANDLE, f"{handle:#x} is no {self._what}")
        return self._objects[handle]

    def pop(self, handle: int) -> T:
        """Forget an object and return it."""
        found = self[handle]
        del self._objects[handle]
        return found

    def all(self) -> list[T]:
        """Return the objects in the order in which they were made."""
        return list(self._objects.values())


@dataclasses.dataclass(eq=False)
class Stream:
    """Work in order; `handle` is 0 for a device's default stream."""

    device: int
    handle: int = 0
    flags: int = 0
    priority: int = 0
    queue: deque[Work] = dataclasses.field(default_factory=deque)
    capture: list[Work] | None = None

    @property
    def is_blocking(self) -> bool:
        """Whether it and the default stream wait for each other."""
        return not self.flags & 1


Work = Callable[[Stream], None]  # with the stream on which it runs


class Point:
    """A point in a stream's order."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.time: float | None = None  # when it was reached
        self.capture = stream.capture

    def reach(self, _: Stream) -> None:
        """Note that what comes before is done."""
        self.time = time.perf_counter()


@dataclasses.dataclass(eq=False)
class Event:
    """An event; one that was never recorded is complete."""

    timing: bool
    point: Point | None = None


class Streams:
    """The streams of all devices, and the order in which their work is done."""

    def __init__(self, devices: int) -> None:
        self.default = [Stream(device) for device in range(devices)]
        self.made: Handles[Stream] = Handles("stream", 0x10000)
        self.events: Handles[Event] = Handles("event", 0x20000)
        self.graphs: Handles[list[Work]] = Handles("graph", 0x30000)
        self.running = 0
        self.failure: Exception | None = None  # of work for which nobody could be told

    def create(self, device: int, flags: int = 0, priority: int = 0) -> int:
        """Return the handle of a new stream."""
        stream = Stream(device, flags=flags, priority=priority)
        stream.handle = self.made.add(stream)
        return stream.handle

    def get(self, handle: int, device: int) -> Stream:
        """Return the stream of a handle; 0, 1 and 2 are the device's default stream."""
        return self.default[device] if handle in (0, 1, 2) else self.made[handle]

    def _of(self, device: int) -> list[Stream]:
        return [self.default[device], *(s for s in self.made.all() if s.device == device)]

    def put(self, stream: Stream, work: Work) -> None:
        """Put work on a stream, or into the graph that it captures."""
        if stream.capture is not None:
            stream.capture.append(work)
            return
        if stream.handle == 0:
            for other in self._of(stream.device)[1:]:
                if other.is_blocking and other.capture is not None:
                    raise status_error(
                        CAPTURE_IMPLICIT, "the default stream would wait for a stream in capture"
                    )
                if other.is_blocking:
                    self.run(other)
        elif stream.is_blocking:
            self.run(self.default[stream.device])
        stream.queue.append(work)

    def step(self, stream: Stream) -> None:
        """Do the first work of a stream; a failure discards all that is queued."""
        work = stream.queue.popleft()
        self.running += 1
        try:
            work(stream)
        except BaseException:
            for other in (*self.default, *self.made.all()):
                other.queue.clear()
            raise
        finally:
            self.running -= 1

    def run(self, stream: Stream, until: Point | None = None) -> None:
        """Do the work of a stream, all of it or up to a point."""
        while stream.queue and (until is None or until.time is None):
            self.step(stream)

    def synchronize(self, stream: Stream) -> None:
        """Wait for a stream."""
        if stream.capture is not None:
            raise status_error(CAPTURE_UNSUPPORTED, "a stream in capture cannot be waited for")
        self.run(stream)

    def synchronize_device(self, device: int) -> None:
        """Wait for all streams of a device."""
        for stream in self._of(device):
            self.run(stream)

    def query(self, stream: Stream) -> int:
        """Return the status of a stream; it goes on by one step, so that a loop of these ends."""
        if not stream.queue:
            return 0
        self.step(stream)
        return NOT_READY

    # ---- events

    def record(self, event: Event, stream: Stream) -> None:
        """Mark the point that a stream has come to."""
        event.point = Point(stream)
        self.put(stream, event.point.reach)

    def wait(self, stream: Stream, event: Event) -> None:
        """Let a stream wait for an event."""
        point = event.point
        if point is None or point.stream is stream:
            return
        if point.capture is not None or stream.capture is not None:
            raise DriverError("the emulated driver captures one stream, without waits for others")
        self.put(stream, lambda _: self.run(point.stream, until=point))

    def wait_here(self, event: Event) -> None:
        """Wait for an event on the host."""
        if event.point is not None:
            self._refuse_captured(event.point)
            self.run(event.point.stream, until=event.point)

    def query_event(self, event: Event) -> int:
        """Return the status of an event, as `query`."""
        if event.point is None or event.point.time is not None:
            return 0
        self._refuse_captured(event.point)
        return self.query(event.point.stream)

    @staticmethod
    def _refuse_captured(point: Point) -> None:
        if point.capture is not None:
            raise status_error(CAPTURE_UNSUPPORTED, "the event was recorded in a capture")

    # ---- graphs

    def begin_capture(self, stream: Stream) -> None:
        """Record from now on what is put on a stream."""
        if stream.capture is not None or stream.handle == 0:
            raise status_error(
                CAPTURE_UNSUPPORTED, "the default stream, or one that is in capture already"
            )
        stream.capture = []

    def end_capture(self, stream: Stream) -> int:
        """Return the handle of what was recorded."""
        if stream.capture is None:
            raise status_error(CAPTURE_UNSUPPORTED, "the stream is not in capture")
        captured, stream.capture = stream.capture, None
        return self.graphs.add(captured)
