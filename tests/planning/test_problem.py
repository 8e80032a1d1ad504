"""Checks and folding, on CuPy arrays over host memory: no GPU, and nothing is launched."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.exceptions import AxisError
from numpy.lib.stride_tricks import as_strided

import cusoftmax
from cusoftmax.operations.dtypes import FLOATS, INPUTS, compute_dtype, output_dtype
from cusoftmax.operations.lookup import find
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.checks import resolve_axes
from cusoftmax.planning.device import ARCHITECTURES, DeviceSpec
from cusoftmax.planning.overlap import check_overlap
from cusoftmax.planning.prepare import prepare, problem_for
from cusoftmax.planning.problem import (
    Problem,
    View,
    alignment,
    fold,
    k_order,
)
from cusoftmax.runtime.launch import run, signature
from cusoftmax.runtime.source import kernel_root

cupy = pytest.importorskip("cupy")


def on_host(array: Any, device: int = 0) -> Any:
    """Return a CuPy array over the memory of a NumPy array; a view stays a view."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    memory = cupy.cuda.memory.UnownedMemory(
        base.ctypes.data, max(base.nbytes, 1), base, device_id=device
    )
    start = cupy.cuda.memory.MemoryPointer(memory, array.ctypes.data - base.ctypes.data)
    return cupy.ndarray(array.shape, array.dtype, memptr=start, strides=array.strides)


def host(*shape: int, dtype: Any = np.float32) -> Any:
    return on_host(np.zeros(shape, dtype))


def outs(out: Any) -> tuple[Any, ...]:
    return () if out is None else (out,)


def folded(array: Any, axis: Any, out: Any = None) -> Problem:
    return prepare("softmax", (on_host(array),), axis, None, outs(out)).problem


# --------------------------------------------------------------------------------------- operations


def test_operations() -> None:
    for operation in OPERATIONS.values():
        assert (kernel_root() / "ops" / f"{operation.source or operation.name}.cuh").is_file()
        assert hasattr(cusoftmax, operation.public or operation.name)
    assert find("softmax_jvp").name == "softmax_vjp"
    assert find("softmax_jvp").inputs == ("y", "xt")
    with pytest.raises(ValueError, match="no operation 'softmin'; the operations are softmax, "):
        find("softmin")


@pytest.mark.parametrize(
    ("inputs", "output"),
    [
        (["float16"], "float16"),
        (["int32"], "float64"),
        (["bool"], "float64"),
        (["float32", "float32"], "float32"),
        (["bfloat16", "float32"], "float32"),
        (["float64", "float16"], "float64"),
        (["float16", "bfloat16"], "float32"),
        (["bfloat16", "bfloat16"], "bfloat16"),
        (["uint8", "float16"], "float64"),
    ],
)
def test_output_dtype(inputs: list[str], output: str) -> None:
    assert output_dtype(inputs) == output_dtype(inputs[::-1]) == output


def test_compute_dtype() -> None:
    for inputs in itertools.product(INPUTS, repeat=2):
        for out in FLOATS:
            wide = not {*inputs, out} <= {"float16", "bfloat16", "float32"}
            assert compute_dtype(inputs, out) == ("float64" if wide else "float32")


# ------------------------------------------------------------------------------------------ devices


@pytest.mark.parametrize("arch", ["sm_90", "sm_90a", 90])
def test_known_device(arch: str | int) -> None:
    device = DeviceSpec.known(arch)
    assert (device.arch, device.sm_count, device.shared_per_block) == (90, 132, 227 * 1024)
    assert device.clusters
    assert device.max_cluster == 16


def test_every_architecture_and_those_between() -> None:
    for arch in ARCHITECTURES:
        assert DeviceSpec.known(arch).arch == arch
        assert DeviceSpec.known(arch).clusters == (arch >= 90)
        assert DeviceSpec.known(arch).max_cluster == {90: 16, 100: 16, 120: 8}.get(arch, 1)
    between = DeviceSpec.known("sm_103")
    assert (between.arch, between.sm_count) == (103, DeviceSpec.known(100).sm_count)
    for unknown in ("sm_70", "hopper", ""):
        with pytest.raises(ValueError, match=r"sm_75, .*sm_120 or a later one"):
            DeviceSpec.known(unknown)


# ------------------------------------------------------------------------------------------ folding


def test_contiguous_rows() -> None:
    problem = folded(np.zeros((4, 5, 6), np.float32), -1)
    assert (problem.rows, problem.n) == (20, 6)
    assert (problem.batch_shape, problem.reduce_shape) == ((20,), (6,))
    for operand in problem.operands:
        assert (operand.batch_strides, operand.reduce_strides) == ((24,), (4,))


LAYOUTS: dict[str, Any] = {
    "all axes": (lambda a: a, None, ((1,), (4,)), ((120,), (4,))),
    "first axis": (lambda a: a, 0, ((30,), (4,)), ((4,), (120,))),
    "middle axis": (lambda a: a, 1, ((4, 6), (120, 4)), ((5,), (24,))),
    "two axes that merge": (lambda a: a, (1, 2), ((4,), (120,)), ((30,), (4,))),
    "two axes that do not": (lambda a: a, (2, 0), ((5,), (24,)), ((4, 6), (120, 4))),
    "fortran order, first axis": (lambda a: a.T, 0, ((20,), (24,)), ((6,), (4,))),
    "fortran order, all": (lambda a: a.T, None, ((1,), (4,)), ((120,), (4,))),
    "no axes": (lambda a: a, (), ((120,), (4,)), ((1,), (4,))),
    "no axes, fortran order": (lambda a: a.T, (), ((120,), (4,)), ((1,), (4,))),
    "sliced": (lambda a: a[:, :, 1:5], -1, ((20,), (24,)), ((4,), (4,))),
    "every other row": (lambda a: a[:, ::2], -1, ((4, 3), (120, 48)), ((6,), (4,))),
    "reversed rows": (lambda a: a[::-1, ::-1], -1, ((20,), (-24,)), ((6,), (4,))),
    "reversed in the row": (lambda a: a[..., ::-1], -1, ((20,), (24,)), ((6,), (-4,))),
    "size-1 axes": (lambda a: a[:, None, :, :, None], 3, ((20,), (24,)), ((6,), (4,))),
    "row of size 1": (lambda a: a[..., None], -1, ((120,), (4,)), ((1,), (4,))),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    view, axis, batch, reduce = LAYOUTS[layout]
    array = view(np.zeros((4, 5, 6), np.float32))
    prepared = prepare("softmax", (on_host(array),), axis, None, (on_host(array),))  # in place
    problem, operand = prepared.problem, prepared.problem.operands[0]
    assert (problem.batch_shape, operand.batch_strides) == batch
    assert (problem.reduce_shape, operand.reduce_strides) == reduce
    assert problem.operands[0] == problem.operands[1]


def test_broadcast_input_keeps_its_strides_of_zero() -> None:
    problem = folded(np.broadcast_to(np.zeros(6, np.float32), (4, 5, 6)), -1)
    x, y = problem.operands
    assert problem.batch_shape == (20,)
    assert (x.batch_strides, y.batch_strides) == ((0,), (24,))


def test_merging_needs_every_operand() -> None:
    x, out = np.zeros((4, 5, 6), np.float32), np.zeros((4, 7, 6), np.float16)[:, :5]
    problem = folded(x, -1, on_host(out))
    assert problem.batch_shape == (4, 5)
    assert problem.operands[1].batch_strides == (84, 12)


def test_output_takes_the_memory_order_of_the_first_input() -> None:
    prepared = prepare("softmax", (on_host(np.zeros((4, 5, 6), np.float32).T),), 0, "float16")
    assert prepared.results[0].dtype == np.float16
    assert prepared.results[0].shape == (6, 5, 4)
    assert prepared.results[0].strides == (2, 12, 60)


@pytest.mark.parametrize("axis", [0, -1, None, ()])
def test_no_dimensions(axis: Any) -> None:
    problem = folded(np.zeros((), np.float32), axis)
    assert (problem.rows, problem.n) == (1, 1)
    assert problem.batch_shape == problem.reduce_shape == (1,)


@pytest.mark.parametrize(("axis", "rows", "n"), [(0, 0, 3), (1, 3, 0), (None, 1, 0), ((), 0, 1)])
def test_empty(axis: Any, rows: int, n: int) -> None:
    shape = (3, 0)
    problem = folded(np.zeros(shape, np.float32), axis)
    assert (problem.rows, problem.n) == (rows, n)


def test_alignment() -> None:
    assert [alignment(p) for p in (0, 1, 2, 4, 6, 8, 16, 24, 512)] == [32, 1, 2, 4, 2, 8, 16, 8, 32]
    start = np.zeros(64, np.float16)
    first = (-start.ctypes.data % 32) // 2
    for shift, expected in ((0, 32), (1, 2), (2, 4), (4, 8), (8, 16)):
        assert folded(start[first + shift :], -1).operands[0].alignment == expected


def test_huge_shapes_are_plain_integers() -> None:
    problem = problem_for("softmax", (1 << 40, 1 << 30), "float64")
    assert (problem.rows, problem.n) == (1 << 40, 1 << 30)
    assert problem.operands[0].batch_strides == (1 << 33,)


def test_problem_for_is_that_of_contiguous_arrays() -> None:
    memory = np.zeros(4 * 5 * 6 + 16, np.float16)
    start = (-memory.ctypes.data % 32) // 2  # as a GPU's allocations are aligned, and more
    memory = memory[start : start + 4 * 5 * 6]
    for order in ("C", "F"):
        array = on_host(memory.reshape((4, 5, 6), order=order))
        got = problem_for("softmax", (4, 5, 6), "float16", (0, 2), order=order)
        assert got == prepare("softmax", (array,), (0, 2), None).problem
    mixed = problem_for("softmax_jvp", [2, 3], ("float16", "bfloat16"), out_dtype="float64")
    assert [o.dtype for o in mixed.operands] == ["float16", "bfloat16", "float64"]
    assert mixed.op == "softmax_vjp"
    again = problem_for("softmax_vjp", (2, 3), ("float16", "bfloat16"), 1, float)
    assert hash(mixed) == hash(again)


def test_problem_for_refuses() -> None:
    with pytest.raises(ValueError, match="negative size"):
        problem_for("softmax", (-1, 2))
    with pytest.raises(ValueError, match="order='K' is not known; give 'C' or 'F'"):
        problem_for("softmax", (1, 2), order="K")
    with pytest.raises(ValueError, match="2 dtypes for the inputs x"):
        problem_for("softmax", (1, 2), ("float16", "float16"))


sizes = st.integers(1, 4)
steps = st.integers(-9, 9)


@given(st.data())
def test_folding_visits_every_element_of_every_row_once(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(sizes, max_size=4)))
    ndim = len(shape)
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, ndim - 1)) if ndim else st.just(set()))))
    views = []
    for dtype in ("float32", "float16"):
        strides = data.draw(st.tuples(*[steps] * ndim))
        if data.draw(st.booleans()):  # dense in some memory order, so that much can merge
            strides = k_order(shape, strides, INPUTS.index(dtype) + 2)
        views.append(View(shape, strides, dtype))
    problem = fold(OPERATIONS["softmax"], views, axes)
    batch = [d for d in range(ndim) if d not in axes]

    def rows(outer: Any, inner: Any, strides: list[tuple[tuple[int, ...], ...]]) -> set[Any]:
        """Return the offsets in each operand of every element of every row."""
        starts, steps = (
            np.stack(
                [np.tensordot(each, np.indices(sizes), 1).ravel() for each in by_operand], axis=-1
            )
            for sizes, by_operand in zip((outer, inner), zip(*strides, strict=True), strict=True)
        )
        return {tuple(sorted(map(tuple, (start + steps).tolist()))) for start in starts}

    got = rows(
        problem.batch_shape,
        problem.reduce_shape,
        [(o.batch_strides, o.reduce_strides) for o in problem.operands],
    )
    expected = rows(
        tuple(shape[d] for d in batch),
        tuple(shape[d] for d in axes),
        [tuple(tuple(v.strides[d] for d in dims) for dims in (batch, axes)) for v in views],
    )
    assert got == expected
    assert problem.rows * problem.n == np.prod(shape, dtype=int)
    assert problem.rows == np.prod(problem.batch_shape)
    assert problem.n == np.prod(problem.reduce_shape)


@given(st.lists(st.tuples(sizes, steps), max_size=4))
def test_k_order_is_that_of_cupy_or_c_order_for_repeated_elements(
    dims: list[tuple[int, int]],
) -> None:
    shape, strides = tuple(n for n, _ in dims), tuple(4 * s for _, s in dims)
    base = np.zeros(400, np.float32)
    array = on_host(as_strided(base[200:], shape, strides))
    # CuPy allocates the array that it returns; the allocator must do without a GPU too.
    with cupy.cuda.using_allocator(lambda size: host(size + 1, dtype=np.uint8).data):
        like = cupy.empty_like(array, dtype=np.float16).strides
    if any(n > 1 and s == 0 for n, s in dims):
        like = np.empty(shape, np.float16).strides
    for n, ours, theirs in zip(shape, k_order(shape, strides, 2), like, strict=True):
        assert n == 1 or ours == theirs


# --------------------------------------------------------------------------------------- signatures


def test_signature_is_equal_for_equal_calls_only() -> None:
    x = on_host(np.zeros((4, 6), np.float32))

    def key(a: Any = x, axis: Any = -1, dtype: Any = None, out: Any = None) -> Any:
        return signature("softmax", (a,), axis, dtype, outs(out), False)

    assert hash(key()) == hash(key())
    assert key() == key() == key(axis=np.int64(-1))
    assert key(dtype="float16") == key(dtype=np.float16) == key(dtype=np.dtype("float16"))
    assert key(axis=(0, 1)) == key(axis=(np.int8(0), 1))
    different = [key(), key(axis=0), key(axis=None), key(dtype="float16"), key(out=x)]
    different += [key(x.T), key(host(4, 6, dtype=np.int32)), key(x[1:]), key(x[:, 1:])]
    different += [signature("softmax_vjp", (x, x), -1, None, (), False)]
    different += [key(on_host(np.zeros((4, 6), np.float32), device=1))]
    assert len(set(different)) == len(different)
    for axis in (1.0, True, [1], "1", (0, 1.0), (True,)):  # equal to an axis, some of them
        with pytest.raises(TypeError, match="give an int, a tuple of ints, or None"):
            key(axis=axis)


# ------------------------------------------------------------------------------------------- errors


class Tensor:
    """Stands for a tensor of another library, told by its module."""


def test_arrays_that_are_not_cupys(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = type("Tensor", (), {"__module__": "torch"})()
    cases = [
        (np.zeros(3), "x is a numpy.ndarray"),
        (np.float32(1), "x is a numpy.float32"),
        ([1.0, 2.0], "x is a list"),
        (1.5, "x is a float"),
        (None, "x is a NoneType"),
        (torch, "x is a torch.Tensor"),
    ]
    shared = "and others that share GPU memory (DLPack, __cuda_array_interface__)"
    for value, what in cases:
        for function in (run, prepare):
            with pytest.raises(TypeError) as error:
                function("softmax", (value,), -1, None, None if function is run else (), False)
            assert str(error.value) == (
                f"softmax: {what}, and only CuPy arrays, {shared}, are accepted; "
                f"pass cupy.asarray(x)"
            )
    with pytest.raises(TypeError, match="softmax_jvp: xt is a list"):
        run("softmax_jvp", (host(3), [1]), -1, None, None)
    with pytest.raises(TypeError, match=r"out is a numpy.ndarray.*give a cupy.ndarray to"):
        run("softmax", (host(3),), -1, None, np.zeros(3))
    monkeypatch.delitem(sys.modules, "cupy")
    with pytest.raises(TypeError, match="only CuPy arrays"):
        prepare("softmax", (np.zeros(3),), -1, None)


REFUSED = [np.complex64, np.complex128, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, ">f4"]


@pytest.mark.parametrize("dtype", REFUSED)
def test_input_dtypes_refused(dtype: Any) -> None:
    fake = np.dtype(dtype)
    try:
        x = on_host(np.zeros(3, fake))
    except (TypeError, ValueError):
        pytest.skip(f"CuPy itself has no {fake}")
    with pytest.raises(TypeError, match=r"x has dtype .*, which is not accepted; the dtypes are "):
        prepare("softmax", (x,), -1, None)


@pytest.mark.parametrize("dtype", INPUTS)
def test_input_dtypes_accepted(dtype: str) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    prepared = prepare("softmax", (host(3, dtype=kind),), -1, None)
    assert prepared.problem.operands[0].dtype == dtype
    assert prepared.results[0].dtype.name == (dtype if dtype in FLOATS else "float64")


def fails(error: type[Exception], match: str, *args: Any, op: str = "softmax") -> None:
    inputs, axis, dtype, out = args
    with pytest.raises(error, match=match):
        prepare(op, inputs, axis, dtype, outs(out))


def test_output_dtypes() -> None:
    x = host(3)
    for dtype in ("int32", bool, "complex64", np.uint8):
        fails(TypeError, r"dtype=\w+ cannot hold the result; give fl", (x,), -1, dtype, None)
    fails(TypeError, "'floaty' is not a dtype; give one of float16", (x,), -1, "floaty", None)
    out = host(3, dtype=np.int32)
    fails(
        TypeError,
        "out has dtype int32, which is not accepted; the dtypes are float16",
        (x,),
        -1,
        None,
        out,
    )
    out = host(3, dtype=np.float16)
    fails(ValueError, "dtype=float32 contradicts out, which is float16", (x,), -1, "float32", out)
    assert prepare("softmax", (x,), -1, "float16", (out,)).results[0].dtype == np.float16
    assert prepare("softmax", (x,), -1, "bfloat16").results[0].dtype == ml_dtypes.bfloat16


def test_axes() -> None:
    x = host(2, 3)
    axis: Any
    for axis in (2, -3, (0, 2)):
        fails(AxisError, r"softmax: axis -?\d is out of bounds for ", (x,), axis, None, None)
    fails(ValueError, "names an axis twice; name each once", (x,), (0, -2), None, None)
    for axis in (1.0, "1", [0], (0, None), True):
        fails(TypeError, "give an int, a tuple of ints, or None", (x,), axis, None, None)
    fails(AxisError, "out of bounds", (host(),), 1, None, None)
    assert resolve_axes("softmax", (2, -3), 3) == (0, 2)


def test_shapes_and_devices() -> None:
    y, op = host(2, 3), "softmax_vjp"
    wrong = host(3)
    fails(ValueError, r"dy has shape \(3,\) and y has \(2, 3\)", (y, wrong), -1, None, None, op=op)
    fails(ValueError, r"out has shape \(3,\) and y has \(2, 3\)", (y, y), -1, None, wrong, op=op)
    far = on_host(np.zeros((2, 3), np.float32), device=1)
    fails(ValueError, "dy is on device 1 and y on device 0", (y, far), -1, None, None, op=op)
    fails(ValueError, "out is on device 1 and x on device 0", (y,), -1, None, far)


def test_out_with_elements_that_share_memory() -> None:
    x, base = host(3, 4), np.zeros(400, np.float16)
    verdicts = []
    for strides in itertools.product((0, 4, -4, 8, 12, 16, -20, 28, 6), repeat=2):
        out = on_host(as_strided(base[200:], (3, 4), strides))
        used = [int(np.dot(i, strides)) + k for i in np.ndindex(3, 4) for k in range(2)]
        verdicts.append(len(set(used)) < len(used))
        if verdicts[-1]:
            fails(ValueError, "elements of out share memory", (x,), -1, None, out)
        else:
            assert prepare("softmax", (x,), -1, None, outs(out)).results[0].strides == strides
    assert {*verdicts} == {True, False}
    # Strides that no order of the dimensions nests, and yet no two elements meet.
    prepare("softmax", (x,), -1, None, (on_host(as_strided(base, (3, 4), (8, 12))),))


def test_overlap() -> None:
    base = np.zeros(64, np.float32)
    a = on_host(base[:24].reshape(4, 6))

    def refused(x: Any, out: Any) -> bool:
        try:
            check_overlap("softmax", (x,), (out,))
        except ValueError:
            return True
        return False

    same = on_host(base[:24].reshape(4, 6))
    assert not refused(a, a)
    assert not refused(a, same)
    assert not refused(a[:, None][:, 0], same)
    assert not refused(a, on_host(base[24:48].reshape(4, 6)))
    assert refused(a, on_host(base[1:25].reshape(4, 6)))
    assert refused(a, on_host(base[23:47].reshape(4, 6)))
    assert refused(a, a[::-1])
    assert refused(a[:, ::-1], a)
    assert refused(a, on_host(base[:12].view(np.float16).reshape(4, 6)))
    assert refused(on_host(np.broadcast_to(base[:6], (4, 6))), a)
    rows = on_host(base[:48].reshape(4, 12))
    assert not refused(rows[:, ::2], rows[:, 1::2])  # interleaved, and never touching
    assert not refused(rows[:, :6], rows[:, 6:])
    assert refused(rows[:, 1:7], rows[:, 6:])
    assert not refused(a[:0], a[:0])
    with pytest.raises(ValueError, match=r"out overlaps dy without being .*; give dy itself, or"):
        check_overlap("softmax_vjp", (host(4, 6), a[::-1]), (a,))
    check_overlap("softmax_vjp", (host(4, 6), a), (a,))


@given(st.data())
def test_overlap_is_decided_exactly(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(sizes, min_size=1, max_size=3)))
    base, spots, arrays = np.zeros(200, np.int16), [], []
    for _ in range(2):
        first = data.draw(st.integers(90, 110))
        strides = data.draw(st.tuples(*[steps] * len(shape)))
        arrays.append(on_host(as_strided(base[first:], shape, tuple(2 * s for s in strides))))
        spots.append([first + int(np.dot(i, strides)) for i in np.ndindex(shape)])
    allowed = spots[0] == spots[1] or not set(spots[0]) & set(spots[1])
    try:
        check_overlap("softmax", (arrays[0],), (arrays[1],))
    except ValueError:
        assert not allowed
    else:
        assert allowed
