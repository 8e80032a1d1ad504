"""Arrays of Dask have the bits of one device, whatever their chunks: `cusoftmax.dask`."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import pytest
from numpy.exceptions import AxisError

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.planning.checks import is_array
from tests.support import DTYPES, bits, dtype_of, exhaustive, logits

dask = pytest.importorskip("dask", reason="Dask is not installed")
da = pytest.importorskip("dask.array", reason="dask.array is not installed")

cd: Any = pytest.importorskip("cusoftmax.dask")
Task: Any = pytest.importorskip("cusoftmax.dask.tasks").Task

ROWS, LENGTH = 4, 2 * 1024 + 77
CHUNKS = {
    "one": (ROWS, LENGTH),
    "rows": (3, LENGTH),
    "classes": (ROWS, 1024),
    "both": (1, (1024, 1024, 77)),
    "off the boundaries": (2, 700),
}
FUNCTIONS = {
    "softmax": 1,
    "log_softmax": 1,
    "logsumexp": 1,
    "softmax_vjp": 2,
    "softmax_jvp": 2,
    "log_softmax_vjp": 2,
    "log_softmax_jvp": 2,
    "logsumexp_vjp": 2,
    "softmax_hvp": 3,
    "softmax_vjp_vjp": 3,
    "softmax_value_and_vjp": 2,
    "softmax_value_and_jvp": 2,
    "log_softmax_value_and_vjp": 2,
    "log_softmax_value_and_jvp": 2,
    "topk_softmax": 1,
    "sample": 1,
}
OPTIONS: dict[str, dict[str, Any]] = {"topk_softmax": {"k": 9}, "sample": {"seed": 2**40 + 3}}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


def inputs_of(op: str, dtype: str, shape: tuple[int, ...] = (ROWS, LENGTH)) -> list[np.ndarray]:
    x = logits(shape, dtype)
    if op in ("log_softmax_vjp", "log_softmax_jvp"):
        x = (x.astype("f8") - 20).astype(x.dtype)
    other = logits(shape[:-1] if op == "logsumexp_vjp" else shape, dtype, seed=1)
    return [x, other, logits(shape, dtype, seed=2)][: FUNCTIONS[op]]


def several(results: Any) -> tuple[Any, ...]:
    return results if isinstance(results, tuple) else (results,)


def chunked(array: np.ndarray, chunks: Any) -> Any:
    return da.from_array(array, chunks=chunks[: array.ndim])


def digest(*arrays: Any) -> str:
    return hashlib.sha256(b"".join(bits(np.asarray(a)).tobytes() for a in arrays)).hexdigest()


def assert_same(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(bits(found), bits(expected))


CASES = [(op, "float32") for op in FUNCTIONS]
CASES += [(op, dtype) for op in ("softmax", "softmax_vjp") for dtype in ("bfloat16", "float64")]
OTHERS = [(op, dtype) for op in FUNCTIONS for dtype in DTYPES if (op, dtype) not in CASES]


@pytest.mark.parametrize(("op", "dtype"), [*CASES, *exhaustive(OTHERS)])
def test_one_digest_for_one_device_and_all_chunks(device: Any, op: str, dtype: str) -> None:
    inputs, options = inputs_of(op, dtype), OPTIONS.get(op, {})
    whole = [
        device.asnumpy(each)
        for each in several(getattr(cs, op)(*map(device.asarray, inputs), **options))
    ]
    for chunks in CHUNKS.values():
        lazy = several(getattr(cd, op)(*(chunked(a, chunks) for a in inputs), **options))
        found = dask.compute(*lazy)
        for expected, array, made in zip(whole, lazy, found, strict=True):
            assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
            meta = array._meta
            assert (type(meta), meta.ndim) == (np.ndarray, expected.ndim)
            assert made.dtype == meta.dtype == expected.dtype
        assert digest(*found) == digest(*whole), chunks


OF_LOGITS = [op for op in FUNCTIONS if "_value_and_" in op]
OF_LOGITS += ["softmax", "log_softmax", "logsumexp", "logsumexp_vjp"]
OF_RESULTS = ["softmax_vjp", "softmax_jvp", "log_softmax_vjp", "log_softmax_jvp"]


@pytest.mark.parametrize("op", [*OF_LOGITS, *OF_RESULTS])
def test_scaled_and_masked_rows(device: Any, op: str) -> None:
    """Masks and biases broadcast: along the classes, along the rows, or have other chunks."""
    inputs = inputs_of(op, "float32")
    mask = np.random.default_rng(0).random((ROWS, LENGTH)) < 0.7
    mask[1] = False
    bias = logits((ROWS, LENGTH), "float16", seed=3)
    for given in (
        {"scale": -0.3, "mask": mask, "bias": bias[:, :1]},
        {"mask": mask[:1], "bias": bias[0]},
        {"scale": 1.0, "mask": mask[:, :1], "bias": bias},
    ):
        if op in OF_RESULTS:
            del given["bias"]
        named = {name: given[name] for name in given.keys() & {"mask", "bias"}}
        alike = {k: device.asarray(np.broadcast_to(v, bias.shape)) for k, v in named.items()}
        whole = getattr(cs, op)(*map(device.asarray, inputs), **given | alike)
        for chunks in ((ROWS, LENGTH), (3, 1024), (2, 700)):
            lazy = {k: da.from_array(v, chunks=(2, 500)[-v.ndim :]) for k, v in named.items()}
            made = getattr(cd, op)(*(chunked(a, chunks) for a in inputs), **given | lazy)
            found = dask.compute(*several(made))
            for each, expected in zip(found, several(whole), strict=True):
                assert_same(each, device.asnumpy(expected))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_draws_of_rows_in_several_dimensions(device: Any, axis: int) -> None:
    """The number of a row is that in the whole array, wherever chunks divide its dimensions."""
    shape = [3, 4, 5]
    shape[axis] = 1100
    x = np.round(logits(tuple(shape), "float32"))
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    drawn = device.asnumpy(cs.sample(device.asarray(rows), seed=1))
    best = [device.asnumpy(a) for a in cs.topk_softmax(device.asarray(rows), 5)]
    for cut in ((3, 4, 5), (2, 2, 2), (1, 4, 3), ((0, 3), (1, 0, 3), 5)):
        for along in (1100, 1024):
            chunks = [*cut]
            chunks[axis] = along
            lazy = da.from_array(x, chunks=da.core.normalize_chunks(chunks, x.shape))
            assert_same(cd.sample(lazy, axis, seed=1).compute(), drawn)
    values, indices = cd.topk_softmax(lazy, 5, axis)
    assert values.chunks[axis] == indices.chunks[axis] == (5,)
    for found, expected in zip(dask.compute(values, indices), best, strict=True):
        assert_same(found, np.moveaxis(expected, -1, axis))


@pytest.mark.parametrize("kind", ["class", "probabilities", "weighted", "smooth"])
def test_losses_and_gradients(device: Any, kind: str) -> None:
    x = logits((ROWS, LENGTH), "float32")
    target = np.array([0, LENGTH - 1, -100, 1030])
    options: dict[str, Any] = {"z_loss": 1e-3}
    if kind == "probabilities":
        target = np.abs(logits(x.shape, "float32", seed=3))
    elif kind == "smooth":
        options |= {"label_smoothing": 0.1, "softcap": 20.0}
    weight = (
        np.abs(logits((LENGTH,), "float32", seed=4)) if kind in ("weighted", "smooth") else None
    )
    dloss = logits((ROWS,), "float32", seed=5)
    dx, dt, dd = map(device.asarray, (x, target, dloss))
    given = dict(options)
    if weight is not None:
        given["weight"] = device.asarray(weight)
        options["weight"] = da.from_array(weight, chunks=500)
    loss, grad = cs.cross_entropy(dx, dt, reduction="none", grad=True, **given)
    vjp = cs.cross_entropy_vjp(dx, dt, dd, **given)
    whole = [device.asnumpy(a) for a in (loss, grad, vjp)]
    for chunks in CHUNKS.values():
        lx, lt, ld = (chunked(a, chunks) for a in (x, target, dloss))
        lazy = [*cd.cross_entropy(lx, lt, grad=True, **options)]
        lazy += [cd.cross_entropy_vjp(lx, lt, ld, **options), cd.cross_entropy(lx, lt, **options)]
        assert [a.shape for a in lazy] == [(ROWS,), x.shape, x.shape, (ROWS,)]
        found = dask.compute(*lazy)
        assert digest(*found) == digest(*whole, whole[0]), chunks


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_any_axis_has_the_bits_of_contiguous_rows(device: Any, axis: int) -> None:
    x = logits((3, 1100, 2), "float32") if axis == 1 else logits((5, 4, 3), "float32")
    rows = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    whole = device.asnumpy(cs.softmax(device.asarray(rows)))
    sums = device.asnumpy(cs.logsumexp(device.asarray(rows)))
    for chunks in ((2, 1024, 1), (5, 40, 3)):
        lazy = da.from_array(x, chunks=chunks)
        assert_same(cd.softmax(lazy, axis=axis).compute(), np.moveaxis(whole, -1, axis))
        assert_same(cd.logsumexp(lazy, axis).compute(), sums)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5), (0, 3000), (1,), (3000,)])
def test_empty_arrays_and_single_rows(device: Any, shape: tuple[int, ...]) -> None:
    x = logits(shape, "float32")
    for op in ("softmax", "logsumexp", *(["sample"] if shape[-1] else [])):
        options = OPTIONS.get(op, {})
        expected = device.asnumpy(getattr(cs, op)(device.asarray(x), **options))
        assert_same(getattr(cd, op)(da.from_array(x, chunks=1024), **options).compute(), expected)


def test_chunks_of_nothing(device: Any) -> None:
    x = logits((ROWS, LENGTH), "float32")
    whole = device.asnumpy(cs.softmax(device.asarray(x)))
    lazy = cd.softmax(da.from_array(x, chunks=((2, 0, 2), (1024, 0, 1024, 77))))
    assert lazy.chunks == ((2, 0, 2), (1024, 0, 1024, 77))
    assert_same(lazy.compute(), whole)
    y, dy = (da.ones((0, 1100), chunks=c) for c in (((0, 0), (0, 1100)), ((0,), (1100,))))
    assert cd.softmax_vjp(y, dy).compute().shape == cd.softmax(y).compute().shape == (0, 1100)


def test_dtypes_of_results(device: Any) -> None:
    x = da.from_array(np.arange(6, dtype="int32").reshape(2, 3))
    assert cd.softmax(x).dtype == "float64"
    assert cd.logsumexp(x, dtype="float16").dtype == "float16"
    assert cd.softmax(x, dtype="bfloat16").compute().dtype == dtype_of("bfloat16")
    mixed = cd.softmax_vjp(x.astype("float16"), x.astype("float32"))
    assert mixed.dtype == mixed.compute().dtype == "float32"
    of_x = cd.logsumexp_vjp(x.astype("float16"), x[:, 0].astype("float32"))
    assert of_x.dtype == of_x.compute().dtype == "float16"
    assert cd.cross_entropy(x, x[:, 0], grad=True)[1].dtype == "float64"
    assert [a.dtype for a in cd.topk_softmax(x, 2, dtype="float16")] == ["float16", "int64"]
    narrow = cd.softmax_value_and_vjp(x.astype("float16"), x.astype("float32"), dtype="float16")
    assert [a.dtype for a in (*narrow, *dask.compute(*narrow))] == ["float16"] * 4


# -------------------------------------------------------------------------------- graphs and chunks


def layers(*lazy: Any) -> list[str]:
    """Return the names of the layers of arrays, without tokens."""
    merged = {name: None for array in lazy for name in array.dask.layers}
    return [name.rpartition("-")[0] for name in merged]


def test_names_of_layers() -> None:
    x, y, z = (da.ones((4, 4096), chunks=(2, size)) for size in (4096, 2048, 1500))
    made = [f"cusoftmax-softmax-vjp{part}" for part in ("-partial", "-combine", "")]
    assert layers(cd.softmax_vjp(x, x)) == ["ones_like", made[-1]]
    assert layers(cd.softmax_vjp(y, y)) == ["ones_like", *made]
    assert layers(cd.softmax_vjp(z, z)) == ["ones_like", "rechunk-merge", *made]
    target = da.zeros(4, chunks=2, dtype=int)
    for lazy in (x, y):
        loss, grad = cd.cross_entropy(lazy, target, grad=True)
        assert layers(loss)[-1] == "cusoftmax-cross-entropy-loss"
        assert layers(grad)[-1] == "cusoftmax-cross-entropy-gradient"
    both = "cusoftmax-softmax-value-and-vjp"
    for array in (x, y):
        value, vjp = cd.softmax_value_and_vjp(array, array)
        assert layers(value)[-2:] == [both, f"{both}-value"]
        assert layers(vjp)[-2:] == [both, f"{both}-vjp"]
        values, indices = cd.topk_softmax(array, 3)
        shared, names = "cusoftmax-topk-softmax", (layers(values), layers(indices))
        assert [each[-2:] for each in names] == [
            [shared, f"{shared}-{word}"] for word in ("values", "indices")
        ]


def test_the_dashboard_shows_readable_names() -> None:
    x = da.ones((2, 20 * 1024), chunks=(1, 1024))
    shown = {dask.utils.key_split(key) for key in cd.log_softmax(x).__dask_graph__()}
    named = {f"cusoftmax-log-softmax{part}" for part in ("-partial", "-combine", "")}
    assert named < shown and len(shown - named) == 1


def test_nodes_are_combined_in_a_tree() -> None:
    x = da.ones((1, 70 * 1024), chunks=(1, 1024))
    graph = dict(cd.logsumexp(x).dask)
    counts = [
        len(dask.core.get_dependencies(graph, key))
        for key in graph
        if isinstance(key, tuple) and "-combine-" in key[0]
    ]
    assert sorted(counts) == [2, 6] + [8] * 9


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    def read(_: Any) -> Any:
        raise AssertionError("a block was read")

    x = da.ones((4, 4096), chunks=(2, 1024)).map_blocks(read, dtype="f8", meta=np.empty((0, 0)))
    for op in FUNCTIONS:
        other = x[:, 0] if op == "logsumexp_vjp" else x
        getattr(cd, op)(*[x, other, x][: FUNCTIONS[op]], **OPTIONS.get(op, {}))
    for target in (x, x[:, 0].astype(int)):
        cd.cross_entropy(x, target, weight=abs(x[0]), grad=True)
        cd.cross_entropy_vjp(x, target, x[:, 0])
    with emulator.activate(), pytest.raises(AssertionError, match="a block was read"):
        cd.softmax(x).compute()


def test_the_same_call_has_the_same_name_and_others_do_not() -> None:
    x = da.ones((4, 4096), chunks=(2, 1024))
    names = [
        cd.softmax(x).name,
        cd.softmax(x, dtype="float16").name,
        cd.softmax(x, dtype="bfloat16").name,
        cd.softmax(x, 0).name,
        cd.logsumexp(x).name,
    ]
    assert len(set(names)) == len(names)
    assert cd.softmax(x).name == names[0] == cd.softmax(x, -1).name


@pytest.mark.parametrize(
    ("shape", "chunks", "axis"),
    [
        ((64, 5000), (64, 700), 1),
        ((64, 5000), (33, 1500), 1),
        ((64, 5000), (5, 4096), 1),
        ((1000, 1000), (500, 100), 1),
        ((3, 4, 5, 9000), (2, 4, 5, 600), 3),
        ((9000, 8, 9), (300, 5, 4), 0),
        ((64, 100_000), (64, (50_001, 49_999)), 1),
    ],
)
def test_no_chunk_is_larger_than_what_came_in(
    shape: tuple[int, ...], chunks: Any, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("partial", "combine", "values"):
        monkeypatch.setattr(Task, name, lambda *_: None)
    monkeypatch.setattr(Task, "rows", lambda task, x: x)
    monkeypatch.setattr(Task, "apply", lambda task, offset, node, x: x)
    x = da.ones(shape, chunks=chunks, dtype="int8")
    y = cd.softmax(x, axis, dtype="float32")
    assert y.shape == shape and all(place % 1024 == 0 for place in np.cumsum(y.chunks[axis])[:-1])
    sizes: list[int] = []

    def note(key: Any, made: Any, *_: Any) -> None:
        if isinstance(key, tuple):  # a block, also one that is made on the way
            sizes.append(getattr(made, "size", 0))

    with dask.callbacks.Callback(posttask=note):
        y.compute(scheduler="sync")
    largest = prod(max(sizes) for sizes in x.chunks)
    assert max(sizes) <= largest and max(sizes) > 0


def test_small_chunks_become_a_unit_of_one_row() -> None:
    y = cd.softmax(da.ones((8, 5000), chunks=(2, 100)))
    assert y.chunks == ((1,) * 8, (1024,) * 4 + (904,))
    assert cd.softmax(da.ones((8, 1000), chunks=(2, 100))).chunks == ((1,) * 8, (1000,))


def test_rows_stay_together_where_new_chunks_are_no_longer() -> None:
    y = cd.softmax(da.ones((8, 5000), chunks=(4, 1500)))
    assert y.chunks == ((4, 4), (1024,) * 4 + (904,))


def test_inputs_of_different_chunks(device: Any) -> None:
    y, dy = inputs_of("softmax_vjp", "float32")
    whole = device.asnumpy(cs.softmax_vjp(device.asarray(y), device.asarray(dy)))
    lazy = cd.softmax_vjp(da.from_array(y, chunks=(1, 2048)), da.from_array(dy, chunks=(4, 1024)))
    assert lazy.chunks == ((1,) * 4, (1024, 1024, 77))
    assert_same(lazy.compute(), whole)


# ----------------------------------------------------------------------------------- blocks of CuPy


def cupy_blocks(array: np.ndarray, chunks: Any) -> Any:
    """Return an array of Dask with blocks of CuPy, on the emulator too."""
    lazy = da.from_array(array, chunks=chunks)
    meta = emulator.asarray(np.empty((0,) * array.ndim, array.dtype))
    return lazy.map_blocks(emulator.asarray, meta=meta, dtype=array.dtype)


@pytest.mark.parametrize("chunks", [(2, LENGTH), (3, 1024)])
def test_blocks_of_cupy_stay_on_the_device(emulated: Any, chunks: Any) -> None:
    x, target = logits((ROWS, LENGTH), "float32"), np.array([0, 5, 1029, 2])
    lx, lt = cupy_blocks(x, chunks), cupy_blocks(target, chunks[:1])
    dx, dt = map(emulated.asarray, (x, target))
    loss, grad = cs.cross_entropy(dx, dt, reduction="none", grad=True)
    pairs = [(cd.softmax(lx), cs.softmax(dx)), (cd.logsumexp(lx), cs.logsumexp(dx))]
    pairs += zip(cd.cross_entropy(lx, lt, grad=True), (loss, grad), strict=True)
    pairs += zip(cd.topk_softmax(lx, 3), cs.topk_softmax(dx, 3), strict=True)
    pairs.append((cd.sample(lx, seed=1), cs.sample(dx, seed=1)))
    for lazy, whole in pairs:
        assert is_array(lazy._meta)
        (blocks,) = dask.compute(lazy.to_delayed().tolist())
        rows = [row if isinstance(row, list) else [row] for row in blocks]
        assert all(is_array(block) for row in rows for block in row)
        joined = [np.concatenate([emulated.asnumpy(b) for b in row], axis=-1) for row in rows]
        assert_same(np.concatenate(joined), emulated.asnumpy(whole))


def test_rows_of_cupy_that_are_not_side_by_side(emulated: Any) -> None:
    x = logits((1100, 3), "float32")
    lazy = cd.softmax(cupy_blocks(x, (1024, 3)), axis=0)
    (blocks,) = dask.compute(lazy.to_delayed().ravel().tolist())
    found = np.concatenate([emulated.asnumpy(block) for block in blocks])
    rows = emulated.asarray(np.ascontiguousarray(x.T))
    assert_same(found, emulated.asnumpy(cs.softmax(rows)).T)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, "x is a numpy.ndarray.*from_array", lambda x: cd.softmax(np.ones(3))),
        (TypeError, "dy is a list", lambda x: cd.softmax_vjp(x, [1.0])),
        (TypeError, "axis=1.5", lambda x: cd.softmax(x, 1.5)),
        (TypeError, "axis=", lambda x: cd.softmax(x, (0, 1))),
        (AxisError, "axis 2", lambda x: cd.softmax(x, 2)),
        (TypeError, "complex128", lambda x: cd.softmax(x.astype(complex))),
        (TypeError, "cannot hold", lambda x: cd.softmax(x, dtype="int32")),
        (TypeError, "is not a dtype", lambda x: cd.softmax(x, dtype="nothing")),
        (ValueError, "no dimensions", lambda x: cd.softmax(x.sum())),
        (ValueError, "compute_chunk_sizes", lambda x: cd.softmax(x[x[:, 0] > 0])),
        (ValueError, r"dy has shape \(4,\)", lambda x: cd.softmax_vjp(x, x[:, 0])),
        (ValueError, "dy has shape", lambda x: cd.logsumexp_vjp(x, x)),
        (TypeError, "MaskedArray", lambda x: cd.softmax(x.map_blocks(np.ma.masked_array))),
        (TypeError, "target has dtype bool", lambda x: cd.cross_entropy(x, x[:, 0] > 0)),
        (ValueError, "target has shape", lambda x: cd.cross_entropy(x, x[:, :2])),
        (ValueError, "one value for each class",
         lambda x: cd.cross_entropy(x, x, weight=x[0, :2])),
        (ValueError, "label_smoothing=2", lambda x: cd.cross_entropy(x, x, label_smoothing=2)),
        (TypeError, "grad=1", lambda x: cd.cross_entropy(x, x, grad=1)),
        (ValueError, "dloss has shape", lambda x: cd.cross_entropy_vjp(x, x, x)),
        (ValueError, "topk_softmax: k=7, but a row has only 6", lambda x: cd.topk_softmax(x, 7)),
        (ValueError, "k=0 is not", lambda x: cd.topk_softmax(x, 0)),
        (TypeError, "k=2.5", lambda x: cd.topk_softmax(x, 2.5)),
        (ValueError, "normalise='no'", lambda x: cd.topk_softmax(x, 2, normalise="no")),
        (ValueError, "sample: seed=-1", lambda x: cd.sample(x, seed=-1)),
        (ValueError, "temperature=-1", lambda x: cd.sample(x, seed=1, temperature=-1)),
        (ValueError, "row no element", lambda x: cd.sample(x[:, :0], seed=1)),
        (ValueError, "compute_chunk_sizes", lambda x: cd.topk_softmax(x[x[:, 0] > 0], 2)),
        (TypeError, "softmax: mask has dtype float64", lambda x: cd.softmax(x, mask=x)),
        (TypeError, "bias is a numpy.ndarray", lambda x: cd.softmax(x, bias=np.ones(6))),
        (ValueError, r"bias has shape \(4,\); give", lambda x: cd.softmax(x, bias=x[:, 0])),
        (ValueError, r"bias has shape \(1, 4, 6\)", lambda x: cd.logsumexp(x, bias=x[None])),
        (ValueError, "mask has chunks of unknown",
         lambda x: cd.softmax(x, mask=(x > 0)[x[:, 0] > 0])),
        (ValueError, "softmax: scale=1e", lambda x: cd.softmax(x, scale=1e30)),
        (TypeError, "softmax_vjp: scale='2'", lambda x: cd.softmax_vjp(x, x, scale="2")),
    ],
)  # fmt: skip
def test_errors_come_before_any_work(error: type[Exception], words: str, call: Any) -> None:
    x = da.ones((4, 6), chunks=(2, 3))
    with pytest.raises(error, match=words):
        call(x)


def test_an_array_of_the_device_is_sent_to_the_function_for_it(emulated: Any) -> None:
    with pytest.raises(TypeError, match=r"pass it to cusoftmax\.softmax"):
        cd.softmax(emulated.asarray(np.ones(3)))
    lazy = da.ones((3, 3))
    blocks = cupy_blocks(np.ones((3, 3)), (3, 3))
    with pytest.raises(TypeError, match="dy has blocks of CuPy, and y of NumPy"):
        cd.softmax_vjp(lazy, blocks)


def test_without_a_gpu_or_the_emulator_a_task_says_what_to_do() -> None:
    from cusoftmax.runtime.backend import gpu_is_present

    if gpu_is_present():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match=r"register the plugin .*EmulatorPlugin"):
        cd.softmax(da.ones((3, 3))).compute()


@pytest.mark.parametrize("length", [1024, 3])
def test_blocks_of_another_dtype_than_was_said(emulated: Any, length: int) -> None:
    x = da.ones((2, 2 * length), "f4", chunks=(1, length))
    wrong = x.map_blocks(lambda block: block.astype("f8"), dtype="f4", meta=np.empty((0, 0), "f4"))
    with pytest.raises(TypeError, match="softmax: a block has dtype float64, and"):
        cd.softmax(wrong).compute()


def test_tasks_can_be_sent() -> None:
    graph = dict(cd.softmax(da.ones((2, 2048), chunks=(1, 1024))).dask)
    assert len(pickle.dumps(list(graph.values()))) < 20_000


def test_the_package_and_the_functions_import_on_demand() -> None:
    code = (
        "import sys, cusoftmax; assert 'dask' not in sys.modules; "
        "import cusoftmax.dask; assert 'distributed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


ON_THE_DRIVER = """
from cusoftmax.emulator import cuda_driver
cuda_driver.install(arch="sm_90")
import cupy, dask.array as da, numpy as np, cusoftmax as cs, cusoftmax.dask as cd
x = np.random.default_rng(0).normal(size=(1100, 2)).astype("float32")
expected = cupy.asnumpy(cs.softmax(cupy.asarray(x.T.copy()))).T
host = cd.softmax(da.from_array(x, chunks=(1024, 1)), axis=0)
blocks = da.from_array(cupy.asarray(x), chunks=(1024, 2), asarray=False)
device = cd.softmax(blocks, axis=0)
assert type(host._meta) is np.ndarray and type(device._meta) is cupy.ndarray
(above,), (below,) = device.to_delayed()
above, below = above.compute(), below.compute()
assert type(above) is type(below) is cupy.ndarray
found = np.concatenate([above.get(), below.get()])
assert host.compute().tobytes() == found.tobytes() == expected.tobytes()
print("same")
"""


def test_blocks_of_numpy_are_copied_to_the_gpu_and_those_of_cupy_are_there() -> None:
    """On the emulated driver, from two threads and by CuPy's own path."""
    said = subprocess.run(
        [sys.executable, "-c", ON_THE_DRIVER], capture_output=True, text=True, timeout=600
    )
    assert said.stdout == "same\n", said.stderr
