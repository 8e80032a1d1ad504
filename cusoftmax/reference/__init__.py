"""The softmax family in NumPy: the results that the kernels must agree with.

Inputs are converted to float64. That is exact except for integers beyond 2**53, which the kernels
round in the same way. Results are float64, or `numpy.longdouble` with ``extended=True``, which has
11 more bits (on x86) and so can judge float64 results too. Where `longdouble` is no wider than
float64, `EXTENDED` is False, and float64 results can be judged only to a few units in the last
place.
"""

from __future__ import annotations

import numpy as np

from cusoftmax.reference._errors import ulp_error, unit_roundoff, vjp_bound
from cusoftmax.reference._logarithms import (
    log_softmax,
    log_softmax_jvp,
    log_softmax_value_and_jvp,
    log_softmax_value_and_vjp,
    log_softmax_vjp,
    logsumexp,
    logsumexp_vjp,
)
from cusoftmax.reference._logits import logits, seen, shown
from cusoftmax.reference._losses import cross_entropy
from cusoftmax.reference._rows import rows_of
from cusoftmax.reference._segments import segment_softmax, segment_softmax_vjp, segment_sum
from cusoftmax.reference._selection import gumbel_softmax, perturbed, sample, topk_softmax
from cusoftmax.reference._softmax import (
    softmax,
    softmax_hvp,
    softmax_jacobian,
    softmax_jacobian_entries,
    softmax_jvp,
    softmax_value_and_jvp,
    softmax_value_and_vjp,
    softmax_vjp,
    softmax_vjp_vjp,
)

__all__ = [
    "EXTENDED",
    "cross_entropy",
    "gumbel_softmax",
    "log_softmax",
    "log_softmax_jvp",
    "log_softmax_value_and_jvp",
    "log_softmax_value_and_vjp",
    "log_softmax_vjp",
    "logits",
    "logsumexp",
    "logsumexp_vjp",
    "perturbed",
    "rows_of",
    "sample",
    "seen",
    "segment_softmax",
    "segment_softmax_vjp",
    "segment_sum",
    "shown",
    "softmax",
    "softmax_hvp",
    "softmax_jacobian",
    "softmax_jacobian_entries",
    "softmax_jvp",
    "softmax_value_and_jvp",
    "softmax_value_and_vjp",
    "softmax_vjp",
    "softmax_vjp_vjp",
    "topk_softmax",
    "ulp_error",
    "unit_roundoff",
    "vjp_bound",
]

EXTENDED = bool(np.finfo(np.longdouble).nmant > 52)
