"""Parts of `numpy.memmap`: what would end the process, where other files raise an OSError.

A part whose file became shorter, or for which a full disk has no room, is a signal (SIGBUS) to
whoever reads or writes it. And whether two arrays share memory, be it by a file that both map.
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


def share_memory(array: Any, other: Any) -> bool:
    """Whether two arrays of the host have elements in the same memory, as far as can be known."""
    if array is other:
        return True
    if not isinstance(array, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    most: Any = 10_000  # steps; its type is said to be -1 or 0
    try:
        if np.shares_memory(array, other, max_work=most):
            return True
    except np.exceptions.TooHardError:
        return True
    one, two = _place(array), _place(other)
    if one is None or two is None or one[0].base is two[0].base:  # of one map, NumPy knows
        return False
    try:
        same = os.path.samefile(one[0].filename, two[0].filename)
    except OSError:  # a file that has no name any more
        return False
    return same and max(one[1], two[1]) < min(one[2], two[2])


def _checked(array: Any, index: tuple[slice, ...]) -> tuple[Any, int, int, int] | None:
    """Return the memmap of a part, its place in the file, and the file's size."""
    found = _place(array, index)
    if found is None:
        return None
    root, first, last = found
    size = root.base.size()
    if last > size:
        raise EOFError(f"{root.filename} has {size} bytes, and {last} are needed")
    return root, first, last, size


def _place(array: Any, index: tuple[slice, ...] = ()) -> tuple[Any, int, int] | None:
    """Return the memmap that an array is a view of, and a part's place in its file."""
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
    return root, moved + first, moved + last
