"""Arrays over the memory of other libraries."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.runtime import arrays


def over_numpy(array: np.ndarray) -> Any:
    """Return a CuPy array over the memory of one of NumPy's, as a torch module makes one."""
    return arrays.over(array.ctypes.data, array.shape, array.strides, array.dtype, array, 0)


def test_a_caller_gives_inputs_results_and_the_allocator(emulated: Any) -> None:
    """One row on many blocks needs a workspace: it and the results are the caller's memory."""
    x = np.random.default_rng(1).normal(size=(2, 1 << 17)).astype(np.float32)[:, ::2]
    y = np.empty((2, 1 << 16), np.float32)
    given: list[np.ndarray] = []

    def allocate(nbytes: int) -> Any:
        given.append(np.empty(nbytes, np.uint8))
        return arrays.memory(given[-1].ctypes.data, nbytes, given[-1], 0)

    with cupy.cuda.using_allocator(allocate):
        out = over_numpy(y)
        assert cs.softmax(over_numpy(x), out=out) is out
        assert len(given) == 1, "the workspace"
        again = cs.softmax(over_numpy(x))
    assert len(given) == 3, "the result and another workspace"
    assert again.data.ptr == given[1].ctypes.data
    np.testing.assert_array_equal(emulated.asnumpy(again), y)
    np.testing.assert_allclose(y, reference.softmax(x), rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_an_array_without_elements_may_lie_nowhere(emulated: Any, shape: tuple[int, ...]) -> None:
    nowhere = arrays.over(0, shape, (20, 4), np.dtype(np.float32), None, 0)
    assert cs.softmax(nowhere).shape == shape
    assert cs.softmax(nowhere, out=nowhere) is nowhere
