"""Count PyTorch's sample inputs: tried, passed, and left out with the reason.

    python -m tests.torch.opinfo_counts [FUNCTION ...]

Values, on the GPU or the emulator; test_opinfo.py asserts the same, and derivatives besides.
"""

from __future__ import annotations

import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

from cusoftmax.machine import machine
from tests.torch.test_opinfo import FUNCTIONS, LEFT_OUT, compare, entries, samples


def kind_of(dtype: Any) -> str:
    """Return under which name a dtype is counted."""
    if dtype.is_complex:
        return "complex"
    return str(dtype).removeprefix("torch.") if dtype.is_floating_point else "integer"


def count(name: str, device: Any) -> dict[str, Counter[str]]:
    """Return for each kind of dtype how many samples of a function were what."""
    counts: dict[str, Counter[str]] = {}
    for dtype in sorted(set().union(*(entry.dtypes for entry in entries(name))), key=str):
        kind = kind_of(dtype)
        found = counts.setdefault(kind, Counter())
        for entry, sample in samples(name, device, dtype):
            if (name, kind) in LEFT_OUT:
                found["left out"] += 1
                continue
            found["tried"] += 1
            try:
                compare(name, entry, sample)
            except Exception as failed:
                print(f"{name}, {dtype}: {failed}", file=sys.stderr)
            else:
                found["passed"] += 1
    return counts


def main(names: list[str]) -> int:
    """Print a line for each function and kind; return 1 if a sample failed."""
    failed = False
    print("function: kind of dtype: samples tried, passed, left out")
    with machine() as on:
        device = SimpleNamespace(name="emulator" if on.emulated else "cuda")
        for name in names or list(FUNCTIONS):
            for kind, found in count(name, device).items():
                reason = LEFT_OUT.get((name, kind))
                print(
                    f"{name}: {kind}: {found['tried']}, {found['passed']}, {found['left out']}"
                    + f" ({reason})" * (reason is not None),
                    flush=True,
                )
                failed |= found["tried"] != found["passed"]
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
