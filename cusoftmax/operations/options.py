"""The options of a call: the variant of an operation that they name, and the numbers they pass."""

from __future__ import annotations

from collections.abc import Iterable


class LowWord(float):
    """An option that is passed as the rounding error of its value in the arithmetic's dtype."""


# The temperatures T of a sample. A lower one is treated as 0: 1 / T times a logit may overflow, and
# only the largest element has a result other than 0. A higher one is refused: 1 / T would be
# flushed to zero, and logits would no longer matter.
COLDEST, HOTTEST = 2.0**-100, 2.0**100
# Below it, the noise of a 16-bit result is as precise as that of a float32 one.
COLD = 1 / 32

# The keys of the rounds of the generator of noise (``numeric/philox.cuh``), the first of which is
# the seed: two words of 32 bits, to each of which a constant is added from one round to the next.
ROUND_KEYS = ("seed", *(f"seed_{k}" for k in range(1, 10)))
_WORD = 2**32 - 1


def round_keys(seed: int) -> tuple[int, ...]:
    """Return the keys of the rounds, as `ROUND_KEYS` names them: 64 bits as signed numbers."""
    keys = (
        (seed + k * 0x9E3779B9 & _WORD) + ((seed >> 32) + k * 0xBB67AE85 & _WORD) * 2**32
        for k in range(len(ROUND_KEYS))
    )
    return tuple(key - (key >> 63 << 64) for key in keys)


CROSS_ENTROPY_OPTIONS = (
    "ignore_index",
    "stride",  # of the table of weights, in bytes
    "keep",  # 1 - label_smoothing
    "label_smoothing",
    "share",  # label_smoothing / C
    "z_loss",
    "softcap",
    "four_per_cap",
    "factor",  # of the gradient
)
# What a variant computes: the loss; the loss and its gradient; the loss and the product of its
# gradient with an upstream gradient; only that product.
CROSS_ENTROPY_RESULTS = ("", "grad", "grad_up", "vjp")


def cross_entropy_name(*, soft: bool, weight: bool, smooth: bool, capped: bool, result: str) -> str:
    """Return the name of a variant; `result` is one of `CROSS_ENTROPY_RESULTS`."""
    features = (("soft", soft), ("weight", weight), ("smooth", smooth), ("capped", capped))
    words = [word for word, wanted in features if wanted]
    return "_".join(("cross_entropy", *words, *([result] if result else ())))


def in_place(name: str) -> str:
    """Return the name of a variant of cross-entropy whose gradient replaces the logits."""
    return f"{name}_inplace"


def of_a(name: str) -> str:
    """Return the name of a logsumexp whose logits are called ``a``, as in SciPy."""
    return f"{name}_of_a"


# Numbers passed with a piece of rows: the length of the whole rows, the element at which the piece
# starts, whether it ends with the row, and how many nodes are folded.
PIECE_OPTIONS = ("row_length", "first", "row_ends", "nodes")
# Before these, where elements are drawn: the number of the first row, as noise depends on numbers.
FIRST_ROW = "first_row"


def piece_of(name: str, function: str = "partial") -> str:
    """Return the name of an operation of pieces of rows; its function is partial or apply."""
    return f"{name}_{function}"


# Numbers passed with a call that transforms the logits: the absolute value of the scale (1 if the
# scale is 0) in two words, its sign, and the number of rows of a causal matrix.
LOGIT_OPTIONS = ("scale", "scale_low", "sign", "queries")
LOGIT_FEATURES = ("scaled", "biased", "masked", "causal")


def logits_name(op: str, features: Iterable[str]) -> str:
    """Return the name of `op` of logits with some of `LOGIT_FEATURES`."""
    return "_".join((op, *(word for word in LOGIT_FEATURES if word in features)))
