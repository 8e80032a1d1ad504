"""Softmax and its derivatives on CuPy arrays, by hand-written CUDA kernels."""

from cusoftmax.api import (
    explain,
    softmax,
    softmax_hvp,
    softmax_jacobian,
    softmax_jvp,
    softmax_vjp,
    softmax_vjp_vjp,
    warmup,
)
from cusoftmax.logarithms import (
    log_softmax,
    log_softmax_jvp,
    log_softmax_vjp,
    logsumexp,
    logsumexp_vjp,
)
from cusoftmax.losses import cross_entropy, cross_entropy_vjp
from cusoftmax.sampling import gumbel_softmax, sample
from cusoftmax.segments import segment_softmax, segment_softmax_vjp
from cusoftmax.selection import topk_softmax

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
