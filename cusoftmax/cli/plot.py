"""The pictures of ``cusoftmax demo --plot``: one row of logits, and the Jacobian as it cools."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure, FigureBase

Array = np.ndarray[Any, np.dtype[Any]]

# Okabe and Ito's colours and a hatching each: told apart by colour-blind readers, and in grey.
BARS = {
    "softmax": ("#D55E00", ""),
    "plain normalisation": ("#56B4E9", "//"),
    "argmax": ("white", ".."),
}
COLOURS = "PuOr_r"  # from purple, below 0, to orange


def heat_maps(
    figure: FigureBase,
    axes: Sequence[Any],
    y: Array,
    jacobians: Array,
    temperatures: Sequence[float],
) -> None:
    """Draw the Jacobian at each temperature, with its numbers, in one range of colours.

    Parameters
    ----------
    figure : FigureBase
        What gets the bar of colours.
    axes : sequence of Axes
        One for each temperature.
    y, jacobians : numpy.ndarray
        Softmax at each temperature, and its Jacobian.
    temperatures : sequence of float
        What the logits were divided by.
    """
    most = float(np.abs(jacobians).max())
    for axis, row, jacobian, temperature in zip(axes, y, jacobians, temperatures, strict=True):
        image = axis.imshow(jacobian, cmap=COLOURS, vmin=-most, vmax=most)
        for (i, j), value in np.ndenumerate(jacobian):
            shade = "white" if abs(value) > 0.6 * most else "black"
            text = f"{value:.3f}".replace("-", "−")
            axis.text(j, i, text, ha="center", va="center", color=shade, fontsize=8)
        result = "  ".join(f"{value:.2f}" for value in row)
        axis.set_title(f"temperature {temperature:g}\ny = {result}", fontsize=9)
        axis.set(xticks=range(len(row)), yticks=range(len(row)), xlabel="j")
        axis.spines[:].set_visible(True)
    axes[0].set_ylabel("i")
    figure.colorbar(image, ax=list(axes), label="∂y_i / ∂x_j", shrink=0.8)


def draw(
    file: Path,
    title: str,
    logits: Array,
    y: Array,
    jacobians: Array,
    temperatures: Sequence[float],
) -> None:
    """Save the demonstration's picture.

    Parameters
    ----------
    file : Path
        Where to; its ending says the format.
    title : str
        Where the kernels ran.
    logits : numpy.ndarray
        One row.
    y, jacobians : numpy.ndarray
        Softmax of the row at each temperature, one of which is 1, and its Jacobian.
    temperatures : sequence of float
        What the logits were divided by.
    """
    figure = Figure(figsize=(7.6, 6.2), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    above, below = parts
    axis = above.subplots()
    shares = {
        "softmax": y[list(temperatures).index(1.0)],
        "plain normalisation": logits / logits.sum(),
        "argmax": np.eye(len(logits))[np.argmax(logits)],
    }
    places = np.arange(len(logits))
    for number, (name, values) in enumerate(shares.items()):
        colour, hatch = BARS[name]
        bars = axis.bar(places + 0.27 * (number - 1), values, 0.25, color=colour, hatch=hatch,
                        edgecolor="black", linewidth=0.7, label=name)  # fmt: skip
        axis.bar_label(bars, [f"{v:.2f}" for v in values], fontsize=8, padding=1)
    axis.set_xticks(places, [f"x[{n}] = {x:g}" for n, x in enumerate(logits)])
    axis.set(ylim=(0, 1.12), ylabel="share")
    axis.set_title("one row of logits: who gets how much", fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    heat_maps(below, below.subplots(1, len(temperatures), sharey=True), y, jacobians, temperatures)
    below.suptitle(
        "the Jacobian of softmax(x / temperature), with respect to x / temperature",
        fontsize=10, x=0.01, ha="left",
    )  # fmt: skip
    where = f"cusoftmax demo --plot {file.name}, computed on {title}"
    figure.supxlabel("\n".join(textwrap.wrap(where, 110)), fontsize=7.5, color="#404040")
    figure.savefig(file, dpi=150)
