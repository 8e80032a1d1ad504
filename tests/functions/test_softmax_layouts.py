"""Layouts: any strides, alignment and axes, and results written where the caller wants them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.planning.plan import Plan
from tests.support import (
    DTYPES,
    LONG_PLAN_KINDS,
    OPS,
    PLAN_KINDS,
    assert_plan,
    bits,
    case,
    check_softmax,
    check_vjp,
    dtype_of,
    logits,
    only_ends,
    plan_of,
)


def assert_direction(plan: Plan, expected: str) -> None:
    """Assert that threads lie along the rows, or that rows run down a strided axis."""
    assert plan.pattern in {"row": ("group", "block"), "column": ("column",)}[expected], plan.why


def check_view(device: Any, x: Any, axis: Any, expected: str) -> None:
    """Softmax and derivative product of a view against the reference on its values."""
    values = device.asnumpy(x)
    assert_direction(plan_of(device, "softmax", x, axis=axis), expected)
    y = cs.softmax(x, axis=axis)
    check_softmax(device.asnumpy(y), values, axis)
    # The view is dy, and y in its own layout.
    assert_direction(plan_of(device, "softmax_vjp", y, x, axis=axis), expected)
    dx = device.asnumpy(cs.softmax_vjp(y, x, axis=axis))
    check_vjp(dx, device.asnumpy(y), values, axis, dx.dtype)


# --------------------------------------------------------------------------------- order and axes

AXES = {
    "last": (-1, "row"),
    "first": (0, "column"),
    "middle": (1, "column"),
    "merging, last": ((1, 2), "row"),
    "merging, first": ((0, 1), "column"),
    "merging, named backwards": ((2, 1), "row"),
    "not merging, to the end": ((0, 2), "row"),
    "all": ((0, 1, 2), "row"),
    "none named": (None, "row"),
    "none at all": ((), "row"),
}


@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_axes(device: Any, dtype: str, name: str) -> None:
    axis, expected = AXES[name]
    check_view(device, device.asarray(logits((6, 5, 8), dtype)), axis, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fortran_order_is_the_mirror_image(device: Any, dtype: str) -> None:
    """Axis 0 of F order runs as the last axis of C order, without a copy, and keeps the order."""
    x = logits((40, 6), dtype)
    given = device.asarray(np.asfortranarray(x))
    assert given.flags.f_contiguous
    assert_direction(plan_of(device, "softmax", given, axis=0), "row")
    y = cs.softmax(given, axis=0)
    assert y.flags.f_contiguous
    check_softmax(device.asnumpy(y), x, 0)
    check_view(device, given, 0, "row")
    check_view(device, given, 1, "column")
    mirrored = cs.softmax(device.asarray(np.ascontiguousarray(x.T)), axis=1)
    assert (bits(device.asnumpy(mirrored).T) == bits(device.asnumpy(y))).all()


def test_axes_of_high_rank(device: Any) -> None:
    """Dimensions of size 1 vanish; up to 32 that do not merge are walked."""
    x = device.asarray(logits((1, 3, 1, 4, 1, 5, 1), "float32"))
    check_view(device, x, (0, 3, 4), "column")
    check_view(device, x, (5, 6), "row")
    check_view(device, x, 2, "row")
    for axis, expected in ((0, "column"), (7, "row"), ((0, 2, 4, 6), "column"), (None, "row")):
        check_view(device, device.asarray(logits((2,) * 8, "float32")), axis, expected)
    for axis in (0, 4, (1, 3, 5), None):
        padded = device.asarray(logits((3, 4) * 5, "float16"))[::2, ::3, ::2, ::3, ::2, ::3]
        plan = plan_of(device, "softmax", padded, axis=axis)
        kernel = plan.launches[0].kernel
        assert "32" in (kernel["CSM_ROW_DIMS"], kernel["CSM_BATCH_DIMS"])
        values = device.asnumpy(padded)
        check_softmax(device.asnumpy(cs.softmax(padded, axis=axis)), values, axis)


@pytest.mark.parametrize("axis", [None, (), 0, -1])
def test_no_dimensions(device: Any, axis: Any) -> None:
    x = device.asarray(np.float32(3))
    assert x.shape == ()
    y = cs.softmax(x, axis=axis)
    assert y.shape == () and device.asnumpy(y) == 1
    dx = cs.softmax_vjp(y, x, axis=axis)
    assert dx.shape == () and device.asnumpy(dx) == 0


# ------------------------------------------------------------------------------------------- views


def repeat(part: Any, shape: tuple[int, ...]) -> Any:
    """Return a part of an array, repeated by strides of 0."""
    return cupy.broadcast_to(part, shape)


# Of an array of (7, 12, 130): the view, the axis, and the pattern expected.
VIEWS: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "part of the rows": (lambda x: x[1:5], -1, "row"),
    "every other row": (lambda x: x[::2, 1::2], -1, "row"),
    "part of each row": (lambda x: x[:, :, 3:100], -1, "row"),
    "every other element": (lambda x: x[..., ::2], -1, "column"),
    "backwards along the row": (lambda x: x[..., ::-1], -1, "column"),
    "backwards over the rows": (lambda x: x[::-1, ::-1], -1, "row"),
    "backwards in all": (lambda x: x[::-1, ::-2, ::-3], -1, "column"),
    "transposed": (lambda x: x.transpose(2, 0, 1), 0, "row"),
    "transposed, down a column": (lambda x: x.transpose(2, 0, 1), -1, "column"),
    "permuted, two axes": (lambda x: x.transpose(1, 2, 0), (0, 2), "column"),
    "permuted, two axes to the end": (lambda x: x[:3].transpose(1, 2, 0), (1, 2), "row"),
    "sliced, down a column": (lambda x: x[:, 2:9, 10:90], 1, "column"),
    "sliced, all": (lambda x: x[1:4, 2:5, 3:9], None, "row"),
    "one row repeated": (lambda x: repeat(x[0, :1], (5, 12, 130)), -1, "row"),
    "one element repeated": (lambda x: repeat(x[..., :1], (7, 12, 50)), -1, "row"),
    "one element for all": (lambda x: repeat(x[0, 0, 0], (4, 5, 6)), 1, "column"),
    "repeated down a column": (lambda x: repeat(x[:, :1], (7, 40, 130)), 1, "column"),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_views(device: Any, dtype: str, name: str) -> None:
    x = device.asarray(logits((7, 12, 130), dtype))
    before = bits(device.asnumpy(x))
    take, axis, expected = VIEWS[name]
    check_view(device, take(x), axis, expected)
    assert (bits(device.asnumpy(x)) == before).all(), "the input was written"


@pytest.mark.parametrize("misalign", range(17))
@pytest.mark.parametrize("op", OPS)
def test_misaligned_base(device: Any, op: str, misalign: int) -> None:
    """The widest access that each address allows, along rows and down columns, and no wider."""
    for dtype in DTYPES:
        size = dtype_of(dtype).itemsize
        if misalign % size:
            continue
        aligned = min(misalign & -misalign, 16) or 16
        for shape, axis, pattern in (
            ((3, 64), -1, "group"),
            ((2, 8192), -1, "block"),
            ((20, 64), 0, "column"),
        ):
            x = logits(shape, dtype)
            inputs = [device.asarray(x, misalign)]
            if op == "softmax_vjp":
                inputs.insert(0, device.asarray(reference.softmax(x, axis).astype(x.dtype)))
            out = device.asarray(np.zeros_like(x), 16 - misalign)
            plan = plan_of(device, op, *inputs, axis=axis, out=out)
            assert plan.pattern == pattern
            if pattern != "column":  # there the registers set a limit too
                assert plan.vector == max(aligned // size, 1)
            assert plan.vector * size <= aligned
            result = getattr(cs, op)(*inputs, axis=axis, out=out)
            assert result is out
            values = [device.asnumpy(a) for a in inputs]
            (check_softmax if op == "softmax" else check_vjp)(device.asnumpy(out), *values, axis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_of_different_layouts(device: Any, dtype: str) -> None:
    """y transposed and dy in C order, and the other way round: each walked by its own strides."""
    x = logits((24, 40), dtype)
    y = reference.softmax(x).astype(x.dtype)
    dy = logits(x.shape, dtype, 1, seed=1)
    fortran, c = np.asfortranarray, np.ascontiguousarray
    for axis, first, second in itertools.product((0, 1, None), (fortran, c), (fortran, c)):
        given = device.asarray(first(y)), device.asarray(second(dy))
        expected = "row" if axis is None or (first is c) == (axis == 1) else "column"
        if first is not second:
            expected = "column"
        assert_direction(plan_of(device, "softmax_vjp", *given, axis=axis), expected)
        for product in (cs.softmax_vjp, cs.softmax_jvp):
            dx = product(*given, axis=axis)
            assert dx.flags.c_contiguous == (first is c)
            check_vjp(device.asnumpy(dx), y, dy, axis)
    wide = device.asarray(logits((24, 80), dtype, 1, seed=1))[:, ::-2]
    dx = cs.softmax_vjp(device.asarray(y), wide)
    check_vjp(device.asnumpy(dx), y, device.asnumpy(wide))


# ------------------------------------------------------------------------------------ out is given

OUTS: dict[str, Callable[[Any], Any]] = {  # of a base of (2, 24, 2, 40)
    "C order": lambda base: base[0].reshape(2, 24, 40)[0],
    "C order, further on": lambda base: base[1].reshape(2, 24, 40)[1],
    "part of wider rows": lambda base: base[0, :, 1],
    "every other row": lambda base: base[1, :, 0],
    "interleaved": lambda base: base.reshape(2, 24, 40, 2)[0, ..., 1],
    "backwards": lambda base: base[0, ::-1, 1, ::-1],
    "F order": lambda base: base[0].reshape(2, 40, 24)[0].T,
    "F order, interleaved": lambda base: base[1].reshape(40, 24, 2)[..., 0].T,
}


@pytest.mark.parametrize("name", OUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out(device: Any, dtype: str, name: str) -> None:
    """The result goes where it is wanted, and nothing between its elements is touched."""
    x = logits((24, 40), dtype)
    for source, axis in itertools.product((x, np.asfortranarray(x)), (0, 1, None)):
        base = device.asarray(np.full((2, 24, 2, 40), 7, x.dtype))
        out = OUTS[name](base)
        assert out.shape == x.shape
        x_ = device.asarray(source)
        assert cs.softmax(x_, axis=axis, out=out) is out
        y = device.asnumpy(out)
        check_softmax(y, x, axis)
        assert np.count_nonzero(device.asnumpy(base) == 7) == base.size - x.size
        y_ = device.asarray(y)
        assert cs.softmax_vjp(y_, x_, axis=axis, out=out) is out
        check_vjp(device.asnumpy(out), y, x, axis)
        assert np.count_nonzero(device.asnumpy(base) == 7) == base.size - x.size


@pytest.mark.parametrize("wanted", PLAN_KINDS)
def test_in_place(device: Any, wanted: str) -> None:
    """`out` may be an input itself, or another array of the same elements, in every pattern."""

    def bits_of(array: Any) -> Any:
        """Return the bits of the rows that are run."""
        return bits(np.take(device.asnumpy(array), rows, 0 if chosen.axis else 1))

    for dtype in ("float64",) if wanted in LONG_PLAN_KINDS else ("float16", "float64"):
        chosen = case(wanted, "softmax", dtype)
        x = logits(chosen.shape, dtype)
        with device.on(arch=chosen.arch):
            x_ = device.asarray(x)
            plan = plan_of(device, "softmax", x_, axis=chosen.axis, out=x_)
            assert_plan(plan, wanted)
            with only_ends(device, plan, 1) as rows:
                apart = bits_of(cs.softmax(x_, axis=chosen.axis))
                assert cs.softmax(x_, axis=chosen.axis, out=x_[:]) is not x_
                assert (bits_of(x_) == apart).all()
                x_ = device.asarray(x)
                assert cs.softmax(x_, axis=chosen.axis, out=x_) is x_
                assert (bits_of(x_) == apart).all()
        chosen = case(wanted, "softmax_vjp", dtype)
        y, dy = logits(chosen.shape, dtype, 1), logits(chosen.shape, dtype, 1, seed=1)
        with device.on(arch=chosen.arch):
            given = device.asarray(y), device.asarray(dy)
            plan = plan_of(device, "softmax_vjp", *given, axis=chosen.axis, out=given[0])
            assert_plan(plan, wanted)
            with only_ends(device, plan, 1) as rows:
                apart = bits_of(cs.softmax_vjp(*given, axis=chosen.axis))
                for target in (0, 1):
                    given = device.asarray(y), device.asarray(dy)
                    out = given[target]
                    assert cs.softmax_vjp(*given, axis=chosen.axis, out=out) is out
                    assert (bits_of(out) == apart).all()
                    other = (dy, y)[target]
                    assert (bits(device.asnumpy(given[1 - target])) == bits(other)).all()
                same = device.asarray(y)
                alike = bits_of(cs.softmax_vjp(same, same, axis=chosen.axis))
                cs.softmax_vjp(same, same, axis=chosen.axis, out=same)
                assert (bits_of(same) == alike).all()


def test_in_place_of_views(device: Any) -> None:
    """The same elements by the same strides, strided and transposed."""
    x = logits((30, 2, 50), "float32")
    for take in (lambda a: a[:, 1], lambda a: a[:, 1].T, lambda a: a[::-2, 0, ::3]):
        for axis in (0, 1):
            whole = device.asarray(x)
            part = take(whole)
            values = device.asnumpy(part)
            assert cs.softmax(part, axis=axis, out=part) is part
            check_softmax(device.asnumpy(part), values, axis)
            touched = np.count_nonzero(device.asnumpy(whole) != x)
            assert touched <= part.size


# ---------------------------------------------------------------------------------------- at random


@st.composite
def laid_out(draw: st.DrawFn, shape: tuple[int, ...], repeats: bool) -> tuple[Any, ...]:
    """How to lay out an array of a shape: order of dimensions, steps, offsets, repeated dims."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from((1, 1, 1, 2, 3, -1, -2))) for _ in shape]
    room = [draw(st.sampled_from((0, 0, 0, 1, 3))) for _ in shape]
    repeated = [repeats and draw(st.integers(0, 9)) == 0 for _ in shape]
    return tuple(order), steps, room, repeated, draw(st.sampled_from((0, 0, 8)))


def lay_out(device: Any, values: np.ndarray, layout: tuple[Any, ...]) -> Any:
    """Return a view of the device with those values (of the first, where a dimension repeats)."""
    order, steps, room, repeated, misalign = layout
    shape = [1 if repeat else n for n, repeat in zip(values.shape, repeated, strict=True)]
    sizes = [n * abs(s) + r for n, s, r in zip(shape, steps, room, strict=True)]
    base = np.zeros([sizes[d] for d in order], values.dtype)
    inverse = tuple(np.argsort(order))
    index = tuple(
        slice(r, r + n * s, s) if s > 0 else slice(n * -s - 1 + r, (r - 1) if r else None, s)
        for n, s, r in zip(shape, steps, room, strict=True)
    )
    base.transpose(inverse)[index] = values[tuple(slice(n) for n in shape)]
    view = device.asarray(base, misalign).transpose(inverse)[index]
    return cupy.broadcast_to(view, values.shape) if any(repeated) else view


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_layout(device: Any, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), max_size=5), label="shape"))
    if shape and data.draw(st.booleans(), label="longer"):
        where = data.draw(st.integers(0, len(shape) - 1))
        shape = (*shape[:where], data.draw(st.integers(1, 400)), *shape[where + 1 :])
        if np.prod(shape) > 50_000:
            shape = shape[where : where + 2]
    dims = range(len(shape))
    axis = data.draw(
        st.none() | st.lists(st.sampled_from(dims), unique=True).map(tuple) if shape else st.none(),
        label="axis",
    )
    dtype = data.draw(st.sampled_from(("float16", "float32")), label="dtype")
    x, tangent = logits(shape, dtype), logits(shape, dtype, 1, seed=1)
    x, tangent = (np.asarray(a, dtype_of(dtype)) for a in (x, tangent))
    layouts = [data.draw(laid_out(shape, i < 2), label=f"layout {i}") for i in range(3)]
    x_, tangent_ = lay_out(device, x, layouts[0]), lay_out(device, tangent, layouts[1])
    out = lay_out(device, np.zeros_like(x), layouts[2])
    x, tangent = device.asnumpy(x_), device.asnumpy(tangent_)
    for target in (None, out):
        y_ = cs.softmax(x_, axis=axis, out=target)
        y = device.asnumpy(y_)
        check_softmax(y, x, axis)
    # y has the layout of `out` now.
    dx_ = cs.softmax_vjp(out, tangent_, axis=axis)
    check_vjp(device.asnumpy(dx_), y, tangent, axis)
    cs.softmax_vjp(out, tangent_, axis=axis, out=out)
    check_vjp(device.asnumpy(out), y, tangent, axis)
