"""Parts of `numpy.memmap`: what would end the process, where other files raise an OSError.

A part whose file became shorter, or for which a full disk has no room, is a signal (SIGBUS) to
whoever reads or writes it.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import Any

import numpy as np


def check_read(array: Any, index: tuple[slice, ...]) -> None:
    """Raise EOFError if the file of an array no longer has a part of it."""
    _checked(array, index)


def check_write(array: Any, index: tuple[slice, ...]) -> None:
    """Do so too, and let the file have memory for the part; OSError if the disk is full."""
    found = _checked(array, index)
    if found is None or found[0].mode not in ("r+", "w+"):
        return
    root, start, end, size = found
    try:
        file = os.open(root.filename, os.O_RDWR)
    except OSError:  # it has no name any more, or may not be opened again
        return
    try:
        if os.fstat(file).st_size == size:  # else another file has the name now
            os.posix_fallocate(file, start, end - start)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # of file systems that cannot
            raise
    finally:
        os.close(file)


def _checked(array: Any, index: tuple[slice, ...]) -> tuple[Any, int, int, int] | None:
    """Return the memmap that an array is a view of, a part's place in its file, and its size."""
    root = array
    while isinstance(getattr(root, "base", None), np.memmap):
        root = root.base
    mapped = getattr(root, "base", None)
    if not isinstance(root, np.memmap) or not isinstance(mapped, mmap.mmap) or not root.filename:
        return None
    view = array[index]
    if not view.size:
        return None
    first, last = np.lib.array_utils.byte_bounds(view)
    moved = root.offset - root.offset % mmap.ALLOCATIONGRANULARITY
    moved -= np.frombuffer(mapped, np.uint8, 1).ctypes.data
    size = mapped.size()
    if moved + last > size:
        raise EOFError(f"{root.filename} has {size} bytes, and {moved + last} are needed")
    return root, moved + first, moved + last, size
