"""The table of operations, and the rules for dtypes that all of them share.

A kernel of this package computes one *operation* over every row of its inputs. What the planner,
the wrappers and the documentation need to know of an operation is one entry of `OPERATIONS`; its
arithmetic is ``cuda_kernels/ops``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

# Accepted dtypes by NumPy name, with the bytes of an element.
FLOATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
INTEGERS = {
    "bool": 1,
    **{f"{sign}int{8 * size}": size for sign in ("", "u") for size in (1, 2, 4, 8)},
}
ITEMSIZE = FLOATS | INTEGERS
INPUTS = tuple(ITEMSIZE)

REDUCTIONS = ("group", "block", "stream", "split", "column")
SELECTIONS = ("topk_group", "topk_block", "topk_split", "topk_column")
PATTERNS = (*REDUCTIONS, "map", *SELECTIONS)


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
        Inputs with one value for each row.
    outputs, row_outputs : tuple of str
        Results with a value for each element, and with one for each row.
    picks : bool
        Whether the row outputs have k values for each row instead, those of the k elements that the
        operation picks: the first result in the dtype that is asked for, then their indices.
    sums : int
        Sums over the row that the kernel forms.
    patterns : tuple of str
        The ways of laying a row over threads that the kernel supports.
    source : str
        ``cuda_kernels/ops/<source>.cuh``, where that is not `name`: for an operation that is
        another with more or fewer operands.
    public : str
        Name of the function that runs it, where that is not `name`; error messages use it.
    ordered : bool
        Whether the kernel needs to know where a row stands: rows are then numbered in the order of
        the arrays' dimensions, not in that of memory.
    repeated : bool
        Whether the inputs with elements are rows that each repeat along the dimension before the
        axis, to make a matrix.
    """

    name: str
    inputs: tuple[str, ...]
    formula: str
    row_inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("out",)
    row_outputs: tuple[str, ...] = ()
    picks: bool = False
    sums: int = 1
    patterns: tuple[str, ...] = REDUCTIONS
    source: str = ""
    public: str = ""
    ordered: bool = False
    repeated: bool = False

    @property
    def read(self) -> tuple[str, ...]:
        """Names of all inputs, in the order of the kernel's operands."""
        return self.inputs + self.row_inputs

    @property
    def written(self) -> tuple[str, ...]:
        """Names of all results; the operands are `read` and then these."""
        return self.outputs + self.row_outputs

    @property
    def node_words(self) -> int:
        """Words of a partial result: the maximum, and two for each sum."""
        return 1 + 2 * self.sums

    def fixed_dtype(self, operand: int) -> str | None:
        """Return the only dtype that an operand can have, or None if the call decides."""
        return "int64" if self.picks and operand > len(self.read) else None

    def along_rows(self, operand: int) -> bool:
        """Whether an operand has a value for each element of a row, not one for the row."""
        read = len(self.read)
        count = len(self.inputs) if operand < read else len(self.outputs)
        return (operand if operand < read else operand - read) < count


_LOGSUMEXP = Operation(
    name="logsumexp",
    inputs=("x",),
    outputs=(),
    row_outputs=("out",),
    formula="m + log sum_j exp(x_j - m), with m = max_j x_j",
)
_WEIGHTED = Operation(
    name="logsumexp_b",
    inputs=("x", "b"),
    outputs=(),
    row_outputs=("out",),
    formula="m + log sum_j b_j exp(x_j - m), with m = max_j x_j where b_j != 0",
    source="logsumexp",
    public="logsumexp",
)
_LOGSUMEXP_VJP = Operation(
    name="logsumexp_vjp",
    inputs=("x",),
    row_inputs=("dy",),
    formula="dx = dy * exp(x - m) / sum_j exp(x_j - m), with m = max_j x_j",
)
_TOPK = Operation(
    name="topk_softmax",
    inputs=("x",),
    outputs=(),
    row_outputs=("values", "indices"),
    picks=True,
    formula="the k largest exp(x_i - m) / sum_j exp(x_j - m), with m = max_j x_j",
    patterns=SELECTIONS,
)

OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(
            name="softmax",
            inputs=("x",),
            formula="y_i = exp(x_i - m) / sum_j exp(x_j - m), with m = max_j x_j",
        ),
        Operation(
            name="softmax_vjp",
            inputs=("y", "dy"),
            formula="dx = y * (dy - sum_j y_j dy_j)",
        ),
        Operation(
            name="softmax_jacobian",
            inputs=("y",),
            row_inputs=("y_i",),
            formula="J_ij = y_i (delta_ij - y_j)",
            sums=0,
            patterns=("map",),
            ordered=True,
            repeated=True,
        ),
        Operation(
            name="softmax_vjp_vjp",
            inputs=("y", "dy", "g"),
            outputs=("gy", "gdy"),
            formula="gy = g * (dy - sum_j y_j dy_j) - dy * sum_j y_j g_j; "
            "gdy = y * (g - sum_j y_j g_j)",
            sums=2,
        ),
        Operation(
            name="softmax_hvp",
            inputs=("y", "dy", "v"),
            formula="yt * (dy - sum_j y_j dy_j) - y * sum_j yt_j dy_j, "
            "with yt = y * (v - sum_j y_j v_j)",
            sums=3,
        ),
        Operation(
            name="log_softmax",
            inputs=("x",),
            formula="y_i = x_i - m - log sum_j exp(x_j - m), with m = max_j x_j",
        ),
        Operation(
            name="log_softmax_vjp",
            inputs=("logy", "dy"),
            formula="dx = dy - exp(logy) * sum_j dy_j",
        ),
        Operation(
            name="log_softmax_jvp",
            inputs=("logy", "xt"),
            formula="dyt = xt - sum_j exp(logy_j) xt_j",
        ),
        _LOGSUMEXP,
        replace(
            _LOGSUMEXP,
            name="logsumexp_sign",
            row_outputs=("out", "sign"),
            source="logsumexp",
            public="logsumexp",
        ),
        _WEIGHTED,
        replace(_WEIGHTED, name="logsumexp_b_sign", row_outputs=("out", "sign")),
        _LOGSUMEXP_VJP,
        replace(
            _LOGSUMEXP_VJP,
            name="logsumexp_b_vjp",
            inputs=("x", "b"),
            formula="dx = dy * b exp(x - m) / sum_j b_j exp(x_j - m)",
            source="logsumexp_vjp",
            public="logsumexp_vjp",
        ),
        _TOPK,
        replace(
            _TOPK,
            name="topk_softmax_gates",
            sums=0,
            formula="exp(x_i - m) / sum_j exp(x_j - m) of the k largest x_i, j over these k",
            source="topk_softmax",
            public="topk_softmax",
        ),
    )
}

# Public functions that run another function's kernel: the Jacobian of softmax is symmetric.
SAME_KERNEL = {
    "softmax_jvp": replace(
        OPERATIONS["softmax_vjp"],
        inputs=("y", "xt"),
        formula="dyt = y * (xt - sum_j y_j xt_j)",
    )
}


def find(op: str) -> Operation:
    """Return the operation of the public function `op`; ValueError if there is none."""
    operation = OPERATIONS.get(op) or SAME_KERNEL.get(op)
    if operation is None:
        named = [operation.name for operation in OPERATIONS.values() if not operation.public]
        known = ", ".join((*named, *SAME_KERNEL))
        raise ValueError(f"there is no operation {op!r}; the operations are {known}")
    return operation


def output_dtype(inputs: Sequence[str]) -> str:
    """Return the default output dtype for input dtypes `inputs`.

    The only float among them, or the wider one. float16 and bfloat16 meet in float32, which holds
    both. Integers and bool give float64, as in NumPy.
    """
    if not all(dtype in FLOATS for dtype in inputs):
        return "float64"
    width = max(FLOATS[dtype] for dtype in inputs)
    widest = {dtype for dtype in inputs if FLOATS[dtype] == width}
    return widest.pop() if len(widest) == 1 else "float32"


def compute_dtype(inputs: Iterable[str], output: str) -> str:
    """Return the dtype a kernel computes in: ``"float32"`` or ``"float64"``.

    float32 has room for every product of the narrow floats; float64 is needed for float64 on either
    side, and for integers, whose neighbours near 2**31 float32 cannot tell apart.
    """
    narrow = all(FLOATS.get(dtype, 8) <= 4 for dtype in (*inputs, output))
    return "float32" if narrow else "float64"
