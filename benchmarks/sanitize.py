"""Small calls of every kind of plan, to be run under compute-sanitizer.

    compute-sanitizer --tool memcheck --error-exitcode 1 python -m benchmarks.sanitize

CuPy's memory pool is off: each array is its own allocation, so an access beyond it is detected.
Results are compared with the reference. --dry-run runs the calls on the emulator, which has its own
checks: accesses out of bounds, races, divergent barriers and shuffles, and unwritten results.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cusoftmax.cli.output import let_any_character_print
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.machine import first_line
from cusoftmax.operations.table import OPERATIONS
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.planner import plan
from cusoftmax.planning.prepare import problem_for
from cusoftmax.runtime import backend
from tests.conftest import CudaDevice, EmulatedDevice
from tests.support import DTYPES, OPS, dtype_of, kind, logits, run

SHORTEST, LONGEST = 37, 1 << 20
ROWS = (3, 40)  # few enough to be split, and too many
COLUMNS = (3, 70)  # along axis 0: fewer and more than a warp has lanes
EMULATED_ARCHS = ("sm_90", "sm_80", "sm_75")  # together they have every kind of plan
MAX_ELEMENTS = {False: 1 << 23, True: 1 << 18}  # of a call, by whether it is emulated
ALIGNED_LENGTH = 16  # a multiple of the elements of every access


@dataclass(frozen=True)
class PlannedCall:
    """A call and the kind of its plan, as tests/support.py names the kinds."""

    kind: str
    op: str
    dtype: str
    shape: tuple[int, int]
    axis: int

    def __str__(self) -> str:
        where = " axis 0" if self.axis == 0 else ""
        return f"{self.kind}: {self.op} {self.dtype} {'×'.join(map(str, self.shape))}{where}"


def smallest_calls(op: str, dtype: str, spec: DeviceSpec, most: int) -> Iterator[PlannedCall]:
    """Yield the smallest call of each kind of plan, with scalar and with wide accesses."""
    found: dict[tuple[str, bool], PlannedCall] = {}
    for axis, counts in ((-1, ROWS), (0, COLUMNS)):
        for rows in counts:
            n = SHORTEST
            while n <= LONGEST:
                for length in (n, n // ALIGNED_LENGTH * ALIGNED_LENGTH + ALIGNED_LENGTH):
                    count = rows + rows % 2 if axis == 0 and length != n else rows
                    shape = (length, count) if axis == 0 else (count, length)
                    if length * count > most:
                        continue
                    made = plan(problem_for(op, shape, dtype, axis), spec)
                    call = PlannedCall(kind(made), op, dtype, shape, axis)
                    key = (call.kind, made.vector > 1)
                    if key not in found or np.prod(found[key].shape) > np.prod(shape):
                        found[key] = call
                n += n // 8 + n // 8 % 2
    yield from found.values()


def calls(
    specs: Sequence[DeviceSpec], most: int, dtypes: Sequence[str], emulated: bool
) -> Iterator[tuple[DeviceSpec, PlannedCall]]:
    """Yield the calls of each GPU, except for kinds of plan that an earlier GPU had.

    As the patterns are the same for every operation, operations other than softmax and softmax_vjp
    are called in float32 only; on the emulator, where the tests also run them, with one call each.
    """
    done: set[tuple[str, str, str]] = set()
    for spec in specs:
        made = [c for dtype in dtypes for op in OPS for c in smallest_calls(op, dtype, spec, most)]
        for op in [op for op in CONTRACTS if op not in OPS and "float32" in dtypes]:
            of_op = smallest_calls(op, "float32", spec, SHORTEST * ROWS[0] if emulated else most)
            made += list(of_op)[:1] if emulated else of_op
        new = [c for c in made if (c.kind, c.op, c.dtype) not in done]
        done |= {(c.kind, c.op, c.dtype) for c in new}
        yield from ((spec, c) for c in new)


def main(argv: Sequence[str] | None = None) -> int:
    let_any_character_print()
    parser = argparse.ArgumentParser(description="Small calls of every kind of plan.")
    parser.add_argument("--dry-run", action="store_true", help="on the emulator")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help=f"such as {DTYPES[0]}")
    parser.add_argument("--list", action="store_true", help="say what would be run")
    given = parser.parse_args(argv)
    if not given.dry_run and not given.list and not backend.gpu_is_present():
        print("sanitize.py: error: there is no GPU: --dry-run runs on the emulator")
        return 2
    on_gpu = not given.dry_run and backend.gpu_is_present()
    specs = [DeviceSpec.current()] if on_gpu else [DeviceSpec.known(a) for a in EMULATED_ARCHS]
    chosen = list(calls(specs, MAX_ELEMENTS[not on_gpu], given.dtypes.split(","), given.dry_run))
    chosen.sort(
        key=lambda each: np.prod(each[1].shape)
    )  # so that a run that is cut off loses the least
    if given.list:
        print(*(f"{s.name}: {c}" for s, c in chosen), sep="\n")
        return 0
    failures = 0
    device = CudaDevice() if on_gpu else EmulatedDevice()
    if on_gpu:
        import cupy

        cupy.cuda.set_allocator(None)
    for spec, call in chosen:
        begun = time.perf_counter()
        outcome = "right"
        try:
            if on_gpu:
                _run_and_judge(device, call)
            else:
                from cusoftmax import emulator

                with emulator.activate(arch=f"sm_{spec.arch}"):
                    _run_and_judge(device, call)
        except Exception as error:
            failures += 1
            outcome = f"FAILED: {first_line(error)}"
        except AssertionError as error:
            failures += 1
            outcome = f"WRONG: {first_line(error)}"
        print(f"{time.perf_counter() - begun:6.1f} s  {spec.name}: {call}: {outcome}", flush=True)
    print(f"{len(chosen)} calls, {failures} failed")
    return 1 if failures else 0


def _run_and_judge(device: CudaDevice | EmulatedDevice, call: PlannedCall) -> None:
    """Run a call and judge all of its rows."""
    if call.op in OPS:
        run(device, call.op, logits(call.shape, call.dtype), call.axis)
        return
    member, shape = CONTRACTS[call.op], call.shape
    if OPERATIONS[call.op].repeated:
        shape = (2, call.shape[-1], call.shape[-1])
    inputs = member.draw(np.random.default_rng(0), shape, call.axis, dtype_of(call.dtype))
    got = member.call(*(device.asarray(a) for a in inputs), axis=call.axis)
    results = tuple(device.asnumpy(a) for a in (got if isinstance(got, tuple) else (got,)))
    worst = member.worst(inputs, call.axis, results)
    assert worst <= 1, f"{worst:.3g} of the bound"


if __name__ == "__main__":
    sys.exit(main())
