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
    log_softmax_vjp,
    logsumexp,
    logsumexp_vjp,
    softmax,
    softmax_jvp,
    softmax_vjp,
)

__all__ = [
    "cross_entropy",
    "cross_entropy_vjp",
    "log_softmax",
    "log_softmax_jvp",
    "log_softmax_vjp",
    "logsumexp",
    "logsumexp_vjp",
    "softmax",
    "softmax_jvp",
    "softmax_vjp",
]
