"""The public functions as a caller meets them: empty arrays, mistakes, and what calls cost."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import cupy
import numpy as np
import pytest
from numpy.exceptions import AxisError

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.planning import planner
from cusoftmax.runtime import backend, launch
from tests.support import (
    DTYPES,
    LONG_PLAN_KINDS,
    OPS,
    PLAN_KINDS,
    bits,
    case,
    dtype_of,
    kind,
    logits,
)

# ------------------------------------------------------------------------------- nothing and little


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (0, 0), (3, 0, 4), (2, 3, 0)])
def test_empty_arrays_launch_nothing(device: Any, shape: tuple[int, ...]) -> None:
    for dtype in DTYPES:
        x = device.asarray(np.zeros(shape, dtype_of(dtype)))
        for axis in (*range(len(shape)), None, ()):
            y = cs.softmax(x, axis=axis)
            assert y.shape == shape and y.dtype == x.dtype
            assert cs.softmax(x, axis=axis, out=x) is x
            assert cs.softmax_vjp(y, x, axis=axis).shape == shape
            for op in OPS:
                plan = cs.explain(op, shape=shape, dtype=dtype, axis=axis)
                assert plan.pattern == "empty" and plan.launches == ()


def test_empty_arrays_move_nothing(emulated: Any) -> None:
    x = emulated.asarray(np.zeros((3, 0), np.float32))
    with emulator.trace() as report:
        cs.softmax(x)
        cs.softmax_vjp(x, x)
    assert report.launches == 0 and report.global_bytes_written == 0


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_rows_of_one_element(device: Any, rows: int) -> None:
    """1 for what is finite, and no derivative; NaN stays NaN."""
    for dtype in DTYPES:
        x = logits((rows, 1), dtype, 10)
        x[0] = np.nan
        x_ = device.asarray(x)
        y = device.asnumpy(cs.softmax(x_))
        assert np.isnan(y[0]) and (y[1:] == 1).all()
        dx = device.asnumpy(cs.softmax_vjp(cs.softmax(x_), x_))
        assert np.isnan(dx[0]) and (dx[1:] == 0).all()


# ---------------------------------------------------------------------------------------- mistakes


@pytest.fixture
def given(device: Any) -> Any:
    """An array of (4, 6)."""
    return device.asarray(logits((4, 6), "float32"))


def test_other_arrays_are_refused(given: Any) -> None:
    """The message names the argument and says how to convert it."""
    half = type("Array", (), {"__module__": "elsewhere", "__dlpack__": lambda self: None})()
    for wrong, what in (
        (np.zeros((4, 6), np.float32), r"numpy\.ndarray"),
        ([1.0, 2.0], "list"),
        (1.0, "float"),
        (None, "NoneType"),
        (half, r"elsewhere\.Array"),
    ):
        with pytest.raises(TypeError, match=rf"softmax: x is a {what}, .*\.asarray\(x\)"):
            cs.softmax(wrong)
        with pytest.raises(TypeError, match="softmax_vjp: dy is a "):
            cs.softmax_vjp(given, wrong)
        with pytest.raises(TypeError, match="softmax_vjp: y is a "):
            cs.softmax_vjp(wrong, given)
        with pytest.raises(TypeError, match="softmax_jvp: xt is a "):
            cs.softmax_jvp(given, wrong)
        if wrong is not None:
            with pytest.raises(TypeError, match="softmax: out is a "):
                cs.softmax(given, out=wrong)


def test_dtypes_are_refused(device: Any, given: Any) -> None:
    for name in ("complex64", "datetime64[s]", ">f4"):
        x = device.asarray(np.zeros((2, 3), name))
        with pytest.raises(TypeError, match=r"softmax: x has dtype .* not accepted"):
            cs.softmax(x)
        with pytest.raises(TypeError, match="softmax_vjp: dy has dtype"):
            cs.softmax_vjp(device.asarray(np.zeros((2, 3), np.float32)), x)
    for wrong in (np.int32, bool, "complex128"):
        with pytest.raises(TypeError, match="cannot hold the result"):
            cs.softmax(given, dtype=wrong)
    for wrong in ("no dtype", object()):
        with pytest.raises(TypeError, match="is not a dtype"):
            cs.softmax(given, dtype=wrong)
    with pytest.raises(TypeError, match="softmax: out has dtype int32"):
        cs.softmax(given, out=device.asarray(np.zeros((4, 6), np.int32)))


def test_axes_are_refused(given: Any) -> None:
    for axis in (2, -3, (0, 2)):
        with pytest.raises(AxisError, match="softmax"):
            cs.softmax(given, axis=axis)
        with pytest.raises(AxisError, match="softmax_vjp"):
            cs.softmax_vjp(given, given, axis=axis)
    for axis in ((0, 0), (1, -1)):
        with pytest.raises(ValueError, match="twice"):
            cs.softmax(given, axis=axis)
    for axis in (1.0, "0", True, (0, 1.0), [0, 1]):
        with pytest.raises(TypeError, match="softmax: axis="):
            cs.softmax(given, axis=axis)


def test_shapes_that_differ_are_refused(device: Any, given: Any) -> None:
    for shape in ((4, 7), (4, 1), (6, 4), (24,), (1, 4, 6)):
        other = device.asarray(np.zeros(shape, np.float32))
        with pytest.raises(ValueError, match=r"dy has shape .* and y has \(4, 6\)"):
            cs.softmax_vjp(given, other)
        with pytest.raises(ValueError, match="out has shape"):
            cs.softmax(given, out=other)
        with pytest.raises(ValueError, match="out has shape"):
            cs.softmax_vjp(given, given, out=other)


def test_dtype_that_contradicts_out_is_refused(device: Any, given: Any) -> None:
    out = device.asarray(np.full((4, 6), 7, np.float16))
    with pytest.raises(ValueError, match="dtype=float32 contradicts out"):
        cs.softmax(given, dtype=np.float32, out=out)
    assert (device.asnumpy(out) == 7).all()
    assert cs.softmax(given, dtype=np.float16, out=out) is out


def test_partial_overlap_is_refused_and_nothing_written(device: Any) -> None:
    values = logits((10, 6), "float32")
    base = device.asarray(values)
    flat = base.reshape(60)
    half = cupy.ndarray((8, 6), np.float16, memptr=base.data)
    x = base[:8]
    for out in (base[2:], base[1:9], x[::-1], x[:, ::-1], flat[1:49].reshape(8, 6), half):
        with pytest.raises(ValueError, match="out overlaps x"):
            cs.softmax(x, out=out)
        with pytest.raises(ValueError, match="out overlaps y"):
            cs.softmax_vjp(x, device.asarray(values[:8]), out=out)
        with pytest.raises(ValueError, match="out overlaps dy"):
            cs.softmax_vjp(device.asarray(values[:8]), x, out=out)
        # Once a call of the same kind has succeeded, the check must still be made.
        apart = device.asarray(values)
        if out.dtype == np.float32 and out.flags.c_contiguous:
            cs.softmax(x, out=cupy.ndarray(out.shape, out.dtype, memptr=apart.data))
            with pytest.raises(ValueError, match="out overlaps x"):
                cs.softmax(x, out=out)
        assert (device.asnumpy(base) == values).all()
    for clear in (base[::2], flat[30:].reshape(5, 6)):
        other = base[1::2] if clear.strides[0] > 24 else base[:5]
        assert cs.softmax(other, out=clear) is clear


def test_out_that_overlaps_itself_is_refused(device: Any, given: Any) -> None:
    out = cupy.broadcast_to(device.asarray(np.zeros((1, 6), np.float32)), (4, 6))
    with pytest.raises(ValueError, match="elements of out share memory"):
        cs.softmax(given, out=out)
    assert (device.asnumpy(out) == 0).all()


# ---------------------------------------------------------------------------------- calls and plans


def test_import_takes_no_cupy() -> None:
    code = "import sys, cusoftmax; sys.exit('cupy' in sys.modules or 'ml_dtypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_explain_needs_no_cupy() -> None:
    code = (
        "import sys, cusoftmax as cs\n"
        "plan = cs.explain('softmax', shape=(4096, 32000), dtype='float16', arch='sm_90')\n"
        "assert plan.pattern == 'block', plan.pattern\n"
        "cs.explain('softmax_vjp', shape=(4, 5), dtype=('float16', 'bfloat16'), arch='sm_75')\n"
        "sys.exit('cupy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_explain_says_what_runs(emulated: Any) -> None:
    """The plan is the one of the active machine, and the launches are those of the plan."""
    for op, wanted in itertools.product(OPS, PLAN_KINDS):
        chosen = case(wanted, op, "float32")
        if wanted == "block x8 parked":
            continue
        x = emulated.asarray(logits(chosen.shape, "float32"))
        with emulated.on(arch=chosen.arch), emulator.trace() as report:
            plan = cs.explain(op, shape=chosen.shape, axis=chosen.axis)
            assert plan.device.arch == int(chosen.arch[3:])
            assert kind(plan) == wanted
            getattr(cs, op)(*(x,) * (1 if op == "softmax" else 2), axis=chosen.axis)
        ran = [(k.kernel, k.grid, k.block) for k in report.kernels]
        assert ran == [(s.kernel.name, s.grid, s.block) for s in plan.launches]
        text = str(plan)
        assert plan.pattern in text and plan.why in text
        assert all(s.kernel.name in text for s in plan.launches)


def test_explain_refuses() -> None:
    for wrong in (
        {"op": "argmax"},
        {"arch": "sm_60"},
        {"arch": "hopper"},
        {"order": "K"},
        {"shape": (3, -1)},
        {"axis": 5},
    ):
        with pytest.raises(ValueError):
            cs.explain(**{"op": "softmax", "shape": (3, 4), "arch": "sm_90"} | wrong)
    for wrong in ({"dtype": "complex64"}, {"out_dtype": "int8"}, {"axis": 0.5}):
        with pytest.raises(TypeError):
            cs.explain(**{"op": "softmax", "shape": (3, 4), "arch": "sm_90"} | wrong)


def test_warmup_loads_what_the_calls_need(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = backend.active()
    loaded = []
    original = type(machine).load

    def load(self: Any, kernel: Any) -> Any:
        loaded.append(kernel.name)
        return original(self, kernel)

    monkeypatch.setattr(type(machine), "load", load)
    shapes = [(3, 100), (2, 70001), (0, 4)]
    cs.warmup(shapes=shapes, dtypes=["float16", dtype_of("bfloat16")])
    warm = set(loaded)
    assert warm and all(name.startswith("csm_softmax") for name in warm)
    loaded.clear()
    launch._calls.clear()
    for shape, dtype in itertools.product(shapes, ("float16", "bfloat16")):
        x = device.asarray(logits(shape, dtype))
        cs.softmax_vjp(cs.softmax(x), x)
    assert set(loaded) == warm
    with pytest.raises(ValueError):
        cs.warmup(["argmax"], shapes=[(3, 4)])


def test_repeated_calls_plan_once(device: Any) -> None:
    """A second call of a kind builds, plans and loads nothing, and may meet other arrays."""
    counts = []
    for seed in range(4):
        x = device.asarray(logits((5, 900), "float32", seed=seed))
        cs.softmax_vjp(cs.softmax(x), x, out=x)
        counts.append((len(launch._calls), planner.plan.cache_info()))
    assert counts == [counts[0]] * 4
    cs.softmax(x, axis=0)
    assert len(launch._calls) == counts[0][0] + 1


def test_cached_calls_are_not_confused(device: Any) -> None:
    """One array after another that differs in one thing only."""
    x = logits((6, 6), "float32")
    base = device.asarray(x)
    for _ in range(2):
        for axis, array in itertools.product((0, 1, -1, None, (0, 1), ()), (base, base.T)):
            got = device.asnumpy(cs.softmax(array, axis=axis)).astype(float)
            e = np.exp(device.asnumpy(array).astype(float))
            np.testing.assert_allclose(got, e / e.sum(axis, keepdims=True), rtol=1e-6)
        for dtype in DTYPES:
            assert cs.softmax(base, dtype=dtype_of(dtype)).dtype == dtype_of(dtype)


# Of millions of float32 elements one is near enough to the middle of two numbers for the
# approximations' errors to show.
@pytest.mark.parametrize("wanted", [k for k in PLAN_KINDS if k not in LONG_PLAN_KINDS])
@pytest.mark.parametrize("op", OPS)
def test_the_order_of_threads_does_not_matter(emulated: Any, op: str, wanted: str) -> None:
    """Ten orders, no bit of difference. Approximations are perturbed by the order's seed, too."""
    for dtype in ("float32", "float64"):
        chosen = case(wanted, op, dtype)
        x = emulated.asarray(logits(chosen.shape, dtype))
        results = []
        for seed in range(10):
            with emulated.on(arch=chosen.arch, seed=seed):
                given = (x,) if op == "softmax" else (x, x)
                result = getattr(cs, op)(*given, axis=chosen.axis)
                results.append(bits(emulated.asnumpy(result)))
        assert all((r == results[0]).all() for r in results[1:])
