"""What blocks are moved for: a function, its sources and its targets, and the memory they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

import cusoftmax as cs
from cusoftmax import nodes
from cusoftmax.operations.dtypes import FLOATS, INPUTS, output_dtype
from cusoftmax.operations.lookup import find
from cusoftmax.operations.options import logits_name, piece_of
from cusoftmax.planning.checks import (
    accepted_name,
    accepted_number,
    as_dtype,
    broadcasts,
    float_name,
    full_name,
    is_array,
    resolve_axes,
)
from cusoftmax.planning.pieces import chunk_of, node_dtype, node_words
from cusoftmax.runtime import copies
from cusoftmax.streaming.blocks import LEAST, NODES, SLOTS, Blocks


@dataclass(eq=False)
class Side:
    """A source or a target: an array of the host, with a value for each element or each row.

    A target may have `selected` values for each row, along the axis of the elements. One that the
    caller did not give is lost when the call fails.
    """

    name: str
    array: Any
    dtype: np.dtype[Any]
    along: bool = True
    given: bool = True
    selected: int = 0

    def bytes(self, rows: int, elements: int) -> int:
        """Return the device memory of a block."""
        each = elements if self.along else self.selected or 1
        return copies.padded(rows * each * self.dtype.itemsize)


@dataclass
class Job:
    """A function, its sources and its targets."""

    function: str
    kernel: str  # its operation
    shape: tuple[int, ...]
    axis: int
    sources: list[Side]
    targets: list[Side]
    options: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Side] = field(default_factory=dict)  # that broadcast to the shape
    dtype: Any = None  # that is asked for
    weight: Side | None = None  # of the classes, which is on the device as a whole

    @staticmethod
    def of_one(op: str, source: Any, out: Any, axis: int, dtype: Any, **logits: Any) -> Job:
        """Return the job of a function of one array of logits, with a scale, a mask and a bias."""
        side = checked(op, "source", source, INPUTS)
        shape, axis = rows_of(op, "source", side, axis)
        of_elements = op != "logsumexp"
        wanted = wanted_dtype(op, side, dtype, "out", out)
        has = shape if of_elements else shape[:axis] + shape[axis + 1 :]
        target = target_of(op, "out", out, has, wanted, of_elements)
        kernel, options, beside = transformed(op, shape, **logits)
        return Job(op, kernel, shape, axis, [side], [target], options, beside, wanted)

    @property
    def batch(self) -> tuple[int, ...]:
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def length(self) -> int:
        return self.shape[self.axis]

    @property
    def writes_elements(self) -> bool:
        return any(target.along for target in self.targets)

    def pieces_written(self, blocks: Blocks) -> int:
        """Return in how many pieces each block has results."""
        return blocks.pieces if self.writes_elements else 1

    def slot_bytes(self, rows: int, elements: int) -> int:
        """Return the device memory of a block: what it has, its results, and its workspace."""
        sides = sum(side.bytes(rows, elements) for side in (*self.read, *self.targets))
        more = copies.padded(1) * (self.function == "sample")  # nodes twice, before their fold
        return sides + self.node_bytes(rows, elements) + more

    def node_bytes(self, rows: int, elements: int) -> int:
        """Return the device memory of a node for each chunk, which no workspace exceeds."""
        op = piece_of(self.kernel)
        sources, named = iter(self.sources), {"weight": self.weight, **self.beside}
        read = [named[name] if name in named else next(sources) for name in find(op).read]
        written = self.targets[::-1]  # a loss comes before the gradient here, after it there
        dtypes = tuple(side.dtype.name for side in (*read, *written) if side)
        parts = -(-elements // chunk_of(op, dtypes)) + 1
        words = node_words(op, dtypes, self.selected)
        return copies.padded(rows * parts * words * node_dtype(op, dtypes).itemsize)

    @property
    def read(self) -> list[Side]:
        """What is read in blocks."""
        return [*self.sources, *self.beside.values()]

    @property
    def selected(self) -> int:
        """The number of elements that are selected of each row."""
        return int(self.options.get("k", self.function == "sample"))

    @property
    def weight_bytes(self) -> int:
        """The device memory of the weights."""
        return self.weight.bytes(1, self.length) if self.weight else 0

    def rows_bytes(self, rows: int) -> int:
        """Return the device memory that blocks of whole rows take."""
        return SLOTS * self.slot_bytes(rows, self.length) + self.weight_bytes

    def piece_bytes(self, elements: int) -> int:
        """Return the device memory that pieces of a row take: the blocks, and their nodes."""
        nodes_of_two = 2 * (self.node_bytes(1, elements) + NODES)
        return SLOTS * self.slot_bytes(1, elements) + nodes_of_two + self.weight_bytes

    def whole(self, inputs: list[Any], first_row: int) -> tuple[Any, ...]:
        """Return the results of whole rows on the device, the first of which has this number."""
        if self.function == "sample":
            return self.apply(inputs, self.partial(inputs, 0, first_row), 0)
        options = dict(self.options) if self.dtype is None else self.options | {"dtype": self.dtype}
        if self.function == "cross_entropy":
            options["reduction"] = "none"
        arrays, more = self._apart(inputs)
        results = getattr(cs, self.function)(*arrays, **options, **more)
        return results if isinstance(results, tuple) else (results,)

    def partial(self, inputs: list[Any], first: int, first_row: int) -> nodes.Nodes:
        """Return the nodes of a piece on the device."""
        (x, *others), more = self._apart(inputs)
        options = self.options
        if self.function == "sample":
            options = options | {"first_row": first_row}
        return nodes.partial(
            x,
            self.function,
            *others,
            offset=first,
            length=self.length,
            dtype=self.dtype,
            **options,
            **more,
        )

    def apply(self, inputs: list[Any], whole: nodes.Nodes, first: int) -> tuple[Any, ...]:
        """Return the results of a piece on the device."""
        (x, *others), more = self._apart(inputs)
        results = nodes.apply(x, whole, *others, offset=first, **more)
        return results if isinstance(results, tuple) else (results,)

    def _apart(self, inputs: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the inputs of a block, and the arrays that come after them, by their names."""
        names = [*self.beside, *(["weight"] if self.weight else [])]
        count = len(inputs) - len(names)
        return inputs[:count], dict(zip(names, inputs[count:], strict=True))


def wanted_dtype(op: str, side: Side, dtype: Any, name: str, out: Any) -> np.dtype[Any]:
    """Return the dtype of results: that asked for, or of where they go, or as the source has it."""
    if dtype is not None:
        wanted = as_dtype(op, dtype)
    elif out is not None:
        wanted = checked(op, name, out, tuple(FLOATS)).dtype
    else:
        wanted = as_dtype(op, output_dtype([side.dtype.name]))
    float_name(op, "dtype=", wanted)
    return wanted


def transformed(
    caller: str, shape: tuple[int, ...], scale: Any = None, mask: Any = None, bias: Any = None
) -> tuple[str, dict[str, Any], dict[str, Side]]:
    """Return the kernel of a function with these options, and the options and arrays."""
    options, features, beside = {}, [], {}
    if scale is not None and accepted_number(caller, "scale", scale) != 1:
        options, features = {"scale": scale}, ["scaled"]
    kinds = (("bias", bias, INPUTS, "biased"), ("mask", mask, ("bool",), "masked"))
    for name, array, accepted, feature in kinds:
        if array is None:
            continue
        beside[name] = checked(caller, name, array, accepted)
        given = tuple(int(size) for size in array.shape)
        if not broadcasts(given, shape):
            raise ValueError(
                f"{caller}: {name} has shape {given}; give one that broadcasts to {shape}"
            )
        features.append(feature)
    return logits_name(caller, features), options, beside


def checked(caller: str, name: str, array: Any, accepted: tuple[str, ...]) -> Side:
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
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{caller}: {name} is a masked array, whose mask would be ignored; give what "
            f"{name}.filled returns: with -inf, hidden logits take no part"
        )
    dtype = as_dtype(caller, array.dtype)
    accepted_name(caller, f"{name} has dtype", dtype, accepted)
    return Side(name, array, dtype)


def rows_of(caller: str, name: str, side: Side, axis: Any) -> tuple[tuple[int, ...], int]:
    """Return the shape of an array, and the axis of its rows."""
    shape = tuple(int(size) for size in side.array.shape)
    if not shape:
        raise ValueError(f"{caller}: {name} has no dimensions; give it at least one")
    (along,) = resolve_axes(caller, axis, len(shape), several=False)
    return shape, along


def target_of(
    caller: str,
    name: str,
    array: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    along: bool,
    selected: int = 0,
) -> Side:
    """Return where results go, an array of NumPy if none is given."""
    if array is None:
        return Side(name, np.empty(shape, dtype), dtype, along, False, selected)
    side = checked(caller, name, array, (*FLOATS, "int64"))
    writeable = getattr(getattr(array, "flags", None), "writeable", True)
    if not hasattr(array, "__setitem__") or not writeable:
        raise TypeError(f"{caller}: {name} is a {full_name(type(array))}, which cannot be written")
    if tuple(array.shape) != shape:
        raise ValueError(f"{caller}: {name} has shape {tuple(array.shape)}; give it shape {shape}")
    if side.dtype != dtype:
        raise TypeError(f"{caller}: {name} has dtype {side.dtype}, and the result {dtype}")
    side.along, side.selected = along, selected
    return side


def divided(job: Job, device_bytes: int) -> Blocks:
    """Return the largest blocks that fit on the device, `SLOTS` of them."""

    def most(limit: int, fits: Callable[[int], bool]) -> int:
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    count = max(1, prod(job.batch))
    rows = most(count, lambda rows: job.rows_bytes(rows) <= device_bytes)
    if rows:
        return Blocks(job.batch, job.length, rows, max(1, job.length))
    elements = LEAST
    while elements < job.length and job.piece_bytes(2 * elements) <= device_bytes:
        elements *= 2
    if job.piece_bytes(elements) > device_bytes:
        least = min(job.piece_bytes(LEAST), job.rows_bytes(1))
        raise ValueError(
            f"{job.function}: device_bytes={device_bytes} is too few; give {least} or more"
        )
    return Blocks(job.batch, job.length, 1, elements)
