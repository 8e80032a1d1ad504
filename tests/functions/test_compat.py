"""The SciPy-compatible functions: the same signatures, and the same results."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from typing import Any

import numpy as np
import pytest
import scipy.special

from cusoftmax.compat import scipy as compat

X = np.random.default_rng(0).normal(0, 4, (3, 4, 5))
NAMES = ("softmax", "log_softmax", "logsumexp")


@pytest.mark.parametrize("name", NAMES)
def test_signatures_are_scipys(name: str) -> None:
    def plain(function: Any) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]

    assert plain(getattr(compat, name)) == plain(getattr(scipy.special, name))


@pytest.mark.parametrize("axis", ["default", None, 0, -1, (0, 2)])
@pytest.mark.parametrize("name", NAMES)
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


BROADCAST = [
    ((4, 1, 2, 1), (3, 1, 5)),  # SciPy's own test_logsumexp_b_shape
    ((3, 1), (3, 4)),
    ((4,), (2, 3, 4)),
    ((2, 3, 4), (4,)),
    ((2, 1, 4), (3, 1)),
    ((), (3,)),
    ((3,), ()),
    ((), ()),
    ((1, 1), (5,)),
]


@pytest.mark.parametrize(("of_a", "of_b"), BROADCAST)
def test_a_and_b_are_broadcast_against_each_other(device: Any, of_a: Any, of_b: Any) -> None:
    rng = np.random.default_rng(2)
    a, b = np.asarray(rng.normal(0, 3, of_a)), np.asarray(rng.uniform(-1, 2, of_b))
    ndim = len(np.broadcast_shapes(of_a, of_b))
    for axis in (None, *range(-ndim, ndim), *([(0, -1)] if ndim > 1 else [])):
        for keepdims in (False, True)[: 1 + bool(ndim)]:  # SciPy gives a number one dimension
            got = compat.logsumexp(device.asarray(a), axis, device.asarray(b), keepdims, True)
            with np.errstate(divide="ignore"):
                expected = scipy.special.logsumexp(a, axis, b, keepdims, True)
            for mine, theirs in zip(got, expected, strict=True):
                assert mine.shape == np.shape(theirs)
                np.testing.assert_allclose(device.asnumpy(mine), theirs, rtol=1e-9, atol=1e-13)


def test_broadcasting_an_empty_array(device: Any) -> None:
    a, b = device.asarray(np.zeros((0, 1))), device.asarray(np.ones(3))
    assert compat.logsumexp(a, 1, b).shape == (0,)
    value, sign = compat.logsumexp(a, 0, b, return_sign=True)
    assert (device.asnumpy(value) == -np.inf).all() and (device.asnumpy(sign) == 0).all()


def test_what_does_not_broadcast_is_refused(device: Any) -> None:
    for of_a, of_b in (((3, 4), (3,)), ((2, 3), (4, 3)), ((0,), (2,))):
        a, b = device.asarray(np.zeros(of_a)), device.asarray(np.ones(of_b))
        said = re.escape(f"logsumexp: a has shape {of_a} and b has shape {of_b}, which do not br")
        with pytest.raises(ValueError, match=said):
            compat.logsumexp(a, b=b)


# ------------------------------------------------------------------------------------------- patch


def functions() -> list[Any]:
    modules = (scipy.special, importlib.import_module("cupyx.scipy.special"))
    return [getattr(module, name) for module in modules for name in NAMES]


@pytest.mark.parametrize("module", ["scipy.special", "cupyx.scipy.special"])
def test_patched_modules_run_the_kernels(device: Any, module: str) -> None:
    patched = importlib.import_module(module)
    x, b = device.asarray(X), device.asarray(X[:1])
    before = functions()
    with compat.patch():
        for name in NAMES:
            got = getattr(patched, name)(x, axis=(0, 2))
            np.testing.assert_array_equal(
                device.asnumpy(got), device.asnumpy(getattr(compat, name)(x, (0, 2)))
            )
            function = getattr(patched, name)
            assert function.__name__ == name and function.__doc__
        value, sign = patched.logsumexp(x, 1, b, 1, True)
        wanted = compat.logsumexp(x, 1, b, True, True)
        for got, expected in zip((value, sign), wanted, strict=True):
            np.testing.assert_array_equal(device.asnumpy(got), device.asnumpy(expected))
        assert patched.logsumexp(x, keepdims=np.True_).shape == (1, 1, 1)
    assert functions() == before


def test_other_arrays_take_the_functions_from_before(device: Any) -> None:
    """NumPy's, complex ones and weights that are numbers."""
    calls: list[tuple[Any, ...]] = []

    def before(x: Any, **given: Any) -> str:
        calls.append((x, given))
        return "before"

    x = device.asarray(X)
    odd = device.asarray(X.astype(complex))
    with pytest.MonkeyPatch.context() as patched:
        for name in NAMES:
            patched.setattr(scipy.special, name, before)
        with compat.patch():
            assert scipy.special.softmax(X) == scipy.special.log_softmax(odd, 1) == "before"
            assert scipy.special.logsumexp(X, b=x) == scipy.special.logsumexp(x, 0, 2.0) == "before"
            assert scipy.special.logsumexp(x, b=odd, keepdims=True, return_sign=True) == "before"
            assert scipy.special.logsumexp(x, 0).shape == X.shape[1:]
    assert [given for _, given in calls[:2]] == [{"axis": None}, {"axis": 1}]
    assert calls[-1][1] == {"axis": None, "b": odd, "keepdims": True, "return_sign": True}
    np.testing.assert_allclose(scipy.special.softmax(X).sum(), 1)


def test_patches_end_in_any_order() -> None:
    before = functions()
    first, second = compat.patch(), compat.patch()
    once = functions()
    assert not set(once) & set(before)
    with second:
        assert functions() == once
    first.__exit__()
    second.__exit__()  # a second time
    assert functions() == before
    good = compat.patch()
    with compat.patch():
        pass
    assert functions() != before, "for good"
    good.__exit__()
    assert functions() == before


def test_modules_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    before = functions()
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with compat.patch():
        assert scipy.special.softmax is before[0]
        assert functions()[3:] != before[3:]
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", None)
    with pytest.raises(ImportError, match=r"^patch: there is none of scipy\.special, cupyx"):
        compat.patch()


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
