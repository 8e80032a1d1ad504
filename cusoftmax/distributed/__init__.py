"""Rows over several ranks: each has a slice of the classes of every row.

For vocabularies that are divided among GPUs. A call reads its slice on each rank, all ranks gather
the nodes of all slices (``cusoftmax.nodes``), a few words a row, and each writes the results of its
slice. They have the bits that they have on one device. `topk_softmax` and `sample` are not among
the functions, since there are no nodes for them.

Communicators are those of mpi4py, and CuPy's of NCCL; neither is imported here.
"""

from cusoftmax.distributed.functions import (
    cross_entropy,
    cross_entropy_vjp,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    logsumexp_vjp,
    softmax,
    softmax_vjp,
)
from cusoftmax.distributed.ranks import RankError, Ranks, gathered_bytes, slices

__all__ = [
    "RankError",
    "Ranks",
    "cross_entropy",
    "cross_entropy_vjp",
    "gathered_bytes",
    "log_softmax",
    "log_softmax_vjp",
    "logsumexp",
    "logsumexp_vjp",
    "slices",
    "softmax",
    "softmax_vjp",
]
