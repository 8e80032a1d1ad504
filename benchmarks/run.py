"""Measure cusoftmax and its peers on a GPU, side by side, and write one results file.

    python -m benchmarks.run [--suite sweep --suite cliffs … | all] [--quick] [--minutes M] [--list]

Without a GPU, ``--device emulator`` runs the same code on tiny sizes: a dry run, whose times are a
CPU's and mean nothing.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.measuring.devices import Device, open_device
from benchmarks.measuring.results import OURS, Measurement, Results, save
from benchmarks.measuring.timing import Effort
from benchmarks.peers.libraries import all_peers
from benchmarks.peers.peer import Peer, probe
from benchmarks.session import environment, summary
from benchmarks.session.contenders import one_line
from benchmarks.session.inputs import RandomPool, Session
from benchmarks.session.measure import measure_cell
from benchmarks.session.measurements import empty_measurement
from benchmarks.suites.cells import SCALES, SUITES, Cell, cells
from benchmarks.suites.operations import DEFAULT_OPS, DTYPES, OPERATIONS
from cusoftmax.cli.output import let_any_character_print
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.runtime.backend import gpu_is_present

FOLDER = Path(__file__).resolve().parent
SAVE_INTERVAL = 5.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 0 if cusoftmax was measured in every cell that was reached, otherwise 1."""
    let_any_character_print()
    args = _arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)  # a file has no width
    emulated = args.device == "emulator"
    scale = SCALES["dry" if emulated else "quick" if args.quick else "full"]
    suites = _suites(args.suite)
    if args.list:
        spec = DeviceSpec.current() if _on_gpu(args.device) else DeviceSpec.known(args.arch)
        for cell in cells(suites, args.ops, args.dtypes, scale, spec):
            made = cell.plan(spec)
            console.print(f"{cell}, {cell.least_bytes / 2**20:.2f} MiB, {made.pattern}")
        return 0
    if not emulated and not gpu_is_present():
        console.print("there is no GPU: --device emulator makes a dry run", style="red")
        return 2
    with open_device("emulator" if emulated else "cuda", args.arch) as device:
        effort = _effort(emulated, args.quick)
        available, found = probe(_peers(args.peers), device)
        session = Session(device, available, effort, RandomPool(device))
        todo = cells(suites, args.ops, args.dtypes, scale, device.spec)
        results = _empty_results(device, found, arguments, args.commit)
        path = args.out or _default_path(results, suites)
        _print_setup(console, results)
        lost = _run(console, session, todo, results, path, args.minutes)
    summary.show(console, results)
    for line in results.skipped:
        console.print(f"left out: {line}", style="yellow", markup=False)
    console.print(f"written: {path}", soft_wrap=True)
    failed = [m for m in results.measurements if m.who == OURS and m.failed]
    for m in failed[:10]:
        where = f"{m.suite} {m.op} {m.dtype} {m.rows} × {m.n}"
        console.print(f"failed: {where}: {m.failed}", style="red", markup=False)
    return 1 if failed or lost or not results.measurements else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure cusoftmax and its peers side by side.")
    names = [p.name for p in all_peers()]
    parser.add_argument(
        "--suite", action="append", choices=(*SUITES, "all"), help="may be repeated; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes and fewer runs")
    parser.add_argument("--ops", type=_name_list(OPERATIONS), default=DEFAULT_OPS, metavar="A,B")
    parser.add_argument("--dtypes", type=_name_list(DTYPES), metavar="A,B")
    parser.add_argument(
        "--peers", type=_name_list(names), default=names, metavar="A,B",
        help=f"of {', '.join(names)}; none: --peers ''",
    )  # fmt: skip
    parser.add_argument("--device", choices=("auto", "cuda", "emulator"), default="auto")
    parser.add_argument("--arch", default="sm_90", help="GPU to emulate, or to list cells for")
    parser.add_argument("--out", type=Path, metavar="FILE")
    parser.add_argument("--minutes", type=float, metavar="M", help="leave out what comes later")
    parser.add_argument("--commit", metavar="HEX[-dirty]", help="of a copy that has no git")
    parser.add_argument("--list", action="store_true", help="print the cells; measure nothing")
    return parser.parse_args(arguments)


def _name_list(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of a comma-separated list of known names."""

    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(filter(None, (name.strip() for name in text.split(","))))
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return names


def _suites(given: Sequence[str] | None) -> list[str]:
    return list(SUITES) if not given or "all" in given else list(dict.fromkeys(given))


def _peers(names: Sequence[str]) -> list[Peer]:
    return [p for p in all_peers() if p.name in names]


def _on_gpu(kind: str) -> bool:
    return kind != "emulator" and gpu_is_present()


def _effort(emulated: bool, quick: bool) -> Effort:
    if emulated:
        return Effort(runs=3, seconds=1.0, batch=3, warm=0.0)
    return Effort(runs=25, seconds=1.0) if quick else Effort(runs=60, seconds=2.0)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _empty_results(
    device: Device,
    found: dict[str, dict[str, str]],
    arguments: Sequence[str] | None,
    described_commit: str | None,
) -> Results:
    commit, dirty = environment.checkout(described_commit)
    given = sys.argv[1:] if arguments is None else arguments
    return Results(
        dry_run=device.emulated,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", "-m", "benchmarks.run", *given]),
        commit=commit,
        dirty=dirty,
        machine=environment.machine(device),
        versions=environment.versions(device),
        peers=found,
    )


def _default_path(results: Results, suites: Sequence[str]) -> Path:
    """Return the path; a dry run's is in a temporary folder, apart from real measurements."""
    folder = Path(tempfile.mkdtemp(prefix="dry-run-")) if results.dry_run else FOLDER / "results"
    stamp = datetime.fromisoformat(results.started).strftime("%Y%m%dT%H%M%SZ")
    gpu = "".join(c if c.isalnum() else "-" for c in results.machine.gpu).strip("-").lower()
    named = "all" if len(suites) == len(SUITES) else "-".join(suites)
    return folder / f"{stamp}-{gpu}-{named}.json"


def _print_setup(console: Console, results: Results) -> None:
    m = results.machine
    what = "DRY RUN on the emulator, planned for " if results.dry_run else ""
    console.print(f"{what}{m.gpu} ({m.arch}), commit {(results.commit or 'unknown')[:12]}")
    for name, found in results.peers.items():
        state = found.get("version") or f"missing: {found['missing']}"
        console.print(f"  {name:<14}{state}", highlight=False, markup=False)


def _run(
    console: Console,
    session: Session,
    todo: Sequence[Cell],
    results: Results,
    path: Path,
    minutes: float | None,
) -> bool:
    """Measure cell by cell, saving on the way; return True if the run was cut short."""
    begun = saved = time.perf_counter()
    lost, number = False, 0
    before = signal.signal(signal.SIGTERM, _interrupt)  # sent by `timeout`: save, then end
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    try:
        with bar:
            task = bar.add_task("", total=len(todo))
            for number, cell in enumerate(todo):
                if minutes is not None and time.perf_counter() - begun > 60 * minutes:
                    left = todo[number:]
                    results.skipped.append(f"{minutes:g} minutes are over: {_counts(left)}")
                    break
                bar.update(task, description=str(cell), completed=number)
                made = _measure(session, cell)
                try:
                    session.device.synchronize()
                except Exception as error:  # no later call on this device can succeed
                    why = next((m.failed for m in made if m.failed), one_line(error))
                    results.skipped.append(f"the GPU was lost in {cell}: {why}")
                    results.skipped.append(f"after that: {_counts(todo[number + 1 :])}")
                    lost = True
                    break
                results.measurements += made
                if number == 0:
                    results.machine = environment.machine(session.device)  # its clocks under load
                if not console.is_terminal:
                    progress = f"{number + 1}/{len(todo)} {summary.line(cell, made)}"
                    console.print(progress, soft_wrap=True, markup=False, highlight=False)
                session.device.free_cached_memory()
                if time.perf_counter() - saved > SAVE_INTERVAL:
                    save(results, path)
                    saved = time.perf_counter()
        results.finished = datetime.now(UTC).isoformat(timespec="seconds")
    except KeyboardInterrupt:
        results.skipped.append(f"stopped: {_counts(todo[number:])}")
        lost = True
    finally:
        signal.signal(signal.SIGTERM, before)
        save(results, path)
    return lost


def _measure(session: Session, cell: Cell) -> list[Measurement]:
    try:
        return measure_cell(session, cell)
    except Exception as error:
        how = session.device.how if cell.timed == "device" else "host"
        made = empty_measurement(cell, OURS, how, cell.sigmas[0])
        made.failed = one_line(error)
        return [made]


def _counts(left: Sequence[Cell]) -> str:
    """Return how many cells of each suite were not reached, in words."""
    counts = {suite: sum(c.suite == suite for c in left) for suite in SUITES}
    return ", ".join(f"{count} cells of {s}" for s, count in counts.items() if count) or "no cell"


if __name__ == "__main__":
    sys.exit(main())
