"""Rows over several ranks: each has a slice of the classes of every row.

For vocabularies that are divided among GPUs. A call reads its slice on each rank, all ranks gather
the nodes of all slices (``cusoftmax.nodes``), a few words a row, and each writes the results of its
slice, or of the rows. They have the bits that they have on one device.

Communicators are those of mpi4py, and CuPy's of NCCL; neither is imported here.
"""

from cusoftmax.distributed.functions import (
    cross_entropy,
    cross_entropy_vjp,
    log_softmax,
    log_softmax_vjp,
    logsumexp,
    logsumexp_vjp,
    sample,
    softmax,
    softmax_vjp,
    topk_softmax,
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
    "sample",
    "slices",
    "softmax",
    "softmax_vjp",
    "topk_softmax",
]
