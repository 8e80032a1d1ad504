"""Softmax and its Jacobian-vector products on CuPy arrays, by hand-written CUDA kernels."""

from cusoftmax.api import explain, softmax, softmax_jvp, softmax_vjp, warmup

__version__ = "0.1.0"

__all__ = ["__version__", "explain", "softmax", "softmax_jvp", "softmax_vjp", "warmup"]
