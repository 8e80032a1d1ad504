"""Every access to memory of kernels on the emulator: who reads, writes or copies what."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from cusoftmax.emulator import _build, _run

SOURCE = pathlib.Path(__file__).with_name("accesses.cpp")
KINDS = ("global read", "global write", "shared read", "shared write", "copy")
NOTE = np.dtype(
    [("address", "u8"), ("offset", "i8"), ("block", "i8")]
    + [(name, "i4") for name in ("thread", "bytes", "kind", "unused")]
)  # as in accesses.cpp
Notes = np.ndarray[Any, np.dtype[Any]]


@dataclass
class Noted:
    """Of each launch the accesses in the order in which the emulator made them."""

    launches: list[Notes] = field(default_factory=list)


@functools.cache
def _library() -> ctypes.CDLL:
    built = ctypes.CDLL(str(_build.build(SOURCE, _build.bare(), (_build.HERE,), "-O2")))
    built.note_next.argtypes = (ctypes.c_void_p,)
    built.note_count.restype = ctypes.c_int64
    built.note_first.restype = ctypes.c_void_p
    return built


@contextlib.contextmanager
def noted() -> Iterator[Noted]:
    """Note the accesses of all launches of kernels built from their source within the block."""
    found, library = Noted(), _library()
    set_library, launch = _run.set_library, _run.HostKernel._launch

    def through(call: Any, kernel: ctypes.CDLL) -> None:
        set_library(call, kernel)
        library.note_next(call.attach)
        call.attach = ctypes.cast(library.note_attach, ctypes.c_void_p).value

    def launched(*arguments: Any) -> Any:
        traffic = launch(*arguments)
        size = library.note_count() * NOTE.itemsize
        raw = ctypes.string_at(library.note_first(), size)
        found.launches.append(np.frombuffer(raw, NOTE))
        return traffic

    with (
        mock.patch.object(_run, "set_library", through),
        mock.patch.object(_run.HostKernel, "_launch", launched),
    ):
        yield found
