"""Shapes, axes, seeds and lists of names from the text of the command line."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Iterable, Sequence

from cusoftmax.machine import UserError

_NEGATIVE = re.compile(r"-\d+([x,]-?\d+)+", re.IGNORECASE)  # argparse knows single numbers itself


def shape_of(text: str) -> tuple[int, ...]:
    """Return a shape written as ``4096x32000``."""
    text = text.strip()
    try:
        shape = tuple(int(size) for size in text.lower().split("x"))
    except ValueError:
        raise UserError(f"{text!r} is not a shape: write it as 4096x32000") from None
    if min(shape) < 0:
        raise UserError(f"shape {text} has a negative size: sizes are 0 or more")
    return shape


def axis_of(text: str) -> int | tuple[int, ...] | None:
    """Return an axis written as ``-1``, ``0,1`` or ``none``."""
    text = text.strip()
    if text.lower() == "none":
        return None
    try:
        axes = tuple(int(axis) for axis in text.split(","))
    except ValueError:
        raise UserError(f"{text!r} is not an axis: give an integer, A,B or none") from None
    return axes if len(axes) > 1 else axes[0]


def values(texts: Iterable[str]) -> list[str]:
    """Return arguments in which argparse takes no negative shape or axis for an option.

    It takes what begins with a space for a value.
    """
    return [f" {text}" if _NEGATIVE.fullmatch(text) else text for text in texts]


def seed_of(text: str) -> int:
    """Return a seed; ArgumentTypeError if NumPy or the emulator would not take it."""
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed < 1 << 64:
        raise ArgumentTypeError(f"{text!r} is not a seed: give an integer from 0 to 2^64 - 1")
    return seed


def names_of(option: str, texts: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return the names given to an option, once or several times, each time one or ``A,B``."""
    found = tuple(name for text in texts for name in text.split(","))
    known = tuple(known)
    for name in found:
        if name not in known:
            raise UserError(f"{option} {name!r} does not exist; there are {', '.join(known)}")
    return found
