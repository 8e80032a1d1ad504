"""The table of operations, and the rules for dtypes that all of them share.

A kernel of this package computes one *operation* over every row of its inputs. What the planner,
the wrappers and the documentation need to know of an operation is one entry of `OPERATIONS`; its
arithmetic is ``cuda_kernels/ops``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress, product

# Accepted dtypes by NumPy name, with the bytes of an element.
FLOATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
INTEGERS = {
    "bool": 1,
    **{f"{sign}int{8 * size}": size for sign in ("", "u") for size in (1, 2, 4, 8)},
}
ITEMSIZE = FLOATS | INTEGERS
INPUTS = tuple(ITEMSIZE)
INDICES = tuple(name for name in INTEGERS if name != "bool")

REDUCTIONS = ("group", "block", "stream", "split", "column")
SELECTIONS = ("topk_group", "topk_block", "topk_split", "topk_column")
PATTERNS = (*REDUCTIONS, "map", "segment", *SELECTIONS)

MASK = "mask"  # an input that says by bool which elements of a row take part

# The dtypes of offsets, which say where rows of unequal length begin.
OFFSETS = ("int32", "int64")


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
        Names in ``csm::feature`` (``core/config.cuh``): what a variant does besides.
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
    beside: tuple[str, ...] = ()
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

    @property
    def node_words(self) -> int:
        """Words of a partial result: the maximum, two for each sum, the picked."""
        return self.maximum_words + 2 * (self.relative + self.plain) + self.picked

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


_LOGSUMEXP = Operation(
    name="logsumexp",
    inputs=("x",),
    outputs=(),
    row_outputs=("out",),
    formula="m + log sum_j exp(x_j - m), with m = max_j x_j",
    relative=1,
)
_WEIGHTED = Operation(
    name="logsumexp_b",
    inputs=("x", "b"),
    outputs=(),
    row_outputs=("out",),
    formula="m + log sum_j b_j exp(x_j - m), with m = max_j x_j where b_j != 0",
    relative=1,
    source="logsumexp",
    public="logsumexp",
)
_LOGSUMEXP_VJP = Operation(
    name="logsumexp_vjp",
    inputs=("x",),
    row_inputs=("dy",),
    formula="dx = dy * exp(x - m) / sum_j exp(x_j - m), with m = max_j x_j",
    relative=1,
)
_TOPK = Operation(
    name="topk_softmax",
    inputs=("x",),
    outputs=(),
    row_outputs=("values", "indices"),
    selects=True,
    options=("k",),
    formula="the k largest exp(x_i - m) / sum_j exp(x_j - m), with m = max_j x_j",
    patterns=SELECTIONS,
    relative=1,
)
_SAMPLE = Operation(
    name="sample",
    inputs=("x",),
    outputs=(),
    row_outputs=("indices",),
    selects=True,
    options=("k", "seed", "of_logits", "of_noise"),
    formula="the i of the largest x_i / T + g_i, with g Gumbel noise",
    patterns=SELECTIONS,
    ordered=True,
    features=("noisy",),
    precise_as="x",
)

OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(
            name="softmax",
            inputs=("x",),
            formula="y_i = exp(x_i - m) / sum_j exp(x_j - m), with m = max_j x_j",
            relative=1,
        ),
        Operation(
            name="softmax_vjp",
            inputs=("y", "dy"),
            formula="dx = y * (dy - sum_j y_j dy_j)",
            plain=1,
        ),
        Operation(
            name="softmax_jacobian",
            inputs=("y",),
            row_inputs=("y_i",),
            formula="J_ij = y_i (delta_ij - y_j)",
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
            plain=2,
        ),
        Operation(
            name="softmax_hvp",
            inputs=("y", "dy", "v"),
            formula="yt * (dy - sum_j y_j dy_j) - y * sum_j yt_j dy_j, "
            "with yt = y * (v - sum_j y_j v_j)",
            plain=3,
        ),
        Operation(
            name="log_softmax",
            inputs=("x",),
            formula="y_i = x_i - m - log sum_j exp(x_j - m), with m = max_j x_j",
            relative=1,
            exact_sums=True,
        ),
        Operation(
            name="log_softmax_vjp",
            inputs=("logy", "dy"),
            formula="dx = dy - exp(logy) * sum_j dy_j",
            plain=1,
            sum_inputs=("dy",),
        ),
        Operation(
            name="log_softmax_jvp",
            inputs=("logy", "xt"),
            formula="dyt = xt - sum_j exp(logy_j) xt_j",
            plain=1,
            map_inputs=("xt",),
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
        Operation(
            name="segment_softmax",
            inputs=("x",),
            row_inputs=("offsets",),
            formula="y_i = exp(x_i - m) / sum_j exp(x_j - m), with m = max_j x_j, over a segment",
            relative=1,
            indices=("offsets",),
            patterns=("segment",),
            source="softmax",
        ),
        Operation(
            name="segment_softmax_vjp",
            inputs=("y", "dy"),
            row_inputs=("offsets",),
            formula="dx = y * (dy - sum_j y_j dy_j), over a segment",
            plain=1,
            indices=("offsets",),
            patterns=("segment",),
            source="softmax_vjp",
        ),
        _TOPK,
        replace(
            _TOPK,
            name="topk_softmax_gates",
            relative=0,
            formula="exp(x_i - m) / sum_j exp(x_j - m) of the k largest x_i, j over these k",
            source="topk_softmax",
            public="topk_softmax",
        ),
        Operation(
            name="gumbel_softmax",
            inputs=("x",),
            formula="y_i = exp(z_i - m) / sum_j exp(z_j - m), with m = max_j z_j, "
            "z = (x + g) / T and g Gumbel noise",
            relative=1,
            ordered=True,
            options=("seed", "per_temperature"),
        ),
        _SAMPLE,
    )
}

CROSS_ENTROPY_OPTIONS = (
    "ignore_index",
    "stride",  # of the table of weights, in bytes
    "keep",  # 1 - label_smoothing
    "label_smoothing",
    "share",  # label_smoothing / C
    "z_loss",
    "softcap",
    "per_cap",
    "factor",  # of the gradient
)


def cross_entropy_name(*, soft: bool, weight: bool, smooth: bool, capped: bool, result: str) -> str:
    """Return the operation of a variant; `result` as in `CROSS_ENTROPY_RESULTS`."""
    features = (("soft", soft), ("weight", weight), ("smooth", smooth), ("capped", capped))
    words = [word for word, wanted in features if wanted]
    return "_".join(("cross_entropy", *words, *([result] if result else ())))


# What a variant gives: the loss; the loss and its gradient; both, of which the gradient is
# multiplied by one from above; that gradient alone.
CROSS_ENTROPY_RESULTS = ("", "grad", "grad_up", "vjp")


def _cross_entropy(soft: bool, weight: bool, smooth: bool, capped: bool, result: str) -> Operation:
    upstream = ("dloss",) if result in ("grad_up", "vjp") else ()
    along = weight and (soft or smooth)
    return Operation(
        name=cross_entropy_name(
            soft=soft, weight=weight, smooth=smooth, capped=capped, result=result
        ),
        inputs=("logits", *(("target",) if soft else ()), *(("weight",) if along else ())),
        row_inputs=upstream if soft else ("target", *upstream),
        tables=("weight",) if weight and not soft else (),
        indices=() if soft else ("target",),
        outputs={"": (), "vjp": ("out",)}.get(result, ("dlogits",)),
        row_outputs=() if result == "vjp" else ("loss",),
        formula="loss = log(sum_j exp(x_j)) sum_j p_j - sum_j p_j x_j, "
        "dx_i = exp(x_i) / sum_j exp(x_j) * sum_j p_j - p_i"
        if soft
        else "loss = w_t (log(sum_j exp(x_j)) - x_t), "
        "dx_i = w_t (exp(x_i) / sum_j exp(x_j) - delta_it)",
        relative=1,
        plain=2 if soft else (1 + along if smooth else 0),
        picked=0 if soft else 1,
        source="cross_entropy",
        public="cross_entropy_vjp" if result == "vjp" else "cross_entropy",
        features=tuple(
            word
            for word, wanted in (("soft", soft), ("smooth", smooth), ("capped", capped))
            if wanted
        ),
        options=CROSS_ENTROPY_OPTIONS,
        precise_as="logits",
        exact_sums=True,  # of integers
    )


_CROSS_ENTROPY = {
    operation.name: operation
    for soft, weight, smooth, capped, result in product(
        *((False, True),) * 4, CROSS_ENTROPY_RESULTS
    )
    if not (soft and smooth)  # smoothing costs soft targets nothing: it is not a variant of them
    for operation in (_cross_entropy(soft, weight, smooth, capped, result),)
}
_DIVISOR = Operation(
    name="cross_entropy_divisor",
    inputs=("target",),
    outputs=(),
    row_outputs=("out",),
    formula="1 / sum_i w_(t_i)",
    plain=1,
    public="cross_entropy",
    options=("ignore_index", "stride", "classes"),
)
_TOTAL = Operation(
    name="cross_entropy_total",
    inputs=("loss",),
    outputs=(),
    row_outputs=("out",),
    formula="factor * sum_i loss_i",
    plain=1,
    public="cross_entropy",
    options=("factor",),
)
# The launches that a public function of many options is made of; the gates go over those of them
# that are in `OPERATIONS`.
PARTS = _CROSS_ENTROPY | {
    operation.name: operation
    for operation in (
        # Without noise; and what gumbel_softmax is of a temperature of 0.
        replace(_SAMPLE, name="sample_argmax", source="sample", public="sample", features=()),
        replace(_SAMPLE, name="gumbel_argmax", source="sample", public="gumbel_softmax"),
        Operation(
            name="one_hot",
            inputs=("x",),
            row_inputs=("indices",),
            indices=("indices",),
            formula="y_i = delta_ij, with j the row's index",
            patterns=("map",),
            public="gumbel_softmax",
        ),
        _DIVISOR,
        replace(
            _DIVISOR,
            name="cross_entropy_divisor_weight",
            tables=("weight",),
            source=_DIVISOR.name,
        ),
        _TOTAL,
        replace(_TOTAL, name="cross_entropy_total_by", row_inputs=("divisor",), source=_TOTAL.name),
    )
}
# The plainest, and those that hold the most.
OPERATIONS |= {
    name: PARTS[name]
    for name in (
        "cross_entropy",
        "cross_entropy_grad",
        "cross_entropy_weight_smooth_capped_grad",
        "cross_entropy_soft_weight_capped_grad",
        "cross_entropy_vjp",
    )
}

# Numbers of a call that transforms the logits: the absolute value of their scale (1 for 0) in two
# words, its sign, and over how many rows a causal order goes.
LOGIT_OPTIONS = ("scale", "scale_low", "sign", "queries")
LOGIT_FEATURES = ("scaled", "biased", "masked", "causal")


def logits_name(op: str, features: Iterable[str]) -> str:
    """Return the operation that does `op` of logits with some of `LOGIT_FEATURES`."""
    return "_".join((op, *(word for word in LOGIT_FEATURES if word in features)))


def _logits(operation: Operation, features: tuple[str, ...], public: str) -> Operation:
    bias = ("bias",) if "biased" in features else ()
    mask = (MASK,) if "masked" in features else ()
    return replace(
        operation,
        name=logits_name(operation.name, features),
        inputs=operation.inputs + bias + mask,
        beside=bias + mask,
        source=operation.source or operation.name,
        public=public,
        features=features,
        options=LOGIT_OPTIONS,
        ordered="causal" in features,
        sum_inputs=operation.sum_inputs and operation.sum_inputs + mask,
        map_inputs=operation.map_inputs and operation.map_inputs + mask,
    )


# The operations of logits: with a bias those that read them; the others read what came of it.
_OF_LOGITS = (
    *("softmax", "log_softmax", "logsumexp", "logsumexp_sign", "logsumexp_b", "logsumexp_b_sign"),
    *("logsumexp_vjp", "logsumexp_b_vjp"),
)
_OF_RESULTS = ("softmax_vjp", "log_softmax_vjp", "log_softmax_jvp")


def _variants(op: str) -> Iterable[tuple[str, ...]]:
    words = (
        LOGIT_FEATURES if op in _OF_LOGITS else tuple(w for w in LOGIT_FEATURES if w != "biased")
    )
    for chosen in product((False, True), repeat=len(words)):
        if any(chosen):
            yield tuple(compress(words, chosen))


PARTS |= {
    operation.name: operation
    for op in (*_OF_LOGITS, *_OF_RESULTS)
    for features in _variants(op)
    for operation in (_logits(OPERATIONS[op], features, OPERATIONS[op].public or op),)
}
# One of each feature, and of all of them.
OPERATIONS |= {
    name: PARTS[name]
    for name in (
        "softmax_scaled",
        "softmax_biased",
        "softmax_masked",
        "softmax_causal",
        *(logits_name(op, LOGIT_FEATURES) for op in ("softmax", "log_softmax", "logsumexp_b_sign")),
        logits_name("logsumexp_b_vjp", LOGIT_FEATURES),
        *(f"{op}_scaled_masked_causal" for op in _OF_RESULTS),
    )
}
KERNELS = OPERATIONS | PARTS

# Public functions that run another function's kernel: the Jacobian of softmax is symmetric.
SAME_KERNEL = {
    "softmax_jvp": replace(
        OPERATIONS["softmax_vjp"],
        inputs=("y", "xt"),
        formula="dyt = y * (xt - sum_j y_j xt_j)",
    )
}
SAME_KERNEL |= {
    logits_name("softmax_jvp", features): _logits(
        replace(SAME_KERNEL["softmax_jvp"], name="softmax_vjp"), features, "softmax_jvp"
    )
    for features in _variants("softmax_vjp")
}


def find(op: str) -> Operation:
    """Return the operation of the public function `op`; ValueError if there is none."""
    operation = KERNELS.get(op) or SAME_KERNEL.get(op)
    if operation is None:
        named = [operation.name for operation in OPERATIONS.values() if not operation.public]
        known = ", ".join((*named, "softmax_jvp"))
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
