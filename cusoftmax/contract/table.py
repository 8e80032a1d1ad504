"""Every operation with what it takes to try it: inputs, the public call, the truth, and the bound.

`cusoftmax check`, the tests and the benchmarks go through this table, so that an operation that is
in it is tried everywhere. The bounds are the numerical contract (README.md: Numbers); errors are
given in the bound's own unit:

- ``"ulp"``: units in the last place of the result;
- ``"u"``: unit roundoffs of the output dtype times the magnitude that the operation's formula
  rounds, for 16-bit dtypes beside the final rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.contract import logits as transformed
from cusoftmax.contract import losses as losses
from cusoftmax.contract import sampling as sampling
from cusoftmax.operations.dtypes import FLOATS, compute_dtype
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.checks import Axis, resolve_axes

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = tuple[Array, ...]

NARROW = ("float16", "bfloat16")
CORRECTLY_ROUNDED = 0.999  # the part of 16-bit softmax results that must be
_SMALLEST = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "float32": 2.0**-149,
    "float64": 2.0**-1074,
}
SPREAD = 10.0  # standard deviation of the logits that are drawn


@dataclass(frozen=True)
class OperationContract:
    """One operation of the family.

    Attributes
    ----------
    op : str
        Its name in `OPERATIONS`; arrays come in the order of ``read`` there.
    call : callable
        The public function, ``call(*inputs, axis=)``.
    exact : callable
        The reference with extended precision, ``exact(*inputs, axis)``; a tuple where there are
        several results.
    unit : {"ulp", "u"}
        Of the bound.
    bound : dict
        Largest error allowed, by output dtype.
    magnitude : callable, optional
        For the unit ``"u"``: what the roundoffs are of, ``magnitude(*inputs, axis)`` in float64; a
        tuple where it is not the same for all results.
    floor : float
        Absolute error that a 16-bit result of float32 sums is allowed beside.
    beside : callable, optional
        Absolute error that each element is allowed beside, ``beside(*inputs, axis)``.
    judged : callable, optional
        Where comparing is not enough: the errors of the result, ``judged(*inputs, axis, result)``.
    """

    op: str
    call: Callable[..., Any]
    exact: Callable[..., Any]
    unit: str
    bound: dict[str, float]
    magnitude: Callable[..., Array | Arrays] | None = None
    floor: float = 0.0
    beside: Callable[..., Array] | None = None
    judged: Callable[..., Array] | None = None

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, ...], axis: Axis, dtype: Any
    ) -> Arrays:
        """Return random inputs: normal logits, what softmax makes of them, and normal gradients."""
        kind = np.dtype(dtype)
        if self.op == "softmax_jacobian":  # of shape (..., n, n), from one row for each matrix
            (y,) = CONTRACTS["softmax_vjp"].draw(rng, shape[:-1], -1, dtype)[:1]
            return np.broadcast_to(y[..., None, :], shape), y
        if self.op.startswith("cross_entropy"):
            return losses.draw(self.op, rng, shape, axis, kind)
        if OPERATIONS[self.op].segmented:  # one after the other along the first axis
            return self._draw_segments(rng, shape, kind)
        kept = list(shape)
        axes = resolve_axes(self.op, axis, len(shape))
        for a in axes:
            kept[a] = 1
        operation = OPERATIONS[self.op]
        drawn = []
        for name in operation.read:
            if name in operation.auxiliary_inputs:
                drawn.append(transformed.draw_beside(name, rng, shape, axes, kind))
                continue
            values = rng.standard_normal(shape if name in operation.inputs else kept)
            if kind.name not in FLOATS:  # no sign, for unsigned dtypes
                values = np.abs(values * SPREAD)
            elif name == "x":
                values = values * SPREAD
            elif name == "y":
                values = reference.softmax(values * SPREAD, axis)
            elif name == "logy":
                values = reference.log_softmax(values * SPREAD, axis)
            drawn.append(values.astype(kind))
        return tuple(drawn)

    def _draw_segments(
        self, rng: np.random.Generator, shape: tuple[int, ...], kind: np.dtype[Any]
    ) -> Arrays:
        """Return inputs with segments of all sizes: half of the elements in those of up to 64."""
        cuts = np.concatenate([[0, shape[0]], rng.integers(0, shape[0] + 1, 4)])
        small = rng.integers(0, 65, shape[0] // 64).cumsum()
        offsets = np.sort(np.concatenate([cuts, small[small <= shape[0]]]))
        x = np.abs(rng.standard_normal(shape)) * SPREAD
        if self.op == "segment_softmax":
            return x.astype(kind), offsets
        y = reference.segment_softmax(x, offsets) if kind.name in FLOATS else x
        return y.astype(kind), (x - SPREAD / 2).clip(*_range(kind)).astype(kind), offsets

    def errors(self, inputs: Arrays, axis: Axis, results: Arrays) -> Arrays:
        """Return the error of each element of each result, in the bound's unit.

        A sign or an index must be right: its error is 0 or infinite.
        """
        if self.judged is not None:
            return (self.judged(*inputs, axis, *results),)
        exact = self.exact(*inputs, axis)
        truths = exact if isinstance(exact, tuple) else (exact,)
        scales: Any = None
        factor = self._factor(inputs, axis)
        if self.magnitude is not None:
            with np.errstate(all="ignore"):
                scales = self.magnitude(*(a.astype(np.float64) for a in inputs), axis)
            scales = scales if isinstance(scales, tuple) else (scales,) * len(truths)
        found = []
        names = OPERATIONS[self.op].written
        for k, (result, truth) in enumerate(zip(results, truths, strict=True)):
            if result.shape != truth.shape:
                raise ValueError(f"{self.op}: shape {result.shape}, and not {truth.shape}")
            if names[k] in ("sign", "indices"):
                wrong = result.astype(np.float64) != truth.astype(np.float64)
                wrong &= ~(np.isnan(result.astype(np.float64)) & np.isnan(truth))
                found.append(np.where(wrong, np.inf, 0.0))
            else:
                mine = factor.reshape(truth.shape) if factor.size == truth.size else factor
                beside = self.beside(*inputs, axis) if self.beside else None
                scale = scales and scales[k]
                found.append(self._errors(inputs, result, truth, scale, mine, beside))
        return tuple(found)

    def _factor(self, inputs: Arrays, axis: Axis) -> Array:
        """Return, for each row, the largest number that a flushed one may be multiplied by."""
        if self.op.startswith("cross_entropy"):
            return np.asarray(losses.LARGEST)
        most: Any = 0.0
        segmented = OPERATIONS[self.op].segmented
        for name, array in zip(OPERATIONS[self.op].read, inputs, strict=True):
            if name not in ("x", "y", "logy", "offsets"):
                wide = np.abs(array.astype(np.float64))
                finite = np.where(np.isfinite(wide), wide, 0)
                of_row = finite.max(initial=0) if segmented else finite.max(axis, keepdims=True)
                most = np.maximum(most, of_row)
        return np.asarray(most)

    def _errors(
        self,
        inputs: Arrays,
        result: Array,
        truth: Array,
        scale: Array | None,
        factor: Array,
        beside: Array | None,
    ) -> Array:
        counted = (a for i, a in enumerate(inputs) if OPERATIONS[self.op].affects_compute_dtype(i))
        single = computes_in_single(*counted, result)
        ulps = reference.ulp_error(result, truth, flush_to_zero=single)
        if scale is None and not self.floor and beside is None:
            return ulps
        name = result.dtype.name
        with np.errstate(all="ignore"):
            error: Any = np.abs(result.astype(np.float64).astype(np.longdouble) - truth)
            excess: Any = error - (self.floor if name in NARROW else 0.0)
            excess = excess if beside is None else excess - beside
            if scale is None:
                units = ulps * (excess / error)
            else:
                if name in NARROW:  # the final rounding, half a unit in the last place
                    excess = excess - 0.5 * error / ulps
                excess = excess - np.longdouble(0.5) * _SMALLEST[name]
                if single:  # a subnormal operand or product may be flushed
                    excess = excess - float(np.finfo(np.float32).tiny) * (1 + factor)
                units = excess / (reference.unit_roundoff(name) * scale)
        fine = (ulps == 0) | (excess <= 0)
        return np.where(fine, 0.0, np.where(np.isnan(units), np.inf, units)).astype(np.float64)

    def worst(self, inputs: Arrays, axis: Axis, results: Arrays) -> float:
        """Return the worst error over the bound: at most 1 where the contract is kept."""
        errors = self.errors(inputs, axis, results)
        most = max(float(e.max(initial=0.0)) for e in errors)
        return most / self.bound[results[0].dtype.name]


def computes_in_single(*arrays: Array) -> bool:
    """Whether the kernel of these inputs and output computes in float32."""
    *inputs, out = (array.dtype.name for array in arrays)
    return compute_dtype(inputs, out) == "float32"


def _range(kind: np.dtype[Any]) -> tuple[float, float]:
    """Return what values may be clipped to: nothing below 0 where there is no sign."""
    return (-np.inf if kind.name in FLOATS else 0.0), np.inf


def _sum(values: Array, axis: Axis) -> Array:
    return np.asarray(values.sum(axis, keepdims=True))


def _product(y: Array, v: Array, axis: Axis) -> Array:
    return np.asarray(np.abs(y) * (np.abs(v) + _sum(np.abs(y * v), axis)))


def _segment_product(y: Array, v: Array, offsets: Array, axis: Axis) -> Array:
    return np.asarray(np.abs(y) * (np.abs(v) + reference.segment_sum(np.abs(y * v), offsets)))


def _vjp_vjp(y: Array, dy: Array, g: Array, axis: Axis) -> Arrays:
    of_y = np.abs(g) * (np.abs(dy) + _sum(np.abs(y * dy), axis))
    return of_y + np.abs(dy) * _sum(np.abs(y * g), axis), _product(y, g, axis)


def _hvp(y: Array, dy: Array, v: Array, axis: Axis) -> Array:
    of_dy, of_v = _sum(np.abs(y * dy), axis), _sum(np.abs(y * v), axis)
    both = _sum(np.abs(y * v * dy), axis) + of_v * of_dy
    return np.asarray(np.abs(y) * ((np.abs(v) + of_v) * (np.abs(dy) + of_dy) + both))


def _log_vjp(logy: Array, dy: Array, axis: Axis) -> Array:
    return np.asarray(np.abs(dy) + np.exp(logy) * _sum(np.abs(dy), axis))


def _log_jvp(logy: Array, xt: Array, axis: Axis) -> Array:
    return np.asarray(np.abs(xt) + _sum(np.exp(logy) * np.abs(xt), axis))


def _value_and_product(x: Array, v: Array, axis: Axis) -> Arrays:
    y = reference.softmax(x, axis)
    return y, _product(y, v, axis)


def _log_and_vjp(x: Array, dy: Array, axis: Axis) -> Arrays:
    logy = reference.log_softmax(x, axis)
    return np.abs(logy), _log_vjp(logy, dy, axis)


def _log_and_jvp(x: Array, xt: Array, axis: Axis) -> Arrays:
    logy = reference.log_softmax(x, axis)
    return np.abs(logy), _log_jvp(logy, xt, axis)


def _logsumexp(x: Array, axis: Axis) -> Array:
    """The maximum and the logarithm; the sum is at least 1, and carried in two words."""
    m = x.max(axis, initial=-np.inf)
    return np.asarray(np.abs(m) + np.abs(reference.logsumexp(x, axis) - m))


def _weighted(x: Array, b: Array, axis: Axis) -> Array:
    """The maximum, the logarithm, and what the sum loses by cancellation."""
    m = np.where(b == 0, -np.inf, x).max(axis, initial=-np.inf)
    value = reference.logsumexp(x, axis, b, return_sign=True)[0]
    return np.asarray(np.abs(m) + np.abs(value - m) + _condition(x, b, axis))


def _condition(x: Array, b: Array, axis: Axis) -> Array:
    gross = reference.logsumexp(x, axis, np.abs(b))
    net = reference.logsumexp(x, axis, b, return_sign=True)[0]
    return np.asarray(np.exp(gross - net))


def _logsumexp_vjp(x: Array, dy: Array, axis: Axis) -> Array:
    return np.asarray(np.abs(reference.softmax(x, axis) * dy))


def _weighted_vjp(x: Array, b: Array, dy: Array, axis: Axis) -> Array:
    gradient = np.abs(reference.logsumexp_vjp(x, dy, axis, b, keepdims=True))
    return np.asarray(gradient * _condition(x, b, axis).reshape(dy.shape))


def _ext(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return lambda *args: function(*args, extended=True, **options)


_FOUR_U = {"float16": 1.0, "bfloat16": 1.0, "float32": 4.0, "float64": 4.0}
_SOFTMAX = {"float16": 1.0, "bfloat16": 1.0, "float32": 3.0, "float64": 4.0}
# Of softmax's result, which is within its own bound, and of a product from the logits.
_VALUE = {"float16": 1.0, "bfloat16": 1.0, "float32": 8.0, "float64": 8.0}
_SCALED = {"float16": 1.0, "bfloat16": 1.0, "float32": 5.0, "float64": 5.0}  # one product more
_WEIGHTED_VJP = {"float16": 1.0, "bfloat16": 1.0, "float32": 6.0, "float64": 6.0}


def _of_logits(op: str) -> OperationContract:
    magnitude = transformed.magnitude(op)
    special = {"logsumexp_vjp": _WEIGHTED_VJP, "softmax": _SOFTMAX, "log_softmax": _SOFTMAX}
    source = OPERATIONS[op].source
    bound = _VALUE if "_value_and_" in source else special.get(source, _SCALED)
    return OperationContract(
        op,
        transformed.call(op),
        transformed.exact(op),
        "ulp" if magnitude is None else "u",
        bound,
        magnitude,
        floor=2.0**-22 if source == "log_softmax" or "log_softmax_value" in source else 0.0,
    )


def _selection(op: str, normalise: Any, most: int = 8) -> OperationContract:
    def k(x: Array, axis: int) -> int:
        return min(most, int(x.shape[axis]))

    return OperationContract(
        op,
        lambda x, axis: cs.topk_softmax(x, k(x, axis), axis, normalise),
        lambda x, axis: reference.topk_softmax(x, k(x, axis), axis, normalise, extended=True),
        "ulp",
        _SOFTMAX,
    )


CONTRACTS = {
    member.op: member
    for member in (
        OperationContract("softmax", cs.softmax, _ext(reference.softmax), "ulp", _SOFTMAX),
        OperationContract(
            "softmax_vjp", cs.softmax_vjp, _ext(reference.softmax_vjp), "u", _FOUR_U, _product
        ),
        OperationContract(
            "softmax_jacobian",
            lambda y, y_i, axis: cs.softmax_jacobian(y_i),
            lambda y, y_i, axis: reference.softmax_jacobian(y_i, extended=True),
            "ulp",
            {"float16": 0.51, "bfloat16": 0.51, "float32": 0.5, "float64": 0.5},
        ),
        OperationContract(
            "softmax_vjp_vjp",
            cs.softmax_vjp_vjp,
            _ext(reference.softmax_vjp_vjp),
            "u",
            _FOUR_U,
            _vjp_vjp,
        ),
        OperationContract(
            "softmax_hvp", cs.softmax_hvp, _ext(reference.softmax_hvp), "u", _FOUR_U, _hvp
        ),
        OperationContract(
            "log_softmax",
            cs.log_softmax,
            _ext(reference.log_softmax),
            "ulp",
            _SOFTMAX,
            floor=2.0**-22,  # of the sum, in float32 without a second word
        ),
        OperationContract(
            "log_softmax_vjp",
            cs.log_softmax_vjp,
            _ext(reference.log_softmax_vjp),
            "u",
            _FOUR_U,
            _log_vjp,
        ),
        OperationContract(
            "log_softmax_jvp",
            cs.log_softmax_jvp,
            _ext(reference.log_softmax_jvp),
            "u",
            _FOUR_U,
            _log_jvp,
        ),
        OperationContract(
            "softmax_value_and_vjp",
            cs.softmax_value_and_vjp,
            _ext(reference.softmax_value_and_vjp),
            "u",
            _VALUE,
            _value_and_product,
        ),
        OperationContract(
            "log_softmax_value_and_vjp",
            cs.log_softmax_value_and_vjp,
            _ext(reference.log_softmax_value_and_vjp),
            "u",
            _VALUE,
            _log_and_vjp,
            floor=2.0**-22,
        ),
        OperationContract(
            "log_softmax_value_and_jvp",
            cs.log_softmax_value_and_jvp,
            _ext(reference.log_softmax_value_and_jvp),
            "u",
            _VALUE,
            _log_and_jvp,
            floor=2.0**-22,
        ),
        OperationContract(
            "logsumexp", cs.logsumexp, _ext(reference.logsumexp), "u", _FOUR_U, _logsumexp
        ),
        OperationContract(
            "logsumexp_sign",
            lambda x, axis: cs.logsumexp(x, axis, return_sign=True),
            _ext(reference.logsumexp, return_sign=True),
            "u",
            _FOUR_U,
            _logsumexp,
        ),
        OperationContract(
            "logsumexp_b",
            lambda x, b, axis: cs.logsumexp(x, axis, b=b),
            lambda x, b, axis: reference.logsumexp(x, axis, b, extended=True),
            "u",
            _FOUR_U,
            _weighted,
        ),
        OperationContract(
            "logsumexp_b_sign",
            lambda x, b, axis: cs.logsumexp(x, axis, b=b, return_sign=True),
            lambda x, b, axis: reference.logsumexp(x, axis, b, return_sign=True, extended=True),
            "u",
            _FOUR_U,
            _weighted,
        ),
        OperationContract(
            "logsumexp_vjp",
            lambda x, dy, axis: cs.logsumexp_vjp(x, dy, axis, keepdims=True),
            lambda x, dy, axis: reference.logsumexp_vjp(x, dy, axis, keepdims=True, extended=True),
            "u",
            _FOUR_U,
            _logsumexp_vjp,
        ),
        OperationContract(
            "logsumexp_b_vjp",
            lambda x, b, dy, axis: cs.logsumexp_vjp(x, dy, axis, keepdims=True, b=b),
            lambda x, b, dy, axis: reference.logsumexp_vjp(
                x, dy, axis, b, keepdims=True, extended=True
            ),
            "u",
            _WEIGHTED_VJP,
            _weighted_vjp,
        ),
        *(
            OperationContract(
                op,
                *(losses.call(op), losses.exact(op), "u"),
                _FOUR_U,
                losses.magnitude(op),
                floor=2.0**-22,  # of the logarithm, in float32 without a second word
            )
            for op in OPERATIONS
            if op.startswith("cross_entropy")
        ),
        OperationContract(
            "segment_softmax",
            lambda x, offsets, axis: cs.segment_softmax(x, offsets),
            lambda x, offsets, axis: reference.segment_softmax(x, offsets, extended=True),
            "ulp",
            _SOFTMAX,
        ),
        OperationContract(
            "segment_softmax_vjp",
            lambda y, dy, offsets, axis: cs.segment_softmax_vjp(y, dy, offsets),
            lambda y, dy, offsets, axis: reference.segment_softmax_vjp(
                y, dy, offsets, extended=True
            ),
            "u",
            _FOUR_U,
            _segment_product,
        ),
        _selection("topk_softmax", "row"),
        _selection("topk_softmax_gates", "topk"),
        OperationContract(
            "gumbel_softmax",
            sampling.softmax,
            sampling.softmax_exact,
            "ulp",
            _SOFTMAX,
            beside=sampling.softmax_beside,
        ),
        OperationContract(
            "sample",
            sampling.sample,
            sampling.sample_exact,
            "u",
            {"int64": 4.0},
            judged=sampling.sample_errors,
        ),
        *(_of_logits(op) for op in OPERATIONS if transformed.transforms(op)),
    )
}
