"""Tables of measured data that pictures are drawn from, and what is known of how they were made."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

Row = dict[str, str]


@dataclass(frozen=True)
class Data:
    """Rows of a table, and where they are from.

    Attributes
    ----------
    rows : list of dict
        By the name of the column, each value as text.
    source : str
        What was run, when, and versions of what was compared.
    """

    rows: list[Row]
    source: str

    def series(self, x: str, y: str, **chosen: str) -> tuple[list[float], list[float]]:
        """Return two columns of the rows that have these values, in the order of the first."""
        rows = [r for r in self.rows if all(r[name] == value for name, value in chosen.items())]
        points = sorted((float(r[x]), float(r[y])) for r in rows)
        return [a for a, _ in points], [b for _, b in points]


def read(file: Path) -> Data:
    """Read a table that `write` wrote."""
    said, *lines = file.read_text(encoding="utf-8").splitlines()
    return Data(list(csv.DictReader(lines)), said.removeprefix("# "))


def write(file: Path, rows: Iterable[Mapping[str, object]], command: str, compared: str) -> None:
    """Write a table; its first line says how it was made."""
    made = list(rows)
    today = datetime.datetime.now(datetime.UTC)
    day = f"{today.day} {today:%B %Y}"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as out:
        out.write(f"# made by `{command}` on {day}{f', {compared}' if compared else ''}\n")
        lines = csv.DictWriter(out, list(made[0]), lineterminator="\n")
        lines.writeheader()
        lines.writerows(made)
