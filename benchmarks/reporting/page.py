"""The page of a report in Markdown: sources of the numbers, targets, and every cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from benchmarks.measuring.results import COPY, DRY_RUN_STAMP, OURS, Measurement
from benchmarks.reporting.sheets import GpuSheet, MeasuredCell, ResultsFile
from benchmarks.reporting.targets import (
    HOST_CALL_PAIRS,
    neighbour_runs,
    percent,
    sigma_differences,
    verdicts,
)
from benchmarks.reporting.targets import times as as_times

SavedPictures = Sequence[tuple[str, str]]  # file names and captions
SUITE_TITLES = {
    "sweep": "Sweep over the length of a row",
    "axis0": "Softmax along axis 0",
    "few_rows": "Few and long rows",
    "cliffs": "Neighbouring lengths",
    "range": "Range of the logits",
    "overhead": "Overhead of a call, on the host's clock",
    "cold": "First call",
}


def markdown_page(sheets: Sequence[tuple[GpuSheet, SavedPictures]]) -> str:
    """Return the page: a section for each kind of GPU."""
    parts = ["# Measurements"]
    if any(sheet.dry_run for sheet, _ in sheets):
        parts.append(
            f"> **{DRY_RUN_STAMP.capitalize()}.** This page shows its own form, and no speed."
        )
    for sheet, pictures in sheets:
        parts += _section(sheet, pictures)
    return "\n\n".join(parts) + "\n"


def _section(sheet: GpuSheet, pictures: SavedPictures) -> list[str]:
    title = f"## {sheet.gpu}" + (f" ({DRY_RUN_STAMP})" if sheet.dry_run else "")
    parts = [title, _sources(sheet.sources), _peers(sheet)]
    if sheet.mixed_cells:
        plural = "s" * (sheet.mixed_cells != 1)
        parts.append(
            f"In {sheet.mixed_cells} cell{plural} the contenders were measured in different runs."
        )
    parts += ["### Targets", _targets(sheet)]
    if pictures:
        parts.append("### Pictures")
        parts += [f"![{caption}]({file})" for file, caption in pictures]
    for suite in (*SUITE_TITLES, *(s for s in sheet.suites if s not in SUITE_TITLES)):
        cells = sheet.cells(suite)
        if cells:
            parts += [f"### {SUITE_TITLES.get(suite, suite)}", _suite(sheet, suite, cells)]
    failed = _failed(sheet)
    return [*parts, *failed]


def _sources(sources: Sequence[ResultsFile]) -> str:
    """Describe the results files, newest first."""
    rows, software = [], []
    for source in reversed(sources):
        run, machine = source.results, source.results.machine
        clocks = "unknown"
        if c := machine.clocks:
            clocks = f"{c.sm_mhz} of {c.sm_max_mhz}, memory {c.memory_mhz} of {c.memory_max_mhz}"
        rows.append(
            (
                f"`{source.name}`",
                run.started + ("" if run.finished else ", cut off"),
                (run.commit or "unknown")[:12] + (", with changes" if run.dirty else ""),
                machine.driver or "unknown",
                clocks,
                f"{machine.power_limit_w:g} W" if machine.power_limit_w else "unknown",
                f"{machine.temperature_c} °C" if machine.temperature_c else "unknown",
                f"`{run.command}`",
            )
        )
        versions = ", ".join(f"{k} {v}" for k, v in run.versions.items() if v)
        software.append(
            f"{machine.arch}, {machine.sm_count} multiprocessors, {machine.l2_bytes / 2**20:.0f} "
            f"MiB of L2; {machine.host_cpu}; {versions}."
        )
    heads = ("file", "started", "commit", "driver", "clocks as found, MHz", "power limit",
             "temperature", "command")  # fmt: skip
    return "\n\n".join([table(heads, rows), *dict.fromkeys(software)])


def _peers(sheet: GpuSheet) -> str:
    newest: dict[str, dict[str, str]] = {}
    for source in sheet.sources:
        newest |= source.results.peers
    described = (
        f"{name} {what['version']}" if "version" in what else f"{name} missing ({what['missing']})"
        for name, what in newest.items()
    )
    return "Peers: " + ("; ".join(described) or "none") + "."


def _targets(sheet: GpuSheet) -> str:
    rows = []
    for v in verdicts(sheet):
        state = v.state_text(sheet.dry_run)
        state = f"**{state}**" if state in ("met", "missed") else state
        short = f"{v.short} of {v.cells}" if v.cells else ""
        rows.append((v.target, state, v.number, v.worst, short))
    return table(("target", "", "number", "worst cell", "cells short of it"), rows)


def _suite(sheet: GpuSheet, suite: str, cells: list[MeasuredCell]) -> str:
    if suite == "cliffs":
        return _cliffs(sheet, cells)
    if suite == "range":
        return _range(sheet, cells)
    if suite in ("overhead", "cold"):
        return _side_by_side(sheet, cells)
    text = _speeds(sheet, cells)
    if len(cells) > 24:
        return f"<details><summary>{len(cells)} cells</summary>\n\n{text}\n\n</details>"
    return text


def _speeds(sheet: GpuSheet, cells: Iterable[MeasuredCell]) -> str:
    rows = []
    for cell in cells:
        made = sheet.measurement(cell)
        assert made is not None  # this package took part in all of `cells`
        best = sheet.best_peer(cell)
        fraction = percent(made.fraction_of_copy) if made.fraction_of_copy else ""
        rows.append(
            (
                str(cell),
                _pattern(made),
                _seconds(made) or made.failed or "",
                f"{made.gb_per_s:.0f}" if made.gb_per_s else "",
                fraction,
                f"{as_times(best.ratio)} {best.who}" if best else "",
                f"{made.worst_error.value:.2f} {made.worst_error.unit}" if made.worst_error else "",
                _source(sheet, cell),
            )
        )
    heads = ("cell", "pattern", "time", "GB/s", "of copy", "best peer", "worst error")
    if len(sheet.sources) == 1:
        return table(heads, [row[:-1] for row in rows])
    return table((*heads, "from"), rows)


def _cliffs(sheet: GpuSheet, cells: Iterable[MeasuredCell]) -> str:
    rows = []
    for run in neighbour_runs(cells):
        rates = {c.n: m.gb_per_s for c in run if (m := sheet.measurement(c)) and m.gb_per_s}
        if len(rates) < 2:
            continue
        lengths = sorted(rates)
        changes = [
            (abs(rates[a] - rates[b]) / max(rates[a], rates[b]), a, b) for a, b in pairwise(lengths)
        ]
        largest, a, b = max(changes)
        first, low, high = run[0], min(rates.values()), max(rates.values())
        name = f"{first.op} {first.dtype}" + (" axis 0" if first.axis == 0 else "")
        window = f"{lengths[0]} to {lengths[-1]}"
        rows.append((name, window, f"{low:.0f} to {high:.0f}", percent(largest), f"{a} to {b}"))
    return table(("operation", "N", "GB/s", "largest step", "where"), rows)


def _range(sheet: GpuSheet, cells: Iterable[MeasuredCell]) -> str:
    rows = []
    changes = {sample.where: sample.number for sample in sigma_differences(sheet)}
    for cell in cells:
        near = sheet.measurement(cell._replace(sigma=1.0))
        far = sheet.measurement(cell)
        where = f"{cell} σ {cell.sigma:g}"
        if near and far and where in changes:
            rows.append((where, _seconds(near), _seconds(far), percent(changes[where])))
    return table(("cell", "time, σ 1", "time", "difference"), rows)


def _side_by_side(sheet: GpuSheet, cells: list[MeasuredCell]) -> str:
    """Return all contenders' times, then the ratios of comparable ones."""
    who = sheet.contenders(cells)
    pairs = [(a, b) for a, b in (*HOST_CALL_PAIRS, (OURS, "torch")) if a in who and b in who]
    rows = []
    for cell in cells:
        shown = [_seconds(m) if (m := sheet.measurement(cell, w)) else "" for w in who]
        times = [(sheet.seconds(cell, a), sheet.seconds(cell, b)) for a, b in pairs]
        ratios = [f"{a / b:.2f}" if a and b else "" for a, b in times]
        rows.append((str(cell), *shown, *ratios))
    return table(("cell", *who, *(f"{a} / {b}" for a, b in pairs)), rows)


def _failed(sheet: GpuSheet) -> list[str]:
    """List what could not be measured, and what was left out."""
    rows = [
        (str(cell), who, made.failed)
        for cell, by_who in sorted(sheet.newest.items(), key=lambda item: item[0].order)
        for who, (made, _) in by_who.items()
        if made.failed
    ]
    parts = []
    if rows:
        parts += ["### Could not be measured", table(("cell", "who", "why"), rows)]
    skipped = [f"- {text} (`{s.name}`)" for s in sheet.sources for text in s.results.skipped]
    if skipped:
        parts += ["### Left out", "\n".join(skipped)]
    return parts


def _pattern(made: Measurement) -> str:
    if made.plan is None:
        return ""
    cluster = f" ×{made.plan.cluster}" if made.plan.cluster > 1 else ""
    return f"{made.plan.pattern}{cluster}, {made.plan.vector} a load"


def _source(sheet: GpuSheet, cell: MeasuredCell) -> str:
    names = {source.name for who, (_, source) in sheet.newest[cell].items() if who != COPY}
    return ", ".join(f"`{name}`" for name in sorted(names))


def _seconds(made: Measurement) -> str:
    """Format the median and half of the interquartile range."""
    if made.times is None:
        return ""
    unit, name = next(
        ((u, n) for u, n in ((1.0, "s"), (1e-3, "ms")) if made.times.median >= u), (1e-6, "µs")
    )
    spread = (made.times.q75 - made.times.q25) / 2
    return f"{made.times.median / unit:.2f} ± {spread / unit:.2f} {name}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines)


def _escaped(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")
