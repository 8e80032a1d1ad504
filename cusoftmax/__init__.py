"""Softmax and its derivatives for arrays on a GPU, as hand-written CUDA kernels.

An *array*, in all functions, is a ``cupy.ndarray`` or an array of another library on the current
GPU that shares its memory by DLPack or ``__cuda_array_interface__``, such as those of PyTorch, JAX
and Numba. They may be mixed and are not copied. Results are of the type of the first one, or are
the array given as `out`. ``docs/arrays.md`` has the rules.
"""

from cusoftmax.functions.explain import explain, warmup
from cusoftmax.functions.logarithms import (
    log_softmax,
    log_softmax_jvp,
    log_softmax_vjp,
    logsumexp,
    logsumexp_vjp,
)
from cusoftmax.functions.losses import cross_entropy, cross_entropy_vjp
from cusoftmax.functions.sampling import gumbel_softmax, sample
from cusoftmax.functions.segments import segment_softmax, segment_softmax_vjp
from cusoftmax.functions.selection import topk_softmax
from cusoftmax.functions.softmax import (
    softmax,
    softmax_hvp,
    softmax_jacobian,
    softmax_jvp,
    softmax_vjp,
    softmax_vjp_vjp,
)
from cusoftmax.functions.values import (
    log_softmax_value_and_jvp,
    log_softmax_value_and_vjp,
    softmax_value_and_jvp,
    softmax_value_and_vjp,
)

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "cross_entropy",
    "cross_entropy_vjp",
    "explain",
    "gumbel_softmax",
    "log_softmax",
    "log_softmax_jvp",
    "log_softmax_value_and_jvp",
    "log_softmax_value_and_vjp",
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
    "softmax_value_and_jvp",
    "softmax_value_and_vjp",
    "softmax_vjp",
    "softmax_vjp_vjp",
    "topk_softmax",
    "warmup",
]
