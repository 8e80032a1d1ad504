"""The look of the documents' pictures: as wide as a page, with a caption that names the source.

Colours are Okabe and Ito's, which colour-blind readers tell apart; markers, line styles and words
say the same in black and white.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.reporting import style  # chooses the backend of Matplotlib before it is imported

import matplotlib.pyplot as plt  # isort: skip
from PIL import Image  # isort: skip
from PIL.PngImagePlugin import PngInfo  # isort: skip
from matplotlib.figure import Figure  # isort: skip

WIDTH, DPI = (
    7.0,
    200,
)  # inches; shown at 700 pixels an inch has 100, and a screen may have twice those
CAPTION_COLUMNS, CAPTION_SIZE, LINE = 118, 7.4, 0.135  # characters of a line, points, inches
COLOURS = 96  # of a file, which is then a third as large
FONTS = {"font.size": 9, "axes.labelsize": 9, "legend.fontsize": 9, "axes.titlesize": 9.5}
FONTS |= {"xtick.labelsize": 8.5, "ytick.labelsize": 8.5, "legend.handlelength": 3.2}
LINES = {"cusoftmax": "-", "SciPy": "--", "PyTorch": "-.", "Triton": "--", "Liger": ":"}
OTHERS = {"SciPy": ("#009E73", "D"), "NumPy": ("#009E73", "D")}


def series(who: str) -> dict[str, Any]:
    """Return how a line is drawn: the colours and markers of the reports, and a line style."""
    found = style.style(who if who == "cusoftmax" else who.lower().replace("pytorch", "torch"))
    if who in OTHERS:
        found |= dict(zip(("color", "marker"), OTHERS[who], strict=True))
    return found | {"label": who, "linestyle": LINES.get(who, "-")}


@contextmanager
def picture(file: Path, height: float, title: str, caption: str, **grid: Any) -> Iterator[Any]:
    """Yield the figure and its axes; save it with its caption when they are drawn.

    Parameters
    ----------
    file : Path
        Where to.
    height : float
        Inches of it without the caption.
    title : str
        What the picture shows, as a sentence.
    caption : str
        How it was made and of which data.
    **grid
        Of ``Figure.subplots``.
    """
    lines = textwrap.wrap(caption, CAPTION_COLUMNS)
    below = (len(lines) + 0.6) * LINE
    with plt.rc_context(FONTS | {"axes.spines.top": False, "axes.spines.right": False}):
        whole = Figure(figsize=(WIDTH, height + below), layout="constrained")
        figure, under = whole.subfigures(2, 1, height_ratios=(height, below))
        heading = "\n".join(textwrap.wrap(title, 84))
        figure.suptitle(heading, x=0.012, ha="left", fontsize=10.5, fontweight="bold")
        yield figure, figure.subplots(squeeze=False, **grid)
        small = {"fontsize": CAPTION_SIZE, "color": "#404040", "linespacing": 1.25}
        under.text(0.012, 0.98, "\n".join(lines), va="top", **small)
        drawn = io.BytesIO()
        whole.savefig(drawn, dpi=DPI)
    file.parent.mkdir(parents=True, exist_ok=True)
    said = PngInfo()
    said.add_text("Description", caption)
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
        file, optimize=True, pnginfo=said
    )
