"""Pictures of measured and predicted numbers: each is a function of its data and a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.drawings import look
from benchmarks.drawings.data import Data
from benchmarks.reporting import style
from benchmarks.static.predictions import STAMP

BOUND = 3  # ulp, of softmax in float32 (README: Numbers)
MOST_SECTORS = 1.05


def accuracy(data: Data, file: Path) -> str:
    """Draw the worst error of softmax against the spread of the logits."""
    caption = (
        "Worst error of softmax in float32 over rows of normal logits, against extended precision; "
        "our kernels on the emulator. Where logits spread by 100 and more, nearly all results are "
        f"0 and exact, whoever computes them. Both axes are logarithmic. Data: {data.source}."
    )
    title = "However far logits spread, softmax is right to its last digits"
    with look.picture(file, 3.5, title, caption) as (figure, ((axis,),)):
        for who in ("PyTorch", "SciPy", "cusoftmax"):
            x, y = data.series("spread", "ulp", who=who)
            if x:
                label = f"{who}, at most {max(y):.1f} ulp"
                axis.plot(x, y, **look.series(who) | {"label": label})
        axis.axhline(BOUND, color="black", linewidth=1, linestyle=(0, (1, 1)))
        axis.annotate(
            f"our bound: {BOUND} ulp", (x[0], BOUND), (0, -4), va="top",
            textcoords="offset points",
        )  # fmt: skip
        axis.set_xscale("log")
        style.log_axis(axis, (1.0, 3.0))
        axis.xaxis.set_major_formatter(style.PLAIN)
        axis.set_xticks(x, minor=False)
        axis.set_xticks([], minor=True)
        axis.set_xlabel("spread of the logits (standard deviation)")
        axis.set_ylabel("worst error, ulp")
        axis.grid(alpha=0.25)
        style.legend(figure, [axis])
    return caption


def sectors(data: Data, file: Path) -> str:
    """Draw the sectors of 32 bytes that softmax moves, before and after rows were staged."""
    caption = (
        "Sectors of 32 bytes that softmax moves over the least possible, rows that lie end to end, "
        "the larger of read and written, as the emulator counts them. Before: each element is "
        f"accessed where it lies. After: as planned for many rows. Data: {data.source}."
    )
    title = "Rows of every length move no more memory than they must"
    looks = {
        "before": {"marker": "s", "color": "#56B4E9", "markersize": 7},
        "after": {"marker": "o", "color": "#D55E00", "markersize": 6, "zorder": 4},
    }
    with look.picture(file, 3.1, title, caption, ncols=2, sharey=True) as (figure, (axes,)):
        for axis, dtype in zip(axes, ("float16", "float32"), strict=True):
            found = {when: data.series("n", "sectors", dtype=dtype, when=when) for when in looks}
            lengths = found["after"][0]
            places = range(len(lengths))
            axis.vlines(
                places, found["after"][1], found["before"][1], color="#999999", linewidth=1.2
            )
            for when, (_, values) in found.items():
                axis.plot(places, values, label=when, linestyle="none", **looks[when],
                          markeredgecolor="black", markeredgewidth=0.6)  # fmt: skip
            for place, value in zip(places, found["before"][1], strict=True):
                if value > 1.1:
                    axis.annotate(f"{value:.1f}", (place, value), (0, 6), ha="center",
                                  textcoords="offset points", fontsize=8)  # fmt: skip
            limit = f"limit of the tests: {MOST_SECTORS}"
            axis.axhline(MOST_SECTORS, color="black", lw=1, ls=(0, (1, 1)), label=limit)
            style.log_axis(axis, (1.0, 2.0, 5.0))
            axis.set_ylim(0.9, 12)
            axis.set_xticks(places, [f"{n:.0f}" for n in lengths], rotation=60)
            axis.set_title(dtype, loc="left")
            axis.set_xlabel("elements of a row, N")
            axis.grid(axis="y", alpha=0.25)
        axes[0].set_ylabel("sectors over the least")
        style.legend(figure, axes)
    return caption


def predicted(data: Data, file: Path) -> str:
    """Draw the speed that the cost model predicts, on each chip."""
    chips = list(dict.fromkeys(row["chip"] for row in data.rows))
    dtypes = list(dict.fromkeys(row["dtype"] for row in data.rows))
    everyone = list(dict.fromkeys(row["who"] for row in data.rows))
    caption = (
        f"{STAMP.capitalize()}: speed of softmax as a fraction of a copy's, from machine code and "
        "the chips' data sheets (docs/cost.md). Open markers: N no power of two. Lines end where a "
        "library has no kernel for longer rows. "
        + ("" if len(everyone) > 1 else "No other library was compiled. ")
        + f"Data: {data.source}."
    )
    title = f"Softmax: fraction of a copy's speed, {STAMP}"
    shape = {"nrows": len(dtypes), "ncols": len(chips), "sharex": True, "sharey": True}
    with look.picture(file, 1.75 * len(dtypes) + 0.9, title, caption, **shape) as (figure, grid):
        for line, dtype in zip(grid, dtypes, strict=True):
            for axis, chip in zip(line, chips, strict=True):
                for who in everyone[::-1]:
                    points = data.series("n", "fraction", dtype=dtype, chip=chip, who=who)
                    _by_length(axis, *points, look.series(who))
                axis.axhline(1.0, color="black", linewidth=1, linestyle=(0, (1, 1)))
                axis.set_xscale("log", base=2)
                axis.set_xticks([32, 1024, 32768], ["32", "1K", "32K"])
                axis.set_ylim(0, 1.09)
                axis.set_title(f"{chip}, {dtype}", loc="left", fontsize=9)
                axis.text(0.5, 0.05, STAMP, transform=axis.transAxes, ha="center", fontsize=7)
                axis.grid(alpha=0.25)
            line[0].set_ylabel("fraction of a copy")
        for axis in grid[-1]:
            axis.set_xlabel("N, elements of a row")
        style.legend(figure, list(grid.flat))
    return caption


DTYPE_LOOKS: dict[str, dict[str, Any]] = {  # filled, open, and a cross: also in black and white
    "float16": {"marker": "o", "color": "#0072B2", "markersize": 4.5},
    "bfloat16": {"marker": "x", "color": "black", "markersize": 4, "markeredgewidth": 1.1},
    "float32": {"marker": "s", "color": "#D55E00", "markersize": 4, "markerfacecolor": "white"},
}


def family(data: Data, file: Path) -> str:
    """Draw the speed that the cost model predicts for each call of the family, on each chip."""
    chips = list(dict.fromkeys(row["chip"] for row in data.rows))
    calls = list(dict.fromkeys(row["call"] for row in data.rows))
    sizes = {row["call"]: f"{int(row['rows']):,} × {int(row['n']):,}" for row in data.rows}
    caption = (
        f"{STAMP.capitalize()}: speed as a fraction of a copy's, from machine code and the chips' "
        "data sheets (docs/cost.md), with rows × elements of a row. Black bars: what each call "
        f"aims at. Data: {data.source}."
    )
    title = f"The family: fraction of a copy's speed, {STAMP}"
    grid = {"ncols": len(chips), "sharex": True, "sharey": True}
    with look.picture(file, 0.31 * len(calls) + 0.95, title, caption, **grid) as (figure, (axes,)):
        for axis, chip in zip(axes, chips, strict=True):
            of_chip = [row for row in data.rows if row["chip"] == chip]
            aims = {row["call"]: float(row["aim"]) for row in of_chip}
            axis.plot([aims[call] for call in calls], range(len(calls)), label="aim", marker="|",
                      color="black", linestyle="none", markersize=16, markeredgewidth=1.6,
                      zorder=2)  # fmt: skip
            for line, (dtype, looks) in enumerate(DTYPE_LOOKS.items()):
                found = [row for row in of_chip if row["dtype"] == dtype]
                axis.plot([float(row["fraction"]) for row in found],
                          [calls.index(row["call"]) + 0.24 * (line - 1) for row in found],
                          label=dtype, linestyle="none", zorder=3, **looks)  # fmt: skip
            axis.set_title(chip, loc="left")
            axis.set_xlim(-0.05, 1.07)
            axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axis.set_yticks(range(len(calls)), [f"{call}\n{sizes[call]}" for call in calls])
            axis.tick_params(axis="y", labelsize=7.2)
            axis.set_ylim(len(calls) - 0.3, -0.7)
            axis.set_xlabel(f"of a copy\n{STAMP}", fontsize=6.8)
            axis.grid(alpha=0.3)
        style.legend(figure, axes)
    return caption


def _by_length(axis: Any, lengths: list[float], values: list[float], looks: dict[str, Any]) -> None:
    """Draw a line over the powers of two, and open markers for other lengths, which lie close."""
    points = list(zip(lengths, values, strict=True))
    powers = [p for p in points if (int(p[0]) & (int(p[0]) - 1)) == 0]
    others = [p for p in points if p not in powers]
    small = looks | {"markersize": 3.5, "linewidth": 0.7 * looks["linewidth"]}
    axis.plot(*style.unzip(powers), **small)
    open_ones = small | {"linestyle": "none", "markerfacecolor": "white", "label": None}
    axis.plot(*style.unzip(others), **open_ones)


LEAST_DRAWN = 1e-9
DOMINANT: dict[str, dict[str, Any]] = {  # by the names of `benchmarks.dominant`
    "softmax_vjp": {"color": "#D55E00", "marker": "o"},
    "softmax_value_and_vjp": {"color": "#8A3E00", "marker": "P"},
    "log_softmax_vjp": {"color": "#CC79A7", "marker": "D"},
    "cross_entropy, one-hot": {"color": "#E69F00", "marker": "v"},
    "PyTorch softmax": {"color": "#0072B2", "marker": "s", "linestyle": "-."},
    "PyTorch log_softmax": {"color": "#56B4E9", "marker": "^", "linestyle": ":"},
    "SciPy's y, the formula": {
        "label": "the formula in NumPy",
        "color": "black",
        "marker": "x",
        "linestyle": "--",
    },
}


def dominant(data: Data, file: Path) -> str:
    """Draw the relative error of the derivative of the class that dominates, against its gap."""
    caption = (
        "Relative error of the derivative of the largest class, logits (gap, 0, -1) and a one-hot "
        "vector at that class, float32. At 1 no digit is right: 0 is returned, or twice the value. "
        f"Errors below {LEAST_DRAWN:g} are drawn there. 'The formula': y (v - sum y v) in NumPy, "
        f"of SciPy's y. Our kernels on the emulator. Data: {data.source}."
    )
    title = "The gradient of a confident class keeps its digits"
    with look.picture(file, 4.3, title, caption) as (figure, ((axis,),)):
        for number, (who, looks) in enumerate(DOMINANT.items()):
            gaps, errors = data.series("gap", "relative_error", who=who)
            if gaps:
                shown = [max(value, LEAST_DRAWN) for value in errors]
                label = who if "linestyle" in looks else f"cusoftmax {who}"
                looks = {"label": label} | looks
                axis.plot(gaps, shown, markersize=5, linewidth=1.2,
                          markevery=(number % 3, 3), **looks)  # fmt: skip
        axis.annotate("no digit is right", (80, 1.0), (0, 5), textcoords="offset points",
                      ha="right")  # fmt: skip
        axis.set_yscale("log")
        axis.set_ylim(LEAST_DRAWN / 2, 20)
        axis.set_xlabel("gap between the largest logit and the next")
        axis.set_ylabel("relative error")
        axis.grid(alpha=0.25)
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return caption
