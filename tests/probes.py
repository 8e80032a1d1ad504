"""Small calls on the emulator, and what the tests' checks find wrong with their results.

They are judged as everywhere in the tests: by the emulator itself, by the error bounds, and by the
bits of the same row elsewhere. `mutations` runs them on broken kernels.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np

import cusoftmax as cs
from cusoftmax import emulator, reference
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.operations.table import OPERATIONS
from tests.support import (
    assert_kept,
    bits,
    blocks_of_each_launch,
    check_softmax,
    check_vjp,
    dtype_of,
    kind,
    planned,
)

# What the emulator says, and what that is called. The first that fits.
FAULT_KINDS = (
    ("race at", "race"),
    ("that nobody wrote", "read of unwritten shared memory"),
    ("leaves the group", "shuffle out of its group"),
    ("twice without", "cluster barrier out of step"),
    ("without cluster_arrive", "cluster barrier out of step"),
    ("of some lanes only", "collective of some lanes"),
    ("divergent", "divergence"),
    ("remote store", "remote store to a finished block"),
    ("has not published", "bulk copy of what is not published"),
    ("bulk copies have finished", "bulk copies not finished"),
    ("of bulk copies that have", "bulk copy of another size"),
    ("second time", "element written twice"),
    ("never written", "element not written"),
    ("out of bounds", "out of bounds"),
    ("misaligned", "misaligned access"),
    ("but the parameter has", "argument of another size"),
    ("between the elements", "out of bounds"),
    ("which is for", "out of bounds"),  # in bounds of another array, but not for that
)


# ---- the rows of a probe ----


def _normal(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.normal(0, 3, n)


def _masked(n: int, rng: np.random.Generator) -> np.ndarray:
    """Whole chunks of −inf."""
    x = rng.normal(0, 3, n)
    x[: n // 2] = -np.inf
    return x


def _far(n: int, rng: np.random.Generator) -> np.ndarray:
    """Far from 0: exp(x) overflows."""
    return rng.normal(1000, 30, n)


def _tall(n: int, rng: np.random.Generator) -> np.ndarray:
    """One large term, and small ones that a sum without a low part loses one by one."""
    x = np.full(n, -np.inf)
    places = np.concatenate([1 << np.arange(n.bit_length() - 1), np.arange(128, n, 128)])
    x[places] = -24.02 * np.log(2)
    x[0] = 0
    return x


def _lone(n: int, rng: np.random.Generator) -> np.ndarray:
    """One large term, and others whose lanes' sums are all rounded to 0 beside it."""
    x = rng.normal(-12.8, 0.1, n)
    x[0] = 0
    return x


def _wide(n: int, rng: np.random.Generator) -> np.ndarray:
    """Both signs and far apart: x − m is not a float."""
    return rng.normal(0, 20, n)


def _steep(n: int, rng: np.random.Generator) -> np.ndarray:
    """Results down to the smallest float32."""
    return rng.normal(0, 30, n)


def _cliff(n: int, rng: np.random.Generator) -> np.ndarray:
    """The second half so far below that float32 just holds its results."""
    x = -rng.random(n)
    x[n // 2 :] -= 79
    return x


def _abyss(n: int, rng: np.random.Generator) -> np.ndarray:
    """The same for float64."""
    x = _cliff(n, rng)
    x[n // 2 :] -= 700 - 79
    return x


def _huge(n: int, rng: np.random.Generator) -> np.ndarray:
    """On both sides of the least logits that exponentials are formed of after a shift."""
    x = rng.normal(2.0**18, 3, n)
    x[n // 2 :] -= 20
    return x


def _near(n: int, rng: np.random.Generator) -> np.ndarray:
    """Nearly equal: as `dy`, the difference to the dot product shows each bit of that.

    Large, so that products with the smallest `y` are no subnormal float16.
    """
    return rng.normal(30000, 40, n)


def _infinite(n: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(0, 3, n)
    x[n // 3] = np.inf
    return x


def _others(n: int, rng: np.random.Generator) -> np.ndarray:
    """One logit dominates, and of the others one does, in every chunk that has a small one."""
    x = np.full(n, -np.inf)
    places = [1 << k for k in range(n.bit_length() - 1)]
    x[[*places, *range(1, min(n, 16)), *range(96, n, 32)]] = -64.02 * np.log(2)
    x[0] = -40 * np.log(2) + 1e-4
    x[n // 2 + 3] = 0
    x[n // 3] = -33
    return x


def _infinities(n: int, rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(0, 3, n)
    x[[n // 3, n - 1]] = np.inf
    return x


def _undefined(n: int, rng: np.random.Generator) -> np.ndarray:
    """About every second row has a NaN."""
    x = rng.normal(0, 3, n)
    if rng.random() < 0.5:
        x[n // 3] = np.nan
    return x


def _level(n: int, rng: np.random.Generator) -> np.ndarray:
    """The best are in the first of eight lanes, later ones better in the last bits of float32."""
    x = rng.normal(-10, 1, n)
    first = np.arange(n) % 32 < 4
    x[first] = 1 + np.arange(first.sum()) * 2.0**-23
    return x


ROWS: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "normal": _normal,
    "masked": _masked,
    "far": _far,
    "wide": _wide,
    "steep": _steep,
    "cliff": _cliff,
    "abyss": _abyss,
    "huge": _huge,
    "near": _near,
    "tall": _tall,
    "lone": _lone,
    "infinite": _infinite,
    "infinities": _infinities,
    "others": _others,
    "undefined": _undefined,
    "level": _level,
}


@dataclasses.dataclass(frozen=True)
class Probe:
    """A call on the emulator.

    Attributes
    ----------
    kind : str
        The plan that is meant, as `support.kind` names it.
    op, dtype, shape, axis, arch : str, str, tuple of int, int, str
        What is called, on what. ``axis`` is 0 or -1 of two.
    rows : str
        How a row is drawn, see `ROWS`; ``"zeros"`` for an array that takes no memory.
    misalign : int
        Bytes by which the arrays are off 512.
    grid : int
        Blocks of each launch at most, or clusters; 0 for the plan's.
    only : tuple of int
        The only blocks that are run, from 0 on; as many rows are then judged.
    twin : Probe or None
        A call whose rows, as far as both have them, must have the same bits.
    code : str
        What the emulator runs: ``"source"`` or ``"ptx"``.
    """

    kind: str
    op: str
    dtype: str
    shape: tuple[int, int]
    axis: int = -1
    arch: str = "sm_90"
    rows: str = "normal"
    misalign: int = 0
    grid: int = 0
    only: tuple[int, ...] = ()
    twin: Probe | None = None
    code: str = "source"


SEEDS = (0, 1, 2)


def finding(probe: Probe, seeds: tuple[int, ...] = SEEDS) -> str | None:
    """Return what is wrong with a probe's results, by the check that says so, or None."""
    try:
        for seed in seeds[: 1 if probe.only else None]:
            result, inputs = _results(probe, seed)
            if probe.op not in ("softmax", "softmax_vjp"):
                pass  # judged with all its results
            elif probe.rows != "zeros":
                _judge(probe, result, inputs)
            elif np.any(result[-1] != result.dtype.type(1 / probe.shape[1])):
                return "wrong values"
            if probe.twin is not None:
                twin, _ = _results(probe.twin, seed)
                both = _judged(probe, result), _judged(probe.twin, twin)
                shared = min(map(len, both))
                if not np.array_equal(bits(both[0][:shared]), bits(both[1][:shared])):
                    return "bits of the same row elsewhere"
    except emulator.KernelError as error:
        return next((kind for text, kind in FAULT_KINDS if text in str(error)), str(error))
    except AssertionError as error:
        text = str(error)
        return "special values" if "inf of the bound" in text else "error bound"
    return None


def plan_kind(probe: Probe) -> str:
    """Return the kind of the plan that a probe runs."""
    return kind(planned(probe.op, probe.dtype, probe.shape, probe.axis, probe.arch))


def _judged(probe: Probe, array: np.ndarray) -> np.ndarray:
    """Return the rows that were computed, one below the other."""
    rows = array if probe.axis == -1 else array.T
    return rows[: len(probe.only)] if probe.only else rows


def _results(probe: Probe, seed: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    with (
        emulator.activate(probe.arch, seed, probe.code),
        blocks_of_each_launch(probe.grid),
    ):
        if probe.rows == "zeros":
            x = emulator.sparse(probe.shape, probe.dtype)
            out = emulator.sparse(probe.shape, probe.dtype)
            with emulator.only_blocks(probe.only):
                cs.softmax(x, axis=probe.axis, out=out)
            return emulator.asnumpy(out[-1:]), ()
        if probe.op not in ("softmax", "softmax_vjp"):
            return _of_family(probe)
        inputs = _inputs(probe)
        given = [emulator.asarray(a, probe.misalign) for a in inputs]
        out = emulator.asarray(np.zeros(probe.shape, inputs[0].dtype), probe.misalign)
        with emulator.only_blocks(probe.only) if probe.only else contextlib.nullcontext():
            getattr(cs, probe.op)(*given, axis=probe.axis, out=out)
        return emulator.asnumpy(out), inputs


def _of_family(probe: Probe) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Draw, call and judge as the family's table says."""
    member, rng = CONTRACTS[probe.op], np.random.default_rng(0)
    inputs = member.draw(rng, probe.shape, probe.axis, dtype_of(probe.dtype))
    if probe.rows != "normal":  # the first input; a class is that of the largest logit
        x = _inputs(dataclasses.replace(probe, op="softmax"))[0]
        largest = np.expand_dims(x.argmax(probe.axis), probe.axis)
        read = zip(OPERATIONS[probe.op].read[1:], inputs[1:], strict=True)
        inputs = (x, *(largest if name == "target" else given for name, given in read))
    got = member.call(*(emulator.asarray(a) for a in inputs), axis=probe.axis)
    results = tuple(emulator.asnumpy(a) for a in (got if isinstance(got, tuple) else (got,)))
    assert_kept(member, inputs, probe.axis, results)
    return results[0], inputs


def _inputs(probe: Probe) -> tuple[np.ndarray, ...]:
    """Rows that are the same in a batch of any size."""
    count, n = probe.shape if probe.axis == -1 else probe.shape[::-1]
    draw, dtype = ROWS[probe.rows], dtype_of(probe.dtype)

    def batch(salt: int, draw: Callable[[int, np.random.Generator], np.ndarray]) -> np.ndarray:
        drawn = [draw(n, np.random.default_rng((salt, i))).astype(dtype) for i in range(count)]
        whole = np.stack(drawn)
        return whole if probe.axis == -1 else np.ascontiguousarray(whole.T)

    given = batch(0, draw)
    if probe.op == "softmax":
        return (given,)
    return reference.softmax(batch(1, _normal), probe.axis).astype(dtype), given


def _judge(probe: Probe, result: np.ndarray, inputs: tuple[np.ndarray, ...]) -> None:
    rows = [_judged(probe, array) for array in (result, *inputs)]
    (check_softmax if probe.op == "softmax" else check_vjp)(*rows)
