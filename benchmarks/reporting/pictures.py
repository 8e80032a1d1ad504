"""The pictures of a report. Each shows one kind of GPU, named in its title."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from benchmarks.measuring.results import COPY, DRY_RUN_STAMP
from benchmarks.reporting.sheets import Comparison, GpuSheet, MeasuredCell, dtype_order
from benchmarks.reporting.style import (
    COPY_COLOUR,
    PLAIN,
    legend,
    length,
    length_axis,
    log_axis,
    outer_labels,
    panels,
    style,
    unzip,
)
from benchmarks.reporting.targets import neighbour_runs, power_of_two
from cusoftmax.contract.table import CONTRACTS
from cusoftmax.operations.lookup import find

ZERO_ERROR = 1e-2  # where an error of 0 is drawn on a logarithmic axis
WIDEST_ACCESS = 8  # elements of float16 in the widest access
OPEN_MARKERS = {"sweep": "N no power of two", "axis0": "odd number of columns"}
HEAT_LIMIT = 2.0  # the strongest colours are this ratio and its inverse


class Pictures:
    """Draws and saves the pictures of a sheet; `saved` has the name and caption of each."""

    def __init__(self, sheet: GpuSheet, folder: Path, prefix: str) -> None:
        self.sheet = sheet
        self.folder = folder
        self.prefix = prefix
        self.saved: list[tuple[str, str]] = []

    def draw(self) -> list[tuple[str, str]]:
        """Draw every picture for which there are measurements."""
        for suite in self.sheet.suites:
            timed = self.sheet.on_device(suite)
            for op in dict.fromkeys(c.op for c in timed):
                cells = [c for c in timed if c.op == op]
                if suite in ("sweep", "axis0"):
                    self.bandwidth(suite, op, cells)
                    self.error(suite, op, cells)
                elif suite == "few_rows":
                    self.few_rows(op, cells)
                elif suite == "cliffs":
                    self.cliffs(op, cells)
            if suite in ("sweep", "axis0", "few_rows"):
                self.heat(suite, timed)
        return self.saved

    def bandwidth(self, suite: str, op: str, cells: list[MeasuredCell]) -> None:
        dtypes = _dtypes(cells)
        figure, axes = panels(len(dtypes), columns=2, size=(6.4, 3.6))
        for axis, dtype in zip(axes, dtypes, strict=True):
            panel = [c for c in cells if c.dtype == dtype]
            self._lines(axis, panel, joined=is_aligned)
            length_axis(axis)
            axis.set_title(dtype, loc="left", fontsize=11)
        outer_labels(axes, 2, "elements of a row, N", "bandwidth, GB/s")
        legend(figure, axes)
        what = f"{op}: bandwidth against N" + _suffix(suite)
        what += f" (open: {OPEN_MARKERS[suite]})"
        self._save(figure, f"{suite}-{op}-bandwidth", what)

    def few_rows(self, op: str, cells: list[MeasuredCell]) -> None:
        dtypes, rows = _dtypes(cells), sorted({c.rows for c in cells})
        figure, axes = panels(len(dtypes) * len(rows), columns=len(rows), size=(3.6, 2.7))
        places = [(d, r) for d in dtypes for r in rows]
        for axis, (dtype, count) in zip(axes, places, strict=True):
            panel = [c for c in cells if (c.dtype, c.rows) == (dtype, count)]
            self._lines(axis, panel)
            length_axis(axis)
            log_axis(axis, (1.0,))
            axis.set_title(f"{dtype}, {count} row{'s' * (count > 1)}", loc="left", fontsize=10)
        outer_labels(axes, len(rows), "elements of a row, N", "bandwidth, GB/s")
        legend(figure, axes)
        self._save(figure, f"few_rows-{op}-bandwidth", f"{op}: few and long rows")

    def cliffs(self, op: str, cells: list[MeasuredCell]) -> None:
        """Draw a row of panels per dtype, and a panel for each run of neighbouring lengths."""
        runs = sorted(neighbour_runs(cells), key=lambda r: (r[0].axis, r[0].n))
        dtypes = _dtypes(cells)
        lines = [[r for r in runs if r[0].dtype == d] for d in dtypes]
        columns = max(map(len, lines))
        figure, grid = plt.subplots(
            len(lines),
            columns,
            figsize=(max(1.9 * columns + 1, 6.5), 2.1 * len(lines) + 1.4),
            squeeze=False,
            sharey=True,
            layout="constrained",
        )
        for line, row in zip(lines, grid, strict=True):
            for spare in row[len(line) :]:
                spare.axis("off")
            for run, axis in zip(line, row, strict=False):
                self._lines(axis, run, small=True)
                axis.set_title(f"{run[0].dtype}, from {run[0].n}", loc="left", fontsize=9)
                axis.locator_params(axis="x", nbins=3, integer=True)
                axis.xaxis.set_major_formatter(PLAIN)
                axis.tick_params(labelsize=8)
            row[0].set_ylabel("GB/s")
        for axis in grid[-1]:
            axis.set_xlabel("elements of a row, N", fontsize=9)
        top = max(axis.get_ylim()[1] for axis in grid.flat)
        grid[0, 0].set_ylim(0, top)
        legend(figure, list(grid.flat))
        what = f"{op}: neighbouring lengths around the planner's thresholds"
        self._save(figure, f"cliffs-{op}", what)

    def error(self, suite: str, op: str, cells: list[MeasuredCell]) -> None:
        """Draw each contender's worst error against its speed, one point per cell."""
        known = [c for c in cells if (m := self.sheet.measurement(c)) and m.worst_error]
        dtypes = _dtypes(known)
        if not known:
            return
        figure, axes = panels(len(dtypes), columns=2, size=(6.4, 3.6))
        bounds = CONTRACTS[find(op).name].bound
        units = set()
        for axis, dtype in zip(axes, dtypes, strict=True):
            panel = [c for c in known if c.dtype == dtype]
            for number, who in enumerate(self.sheet.contenders(panel)):
                points = []
                for cell in panel:
                    made = self.sheet.measurement(cell, who)
                    if made and made.worst_error and made.fraction_of_copy:
                        units.add(made.worst_error.unit)
                        error = max(made.worst_error.value, ZERO_ERROR)
                        points.append((made.fraction_of_copy, error))
                if points:
                    look = style(who, number) | {"linestyle": "none", "alpha": 0.75}
                    axis.plot(*zip(*points, strict=True), **look)
            log_axis(axis, (1.0, 2.0, 5.0))
            axis.axhline(bounds.get(dtype, 1.0), color=COPY_COLOUR, linewidth=1, linestyle=":",
                         label="bound of the contract")  # fmt: skip
            axis.axvline(1.0, color=COPY_COLOUR, linewidth=1.2, linestyle="--", label="copy")
            axis.set_xlim(left=0)
            axis.set_title(dtype, loc="left", fontsize=11)
            axis.grid(alpha=0.25)
        unit = "u Σ|…|" if units == {"u"} else "ulp"
        label = f"worst error, {unit} (none: at {ZERO_ERROR:g})"
        outer_labels(axes, 2, "speed, fraction of copy bandwidth (right is faster)", label)
        legend(figure, axes)
        what = f"{op}: worst error against speed, one point for each N" + _suffix(suite)
        self._save(figure, f"{suite}-{op}-error", what)

    def heat(self, suite: str, cells: list[MeasuredCell]) -> None:
        """Draw the ratio to the best peer, by operation and dtype (rows) and N (columns)."""
        found = [v for c in cells if (v := self.sheet.best_peer(c))]
        if not found:
            return
        with_rows = suite == "few_rows"

        def line(v: Comparison) -> tuple[str, int]:
            return (v.cell.op, dtype_order(v.cell.dtype))

        def column(v: Comparison) -> tuple[int, int, bool]:
            odd = v.cell.axis == 0 and not is_aligned(v.cell)
            return (v.cell.rows if with_rows else 0, v.cell.n, odd)

        lines, columns = sorted({line(v) for v in found}), sorted({column(v) for v in found})
        names = {line(v): f"{v.cell.op} {v.cell.dtype}" for v in found}
        heads = [f"{r}×" * with_rows + length(n) + ", odd" * odd for r, n, odd in columns]
        ratios = np.full((len(lines), len(columns)), math.nan)
        for v in found:  # the worst, if a length was measured more than once
            at = lines.index(line(v)), columns.index(column(v))
            ratios[at] = np.nanmin([ratios[at], v.ratio])
        size = (2.6 + 0.55 * max(len(columns), 6), 1.9 + 0.36 * len(lines))
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        shown = np.clip(np.log2(ratios), -math.log2(HEAT_LIMIT), math.log2(HEAT_LIMIT))
        top = math.log2(HEAT_LIMIT)
        image = axis.imshow(shown, cmap="RdBu", norm=TwoSlopeNorm(0, -top, top), aspect="auto")
        for (i, j), ratio in np.ndenumerate(ratios):
            if not math.isnan(ratio):
                dark = abs(shown[i, j]) > 0.7 * top
                axis.text(
                    j, i, _ratio(ratio),
                    ha="center", va="center", fontsize=8.5,
                    color="white" if dark else "black",
                    fontweight="bold" if ratio < 1 else "normal",
                )  # fmt: skip
        axis.set_facecolor("#DDDDDD")  # not measured
        axis.set_xticks(range(len(columns)), heads, rotation=60, fontsize=9)
        axis.set_yticks(range(len(lines)), [names[key] for key in lines], fontsize=9)
        axis.set_xlabel("rows × N" if with_rows else "elements of a row, N")
        axis.tick_params(length=0)
        bar = figure.colorbar(image, ax=axis, pad=0.01, fraction=0.03)
        ticks = [1 / HEAT_LIMIT, 1 / math.sqrt(2), 1, math.sqrt(2), HEAT_LIMIT]
        bar.set_ticks([math.log2(t) for t in ticks], labels=[f"{t:.2g}×" for t in ticks])
        bar.ax.tick_params(labelsize=8)
        what = "speed over that of the best peer (blue: faster; bold: below 1.00)" + _suffix(suite)
        self._save(figure, f"{suite}-ratio", what)

    def _lines(
        self,
        axis: Axes,
        cells: list[MeasuredCell],
        joined: Callable[[MeasuredCell], bool] = lambda cell: True,
        small: bool = False,
    ) -> None:
        """Draw a line for each contender and for the copy over the lengths of some cells.

        Cells for which `joined` is False become open markers beside the line: their lengths lie so
        close to others that the line would zigzag.
        """
        highest = 0.0
        for number, who in enumerate(self.sheet.contenders(cells)):
            look = style(who, number) | ({"markersize": 2.5} if small else {})
            series = self._series(cells, lambda c, w=who: self._rate(c, w))
            line = [(c.n, v) for c, v in series if joined(c)]
            axis.plot(*unzip(line), **look)
            separate = [(c.n, v) for c, v in series if not joined(c)]
            open_look = {"linestyle": "none", "markerfacecolor": "white", "label": None}
            axis.plot(*unzip(separate), **(look | open_look))
            highest = max([highest, *(v for _, v in series)])
        copy = [(c.n, v) for c, v in self._series(cells, self._copy) if joined(c)]
        axis.plot(
            *unzip(copy), color=COPY_COLOUR, linestyle="--", linewidth=1.5, label="copy", zorder=4,
            marker="_" if len(copy) == 1 else "", markersize=12,
        )  # fmt: skip
        axis.grid(alpha=0.25)
        axis.set_ylim(0, 1.08 * max([highest, *(v for _, v in copy)]) or 1.0)

    def _series(
        self, cells: list[MeasuredCell], value: Callable[[MeasuredCell], float | None]
    ) -> list[tuple[MeasuredCell, float]]:
        return [(c, v) for c in sorted(cells, key=lambda c: c.n) if (v := value(c))]

    def _rate(self, cell: MeasuredCell, who: str) -> float | None:
        made = self.sheet.measurement(cell, who)
        return made.gb_per_s if made else None

    def _copy(self, cell: MeasuredCell) -> float | None:
        made = self.sheet.measurement(cell)
        return self._rate(cell, COPY) or (made.copy_gb_per_s if made else None)

    def _save(self, figure: Figure, name: str, caption: str) -> None:
        newest, runs = self.sheet.sources[-1].results, len(self.sheet.sources)
        date = newest.started[:10] + (f" (the newest of {runs} runs)" if runs > 1 else "")
        commit = f", commit {newest.commit[:10]}" if newest.commit else ""
        figure.suptitle(f"{caption}\n{self.sheet.gpu}, {date}{commit}", fontsize=11)
        if self.sheet.dry_run:
            figure.text(
                0.5, 0.5, DRY_RUN_STAMP, rotation=20,
                fontsize=min(26.0, 2.2 * figure.get_figwidth()), color="#C00000", alpha=0.45,
                ha="center", va="center", fontweight="bold", zorder=100,
            )  # fmt: skip
        file = f"{self.prefix}-{name}.png"
        figure.savefig(self.folder / file, dpi=110)
        plt.close(figure)
        self.saved.append((file, caption))


def is_aligned(cell: MeasuredCell) -> bool:
    """True if N is a power of two; along axis 0, if the number of columns allows wide accesses."""
    return cell.rows % WIDEST_ACCESS == 0 if cell.axis == 0 else power_of_two(cell.n)


def _ratio(ratio: float) -> str:
    """Format with two decimals, or three where two would round a ratio below 1 up to 1.00."""
    return f"{ratio:.{3 if 0.995 <= ratio < 1 else 2 if ratio < 9.995 else 0}f}"


def _dtypes(cells: Iterable[MeasuredCell]) -> list[str]:
    return sorted({c.dtype for c in cells}, key=dtype_order)


def _suffix(suite: str) -> str:
    return {"axis0": ", axis 0", "few_rows": ", few rows"}.get(suite, "")
