"""Finds an operation by its name. The first search imports the table, which takes a while."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cusoftmax.operations.operation import Operation


@cache
def find(op: str, caller: str = "cusoftmax") -> Operation:
    """Return the operation of the public function or kernel `op`.

    ValueError if there is none; its message begins with the name of the function `caller`.
    """
    from dataclasses import replace

    from cusoftmax.operations.table import KERNELS, OPERATIONS, PIECES, SAME_KERNEL

    if op in KERNELS:
        return KERNELS[op]
    if op in PIECES:
        return PIECES[op]
    if op in SAME_KERNEL:
        operation = SAME_KERNEL[op]
        return replace(operation, public=operation.public or op)
    named = [name for name, known in (OPERATIONS | SAME_KERNEL).items() if not known.public]
    raise ValueError(
        f"{caller}: there is no operation {op[:60]!r}; the operations are {', '.join(named)}"
    )
