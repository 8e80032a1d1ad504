"""softmax_jacobian: every width, both cases of an entry, layouts, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.contract.table import CONTRACTS
from tests.support import SWEPT_DTYPES, assert_kept, dtype_of

JACOBIAN = CONTRACTS["softmax_jacobian"]


def rows_of_softmax(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(0, 2, shape)
    return reference.softmax(x).astype(dtype_of(dtype))


def check(y: np.ndarray, got: np.ndarray) -> None:
    assert got.shape == (*y.shape, y.shape[-1])
    repeated = np.broadcast_to(y[..., None, :], got.shape)
    assert_kept(JACOBIAN, (repeated, y), -1, (got,))


@pytest.mark.parametrize("dtype", SWEPT_DTYPES)
@pytest.mark.parametrize("n", [*range(1, 41), 63, 64, 65, 127, 129, 255, 256, 257])
def test_widths(device: Any, dtype: str, n: int) -> None:
    y = rows_of_softmax((3, n), dtype)
    check(y, device.asnumpy(cs.softmax_jacobian(device.asarray(y))))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("n", [1023, 1024, 1025, 1500])  # about a chunk
def test_rows_of_several_chunks(device: Any, dtype: str, n: int) -> None:
    y = rows_of_softmax((1, n), dtype)
    check(y, device.asnumpy(cs.softmax_jacobian(device.asarray(y))))


def test_entries_by_the_cases_of_the_derivation(device: Any) -> None:
    y = reference.softmax([2.0, 4.0, 2.0, 1.0])
    got = device.asnumpy(cs.softmax_jacobian(device.asarray(y)))
    np.testing.assert_allclose(got, reference.softmax_jacobian_entries(y), rtol=4e-16)
    np.testing.assert_array_equal(got, got.T)
    np.testing.assert_allclose(got.sum(-1), 0, atol=1e-16)


def test_products_with_it_are_the_jvp_and_the_vjp(device: Any) -> None:
    y = rows_of_softmax((2, 3, 50), "float64")
    v = np.random.default_rng(1).normal(0, 1, y.shape)
    jacobian = device.asnumpy(cs.softmax_jacobian(device.asarray(y)))
    product = device.asnumpy(cs.softmax_jvp(device.asarray(y), device.asarray(v)))
    np.testing.assert_allclose((jacobian @ v[..., None])[..., 0], product, atol=1e-15)
    product = device.asnumpy(cs.softmax_vjp(device.asarray(y), device.asarray(v)))
    np.testing.assert_allclose((v[..., None, :] @ jacobian)[..., 0, :], product, atol=1e-15)


def test_layouts(device: Any) -> None:
    y = rows_of_softmax((4, 5, 24), "float32")
    expected = device.asnumpy(cs.softmax_jacobian(device.asarray(y)))
    flipped = device.asarray(np.ascontiguousarray(y.transpose(2, 1, 0))).transpose(2, 1, 0)
    np.testing.assert_array_equal(device.asnumpy(cs.softmax_jacobian(flipped)), expected)
    for order in ((0, 1, 2, 3), (1, 0, 2, 3), (3, 2, 1, 0), (0, 1, 3, 2), (2, 0, 1, 3)):
        shape = tuple(expected.shape[d] for d in order)
        back = tuple(int(d) for d in np.argsort(order))
        out = device.asarray(np.zeros(shape, np.float64)).transpose(back)
        assert cs.softmax_jacobian(device.asarray(y), out=out) is out
        np.testing.assert_allclose(device.asnumpy(out), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1,), (1, 1)])
def test_small_and_empty(device: Any, shape: tuple[int, ...]) -> None:
    y = np.ones(shape, np.float32)
    got = device.asnumpy(cs.softmax_jacobian(device.asarray(y)))
    np.testing.assert_array_equal(got, np.zeros((*shape, shape[-1])))


def test_traffic_is_the_write(emulated: Any) -> None:
    y = emulated.asarray(rows_of_softmax((4, 256), "float32"))
    with emulator.trace() as counted:
        cs.softmax_jacobian(y)
    of_rows, matrix = counted.kernels
    assert of_rows.global_bytes_written == 4 * 2 * 4  # a double word for each row
    assert matrix.global_bytes_written == 4 * 256 * 256 * 4
    assert matrix.widest_written == 16
    assert matrix.sectors_written * 32 == matrix.global_bytes_written
    assert matrix.barriers == matrix.shuffles == 0


def test_refusals(device: Any) -> None:
    with pytest.raises(ValueError, match="y has no dimensions"):
        cs.softmax_jacobian(device.asarray(np.zeros(())))
    with pytest.raises(TypeError, match=r"y is a numpy\.ndarray, and only CuPy"):
        cs.softmax_jacobian(np.zeros((3, 4)))
    y = device.asarray(np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match=r"out has shape \(3, 4\)"):
        cs.softmax_jacobian(y, out=y)
    memory = device.asarray(np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match="out overlaps y"):
        cs.softmax_jacobian(memory[0], out=memory)


GAPS = (0, 0.5, 3, 9, 15, 20, 40, 60, 80)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "place"), [(3, 0), (3, 2), (300, 150), (5000, 4999)])
def test_the_diagonal_of_a_dominant_class(device: Any, dtype: str, n: int, place: int) -> None:
    """`y_m (1 - y_m)` keeps its digits, and rows sum to 0, where `1 - y_m` is lost to rounding."""
    logits = np.random.default_rng(3).normal(size=(len(GAPS), n)) * 0.3
    logits[:, place] = np.array(GAPS) + np.log(n)
    logits = logits.astype(dtype)
    y = device.asnumpy(cs.softmax(device.asarray(logits)))
    rows = np.array([[0], [place], [n - 1]]) if n > 1000 else np.arange(n)[:, None]
    got = device.asnumpy(cs.softmax_jacobian(device.asarray(y[:4]))) if n > 1000 else None
    if got is None:
        got = device.asnumpy(cs.softmax_jacobian(device.asarray(y)))
    z = logits[: len(got)].astype(np.longdouble)
    e = np.exp(z - z.max(-1, keepdims=True))
    others = np.where(np.arange(n) == place, 0, e).sum(-1)
    want = (e / e.sum(-1, keepdims=True))[:, place] * others / e.sum(-1)
    u = reference.unit_roundoff(dtype)
    assert (np.abs(got[:, place, place] - want) <= 12 * u * want).all()
    sums = got.astype(np.longdouble)[:, rows[:, 0]].sum(-1)
    largest = np.abs(got[:, rows[:, 0]]).max(-1)
    assert (np.abs(sums) <= 12 * u * largest * max(1, n**0.5 / 8)).all()


def test_no_launch_of_a_jacobian_before_all_is_checked(device: Any) -> None:
    y = device.asarray(np.full((2, 3), 1 / 3, np.float32))
    with pytest.raises(ValueError, match="softmax_jacobian: out has shape"):
        cs.softmax_jacobian(y, out=device.asarray(np.zeros((2, 3), np.float32)))
    with pytest.raises(TypeError, match="softmax_jacobian: dtype"):
        cs.softmax_jacobian(y, dtype="int32")
