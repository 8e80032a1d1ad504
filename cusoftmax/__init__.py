"""Softmax and its derivatives on CuPy arrays, by hand-written CUDA kernels."""

from cusoftmax.api import (
    explain,
    log_softmax,
    log_softmax_jvp,
    log_softmax_vjp,
    logsumexp,
    logsumexp_vjp,
    segment_softmax,
    segment_softmax_vjp,
    softmax,
    softmax_hvp,
    softmax_jacobian,
    softmax_jvp,
    softmax_vjp,
    softmax_vjp_vjp,
    topk_softmax,
    warmup,
)
from cusoftmax.losses import cross_entropy, cross_entropy_vjp
from cusoftmax.sampling import gumbel_softmax, sample

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "cross_entropy",
    "cross_entropy_vjp",
    "explain",
    "gumbel_softmax",
    "log_softmax",
    "log_softmax_jvp",
    "log_softmax_vjp",
    "logsumexp",
    "logsumexp_vjp",
    "sample",
    "segment_softmax",
    "segment_softmax_vjp",
    "softmax",
    "softmax_hvp",
    "softmax_jacobian",
    "softmax_jvp",
    "softmax_vjp",
    "softmax_vjp_vjp",
    "topk_softmax",
    "warmup",
]
