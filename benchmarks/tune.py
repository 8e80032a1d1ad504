"""Try other values of a number in cusoftmax/_tuning.py, and propose its row with the evidence.

    python benchmarks/tune.py GROUP_THREADS --values 64,128,256

The problems timed are some of those that are planned otherwise with another value. All values are
timed in turn on the same arrays, and the present one twice: what its two times differ by is noise.
On the emulator this is a dry run, which shows that the code runs, and nothing of speed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: the checkout is what runs, whatever is installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import ml_dtypes
import numpy as np
from cusoftmax._cli_machine import first_line
from cusoftmax._family import FAMILY

import cusoftmax as cs
from benchmarks.devices import Device, open_device
from benchmarks.report_cells import geometric_mean
from benchmarks.timing import Contender, Effort, on_device
from benchmarks.tune_cells import (
    FIXED,
    LARGEST,
    Problem,
    affected,
    candidates,
    names,
    spread,
    value_of,
)
from cusoftmax import _launch
from cusoftmax import _tuning as tuned

DRY = "dry run on the emulator: times mean nothing"
DRY_LARGEST = 1 << 17  # bytes of an array on the emulator
AGAIN = "again"  # the present value's second contender
JUDGED = 4  # rows of a result whose error is looked at


@dataclass
class Cell:
    """A problem, the median seconds of each value, and what was seen of the results."""

    problem: Problem
    seconds: dict[int, float]
    again: float
    other_bits: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Proposal:
    """What the times say."""

    value: int
    row: str
    means: dict[int, float]  # geometric mean of the speed over the present value's
    noise: float


def propose(name: str, present: int, cells: Sequence[Cell], gpu: str, date: str) -> Proposal:
    """Choose a value: the fastest on the geometric mean, if it is faster by more than the noise."""
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
    device: Device, name: str, values: Sequence[int], problem: Problem, effort: Effort
) -> tuple[Cell | None, dict[int, str]]:
    """Time all values on a problem; also return why some could not be."""
    present = getattr(tuned, name).value
    host = _inputs(problem)
    inputs, out = [device.upload(a) for a in host], device.upload(np.zeros_like(host[0]))
    failed: dict[int, str] = {}
    calls: dict[int, Callable[[], Any]] = {}
    bits: dict[int, bytes] = {}
    for value in values:
        try:
            calls[value] = _version(name, value, problem, inputs, out)
            device.poison(out)
            calls[value]()
            bits[value] = _checked(device, problem, host, out)
        except Exception as error:  # the compiler's, the driver's or the emulator's
            failed[value] = first_line(error)
            calls.pop(value, None)
    if present not in calls:
        return None, failed
    contenders = [Contender(v, [c]) for v, c in calls.items()]
    contenders.append(Contender(AGAIN, [calls[present]]))
    before = _launch._calls
    try:
        on_device(device, contenders, effort, evict=True)
    finally:
        _launch._calls = before
    failed |= {c.name: c.failed for c in contenders if c.failed}
    times = {c.name: float(np.median(c.seconds)) for c in contenders if not c.failed}
    again = times.pop(AGAIN, None)
    if again is None or present not in times:
        return None, failed
    other = {v for v in times if bits[v] != bits[present]}
    return Cell(problem, times, again, other), failed


def _inputs(problem: Problem) -> list[np.ndarray[Any, Any]]:
    """Return logits, or for a product a softmax and a vector; long ones repeat themselves."""
    dtype = np.dtype(ml_dtypes.bfloat16 if problem.dtype == "bfloat16" else problem.dtype)
    rng, size = np.random.default_rng(0), int(np.prod(problem.shape))
    drawn = rng.standard_normal(min(size, 1 << 22), np.float32).astype(dtype)
    x = np.resize(drawn, problem.shape)
    if problem.op == "softmax":
        return [x]
    n = problem.shape[problem.axis]
    y = np.resize(np.exp(drawn.astype(np.float64)) / (1.65 * n), problem.shape).astype(dtype)
    return [y, x]  # rows of y add up to about 1, which is all that a product needs


def _version(
    name: str, value: int, problem: Problem, inputs: Sequence[Any], out: Any
) -> Callable[[], Any]:
    """Return a call that is planned with another value, and has the others' overhead."""
    function = getattr(cs, problem.op)
    with value_of(name, value):
        function(*inputs, axis=problem.axis, out=out)
        known = _launch._calls

    def call() -> Any:
        _launch._calls = known
        return function(*inputs, axis=problem.axis, out=out)

    return call


def _checked(
    device: Device, problem: Problem, host: Sequence[np.ndarray[Any, Any]], out: Any
) -> bytes:
    """Return the bits of some rows of the result, or raise if they are not within the contract."""
    count = problem.shape[0] if problem.axis else problem.shape[1]
    chosen = sorted({i * (count - 1) // max(1, JUDGED - 1) for i in range(JUDGED)})
    got = device.rows(out, problem.axis, chosen)
    rows = [np.stack([a[i] if problem.axis else a[:, i] for i in chosen]) for a in host]
    worst = FAMILY[problem.op].worst(tuple(rows), -1, (got,))
    if not worst <= 1:
        raise ArithmeticError(f"wrong result: {worst:.3g} times the error allowed")
    return got.tobytes()


def main(argv: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(argv)
    kind = given.device
    if kind == "auto":
        kind = "cuda" if _launch.gpu_is_present() else "emulator"
    try:
        with open_device(kind, given.arch) as device:
            return _tune(device, given)
    except (ValueError, RuntimeError) as error:
        print(f"tune.py: error: {first_line(error)}", file=sys.stderr)
        return 2


def _tune(device: Device, given: argparse.Namespace) -> int:
    name, present = given.name, getattr(tuned, given.name).value
    values = sorted({present, *(given.values or (max(1, present // 2), present * 2))})
    problems = list(candidates(DRY_LARGEST if device.emulated else LARGEST))
    if given.values is None:  # those that were not asked for may turn out impossible
        values = [v for v in values if v == present or _possible(name, v, device, problems)]
    changed = affected(name, values, device.spec, problems)
    chosen = spread(changed, device.spec, given.cells)
    if device.emulated:
        print(f"# {DRY}")
    print(f"# {name} = {', '.join(map(str, values))} on {device.spec.name}: {len(changed)} of")
    print(f"# {len(problems)} problems are planned differently, {len(chosen)} are timed")
    effort = Effort(1, 0.0) if device.emulated else Effort(given.runs, given.seconds)
    cells: list[Cell] = []
    for problem in chosen:
        cell, failed = measure(device, name, values, problem, effort)
        device.tidy()
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
    print(f"# {DRY}; not to be used: {made.row}" if device.emulated else made.row)
    return 0


def _possible(name: str, value: int, device: Device, problems: Sequence[Problem]) -> bool:
    try:
        affected(name, [value], device.spec, problems)
    except ValueError as error:
        print(f"# left out: {error}")
        return False
    return True


def _show(cell: Cell, present: int) -> None:
    times = ", ".join(
        f"{v}: {s * 1e6:.1f} µs" + (" (other bits)" if v in cell.other_bits else "")
        for v, s in cell.seconds.items()
    )
    print(f"# {cell.problem}: {times}, {present} again: {cell.again * 1e6:.1f} µs", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", type=_name, metavar="NAME", help=", ".join(names()))
    parser.add_argument("--values", type=_values, help="such as 64,128; default: half and double")
    parser.add_argument("--device", choices=("auto", "cuda", "emulator"), default="auto")
    parser.add_argument("--arch", default="sm_90", help="what the emulator plans for")
    parser.add_argument("--cells", type=int, default=16, help="problems to time")
    parser.add_argument("--runs", type=int, default=60, help="times of each value and problem")
    parser.add_argument("--seconds", type=float, default=5.0, help="the most for a problem")
    return parser


def _name(text: str) -> str:
    if text in FIXED:
        raise argparse.ArgumentTypeError(f"{text} is not tunable: {FIXED[text]}")
    if text not in names():
        raise argparse.ArgumentTypeError(f"{text} is not one of {', '.join(names())}")
    return text


def _values(text: str) -> tuple[int, ...]:
    values = tuple(int(part) for part in text.split(","))
    if any(v < 1 for v in values):
        raise argparse.ArgumentTypeError("values are 1 or more")
    return values


if __name__ == "__main__":
    sys.exit(main())
