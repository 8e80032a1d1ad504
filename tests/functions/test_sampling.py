"""gumbel_softmax and sample: the generator, the noise, what draws depend on, their distribution.

Seeds are fixed, so that what is judged by statistics is the same in every run.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from scipy import stats

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.contract import sampling
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.emulator._memory import view_of
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.planner import plan as make_plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.reference import philox
from cusoftmax.runtime import launch
from tests.mutations import Mutation, broken
from tests.support import (
    DTYPES,
    MAIN_PLAN_KINDS,
    SELECTIONS,
    SWEPT_DTYPES,
    assert_kept,
    assert_plan,
    bits,
    case,
    dtype_of,
    exhaustive,
    planned,
)

SEEDS = (0, 12345, 2**63 + 5, 2**64 - 1)
inf, nan = np.inf, np.nan


def soften(device: Any, x: np.ndarray, seed: int = 1, axis: int = -1, **options: Any) -> np.ndarray:
    return device.asnumpy(cs.gumbel_softmax(device.asarray(x), axis, seed=seed, **options))


def draw(device: Any, x: np.ndarray, seed: int = 1, axis: int = -1, **options: Any) -> np.ndarray:
    return device.asnumpy(cs.sample(device.asarray(x), axis, seed=seed, **options))


def judge(op: str, x: np.ndarray, axis: int, result: np.ndarray) -> None:
    __tracebackhide__ = True
    assert_kept(op, (x,), axis, (result,))


def logits(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(dtype)


# ---- the generator ----

# Of Random123's kat_vectors: key, counter and words of philox4x32-10, the first word first.
KNOWN = (
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 2, (2**32 - 1,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


def test_known_answers_of_philox() -> None:
    for key, counter, words in KNOWN:
        low, high = (np.uint64(counter[i] + (counter[i + 1] << 32)) for i in (0, 2))
        got = philox.philox(key[0] + (key[1] << 32), np.asarray(high), np.asarray(low))
        assert tuple(int(w) for w in got) == words


def test_the_words_of_a_row() -> None:
    rows = np.array([0, 1, 2**32, 2**32 + 1], np.uint64)
    words = philox.row_words(7, rows, 10)
    for row, of_row in zip(rows, words, strict=True):
        each = [philox.philox(7, row, np.asarray(np.uint64(k // 4)))[k % 4] for k in range(10)]
        np.testing.assert_array_equal(of_row, each)
    assert len({tuple(of_row) for of_row in words}) == 4  # the high word of a row's number counts


# What the kernel writes when it writes z itself: each term 1 / n, so that their sum is 1.
NOISE = Mutation(
    "the noise alone",
    (),
    "logits/softmax.cuh",
    "term[0] = e[0] = exp_logit(e, to, factor_of(context));\n  }\n\n"
    "  static constexpr bool kPairs =",
    "term[0] = Acc(1) / Acc(256);\n  }\n\n  static constexpr bool kPairs = false &&",
    (),
)


def fast_noise(shape: tuple[int, int], *more: Mutation, seed: int, errors: int) -> np.ndarray:
    """Return the noise that the kernels of 16-bit results add: they write 11 of its bits a call."""
    whole = np.zeros(shape, np.uint32)
    for shift in (0, 11, 22):
        part = f"e[0] = Acc(float_to_bits(e[0]) >> {shift} & 0x7ff); "
        with contextlib.ExitStack() as stack:
            for mutation in (replace(NOISE, new=part + NOISE.new), *more):
                stack.enter_context(broken(mutation))
            stack.enter_context(emulator.activate(seed=errors))
            y = cs.gumbel_softmax(emulator.asarray(np.zeros(shape, np.float16)), seed=seed)
            whole |= emulator.asnumpy(y).astype(np.uint32) << shift
    return np.asarray(whole.view(np.float32) - np.log(np.log(2)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_noise_is_that_of_the_reference(dtype: str) -> None:
    x = np.zeros((500, 256), dtype)
    rows = np.arange(len(x), dtype=np.uint64)
    u = reference.unit_roundoff(dtype)
    with broken(NOISE), emulator.activate():
        for seed in SEEDS:
            got = emulator.asnumpy(cs.gumbel_softmax(emulator.asarray(x), seed=seed))
            exact = philox.gumbel(seed, rows, x.shape[1], dtype == "float32")
            assert np.all(np.abs(got - exact) <= 3 * u * (1 + np.abs(exact)))
            # Mean and variance of the distribution: within 4 standard errors.
            assert abs(got.mean() - np.euler_gamma) < 4 * np.sqrt(np.pi**2 / 6 / x.size)
            assert abs(got.var() - np.pi**2 / 6) < 4 * np.sqrt(4.4 * (np.pi**2 / 6) ** 2 / x.size)
            flat = got.astype(float)
            for shifted in (flat[:, :-1] * flat[:, 1:], flat[:-1] * flat[1:]):
                assert abs(shifted.mean() - np.euler_gamma**2) < 0.025
            assert stats.kstest(flat.ravel(), stats.gumbel_r.cdf).pvalue > 1e-3


@pytest.mark.parametrize("errors", [0, 1])
def test_the_noise_of_16_bit_results(errors: int) -> None:
    """It differs from that of the reference by the errors of two logarithms."""
    got = fast_noise((500, 256), seed=SEEDS[1], errors=errors)
    exact = philox.gumbel(SEEDS[1], np.arange(500, dtype=np.uint64), 256, True)
    error = np.abs(got - exact) / (1 + np.abs(exact)) * 2.0**24
    assert 4 < error.max() <= 12  # 11 of the noise, and 1 of its sum with the logit


# The words of the smallest and the largest u, of those next to a half and to its root, to 1/e and
# to 7/8.
ENDS = (
    0,
    1,
    2**31 - 1,
    2**31,
    3037000499,
    3037000500,
    1580030168,
    1580030169,
    0xDFFFFFFF,
    0xE0000000,
    2**32 - 2,
    2**32 - 1,
)


def test_the_noise_at_the_ends() -> None:
    words = ", ".join(f"{word}u" for word in ENDS)
    chosen = Mutation(
        "words of one's choice",
        (),
        "numeric/gumbel.cuh",
        "return words[words.index];",
        f"constexpr u32 kEnds[] = {{{words}}}; return kEnds[(start + step) % {len(ENDS)}];",
        (),
    )
    with broken(NOISE), broken(chosen), emulator.activate():
        x = emulator.asarray(np.zeros((1, 256), np.float32))
        got = emulator.asnumpy(cs.gumbel_softmax(x, seed=0))[0, : len(ENDS)]
    exact = philox.gumbel_of_bits(np.array(ENDS, np.uint64), 32)
    assert np.isfinite(exact).all() and exact.min() < -3.1 and exact.max() > 22.8
    assert np.all(np.abs(got - exact) <= 3 * 2.0**-24 * (1 + np.abs(exact)))
    for errors in range(3):
        fast = fast_noise((1, 256), chosen, seed=0, errors=errors)[0, : len(ENDS)]
        assert np.all(np.abs(fast - exact) <= 12 * 2.0**-24 * (1 + np.abs(exact)))
    ends = philox.gumbel_of_bits(np.array([0, 2**53 - 1], np.uint64), 53)
    assert -3.7 < ends[0] < -3.6 and 37 < ends[1] < 38


# ---- gumbel_softmax, in each kind of plan ----


# The kinds differ in who sums what: all of them in float32.
PLANS = [
    (dtype, wanted)
    for dtype in DTYPES
    for wanted in MAIN_PLAN_KINDS
    if dtype == "float32" or wanted in ("group", "block", "split", "column")
]


@pytest.mark.parametrize(("dtype", "wanted"), PLANS)
def test_each_kind_of_plan(device: Any, dtype: str, wanted: str) -> None:
    found = case(wanted, "gumbel_softmax", dtype)
    x = logits(found.shape, dtype_of(dtype))
    with device.on(found.arch):
        assert_plan(planned("gumbel_softmax", dtype, found.shape, found.axis, found.arch), wanted)
        member = CONTRACTS["gumbel_softmax"]
        y = device.asnumpy(member.call(device.asarray(x), axis=found.axis))
        assert y.dtype == x.dtype
        judge("gumbel_softmax", x, found.axis, y)
        # A row has the same bits among fewer, if its number is the same (of two, since a single
        # column would be a contiguous row).
        few = x[:2] if found.axis else x[:, :2]
        again = device.asnumpy(member.call(device.asarray(few), axis=found.axis))
    np.testing.assert_array_equal(bits(again), bits(y[:2] if found.axis else y[:, :2]))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_short_length(device: Any, dtype: str) -> None:
    for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129):
        x = logits((5, n), dtype)
        for op in ("gumbel_softmax", "sample"):
            got = device.asnumpy(CONTRACTS[op].call(device.asarray(x), axis=-1))
            judge(op, x, -1, got)


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 0.5, 1.0, 3.0, 1e4, 1e30])
def test_temperatures(device: Any, temperature: float) -> None:
    x = logits((40, 30), np.float64)
    y = soften(device, x, 3, temperature=temperature)
    exact = reference.gumbel_softmax(x, seed=3, temperature=temperature, single=False)
    np.testing.assert_allclose(y, exact, rtol=1e-14 * max(1, 20 / temperature), atol=1e-300)
    drawn = draw(device, x, 3, temperature=temperature)
    want = reference.sample(x, seed=3, temperature=temperature, single=False)
    np.testing.assert_array_equal(drawn, want)


@pytest.mark.parametrize("temperature", [2.0**-99, 1e-10, 1e-3, 1 / 32, 0.1])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_contract_at_low_temperatures(device: Any, dtype: str, temperature: float) -> None:
    """Which magnify the error of the noise: 16-bit results have two ways to form it.

    In the second half of the rows the noise is next to what it adds up to 0 with, unless the bound
    is for smaller errors.
    """
    contract = replace(
        CONTRACTS["gumbel_softmax"],
        exact=functools.partial(sampling.softmax_exact, temperature=temperature),
        tolerance=functools.partial(sampling.softmax_tolerance, temperature=temperature),
    )
    for rows, n in ((2000, 4), (300, 60), (10, 2000)):
        x = logits((rows, n), np.float32)
        numbers = np.arange(rows // 2, rows, dtype=np.uint64)
        if temperature >= 1e-3:
            x[rows // 2 :] = -philox.gumbel(sampling.SEED, numbers, n, True)
        x = x.astype(dtype_of(dtype))
        y = soften(device, x, sampling.SEED, temperature=temperature)
        assert_kept(contract, (x,), -1, (y,))


def test_out_dtype_and_in_place(device: Any) -> None:
    x = logits((6, 1500))
    y = soften(device, x)
    given = device.asarray(x)
    assert cs.gumbel_softmax(given, seed=1, out=given) is given
    np.testing.assert_array_equal(bits(device.asnumpy(given)), bits(y))
    for temperature in (1.0, 0):
        wide = soften(device, x, dtype="float64", temperature=temperature)
        assert wide.dtype == np.float64
        half = device.asarray(np.zeros(x.shape, np.float16))
        got = cs.gumbel_softmax(device.asarray(x), seed=1, temperature=temperature, out=half)
        assert got is half
        np.testing.assert_allclose(wide.sum(-1), 1)
        np.testing.assert_allclose(device.asnumpy(half).astype(float).sum(-1), 1, atol=2e-3)


def test_the_gradient_is_softmax_s(device: Any) -> None:
    """As documented: of the reference's central differences in extended precision."""
    x, t = logits((3, 9), np.float64), 0.6
    dy = logits((3, 9), np.float64, 1)
    given, up = device.asarray(x), device.asarray(dy)
    y = cs.gumbel_softmax(given, seed=8, temperature=t)
    dx = device.asnumpy(cs.softmax_vjp(y, up)) / t
    step = 1e-5
    for j in range(x.shape[1]):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[:, j] += sign * step
            of = reference.gumbel_softmax(moved, seed=8, temperature=t, single=False, extended=True)
            ends.append((of * dy).sum(-1))
        np.testing.assert_allclose(dx[:, j], (ends[0] - ends[1]) / (2 * step), atol=1e-8)


# ---- sample, in each pattern ----


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("name", SELECTIONS)
def test_every_pattern_draws(device: Any, name: str, dtype: str) -> None:
    shape, axis = SELECTIONS[name]
    x = logits(shape, dtype_of(dtype))
    if device.name == "emulator":
        made = make_plan(problem_for("sample", shape, x.dtype, axis), DeviceSpec.known(90))
        assert made.pattern == name.split()[0]
    got = device.asnumpy(CONTRACTS["sample"].call(device.asarray(x), axis=axis))
    assert got.dtype == np.int64 and got.shape == x.sum(axis).shape
    judge("sample", x, axis, got)


# A pattern does not know what is converted as it is read: each has one dtype, and one has all.
@pytest.mark.parametrize(
    ("dtype", "lengths"),
    [
        *((dtype, (700,)) for dtype in ("bool", "int8", "uint16", "int64", "uint64")),
        ("int32", (40, 700, 5000)),
        *exhaustive((d, (40, 5000)) for d in ("bool", "int8", "uint16", "int64", "uint64")),
    ],
)
def test_integers(device: Any, dtype: str, lengths: tuple[int, ...]) -> None:
    for n in lengths:
        x = np.random.default_rng(n).integers(0, 2, (4, n)).astype(dtype)
        for op in ("gumbel_softmax", "sample"):
            got = device.asnumpy(CONTRACTS[op].call(device.asarray(x), axis=-1))
            judge(op, x, -1, got)
        np.testing.assert_array_equal(draw(device, x, temperature=0), x.argmax(-1))


def test_the_largest_is_where_sample_says(device: Any) -> None:
    for dtype in ("float32", "float64"):
        for n in (50, 3000):
            x = logits((30, n), dtype)
            for seed in SEEDS:
                y = soften(device, x, seed)
                np.testing.assert_array_equal(y.argmax(-1), draw(device, x, seed))
                one = soften(device, x, seed, temperature=0)
                assert one.dtype == x.dtype
                np.testing.assert_array_equal(one, np.eye(n, dtype=dtype)[y.argmax(-1)])


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 2.0**-101, 2.0**-100])
def test_the_coldest_temperatures(device: Any, temperature: float) -> None:
    """Kernel and reference agree on which of them are the limit, and on its rows of NaN."""
    inf, nan = np.inf, np.nan
    x = np.array([[1, nan], [inf, 1], [-inf, -inf], [0, 0], [2, 1]], np.float32)
    want = reference.sample(x, seed=1, temperature=temperature)
    np.testing.assert_array_equal(draw(device, x, 1, temperature=temperature), want)
    y = soften(device, x, 1, temperature=temperature)
    exact = reference.gumbel_softmax(x, seed=1, temperature=temperature)
    np.testing.assert_array_equal(y, exact.astype(np.float32))


# ---- what a draw depends on: the seed, the row's number, its logits ----


@pytest.mark.parametrize("n", [61, 1000, 40000])
def test_any_batch_and_any_gpu(emulated: Any, n: int) -> None:
    few = 3 if n > 5000 else 200
    x = logits((few, n), np.float16)
    kept = draw(emulated, x)
    softened = soften(emulated, x)
    for rows in (1, 2):
        np.testing.assert_array_equal(draw(emulated, x[:rows]), kept[:rows])
        np.testing.assert_array_equal(bits(soften(emulated, x[:rows])), bits(softened[:rows]))
    for arch, seed in (("sm_75", 0), ("sm_90", 3), ("sm_120", 0)):
        with emulated.on(arch, seed):  # the emulator's seed: other errors of ex2.approx
            np.testing.assert_array_equal(draw(emulated, x), kept)
    for dtype in (np.float32, ml_dtypes.bfloat16):
        same = x.astype(ml_dtypes.bfloat16)  # exactly representable in all three
        np.testing.assert_array_equal(
            draw(emulated, same.astype(dtype)), draw(emulated, same.astype(np.float16))
        )


def test_any_layout(device: Any) -> None:
    whole = logits((4, 6, 96), np.float32)
    for axis in range(-1, 3):
        kept = draw(device, whole, axis=axis)
        single = soften(device, whole, axis=axis, temperature=0)
        for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1), (0, 2, 1)):
            # Dimensions in this order in memory, and the shape as before.
            turned = device.asarray(np.ascontiguousarray(whole.transpose(order)))
            view = turned.transpose(np.argsort(order).tolist())
            assert view.shape == whole.shape
            got = cs.sample(view, axis, seed=1)
            np.testing.assert_array_equal(device.asnumpy(got), kept)
            y = device.asnumpy(cs.gumbel_softmax(view, axis, seed=1, temperature=0))
            np.testing.assert_array_equal(y, single)
            y = device.asnumpy(cs.gumbel_softmax(view, axis, seed=1))
            np.testing.assert_array_equal(y.argmax(axis), kept)
        for misalign in (4, 8, 20):
            off = device.asarray(whole, misalign)
            np.testing.assert_array_equal(device.asnumpy(cs.sample(off, axis, seed=1)), kept)
    for n in (1, 2, 3, 5, 93):  # accesses of other widths
        wide = device.asarray(whole)[:, :, :n]
        narrow = np.ascontiguousarray(whole[:, :, :n])
        got = device.asnumpy(cs.sample(wide, seed=1))
        np.testing.assert_array_equal(got, draw(device, narrow))


def test_rows_seeds_and_places_differ(device: Any) -> None:
    same = np.zeros((2000, 16), np.float32)
    drawn = np.stack([draw(device, same, seed) for seed in (*SEEDS, 1, 2**32)])
    expected, spread = 1 / 16, np.sqrt(15 / 16**2 / 2000)
    for i, of_seed in enumerate(drawn):
        others = [other for k, other in enumerate(drawn) if k != i]
        for other in (*others, np.roll(of_seed, 1), np.roll(of_seed, 7)):
            assert abs((of_seed == other).mean() - expected) < 4 * spread


def test_rows_beyond_2_to_the_32(emulated: Any) -> None:
    rows = 2**32 + 5
    x, out = emulator.sparse((rows, 2), np.float16), emulator.sparse((rows, 2), np.float16)
    with emulator.only_blocks((-1,)):
        cs.gumbel_softmax(x, seed=9, out=out)
    numbers = np.arange(rows - 3, rows, dtype=np.uint64)
    exact = reference.softmax(philox.gumbel(9, numbers, 2, True))
    np.testing.assert_allclose(view_of(out)[-3:].astype(float), exact, rtol=2e-3)


# ---- the distribution ----


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_frequencies_are_softmax_s(device: Any, dtype: str, temperature: float) -> None:
    row = np.array([0.0, 1.0, -1.0, 2.0, -3.0, 0.5, 0.5, -inf, 1.5], dtype)
    x = np.broadcast_to(row, (20000, len(row))).copy()
    p = reference.softmax(row.astype(float) / temperature)
    there = p > 0
    for seed in (3, 2**40):
        drawn = draw(device, x, seed, temperature=temperature)
        counts = np.bincount(drawn, minlength=len(row))
        assert counts[~there].sum() == 0
        assert stats.chisquare(counts[there], p[there] * len(x)).pvalue > 1e-3
    # The largest of gumbel_softmax, at any temperature, is a draw at temperature 1.
    y = soften(device, x, 4, temperature=temperature)
    counts = np.bincount(y.argmax(-1), minlength=len(row))
    want = reference.softmax(row.astype(float))
    assert stats.chisquare(counts[there], want[there] * len(x)).pvalue > 1e-3


def test_long_rows_are_drawn_evenly(device: Any) -> None:
    drawn = draw(device, np.zeros((600, 5000), np.float16), 5)
    counts = np.histogram(drawn, 20, (0, 5000))[0]
    assert stats.chisquare(counts).pvalue > 1e-3


# ---- special values ----

SPECIAL = {
    "a NaN": ([1.0, nan, 0.0, 2.0], 1),
    "NaN twice": ([1.0, nan, 3.0, nan], 1),
    "+inf": ([1.0, inf, 0.0, 2.0], 1),
    "+inf twice": ([-inf, inf, 0.0, inf], 1),
    "NaN and +inf": ([inf, 1.0, nan, inf], 2),
    "all -inf": ([-inf] * 4, 0),
    "one left": ([-inf, -inf, 3.0, -inf], 2),
    "ties": ([1.0, 2.0, 2.0, 2.0], 1),
}


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("n", [4, 40, 3000])
def test_special_values(device: Any, n: int, dtype: str) -> None:
    x = np.full((len(SPECIAL), n), -inf, dtype_of(dtype))
    first = n - 4
    for row, (values, _) in zip(x, SPECIAL.values(), strict=True):
        row[first:] = values
    none = ["NaN" in name or "+inf" in name or name == "all -inf" for name in SPECIAL]
    for temperature in (1.0, 1e-3, 1e30):
        drawn = draw(device, x, temperature=temperature)
        np.testing.assert_array_equal(drawn == -1, none)
        assert drawn[list(SPECIAL).index("one left")] == first + 2
        assert drawn[-1] >= first
    largest = [i if name == "all -inf" else first + i for name, (_, i) in SPECIAL.items()]
    np.testing.assert_array_equal(draw(device, x, temperature=0), largest)
    np.testing.assert_array_equal(draw(device, x, temperature=0), np.argmax(x, -1))
    for temperature in (1.0, 0.1, 0):
        y = soften(device, x, temperature=temperature).astype(float)
        for name, of_row, bad in zip(SPECIAL, y, none, strict=True):
            assert np.isnan(of_row).all() == np.isnan(of_row).any() == bad, name
        assert (y[-1, :first] == 0).all() and y[-1, first:].sum() == pytest.approx(1, abs=5e-3)


def test_the_largest_numbers(device: Any) -> None:
    top = float(np.finfo(np.float32).max)
    x = np.array([[top, -top, top / 2, 0]], np.float32)
    for temperature in (0, 1e-45, 1e-10, 0.3, 1.0, 1e10):
        np.testing.assert_array_equal(draw(device, x, temperature=temperature), [0])
    assert draw(device, x, temperature=2.0**100).shape == (1,)  # any of them: their noise decides
    y = soften(device, np.array([[0, -1, 5, 4]], np.float32), temperature=1e-40)
    np.testing.assert_array_equal(np.sort(y), [[0, 0, 0, 1]])


# ---- shapes, results, refusals ----


@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (1, 1), (1,), (5, 1), ()])
def test_small_and_empty(device: Any, shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    for temperature in (1.0, 0):
        assert draw(device, x, temperature=temperature).shape == shape[:-1]
        y = soften(device, x, temperature=temperature)
        assert y.shape == shape and (y == 1).all() == (not x.size or x.shape[-1:] in ((), (1,)))
    empty = device.asarray(np.zeros((3, 0), np.float32))
    assert cs.gumbel_softmax(empty, seed=0).shape == (3, 0)
    with pytest.raises(ValueError, match=r"sample: x has shape \(3, 0\), and a row no element"):
        cs.sample(empty, seed=0)


def test_results_of_any_strides(device: Any) -> None:
    x = logits((4, 50, 6), np.float16)
    out = device.asarray(np.zeros((6, 8), np.int64)).transpose()[::2]
    assert cs.sample(device.asarray(x), 1, seed=1, out=out) is out
    np.testing.assert_array_equal(device.asnumpy(out), draw(device, x, axis=1))
    y = device.asarray(np.zeros((6, 50, 8), np.float16)).transpose(2, 1, 0)[::2]
    assert cs.gumbel_softmax(device.asarray(x), 1, seed=1, temperature=0, out=y) is y
    np.testing.assert_array_equal(device.asnumpy(y), soften(device, x, axis=1, temperature=0))


@pytest.mark.parametrize("name", ["gumbel_softmax", "sample"])
def test_refusals(device: Any, name: str) -> None:
    call, x = getattr(cs, name), device.asarray(np.zeros((4, 100), np.float32))
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match=rf"{name}: seed={seed} is not accepted; give .* 0 to"):
            call(x, seed=seed)
    for seed in (1.0, None, True, "1"):
        with pytest.raises(TypeError, match=rf"{name}: seed=.* is not accepted; give an int"):
            call(x, seed=seed)
    for temperature in (-1, -1e-300, 1e31, inf, nan, 10**400):
        with pytest.raises(ValueError, match=rf"{name}: temperature=.* is not accepted"):
            call(x, seed=1, temperature=temperature)
    for temperature in (None, "warm", x):
        with pytest.raises(TypeError, match=rf"{name}: temperature=.* not accepted; give a num"):
            call(x, seed=1, temperature=temperature)
    for axis in (None, (0, 1)):
        with pytest.raises(TypeError, match=rf"{name}: axis=.* is not accepted; give an int"):
            call(x, axis, seed=1)
    with pytest.raises(np.exceptions.AxisError):
        call(x, 2, seed=1)
    with pytest.raises(TypeError):
        call(x)  # a seed has to be given
    for temperature in (1.0, 0):
        with pytest.raises(TypeError, match=rf"{name}: x is a numpy\.ndarray, and only CuPy"):
            call(np.zeros((3, 4)), seed=1, temperature=temperature)
        wrong = device.asarray(np.zeros((4, 3), np.float32))
        with pytest.raises((TypeError, ValueError), match=rf"{name}: "):
            call(x, seed=1, temperature=temperature, out=wrong)
    assert call(x, np.int64(-1), seed=np.uint64(2**64 - 1), temperature=np.float32(1)).shape[0] == 4


def test_refused_results_of_sample(device: Any) -> None:
    x = device.asarray(np.zeros((4, 100), np.int64))
    with pytest.raises(TypeError, match="sample: out has dtype int32, which is not accepted"):
        cs.sample(x, seed=1, out=device.asarray(np.zeros(4, np.int32)))
    with pytest.raises(ValueError, match=r"sample: out has shape \(3,\).*give it shape \(4,\)"):
        cs.sample(x, seed=1, out=device.asarray(np.zeros(3, np.int64)))
    with pytest.raises(ValueError, match="sample: out overlaps x"):
        cs.sample(x, seed=1, out=x[:, 3])


# ---- what a call costs ----


def test_a_thousand_seeds_are_one_kind_of_call(emulated: Any) -> None:
    x = emulated.asarray(np.zeros((1, 4), np.float32))
    launch._calls.clear()
    drawn = [int(emulated.asnumpy(cs.sample(x, seed=seed))[0]) for seed in range(1000)]
    assert len(launch._calls) == 1
    assert stats.chisquare(np.bincount(drawn)).pvalue > 1e-3
    want = [int(reference.sample(np.zeros((1, 4)), seed=seed)[0]) for seed in range(50)]
    assert drawn[:50] == want


@pytest.mark.parametrize("name", SELECTIONS)
def test_traffic_of_sample(emulated: Any, name: str) -> None:
    shape, axis = SELECTIONS[name]
    x = logits(shape)
    with emulator.trace() as counted:
        cs.sample(emulated.asarray(x), axis, seed=1)
    made = make_plan(problem_for("sample", shape, x.dtype, axis), DeviceSpec.known(90))
    results, workspace = x.size // shape[axis] * 8, made.workspace_bytes
    assert x.nbytes + workspace <= counted.global_bytes_read <= x.nbytes + 2 * workspace
    assert counted.global_bytes_written == results + workspace
    assert workspace < 0.01 * x.nbytes and made.reads == 1
    assert counted.kernels[0].global_bytes_read == x.nbytes
    assert made.least_bytes == x.nbytes + results


@pytest.mark.parametrize(("shape", "axis"), [((9, 64), -1), ((4, 6000), -1), ((300, 40), 0)])
def test_traffic_of_gumbel_softmax(emulated: Any, shape: tuple[int, int], axis: int) -> None:
    x = logits(shape)
    with emulator.trace() as counted:
        cs.gumbel_softmax(emulated.asarray(x), axis, seed=1)
    assert counted.launches == 1
    assert counted.global_bytes_read == counted.global_bytes_written == x.nbytes


def test_cold_softmax_refuses_before_its_first_launch(emulated: Any) -> None:
    x = emulated.asarray(np.zeros((3, 8), np.float32))
    bad = emulated.asarray(np.full((3, 9), 7, np.float32))
    refused = pytest.raises(ValueError, match=r"^gumbel_softmax: out has shape \(3, 9\)")
    with emulator.trace() as counted, refused:
        cs.gumbel_softmax(x, seed=1, temperature=0, out=bad)
    assert not counted.launches and (emulated.asnumpy(bad) == 7).all()


def test_cold_softmax_of_empty_rows(device: Any) -> None:
    for temperature in (0, 1.0):
        assert soften(device, np.zeros((3, 0), np.float32), temperature=temperature).shape == (3, 0)


def test_equal_logits_are_drawn_alike_at_any_temperature(device: Any) -> None:
    x = np.zeros((400, 2), np.float32)
    for temperature in (2.0**-90, 1e-10, 1.0, 2.0**100):
        assert 0.4 < draw(device, x, temperature=temperature).mean() < 0.6
    x[:, 1] = 2.0**100
    p = reference.softmax(x[0], scale=2.0**-100)[1]
    assert abs(draw(device, x, temperature=2.0**100).mean() - p) < 0.07


def test_a_device_array_is_no_seed(device: Any) -> None:
    x = device.asarray(np.zeros((3, 4), np.float32))
    for options in ({"seed": device.asarray(np.int64(3))}, {"seed": True}):
        with pytest.raises(TypeError, match=r"^sample: seed=.* give an int"):
            cs.sample(x, **options)
    with pytest.raises(TypeError, match=r"^sample: temperature=True is not accepted"):
        cs.sample(x, seed=1, temperature=True)
