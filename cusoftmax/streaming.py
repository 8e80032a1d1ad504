"""Arrays beyond the device's memory: rows of host arrays, through the device in blocks.

Sources and targets are arrays of the host that are read and written by slices: of NumPy,
`numpy.memmap`, Zarr, HDF5 and others. While the device computes one block, the host reads the next
and writes the last one, and copies run beside the kernels. Rows that are longer than the device
holds are read twice, in pieces (`cusoftmax.nodes`). A row has the bits that it has on the device.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

import cusoftmax as cs
from cusoftmax import nodes
from cusoftmax.operations.dtypes import FLOATS, INDICES, INPUTS, compute_dtype, output_dtype
from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import cross_entropy_name, piece_of
from cusoftmax.planning.checks import (
    accepted_name,
    as_dtype,
    check_shape,
    described,
    float_name,
    full_name,
    is_array,
    plain_bool,
    plain_count,
    resolve_axes,
)
from cusoftmax.planning.pieces import chunk_of, node_dtype, node_words
from cusoftmax.runtime import copies

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = [
    "BlockError",
    "Interrupted",
    "cross_entropy",
    "log_softmax",
    "logsumexp",
    "softmax",
    "softmax_vjp",
]

_SLOTS = 2  # blocks on the device: one is computed while another is copied
_LEAST = 1024  # elements of a piece: a multiple of every chunk
_NODES = 1 << 14  # bytes for the nodes of a row's pieces, which are combined as they come
_DEFAULT_BYTES = 1 << 28


class Interrupted(KeyboardInterrupt):
    """A call was interrupted; the blocks before `resume` are finished.

    Parameters
    ----------
    message : str
        What happened, and how to go on.
    resume : int
        To be given to the same call, which then goes on from there.
    """

    def __init__(self, message: str, resume: int) -> None:
        super().__init__(message)
        self.resume = resume


class BlockError(RuntimeError):
    """A block could not be read or written; the blocks before `resume` are finished.

    Parameters
    ----------
    message : str
        What happened, and how to go on.
    resume : int
        To be given to the same call, which then goes on from there.
    """

    def __init__(self, message: str, resume: int) -> None:
        super().__init__(message)
        self.resume = resume


def softmax(
    source: Any,
    out: Any = None,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Softmax of an array of the host, in blocks: ``y_i = exp(x_i) / sum_j exp(x_j)``.

    As `cusoftmax.softmax`, of what the device does not hold at once.

    Parameters
    ----------
    source : array of the host
        What has a shape, a dtype that `cusoftmax.softmax` accepts, and gives NumPy arrays for
        slices.
    out : array of the host, optional
        What takes results by slices: the shape of `source`, and a float dtype. Not `source` itself.
    axis : int
        The axis of the rows.
    dtype : dtype, optional
        Dtype of the result, by default that of `out` or, without `out`, that of `source`, and
        float64 for integers and bool.
    device_bytes : int, optional
        The most memory that is taken on the device. As many bytes or fewer are pinned on the host.
        By default half of what is free, and at most 256 MiB.
    progress : bool
        Whether to show the progress on standard error, if that is a terminal.
    resume : int
        What an `Interrupted` or a `BlockError` of the same call says, with the same arguments.

    Returns
    -------
    array of the host
        `out` or, if it was not given, an array of NumPy of the shape of `source` and of `dtype`.

    Raises
    ------
    TypeError
        If an array is none of the host or has a dtype that is not accepted, or another argument is
        of the wrong kind.
    ValueError
        If `out` has another shape, `device_bytes` is too few for a piece of 1024 elements, or
        `resume` is no block; if `axis` is out of range (`numpy.exceptions.AxisError`).
    BlockError
        If a block cannot be read or written: the message names it and its rows.

    Notes
    -----
    After Ctrl-C, the blocks that are on the device are finished. `Interrupted`, which is a
    KeyboardInterrupt, then says with which `resume` the same call goes on.

    Each row is read once if the device holds it twice, with its results, and else twice. Rows have
    the bits of `cusoftmax.softmax` of contiguous rows, whatever `device_bytes` and `axis` are.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> x = numpy.array([[2.0, 4.0, 2.0, 1.0]])  # or numpy.memmap, or a dataset
    >>> cusoftmax.streaming.softmax(x).round(4)
    array([[0.1025, 0.7573, 0.1025, 0.0377]])
    """
    job = _Job.of_one("softmax", source, out, axis, dtype)
    return _run(job, device_bytes, progress, resume)


def log_softmax(
    source: Any,
    out: Any = None,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Logarithm of softmax of an array of the host: ``y_i = x_i - log(sum_j exp(x_j))``.

    As `cusoftmax.log_softmax`, in blocks.

    Parameters
    ----------
    source, out, axis, dtype, device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    array of the host
        `out` or, if it was not given, an array of NumPy of the shape of `source` and of `dtype`.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> cusoftmax.streaming.log_softmax(numpy.array([[2.0, 4.0, 2.0, 1.0]])).round(4)
    array([[-2.278, -0.278, -2.278, -3.278]])
    """
    job = _Job.of_one("log_softmax", source, out, axis, dtype)
    return _run(job, device_bytes, progress, resume)


def logsumexp(
    source: Any,
    out: Any = None,
    axis: int = -1,
    dtype: DTypeLike | None = None,
    *,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Logarithm of a sum of exponentials of an array of the host: ``log(sum_j exp(x_j))``.

    As `cusoftmax.logsumexp`, in blocks.

    Parameters
    ----------
    source : array of the host
        As in `softmax`.
    out : array of the host, optional
        What takes results by slices: the shape of `source` without the axis, and a float dtype.
    axis, dtype, device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    array of the host
        `out` or, if it was not given, an array of NumPy of `dtype`, of the shape of `source`
        without the axis.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`.

    Notes
    -----
    Each row is read once, however long.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> cusoftmax.streaming.logsumexp(numpy.array([[2.0, 4.0, 2.0, 1.0]])).round(4)
    array([4.278])
    """
    job = _Job.of_one("logsumexp", source, out, axis, dtype)
    return _run(job, device_bytes, progress, resume)


def softmax_vjp(
    y: Any,
    dy: Any,
    out: Any = None,
    axis: int = -1,
    *,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Gradient with respect to softmax's input: ``dx = y * (dy - sum_j y_j dy_j)``.

    As `cusoftmax.softmax_vjp`, in blocks.

    Parameters
    ----------
    y, dy : array of the host
        The result of softmax, and the gradient with respect to it, of one shape. Their dtypes are
        those that `cusoftmax.softmax_vjp` accepts.
    out : array of the host, optional
        What takes results by slices: the same shape, and the dtype of the result. Not `y` or `dy`.
    axis, device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    array of the host
        `out` or, if it was not given, an array of NumPy of their shape, and of the wider of their
        dtypes.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> y, dy = numpy.array([[0.25, 0.75]]), numpy.array([[1.0, 0.0]])
    >>> cusoftmax.streaming.softmax_vjp(y, dy)
    array([[ 0.1875, -0.1875]])
    """
    op = "softmax_vjp"
    sources = [_checked(op, "y", y, INPUTS), _checked(op, "dy", dy, INPUTS)]
    shape, axis = _rows(op, "y", sources[0], axis)
    check_shape(op, "dy", tuple(dy.shape), "y", shape, shape)
    wide = as_dtype(op, output_dtype([side.dtype.name for side in sources]))
    job = _Job(op, op, shape, axis, sources, [_target(op, "out", out, shape, wide, True)])
    return _run(job, device_bytes, progress, resume)


def cross_entropy(
    logits: Any,
    target: Any,
    out: Any = None,
    axis: int = -1,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    grad: bool = False,
    device_bytes: int | None = None,
    progress: bool = True,
    resume: int = 0,
) -> Any:
    """Loss of each row of logits, ``log(sum_j exp(x_j)) - x_t``, and the gradient of their sum.

    As `cusoftmax.cross_entropy` without a reduction, in blocks.

    Parameters
    ----------
    logits : array of the host
        Any shape and accepted dtype, with the classes along `axis`.
    target : array of the host
        Integers, the class of each row, with the shape of `logits` without `axis`; or floats, the
        probability of each class, with the shape of `logits`.
    out : array of the host, or two, optional
        What takes the losses by slices; with `grad` a tuple, of what takes the losses and the
        gradient. Of the shapes and the dtype of the results.
    axis : int
        The axis of the classes.
    weight : array of the host, optional
        A weight for each class, with shape ``(C,)`` and a float dtype. The device has all of it,
        however many of `device_bytes` that takes.
    ignore_index, label_smoothing, z_loss, softcap
        As in `cusoftmax.cross_entropy`.
    grad : bool
        Whether to return the gradient too.
    device_bytes, progress, resume
        As in `softmax`.

    Returns
    -------
    loss : array of the host
        The loss of each row, with the shape of `logits` without the axis. Its dtype is that of
        `logits`, or float64 for integers.
    dlogits : array of the host
        With `grad`: the gradient, with the shape of `logits` and the dtype of the loss.

    Raises
    ------
    TypeError, ValueError, BlockError
        As in `softmax`; and if an option is out of range.

    Examples
    --------
    >>> import numpy, cusoftmax.streaming
    >>> logits, target = numpy.array([[2.0, 4.0, 2.0, 1.0]]), numpy.array([1])
    >>> loss, dlogits = cusoftmax.streaming.cross_entropy(logits, target, grad=True)
    >>> loss.round(4), dlogits.round(4)
    (array([0.278]), array([[ 0.1025, -0.2427,  0.1025,  0.0377]]))
    """
    op = "cross_entropy"
    grad = plain_bool(op, "grad", grad)
    first = _checked(op, "logits", logits, INPUTS)
    second = _checked(op, "target", target, (*INDICES, *FLOATS))
    shape, axis = _rows(op, "logits", first, axis)
    of_rows = shape[:axis] + shape[axis + 1 :]
    soft = second.dtype.name in FLOATS
    check_shape(op, "target", tuple(target.shape), "logits", shape, shape if soft else of_rows)
    second.along = soft
    table = None
    if weight is not None:
        table = _checked(op, "weight", weight, tuple(FLOATS))
        check_shape(op, "weight", tuple(weight.shape), "logits", shape, (shape[axis],))
    wide = as_dtype(op, output_dtype([first.dtype.name]))
    given = (None, None) if out is None else out if grad else (out,)
    if not isinstance(given, tuple) or (grad and len(given) != 2):
        raise TypeError(f"{op}: out={described(out)}; with grad=True give two: losses, gradient")
    targets = [_target(op, "out[0]" if grad else "out", given[0], of_rows, wide, False)]
    if grad:
        targets.append(_target(op, "out[1]", given[1], shape, wide, True))
    options = {
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "softcap": softcap,
        "grad": grad,
    }
    # The numbers are checked before a block is read.
    from cusoftmax.functions._losses import Options

    counted = [side.dtype.name for side in (first, *([second] if soft else []), table) if side]
    arithmetic = compute_dtype(counted, wide.name)
    Options.checked(op, arithmetic, ignore_index, label_smoothing, z_loss, softcap)
    kernel = cross_entropy_name(
        soft=soft,
        weight=table is not None,
        smooth=not soft and label_smoothing > 0,
        capped=softcap is not None,
        result="grad" if grad else "",
    )
    job = _Job(op, kernel, shape, axis, [first, second], targets, options, weight=table)
    return _run(job, device_bytes, progress, resume)


# ------------------------------------------------------------------------------------------- a call


@dataclass
class _Side:
    """A source or a target: an array of the host, with a value for each element or each row."""

    name: str
    array: Any
    dtype: np.dtype[Any]
    along: bool = True

    def bytes(self, rows: int, elements: int) -> int:
        """Return the device memory of a block."""
        return copies.padded(rows * (elements if self.along else 1) * self.dtype.itemsize)


@dataclass
class _Job:
    """A function, its sources and its targets."""

    function: str
    kernel: str  # its operation
    shape: tuple[int, ...]
    axis: int
    sources: list[_Side]
    targets: list[_Side]
    options: dict[str, Any] | None = None  # of the loss
    dtype: Any = None  # that is asked for
    weight: _Side | None = None  # of the classes, which is on the device as a whole

    @staticmethod
    def of_one(op: str, source: Any, out: Any, axis: int, dtype: Any) -> _Job:
        """Return the job of a function of one array."""
        side = _checked(op, "source", source, INPUTS)
        shape, axis = _rows(op, "source", side, axis)
        of_elements = op != "logsumexp"
        if dtype is not None:
            wanted = as_dtype(op, dtype)
        elif out is not None:
            wanted = _checked(op, "out", out, tuple(FLOATS)).dtype
        else:
            wanted = as_dtype(op, output_dtype([side.dtype.name]))
        float_name(op, "dtype=", wanted)
        has = shape if of_elements else shape[:axis] + shape[axis + 1 :]
        target = _target(op, "out", out, has, wanted, of_elements)
        return _Job(op, op, shape, axis, [side], [target], None, wanted)

    @property
    def batch(self) -> tuple[int, ...]:
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def length(self) -> int:
        return self.shape[self.axis]

    @property
    def writes_elements(self) -> bool:
        return any(target.along for target in self.targets)

    def pieces_written(self, blocks: _Blocks) -> int:
        """Return in how many pieces each block has results."""
        return blocks.pieces if self.writes_elements else 1

    def slot_bytes(self, rows: int, elements: int) -> int:
        """Return the device memory of a block: what it has, its results, and its workspace."""
        sides = sum(side.bytes(rows, elements) for side in (*self.sources, *self.targets))
        return sides + self.node_bytes(rows, elements)

    def node_bytes(self, rows: int, elements: int) -> int:
        """Return the device memory of a node for each chunk, which no workspace exceeds."""
        op = piece_of(self.kernel)
        sources = iter(self.sources)
        read = [self.weight if n == "weight" else next(sources) for n in find(op).read]
        written = self.targets[::-1]  # a loss comes before the gradient here, after it there
        dtypes = tuple(side.dtype.name for side in (*read, *written) if side)
        parts = -(-elements // chunk_of(op, dtypes)) + 1
        return copies.padded(
            rows * parts * node_words(op, dtypes) * node_dtype(op, dtypes).itemsize
        )

    @property
    def weight_bytes(self) -> int:
        """The device memory of the weights."""
        return self.weight.bytes(1, self.length) if self.weight else 0

    def rows_bytes(self, rows: int) -> int:
        """Return the device memory that blocks of whole rows take."""
        return _SLOTS * self.slot_bytes(rows, self.length) + self.weight_bytes

    def piece_bytes(self, elements: int) -> int:
        """Return the device memory that pieces of a row take: the blocks, and their nodes."""
        nodes_of_two = 2 * (self.node_bytes(1, elements) + _NODES)
        return _SLOTS * self.slot_bytes(1, elements) + nodes_of_two + self.weight_bytes

    def whole(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Return the results of whole rows on the device."""
        if self.options is not None:
            options = {"reduction": "none", **self.options}
        else:
            options = {} if self.dtype is None else {"dtype": self.dtype}
        inputs, table = self._apart(inputs)
        results = getattr(cs, self.function)(*inputs, **options, **table)
        return results if isinstance(results, tuple) else (results,)

    def partial(self, inputs: list[Any], first: int) -> nodes.Nodes:
        """Return the nodes of a piece on the device."""
        (x, *others), table = self._apart(inputs)
        return nodes.partial(
            x,
            self.function,
            *others,
            offset=first,
            length=self.length,
            dtype=self.dtype,
            **(self.options or {}),
            **table,
        )

    def apply(self, inputs: list[Any], whole: nodes.Nodes, first: int) -> tuple[Any, ...]:
        """Return the results of a piece on the device."""
        (x, *others), table = self._apart(inputs)
        results = nodes.apply(x, whole, *others, offset=first, **table)
        return results if isinstance(results, tuple) else (results,)

    def _apart(self, inputs: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the inputs of a block, and the weights, which come last, as an argument."""
        return (inputs[:-1], {"weight": inputs[-1]}) if self.weight else (inputs, {})


def _checked(caller: str, name: str, array: Any, accepted: tuple[str, ...]) -> _Side:
    """Return an array of the host; TypeError if it is none."""
    if is_array(array):
        raise TypeError(
            f"{caller}: {name} is on the device; pass it to cusoftmax.{caller}, and arrays of the "
            f"host here"
        )
    if not all(hasattr(array, each) for each in ("shape", "dtype", "__getitem__")):
        raise TypeError(
            f"{caller}: {name} is a {full_name(type(array))}; give an array of the host that has a "
            f"shape, a dtype and slices"
        )
    dtype = as_dtype(caller, array.dtype)
    accepted_name(caller, f"{name} has dtype", dtype, accepted)
    return _Side(name, array, dtype)


def _rows(caller: str, name: str, side: _Side, axis: Any) -> tuple[tuple[int, ...], int]:
    """Return the shape of an array, and the axis of its rows."""
    shape = tuple(int(size) for size in side.array.shape)
    if not shape:
        raise ValueError(f"{caller}: {name} has no dimensions; give it at least one")
    (along,) = resolve_axes(caller, axis, len(shape), several=False)
    return shape, along


def _target(
    caller: str, name: str, array: Any, shape: tuple[int, ...], dtype: np.dtype[Any], along: bool
) -> _Side:
    """Return where results go, an array of NumPy if none is given."""
    if array is None:
        return _Side(name, np.empty(shape, dtype), dtype, along)
    side = _checked(caller, name, array, tuple(FLOATS))
    if not hasattr(array, "__setitem__"):
        raise TypeError(f"{caller}: {name} is a {full_name(type(array))}, which cannot be written")
    if tuple(array.shape) != shape:
        raise ValueError(f"{caller}: {name} has shape {tuple(array.shape)}; give it shape {shape}")
    if side.dtype != dtype:
        raise TypeError(f"{caller}: {name} has dtype {side.dtype}, and the result {dtype}")
    side.along = along
    return side


# ------------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class _Blocks:
    """How rows are divided: blocks of `rows` of them, or pieces of `elements` of one.

    Rows of a block differ in the last dimensions of `batch`, and in some places of the one before.
    """

    batch: tuple[int, ...]
    length: int
    rows: int
    elements: int

    @property
    def pieces(self) -> int:
        """Pieces of a row."""
        return max(1, -(-self.length // self.elements))

    def _split(self) -> tuple[int, int, int]:
        """Return the dimension that is cut, the places of a block there, and the cuts."""
        d, inner = len(self.batch), 1
        while d and inner * self.batch[d - 1] <= self.rows:
            d -= 1
            inner *= self.batch[d]
        if not d:
            return 0, 0, 1
        step = max(1, self.rows // inner)
        return d, step, -(-self.batch[d - 1] // step)

    def __len__(self) -> int:
        d, _, cuts = self._split()
        return prod(self.batch[: max(d - 1, 0)]) * cuts if prod(self.batch) else 0

    def __getitem__(self, number: int) -> tuple[slice, ...]:
        """Return the places of a block in each dimension of `batch`."""
        d, step, cuts = self._split()
        inner = tuple(slice(0, size) for size in self.batch[d:])
        if not d:
            return inner
        outer, cut = divmod(number, cuts)
        places = np.unravel_index(outer, self.batch[: d - 1]) if d > 1 else ()
        end = min(self.batch[d - 1], (cut + 1) * step)
        return (*(slice(int(i), int(i) + 1) for i in places), slice(cut * step, end), *inner)


def _divided(job: _Job, device_bytes: int) -> _Blocks:
    """Return the largest blocks that fit on the device, `_SLOTS` of them."""

    def most(limit: int, fits: Callable[[int], bool]) -> int:
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    count = max(1, prod(job.batch))
    rows = most(count, lambda rows: job.rows_bytes(rows) <= device_bytes)
    if rows:
        return _Blocks(job.batch, job.length, rows, max(1, job.length))
    elements = _LEAST
    while elements < job.length and job.piece_bytes(2 * elements) <= device_bytes:
        elements *= 2
    if job.piece_bytes(elements) > device_bytes:
        least = min(job.piece_bytes(_LEAST), job.rows_bytes(1))
        raise ValueError(
            f"{job.function}: device_bytes={device_bytes} is too few; give {least} or more"
        )
    return _Blocks(job.batch, job.length, 1, elements)


class _Slot:
    """A place for a block: on the device, and for its copies in pinned memory of the host."""

    def __init__(self, region: copies.Region, memory: np.ndarray[Any, Any]) -> None:
        self.region, self._memory, self._used = region, memory, 0

    def clear(self) -> None:
        self.region.clear()
        self._used = 0

    def host(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """Return pinned memory."""
        nbytes = prod(shape) * dtype.itemsize
        part = self._memory[self._used : self._used + nbytes]
        self._used += copies.padded(nbytes)
        return part.view(dtype).reshape(shape)


@dataclass
class _Pending:
    """A block that is on the device, and what is left to be done with it."""

    mark: Any
    number: int | None = None  # of the block; None if it has no results
    results: tuple[tuple[_Side, tuple[slice, ...], np.ndarray[Any, Any]], ...] = ()


class _Failed(Exception):
    """A block could not be read or written."""

    def __init__(self, doing: str, number: int) -> None:
        super().__init__(doing)
        self.doing, self.number = doing, number


class _Pipeline:
    """Moves blocks through the device."""

    def __init__(self, job: _Job, blocks: _Blocks, show: Callable[[int], None]) -> None:
        self._job, self._blocks, self._show = job, blocks, show
        rows = min(blocks.rows, max(1, prod(job.batch)))
        size = job.slot_bytes(rows, min(blocks.elements, max(1, job.length)))
        parts = [size] * _SLOTS
        if blocks.pieces > 1:
            parts += [job.node_bytes(1, blocks.elements) + _NODES] * 2
        self._device = copies.open_device()
        *regions, kept = copies.regions([*parts, job.weight_bytes])
        self._slots = [_Slot(region, self._device.pinned(size)) for region in regions[:_SLOTS]]
        self._nodes = regions[_SLOTS:]
        self._kept = _Slot(kept, self._device.pinned(job.weight_bytes))
        self._weight: list[Any] = []  # the array, once it is on the device
        self._pending: deque[_Pending] = deque()
        self._turn = 0
        self.finished = 0

    @property
    def total(self) -> int:
        """Blocks that have results."""
        return len(self._blocks) * self._job.pieces_written(self._blocks)

    def run(self, start: int) -> None:
        self.finished = start
        if self._job.weight:
            self._weight = [self._copied(self._kept, self._job.weight, (slice(None),), start)]
        pieces = self._job.pieces_written(self._blocks)
        for number in range(start, self.total):
            block, piece = divmod(number, pieces)
            places = self._blocks[block]
            if self._blocks.pieces == 1:
                self._submit(number, places, 0, self._job.length, self._job.whole)
                continue
            if piece == 0 or number == start:
                whole = self._fold(number, places)
            first, end = self._piece(piece) if self._job.writes_elements else (0, 0)
            apply = partial(self._job.apply, whole=whole, first=first)
            self._submit(number, places, first, end, apply)
        self.finish_all()

    def finish_all(self) -> None:
        """Wait for the device, and write all results."""
        while self._pending:
            self._finish()

    def close(self) -> None:
        self._device.close()

    def _piece(self, number: int) -> tuple[int, int]:
        first = number * self._blocks.elements
        return first, min(first + self._blocks.elements, self._job.length)

    def _fold(self, number: int, places: tuple[slice, ...]) -> nodes.Nodes:
        """Return the nodes of rows, from all of their pieces."""
        found: list[nodes.Nodes] = []

        def fold(inputs: list[Any], first: int, region: copies.Region) -> tuple[Any, ...]:
            # Kernels run one after the other: what this part has is not used any more.
            region.clear()
            with copies.allocating(region):
                found[:] = [nodes.combine([*found, self._job.partial(inputs, first)])]
            return ()

        for piece in range(self._blocks.pieces):
            first, end = self._piece(piece)
            region = self._nodes[piece % 2]
            fold_piece = partial(fold, first=first, region=region)
            self._submit(number, places, first, end, fold_piece, results=False)
        return found[0]

    def _submit(
        self,
        number: int,
        places: tuple[slice, ...],
        first: int,
        end: int,
        compute: Callable[[list[Any]], tuple[Any, ...]],
        results: bool = True,
    ) -> None:
        """Read a block, and let the device compute it."""
        while len(self._pending) >= _SLOTS:
            self._finish()
        slot, device = self._slots[self._turn], self._device
        self._turn = (self._turn + 1) % _SLOTS
        slot.clear()
        inputs = [
            self._copied(slot, side, self._index(side, places, first, end), number)
            for side in self._job.sources
        ]
        device.follow(copies.COMPUTE, device.mark(copies.IN))
        with device.computing(), copies.allocating(slot.region):
            made = compute(inputs + self._weight)
        done = device.mark(copies.COMPUTE)
        if not results:
            self._pending.append(_Pending(done))
            return
        device.follow(copies.OUT, done)
        outgoing = []
        for side, array in zip(self._job.targets, made, strict=True):
            host = slot.host(array.shape, side.dtype)
            device.copy_out(host, array)
            outgoing.append((side, self._index(side, places, first, end), host))
        self._pending.append(_Pending(device.mark(copies.OUT), number, tuple(outgoing)))

    def _index(
        self, side: _Side, places: tuple[slice, ...], first: int, end: int
    ) -> tuple[slice, ...]:
        axis = self._job.axis
        return (*places[:axis], slice(first, end), *places[axis:]) if side.along else places

    def _copied(self, slot: _Slot, side: _Side, index: tuple[slice, ...], number: int) -> Any:
        """Return an array on the device that is copied from a part of a source."""
        host = self._read(slot, side, index, number)
        array = slot.region.array(host.shape, host.dtype)
        self._device.copy_in(array, host)
        return array

    def _read(
        self, slot: _Slot, side: _Side, index: tuple[slice, ...], number: int
    ) -> np.ndarray[Any, Any]:
        try:
            _check_mapped(side.array, index)
            found = np.asarray(side.array[index])
            if side.along and side is not self._job.weight:
                found = np.moveaxis(found, self._job.axis, -1)
            host = slot.host(found.shape, side.dtype)
            host[...] = found
        except Exception as error:
            raise _Failed(f"reading {side.name}", number) from error
        return host

    def _finish(self) -> None:
        """Write the results of the oldest block on the device."""
        block = self._pending[0]
        self._device.wait(block.mark)
        for side, index, host in block.results:
            try:
                side.array[index] = np.moveaxis(host, -1, self._job.axis) if side.along else host
            except Exception as error:
                assert block.number is not None
                raise _Failed(f"writing {side.name}", block.number) from error
        self._pending.popleft()
        if block.number is not None:
            self.finished = block.number + 1
            self._show(self.finished)

    def named(self, number: int) -> str:
        """Return a block's number and place, in words."""
        per_row = self._job.pieces_written(self._blocks)
        block, piece = divmod(number, per_row)
        where = ", ".join(f"{place.start}:{place.stop}" for place in self._blocks[block])
        words = f"block {number} of {self.total}"
        words += f" (rows [{where}])" if where else ""
        if per_row > 1:
            words += f", elements {':'.join(map(str, self._piece(piece)))} of each"
        return words


def _check_mapped(array: Any, index: tuple[slice, ...]) -> None:
    """Refuse to read what a file no longer has, which would end the process."""
    root = array
    while isinstance(getattr(root, "base", None), np.memmap):
        root = root.base
    mapped = getattr(root, "base", None)
    if not isinstance(root, np.memmap) or not isinstance(mapped, mmap.mmap) or not root.filename:
        return
    view = array[index]
    if not view.size:
        return
    start = root.offset - root.offset % mmap.ALLOCATIONGRANULARITY
    address = np.frombuffer(mapped, np.uint8, 1).ctypes.data
    needed = start + np.lib.array_utils.byte_bounds(view)[1] - address
    has = os.stat(root.filename).st_size
    if needed > has:
        raise EOFError(f"{root.filename} has {has} bytes, and {needed} are needed")


@contextmanager
def _shown(function: str, total: int, done: int, progress: bool) -> Iterator[Callable[[int], None]]:
    """Show the progress, if standard error is a terminal."""
    if not progress or not sys.stderr.isatty():
        yield lambda finished: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{function}, blocks", total=total, completed=done)
        yield lambda finished: bar.update(task, completed=finished)


def _run(job: _Job, device_bytes: Any, progress: Any, resume: Any) -> Any:
    """Run a job; return its targets."""
    op = job.function
    progress = plain_bool(op, "progress", progress)
    resume = plain_count(op, "resume", resume)
    if device_bytes is None:
        device_bytes = min(copies.free_bytes() // 2, _DEFAULT_BYTES)
    blocks = _divided(job, plain_count(op, "device_bytes", device_bytes))
    total = len(blocks) * job.pieces_written(blocks)
    if not 0 <= resume <= total:
        raise ValueError(f"{op}: resume={described(resume)}, but there are {total} blocks")
    targets = tuple(side.array for side in job.targets)
    if total:
        with _shown(op, total, resume, progress) as show:
            _moved(_Pipeline(job, blocks, show), op, resume)
    return targets if len(targets) > 1 else targets[0]


def _moved(pipeline: _Pipeline, op: str, resume: int) -> None:
    """Move all blocks; what is on the device when something fails is finished first."""
    try:
        try:
            pipeline.run(resume)
        except _Failed as failed:
            if failed.doing.startswith("reading"):
                pipeline.finish_all()
            raise
        except KeyboardInterrupt:
            pipeline.finish_all()
            done = f"{op}: interrupted after {pipeline.finished} of {pipeline.total} blocks"
            raise Interrupted(
                f"{done}, which are finished; resume={pipeline.finished} goes on",
                pipeline.finished,
            ) from None
    except _Failed as failed:
        cause = failed.__cause__
        raise BlockError(
            f"{op}: {failed.doing} of {pipeline.named(failed.number)} failed: "
            f"{type(cause).__name__}: {cause}; blocks before {pipeline.finished} are finished, and "
            f"resume={pipeline.finished} goes on",
            pipeline.finished,
        ) from cause
    finally:
        pipeline.close()
