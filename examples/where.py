"""Where an example computes: with CuPy on the GPU; else with NumPy, the kernels on the emulator."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cusoftmax.machine import machine


class Where(NamedTuple):
    """What an example needs to be the same program on a GPU and on the emulator.

    Attributes
    ----------
    xp : module
        NumPy or CuPy, for everything but softmax and its family.
    given : callable
        Makes an array of `xp` one that cusoftmax takes.
    back : callable
        Makes a result of cusoftmax an array of `xp`.
    host : callable
        Makes an array of `xp` one of NumPy, for pictures.
    """

    xp: Any
    given: Callable[[Any], Any]
    back: Callable[[Any], Any]
    host: Callable[[Any], np.ndarray[Any, Any]]


def same(array: Any) -> Any:
    """Return the array: on a GPU there is nothing to convert."""
    return array


@contextmanager
def where() -> Iterator[Where]:
    """Compute on the GPU if there is one, else on the emulator; say which."""
    with machine() as on:
        print(f"running on {on.title}")
        if on.emulated:
            yield Where(np, on.asarray, on.asnumpy, np.asarray)
        else:
            import cupy

            yield Where(cupy, same, same, cupy.asnumpy)


def options(text: str | None, picture: str) -> argparse.ArgumentParser:
    """Return a parser with what all examples take: the file that the picture goes to."""
    parser = argparse.ArgumentParser(description=(text or "").partition("\n")[0])
    parser.add_argument("--picture", type=Path, default=Path(picture), metavar="FILE")
    return parser


def save(figure: Any, file: Path) -> None:
    """Save a figure of Matplotlib, and say where."""
    figure.savefig(file, dpi=120)
    print(f"picture: {file}")
