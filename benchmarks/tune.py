"""Try other values of a number in planning/tuning.py, and propose its line with the evidence.

    python -m benchmarks.tune GROUP_THREADS --values 64,128,256

The problems timed are some of those whose plan depends on the value. All values are timed in turn
on the same arrays, the present one twice: the difference between its two times is the noise.
On the emulator this is a dry run: it shows that the code runs, and says nothing about speed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import ml_dtypes
import numpy as np

import cusoftmax as cs
from benchmarks.measuring.averages import geometric_mean
from benchmarks.measuring.devices import Device, open_device
from benchmarks.measuring.results import DRY_RUN_STAMP
from benchmarks.measuring.timing import Contender, Effort, on_device
from benchmarks.static.tuning_problems import (
    MAX_ARRAY_BYTES,
    NOT_TUNABLE,
    TuningProblem,
    affected,
    candidates,
    representative,
    tunable_names,
    tuned_to,
)
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.machine import first_line
from cusoftmax.planning import tuning as tuned
from cusoftmax.runtime import backend, launch

DRY_RUN_MAX_ARRAY_BYTES = 1 << 17
AGAIN = "again"  # name of the present value's second contender
JUDGED_ROWS = 4


@dataclass
class ProblemTimes:
    """A problem and the median seconds of each value, the present one's `again`."""

    problem: TuningProblem
    seconds: dict[int, float]
    again: float
    other_bits: set[int] = field(default_factory=set)  # values that change the result's bits


@dataclass(frozen=True)
class Proposal:
    """The value to use, and its line of cusoftmax/planning/tuning.py."""

    value: int
    row: str
    means: dict[int, float]  # of each value: geometric mean of its speed over the present one's
    noise: float


def propose(
    name: str, present: int, cells: Sequence[ProblemTimes], gpu: str, date: str
) -> Proposal:
    """Choose the value fastest on the geometric mean, if it gains more than the noise."""
    noise = max(abs(c.again / c.seconds[present] - 1) for c in cells)
    values = sorted(set.intersection(*(set(c.seconds) for c in cells)))
    means = {v: geometric_mean([c.seconds[present] / c.seconds[v] for c in cells]) for v in values}
    best = max(values, key=lambda v: means[v])
    beyond = means[best] - 1 > noise
    chosen = best if beyond else present
    tried = ", ".join(map(str, values))
    if beyond:
        ratios = [c.seconds[present] / c.seconds[best] for c in cells]
        said = (
            f"{means[best] - 1:+.1%} over {present} on the mean of {len(cells)} problems "
            f"({min(ratios) - 1:+.1%} to {max(ratios) - 1:+.1%}; noise {noise:.1%})"
        )
    else:
        others = {v: m for v, m in means.items() if v != present}
        said = "; ".join(f"{v}: {m - 1:+.1%}" for v, m in others.items())
        fastest = max(others.values(), default=0.0)
        why = "within the noise" if fastest > 1 - noise else "all slower"
        said = f"{why} ({noise:.1%}) on the mean of {len(cells)} problems: {said}"
    evidence = f"of {tried}: {said}; benchmarks/tune.py, {date}"
    return Proposal(chosen, f'{name} = Tuned({chosen}, "{gpu}", "{evidence}")', means, noise)


def measure(
    device: Device, name: str, values: Sequence[int], problem: TuningProblem, effort: Effort
) -> tuple[ProblemTimes | None, dict[int, str]]:
    """Time all values on a problem; also return why some could not be timed."""
    present = getattr(tuned, name)
    host = _inputs(problem)
    inputs, out = [device.upload(a) for a in host], device.upload(np.zeros_like(host[0]))
    failed: dict[int, str] = {}
    calls: dict[int, Callable[[], Any]] = {}
    bits: dict[int, bytes] = {}
    for value in values:
        try:
            calls[value] = _call_with(name, value, problem, inputs, out)
            device.fill_with_nan(out)
            calls[value]()
            bits[value] = _judged_bytes(device, problem, host, out)
        except Exception as error:  # the compiler's, the driver's or the emulator's
            failed[value] = first_line(error)
            calls.pop(value, None)
    if present not in calls:
        return None, failed
    contenders = [Contender(v, [c]) for v, c in calls.items()]
    contenders.append(Contender(AGAIN, [calls[present]]))
    before = launch._calls
    try:
        on_device(device, contenders, effort, evict=True)
    finally:
        launch._calls = before
    failed |= {c.name: c.failed for c in contenders if c.failed}
    times = {c.name: float(np.median(c.seconds)) for c in contenders if not c.failed}
    again = times.pop(AGAIN, None)
    if again is None or present not in times:
        return None, failed
    other = {v for v in times if bits[v] != bits[present]}
    return ProblemTimes(problem, times, again, other), failed


def _inputs(problem: TuningProblem) -> list[np.ndarray[Any, Any]]:
    """Return logits, or for the derivative about a softmax and a vector; numbers repeat."""
    dtype = np.dtype(ml_dtypes.bfloat16 if problem.dtype == "bfloat16" else problem.dtype)
    rng, size = np.random.default_rng(0), int(np.prod(problem.shape))
    drawn = rng.standard_normal(min(size, 1 << 22), np.float32).astype(dtype)
    x = np.resize(drawn, problem.shape)
    if problem.op == "softmax":
        return [x]
    n = problem.shape[problem.axis]
    y = np.resize(np.exp(drawn.astype(np.float64)) / (1.65 * n), problem.shape).astype(dtype)
    return [y, x]  # rows of y sum to about 1, which is enough for softmax_vjp


def _call_with(
    name: str, value: int, problem: TuningProblem, inputs: Sequence[Any], out: Any
) -> Callable[[], Any]:
    """Return a call planned with another value; its host overhead is that of any call."""
    function = getattr(cs, problem.op)
    with tuned_to(name, value):
        function(*inputs, axis=problem.axis, out=out)
        known = launch._calls

    def call() -> Any:
        launch._calls = known
        return function(*inputs, axis=problem.axis, out=out)

    return call


def _judged_bytes(
    device: Device, problem: TuningProblem, host: Sequence[np.ndarray[Any, Any]], out: Any
) -> bytes:
    """Return some rows of the result as bytes; raise if they exceed the contract's bound."""
    count = problem.shape[0] if problem.axis else problem.shape[1]
    chosen = sorted({i * (count - 1) // max(1, JUDGED_ROWS - 1) for i in range(JUDGED_ROWS)})
    got = device.fetch_rows(out, problem.axis, chosen)
    rows = [np.stack([a[i] if problem.axis else a[:, i] for i in chosen]) for a in host]
    worst = CONTRACTS[problem.op].worst(tuple(rows), -1, (got,))
    if not worst <= 1:
        raise ArithmeticError(f"wrong result: {worst:.3g} times the error allowed")
    return got.tobytes()


def main(argv: Sequence[str] | None = None) -> int:
    let_any_character_print()
    given = _parser().parse_args(argv)
    kind = given.device
    if kind == "auto":
        kind = "cuda" if backend.gpu_is_present() else "emulator"
    try:
        with open_device(kind, given.arch) as device:
            return _tune(device, given)
    except (ValueError, RuntimeError) as error:
        print(f"tune.py: error: {first_line(error)}", file=sys.stderr)
        return 2


def _tune(device: Device, given: argparse.Namespace) -> int:
    name, present = given.name, getattr(tuned, given.name)
    values = sorted({present, *(given.values or (max(1, present // 2), present * 2))})
    problems = list(candidates(DRY_RUN_MAX_ARRAY_BYTES if device.emulated else MAX_ARRAY_BYTES))
    if given.values is None:  # half and double of the present value may be impossible
        values = [v for v in values if v == present or _possible(name, v, device, problems)]
    changed = affected(name, values, device.spec, problems)
    chosen = representative(changed, device.spec, given.cells)
    if device.emulated:
        print(f"# {DRY_RUN_STAMP}")
    print(f"# {name} = {', '.join(map(str, values))} on {device.spec.name}: {len(changed)} of")
    print(f"# {len(problems)} problems are planned differently, {len(chosen)} are timed")
    effort = Effort(1, 0.0) if device.emulated else Effort(given.runs, given.seconds)
    cells: list[ProblemTimes] = []
    for problem in chosen:
        cell, failed = measure(device, name, values, problem, effort)
        device.free_cached_memory()
        for value, why in failed.items():
            print(f"# {problem}: {value} failed: {why}")
        if cell is not None:
            cells.append(cell)
            _show(cell, present)
    if not cells:
        print("tune.py: nothing was timed: no plan depends on it, or every call failed")
        return 1
    made = propose(name, present, cells, device.spec.name, f"{datetime.now(UTC):%Y-%m-%d}")
    for value, mean in made.means.items():
        print(f"# {value}: {mean:.3f} times the speed of {present}")
    print(f"# noise: {made.noise:.1%}, the most that {present} differed from itself")
    if any(c.other_bits for c in cells):
        print("# the bits of some results change with it: golden results are to be renewed")
    print("# registers and spills of a new value: cusoftmax kernels")
    print(f"# {DRY_RUN_STAMP}; not to be used: {made.row}" if device.emulated else made.row)
    return 0


def _possible(name: str, value: int, device: Device, problems: Sequence[TuningProblem]) -> bool:
    try:
        affected(name, [value], device.spec, problems)
    except ValueError as error:
        print(f"# left out: {error}")
        return False
    return True


def _show(cell: ProblemTimes, present: int) -> None:
    times = ", ".join(
        f"{v}: {s * 1e6:.1f} µs" + (" (other bits)" if v in cell.other_bits else "")
        for v, s in cell.seconds.items()
    )
    print(f"# {cell.problem}: {times}, {present} again: {cell.again * 1e6:.1f} µs", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", type=_name, metavar="NAME", help=", ".join(tunable_names()))
    parser.add_argument("--values", type=_values, help="such as 64,128; default: half and double")
    parser.add_argument("--device", choices=("auto", "cuda", "emulator"), default="auto")
    parser.add_argument("--arch", default="sm_90", help="what the emulator plans for")
    parser.add_argument("--cells", type=int, default=16, help="problems to time")
    parser.add_argument("--runs", type=int, default=60, help="times of each value and problem")
    parser.add_argument("--seconds", type=float, default=5.0, help="the most for a problem")
    return parser


def _name(text: str) -> str:
    if text in NOT_TUNABLE:
        raise argparse.ArgumentTypeError(f"{text} is not tunable: {NOT_TUNABLE[text]}")
    if text not in tunable_names():
        raise argparse.ArgumentTypeError(f"{text} is not one of {', '.join(tunable_names())}")
    return text


def _values(text: str) -> tuple[int, ...]:
    values = tuple(int(part) for part in text.split(","))
    if any(v < 1 for v in values):
        raise argparse.ArgumentTypeError("values are 1 or more")
    return values


if __name__ == "__main__":
    sys.exit(main())
