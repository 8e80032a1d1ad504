"""The benchmarks without a GPU: results file, cells, timing in turns, checks, failed runs.

Times on the emulator are not judged: they say nothing about a GPU.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from benchmarks import import_time, run
from benchmarks.measuring import timing
from benchmarks.measuring.devices import CudaDevice, EmulatedDevice, open_device
from benchmarks.measuring.results import (
    Clocks,
    Machine,
    Measurement,
    Results,
    ResultsError,
    Times,
    WorstError,
    load,
    save,
)  # fmt: skip
from benchmarks.measuring.timing import Contender, Effort
from benchmarks.peers.libraries import TorchPeer
from benchmarks.peers.peer import BFLOAT16, MissingPeer, Peer, RefusedProblem, probe
from benchmarks.session.inputs import RandomPool, Session
from benchmarks.session.measure import measure_cell, measure_on_device
from benchmarks.suites.cells import (
    DRY,
    FULL,
    MIB,
    QUICK,
    SUITES,
    Cell,
    Scale,
    cells,
    change_points,
)
from benchmarks.suites.operations import DTYPES, OPERATIONS, MeasuredOperation, bytes_per_element
from cusoftmax import reference
from cusoftmax.planning.device import DeviceSpec

H100 = DeviceSpec.known(90)
FOLDER = Path(run.__file__).parent
COMMANDS = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
SHORT = Effort(runs=3, seconds=10.0, batch=2, warm=0.0)


# ----------------------------------------------------------------------------------- the commands

ASCII = {**os.environ, "PYTHONIOENCODING": "ascii"}


def started(
    name: str, *arguments: str, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m benchmarks.NAME`` in a process of its own."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(command, cwd=FOLDER.parent, env=env, capture_output=True, text=True)


AFTERWARDS = """
import runpy, sys
sys.argv[:] = ["", "--help"]
try:
    runpy.run_module("benchmarks.{name}", run_name="__main__", alter_sys=True)
except SystemExit as exit:
    assert not exit.code
print("32 × 7 of σ 1")
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_run_as_the_readme_says_and_print_in_ascii(name: str) -> None:
    """A name such as × is in most tables; to make one takes longer than to see it printed."""
    assert f"python -m benchmarks.{name}" in (FOLDER / "README.md").read_text(encoding="utf-8")
    command = [sys.executable, "-c", AFTERWARDS.format(name=name)]
    done = subprocess.run(command, cwd=FOLDER.parent, env=ASCII, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:"), done.stdout
    assert done.stdout.endswith("32 x 7 of sigma 1\n"), done.stderr


@pytest.mark.parametrize("command", ["run --list", "sanitize --list --dtypes float16"])
def test_lists_are_printed_in_ascii(command: str) -> None:
    done = started(*command.split(), env=ASCII)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d ?x ?\d", done.stdout)


def test_what_is_measured_is_public() -> None:
    assert {*OPERATIONS} <= {*cs.__all__}
    assert {"softmax_jvp", "softmax_value_and_jvp"} <= {*OPERATIONS}


def test_import_time_is_of_what_is_imported_beyond_numpy() -> None:
    numpy_seconds, seconds, modules = import_time.measure()
    assert numpy_seconds > 0 and seconds > 0
    assert "cusoftmax" in modules
    assert "numpy" not in modules


# ------------------------------------------------------------------------------------ the results


def measured(**changed: Any) -> Measurement:
    times = Times(2.0, 1.0, 1.5, 2.5, 3.0, 0.5, 10)
    plain = Measurement(
        "sweep", "softmax", "float16", 4, 32, -1, 1.0, "copy", None, "events", times, 512
    )
    return replace(plain, **changed)


def results(*measurements: Measurement) -> Results:
    machine = Machine("H100", "sm_90", 132, 1, "580", Clocks(1, 2, 3, 4), 700.0, 40, "a CPU")
    peers = {"torch": {"version": "2"}, "jax": {"missing": "no"}}
    return Results(
        False, "2026-01-02T03:04:05+00:00", "run", "0" * 40, False, machine,
        {"python": "3.12", "nvrtc": None}, peers, list(measurements),
    )  # fmt: skip


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    failed = measured(who="torch", times=None, failed="no", worst_error=None)
    whole = results(measured(worst_error=WorstError(0.5, "ulp")), failed)
    assert load(save(whole, tmp_path / "new" / "r.json")) == whole


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: d.pop("commit"), "commit is missing"),
        (lambda d: d.update(schema=2), "schema is 2"),
        (lambda d: d["machine"].update(sm_count="132"), "machine.sm_count: '132' is not int"),
        (lambda d: d["machine"].update(fan=1), "machine.fan is not a field"),
        (lambda d: d["measurements"][0].update(how="guess"), "how: 'guess'"),
        (lambda d: d["measurements"][0].update(failed="why"), "either times or failed"),
        (lambda d: d["measurements"][0].update(times=None), "either times or failed"),
        (lambda d: d["measurements"][0]["times"].update(median=9.0), "not ordered"),
        (lambda d: d["measurements"][0].update(axis=1), "axis: 1"),
        (lambda d: d["peers"].update(jax={}), "peers.jax"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[Any], Any], said: str) -> None:
    path = save(results(measured()), tmp_path / "r.json")
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ResultsError, match=said.replace("(", r"\(")):
        load(path)


def test_a_save_that_fails_leaves_the_file_before(tmp_path: Path) -> None:
    path = save(results(measured()), tmp_path / "r.json")
    with pytest.raises(ValueError, match="JSON"):
        save(results(measured(gb_per_s=math.nan)), path)
    assert load(path) == results(measured())


# --------------------------------------------------------------------------------------- the cells


def cells_of(suite: str, scale: Scale = FULL, **chosen: Any) -> list[Cell]:
    given = {"ops": ("softmax", "softmax_vjp"), "dtypes": None} | chosen
    return cells([suite], given["ops"], given["dtypes"], scale, H100)


def test_the_sweep_has_every_length_and_enough_traffic() -> None:
    lengths = {2**k for k in range(5, 21)} | {1000, 1023, 1025, 4097, 50257, 128256, 151936}
    for op in ("softmax", "softmax_vjp"):
        for dtype in DTYPES:
            found = [c for c in cells_of("sweep") if (c.op, c.dtype) == (op, dtype)]
            assert {c.n for c in found} == lengths
            assert all(256 * MIB <= c.least_bytes < 300 * MIB for c in found)


@pytest.mark.parametrize("scale", [FULL, QUICK, DRY])
def test_least_bytes_are_the_plans(scale: Scale) -> None:
    for suite in SUITES:
        for cell in cells_of(suite, scale, ops=("softmax", "softmax_vjp", "softmax_jvp")):
            assert cell.least_bytes == cell.plan(H100).least_bytes
            assert cell.plan(H100).rows == cell.rows


def test_cells_are_in_order_of_rank() -> None:
    todo = cells(list(SUITES), ("softmax",), None, FULL, H100)
    assert (todo[0].suite, todo[0].n, todo[0].dtype) == ("sweep", 4096, "float16")
    place = {suite: [i for i, c in enumerate(todo) if c.suite == suite] for suite in SUITES}
    assert max(place["overhead"]) < min(place["cliffs"])
    assert max(place["sweep"][:32]) < min(place["few_rows"])
    assert [c.rank for c in todo] == sorted(c.rank for c in todo)


@pytest.mark.parametrize(
    ("op", "first", "after"),
    [("softmax", 64, 8), ("softmax_vjp", 64, 8), ("softmax", 65, 16), ("softmax_vjp", 65, 16)],
)
def test_cliffs_surround_every_change_of_plan(op: str, first: int, after: int) -> None:
    """Of rows of whole sectors, and of odd ones, which are staged and so have other plans."""
    lengths = {c.n for c in cells_of("cliffs", ops=(op,), dtypes=("float16",))}

    def kind(n: int) -> tuple[str, int]:
        rows = -(-256 * MIB // (n * bytes_per_element(op, "float16")))
        plan = Cell("cliffs", op, "float16", rows, n).plan(H100)
        return plan.pattern, plan.cluster

    edges = [n for n in range(first, 70000, 64) if kind(n) != kind(n + 64)]
    assert len(edges) >= 3  # to block, and to clusters of 2 and more
    for n in edges:
        beside = [a for a in range(n, n + 64) if {a, a + after} <= lengths]
        assert any(kind(a) != kind(a + after) for a in beside), f"a change after {n} is left out"


def test_changes_are_found_to_the_element() -> None:
    steps = (100, 1000, 1001 + 64, 30000)
    found = change_points(lambda n: sum(n > s for s in steps), 8, 1 << 20)
    assert list(found) == list(steps)


# ----------------------------------------------------------------------------------------- timing


class ScriptedDevice:
    """A device whose times are given; it records which calls were timed, with what lead."""

    def __init__(self, enqueue: float = 0.0) -> None:
        self.timed: list[tuple[Any, float]] = []
        self.enqueue = enqueue

    def time_call(self, call: Callable[[], Any], lead: float, evict: bool) -> tuple[float, float]:
        self.timed.append((call(), lead))
        return 1.0, self.enqueue

    def synchronize(self) -> None: ...


def test_contenders_take_turns_on_changing_memory() -> None:
    device = ScriptedDevice()
    names = ("a", "b", "c")
    entries = [Contender(w, [lambda w=w, s=s: (w, s) for s in range(4)]) for w in names]
    timing.on_device(device, entries, Effort(20, 10.0, warm=0.0), evict=False)  # type: ignore[arg-type]
    order = [who for (who, _), _ in device.timed]
    rounds = [tuple(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert all(sorted(r) == list(names) for r in rounds)
    assert len(set(rounds)) > 1  # in different orders
    assert [used for (_, used), _ in device.timed] == [i % 4 for i in range(len(order))]
    assert [len(e.seconds) for e in entries] == [20] * 3


def test_a_contender_that_raises_is_timed_no_further() -> None:
    calls = iter(range(100))

    def tires() -> None:
        if next(calls) > 5:
            raise RuntimeError("tired\nof it")

    entries = [Contender("a", [tires]), Contender("b", [int])]
    timing.on_device(ScriptedDevice(), entries, Effort(10, 10.0, warm=0.0), evict=False)  # type: ignore[arg-type]
    assert (entries[0].failed, entries[1].failed) == ("tired", None)
    assert (len(entries[0].seconds), len(entries[1].seconds)) == (3, 10)


def test_the_gpu_waits_longer_than_the_host_needs() -> None:
    device = ScriptedDevice(enqueue=3e-3)
    entry = Contender("slow", [int])
    timing.on_device(device, [entry], Effort(5, 10.0, warm=0.0), evict=False)  # type: ignore[arg-type]
    short = [lead for _, lead in device.timed if lead < 3e-3]
    assert len(short) == 1  # the first sample, which was then repeated
    assert len(entry.seconds) == 5


def test_a_cuda_sample_is_the_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait and the eviction come before the first event; only the call is between the two."""
    log: list[Any] = []

    class Event:
        def __init__(self, name: str) -> None:
            self.name = name

        def record(self) -> None:
            log.append(self.name)

        def synchronize(self) -> None:
            log.append("wait")

    class Cupy:
        class cuda:
            @staticmethod
            def get_elapsed_time(start: Event, end: Event) -> float:
                assert (start.name, end.name) == ("start", "end")
                return 2.5

    device = CudaDevice.__new__(CudaDevice)
    device.cupy, device.spec = Cupy, H100
    device._start, device._end = Event("start"), Event("end")
    device._filler = np.zeros(1024, np.uint64)
    device._sink = None
    device._pause = lambda grid, block, args: log.append((grid, [int(a) for a in args[1:3]]))
    elapsed, enqueued = device.time_call(lambda: log.append("call"), 1e-3, evict=False)
    assert log == [((1,), [0, 1_000_000]), "start", "call", "end", "wait"]
    assert elapsed == 2.5e-3
    assert enqueued > 0
    log.clear()
    device.time_call(lambda: None, 0.0, evict=True)
    assert log[0] == ((4 * 132,), [512, 0])


# -------------------------------------------------------------------------------- one cell measured


@pytest.fixture
def device() -> Iterator[EmulatedDevice]:
    with open_device("emulator") as opened:
        assert isinstance(opened, EmulatedDevice)
        yield opened


class NumpyPeer(Peer):
    """A peer for tests: NumPy's softmax, changed by `spoil`."""

    needs_gpu = False
    ops = ("softmax",)

    def __init__(self, name: str, spoil: Callable[[np.ndarray], Any] = lambda y: y) -> None:
        self.name, self.spoil = name, spoil

    def probe(self, device: Any) -> str:
        return "1"

    def prepare(self, device: Any, op: str, sets: Any, axis: int) -> list[Any]:
        def call(x: np.ndarray) -> Any:
            return self.spoil(reference.softmax(x, axis).astype(x.dtype))

        return [partial(call, device.dlpack_source(x)) for (x,) in sets]

    def result(self, device: Any, value: Any, dtype: Any) -> Any:
        return value


def refuse(y: np.ndarray) -> Any:
    raise RefusedProblem("too long")


@pytest.mark.parametrize("axis", [-1, 0])
def test_every_contender_is_judged(device: EmulatedDevice, axis: int) -> None:
    peers = [
        NumpyPeer("right"),
        NumpyPeer("wrong", lambda y: y * 2),
        NumpyPeer("nan", lambda y: y * np.nan),
        NumpyPeer("raises", refuse),
        NumpyPeer("shape", lambda y: y[:1]),
    ]
    cell = Cell("sweep", "softmax", "float32", 6, 32, axis)
    with np.errstate(all="ignore"):
        found = measure_on_device(Session(device, peers, SHORT, RandomPool(device)), cell)
    by_name = {m.who: m for m in found}
    assert list(by_name) == ["cusoftmax", "right", "wrong", "nan", "raises", "shape", "copy"]
    ours = by_name["cusoftmax"]
    assert ours.failed is None and ours.times is not None and ours.plan is not None
    assert ours.worst_error is not None
    assert 0 < ours.worst_error.value <= 3
    assert ours.bytes == 6 * 32 * 4 * 2
    copied = by_name["copy"].times
    assert copied is not None
    assert ours.fraction_of_copy == pytest.approx(copied.median / ours.times.median)
    assert ours.gb_per_s == pytest.approx(ours.bytes / ours.times.median / 1e9)
    assert ours.times.runs == 3
    right = by_name["right"]
    assert right.failed is None
    assert right.worst_error is not None
    assert right.worst_error.value <= 0.51  # float64, rounded
    for name, said in (
        ("wrong", "wrong result"),
        ("nan", "wrong result"),
        ("raises", "RefusedProblem: too long"),
        ("shape", "shape"),
    ):
        failed = by_name[name]
        assert failed.times is None
        assert failed.failed is not None
        assert said in failed.failed


def test_an_output_that_is_not_written_is_noticed(
    device: EmulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: Any, inputs: Any, axis: int, out: Any = None) -> Any:
        return out

    monkeypatch.setattr(MeasuredOperation, "call", nothing)
    cell = Cell("sweep", "softmax", "float16", 4, 32)
    ours = measure_on_device(Session(device, (), SHORT, RandomPool(device)), cell)[0]
    assert ours.failed is not None
    assert "wrong result" in ours.failed


def test_spreads_are_measured_side_by_side(device: EmulatedDevice) -> None:
    cell = Cell("range", "softmax_vjp", "float32", 4, 32, sigmas=(1.0, 50.0))
    found = measure_on_device(Session(device, (), SHORT, RandomPool(device)), cell)
    assert [(m.who, m.sigma) for m in found][:2] == [("cusoftmax", 1.0), ("cusoftmax", 50.0)]
    assert all(m.failed is None for m in found)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_inputs_are_random_and_differ(device: EmulatedDevice, dtype: str) -> None:
    numpy_dtype = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    pool = RandomPool(device)
    pair = [device.upload(np.zeros((300, 100), numpy_dtype)) for _ in range(2)]
    for array in pair:
        pool.fill(array, 50.0)
    a, b = (device.dlpack_source(array).astype(np.float64) for array in pair)
    assert 45 < a.std() < 55 and abs(a.mean()) < 2
    assert (a == 0).mean() < 0.01
    assert (a == b).mean() < 0.1
    assert not (a[:40] == a[41:81]).all(axis=1).any()  # rows do not repeat each other


def test_overhead_has_a_bare_launch_beside_the_call(device: EmulatedDevice) -> None:
    cell = cells_of("overhead", DRY, ops=("softmax_vjp",))[0]
    found = measure_cell(Session(device, (), SHORT, RandomPool(device)), cell)
    names = ["cusoftmax", "cusoftmax, out=", "rawkernel", "rawkernel, empty_like"]
    assert [m.who for m in found] == names
    for m in found:
        assert (m.failed, m.how, m.gb_per_s) == (None, "host", None)
        assert m.worst_error is not None  # the result of the bare launch is judged too


def test_first_calls_are_of_new_processes(device: EmulatedDevice) -> None:
    cell = cells_of("cold", DRY, ops=("softmax",))[0]
    cold, cached = measure_cell(Session(device, (), SHORT, RandomPool(device)), cell)
    assert (cold.failed, cached.failed) == (None, None)
    assert cold.times is not None and cached.times is not None
    assert cold.times.median > 2 * cached.times.median  # the first one compiles


def test_missing_peers_say_why(device: EmulatedDevice) -> None:
    class Absent(NumpyPeer):
        def probe(self, device: Any) -> str:
            raise MissingPeer("not installed")

    class Broken(NumpyPeer):
        def probe(self, device: Any) -> str:
            raise OSError("libcuda.so\nmore")

    class NeedsGpu(NumpyPeer):
        needs_gpu = True

    available, found = probe([Absent("a"), Broken("b"), NeedsGpu("c"), NumpyPeer("d")], device)
    assert [p.name for p in available] == ["d"]
    assert found == {
        "a": {"missing": "not installed"},
        "b": {"missing": "OSError: libcuda.so"},
        "c": {"missing": "needs a GPU"},
        "d": {"version": "1"},
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_reads_the_same_memory(device: EmulatedDevice, dtype: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    peer = TorchPeer()
    peer.probe(device)
    session = Session(device, [peer], SHORT, RandomPool(device))
    for op in ("softmax", "softmax_vjp"):
        found = measure_on_device(session, Cell("sweep", op, dtype, 4, 32))
        assert [m.failed for m in found] == [None] * 3


# --------------------------------------------------------------------------------------- whole runs


def start(tmp_path: Path, *arguments: str) -> tuple[int, Results]:
    """Make a dry run in this process; return its exit status and its results."""
    path = tmp_path / "r.json"
    given = ["--device", "emulator", "--peers", "", "--ops", "softmax", "--dtypes", "float16"]
    status = run.main([*given, "--out", str(path), *arguments])
    return status, load(path)


def test_a_dry_run_measures_every_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for name in SUITES if name != "cold"]  # tested on its own
    status, found = start(tmp_path, *[f"--suite={name}" for name in names])
    assert status == 0
    assert found.dry_run
    assert found.finished is not None
    assert found.machine.clocks is None
    assert {m.suite for m in found.measurements} == set(names)
    assert all(m.failed is None for m in found.measurements)
    assert found.skipped == []
    assert "DRY RUN" in capsys.readouterr().out


def test_a_dry_run_stays_out_of_the_results_folder() -> None:
    dry = replace(results(), dry_run=True)
    assert (run.FOLDER / "results") not in run._default_path(dry, ["sweep"]).parents
    real = run._default_path(results(), ["sweep", "range"])
    assert real == run.FOLDER / "results" / "20260102T030405Z-h100-sweep-range.json"


def test_the_commit_of_a_copy_without_git_is_an_option(tmp_path: Path) -> None:
    for described, dirty in ((40 * "a", False), (40 * "b" + "-dirty", True)):
        _, found = start(tmp_path, "--suite", "sweep", "--minutes", "0", "--commit", described)
        assert (found.commit, found.dirty) == (described[:40], dirty)


def test_beyond_its_minutes_a_run_says_what_it_left_out(tmp_path: Path) -> None:
    status, found = start(tmp_path, "--suite", "sweep", "--minutes", "0")
    assert status == 1  # nothing was measured
    assert found.measurements == []
    assert found.skipped == ["0 minutes are over: 2 cells of sweep"]


def stop_at_second_cell(monkeypatch: pytest.MonkeyPatch, stop: Callable[[], None]) -> None:
    """Call `stop` before the second cell of a run is measured."""
    cells_before: list[Cell] = []

    def measure(session: Session, cell: Cell) -> list[Measurement]:
        if cells_before:
            stop()
        cells_before.append(cell)
        return measure_cell(session, cell)

    monkeypatch.setattr(run, "measure_cell", measure)


def test_a_run_that_is_stopped_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    stop_at_second_cell(monkeypatch, stop)
    status, found = start(tmp_path, "--suite", "sweep")
    assert status == 1
    assert found.finished is None
    assert {m.n for m in found.measurements} == {32}
    assert found.skipped == ["stopped: 1 cells of sweep"]


def test_a_run_that_loses_its_gpu_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose() -> None:
        def dead(self: EmulatedDevice) -> None:
            raise RuntimeError("an illegal memory access was encountered")

        monkeypatch.setattr(EmulatedDevice, "synchronize", dead)

    stop_at_second_cell(monkeypatch, lose)
    status, found = start(tmp_path, "--suite", "sweep")
    assert status == 1
    assert {m.n for m in found.measurements} == {32}  # none of the cell in which it was lost
    assert "the GPU was lost in sweep: softmax float16 2 × 1000" in found.skipped[0]


def test_a_cell_that_cannot_be_measured_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        raise MemoryError("[no] memory")

    stop_at_second_cell(monkeypatch, stop)
    status, found = start(tmp_path, "--suite", "sweep")
    assert status == 1
    assert [m.failed for m in found.measurements if m.failed] == ["MemoryError: [no] memory"]
    assert "failed: sweep softmax float16 2 × 1000" in capsys.readouterr().out


def test_a_list_measures_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "gpu_is_present", lambda: False)
    monkeypatch.setattr(run, "open_device", None)  # no device is opened
    assert run.main(["--list", "--suite", "sweep", "--quick", "--dtypes", "float32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len((*QUICK.first_lengths, *QUICK.other_lengths))
    assert lines[0] == "sweep: softmax float32 8192 × 4096, 256.00 MiB, block"


def test_without_a_gpu_the_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "gpu_is_present", lambda: False)
    assert run.main([]) == 2
    assert "there is no GPU" in capsys.readouterr().out
