"""The operations that can be measured: how each is called, and how its result is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import cusoftmax as cs
from cusoftmax.contract.sampling import SEED, TEMPERATURE
from cusoftmax.contract.table import CONTRACTS, Arrays, OperationContract
from cusoftmax.operations import table
from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.operations.lookup import find
from cusoftmax.operations.operation import REDUCTIONS, Operation

DTYPES = ("float16", "bfloat16", "float32", "float64")  # also the order of tables and pictures
# What the input of a name contains; inputs not listed are standard normal numbers.
INPUT_CONTENTS = {"x": "logits", "y": "softmax", "logy": "log_softmax"}


@dataclass(frozen=True)
class MeasuredOperation:
    """How an operation is measured.

    Attributes
    ----------
    name : str
        The public function.
    """

    name: str

    @property
    def table(self) -> Operation:
        """The operation's row in the package's table."""
        return find(self.name)

    @property
    def contract(self) -> OperationContract:
        """The exact result and the bound on the error."""
        return CONTRACTS[self.table.name]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Contents of each input: ``"logits"``, ``"normal"`` or the function of logits to apply."""
        return tuple(INPUT_CONTENTS.get(name, "normal") for name in self.table.read)

    def call(self, inputs: Sequence[Any], axis: int, out: Any = None) -> Any:
        """Call the public function; results with one value per row keep the reduced axis."""
        values = bool(self.table.row_inputs or self.table.row_outputs)
        options: dict[str, Any] = {"keepdims": True} if values else {}
        if "seed" in self.table.options:  # the exact result is known for this seed
            options |= {"seed": SEED, "temperature": TEMPERATURE}
        return getattr(cs, self.name)(*inputs, axis=axis, out=out, **options)

    def worst(self, inputs: Arrays, results: Arrays) -> float:
        """Return the largest error of the results for some rows."""
        if self.table.row_outputs:  # the exact result has no reduced axis
            results = tuple(r[:, 0] for r in results)
        return max(float(np.max(e)) for e in self.contract.errors(inputs, -1, results))


# Every public function of arrays and an axis, also those that share a kernel.
OPERATIONS = {
    name: MeasuredOperation(name)
    for name, operation in (table.OPERATIONS | table.SAME_KERNEL).items()
    if not operation.public and set(REDUCTIONS) & {*operation.patterns}
}
DEFAULT_OPS = ("softmax", "softmax_vjp")  # every other operation runs the same patterns


def bytes_per_element(op: str, dtype: str) -> int:
    """Least bytes moved per element of a row: each input read once, each output written once."""
    operation = find(op)
    return (len(operation.inputs) + len(operation.outputs)) * ITEMSIZE[dtype]
