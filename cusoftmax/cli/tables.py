"""Tables that fit the terminal: where one does not, its rows are printed as lists."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

_ANY_WIDTH = 10_000
_INDENT = "  "


def print_table(console: Console, table: Table) -> None:
    """Print a table if no word of it would be cut, else a list for each row.

    Columns that may be broken between words need ``no_wrap=False``, rich's default.
    """
    wide = console.options.update(width=_ANY_WIDTH)
    if console.measure(table, options=wide).minimum <= console.width:
        console.print(table)
        return
    if table.title:
        console.print(table.title, style="italic")
    headers = [str(column.header) for column in table.columns]
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(name)
        pairs = zip(headers[1:], cells, strict=True)
        entries = [f"{header}: {cell}" if header else cell for header, cell in pairs if cell]
        for line in _filled(entries, console.width - len(_INDENT)):
            console.print(Text.from_markup(f"{_INDENT}{line}"))


def _filled(entries: list[str], width: int) -> list[str]:
    """Return lines of entries that are not broken where they fit."""
    lines: list[str] = []
    for entry in entries:
        longer = f"{lines[-1]}, {entry}" if lines else entry
        if lines and Text.from_markup(longer).cell_len < width:
            lines[-1] = longer
        else:
            lines.append(entry)
    return lines
