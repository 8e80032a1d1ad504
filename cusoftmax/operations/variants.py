"""Variants of operations: what cross-entropy's options and those of logits make of an entry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import compress, product

from cusoftmax.operations.operation import MASK, Operation

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


def cross_entropy_variants() -> Iterator[Operation]:
    """Yield cross-entropy with each set of its options."""
    flags = (False, True)
    for soft, weight, smooth, capped in product(flags, repeat=4):
        if not (soft and smooth):  # smoothing costs soft targets nothing: it is no variant of them
            for result in CROSS_ENTROPY_RESULTS:
                yield _cross_entropy(soft, weight, smooth, capped, result)


# Numbers of a call that transforms the logits: the absolute value of their scale (1 for 0) in two
# words, its sign, and over how many rows a causal order goes.
LOGIT_OPTIONS = ("scale", "scale_low", "sign", "queries")
LOGIT_FEATURES = ("scaled", "biased", "masked", "causal")


def logits_name(op: str, features: Iterable[str]) -> str:
    """Return the operation that does `op` of logits with some of `LOGIT_FEATURES`."""
    return "_".join((op, *(word for word in LOGIT_FEATURES if word in features)))


def of_logits(operation: Operation, features: tuple[str, ...], public: str) -> Operation:
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


def logit_variants(*, biased: bool) -> Iterator[tuple[str, ...]]:
    """Yield each set of features that logits may have; the empty one is not among them."""
    words = LOGIT_FEATURES if biased else tuple(w for w in LOGIT_FEATURES if w != "biased")
    for chosen in product((False, True), repeat=len(words)):
        if any(chosen):
            yield tuple(compress(words, chosen))
