"""Shapes and axes from the text of the command line."""

from __future__ import annotations

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
