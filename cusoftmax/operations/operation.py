"""What is known of an operation outside its kernel, and the rules for dtypes that all share."""

from __future__ import annotations

from dataclasses import dataclass

REDUCTIONS = ("group", "block", "stream", "split", "column")
SELECTIONS = ("topk_group", "topk_block", "topk_split", "topk_column")
PATTERNS = (*REDUCTIONS, "map", "segment", *SELECTIONS)

MASK = "mask"  # an input that says by bool which elements of a row take part


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
    auxiliary_inputs : tuple of str
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
    auxiliary_inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("out",)
    row_outputs: tuple[str, ...] = ()
    selects: bool = False
    relative: int = 0
    plain: int = 0
    picked: int = 0
    patterns: tuple[str, ...] = REDUCTIONS
    source: str = ""
    public: str = ""
    ordered: bool = False
    features: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    precise_as: str = ""
    repeated: bool = False
    exact_sums: bool = False
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
    def value_inputs(self) -> int:
        """How many of `read` hold values to compute with."""
        return len(self.read) - self.segmented

    @property
    def written(self) -> tuple[str, ...]:
        """Names of all results; the operands are `read` and then these."""
        return self.outputs + self.row_outputs

    @property
    def register_inputs(self) -> int:
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

    @property
    def node_words(self) -> int:
        """Words of a partial result: the maximum, two for each sum, the picked."""
        return self.maximum_words + 2 * (self.relative + self.plain) + self.picked

    @property
    def precision(self) -> int:
        """The operand whose dtype the kernel's precision follows."""
        names = self.read + self.written
        return names.index(self.precise_as) if self.precise_as else len(self.read)

    def affects_compute_dtype(self, operand: int) -> bool:
        """Whether arithmetic follows the dtype of an operand."""
        return operand >= len(self.read) or self.read[operand] not in (*self.indices, MASK)

    def affects_output_dtype(self, operand: int) -> bool:
        """Whether the default dtype of the results follows that of an input with elements."""
        auxiliary = self.read[operand] in self.auxiliary_inputs
        return self.affects_compute_dtype(operand) and not auxiliary

    def fixed_dtype(self, operand: int) -> str | None:
        """Return the only dtype that an operand can have, or None if the call decides."""
        last = len(self.read) + len(self.written) - 1
        return "int64" if self.selects and operand == last else None

    def along_rows(self, operand: int) -> bool:
        """Whether an operand has a value for each element of a row, not one for the row."""
        read = len(self.read)
        count = len(self.inputs) if operand < read else len(self.outputs)
        return (operand if operand < read else operand - read) < count
