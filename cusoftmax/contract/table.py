"""The contract of every operation: how to draw inputs, the public call, the truth, and the bound.

`cusoftmax check`, the tests and the benchmarks use this table, so an operation in it is tested
everywhere. The bounds are the numerical contract (docs/guide/numbers.md). Errors are in the unit of
the bound:

- ``"ulp"``: units in the last place of the result;
- ``"u"``: unit roundoffs of the output dtype times the magnitude that the operation's formula
  rounds; 16-bit dtypes may add the final rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import cusoftmax as cs
from cusoftmax import reference
from cusoftmax.contract import logits as transformed
from cusoftmax.contract import losses, sampling
from cusoftmax.contract.special import SPECIAL, VECTORS, Rows
from cusoftmax.contract.verdict import Verdict
from cusoftmax.operations.dtypes import FLOATS, compute_dtype
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.checks import Axis, resolve_axes

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = tuple[Array, ...]

NARROW = ("float16", "bfloat16")
CORRECTLY_ROUNDED = 0.999  # of 16-bit softmax results, at least
_SMALLEST_SUBNORMAL = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-133,
    "float32": 2.0**-149,
    "float64": 2.0**-1074,
}
SPREAD = 10.0  # standard deviation of drawn logits


@dataclass(frozen=True)
class OperationContract:
    """One operation's inputs, truth, and bound.

    Attributes
    ----------
    op : str
        Its name in `OPERATIONS`; inputs are in the order of its ``read``.
    call : callable
        The public function, ``call(*inputs, axis=)``; with ``out=`` if that has it.
    exact : callable
        The reference in extended precision, ``exact(*inputs, axis)``; a tuple if there are several
        results.
    unit : {"ulp", "u"}
        Unit of the bound.
    bound : dict
        Largest error allowed, by output dtype.
    magnitude : callable, optional
        For the unit ``"u"``: what to multiply the roundoff by, ``magnitude(*inputs, axis)`` of
        inputs in extended precision, as a bound of subnormal float64 results is no float64 number;
        a tuple if results differ in it.
    tolerance : callable, optional
        Additional absolute tolerance of each element, ``tolerance(*inputs, axis)``.
    judged_by : callable, optional
        Replaces the comparison with `exact`: returns the errors,
        ``judged_by(*inputs, axis, result)``.
    either : tuple of str
        Inputs of which an infinity makes results infinite or NaN, and the contract does not say
        which: that depends on the order in which the products are summed.
    """

    op: str
    call: Callable[..., Any]
    exact: Callable[..., Any]
    unit: str
    bound: dict[str, float]
    magnitude: Callable[..., Array | Arrays] | None = None
    tolerance: Callable[..., Array] | None = None
    judged_by: Callable[..., Array] | None = None
    either: tuple[str, ...] = ()

    @staticmethod
    def special(name: str) -> Rows:
        """Return the special values that an input may have, by what they are."""
        return SPECIAL.get(name, VECTORS)

    def draw(
        self, rng: np.random.Generator, shape: tuple[int, ...], axis: Axis, dtype: Any
    ) -> Arrays:
        """Return random inputs: normal logits, or results of softmax, and normal gradients."""
        kind = np.dtype(dtype)
        if self.op == "softmax_jacobian":  # one row for each n x n matrix
            (y,) = CONTRACTS["softmax_vjp"].draw(rng, shape[:-1], -1, dtype)[:1]
            return np.broadcast_to(y[..., None, :], shape), y
        if self.op.startswith("cross_entropy"):
            return losses.draw(self.op, rng, shape, axis, kind)
        if OPERATIONS[self.op].segmented:  # segments lie along the first axis
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
            if kind.name not in FLOATS:  # unsigned dtypes have no sign
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
        """Return inputs with segments of all sizes; many are of up to 64 elements."""
        cuts = np.concatenate([[0, shape[0]], rng.integers(0, shape[0] + 1, 4)])
        small = rng.integers(0, 65, shape[0] // 64).cumsum()
        offsets = np.sort(np.concatenate([cuts, small[small <= shape[0]]]))
        x = np.abs(rng.standard_normal(shape)) * SPREAD
        if self.op == "segment_softmax":
            return x.astype(kind), offsets
        y = reference.segment_softmax(x, offsets) if kind.name in FLOATS else x
        return y.astype(kind), (x - SPREAD / 2).clip(*_range(kind)).astype(kind), offsets

    def truths(self, inputs: Arrays, axis: Axis) -> Arrays:
        """Return each result in extended precision."""
        exact = self.exact(*inputs, axis)
        return exact if isinstance(exact, tuple) else (exact,)

    def errors(
        self, inputs: Arrays, axis: Axis, results: Arrays, truths: Arrays | None = None
    ) -> Arrays:
        """Return the error of each element of each result, in the bound's unit.

        The error of a sign or an index is 0 or infinite. `truths` are computed if not given.
        """
        if self.judged_by is not None:
            return (self.judged_by(*inputs, axis, *results),)
        truths = truths or self.truths(inputs, axis)
        magnitudes: Any = None
        factor = self._factor(inputs, axis)
        if self.magnitude is not None:
            with np.errstate(all="ignore"):
                wide = (a.astype(np.float64).astype(np.longdouble) for a in inputs)
                magnitudes = self.magnitude(*wide, axis)
            if not isinstance(magnitudes, tuple):
                magnitudes = (magnitudes,) * len(truths)
        found = []
        names = OPERATIONS[self.op].written
        for k, (result, truth) in enumerate(zip(results, truths, strict=True)):
            if result.shape != truth.shape:
                raise ValueError(
                    f"{self.op}: the result has shape {result.shape}, not {truth.shape}"
                )
            if names[k] in ("sign", "indices"):
                wrong = result.astype(np.float64) != truth.astype(np.float64)
                wrong &= ~(np.isnan(result.astype(np.float64)) & np.isnan(truth))
                found.append(np.where(wrong, np.inf, 0.0))
            else:
                of_rows = factor.reshape(truth.shape) if factor.size == truth.size else factor
                tolerance = self.tolerance(*inputs, axis) if self.tolerance else None
                magnitude = magnitudes and magnitudes[k]
                errors = self._errors(inputs, result, truth, magnitude, of_rows, tolerance)
                unsettled = self._unsettled(inputs, axis) & ~np.isfinite(result)
                found.append(np.where(unsettled & ~np.isfinite(truth), 0.0, errors))
        return tuple(found)

    def _unsettled(self, inputs: Arrays, axis: Axis) -> Array:
        """Return the rows in which an infinity of one of the inputs `either` stands."""
        rows = np.asarray(False)
        for name, array in zip(OPERATIONS[self.op].read, inputs, strict=True):
            if name in self.either:
                rows = rows | np.isinf(array).any(axis, keepdims=True)
        return rows

    def _factor(self, inputs: Arrays, axis: Axis) -> Array:
        """Return, for each row, the largest factor that may multiply a number flushed to zero."""
        if self.op.startswith("cross_entropy"):
            return np.asarray(losses.LARGEST)
        most: Any = 0.0
        segmented = OPERATIONS[self.op].segmented
        for name, array in zip(OPERATIONS[self.op].read, inputs, strict=True):
            if name not in ("x", "y", "logy", "offsets"):
                wide = np.abs(array.astype(np.float64))
                finite = np.where(np.isfinite(wide), wide, 0)
                along = None if segmented else axis
                of_row = finite.max(along, keepdims=not segmented, initial=0)
                most = np.maximum(most, of_row)
        if self.op == "softmax_vjp":  # y_i is, of its own product alone
            y, dy = (array.astype(np.float64) for array in inputs)
            with np.errstate(all="ignore"):
                most = np.minimum(most, np.abs(dy) + _row_sum(np.abs(y * dy), axis))
        return np.asarray(most)

    def _errors(
        self,
        inputs: Arrays,
        result: Array,
        truth: Array,
        magnitude: Array | None,
        factor: Array,
        tolerance: Array | None,
    ) -> Array:
        counted = (a for i, a in enumerate(inputs) if OPERATIONS[self.op].affects_compute_dtype(i))
        single = computes_in_single(*counted, result)
        name = result.dtype.name
        most = float(ml_dtypes.finfo(result.dtype).max)  # type: ignore[no-untyped-call]
        with np.errstate(all="ignore"):  # what the dtype cannot hold is what rounding makes of it
            rounded = truth.astype(result.dtype).astype(truth.dtype)
            truth = np.where(np.abs(truth) > most, rounded, truth)
        # float16 has subnormal numbers that are normal ones of float32.
        ulps = reference.ulp_error(result, truth, flush_to_zero=single and name != "float16")
        if magnitude is None and tolerance is None:
            return ulps
        with np.errstate(all="ignore"):
            error: Any = np.abs(result.astype(np.float64).astype(np.longdouble) - truth)
            excess: Any = error if tolerance is None else error - tolerance
            if magnitude is None:
                units = ulps * (excess / error)
            else:
                if name in NARROW:  # the final rounding: half a unit in the last place
                    excess = excess - 0.5 * error / ulps
                excess = excess - underflow(name, factor if single else None)
                units = excess / (
                    reference.unit_roundoff(name) * np.asarray(magnitude, excess.dtype)
                )
        within = (ulps == 0) | (excess <= 0)
        return np.where(within, 0.0, np.where(np.isnan(units), np.inf, units)).astype(np.float64)

    def judge(self, inputs: Arrays, axis: Axis, results: Arrays) -> Verdict:
        """Return the worst element of the results of a call."""
        truths = self.truths(inputs, axis)
        errors = self.errors(inputs, axis, results, truths)
        most = [float(error.max(initial=0.0)) for error in errors]
        k = most.index(max(most))
        index: tuple[int, ...] = ()
        got = want = np.nan
        if errors[k].size:
            index = tuple(map(int, np.unravel_index(int(errors[k].argmax()), errors[k].shape)))
            got, want = float(results[k][index]), float(truths[k][index])
        dtype = results[0].dtype.name
        name = OPERATIONS[self.op].written[k]
        return Verdict(
            self.op, dtype, name, index, got, want, most[k], self.bound[dtype], self.unit
        )

    def worst(self, inputs: Arrays, axis: Axis, results: Arrays) -> float:
        """Return the worst error over the bound: at most 1 where the contract is kept."""
        return self.judge(inputs, axis, results).over


def underflow(dtype: str, factor: Array | None) -> Array:
    """Return the additional tolerance for what is too small for a dtype.

    Half of the smallest number, and where float32 computes, what is too small for a normal number
    of that and is flushed: a result, and an operand in front of its `factor`.
    """
    lost = np.asarray(np.longdouble(0.5) * _SMALLEST_SUBNORMAL[dtype])
    return lost if factor is None else lost + float(np.finfo(np.float32).tiny) * (1 + factor)


def computes_in_single(*arrays: Array) -> bool:
    """Whether the kernel of these inputs and output computes in float32."""
    *inputs, out = (array.dtype.name for array in arrays)
    return compute_dtype(inputs, out) == "float32"


def _range(kind: np.dtype[Any]) -> tuple[float, float]:
    """Return the range of values to draw: not below 0 for integers, which may be unsigned."""
    return (-np.inf if kind.name in FLOATS else 0.0), np.inf


def _row_sum(values: Array, axis: Axis) -> Array:
    return np.asarray(values.sum(axis, keepdims=True))


def _vjp_magnitude(y: Array, v: Array, axis: Axis) -> Array:
    return np.asarray(np.abs(y) * (np.abs(v) + _row_sum(np.abs(y * v), axis)))


def _segment_vjp_magnitude(y: Array, v: Array, offsets: Array, axis: Axis) -> Array:
    return np.asarray(np.abs(y) * (np.abs(v) + reference.segment_sum(np.abs(y * v), offsets)))


def _vjp_vjp_magnitude(y: Array, dy: Array, g: Array, axis: Axis) -> Arrays:
    of_y = np.abs(g) * (np.abs(dy) + _row_sum(np.abs(y * dy), axis))
    return of_y + np.abs(dy) * _row_sum(np.abs(y * g), axis), _vjp_magnitude(y, g, axis)


def _hvp_magnitude(y: Array, dy: Array, v: Array, axis: Axis) -> Array:
    of_dy, of_v = _row_sum(np.abs(y * dy), axis), _row_sum(np.abs(y * v), axis)
    both = _row_sum(np.abs(y * v * dy), axis) + of_v * of_dy
    return np.asarray(np.abs(y) * ((np.abs(v) + of_v) * (np.abs(dy) + of_dy) + both))


def _log_vjp_magnitude(logy: Array, dy: Array, axis: Axis) -> Array:
    return np.asarray(np.abs(dy) + np.exp(logy) * _row_sum(np.abs(dy), axis))


def _log_jvp_magnitude(logy: Array, xt: Array, axis: Axis) -> Array:
    return np.asarray(np.abs(xt) + _row_sum(np.exp(logy) * np.abs(xt), axis))


def _value_and_product_magnitude(x: Array, v: Array, axis: Axis) -> Arrays:
    y = reference.softmax(x, axis, extended=True)
    return y, np.asarray(np.abs(y) * (np.abs(v) + _row_sum(np.abs(y * v), axis)))


def _log_and_vjp_magnitude(x: Array, dy: Array, axis: Axis) -> Arrays:
    logy = reference.log_softmax(x, axis, extended=True)
    return np.abs(logy), _log_vjp_magnitude(logy, dy, axis)


def _log_and_jvp_magnitude(x: Array, xt: Array, axis: Axis) -> Arrays:
    logy = reference.log_softmax(x, axis, extended=True)
    return np.abs(logy), _log_jvp_magnitude(logy, xt, axis)


def _logsumexp_magnitude(x: Array, axis: Axis) -> Array:
    """Of the maximum and of the logarithm; the sum is at least 1, and has two words."""
    m = x.max(axis, initial=-np.inf)
    return np.asarray(np.abs(m) + np.abs(reference.logsumexp(x, axis) - m))


def _weighted_magnitude(x: Array, b: Array, axis: Axis) -> Array:
    """Of the maximum, of the logarithm, and what cancellation in the sum costs."""
    m = np.where(b == 0, -np.inf, x).max(axis, initial=-np.inf)
    value = reference.logsumexp(x, axis, b, return_sign=True)[0]
    return np.asarray(np.abs(m) + np.abs(value - m) + _condition(x, b, axis))


def _condition(x: Array, b: Array, axis: Axis) -> Array:
    """The condition number of the weighted sum: the sum of absolute values over that of values."""
    gross = reference.logsumexp(x, axis, np.abs(b))
    net = reference.logsumexp(x, axis, b, return_sign=True)[0]
    return np.asarray(np.exp(gross - net))


def _logsumexp_vjp_magnitude(x: Array, dy: Array, axis: Axis) -> Array:
    return np.abs(reference.logsumexp_vjp(x, dy, axis, keepdims=True, extended=True))


def _weighted_vjp_magnitude(x: Array, b: Array, dy: Array, axis: Axis) -> Array:
    gradient = np.abs(reference.logsumexp_vjp(x, dy, axis, b, keepdims=True, extended=True))
    return np.asarray(gradient * _condition(x, b, axis).reshape(dy.shape))


def _extended(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return lambda *args: function(*args, extended=True, **options)


_FOUR_U = {"float16": 1.0, "bfloat16": 1.0, "float32": 4.0, "float64": 4.0}
_SOFTMAX = {"float16": 1.0, "bfloat16": 1.0, "float32": 3.0, "float64": 4.0}
_VALUE_AND_PRODUCT = {"float16": 1.0, "bfloat16": 1.0, "float32": 8.0, "float64": 8.0}
_SCALED_PRODUCT = {
    "float16": 1.0,
    "bfloat16": 1.0,
    "float32": 5.0,
    "float64": 5.0,
}  # one more product
_WEIGHTED_VJP = {"float16": 1.0, "bfloat16": 1.0, "float32": 6.0, "float64": 6.0}


def _of_logits(op: str) -> OperationContract:
    magnitude = transformed.magnitude(op)
    special = {"logsumexp_vjp": _WEIGHTED_VJP, "softmax": _SOFTMAX, "log_softmax": _SOFTMAX}
    source = OPERATIONS[op].source
    bound = _VALUE_AND_PRODUCT if "_value_and_" in source else special.get(source, _SCALED_PRODUCT)
    return OperationContract(
        op,
        transformed.call(op),
        transformed.exact(op),
        "ulp" if magnitude is None else "u",
        bound,
        magnitude,
    )


def _selection(op: str, normalise: Any, most: int = 8) -> OperationContract:
    def k(x: Array, axis: int) -> int:
        return max(1, min(most, int(x.shape[axis])))

    return OperationContract(
        op,
        lambda x, axis, **out: cs.topk_softmax(x, k(x, axis), axis, normalise, **out),
        lambda x, axis: reference.topk_softmax(x, k(x, axis), axis, normalise, extended=True),
        "ulp",
        _SOFTMAX,
    )


CONTRACTS = {
    contract.op: contract
    for contract in (
        OperationContract("softmax", cs.softmax, _extended(reference.softmax), "ulp", _SOFTMAX),
        OperationContract(
            "softmax_vjp",
            cs.softmax_vjp,
            _extended(reference.softmax_vjp),
            "u",
            _FOUR_U,
            _vjp_magnitude,
        ),
        OperationContract(
            "softmax_jacobian",
            lambda y, y_i, axis, **out: cs.softmax_jacobian(y_i, **out),
            lambda y, y_i, axis: reference.softmax_jacobian(y_i, extended=True),
            "ulp",
            # Rounded once. The sum of the others is a double word, whose low word's product has an
            # error of 2^-24 (2^-53) of itself: less than 0.001 ulp.
            {"float16": 0.51, "bfloat16": 0.51, "float32": 0.501, "float64": 0.501},
        ),
        OperationContract(
            "softmax_vjp_vjp",
            cs.softmax_vjp_vjp,
            _extended(reference.softmax_vjp_vjp),
            "u",
            _FOUR_U,
            _vjp_vjp_magnitude,
        ),
        OperationContract(
            "softmax_hvp",
            cs.softmax_hvp,
            _extended(reference.softmax_hvp),
            "u",
            _FOUR_U,
            _hvp_magnitude,
            either=("dy", "v"),
        ),
        OperationContract(
            "log_softmax",
            cs.log_softmax,
            _extended(reference.log_softmax),
            "ulp",
            _SOFTMAX,
        ),
        OperationContract(
            "log_softmax_vjp",
            cs.log_softmax_vjp,
            _extended(reference.log_softmax_vjp),
            "u",
            _FOUR_U,
            _log_vjp_magnitude,
        ),
        OperationContract(
            "log_softmax_jvp",
            cs.log_softmax_jvp,
            _extended(reference.log_softmax_jvp),
            "u",
            _FOUR_U,
            _log_jvp_magnitude,
        ),
        OperationContract(
            "softmax_value_and_vjp",
            cs.softmax_value_and_vjp,
            _extended(reference.softmax_value_and_vjp),
            "u",
            _VALUE_AND_PRODUCT,
            _value_and_product_magnitude,
        ),
        OperationContract(
            "log_softmax_value_and_vjp",
            cs.log_softmax_value_and_vjp,
            _extended(reference.log_softmax_value_and_vjp),
            "u",
            _VALUE_AND_PRODUCT,
            _log_and_vjp_magnitude,
        ),
        OperationContract(
            "log_softmax_value_and_jvp",
            cs.log_softmax_value_and_jvp,
            _extended(reference.log_softmax_value_and_jvp),
            "u",
            _VALUE_AND_PRODUCT,
            _log_and_jvp_magnitude,
        ),
        OperationContract(
            "logsumexp",
            cs.logsumexp,
            _extended(reference.logsumexp),
            "u",
            _FOUR_U,
            _logsumexp_magnitude,
        ),
        OperationContract(
            "logsumexp_sign",
            lambda x, axis, **out: cs.logsumexp(x, axis, return_sign=True, **out),
            _extended(reference.logsumexp, return_sign=True),
            "u",
            _FOUR_U,
            _logsumexp_magnitude,
        ),
        OperationContract(
            "logsumexp_b",
            lambda x, b, axis, **out: cs.logsumexp(x, axis, b=b, **out),
            lambda x, b, axis: reference.logsumexp(x, axis, b, extended=True),
            "u",
            _FOUR_U,
            _weighted_magnitude,
        ),
        OperationContract(
            "logsumexp_b_sign",
            lambda x, b, axis, **out: cs.logsumexp(x, axis, b=b, return_sign=True, **out),
            lambda x, b, axis: reference.logsumexp(x, axis, b, return_sign=True, extended=True),
            "u",
            _FOUR_U,
            _weighted_magnitude,
        ),
        OperationContract(
            "logsumexp_vjp",
            lambda x, dy, axis, **out: cs.logsumexp_vjp(x, dy, axis, keepdims=True, **out),
            lambda x, dy, axis: reference.logsumexp_vjp(x, dy, axis, keepdims=True, extended=True),
            "u",
            _FOUR_U,
            _logsumexp_vjp_magnitude,
        ),
        OperationContract(
            "logsumexp_b_vjp",
            lambda x, b, dy, axis, **out: cs.logsumexp_vjp(x, dy, axis, keepdims=True, b=b, **out),
            lambda x, b, dy, axis: reference.logsumexp_vjp(
                x, dy, axis, b, keepdims=True, extended=True
            ),
            "u",
            _WEIGHTED_VJP,
            _weighted_vjp_magnitude,
        ),
        *(
            OperationContract(
                op,
                *(losses.call(op), losses.exact(op), "u"),
                _FOUR_U,
                losses.magnitude(op),
            )
            for op in OPERATIONS
            if op.startswith("cross_entropy")
        ),
        OperationContract(
            "segment_softmax",
            lambda x, offsets, axis, **out: cs.segment_softmax(x, offsets, **out),
            lambda x, offsets, axis: reference.segment_softmax(x, offsets, extended=True),
            "ulp",
            _SOFTMAX,
        ),
        OperationContract(
            "segment_softmax_vjp",
            lambda y, dy, offsets, axis, **out: cs.segment_softmax_vjp(y, dy, offsets, **out),
            lambda y, dy, offsets, axis: reference.segment_softmax_vjp(
                y, dy, offsets, extended=True
            ),
            "u",
            _FOUR_U,
            _segment_vjp_magnitude,
        ),
        _selection("topk_softmax", "row"),
        _selection("topk_softmax_gates", "topk"),
        OperationContract(
            "gumbel_softmax",
            sampling.softmax,
            sampling.softmax_exact,
            "ulp",
            _SOFTMAX,
            tolerance=sampling.softmax_tolerance,
        ),
        OperationContract(
            "sample",
            sampling.sample,
            sampling.sample_exact,
            "u",
            {"int64": 4.0},
            judged_by=sampling.sample_errors,
        ),
        *(_of_logits(op) for op in OPERATIONS if transformed.transforms(op)),
    )
}
