"""What is known of an operation outside its kernel, and the rules for dtypes that all share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cusoftmax.operations.dtypes import ITEMSIZE

REDUCTIONS = ("group", "block", "stream", "split", "column")
SELECTIONS = ("topk_group", "topk_block", "topk_split", "topk_column")
PATTERNS = (*REDUCTIONS, "map", "segment", *SELECTIONS)

MASK = "mask"  # an input that says by bool which elements of a row take part


class Needs(NamedTuple):
    """What a kernel computes of a row.

    Attributes
    ----------
    relative, plain : int
        Sums of terms relative to the row's maximum, and of others.
    picked : int
        Values of single elements.
    rule : str
        Which elements these are, as ``csm::PickRule`` names it (``machine/config.cuh``).
    """

    relative: int
    plain: int
    picked: int
    rule: str


@dataclass(frozen=True)
class Operation:
    """What is known of an operation outside its kernel.

    Attributes
    ----------
    name : str
        Name of the operation, and of its kernels.
    inputs : tuple of str
        Names of the inputs, in the kernel's order; error messages use them. A thread keeps one
        value of each for every element of a row held on chip.
    formula : str
        The definition, for the reader; docs/derivation.md derives it.
    row_inputs : tuple of str
        Inputs with one value for each row; offsets, which are one more, count as one.
    tables : tuple of str
        Inputs of one dimension that the kernel looks up by itself.
    indices : tuple of str
        The inputs that are integers used as they are: no arithmetic follows their dtype.
    beside : tuple of str
        The inputs that the default dtype of the results does not follow.
    outputs, row_outputs : tuple of str
        Results with a value for each element, and with one for each row.
    selects : bool
        Whether the row outputs are of k elements that are selected of each row, k being the first
        option: k values in the dtype that is asked for, then k indices; or one index alone.
    relative, plain : int
        Sums over the row that the kernel forms: of terms relative to the row's maximum, which is
        then found too, and of others.
    picked : int
        Values of single elements that the kernel takes out of the row.
    rule : str
        Which elements, as in `Needs`.
    dominant : pair of int, optional
        The plain sums and picked values where the element above one half is kept apart from the
        sums: where the first input is float32 or float64 and the results are as precise.
    patterns : tuple of str
        The ways of laying a row over threads that the kernel supports.
    source : str
        ``cuda_kernels/ops/<source>.cuh``, where that is not `name`: for an operation that is
        another with more or fewer operands or features.
    public : str
        Name of the function that runs it, where that is not `name`; error messages use it.
    ordered : bool
        Whether the kernel needs to know where a row stands: rows are then numbered in the order of
        the arrays' dimensions, not in that of memory.
    features : tuple of str
        Names in ``csm::feature`` (``machine/config.cuh``): what a variant does besides.
    options : tuple of str
        Numbers that come with a call, in the kernel's order.
    precise_as : str
        The operand whose dtype the kernel's precision follows, where that is not the first result.
    repeated : bool
        Whether the inputs with elements are rows that each repeat along the dimension before the
        axis, to make a matrix.
    exact_sums : bool
        Whether float64 sums carry their second word for narrower results too. float32 sums do where
        the result is float32: a second word costs a 16-bit kernel more than memory leaves it.
    always_exact : bool
        Whether sums carry their second word whatever the dtypes.
    sum_inputs, map_inputs : tuple of str
        The inputs that the sums need, and those that the results do, where that is not all: of a
        row that is read twice, a compiler drops the other loads.
    """

    name: str
    inputs: tuple[str, ...]
    formula: str
    row_inputs: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    indices: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("out",)
    row_outputs: tuple[str, ...] = ()
    selects: bool = False
    relative: int = 0
    plain: int = 0
    picked: int = 0
    rule: str = "given"
    dominant: tuple[int, int] | None = None
    patterns: tuple[str, ...] = REDUCTIONS
    source: str = ""
    public: str = ""
    ordered: bool = False
    features: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    precise_as: str = ""
    repeated: bool = False
    exact_sums: bool = False
    always_exact: bool = False
    sum_inputs: tuple[str, ...] = ()
    map_inputs: tuple[str, ...] = ()

    @property
    def read(self) -> tuple[str, ...]:
        """Names of all inputs, in the order of the kernel's operands."""
        return self.inputs + self.row_inputs + self.tables

    @property
    def table_operands(self) -> range:
        """Which operands are tables."""
        return range(len(self.inputs) + len(self.row_inputs), len(self.read))

    @property
    def selects_many(self) -> bool:
        """Whether there is a dimension of selected elements in the results."""
        return self.selects and len(self.row_outputs) > 1

    @property
    def segmented(self) -> bool:
        """Whether rows are of unequal length: the last of `read` then says where they begin."""
        return self.patterns == ("segment",)

    @property
    def valued(self) -> int:
        """How many of `read` hold values to compute with."""
        return len(self.read) - self.segmented

    @property
    def written(self) -> tuple[str, ...]:
        """Names of all results; the operands are `read` and then these."""
        return self.outputs + self.row_outputs

    @property
    def held(self) -> int:
        """How many values of an element a thread keeps: a mask is used up in reading."""
        return len(self.inputs) - ("masked" in self.features)

    @property
    def hides(self) -> bool:
        """Whether elements of a row may be hidden from it."""
        return "masked" in self.features or "causal" in self.features

    @property
    def maximum_words(self) -> int:
        """Words of a row's maximum: as many as a logit has, and one where there is none."""
        wide = "scaled" in self.features or "biased" in self.features
        return 2 if self.relative and wide else 1

    def compensated(self, dtypes: Sequence[str], acc: str) -> bool:
        """Whether sums carry a second word, for operands of these dtypes, computed in `acc`."""
        return (
            self.always_exact
            or ITEMSIZE[dtypes[self.precision]] == ITEMSIZE[acc]
            or (self.exact_sums and acc == "float64")
        )

    def needs(self, dtypes: Sequence[str], acc: str) -> Needs:
        """Return what the kernel of these dtypes computes of a row."""
        if (
            self.dominant is not None
            and dtypes[0] in ("float32", "float64")
            and self.compensated(dtypes, acc)
        ):
            return Needs(self.relative, *self.dominant, "dominant")
        return Needs(self.relative, self.plain, self.picked, self.rule)

    def node_words(self, dtypes: Sequence[str], acc: str) -> int:
        """Words of a partial result: the maximum, two for each sum, the picked."""
        needs = self.needs(dtypes, acc)
        return self.maximum_words + 2 * (needs.relative + needs.plain) + needs.picked

    @property
    def precision(self) -> int:
        """The operand whose dtype the kernel's precision follows."""
        names = self.read + self.written
        return names.index(self.precise_as) if self.precise_as else len(self.read)

    def counts(self, operand: int) -> bool:
        """Whether arithmetic follows the dtype of an operand."""
        return operand >= len(self.read) or self.read[operand] not in (*self.indices, MASK)

    def decides(self, operand: int) -> bool:
        """Whether the default dtype of the results follows that of an input with elements."""
        return self.counts(operand) and self.read[operand] not in self.beside

    def fixed_dtype(self, operand: int) -> str | None:
        """Return the only dtype that an operand can have, or None if the call decides."""
        last = len(self.read) + len(self.written) - 1
        return "int64" if self.selects and operand == last else None

    def along_rows(self, operand: int) -> bool:
        """Whether an operand has a value for each element of a row, not one for the row."""
        read = len(self.read)
        count = len(self.inputs) if operand < read else len(self.outputs)
        return (operand if operand < read else operand - read) < count
