"""Small calls of every kind of plan, for compute-sanitizer to watch.

    compute-sanitizer --tool memcheck --error-exitcode 1 python benchmarks/sanitize.py

CuPy's memory pool is off, so that each array is an allocation of its own and an access beyond it is
seen. Results are compared with the reference. --dry-run runs the calls on the emulator, which has
checks of its own: accesses out of bounds, races, barriers and shuffles that not all reach, results
that nobody wrote.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the checkout is what runs, whatever is installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from cusoftmax._cli_machine import first_line
from cusoftmax._device import DeviceSpec
from cusoftmax._family import FAMILY
from cusoftmax._ops import OPERATIONS
from cusoftmax._planner import plan
from cusoftmax._problem import problem_for

from cusoftmax import _launch
from tests.conftest import CudaDevice, EmulatedDevice
from tests.support import DTYPES, OPS, dtype_of, kind, logits, run

LONGEST = 1 << 20
ROWS = (3, 40)  # few, and too many to be split
INNER = (3, 70)  # neighbouring rows along axis 0: less, and more than a warp has lanes
EMULATED = ("sm_90", "sm_80", "sm_75")  # which between them have every kind of plan
MOST = {False: 1 << 23, True: 1 << 18}  # elements of a call, on a GPU and on the emulator
GROUP = 16  # a multiple of the elements of every access


@dataclass(frozen=True)
class Call:
    """A call, and the kind of plan that it has."""

    kind: str
    op: str
    dtype: str
    shape: tuple[int, int]
    axis: int

    def __str__(self) -> str:
        where = " axis 0" if self.axis == 0 else ""
        return f"{self.kind}: {self.op} {self.dtype} {'×'.join(map(str, self.shape))}{where}"


def smallest(op: str, dtype: str, spec: DeviceSpec, most: int) -> Iterator[Call]:
    """Yield the smallest calls of each kind of plan: by single elements, and by wide accesses."""
    found: dict[tuple[str, bool], Call] = {}
    for axis, counts in ((-1, ROWS), (0, INNER)):
        for rows in counts:
            n = 37
            while n <= LONGEST:
                for length in (n, n // GROUP * GROUP + GROUP):
                    count = rows + rows % 2 if axis == 0 and length != n else rows
                    shape = (length, count) if axis == 0 else (count, length)
                    if length * count > most:
                        continue
                    made = plan(problem_for(op, shape, dtype, axis), spec)
                    call = Call(kind(made), op, dtype, shape, axis)
                    key = (call.kind, made.vector > 1)
                    if key not in found or np.prod(found[key].shape) > np.prod(shape):
                        found[key] = call
                n += n // 8 + n // 8 % 2
    yield from found.values()


def calls(
    specs: Sequence[DeviceSpec], most: int, dtypes: Sequence[str], emulated: bool
) -> Iterator[tuple[DeviceSpec, Call]]:
    """Yield the calls of each GPU, but for kinds that an earlier one had.

    The patterns are the same for every operation: of the family but its first two in float32 alone,
    and on the emulator, which the tests run them on, the smallest call of each.
    """
    done: set[tuple[str, str, str]] = set()
    for spec in specs:
        made = [c for dtype in dtypes for op in OPS for c in smallest(op, dtype, spec, most)]
        for op in [op for op in FAMILY if op not in OPS and "float32" in dtypes]:
            of_op = sorted(smallest(op, "float32", spec, most), key=lambda c: np.prod(c.shape))
            made += of_op[:1] if emulated else of_op
        new = [c for c in made if (c.kind, c.op, c.dtype) not in done]
        done |= {(c.kind, c.op, c.dtype) for c in new}
        yield from ((spec, c) for c in new)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Small calls of every kind of plan.")
    parser.add_argument("--dry-run", action="store_true", help="on the emulator")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help=f"such as {DTYPES[0]}")
    parser.add_argument("--list", action="store_true", help="say what would be run")
    given = parser.parse_args(argv)
    if not given.dry_run and not given.list and not _launch.gpu_is_present():
        print("sanitize.py: error: there is no GPU: --dry-run runs on the emulator")
        return 2
    on_gpu = not given.dry_run and _launch.gpu_is_present()
    specs = [DeviceSpec.current()] if on_gpu else [DeviceSpec.known(a) for a in EMULATED]
    chosen = list(calls(specs, MOST[not on_gpu], given.dtypes.split(","), given.dry_run))
    chosen.sort(key=lambda each: np.prod(each[1].shape))  # a run that is cut off loses the least
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
        said = "right"
        try:
            if on_gpu:
                _run(device, call)
            else:
                from cusoftmax import emulator

                with emulator.activate(arch=f"sm_{spec.arch}"):
                    _run(device, call)
        except Exception as error:
            failures += 1
            said = f"FAILED: {first_line(error)}"
        except AssertionError as error:
            failures += 1
            said = f"WRONG: {first_line(error)}"
        print(f"{time.perf_counter() - begun:6.1f} s  {spec.name}: {call}: {said}", flush=True)
    print(f"{len(chosen)} calls, {failures} failed")
    return 1 if failures else 0


def _run(device: CudaDevice | EmulatedDevice, call: Call) -> None:
    """Run a call and judge all of its rows."""
    if call.op in OPS:
        run(device, call.op, logits(call.shape, call.dtype), call.axis)
        return
    member, shape = FAMILY[call.op], call.shape
    if OPERATIONS[call.op].repeated:
        shape = (2, call.shape[-1], call.shape[-1])
    inputs = member.draw(np.random.default_rng(0), shape, call.axis, dtype_of(call.dtype))
    got = member.call(*(device.asarray(a) for a in inputs), axis=call.axis)
    results = tuple(device.asnumpy(a) for a in (got if isinstance(got, tuple) else (got,)))
    worst = member.worst(inputs, call.axis, results)
    assert worst <= 1, f"{worst:.3g} of the bound"


if __name__ == "__main__":
    sys.exit(main())
