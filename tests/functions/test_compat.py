"""The SciPy-compatible functions: the same signatures, and the same results."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import scipy.special

from cusoftmax.compat import scipy as compat

X = np.random.default_rng(0).normal(0, 4, (3, 4, 5))


@pytest.mark.parametrize("name", compat.__all__)
def test_signatures_are_scipys(name: str) -> None:
    def plain(function: Any) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    assert plain(getattr(compat, name)) == plain(getattr(scipy.special, name))


@pytest.mark.parametrize("axis", ["default", None, 0, -1, (0, 2)])
@pytest.mark.parametrize("name", compat.__all__)
def test_results_are_scipys(device: Any, name: str, axis: Any) -> None:
    options = {} if axis == "default" else {"axis": axis}
    got = getattr(compat, name)(device.asarray(X), **options)
    expected = getattr(scipy.special, name)(X, **options)
    assert got.shape == np.shape(expected)
    np.testing.assert_allclose(device.asnumpy(got), expected, rtol=1e-13)


def test_weights_and_sign_by_position(device: Any) -> None:
    b = np.random.default_rng(1).normal(0, 1, (4, 1))
    got = compat.logsumexp(device.asarray(X), 1, device.asarray(b), True, True)
    expected = scipy.special.logsumexp(X, 1, b, True, True)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(device.asnumpy(mine), theirs, rtol=1e-12)


REFUSED = [
    ({"a": 3}, TypeError, "a is a int, and only CuPy arrays, and others that share GPU memory"),
    ({"a": X.astype(complex)}, TypeError, "a has dtype complex128, which is not accepted"),
    ({"b": 3}, TypeError, "b is a int, and only CuPy arrays"),
    ({"b": np.ones(2)}, ValueError, "a has shape (3, 4, 5) and b has shape (2,), which do not "),
    ({"b": X.astype(complex)}, TypeError, "b has dtype complex128, which is not accepted"),
    ({"axis": 3}, np.exceptions.AxisError, "axis 3 is out of bounds"),
    ({"keepdims": 2}, TypeError, "keepdims=2 is not accepted"),
    ({"return_sign": 2}, TypeError, "return_sign=2 is not accepted"),
]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("given", "kind", "said"), REFUSED)
def test_errors_name_the_arguments_of_scipy(
    device: Any, given: dict[str, Any], kind: type[Exception], said: str, signed: bool
) -> None:
    arguments = {
        name: device.asarray(value) if isinstance(value, np.ndarray) else value
        for name, value in ({"a": X, "return_sign": signed} | given).items()
    }
    with pytest.raises(kind) as refused:
        compat.logsumexp(**arguments)
    assert str(refused.value).startswith(f"logsumexp: {said}")
