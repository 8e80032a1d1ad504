"""What the tests of the kernels share: arrays, error bounds, and the plans that must be reached.

The bounds are the package's numerical contract; none is chosen here to let a test pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import plan as make_plan
from cusoftmax.planning.prepare import prepare, problem_for

DTYPES = ("float16", "bfloat16", "float32", "float64")
OPS = ("softmax", "softmax_vjp")

# Softmax: units in the last place. Derivative products: unit roundoffs of the sum of magnitudes.
SOFTMAX_ULP = {"float16": 1, "bfloat16": 1, "float32": 3, "float64": 4}
VJP_ROUNDOFFS = {"float16": 1, "bfloat16": 1, "float32": 4, "float64": 4}
# Whatever computes in float32 may flush what float32 cannot hold as a normal number.
FLUSHES = {"float16": False, "bfloat16": True, "float32": True, "float64": False}
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1074}


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of a name, bfloat16 too."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def bits(array: Any) -> np.ndarray:
    """Return the bits of floats as unsigned integers, for comparisons that see −0 and NaN."""
    whole = np.ascontiguousarray(array)
    return whole.view(f"u{whole.dtype.itemsize}")


def logits(
    shape: tuple[int, ...], dtype: str, sigma: float = 3.0, mean: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Return normal logits, the same for the same arguments."""
    drawn = np.random.default_rng(seed).normal(mean, sigma, shape)
    return drawn.astype(dtype_of(dtype))


# ------------------------------------------------------------------------------------------ errors


def softmax_error(y: np.ndarray, x: np.ndarray, axis: Any = -1) -> np.ndarray:
    """Error of a softmax of `x` in units in the last place of `y`."""
    exact = reference.softmax(x, axis, extended=True)
    return reference.ulp_error(y, exact, flush_to_zero=FLUSHES[y.dtype.name])


def check_softmax(y: np.ndarray, x: np.ndarray, axis: Any = -1, dtype_out: Any = None) -> float:
    """Assert that `y` is the softmax of `x` within the contract; return the worst error in ulp.

    Special values are judged too: where the exact result is NaN, so must `y` be, and only there.
    """
    assert y.shape == x.shape
    assert y.dtype == np.dtype(dtype_out or x.dtype)
    if not y.size:
        return 0.0
    error = softmax_error(y, x, axis)
    worst = np.unravel_index(int(error.argmax()), error.shape)
    bound = SOFTMAX_ULP[y.dtype.name]
    assert error[worst] <= bound, f"{error[worst]:.4g} ulp at {worst}, of {bound} allowed"
    return float(error[worst])


def check_vjp(
    dx: np.ndarray, y: np.ndarray, dy: np.ndarray, axis: Any = -1, dtype_out: Any = None
) -> float:
    """Assert that `dx` is the derivative product within the contract; return worst error / bound.

    A narrow dtype is allowed one rounding of the result beside the bound, and every dtype what
    `underflow` says. Where the exact result is not finite, `dx` must be the same.
    """
    assert dx.shape == y.shape
    assert dx.dtype == np.dtype(dtype_out or y.dtype)
    if not dx.size:
        return 0.0
    name = dx.dtype.name
    u = reference.unit_roundoff(name)
    exact = reference.softmax_vjp(y, dy, axis, extended=True)
    with np.errstate(all="ignore"):
        magnitude = reference.vjp_bound(y, dy, axis, 1.0)
        total = np.abs(y.astype(np.float64) * dy.astype(np.float64)).sum(axis, keepdims=True)
        bound = VJP_ROUNDOFFS[name] * u * magnitude
        bound = bound + underflow(name, np.abs(dy.astype(np.float64)) + total)
        if name in ("float16", "bfloat16"):
            bound = bound + u * np.abs(exact)
        error = np.abs(dx.astype(np.float64) - exact) / bound
        finite = np.isfinite(exact) & (np.abs(exact) <= float(ml_dtypes.finfo(dx.dtype).max))
        got = np.where(finite, 0, dx.astype(np.float64))
        want = np.where(finite, 0, exact.astype(dx.dtype).astype(np.float64))
    np.testing.assert_array_equal(got, want)
    error = np.where(finite, error, 0)
    assert not np.isnan(error).any(), f"NaN at {np.argwhere(np.isnan(error))[0]}"
    worst = np.unravel_index(int(error.argmax()), error.shape)
    assert error[worst] <= 1, f"{error[worst]:.4g} of the bound at {worst}"
    return float(error[worst])


def underflow(dtype: str, factor: np.ndarray) -> np.ndarray:
    """Error allowed for what is too small for the dtype, in a product with `factor`.

    The result may lose the smallest number. Where float32 flushes, so may the elements of `y` in
    front of their factor, as the softmax that `y` comes from flushed them already.
    """
    return SMALLEST[dtype] * (2 + factor if FLUSHES[dtype] else 2)


# --------------------------------------------------------------------------------------- execution


def run_softmax(device: Any, x: np.ndarray, axis: Any = -1, dtype: Any = None) -> np.ndarray:
    """Softmax of a NumPy array on a device, checked against the reference."""
    y = device.asnumpy(cs.softmax(device.asarray(x), axis=axis, dtype=dtype))
    check_softmax(y, x, axis, dtype)
    return y


def run_vjp(device: Any, y: np.ndarray, dy: np.ndarray, axis: Any = -1) -> np.ndarray:
    """Derivative product of NumPy arrays on a device, checked against the reference."""
    dx = device.asnumpy(cs.softmax_vjp(device.asarray(y), device.asarray(dy), axis=axis))
    check_vjp(dx, y, dy, axis, dx.dtype)
    return dx


def run(device: Any, op: str, x: np.ndarray, axis: Any = -1) -> np.ndarray:
    """Either operation on logits `x`; the derivative product is that of their softmax with them."""
    if op == "softmax":
        return run_softmax(device, x, axis)
    y = reference.softmax(x, axis).astype(x.dtype)
    return run_vjp(device, y, np.ascontiguousarray(x[..., ::-1]), axis)


def run_repeated(device: Any, op: str, x: np.ndarray, rows: int, axis: int = -1) -> None:
    """Run on `rows` rows that repeat those of `x`: the first are checked, the others the same bits.

    Along axis 0 the rows are columns.
    """
    inputs: tuple[np.ndarray, ...] = (x,)
    if op != "softmax":
        inputs = (reference.softmax(x).astype(x.dtype), np.ascontiguousarray(x[:, ::-1]))
    whole = [np.resize(a, (rows, a.shape[1])) for a in inputs]
    if axis == 0:
        whole = [np.ascontiguousarray(a.T) for a in whole]
    result = device.asnumpy(getattr(cs, op)(*map(device.asarray, whole), axis=axis))
    result = result if axis else np.ascontiguousarray(result.T)
    (check_softmax if op == "softmax" else check_vjp)(result[: len(x)], *inputs)
    assert (bits(result) == np.resize(bits(result[: len(x)]), result.shape)).all()


# ------------------------------------------------------------------------------------------- plans


def kind(plan: Plan) -> str:
    """Name what a plan runs: its pattern, the size of a cluster, what it parks, its launches."""
    if not plan.launches:
        return "empty"
    words = [plan.pattern]
    if plan.cluster > 1:
        words.append(f"x{plan.cluster}")
    if plan.launches[0].kernel["CSM_PARKS"] == "1":
        words.append("parked")
    if plan.pattern == "column" and len(plan.launches) > 1:
        words.append("long")
    return " ".join(words)


def assert_plan(plan: Plan, expected: str, **facts: Any) -> None:
    """Assert the `kind` of a plan, and any attributes of it such as ``vector=4``."""
    assert kind(plan) == expected, f"{kind(plan)}, because {plan.why}"
    for name, value in facts.items():
        assert getattr(plan, name) == value, f"{name} is {getattr(plan, name)}, not {value}"


def plan_of(
    device: Any, op: str, *arrays: Any, axis: Any = -1, dtype: Any = None, out: Any = None
) -> Plan:
    """Return the plan of a call with these arrays, of any strides."""
    return make_plan(
        prepare(op, arrays, axis, dtype, () if out is None else (out,)).problem, device.spec
    )


@dataclass(frozen=True)
class PlanCase:
    """A contiguous array that runs in one kind of plan on one architecture."""

    kind: str
    arch: str
    shape: tuple[int, ...]
    axis: int

    def __str__(self) -> str:
        return f"{self.kind.replace(' ', '-')}-{self.arch}-{'x'.join(map(str, self.shape))}"


def planned(op: str, dtype: str, shape: tuple[int, ...], axis: int, arch: str) -> Plan:
    """Return the plan for contiguous arrays, by the planner and not by the public function."""
    return make_plan(problem_for(op, shape, dtype, axis), DeviceSpec.known(arch))


# Every kind of plan that contiguous arrays can have: an architecture that has it, and a number of
# rows that leads to it.
PLAN_KINDS = {
    "group": ("sm_90", 3),
    "block": ("sm_80", 3),
    "block x2": ("sm_90", 3),
    "block x4": ("sm_90", 3),
    "block x8": ("sm_90", 3),
    "block parked": ("sm_80", 3),
    "block x8 parked": ("sm_90", 5),
    "stream": ("sm_75", 3),
    "split": ("sm_90", 3),
    "column": ("sm_90", 3),
    "column x2": ("sm_90", 3),
    "column x4": ("sm_90", 3),
    "column x8": ("sm_90", 3),
    "column long": ("sm_80", 3),
}
# For operations that add nothing to how a row is laid over threads: of clusters that of eight.
MAIN_PLAN_KINDS = tuple(k for k in PLAN_KINDS if not k.endswith(("x2", "x4")))
LONGEST = 1 << 20


@cache
def case(wanted: str, op: str, dtype: str) -> PlanCase:
    """Return a short case of a kind: odd lengths grow by an eighth until it is planned."""
    arch, rows = PLAN_KINDS[wanted]
    column = wanted.startswith("column")
    n = 37
    while n < LONGEST:
        shape, axis = ((n, rows), 0) if column else ((rows, n), -1)
        if kind(planned(op, dtype, shape, axis, arch)) == wanted:
            return PlanCase(wanted, arch, shape, axis)
        n += n // 8 + n // 8 % 2
    raise AssertionError(f"{op} of {dtype} has no {wanted} on {arch} with {rows} rows")


def _depth(plan: Plan) -> tuple[Any, ...]:
    """All of a plan that changes the way through its kernel, but for the width of an access."""
    first = plan.launches[0]
    held = 0
    if plan.pattern == "block":
        held = -(-plan.n // (plan.chunk * (first.block // 32) * plan.cluster))
    walkers = first.block if plan.pattern == "column" else 0
    return (kind(plan), held, walkers, len(plan.launches))


def boundaries(
    op: str, dtype: str, arch: str, rows: int, column: bool, low: int, high: int
) -> Iterator[tuple[int, Plan]]:
    """Yield row lengths on either side of each change of plan between `low` and `high`.

    The planner itself is asked: at lengths less than one unit of summation apart, since nothing
    changes and changes back within one, and then between those that differ.
    """

    def at(n: int) -> Plan:
        shape, axis = ((n, rows), 0) if column else ((rows, n), -1)
        return planned(op, dtype, shape, axis, arch)

    before, plan = low, at(low)
    step = max(plan.chunk - 1, 63)
    for after in [*range(low + step, high, step), high]:
        if _depth(at(after)) != _depth(plan):
            left, right = before, after
            while right - left > 1:
                middle = (left + right) // 2
                if _depth(at(middle)) == _depth(plan):
                    left = middle
                else:
                    right = middle
            yield left, at(left)
            yield right, at(right)
        before, plan = after, at(after)
