"""Summaries of several numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from benchmarks.measuring.results import Times


def quantiles(seconds: Sequence[float]) -> Times:
    """Return median and quantiles."""
    q10, q25, median, q75, q90 = np.quantile(seconds, (0.1, 0.25, 0.5, 0.75, 0.9)).tolist()
    return Times(median, q10, q25, q75, q90, float(min(seconds)), len(seconds))


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))
