"""Time of `import cusoftmax` beyond NumPy's, over the time of `import numpy`. Needs no GPU.

    python -m benchmarks.import_time [--runs 11]

Every run is a fresh process that imports NumPy, which cusoftmax needs, and then cusoftmax. The
clock is processor time, which other processes disturb less. Both are imported once before, so that
files are compiled and cached. Printed are the medians, the ratio, and the modules that cusoftmax
imports beyond NumPy's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from cusoftmax.cli.output import let_any_character_print

ROOT = Path(__file__).resolve().parents[1]
TIMED_IMPORTS = """
import json, sys, time
begun = time.process_time()
import numpy
between, before = time.process_time(), set(sys.modules)
import cusoftmax
ended = time.process_time()
print(json.dumps([between - begun, ended - between, sorted(set(sys.modules) - before)]))
"""


def measure() -> tuple[float, float, list[str]]:
    """Import both in a fresh process; return NumPy's seconds, ours, and the modules we import."""
    done = subprocess.run(
        [sys.executable, "-c", TIMED_IMPORTS], capture_output=True, text=True, check=True, cwd=ROOT
    )
    numpy_seconds, seconds, modules = json.loads(done.stdout)
    return numpy_seconds, seconds, modules


def main() -> int:
    let_any_character_print()
    parser = argparse.ArgumentParser(description="Time of `import cusoftmax`, beside NumPy's.")
    parser.add_argument("--runs", type=int, default=11, help="fresh processes")
    given = parser.parse_args()
    measure()
    numpy_times, times, modules = zip(*(measure() for _ in range(given.runs)), strict=True)
    ratio = statistics.median(
        ours / numpys for ours, numpys in zip(times, numpy_times, strict=True)
    )
    print(f"import numpy      {statistics.median(numpy_times) * 1e3:7.1f} ms")
    print(f"import cusoftmax  {statistics.median(times) * 1e3:7.1f} ms more")
    print(f"ratio             {ratio:7.2f}")
    print(f"{len(modules[0])} modules: {' '.join(modules[0])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
