"""The look of a report's pictures: colours, axes, panels and legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.measuring.results import OURS

# Okabe and Ito's colours, distinguishable by colour-blind readers; markers for black and white.
STYLES: dict[str, tuple[str, str]] = {
    OURS: ("#D55E00", "o"),
    "torch": ("#0072B2", "s"),
    "torch.compile": ("#56B4E9", "D"),
    "triton": ("#009E73", "^"),
    "liger": ("#CC79A7", "v"),
    "quack": ("#E69F00", "P"),
    "jax": ("#8C7A00", "X"),
    "cupyx": ("#777777", "*"),
}
OTHER_COLOURS = ("#5B3A8C", "#3F3F3F", "#7F2F2F")
COPY_COLOUR = "black"
PLAIN = FuncFormatter(lambda number, _: f"{number:g}")


def style(who: str, number: int = 0) -> dict[str, Any]:
    """Colour, marker and line width of a contender, the same in all plots."""
    colour, marker = STYLES.get(who, (OTHER_COLOURS[number % len(OTHER_COLOURS)], "h"))
    ours = who == OURS
    return {
        "color": colour,
        "marker": marker,
        "markersize": 5 if ours else 4,
        "linewidth": 2.4 if ours else 1.2,
        "zorder": 5 if ours else 3,
        "label": who,
    }


def length(n: float, _: object = None) -> str:
    """Abbreviate a row length: 32, 1K, 50257, 1M."""
    whole = round(n)
    for unit, letter in ((1 << 20, "M"), (1 << 10, "K")):
        if whole >= unit and whole % unit == 0:
            return f"{whole // unit}{letter}"
    return str(whole)


def unzip(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Make panels in rows of `columns`, each of a size in inches; unused ones are left blank."""
    columns = min(columns, count)
    lines = -(-count // columns)
    figure, grid = plt.subplots(
        lines,
        columns,
        figsize=(max(size[0] * columns, 6.5), size[1] * lines + 1.3),
        squeeze=False,
        layout="constrained",
    )
    flat = list(grid.flat)
    for spare in flat[count:]:
        spare.axis("off")
    return figure, flat[:count]


def length_axis(axis: Axes) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_locator(LogLocator(base=4, numticks=12))
    axis.xaxis.set_major_formatter(FuncFormatter(length))
    axis.xaxis.set_minor_locator(LogLocator(base=2, numticks=24))
    axis.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def log_axis(axis: Axes, digits: tuple[float, ...]) -> None:
    """Make the y axis logarithmic, with labels at these digits of each decade."""
    axis.set_yscale("log")
    axis.autoscale(axis="y")  # a lower limit of 0 may be set
    axis.yaxis.set_major_locator(LogLocator(base=10, subs=digits, numticks=12))
    axis.yaxis.set_major_formatter(PLAIN)
    axis.yaxis.set_minor_formatter(NullFormatter())


def outer_labels(axes: Sequence[Axes], columns: int, x: str, y: str) -> None:
    """Label the axes only at the left and lower edge of the panels."""
    for number, axis in enumerate(axes):
        if number % columns == 0:
            axis.set_ylabel(y)
        if number + columns >= len(axes):
            axis.set_xlabel(x)


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Draw one legend for all panels, below them."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=min(len(found), 5),
        frameon=False,
    )  # fmt: skip
