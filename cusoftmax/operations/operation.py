"""What the planner, the wrappers and the documentation know of an operation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cusoftmax.operations.dtypes import ITEMSIZE

REDUCTIONS = ("group", "block", "stream", "split", "column")
SELECTIONS = ("topk_group", "topk_block", "topk_split", "topk_column")
PATTERNS = (*REDUCTIONS, "map", "segment", *SELECTIONS)
PIECE, TOPK_PIECE = "piece", "topk_piece"  # of pieces of rows, which no call of a whole row runs

MASK = "mask"  # name of the bool input that says which elements of a row take part


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
    """All that is known of an operation outside its kernel.

    Attributes
    ----------
    name : str
        Name of the operation and of its kernels.
    inputs : tuple of str
        Names of the inputs that have a value for each element, in the kernel's order; error
        messages use them. A thread keeps one value of each for every element that it holds.
    formula : str
        The definition, for the reader; docs/derivation.md derives it.
    row_inputs : tuple of str
        Inputs with one value for each row, or the offsets of rows of unequal length.
    tables : tuple of str
        One-dimensional inputs in which the kernel looks values up.
    indices : tuple of str
        Integer inputs that are used as they are: they do not affect the dtype of the arithmetic.
    auxiliary_inputs : tuple of str
        Inputs that do not affect the default dtype of the results.
    outputs, row_outputs : tuple of str
        Results with a value for each element, and with one for each row.
    selects : bool
        Whether the operation selects k elements of each row, with k as its first option. The row
        outputs are then k values and k indices, or a single index.
    relative, plain : int
        Numbers of sums over the row. Relative sums have terms relative to the row's maximum, which
        the kernel then finds too; plain sums do not.
    picked : int
        Number of single elements whose values the kernel takes out of the row.
    rule : str
        Which elements, as in `Needs`.
    dominant : pair of int, optional
        The numbers of plain sums and of picked values if the element above one half is kept apart
        from the sums: if the first input is float32 or float64 and the results are as precise.
    patterns : tuple of str
        The patterns (ways of laying a row over threads) that the kernel supports.
    source : str
        ``cuda_kernels/ops/<source>.cuh``, if that is not `name`: variants of an operation share its
        source.
    public : str
        Name of the public function that runs it, if that is not `name`.
    one_axis : bool
        Whether a row lies along one axis only.
    ordered : bool
        Whether the kernel needs to know where a row stands. Rows are then numbered in the order of
        the arrays' dimensions instead of the order of memory.
    features : tuple of str
        Names in ``csm::feature`` (``machine/config.cuh``): what a variant does in addition.
    options : tuple of str
        Numbers passed with each call, in the kernel's order.
    precise_as : str
        The operand whose dtype sets the kernel's precision, if that is not the first result.
    repeated : bool
        Whether each row of the inputs is repeated along the dimension before the axis, to make a
        matrix.
    exact_sums : bool
        Whether the results need the logarithm of the relative sum, and so what there is in it
        beside the largest term. Its sums keep a second word even if the result is narrower: in
        float64 that of a double word; in float32, where that would take longer than memory does,
        that of the terms but the largest.
    always_exact : bool
        Whether sums keep a second word for all dtypes.
    sum_inputs, map_inputs : tuple of str
        The inputs that the sums need, and those that the results need, if that is not all of them.
        Where a row is read twice, the compiler drops the loads that a pass does not need.
    """

    name: str
    inputs: tuple[str, ...]
    formula: str
    row_inputs: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    indices: tuple[str, ...] = ()
    auxiliary_inputs: tuple[str, ...] = ()
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
    one_axis: bool = False
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
    def function(self) -> str:
        """Name of the public function that runs it, with which its error messages begin."""
        return self.public or self.name

    @property
    def read(self) -> tuple[str, ...]:
        """Names of all inputs, in the order of the kernel's operands."""
        return self.inputs + self.row_inputs + self.tables

    @property
    def table_operands(self) -> range:
        """Numbers of the operands that are tables."""
        return range(len(self.inputs) + len(self.row_inputs), len(self.read))

    @property
    def selects_many(self) -> bool:
        """Whether the results have a dimension of selected elements."""
        return self.selects and len(self.row_outputs) > 1

    @property
    def segmented(self) -> bool:
        """Whether rows have unequal lengths; the last of `read` then says where they begin."""
        return self.patterns == ("segment",)

    @property
    def value_inputs(self) -> int:
        """How many of `read` hold values: all but the offsets."""
        return len(self.read) - self.segmented

    @property
    def written(self) -> tuple[str, ...]:
        """Names of all results; the operands are `read` followed by these."""
        return self.outputs + self.row_outputs

    @property
    def register_inputs(self) -> int:
        """How many values a thread keeps of an element; a mask is not kept after it is read."""
        return len(self.inputs) - ("masked" in self.features)

    @property
    def hides(self) -> bool:
        """Whether elements of a row may be hidden."""
        return "masked" in self.features or "causal" in self.features

    @property
    def maximum_words(self) -> int:
        """Words of a row's maximum: two if logits have two, else one, even if there is none."""
        wide = "scaled" in self.features or "biased" in self.features
        return 2 if self.relative and wide else 1

    def compensated(self, dtypes: Sequence[str], acc: str) -> bool:
        """Whether sums keep a second word, for operands of these dtypes, computed in `acc`."""
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
        """Words of a partial result: the maximum, two for each sum, one for each picked value."""
        needs = self.needs(dtypes, acc)
        return self.maximum_words + 2 * (needs.relative + needs.plain) + needs.picked

    @property
    def precision(self) -> int:
        """Number of the operand whose dtype sets the kernel's precision."""
        names = self.read + self.written
        return names.index(self.precise_as) if self.precise_as else len(self.read)

    def affects_compute_dtype(self, operand: int) -> bool:
        """Whether the dtype of the arithmetic depends on that of an operand."""
        return operand >= len(self.read) or self.read[operand] not in (*self.indices, MASK)

    def affects_output_dtype(self, operand: int) -> bool:
        """Whether the default dtype of the results depends on that of one of `inputs`."""
        auxiliary = self.read[operand] in self.auxiliary_inputs
        return self.affects_compute_dtype(operand) and not auxiliary

    def fixed_dtype(self, operand: int) -> str | None:
        """Return the only dtype that an operand can have, or None if the call decides."""
        last = len(self.read) + len(self.written) - 1
        return "int64" if self.selects and operand == last else None

    def along_rows(self, operand: int) -> bool:
        """Whether an operand has a value for each element of a row, rather than one for the row."""
        read = len(self.read)
        count = len(self.inputs) if operand < read else len(self.outputs)
        return (operand if operand < read else operand - read) < count
