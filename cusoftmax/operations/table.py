"""The table of operations.

A kernel of this package computes one *operation* over every row of its inputs. An operation has an
entry here, for the planner, the wrappers and the documentation, and its arithmetic in
``cuda_kernels/ops``.
"""

from __future__ import annotations

from dataclasses import replace

from cusoftmax.operations.operation import REDUCTIONS, SELECTIONS, Operation
from cusoftmax.operations.options import (
    LOGIT_FEATURES,
    ROUND_KEYS,
    in_place,
    logits_name,
    of_a,
    piece_of,
)
from cusoftmax.operations.variants import (
    cross_entropy_variants,
    logit_variants,
    of_logits,
    of_pieces,
)

_JACOBIAN = Operation(
    name="softmax_jacobian",
    inputs=("y",),
    row_inputs=("y_i",),
    formula="J_ij = y_i (delta_ij - y_j)",
    patterns=("map",),
    ordered=True,
    repeated=True,
)
_LOGSUMEXP = Operation(
    name="logsumexp",
    inputs=("x",),
    outputs=(),
    row_outputs=("out",),
    formula="m + log sum_j exp(x_j - m), with m = max_j x_j",
    relative=1,
    exact_sums=True,
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
_VALUE_AND_VJP = Operation(
    name="softmax_value_and_vjp",
    inputs=("x", "dy"),
    outputs=("y", "dx"),
    formula="y = softmax(x); dx = y * (dy - sum_j y_j dy_j)",
    relative=2,
    picked=1,
    rule="largest",
    always_exact=True,
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
    one_axis=True,
    relative=1,
)
_GUMBEL = Operation(
    name="gumbel_softmax",
    inputs=("x",),
    formula="y_i = exp(z_i - m) / sum_j exp(z_j - m), with m = max_j z_j, "
    "z = (x + g) / T and g Gumbel noise",
    relative=1,
    one_axis=True,
    ordered=True,
    options=(*ROUND_KEYS, "per_temperature"),
)
_SAMPLE = Operation(
    name="sample",
    inputs=("x",),
    outputs=(),
    row_outputs=("out",),
    selects=True,
    options=("k", *ROUND_KEYS, "of_logits", "of_noise"),
    formula="the i of the largest x_i / T + g_i, with g Gumbel noise",
    patterns=SELECTIONS,
    one_axis=True,
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
            dominant=(2, 2),
        ),
        _JACOBIAN,
        Operation(
            name="softmax_vjp_vjp",
            inputs=("y", "dy", "g"),
            outputs=("gy", "gdy"),
            formula="gy = g * (dy - sum_j y_j dy_j) - dy * sum_j y_j g_j; "
            "gdy = y * (g - sum_j y_j g_j)",
            plain=2,
            dominant=(3, 3),
        ),
        Operation(
            name="softmax_hvp",
            inputs=("y", "dy", "v"),
            formula="yt * (dy - sum_j y_j dy_j) - y * sum_j yt_j dy_j, "
            "with yt = y * (v - sum_j y_j v_j)",
            plain=3,
            dominant=(4, 3),
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
            dominant=(1, 3),
            map_inputs=("xt",),
        ),
        _VALUE_AND_VJP,
        Operation(
            name="log_softmax_value_and_vjp",
            inputs=("x", "dy"),
            outputs=("logy", "dx"),
            formula="logy = log_softmax(x); dx = dy - exp(logy) * sum_j dy_j",
            relative=1,
            plain=1,
            always_exact=True,
        ),
        Operation(
            name="log_softmax_value_and_jvp",
            inputs=("x", "xt"),
            outputs=("logy", "dlogy"),
            formula="logy = log_softmax(x); dlogy = xt - sum_j exp(logy_j) xt_j",
            relative=2,
            picked=1,
            rule="largest",
            always_exact=True,
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
            dominant=(2, 2),
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
        _GUMBEL,
        _SAMPLE,
    )
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
# Variants, and the launches that a public function of many options is made of. The compile gate and
# the family's tests go over `OPERATIONS` only, to which some of these are added below.
PARTS = {operation.name: operation for operation in cross_entropy_variants()} | {
    operation.name: operation
    for operation in (
        # A draw without noise, and gumbel_softmax at a temperature of 0.
        replace(_SAMPLE, name="sample_argmax", source="sample", public="sample", features=()),
        replace(_SAMPLE, name="gumbel_argmax", source="sample", public="gumbel_softmax"),
        # At temperatures that would magnify the error of a 16-bit result's noise.
        replace(
            _GUMBEL,
            name="gumbel_softmax_cold",
            source=_GUMBEL.name,
            public=_GUMBEL.name,
            features=("cold",),
        ),
        # In float32 and float64: what the diagonal needs of each row, and the matrix made with it.
        Operation(
            name="softmax_others",
            inputs=("y",),
            outputs=(),
            row_outputs=("others", "others_low"),
            formula="sum_(j != m) y_j, with m the one element above 1/2",
            plain=1,
            dominant=(1, 1),
            public="softmax_jacobian",
        ),
        replace(
            _JACOBIAN,
            name="softmax_jacobian_others",
            row_inputs=("y_i", "others", "others_low"),
            source="softmax_jacobian",
            public="softmax_jacobian",
        ),
        Operation(
            name="one_hot",
            inputs=("x",),
            row_inputs=("indices",),
            indices=("indices",),
            formula="y_i = delta_ij, with j the row's index",
            patterns=("map",),
            public="gumbel_softmax",
            one_axis=True,
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
# The simplest variants of cross-entropy, and those that keep the most in registers.
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

# The operations that can scale, bias or hide logits. Those that read logits take a bias; those that
# read a result do not need it.
_OF_LOGITS = (
    *("softmax", "log_softmax", "logsumexp", "logsumexp_sign", "logsumexp_b", "logsumexp_b_sign"),
    *("logsumexp_vjp", "logsumexp_b_vjp"),
    *("softmax_value_and_vjp", "log_softmax_value_and_vjp", "log_softmax_value_and_jvp"),
)
_OF_RESULTS = ("softmax_vjp", "log_softmax_vjp", "log_softmax_jvp")


PARTS |= {
    operation.name: operation
    for op in (*_OF_LOGITS, *_OF_RESULTS)
    for features in logit_variants(biased=op in _OF_LOGITS)
    for operation in (of_logits(OPERATIONS[op], features, OPERATIONS[op].public or op),)
}
# Variants with one feature, and with all of them.
OPERATIONS |= {
    name: PARTS[name]
    for name in (
        "softmax_scaled",
        "softmax_biased",
        "softmax_masked",
        "softmax_causal",
        *(logits_name(op, LOGIT_FEATURES) for op in ("softmax", "log_softmax", "logsumexp_b_sign")),
        logits_name("logsumexp_b_vjp", LOGIT_FEATURES),
        logits_name("softmax_value_and_vjp", LOGIT_FEATURES),
        logits_name("log_softmax_value_and_vjp", LOGIT_FEATURES),
        logits_name("log_softmax_value_and_jvp", LOGIT_FEATURES),
        *(f"{op}_scaled_masked_causal" for op in _OF_RESULTS),
    )
}
KERNELS = OPERATIONS | PARTS

# Calls that run another one's kernel, with other names for its operands. softmax_jvp is one: the
# Jacobian is symmetric.
SAME_KERNEL = {
    "softmax_jvp": replace(
        OPERATIONS["softmax_vjp"],
        inputs=("y", "xt"),
        formula="dyt = y * (xt - sum_j y_j xt_j)",
    ),
    "softmax_value_and_jvp": replace(
        _VALUE_AND_VJP,
        inputs=("x", "xt"),
        outputs=("y", "dyt"),
        formula="y = softmax(x); dyt = y * (xt - sum_j y_j xt_j)",
    ),
}
SAME_KERNEL |= {
    logits_name(op, features): of_logits(SAME_KERNEL[op], features, op)
    for op, biased in (("softmax_jvp", False), ("softmax_value_and_jvp", True))
    for features in logit_variants(biased=biased)
}
# The logsumexp of compat.scipy, which calls the logits a.
SAME_KERNEL |= {
    of_a(name): replace(operation, inputs=("a", *operation.inputs[1:]), public="logsumexp")
    for name, operation in OPERATIONS.items()
    if name in ("logsumexp", "logsumexp_sign", "logsumexp_b", "logsumexp_b_sign")
}
# cross_entropy in place: its gradient is written to what the user gave as the logits.
SAME_KERNEL |= {
    in_place(name): replace(operation, outputs=("logits (inplace=True)",))
    for name, operation in PARTS.items()
    if operation.public == "cross_entropy" and operation.outputs
}

# Of pieces of rows, by the functions `partial` and `apply` that run them.
_PIECES = {
    name: of_pieces(whole)
    for name, whole in (KERNELS | SAME_KERNEL).items()
    if whole.patterns in (REDUCTIONS, SELECTIONS)
}
PIECES = {
    piece_of(name, function): replace(piece, public=function)
    for name, piece in _PIECES.items()
    for function in ("partial", "apply")
}
KERNELS |= {piece.name: piece for name, piece in _PIECES.items() if name in KERNELS}
