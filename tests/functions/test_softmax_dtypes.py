"""Dtypes: every one in, every one out, and how often narrow results are correctly rounded."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.operations.dtypes import INPUTS, INTEGERS, output_dtype
from tests.support import (
    DTYPES,
    assert_kept,
    check_softmax,
    check_vjp,
    dtype_of,
    exhaustive,
    logits,
    plan_of,
    run,
    run_softmax,
    softmax_error,
)

SHAPES = (((5, 37), -1), ((3, 2100), -1), ((70, 12), 0))


def values(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return logits of any dtype: integers within 6 of a number far from 0, where they have one."""
    if dtype not in INTEGERS:
        return logits(shape, dtype, seed=seed)
    drawn = np.random.default_rng(seed).integers(0, 7, shape)
    if dtype == "bool":
        return drawn > 3
    low = np.iinfo(dtype).min // 2 if dtype.startswith("int") else np.iinfo(dtype).max // 2
    return (drawn + int(low) // 2**12).astype(dtype)


def with_shapes(pairs: Iterable[tuple[str, str]]) -> list[Any]:
    """Return the pairs with the first shape, and with the others those that are told apart there.

    A pattern does not know what is converted as it is read and written.
    """
    telling, others = [], []
    for first, second in pairs:
        telling.append((first, second, SHAPES[:1]))
        apart = second == output_dtype([first])
        (telling if apart else others).append((first, second, SHAPES[1:]))
    return [*telling, *exhaustive(others)]


@pytest.mark.parametrize(("given", "out", "shapes"), with_shapes(product(INPUTS, DTYPES)))
def test_softmax_of_every_dtype_in_every_dtype(
    device: Any, given: str, out: str, shapes: tuple[tuple[tuple[int, int], int], ...]
) -> None:
    for shape, axis in shapes:
        x = values(given, shape)
        x_ = device.asarray(x)
        y_ = cs.softmax(x_, axis=axis, dtype=dtype_of(out))
        check_softmax(device.asnumpy(y_), x, axis, dtype_of(out))
        plan = plan_of(device, "softmax", x_, axis=axis, dtype=dtype_of(out))
        assert len(plan.launches) == 1, "the conversion is part of the launch"
        into = device.asarray(np.zeros(shape, dtype_of(out)))  # the same kernel
        assert cs.softmax(x_, axis=axis, out=into) is into
        np.testing.assert_array_equal(device.asnumpy(into), device.asnumpy(y_))
        if output_dtype([given]) == out:
            np.testing.assert_array_equal(
                device.asnumpy(cs.softmax(x_, axis=axis)), device.asnumpy(y_)
            )


@pytest.mark.parametrize("dtype", [d for d in INTEGERS if d != "bool"])
def test_integers_do_not_wrap(device: Any, dtype: str) -> None:
    """Differences wider than the dtype, of unsigned numbers too, and float64 by default."""
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = np.array([[least, most, most, least], [0, 1, 2, 3], [most, most - 1, most, most]], dtype)
    y = device.asnumpy(cs.softmax(device.asarray(x)))
    assert y.dtype == np.float64
    check_softmax(y, x, -1, np.float64)
    np.testing.assert_allclose(y[0], [0, 0.5, 0.5, 0], atol=1e-50 if most > 200 else 1e-40)


def test_bool(device: Any) -> None:
    x = np.array([[True, False, True], [False, False, False]])
    y = device.asnumpy(cs.softmax(device.asarray(x)))
    assert y.dtype == np.float64
    e = np.e
    np.testing.assert_allclose(
        y, [[e / (2 * e + 1), 1 / (2 * e + 1), e / (2 * e + 1)], [1 / 3] * 3]
    )


@pytest.mark.parametrize(
    ("first", "second", "shapes"),
    with_shapes(product(DTYPES, (*DTYPES, "int32", "uint8", "bool"))),
)
def test_derivative_of_two_dtypes(
    device: Any, first: str, second: str, shapes: tuple[tuple[tuple[int, int], int], ...]
) -> None:
    expected = dtype_of(output_dtype([first, second]))
    for shape, axis in shapes:
        y = np.asarray(reference.softmax(values(first, shape), axis)).astype(dtype_of(first))
        dy = values(second, shape, seed=1)
        if second in INTEGERS and second != "bool":
            dy = np.random.default_rng(1).integers(0, 100, shape).astype(second)
        y_, dy_ = device.asarray(y), device.asarray(dy)
        for function in (cs.softmax_vjp, cs.softmax_jvp):
            dx = device.asnumpy(function(y_, dy_, axis=axis))
            assert dx.dtype == expected
            check_vjp(dx, y, dy, axis, expected)
    shape, axis = SHAPES[0]
    y, dy = y.reshape(-1)[:185].reshape(shape), dy.reshape(-1)[:185].reshape(shape)
    y_, dy_ = device.asarray(y), device.asarray(dy)
    dx = device.asnumpy(cs.softmax_vjp(dy_, y_, axis=axis))  # the roles exchanged
    check_vjp(dx, dy, y, axis, expected)
    for name in DTYPES if first == second else ():
        out = device.asarray(np.zeros(shape, dtype_of(name)))
        assert cs.softmax_vjp(y_, dy_, axis=axis, out=out) is out
        check_vjp(device.asnumpy(out), y, dy, axis, dtype_of(name))


def test_two_narrow_floats_meet_in_float32(device: Any) -> None:
    assert output_dtype(["float16", "bfloat16"]) == "float32"
    y, dy = (device.asarray(logits((2, 3), d)) for d in ("float16", "bfloat16"))
    assert cs.softmax_vjp(y, dy).dtype == cs.softmax_vjp(dy, y).dtype == np.float32


@pytest.mark.parametrize("sigma", [1, 10])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_results_are_correctly_rounded(device: Any, dtype: str, sigma: int) -> None:
    """In 99.9 % of elements: the exact result is at most half a unit away."""
    total = right = 0
    for shape, axis in (((200, 100), -1), ((30, 3000), -1), ((8, 40000), -1), ((700, 60), 0)):
        x = logits(shape, dtype, sigma, 5, seed=sigma)
        error = softmax_error(run(device, "softmax", x, axis), x, axis)
        total += error.size
        right += int((error <= 0.5).sum())
    assert right >= 0.999 * total, f"{right / total:.4%}"


@pytest.mark.parametrize(
    ("given", "out", "shape"),
    [("float16", "float32", (9000, 17)), ("float32", "float16", (4500, 15))],
)
def test_few_short_rows_whose_results_are_apart(
    device: Any, given: str, out: str, shape: tuple[int, int]
) -> None:
    """Results that have memory of their own beside the rows, with one row a thread for its blocks.

    So few rows that a thread has one, of a kernel that is compiled for several.
    """
    x = logits(shape, given)
    launch = plan_of(device, "softmax", device.asarray(x), dtype=out).launches[0]
    if device.spec.arch >= 90:
        assert int(launch.kernel["CSM_ROWS_EACH"]) > 1
    run_softmax(device, x, dtype=out)


def test_few_short_rows_with_two_results(device: Any) -> None:
    x = logits((9000, 17), "float16")
    same = device.asarray(logits((1, 17), "float16", seed=1))
    dy = pytest.importorskip("cupy").broadcast_to(same, x.shape)
    y, dx = map(device.asnumpy, cs.softmax_value_and_vjp(device.asarray(x), dy))
    check_softmax(y, x)
    assert_kept("softmax_value_and_vjp", (x, device.asnumpy(dy)), -1, (y, dx))
