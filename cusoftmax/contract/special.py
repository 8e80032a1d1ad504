"""Values that are no ordinary numbers, and which of them each input may have.

They stand for the last four elements of a row; of an input with one value a row, the second is it.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, nan

Rows = Mapping[str, tuple[float, float, float, float]]

LOGITS: Rows = {
    "a NaN": (1.0, nan, 0.0, 2.0),
    "+inf": (1.0, inf, 0.0, 2.0),
    "+inf twice": (inf, inf, 0.0, -inf),
    "+inf and NaN": (inf, nan, 0.0, 2.0),
    "some -inf": (1.0, -inf, 0.0, -inf),
    "all -inf": (-inf, -inf, -inf, -inf),
    "one left": (-inf, 3.0, -inf, -inf),
    "far apart": (-30000.0, 30000.0, 0.0, 1.0),
}
PROBABILITIES: Rows = {
    "a NaN": (0.5, nan, 0.25, 0.125),
    "one of them": (0.0, 1.0, 0.0, 0.0),
    "none": (0.0, 0.0, 0.0, 0.0),
}
LOG_PROBABILITIES: Rows = {
    "a NaN": (-1.0, nan, -0.5, -2.0),
    "some -inf": (-0.7, -inf, -0.7, -inf),
    "all -inf": (-inf, -inf, -inf, -inf),
    "one of them": (-inf, 0.0, -inf, -inf),
}
VECTORS: Rows = {
    "a NaN": (1.0, nan, 0.0, 2.0),
    "zeros": (0.0, 0.0, -0.0, 0.0),
    "+inf": (1.0, inf, 0.0, 2.0),
    "both infinities": (1.0, -inf, inf, 2.0),
}
# By the names of inputs in the table of operations; all others are vectors.
SPECIAL: Mapping[str, Rows] = {
    "x": LOGITS,
    "logits": LOGITS,
    "bias": LOGITS,
    "y": PROBABILITIES,
    "y_i": PROBABILITIES,
    "target": PROBABILITIES,
    "logy": LOG_PROBABILITIES,
}
# What the other elements of such a row are: the first chunks of long rows have nothing, or little.
FILLING: Mapping[str, float] = {"y": 0.0, "y_i": 0.0, "target": 0.0, "logy": -inf}


def filling(name: str, values: tuple[float, ...]) -> float:
    """Return the other elements of a row of an input that ends in special values."""
    return FILLING.get(name, -inf if name in SPECIAL and -inf in values else -20.0)
