"""The entries of variants: one for each set of options of cross-entropy, and of logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import compress, product

from cusoftmax.operations.operation import MASK, PIECE, TOPK_PIECE, Operation
from cusoftmax.operations.options import (
    CROSS_ENTROPY_OPTIONS,
    CROSS_ENTROPY_RESULTS,
    FIRST_ROW,
    LOGIT_FEATURES,
    LOGIT_OPTIONS,
    PIECE_OPTIONS,
    cross_entropy_name,
    logits_name,
)


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
        exact_sums=True,  # for integer logits
        one_axis=True,
    )


def cross_entropy_variants() -> Iterator[Operation]:
    """Yield cross-entropy with each set of its options."""
    flags = (False, True)
    for soft, weight, smooth, capped in product(flags, repeat=4):
        if not (soft and smooth):  # kernels of soft targets always smooth: it costs them nothing
            for result in CROSS_ENTROPY_RESULTS:
                yield _cross_entropy(soft, weight, smooth, capped, result)


def of_logits(operation: Operation, features: tuple[str, ...], public: str) -> Operation:
    """Return the variant of an operation that transforms logits; `public` names its function."""
    bias = ("bias",) if "biased" in features else ()
    mask = (MASK,) if "masked" in features else ()
    return replace(
        operation,
        name=logits_name(operation.name, features),
        inputs=operation.inputs + bias + mask,
        auxiliary_inputs=bias + mask,
        source=operation.source or operation.name,
        public=public,
        features=features,
        options=LOGIT_OPTIONS,
        ordered="causal" in features,
        sum_inputs=operation.sum_inputs and operation.sum_inputs + mask,
        map_inputs=operation.map_inputs and operation.map_inputs + mask,
    )


def of_pieces(operation: Operation) -> Operation:
    """Return an operation of pieces of rows, whose nodes lie in the order of the dimensions."""
    draws = operation.selects and "seed" in operation.options
    return replace(
        operation,
        name=f"{operation.name}_piece",
        source=operation.source or operation.name,
        patterns=(TOPK_PIECE if operation.selects else PIECE,),
        options=operation.options + (FIRST_ROW,) * draws + PIECE_OPTIONS,
        ordered=True,
    )


def logit_variants(*, biased: bool) -> Iterator[tuple[str, ...]]:
    """Yield each set of features that logits may have, except the empty one."""
    words = LOGIT_FEATURES if biased else tuple(w for w in LOGIT_FEATURES if w != "biased")
    for chosen in product((False, True), repeat=len(words)):
        if any(chosen):
            yield tuple(compress(words, chosen))
