"""Arrays beyond the device's memory: rows of host arrays, through the device in blocks.

Sources and targets are arrays of the host that are read and written by slices: of NumPy,
`numpy.memmap`, Zarr, HDF5 and others. While the device computes one block, the host reads the next
and writes the last one, and copies run beside the kernels. Rows that are longer than the device
holds are read twice, in pieces (`cusoftmax.nodes`). A row has the bits that it has on the device.
"""

from cusoftmax.streaming.functions import (
    cross_entropy,
    log_softmax,
    logsumexp,
    sample,
    softmax,
    softmax_vjp,
    topk_softmax,
)
from cusoftmax.streaming.pipeline import BlockError, Interrupted

__all__ = [
    "BlockError",
    "Interrupted",
    "cross_entropy",
    "log_softmax",
    "logsumexp",
    "sample",
    "softmax",
    "softmax_vjp",
    "topk_softmax",
]
