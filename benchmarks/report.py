"""Make a page of tables and pictures from one or more results files.

    python -m benchmarks.report benchmarks/results/*.json --out DIR

If several files contain the same cell, the newest counts. Each kind of GPU has its own section and
pictures. Dry runs on the emulator are refused; with --dry-run, only they are accepted, and the page
and every picture are stamped.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring.results import ResultsError
from benchmarks.reporting.page import markdown_page
from benchmarks.reporting.pictures import Pictures
from benchmarks.reporting.sheets import GpuSheet, gather
from benchmarks.reporting.targets import verdicts
from cusoftmax.cli.output import let_any_character_print

PAGE = "report.md"


def write(sheets: Sequence[GpuSheet], folder: Path) -> Path:
    """Draw and write everything; return the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = [(s, Pictures(s, folder, _file_name(s.gpu)).draw()) for s in sheets]
    path = folder / PAGE
    path.write_text(markdown_page(sections), encoding="utf-8")
    return path


def _file_name(gpu: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def main(argv: Sequence[str] | None = None) -> int:
    let_any_character_print()
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
                f"  {v.state_text(sheet.dry_run):<24}{v.target}"
                + (f": {v.number}" if v.number else "")
            )
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
