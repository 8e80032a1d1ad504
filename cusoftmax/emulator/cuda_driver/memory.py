"""Device memory and pinned memory, both in the host's."""

from __future__ import annotations

import bisect
import ctypes
import dataclasses
from typing import Any

import numpy as np

from .errors import ILLEGAL_ADDRESS, INVALID_VALUE, OUT_OF_MEMORY, status_error

_ALIGNMENT = 512  # at least 256 on a GPU
_HOST, _DEVICE = "host", "device"
# Of cudaMemcpyKind: where the target is, and the source; 4 takes both from the pointers.
_KINDS = {0: (_HOST, _HOST), 1: (_DEVICE, _HOST), 2: (_HOST, _DEVICE), 3: (_DEVICE, _DEVICE)}


@dataclasses.dataclass(frozen=True)
class Allocation:
    """Memory that was asked for at once; `device` is None where it is pinned memory of the host."""

    base: int
    nbytes: int
    device: int | None
    room: np.ndarray[Any, Any]

    @property
    def end(self) -> int:
        """The address past the last byte."""
        return self.base + self.nbytes


class Memory:
    """All allocations, found by any address in them."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._by_base: dict[int, Allocation] = {}
        self._bases: list[int] = []

    def used(self, device: int) -> int:
        """Bytes allocated on a device."""
        return sum(a.nbytes for a in self._by_base.values() if a.device == device)

    def allocate(self, nbytes: int, device: int | None) -> int:
        """Return the address of new memory, its bytes 0xFF: NaN as any float."""
        if device is not None and self.used(device) + nbytes > self.total:
            raise status_error(OUT_OF_MEMORY, f"{nbytes} bytes on device {device}")
        room = np.full(nbytes + _ALIGNMENT, 0xFF, np.uint8)
        base = room.ctypes.data + -room.ctypes.data % _ALIGNMENT
        self._by_base[base] = Allocation(base, nbytes, device, room)
        bisect.insort(self._bases, base)
        return base

    def release(self, pointer: int) -> None:
        """Give memory back; a null pointer is none."""
        if not pointer:
            return
        if self._by_base.pop(pointer, None) is None:
            raise status_error(INVALID_VALUE, f"{pointer:#x} is no allocation, or is freed")
        del self._bases[bisect.bisect_left(self._bases, pointer)]

    def find(self, pointer: int) -> Allocation | None:
        """Return the allocation that has the byte at an address."""
        at = bisect.bisect_right(self._bases, pointer) - 1
        found = self._by_base[self._bases[at]] if at >= 0 else None
        return found if found and pointer < found.end else None

    def behind(self, pointer: int) -> Allocation | None:
        """Return the allocation of an address, which may be its end: that of an empty array."""
        return self.find(pointer) or self.find(pointer - 1)

    def within(self, pointer: int, nbytes: int) -> Allocation | None:
        """Return the allocation of a range of bytes, None for the host's own; refuse one beyond."""
        found = self.find(pointer)
        if found and pointer + nbytes > found.end:
            raise status_error(
                ILLEGAL_ADDRESS,
                f"{nbytes} bytes at {pointer:#x}, but the allocation ends at {found.end:#x}",
            )
        return found

    def check_copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        """Refuse a copy that leaves its allocations, or whose kind says another place."""
        if kind not in (*_KINDS, 4):
            raise status_error(INVALID_VALUE, f"kind {kind} of a copy")
        ends = [self.within(pointer, nbytes) for pointer in (target, source)]
        found = tuple(_DEVICE if a and a.device is not None else _HOST for a in ends)
        if nbytes and found != _KINDS.get(kind, found):
            said = " from ".join(_KINDS[kind])
            raise status_error(
                INVALID_VALUE, f"the kind is to {said}, the pointers are to {' from '.join(found)}"
            )

    def copy(self, target: int, source: int, nbytes: int, kind: int) -> None:
        """Copy now."""
        self.check_copy(target, source, nbytes, kind)
        ctypes.memmove(target, source, nbytes)

    def fill(self, pointer: int, value: int, nbytes: int) -> None:
        """Set bytes of device memory now."""
        if nbytes and not self.within(pointer, nbytes):
            raise status_error(INVALID_VALUE, f"{pointer:#x} is no memory of a device")
        ctypes.memset(pointer, value, nbytes)

    def is_pageable(self, pointer: int) -> bool:
        """Whether an address is the host's own memory, which copies wait for."""
        return self.find(pointer) is None
