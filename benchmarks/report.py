"""A page of tables and pictures from one or several results files.

    python benchmarks/report.py benchmarks/results/*.json --out DIR

Where files measured the same cell, the newest counts. Different GPUs have sections and pictures of
their own. Dry runs on the emulator are refused, unless --dry-run is given: then everything is
stamped.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the checkout is what runs, whatever is installed
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report_cells import Sheet, gather
from benchmarks.report_plots import Pictures
from benchmarks.report_tables import page
from benchmarks.report_targets import verdicts
from benchmarks.results import ResultsError

PAGE = "report.md"


def write(sheets: Sequence[Sheet], folder: Path) -> Path:
    """Draw and write everything; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [(s, Pictures(s, folder, _file_name(s.gpu)).draw()) for s in sheets]
    path = folder / PAGE
    path.write_text(page(sections), encoding="utf-8")
    return path


def _file_name(gpu: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Tables and pictures from results files.")
    parser.add_argument("files", nargs="+", help="results files, as run.py writes them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the page and pictures")
    parser.add_argument("--dry-run", action="store_true", help="of dry runs; stamps everything")
    given = parser.parse_args(argv)
    try:
        sheets = gather(given.files, given.dry_run)
    except (ResultsError, OSError) as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 2
    path = write(sheets, given.out)
    for sheet in sheets:
        print(sheet.gpu + (" (dry run: means nothing)" if sheet.dry_run else ""))
        for v in verdicts(sheet):
            print(
                f"  {v.said(sheet.dry_run):<24}{v.target}" + (f": {v.number}" if v.number else "")
            )
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
