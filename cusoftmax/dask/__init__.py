"""The functions of this package for arrays of Dask, whose blocks are NumPy's or CuPy's.

``import cusoftmax.dask`` needs ``dask.array``, which ``import cusoftmax`` never imports. Nothing is
computed until Dask is asked to. A row has the bits that it has on one device, whatever the chunks
are, whichever scheduler runs the tasks, and however many workers there are. docs/guide/dask.md
tells of clusters.
"""

from cusoftmax.dask.functions import (
    cross_entropy,
    cross_entropy_vjp,
    log_softmax,
    log_softmax_jvp,
    log_softmax_value_and_jvp,
    log_softmax_value_and_vjp,
    log_softmax_vjp,
    logsumexp,
    logsumexp_vjp,
    sample,
    softmax,
    softmax_hvp,
    softmax_jvp,
    softmax_value_and_jvp,
    softmax_value_and_vjp,
    softmax_vjp,
    softmax_vjp_vjp,
    topk_softmax,
)

__all__ = [
    "cross_entropy",
    "cross_entropy_vjp",
    "log_softmax",
    "log_softmax_jvp",
    "log_softmax_value_and_jvp",
    "log_softmax_value_and_vjp",
    "log_softmax_vjp",
    "logsumexp",
    "logsumexp_vjp",
    "sample",
    "softmax",
    "softmax_hvp",
    "softmax_jvp",
    "softmax_value_and_jvp",
    "softmax_value_and_vjp",
    "softmax_vjp",
    "softmax_vjp_vjp",
    "topk_softmax",
]
