"""Logits that are scaled, biased and hidden: every combination, every layout of what is beside."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.exceptions import AxisError

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.operations.options import LOGIT_FEATURES, logits_name
from cusoftmax.operations.table import KERNELS
from cusoftmax.runtime import arrays
from tests.support import (
    DTYPES,
    MAIN_PLAN_KINDS,
    SWEPT_DTYPES,
    assert_plan,
    bits,
    case,
    dtype_of,
    plan_of,
)

SCALE = -0.37
Options = dict[str, Any]

COMBINATIONS = [
    tuple(word for word, wanted in zip(LOGIT_FEATURES, chosen, strict=True) if wanted)
    for chosen in product((False, True), repeat=4)
    if any(chosen)
]


def options_of(features: tuple[str, ...], shape: tuple[int, ...], dtype: Any, seed: int) -> Options:
    rng = np.random.default_rng(seed)
    bias = (rng.standard_normal(shape) * 3).astype(dtype)
    mask = rng.random(shape) < 0.7
    mask[..., : shape[-2] // 3, :] = False  # whole rows
    values = {"scaled": SCALE, "biased": bias, "masked": mask, "causal": True}
    names = {"scaled": "scale", "biased": "bias", "masked": "mask", "causal": "causal"}
    return {names[word]: values[word] for word in features}


def on(device: Any, options: Options) -> Options:
    return {k: device.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}


def draw(shape: tuple[int, ...], dtype: Any, seed: int = 0, sigma: float = 10.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * sigma).astype(dtype)


def assert_softmax(y: np.ndarray, x: np.ndarray, options: Options, axis: int = -1) -> None:
    exact = reference.softmax(x, axis, **options, extended=True)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))
    single = y.dtype.itemsize < 8
    bound = CONTRACTS["softmax"].bound[y.dtype.name]
    assert np.nanmax(reference.ulp_error(y, exact, flush_to_zero=single), initial=0) <= bound
    hidden = ~reference.seen(x, options.get("mask"), options.get("causal", False))
    assert not y[hidden].any()


# ------------------------------------------------------------------------------------ combinations


@pytest.mark.parametrize("features", COMBINATIONS, ids="-".join)
@pytest.mark.parametrize("shape", [(7, 40), (2, 5, 33)], ids=str)
def test_every_combination(device: Any, features: tuple[str, ...], shape: tuple[int, ...]) -> None:
    x = draw(shape, np.float32)
    options = options_of(features, shape, np.float32, 1)
    y = device.asnumpy(cs.softmax(device.asarray(x), **on(device, options)))
    assert y.dtype == np.float32
    assert_softmax(y, x, options)


# Each kind with and without a second word, and the other dtypes in what their sizes change.
CASES = [
    (wanted, dtype)
    for wanted in MAIN_PLAN_KINDS
    for dtype in DTYPES
    if dtype in ("float16", "float32") or wanted in ("group", "block", "column")
]


@pytest.mark.parametrize(("wanted", "dtype"), CASES)
def test_each_kind_of_plan(device: Any, wanted: str, dtype: str) -> None:
    op = logits_name("softmax", LOGIT_FEATURES)
    found = case(wanted, op, dtype)
    x = draw(found.shape, dtype_of(dtype))
    if found.axis == 0:  # a causal order has its rows along the last axis
        x = x.T
    options = options_of(LOGIT_FEATURES, x.shape, x.dtype, 2)
    if found.axis == 0:
        options = {k: np.asfortranarray(v) if np.ndim(v) else v for k, v in options.items()}
    with device.on(found.arch):
        dev, given = device.asarray(x), on(device, options)
        y = cs.softmax(dev, **given)
    assert_softmax(device.asnumpy(y), x, options)


def test_logits_of_16_bits_beside_wider_biases(device: Any) -> None:
    x = draw((6, 300), np.float16)
    for kind in (np.float32, np.float64):
        bias = draw((6, 300), kind, 3, 3.0)
        y = device.asnumpy(cs.softmax(device.asarray(x), bias=device.asarray(bias)))
        assert y.dtype == np.float16  # the dtype of x, not of what is beside it
        assert_softmax(y, x, {"bias": bias})


def test_integers(device: Any) -> None:
    x = np.arange(-30, 30, dtype=np.int32).reshape(4, 15)
    bias = np.arange(15, dtype=np.int8)
    y = device.asnumpy(cs.softmax(device.asarray(x), scale=0.1, bias=device.asarray(bias)))
    assert y.dtype == np.float64
    assert_softmax(y, x, {"scale": 0.1, "bias": bias})


# -------------------------------------------------------------------------------------- what beside


BESIDE = {
    "a row for all": (1, 1, 1, 300),
    "one row": (300,),
    "a row for each batch": (3, 1, 1, 300),
    "a row for each head": (1, 2, 1, 300),
    "for each query": (1, 1, 5, 300),
    "batch and query": (3, 1, 5, 300),
    "one value a row": (3, 2, 5, 1),
    "one value a query": (5, 1),
    "one value": (1,),
}


@pytest.mark.parametrize("shape", BESIDE.values(), ids=BESIDE)
def test_broadcast_by_strides(device: Any, shape: tuple[int, ...]) -> None:
    x = draw((3, 2, 5, 300), np.float32)
    options: Options = {"mask": np.random.default_rng(1).random(shape) < 0.6}
    options["bias"] = draw(shape, np.float32, 2, 2.0)
    given = on(device, options)
    y = device.asnumpy(cs.softmax(device.asarray(x), **given))
    assert_softmax(y, x, options)
    # Attention's masks leave rows as they are: contiguous, read by wide accesses.
    views = [
        arrays.broadcast("softmax", k, given[k], "x", device.asarray(x)) for k in ("bias", "mask")
    ]
    plan = plan_of(device, "softmax_biased_masked", device.asarray(x), *views)
    assert_plan(plan, "group", vector=4)


@pytest.mark.parametrize("n", [300, 3000])
def test_same_bits_however_a_mask_is_stored(device: Any, n: int) -> None:
    x, row = draw((4, n), np.float16), np.random.default_rng(1).random(n) < 0.6
    whole = np.ascontiguousarray(np.broadcast_to(row, x.shape))
    results = [
        device.asnumpy(cs.softmax(device.asarray(x), mask=mask))
        for mask in (
            device.asarray(row),
            device.asarray(whole),
            device.asarray(whole, misalign=1),
            device.asarray(np.repeat(whole, 2, axis=0))[::2],
        )
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(bits(result), bits(results[0]))


@pytest.mark.parametrize("n", [40, 2000])
def test_values_that_repeat_along_the_row(device: Any, n: int) -> None:
    """They are read once, and do not send a row down the column pattern."""
    x, dy = draw((5, n), np.float32), draw((5, 1), np.float32, 1)
    y = reference.softmax(x).astype(np.float32)
    same = arrays.broadcast("softmax_vjp", "dy", device.asarray(dy), "y", device.asarray(y))
    assert plan_of(device, "softmax_vjp", device.asarray(y), same).pattern in ("group", "block")
    got = device.asnumpy(cs.softmax_vjp(device.asarray(y), same))
    whole = np.ascontiguousarray(np.broadcast_to(dy, y.shape))
    expected = device.asnumpy(cs.softmax_vjp(device.asarray(y), device.asarray(whole)))
    np.testing.assert_array_equal(bits(got), bits(expected))
    weights = device.asarray(np.abs(dy))
    got = device.asnumpy(cs.logsumexp(device.asarray(x), b=weights))
    whole = device.asarray(np.ascontiguousarray(np.broadcast_to(np.abs(dy), x.shape)))
    expected = device.asnumpy(cs.logsumexp(device.asarray(x), b=whole))
    np.testing.assert_array_equal(bits(got), bits(expected))


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_changes_nothing_changes_no_bit(device: Any, op: str, dtype: str) -> None:
    x = device.asarray(draw((3, 700), dtype_of(dtype)))
    plain = device.asnumpy(getattr(cs, op)(x))
    shown = device.asarray(np.ones((3, 700), bool))
    for options in ({"scale": 1.0}, {"mask": shown}, {"scale": 1, "mask": None, "causal": False}):
        np.testing.assert_array_equal(
            bits(device.asnumpy(getattr(cs, op)(x, **options))), bits(plain)
        )


# ------------------------------------------------------------------------------------------- causal


@pytest.mark.parametrize(
    "shape", [(6, 6), (3, 11), (11, 3), (1, 50), (2, 4, 1), (2, 3, 130)], ids=str
)
def test_causal_is_a_triangle(device: Any, shape: tuple[int, ...]) -> None:
    """The last query sees every key, and one that sees none gives zeros."""
    x = draw(shape, np.float32)
    queries, keys = shape[-2:]
    mask = np.tri(queries, keys, keys - queries, dtype=bool)
    y = device.asnumpy(cs.softmax(device.asarray(x), causal=True))
    np.testing.assert_array_equal(
        bits(y), bits(device.asnumpy(cs.softmax(device.asarray(x), mask=device.asarray(mask))))
    )
    assert_softmax(y, x, {"causal": True})
    last = device.asnumpy(cs.softmax(device.asarray(np.ascontiguousarray(x[..., -1, :]))))
    np.testing.assert_array_equal(bits(y[..., -1, :]), bits(last))


@pytest.mark.parametrize("order", ["transposed", "batch inside", "every other row", "reversed"])
def test_causal_follows_the_axes_and_not_the_memory(device: Any, order: str) -> None:
    x = draw((3, 8, 20), np.float32)
    if order == "transposed":
        view = device.asarray(np.ascontiguousarray(x.transpose(2, 0, 1))).transpose(1, 2, 0)
    elif order == "batch inside":
        view = device.asarray(np.ascontiguousarray(x.transpose(1, 0, 2))).transpose(1, 0, 2)
    elif order == "every other row":
        view = device.asarray(np.repeat(x, 2, axis=1))[:, ::2]
    else:
        view = device.asarray(np.ascontiguousarray(x[:, ::-1]))[:, ::-1]
    assert_softmax(device.asnumpy(cs.softmax(view, causal=True)), x, {"causal": True})


def test_causal_rows_are_read_as_far_as_they_are_seen() -> None:
    with emulator.activate(arch="sm_90"), emulator.trace() as counted:
        x = emulator.asarray(draw((512, 512), np.float32))
        cs.softmax(x, causal=True)
    seen = 512 * 513 // 2
    assert seen * 4 <= counted.global_bytes_read <= (seen + 4 * 512) * 4  # whole vectors
    assert counted.global_bytes_written == 512 * 512 * 4


# ------------------------------------------------------------------------------------------ traffic


@pytest.mark.parametrize("shape", [(64, 1024), (8, 20000)], ids=str)
def test_a_mask_is_read_once_in_its_own_dtype(shape: tuple[int, ...]) -> None:
    size = shape[0] * shape[1]
    with emulator.activate(arch="sm_90"):
        x, mask = emulator.asarray(draw(shape, np.float16)), np.ones(shape, bool)
        shown = emulator.asarray(mask)
        with emulator.trace() as counted:
            cs.softmax(x, mask=shown)
        assert counted.global_bytes_read == size * (2 + 1)
        assert counted.global_bytes_written == size * 2
        whole_rows = emulator.asarray(mask[:, :1])
        with emulator.trace() as counted:
            cs.softmax(x, mask=whole_rows)
        lanes = 32 * -(-shape[1] // 1024)
        assert counted.global_bytes_read <= size * 2 + shape[0] * lanes  # one for each lane


# ----------------------------------------------------------------------------------- special values


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("n", [6, 2100])
def test_special_values(device: Any, dtype: str, n: int) -> None:
    kind = dtype_of(dtype)
    x = draw((6, n), kind, sigma=1.0)
    mask = np.ones((6, n), bool)
    mask[0] = False  # a row that sees nothing, of any logits
    x[0, :3] = np.nan, np.inf, -np.inf
    x[1, 0], mask[1, 0] = np.nan, False  # hidden, so not there
    x[2, 1], mask[2, 1] = np.inf, False
    x[3, 0] = np.nan  # seen: the row is NaN, but what is hidden
    mask[3, 1] = False
    x[4], mask[4, 2] = -np.inf, False  # nothing but -inf that is seen
    x[5, 3], mask[5, 4] = -np.inf, False
    given = device.asarray(mask)
    y = device.asnumpy(cs.softmax(device.asarray(x), mask=given))
    log = device.asnumpy(cs.log_softmax(device.asarray(x), mask=given))
    total = device.asnumpy(cs.logsumexp(device.asarray(x), mask=given))
    assert_softmax(y, x, {"mask": mask})
    assert not y[0].any() and np.isneginf(log[0].astype(float)).all()
    assert np.isneginf(float(total[0])) and np.isneginf(float(total[4]))
    assert np.isnan(y[3, mask[3]]).all() and y[3, 1] == 0 and np.isnan(float(total[3]))
    assert np.isnan(y[4, mask[4]]).all() and y[4, 2] == 0
    hidden = log[~mask].astype(float)
    assert np.isneginf(hidden).all()
    assert np.isnan(log[3, mask[3]].astype(float)).all()
    assert abs(float(y[1].astype(float).sum()) - 1) < 0.02


@pytest.mark.parametrize("op", ["softmax_vjp", "softmax_jvp", "log_softmax_vjp", "log_softmax_jvp"])
@pytest.mark.parametrize("n", [6, 2100])
def test_hidden_elements_have_no_gradient(device: Any, op: str, n: int) -> None:
    x, v = draw((4, n), np.float32, sigma=1.0), draw((4, n), np.float32, 1)
    mask = np.random.default_rng(2).random((4, n)) < 0.5
    mask[1] = False
    forward = "log_softmax" if op.startswith("log") else "softmax"
    given = device.asarray(mask)
    y = getattr(cs, forward)(device.asarray(x), mask=given)
    v[~mask] = np.where(np.arange((~mask).sum()) % 2, np.nan, np.inf)  # of no consequence
    for causal in (False, True):
        got = device.asnumpy(getattr(cs, op)(y, device.asarray(v), mask=given, causal=causal))
        seen = reference.seen(v, mask, causal)
        assert not got[~seen].any()
        assert np.isfinite(got).all()
        assert not got[1].any()  # a row that sees nothing: zeros, never NaN


def test_gradient_of_logsumexp_of_hidden_rows(device: Any) -> None:
    x, dy = draw((3, 40), np.float32), np.ones(3, np.float32)
    mask = np.ones((3, 40), bool)
    mask[1] = False
    mask[2, ::2] = False
    got = device.asnumpy(
        cs.logsumexp_vjp(device.asarray(x), device.asarray(dy), mask=device.asarray(mask))
    )
    assert not got[1].any() and not got[2, ::2].any()
    np.testing.assert_allclose(got[2], reference.softmax(x, mask=mask)[2], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0**-60, 3.0, 2.0**60])
def test_scales(device: Any, dtype: str, scale: float) -> None:
    """0 makes all seen entries equal, however large; a row of equal logits is never lost."""
    for n in (9, 1500):
        x = draw((3, n), dtype_of(dtype))
        x[1] = x[1, 0]
        x[2, 1] = -np.inf if scale > 0 else x[2, 1]
        y = device.asnumpy(cs.softmax(device.asarray(x), scale=scale)).astype(np.float64)
        assert np.isfinite(y).all()
        np.testing.assert_allclose(y.sum(-1), 1, rtol=0.02)
        np.testing.assert_allclose(y[1], 1 / n, rtol=0.01)
        if scale == 0:
            np.testing.assert_allclose(y, np.full_like(y, 1 / n), rtol=0.01)
        if abs(scale) <= 3:
            exact = reference.softmax(x, scale=scale)
            np.testing.assert_allclose(y, exact, atol=1e-6 if dtype == "float32" else 0.02)


def test_words_of_a_product_that_cancel(device: Any) -> None:
    """Two words of scale * x: those of one float32 would be wrong in the third digit here."""
    x = np.float32(30000) + np.arange(64, dtype=np.float32)[None]
    bias = (-3000 + np.linspace(0, 1, 64)).astype(np.float32)[None]
    options = {"scale": 0.1, "bias": bias}
    y = device.asnumpy(cs.softmax(device.asarray(x), **on(device, options)))
    assert_softmax(y, x, options)
    half = x.astype(np.float16)
    y = device.asnumpy(cs.softmax(device.asarray(half), **on(device, options)))
    assert_softmax(y, half, options)


LARGE: dict[str, tuple[np.ndarray, Options]] = {
    "an additive mask of all": (np.array([3.0, 1, -2, 0]), {"bias": np.finfo(np.float32).min}),
    "an additive mask of 1e9": (np.array([3.0, 1, -2, 0]), {"bias": np.float32(-1e9)}),
    "scaled from afar": (2.0**30 + 128 * np.arange(4), {"scale": 0.1}),
    "scaled from 2^28": (2.0**28 + 32 * np.arange(4), {"scale": 0.1}),
    "scaled to 1e37": (1e30 * np.arange(1, 5), {"scale": 1e7}),
    "all alike": (np.full(5, 3e37), {"scale": -0.3}),
    "one alone": (np.array([7.3]), {"scale": 0.37}),
    "one far above": (np.array([50.3, 0.0]), {"scale": 0.37}),
    "cancelling": (np.array([0.3, -50.0]), {"scale": 1 / 3, "bias": np.array([-0.1, 0])}),
    "cancelling at 1e5": (
        1e5 + np.arange(40) / 8,
        {"scale": 0.1, "bias": -1e4 + np.arange(40) / 64},
    ),
    "the smallest scale": (-20 * 2.0**63 * np.arange(5) * 1.5, {"scale": 2.0**-64 * 4 / 3}),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_words_of_large_logits(device: Any, name: str, dtype: str) -> None:
    """One word, or a second one that is cut, gives each of these wrong digits."""
    values, options = LARGE[name]
    x = values.astype(dtype)[None]
    for copies in (1, 700):  # in one chunk and in several
        wide = np.tile(x, copies)
        given = dict(options)
        if "bias" in given:
            bias = np.broadcast_to(np.asarray(given["bias"], dtype), x.shape)
            given["bias"] = np.ascontiguousarray(np.tile(bias, copies))
        y = device.asnumpy(cs.softmax(device.asarray(wide), **on(device, given)))
        assert_softmax(y, wide, given)
        log = device.asnumpy(cs.log_softmax(device.asarray(wide), **on(device, given)))
        truth = reference.log_softmax(wide, **given, extended=True)
        assert (log <= 0).all()
        bound = CONTRACTS["log_softmax"].bound[dtype]
        assert reference.ulp_error(log, truth, flush_to_zero=dtype == "float32").max() <= bound
        total = device.asnumpy(cs.logsumexp(device.asarray(wide), **on(device, given)))
        whole = reference.logsumexp(wide, **given, extended=True)
        z, _ = reference.logits(wide, given.get("scale", 1.0), bias=given.get("bias"))
        size = np.abs(z.max(-1)) + np.abs(whole - z.max(-1))
        with np.errstate(all="ignore"):
            units = np.abs(total - whole) / (reference.unit_roundoff(dtype) * size)
        assert np.nan_to_num(units).max() <= 4


@pytest.mark.skipif(not reference.EXTENDED, reason="longdouble is float64 on this platform")
@pytest.mark.parametrize(
    ("dtype", "far"),
    [("float32", 1.3 * 2.0**18), ("float64", 2.0**18), ("float64", 1.3 * 2.0**40)],
)
@pytest.mark.parametrize("op", [op for op in CONTRACTS if "scaled_biased_masked" in op])
def test_transformed_logits_far_from_0(device: Any, op: str, dtype: str, far: float) -> None:
    """A reference of one extended number is too coarse for float64 here: it lost 84 u."""
    contract, rng = CONTRACTS[op], np.random.default_rng(1)
    names = KERNELS[op].read
    for n in (7, 600):
        inputs = contract.draw(rng, (8, n), -1, np.dtype(dtype))
        x = inputs[names.index("x")].astype(np.float64)
        inputs = tuple(
            (x + far / SCALE).astype(dtype) if name == "x" else a
            for name, a in zip(names, inputs, strict=True)
        )
        got = contract.call(*map(device.asarray, inputs), axis=-1)
        results = tuple(map(device.asnumpy, got if isinstance(got, tuple) else (got,)))
        verdict = contract.judge(inputs, -1, results)
        assert verdict.over <= 1, verdict.told()


@pytest.mark.parametrize("n", [3, 2500])
def test_products_that_overflow(device: Any, n: int) -> None:
    """The usual fill of masked logits, times a scale: -inf, as floating point has it."""
    for kind, out in (("bfloat16", None), ("float32", "float16"), ("float32", None)):
        x = np.zeros((2, n), dtype_of(kind))
        x[:, 1], x[:, 2] = 1, np.finfo(np.float32).min if kind == "float32" else -3.3e38
        x[1, 3:] = x[1, 2]
        given, dy = device.asarray(x), device.asarray(np.ones(2, x.dtype))
        exact = reference.softmax(np.where(x < -1e38, -np.inf, x.astype(float)), scale=2.0)
        y = device.asnumpy(cs.softmax(given, scale=2.0, dtype=out)).astype(float)
        np.testing.assert_allclose(y, exact, rtol=0.01)
        log = device.asnumpy(cs.log_softmax(given, scale=2.0, dtype=out)).astype(float)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(log, np.log(exact), rtol=0.01, atol=0.01)
        total = device.asnumpy(cs.logsumexp(given, scale=2.0, dtype=out)).astype(float)
        expected = np.log(np.exp(np.where(x < -1e38, -np.inf, 2 * x.astype(float))).sum(-1))
        np.testing.assert_allclose(total, expected, rtol=0.01)
        if out is None:
            dx = device.asnumpy(cs.logsumexp_vjp(given, dy, scale=2.0)).astype(float)
            np.testing.assert_allclose(dx, 2 * exact, rtol=0.01)


# -------------------------------------------------------------------------------------- derivatives


def test_scale_multiplies_what_is_a_number_already(device: Any) -> None:
    x, dy = device.asarray(np.array([0, -40e-10], np.float32)), device.asarray(np.float32(1e30))
    dx = device.asnumpy(cs.logsumexp_vjp(x, dy, scale=1e10))
    np.testing.assert_allclose(dx[1], 1e40 * np.exp(-40), rtol=1e-5)
    y = device.asarray(np.array([1, 1e-35], np.float32))
    v = device.asarray(np.array([0, 1e10], np.float32))
    np.testing.assert_allclose(
        device.asnumpy(cs.softmax_vjp(y, v, scale=1e-5))[1], 1e-30, rtol=1e-5
    )


@pytest.mark.parametrize("causal", [False, True])
def test_derivatives_are_those_of_the_transformed_function(device: Any, causal: bool) -> None:
    x, v, t = (draw((4, 30), np.float64, seed, 1.0) for seed in range(3))
    mask = np.random.default_rng(5).random((4, 30)) < 0.7
    beside = {"mask": mask, "bias": draw((4, 30), np.float64, 4, 1.0)}
    given = on(device, beside) | {"scale": 0.7, "causal": causal}
    of_results = {k: o for k, o in given.items() if k != "bias"}
    seen = reference.seen(x, mask, causal)

    def call(name: str, *arrays: np.ndarray, **options: Any) -> np.ndarray:
        got = getattr(cs, name)(*map(device.asarray, arrays), **options)
        return np.asarray(device.asnumpy(got))

    step = 1e-5
    for name in ("softmax", "log_softmax"):
        y = call(name, x, **given)
        with np.errstate(invalid="ignore"):
            change = (call(name, x + step * t, **given) - call(name, x - step * t, **given)) / (
                2 * step
            )
        change[~seen] = 0
        np.testing.assert_allclose(call(f"{name}_jvp", y, t, **of_results), change, atol=1e-8)
        dx = call(f"{name}_vjp", y, v, **of_results)
        np.testing.assert_allclose((dx * t).sum(), (np.where(seen, v, 0) * change).sum(), atol=1e-8)
    dy = draw((4,), np.float64, 6, 1.0)
    slope = call("logsumexp_vjp", x, dy, **given)
    up, down = (call("logsumexp", x + s * step * t, **given) for s in (1, -1))
    with np.errstate(invalid="ignore"):
        change = np.where(seen.any(-1), (up - down) / (2 * step), 0)
    np.testing.assert_allclose((slope * t).sum(-1), dy * change, atol=1e-8)


# -------------------------------------------------------------------------------------------- calls


def test_out_may_be_the_logits_or_the_bias(device: Any) -> None:
    for n in (50, 3000):
        x, bias = draw((3, n), np.float32), draw((3, n), np.float32, 1)
        expected = device.asnumpy(cs.softmax(device.asarray(x), bias=device.asarray(bias)))
        for place in (0, 1):
            arrays = device.asarray(x), device.asarray(bias)
            got = cs.softmax(arrays[0], bias=arrays[1], out=arrays[place])
            assert got is arrays[place]
            np.testing.assert_array_equal(bits(device.asnumpy(got)), bits(expected))


def test_nothing_to_do(device: Any) -> None:
    for shape in ((0, 5), (3, 0), (2, 0, 4)):
        x = device.asarray(np.zeros(shape, np.float32))
        mask = device.asarray(np.zeros(shape, bool))
        assert cs.softmax(x, mask=mask, causal=True, scale=2).shape == shape
    empty = device.asarray(np.zeros((3, 0), np.float32))
    assert np.isneginf(device.asnumpy(cs.logsumexp(empty, causal=True))).all()


X = np.zeros((4, 6), np.float32)
BAD: dict[str, tuple[Options, type[Exception], str]] = {
    "mask of floats": ({"mask": X}, TypeError, "mask has dtype float32.*the dtypes are bool"),
    "mask of bytes": ({"mask": X.astype(np.uint8)}, TypeError, "mask has dtype uint8"),
    "mask of another shape": ({"mask": X[:3] > 0}, ValueError, r"mask has shape \(3, 6\), which"),
    "mask with more axes": ({"mask": X[None] > 0}, ValueError, r"mask has shape \(1, 4, 6\)"),
    "bias of another shape": ({"bias": X[:, :5]}, ValueError, r"bias has shape \(4, 5\), which"),
    "bias of complex": ({"bias": X.astype(complex)}, TypeError, "bias has dtype complex128"),
    "scale of nan": ({"scale": np.nan}, ValueError, "scale=nan is not accepted"),
    "scale too small": ({"scale": 1e-60}, ValueError, "scale=1e-60 is not accepted"),
    "scale too large": ({"scale": -1e60}, ValueError, "scale=-1e.60 is not accepted"),
    "scale of an array": ({"scale": X}, TypeError, "scale=<.*ndarray> is not .*; give a number"),
    "scale of bool": ({"scale": True}, TypeError, "scale=True is not accepted; give a number"),
    "scale of too many digits": ({"scale": 10**400}, ValueError, "scale=inf is not accepted"),
    "scale of text": ({"scale": "2"}, TypeError, "scale='2' is not accepted; give a number"),
    "causal of an array": (
        {"causal": X > 0},
        TypeError,
        "causal=<.*> is not .*; give True or",
    ),
    "causal down": ({"causal": True, "axis": 0}, ValueError, "causal=True with axis=0"),
    "causal of no axis": ({"causal": True, "axis": 5}, AxisError, "axis 5 is out of bounds"),
    "causal over all": ({"causal": True, "axis": None}, ValueError, "causal=True with axis=None"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_options(device: Any, bad: str) -> None:
    options, error, said = BAD[bad]
    out = device.asarray(np.full_like(X, 7))
    with pytest.raises(error, match=f"^softmax: {said}"):
        cs.softmax(device.asarray(X), out=out, **on(device, options))
    assert (device.asnumpy(out) == 7).all()


def test_out_over_a_mask_is_refused(device: Any) -> None:
    mask = device.asarray(np.zeros((4, 24), bool))
    with pytest.raises(
        ValueError, match=r"^softmax: out overlaps mask; give out memory of its own"
    ):
        cs.softmax(device.asarray(X), mask=mask[:, :6], out=mask.view(np.float32))


def test_bad_options_elsewhere(device: Any) -> None:
    x = device.asarray(X)
    with pytest.raises(
        ValueError, match=r"^softmax: causal=True needs the axes of queries and keys"
    ):
        cs.softmax(x[0], causal=True)
    with pytest.raises(TypeError, match=r"^softmax_jvp: mask is a numpy\.ndarray, and only CuPy"):
        cs.softmax_jvp(x, x, mask=X > 0)
    with pytest.raises(TypeError, match=r"^log_softmax: bias is a list, and only CuPy"):
        cs.log_softmax(x, bias=[0.0] * 6)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^logsumexp: x is a numpy\.ndarray"):
        cs.logsumexp(X, causal=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'bias'"):
        cs.softmax_vjp(x, x, bias=x)  # type: ignore[call-arg]
