"""Finds an operation by its name. The first search imports the table, which takes a while."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cusoftmax.operations.operation import Operation


@cache
def find(op: str) -> Operation:
    """Return the operation of the public function or kernel `op`; ValueError if there is none."""
    from cusoftmax.operations.table import KERNELS, OPERATIONS, SAME_KERNEL

    operation = KERNELS.get(op) or SAME_KERNEL.get(op)
    if operation is None:
        named = [operation.name for operation in OPERATIONS.values() if not operation.public]
        same = [name for name, operation in SAME_KERNEL.items() if not operation.public]
        known = ", ".join((*named, *same))
        raise ValueError(f"there is no operation {op!r}; the operations are {known}")
    return operation
