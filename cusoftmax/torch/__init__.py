"""The functions of this package for PyTorch's tensors, with every kind of derivative.

``import cusoftmax.torch`` needs PyTorch, which ``import cusoftmax`` never imports. Names, arguments
and defaults are those of ``torch`` and ``torch.nn``; docs/torch.md says what else there is.
"""

from cusoftmax.torch.functional import (
    cross_entropy,
    gumbel_softmax,
    log_softmax,
    logsumexp,
    sample,
    segment_softmax,
    softmax,
    topk_softmax,
)
from cusoftmax.torch.linear_loss import linear_cross_entropy
from cusoftmax.torch.modules import CrossEntropyLoss, LogSoftmax, Softmax

__all__ = [
    "CrossEntropyLoss",
    "LogSoftmax",
    "Softmax",
    "cross_entropy",
    "gumbel_softmax",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "sample",
    "segment_softmax",
    "softmax",
    "topk_softmax",
]
