"""Host time of a public call up to the launch, beside the least that CuPy itself costs.

    python -m benchmarks.host_overhead [--rounds 100] [--target 1.5]

Needs no GPU: static/null_driver.py replaces the launch by nothing. Two things are measured beside
each call. Its *floor* is `cupy.empty_like` of its input, and the same launches by the function
object of a RawKernel whose arguments are already in a tuple. *Bare* is the fastest way known: the
result by `cupy.ndarray`, or no allocation where `out` is given, and the same launches.

Nothing here waits, so the clock is the thread's processor time, which other processes disturb
less. A round times all statements one after the other, in batches. The figures are medians over
the rounds, the ratios medians of each round's ratio. Exit status 1 if a ratio to the floor exceeds
the target.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import random
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import thread_time
from timeit import Timer
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.static import null_driver
from cusoftmax.cli.output import let_any_character_print

DRIVER = null_driver.install()

import cupy  # noqa: E402  (only now that the launch has been replaced)

import cusoftmax as cs  # noqa: E402
from cusoftmax.runtime import backend as machines  # noqa: E402
from cusoftmax.runtime import launch  # noqa: E402
from cusoftmax.runtime.launch import check_outs, signature  # noqa: E402

BATCH_SECONDS = 2e-3
SMALL, LARGE, LONG = (1, 32), (4096, 32000), (1, 1 << 20)
PARTS = ("signature", "lookup", "allocation", "overlap", "launches", "rest")


@dataclass
class TimedStatement:
    """A statement, and the time of one execution in each round."""

    statement: str
    names: dict[str, Any]
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._timer = Timer(self.statement, timer=thread_time, globals=self.names)
        self._timer.timeit(100)  # warm-up: makes the plans, fills the memory pool
        loops, taken = self._timer.autorange()
        self._loops = max(1, int(loops * BATCH_SECONDS / taken))

    def run(self) -> None:
        """Time one batch."""
        self.seconds.append(self._timer.timeit(self._loops) / self._loops)

    @property
    def microseconds(self) -> float:
        """Median time of one execution."""
        return statistics.median(self.seconds) * 1e6


class TimedCall:
    """One public call, its floor, its bare launches, and its parts, each timed."""

    def __init__(self, call: str, shape: tuple[int, ...], dtype: str = "float16") -> None:
        self.title, self.array = call, f"{'x'.join(map(str, shape))} {dtype}"
        x, y, out = (cupy.empty(shape, dtype) for _ in range(3))
        names: dict[str, Any] = {"x": x, "y": y, "out": out, **vars(cs), **vars(cupy)}
        launches, request = _record(call, names)
        self.launches = len(launches)
        for i, arguments in enumerate(launches):
            names |= {f"{name}{i}": each for name, each in zip("kgbas", arguments, strict=True)}
        run = "; ".join(f"k{i}(g{i}, b{i}, a{i}, s{i})" for i in range(self.launches))

        op, inputs, axis, kind, target = request
        outs = () if target is None else (target,)
        request = (op, inputs, axis, kind, outs, False)
        backend = machines.active()
        sign = signature(*request)
        held = launch._calls[sign, backend.key]
        names |= {"request": request, "sign": sign, "backend": backend, "calls": launch._calls}
        names |= {"signature": signature, "allocate": held.allocate, "check_outs": check_outs}
        names |= {"to_check": (op, inputs, outs, held.reaches)}
        names |= {"shape": shape, "kind": cupy.dtype(dtype)}

        self.call = TimedStatement(call, names)
        self.floor = TimedStatement(f"empty_like(x); {run}", names)
        self.bare = TimedStatement(
            run if target is not None else f"ndarray(shape, kind); {run}", names
        )
        self.parts = {
            "signature": TimedStatement("signature(*request)", names),
            "lookup": TimedStatement("calls.get((sign, backend.key))", names),
            "launches": TimedStatement(run, names),
        }
        if target is None:
            self.parts["allocation"] = TimedStatement("allocate()", names)
        else:
            self.parts["overlap"] = TimedStatement("check_outs(*to_check)", names)

    def run(self) -> None:
        """Time a round; the call is between the two statements that it is compared with."""
        for timed in (self.floor, self.call, self.bare, *self.parts.values()):
            timed.run()

    @property
    def ratio(self) -> tuple[float, float, float]:
        """Quartiles of the ratio of the call to its floor."""
        pairs = zip(self.call.seconds, self.floor.seconds, strict=True)
        low, middle, high = statistics.quantiles((c / f for c, f in pairs), n=4)
        return low, middle, high


def _record(call: str, names: dict[str, Any]) -> tuple[list[tuple[Any, ...]], tuple[Any, ...]]:
    """Run a call; return its launches (kernel and arguments) and the arguments of `launch.run`."""
    backend = machines.active()
    launches: list[tuple[Any, ...]] = []
    requests: list[tuple[Any, ...]] = []

    class Recorder:
        device, key = backend.device, object()
        check_place, by_value = backend.check_place, staticmethod(backend.by_value)

        def load(self, kernel: Any) -> Any:
            function = backend.load(kernel)
            return lambda *launch: launches.append((function, *launch))

    with _pushed(Recorder()), _requests_to(requests):
        eval(call, names)
    eval(call, names)  # the first went to the recorder: now the backend caches the call too
    return launches, requests[0]


@contextlib.contextmanager
def _pushed(backend: Any) -> Iterator[None]:
    machines.push_backend(backend)
    try:
        yield
    finally:
        machines.pop_backend(backend)


@contextlib.contextmanager
def _requests_to(requests: list[tuple[Any, ...]]) -> Iterator[None]:
    run = launch.run

    def recorded(*request: Any) -> Any:
        requests.append(request)
        return run(*request)

    launch.run = recorded
    try:
        yield
    finally:
        launch.run = run


def timed_calls() -> list[TimedCall]:
    """Return the calls to measure."""
    alone, both = (
        ("softmax(x)", "softmax(x, axis=0)", "softmax(x, out=out)"),
        ("softmax_vjp(y, x)",),
    )
    calls = {
        SMALL: (
            *(*alone, "softmax(x, out=x)", "softmax(x, dtype='float32')"),
            *(
                *both,
                "softmax_vjp(y, x, axis=0)",
                "softmax_vjp(y, x, out=out)",
                "softmax_jvp(y, x)",
            ),
        ),
        LARGE: (*alone, *both, "softmax_vjp(y, x, axis=0)", "softmax_vjp(y, x, out=out)"),
        LONG: (alone[0], *both),
    }
    return [TimedCall(call, shape) for shape, named in calls.items() for call in named]


def report(measured: list[TimedCall], target: float) -> Table:
    """Return the table of results."""
    table = Table(title="Host time in microseconds; the parts of a call to the right")
    for name in ("call", "array"):
        table.add_column(name, no_wrap=True)
    for name in ("launches", "floor", "bare", "call", "call / floor", "quartiles"):
        table.add_column(name, justify="right")
    for name in PARTS:
        table.add_column(name, justify="right", style="dim")
    for case in measured:
        low, middle, high = case.ratio
        parts = {name: timed.microseconds for name, timed in case.parts.items()}
        parts["rest"] = case.call.microseconds - sum(parts.values())
        table.add_row(
            case.title,
            case.array,
            str(case.launches),
            *(f"{timed.microseconds:.2f}" for timed in (case.floor, case.bare, case.call)),
            f"[{'green' if middle <= target else 'red'}]{middle:.2f}[/]",
            f"{low:.2f} to {high:.2f}",
            *(f"{parts[name]:.2f}" if name in parts else "" for name in PARTS),
        )
    return table


def main() -> int:
    let_any_character_print()
    parser = argparse.ArgumentParser(description="Host time of a call, beside CuPy's own floor.")
    parser.add_argument("--rounds", type=int, default=100, help="batches of each call")
    parser.add_argument("--target", type=float, default=1.5, help="ratio not to be exceeded")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 180)  # a file has no width
    with _pushed(DRIVER.backend()):
        measured = timed_calls()
        for _ in track(range(given.rounds), "timing", console=console, transient=True):
            for case in random.sample(measured, len(measured)):
                case.run()
    console.print(report(measured, given.target))
    worst = max(measured, key=lambda case: case.ratio[1])
    console.print(
        f"Worst ratio {worst.ratio[1]:.2f} ({worst.title} of {worst.array}), target {given.target}."
        f" CuPy {cupy.__version__}, Python {platform.python_version()}; only the launch is "
        f"{'left out.' if DRIVER.gpu else 'left out, as is the time within the driver.'}"
    )
    return int(worst.ratio[1] > given.target)


if __name__ == "__main__":
    sys.exit(main())
