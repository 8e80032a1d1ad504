"""Softmax and its derivatives on CuPy arrays, by hand-written CUDA kernels."""

from cusoftmax.api import (
    explain,
    log_softmax,
    log_softmax_jvp,
    log_softmax_vjp,
    logsumexp,
    logsumexp_vjp,
    softmax,
    softmax_hvp,
    softmax_jacobian,
    softmax_jvp,
    softmax_vjp,
    softmax_vjp_vjp,
    topk_softmax,
    warmup,
)

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "explain",
    "log_softmax",
    "log_softmax_jvp",
    "log_softmax_vjp",
    "logsumexp",
    "logsumexp_vjp",
    "softmax",
    "softmax_hvp",
    "softmax_jacobian",
    "softmax_jvp",
    "softmax_vjp",
    "softmax_vjp_vjp",
    "topk_softmax",
    "warmup",
]
