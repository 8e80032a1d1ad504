"""Every operation of the table in what any may meet: special values, nothing, any layout and axes.

The table says what there is, and the contracts what to draw, what to call and what is right: a new
operation is tried here without an edit.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import cupy
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax.contract.special import filling
from cusoftmax.contract.table import CONTRACTS, Array, Arrays
from cusoftmax.operations.dtypes import FLOATS
from cusoftmax.operations.table import OPERATIONS
from tests.support import DTYPES, assert_kept, bits, dtype_of, exhaustive


def draw(op: str, shape: tuple[int, ...], axis: Any, dtype: str = "float32") -> Arrays:
    return CONTRACTS[op].draw(np.random.default_rng(len(op)), shape, axis, dtype_of(dtype))


def call(device: Any, op: str, arrays: tuple[Any, ...], axis: Any, **out: Any) -> Arrays:
    """Call with arrays of the device, and return the results as NumPy arrays."""
    got = CONTRACTS[op].call(*arrays, axis=axis, **out)
    return tuple(device.asnumpy(r) for r in (got if isinstance(got, tuple) else (got,)))


def judge(op: str, inputs: Arrays, axis: Any, results: Arrays) -> None:
    __tracebackhide__ = True
    with np.errstate(all="ignore"):
        assert_kept(op, inputs, axis, results)


def parameter(op: str, name: str) -> inspect.Parameter | None:
    """Return a parameter of an operation's public function, if that has it."""
    function = getattr(cs, OPERATIONS[op].public or op)
    return inspect.signature(function).parameters.get(name)


def shape_of(op: str, rows: int, n: int) -> tuple[int, ...]:
    """Return a shape with so many rows along the last axis, or with as many segments."""
    if OPERATIONS[op].segmented:
        return (4 * rows * n,)  # there are short ones, and empty ones
    return (rows, n, n) if OPERATIONS[op].repeated else (rows, n)


# ---- special values ----

ROWS = 17
PLACES = {  # shape, axis, architecture
    "short": ((ROWS, 37), -1, "sm_90"),
    "several chunks": ((ROWS, 3001), -1, "sm_80"),
    "columns": ((6, 37, 3), 1, "sm_90"),
}


def rows_of(op: str, inputs: Arrays, array: Array, axis: int) -> list[Array]:
    """Return the rows of an input or a result, as views of one dimension."""
    operation = OPERATIONS[op]
    if operation.segmented:
        return [array[b:e] for b, e in pairwise(inputs[-1]) if e - b >= 4]
    if operation.repeated:  # a row of the input, and the matrix that is made of it
        return [*array.reshape(len(inputs[1]), -1)]
    if array.ndim < inputs[0].ndim:
        return [*array.reshape(-1, 1)]
    along = np.moveaxis(array, axis, -1)
    return [along[place] for place in np.ndindex(along.shape[:-1])]


def plant(op: str, inputs: Arrays, which: int, axis: int) -> tuple[Arrays, list[int]]:
    """Put special values into every other row of an input; return that, and those rows."""
    name = OPERATIONS[op].read[which]
    planted = [a.copy() for a in inputs]
    rows = rows_of(op, inputs, planted[which], axis)
    special = [*CONTRACTS[op].special(name).values()]
    chosen = [*range(0, len(rows), 2)][: len(special)]
    assert len(chosen) == len(special)
    for number, values in zip(chosen, special, strict=True):
        row = rows[number]
        if len(row) == 1:
            row[0] = values[1]
        else:
            row[:-4], row[-4:] = filling(name, values), values
    if OPERATIONS[op].repeated:
        planted[0] = np.broadcast_to(planted[1][..., None, :], planted[0].shape)
    return tuple(planted), chosen


def special_cases() -> Iterator[Any]:
    """Yield operation, dtype and place: of variants one dtype alone in the longer rows.

    bfloat16, which is float16 but for its conversions, of all but softmax is left to --exhaustive.
    """
    for op, operation in OPERATIONS.items():
        long = not (operation.repeated or operation.segmented)
        for dtype in DTYPES:
            places = ["short"]
            if long and (dtype == "float16" or not operation.source):
                places.append("several chunks")
            if long and dtype == ("float16" if operation.source else "float32"):
                places.append("columns")
            found = [(op, dtype, place) for place in places]
            repeated = dtype == "bfloat16" and op != "softmax"
            yield from exhaustive(found) if repeated else found


@pytest.mark.parametrize(("op", "dtype", "place"), [*special_cases()])
def test_special_values_stay_in_their_row(device: Any, op: str, dtype: str, place: str) -> None:
    """They give what the reference gives, and the bits of the rows between them do not change."""
    operation = OPERATIONS[op]
    shape, axis, arch = PLACES[place]
    if place == "short":
        shape = shape_of(op, *shape)
    with device.on(arch):
        inputs = draw(op, shape, axis, dtype)
        plain = call(device, op, tuple(map(device.asarray, inputs)), axis)
        judge(op, inputs, axis, plain)
        for which in range(len(operation.inputs) + len(operation.row_inputs)):
            if inputs[which].dtype.name not in FLOATS or 0 in inputs[which].strides:
                continue  # one for all rows
            special, chosen = plant(op, inputs, which, axis)
            results = call(device, op, tuple(map(device.asarray, special)), axis)
            judge(op, special, axis, results)
            for before, after in zip(plain, results, strict=True):
                rows = (rows_of(op, inputs, whole, axis) for whole in (before, after))
                for number, (one, other) in enumerate(zip(*rows, strict=True)):
                    assert number in chosen or (bits(one) == bits(other)).all(), number


# ---- nothing ----


@pytest.mark.parametrize("op", OPERATIONS)
def test_rows_of_no_elements_and_no_rows(device: Any, op: str) -> None:
    operation = OPERATIONS[op]
    cases: list[tuple[tuple[int, ...], int]] = [((3, 0), -1), ((0, 5), -1), ((2, 0, 3), 1)]
    if operation.segmented:
        cases = [((0,), 0), ((0, 3), 0)]
    elif operation.repeated:
        cases = [((3, 0, 0), -1), ((0, 5, 5), -1)]
    for shape, axis in cases:
        inputs = draw(op, shape, axis)
        arrays = tuple(map(device.asarray, inputs))
        if operation.selects and not shape[axis]:
            with pytest.raises(ValueError, match=r"no element|0 elements"):  # nothing to select
                call(device, op, arrays, axis)
            continue
        results = call(device, op, arrays, axis)
        judge(op, inputs, axis, results)


# ---- layouts ----


def backwards_with_gaps(device: Any, values: Array) -> Any:
    """The first axis from back to front, every second element of an array."""
    return device.asarray(np.repeat(values, 2, axis=0)[::-1])[::-2]


def all_backwards(device: Any, values: Array) -> Any:
    """Every axis from back to front."""
    back = (slice(None, None, -1),) * values.ndim
    return device.asarray(np.ascontiguousarray(values[back]))[back]


def turned(device: Any, values: Array) -> Any:
    """In Fortran order."""
    return device.asarray(np.ascontiguousarray(values.T)).T


def broadcast(device: Any, values: Array) -> Any:
    """The same along the first axis, by a stride of 0; other values then."""
    if values.ndim == 1:
        return backwards_with_gaps(device, values)
    return cupy.broadcast_to(device.asarray(values[:1]), values.shape)


Layout = Callable[[Any, Array], Any]
LAYOUTS: dict[str, tuple[tuple[Layout, Layout], Layout]] = {  # of the inputs in turn; of results
    "rows side by side": ((backwards_with_gaps, broadcast), backwards_with_gaps),
    "rows in other places": ((turned, all_backwards), turned),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("op", OPERATIONS)
def test_strides_are_followed(device: Any, op: str, name: str) -> None:
    """Of inputs that are laid out unlike each other, and of `out`, where there is one."""
    operation = OPERATIONS[op]
    of_inputs, of_results = LAYOUTS[name]
    shape = (300, 3) if operation.segmented else (4, 6, 37)
    shape = (4, 37, 37) if operation.repeated else shape
    axis = 0 if operation.segmented else -1
    drawn = draw(op, shape, axis)
    arrays = tuple(of_inputs[i % 2](device, values) for i, values in enumerate(drawn))
    inputs = tuple(device.asnumpy(a) for a in arrays)
    results = call(device, op, arrays, axis)
    judge(op, inputs, axis, results)
    if parameter(op, "out") is None:
        return
    outs = tuple(of_results(device, np.zeros_like(r)) for r in results)
    written = call(device, op, arrays, axis, out=outs if len(outs) > 1 else outs[0])
    for out, returned, expected in zip(outs, written, results, strict=True):
        np.testing.assert_array_equal(bits(returned), bits(expected))
        np.testing.assert_array_equal(bits(device.asnumpy(out)), bits(expected))


# ---- axes ----


def takes_several_axes(op: str) -> bool:
    """Whether the public function says so; a causal order has its rows along one."""
    axis = parameter(op, "axis")
    return (
        axis is not None and axis.annotation == "Axis" and "causal" not in OPERATIONS[op].features
    )


@pytest.mark.parametrize("op", [op for op in OPERATIONS if takes_several_axes(op)])
def test_several_axes_are_one_row(device: Any, op: str) -> None:
    for axes in ((2, 0), None):
        inputs = draw(op, (3, 5, 4), axes)
        judge(op, inputs, axes, call(device, op, tuple(map(device.asarray, inputs)), axes))
