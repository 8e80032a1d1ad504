"""Shapes, axes and lists of names from the text of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cusoftmax.machine import UserError


def shape_of(text: str) -> tuple[int, ...]:
    """Return a shape written as ``4096x32000``."""
    try:
        return tuple(int(size) for size in text.lower().split("x"))
    except ValueError:
        raise UserError(f"{text!r} is not a shape: write it as 4096x32000") from None


def axis_of(text: str) -> int | tuple[int, ...] | None:
    """Return an axis written as ``-1``, ``0,1`` or ``none``."""
    if text.lower() == "none":
        return None
    try:
        axes = tuple(int(axis) for axis in text.split(","))
    except ValueError:
        raise UserError(f"{text!r} is not an axis: give an integer, A,B or none") from None
    return axes if len(axes) > 1 else axes[0]


def names_of(option: str, texts: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return the names given to an option, once or several times, each time one or ``A,B``."""
    found = tuple(name for text in texts for name in text.split(","))
    known = tuple(known)
    for name in found:
        if name not in known:
            raise UserError(f"{option} {name!r} does not exist; there are {', '.join(known)}")
    return found
