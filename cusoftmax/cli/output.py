"""Output in whatever encoding the terminal or file has."""

from __future__ import annotations

import codecs
import io
import sys

_PLAIN = {  # for output in ASCII
    "×": "x", "·": "*", "−": "-", "±": "+-", "µ": "u", "…": "...", "°": " deg ",
    "σ": "sigma", "Σ": "sum", "∈": "in",
}  # fmt: skip


def let_any_character_print() -> None:
    """Replace characters that the output's encoding lacks; they would be an error."""
    codecs.register_error("cusoftmax", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cusoftmax")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in text), error.end
