"""What the cost model predicts for the family beside softmax, and for its unusual shapes.

    python -m benchmarks.family [--only TEXT] [--dtype float16]

For each call: instructions an element (on sm_90; the executed ones where elements are selected or
segments searched), blocks resident on a multiprocessor, and the fraction of a copy's speed on four
chips. Nothing here is measured, and no GPU is needed; docs/cost.md says how speed is predicted.

A kernel takes seconds to compile, and all of them half an hour. What is found is kept in the cache
of this package as long as its files are the same, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.predicted import STAMP
from benchmarks.static.predictions import Case, cost_of
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.emulator._cache import cache_folder
from cusoftmax.machine_code import sass
from cusoftmax.machine_code.limits import LIMITERS
from cusoftmax.runtime import nvrtc, source

CHIPS = ("A100", "H100", "H200", "B200")
DTYPES = ("float16", "bfloat16", "float32")
_COUNTED = "H100"  # whose instructions and blocks are shown


@dataclass(frozen=True)
class Call:
    """A call, and the fractions of a copy that it aims at: on B200, and elsewhere."""

    what: str
    op: str
    rows: int
    n: int
    columns: bool = False
    aim: float = 0.95
    aim_b200: float = 0.85

    def on(self, chip: str, dtype: str) -> Case:
        """Return the call on a chip, in a dtype."""
        return Case(self.op, dtype, self.n, chip, self.rows, self.columns)

    def aim_on(self, chip: str) -> float:
        """Return the fraction that it aims at on a chip."""
        return self.aim_b200 if chip == "B200" else self.aim


_ROWS, _CLASSES = 8192, 32000
CALLS = (
    Call("logsumexp", "logsumexp", _ROWS, _CLASSES),
    Call("cross_entropy with gradient", "cross_entropy_grad", _ROWS, _CLASSES),
    Call("log_softmax_vjp", "log_softmax_vjp", _ROWS, _CLASSES),
    Call("softmax, masked", "softmax_masked", _ROWS, _CLASSES),
    Call("softmax, scaled, masked, causal", "softmax_scaled_masked_causal", _ROWS, _CLASSES),
    Call("softmax_hvp", "softmax_hvp", _ROWS, _CLASSES),
    Call("gumbel_softmax", "gumbel_softmax", _ROWS, _CLASSES, aim=0.7, aim_b200=0.5),
    Call("softmax, axis 0", "softmax", 4096, 4096, columns=True),
    Call("softmax_vjp, axis 0", "softmax_vjp", 4096, 4096, columns=True),
    Call("softmax, axis 0, tall", "softmax", 64, 100_000, columns=True),
    Call("softmax, one row", "softmax", 1, 1_000_000),
    Call("segment_softmax", "segment_softmax", 1, 10_000_000, aim=0.85, aim_b200=0.7),
    Call("topk_softmax, k = 8 of 128", "topk_softmax", 65536, 128, aim=0.7, aim_b200=0.5),
    Call("topk_softmax, k = 8", "topk_softmax", 4, _CLASSES),
    Call("sample", "sample", 4, _CLASSES, aim=0.7, aim_b200=0.5),
)


@dataclass(frozen=True)
class Predicted:
    """What the model says of a call: of its launches together, or of the slowest one.

    Attributes
    ----------
    fraction : float
        Speed divided by that of a copy.
    instructions : float
        An element.
    executed : bool
        Whether these are of PTX, as executed.
    blocks : int
        Resident on a multiprocessor, of the slowest launch.
    limiter : str
        What limits that launch, in words.
    """

    fraction: float
    instructions: float
    executed: bool
    blocks: int
    limiter: str


def _predicted(case: Case) -> Predicted:
    found = cost_of(case)
    return Predicted(
        found.fraction_of_copy,
        found.instructions,
        any(launch.executed for launch in found.launches),
        found.slowest.occupancy.blocks,
        LIMITERS[found.slowest.limiter].partition(":")[0],
    )


def predict(cases: Iterable[Case]) -> dict[Case, Predicted]:
    """Predict each case, or read what an earlier run found of it with the same files."""
    every = list(dict.fromkeys(cases))
    file = _kept_in()
    known: dict[str, Predicted] = {}
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a run that was killed
                case, found = json.loads(line)
                known[case] = Predicted(**found)
    todo = [case for case in every if repr(case) not in known]
    with ThreadPoolExecutor(os.cpu_count()) as pool, file.open("a", encoding="utf-8") as out:
        for case, now in zip(todo, pool.map(_predicted, todo), strict=True):
            known[repr(case)] = now
            out.write("\n" + json.dumps([repr(case), asdict(now)]))  # whatever the last line is
            out.flush()
    return {case: known[repr(case)] for case in every}


@cache
def _kept_in() -> Path:
    """Return the file of what was found with these files; those of others are removed."""
    sha = hashlib.sha256(nvrtc.version().encode())
    for root, names in ((Path(sass.__file__).parents[1], "*.py"), (source.kernel_root(), "*.cu*")):
        for path in sorted(root.rglob(names)):
            sha.update(path.read_bytes() + b"\0")
    folder = cache_folder().parent / "predicted"
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{sha.hexdigest()[:16]}.jsonl"
    for other in {*folder.glob("*.jsonl")} - {file}:
        other.unlink(missing_ok=True)
    return file


def table(calls: Sequence[Call], dtypes: Sequence[str], found: dict[Case, Predicted]) -> Table:
    """Return a row for each call and dtype; what is below its aim has an exclamation mark."""
    made = Table(
        title=f"fraction of a copy, {STAMP} (!: below its aim)",
        title_justify="left",
        box=box.SIMPLE,
    )
    for heading in ("call", "rows × elements", "dtype"):
        made.add_column(heading)
    for heading in ("instructions", "blocks", *CHIPS, "limiter"):
        made.add_column(heading, justify="right")
    for call in calls:
        for dtype in dtypes:
            of = {chip: found[call.on(chip, dtype)] for chip in CHIPS}
            counted = of[_COUNTED]
            made.add_row(
                call.what,
                f"{call.rows:,} × {call.n:,}",
                dtype,
                f"{counted.instructions:.1f}{'*' * counted.executed}",
                str(counted.blocks),
                *(_fraction(call, chip, of[chip]) for chip in CHIPS),
                counted.limiter,
            )
    made.caption = f"instructions, blocks and limiter: {_COUNTED}; *: of PTX, as executed"
    return made


def _fraction(call: Call, chip: str, found: Predicted) -> str:
    below = found.fraction < call.aim_on(chip)
    return f"{found.fraction:.2f}{'!' if below else ' '}"


def cases(calls: Sequence[Call], dtypes: Sequence[str]) -> Iterator[Case]:
    """Yield every call in every dtype on every chip."""
    for call in calls:
        for dtype in dtypes:
            yield from (call.on(chip, dtype) for chip in CHIPS)


def main() -> int:
    """Run the command line."""
    let_any_character_print()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="calls with this in their name")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: all")
    given = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    reason = sass.missing()
    if reason:
        console.print(f"nothing can be compiled here: {reason}", markup=False)
        return 1
    calls = [call for call in CALLS if given.only in call.what]
    dtypes = given.dtype or DTYPES
    console.print(table(calls, dtypes, predict(cases(calls, dtypes))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
