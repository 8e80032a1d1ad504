"""`cusoftmax profile`: the profiled child, the emulator's counts, and what is printed.

No profiler runs here; on a pretended GPU it prints the samples.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import cusoftmax as cs
from cusoftmax import emulator
from cusoftmax.cli import main as cli
from cusoftmax.cli import profile as cli_profile
from cusoftmax.cli import profiled
from cusoftmax.machine import Machine
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.profiling import profile, tools
from cusoftmax.profiling.emulated import emulate, fewer_rows
from cusoftmax.profiling.profile import Times, Work
from cusoftmax.runtime import backend
from tests.profiling.profile_samples import DENIED, GPU_TRACE, raw_page

# ---------------------------------------------------------------------------- child and emulator


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["softmax", "4x1000", "--dtype", "bfloat16"], "group, csm_softmax_group_bf16_v8"),
        (["softmax_vjp", "30x8", "--axis=0"], "column, csm_softmax_vjp_column0_f32"),
    ],
)
def test_child_on_the_emulator(arguments: list[str], said: str, tmp_path: Path) -> None:
    command = [*tools.child(arguments, 2), "--emulator"]
    done = subprocess.run(
        command, cwd=tmp_path, env=tools.environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cusoftmax: ran 2 x softmax")
    assert said in done.stdout


def test_child_without_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "gpu_is_present", lambda: False)
    assert profiled.main(["softmax", "4x5"]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_range_is_warmed_up_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    @contextlib.contextmanager
    def noting(name: str = "profiled") -> Iterator[None]:
        events.append(name)
        yield
        events.append("end")

    monkeypatch.setattr(profile, "_profiled", noting)
    monkeypatch.setattr(profile, "_named", noting)
    monkeypatch.setattr(Work, "call", lambda self, arrays: events.append("call"))
    with emulator.activate():
        on = Machine(DeviceSpec.known(90), False, emulator.asarray, emulator.asnumpy)
        name = profile.run_range(Work("softmax", (3, 5), "float32"), on, 2)
    assert events[:5] == ["call", "call", "call", "profiled", name]
    assert events[5:] == ["call", "call", "end", "end"]
    assert "csm_softmax_group_f32" in name


def test_measure_takes_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks once a copy and thrice a call."""
    import cupy

    clock = 0.0
    copied: list[int] = []
    called: list[int] = []
    call = Work.call

    class Event:
        def record(self) -> None:
            self.at = clock

    def copy(target: object, source: object, size: int, stream: object) -> None:
        nonlocal clock
        clock += 1
        copied.append(id(target))
        assert size == 3 * 100 * 4  # read and written: the bytes of a call

    def timed(work: Work, arrays: tuple[object, ...]) -> object:
        nonlocal clock
        clock += 3
        made = call(work, arrays)
        called.append(made.data.ptr)
        return made

    monkeypatch.setattr(cupy.cuda, "Event", Event)
    monkeypatch.setattr(cupy.cuda, "get_elapsed_time", lambda start, end: end.at - start.at)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", mock.MagicMock())
    monkeypatch.setattr(cupy, "get_default_memory_pool", pool := mock.MagicMock())
    monkeypatch.setattr(profile, "_copy", copy)
    monkeypatch.setattr(Work, "call", timed)
    work = Work("softmax", (3, 100), "float32")
    with emulator.activate():
        on = Machine(DeviceSpec.known(90), False, emulator.asarray, emulator.asnumpy)
        times = profile.measure(work, on)
    assert (times.copy_seconds, times.seconds) == (1e-3, 3e-3)
    assert times.fraction_of_copy == pytest.approx(1 / 3)
    assert times.least_bytes == 2 * 3 * 100 * 4
    runs = profile.WARM_UP + profile.RUNS
    assert times.sets == profile.MOST_SETS  # tiny arrays: the cache could hold them all
    assert len(set(copied)) == len(copied) == runs < times.sets
    assert len(called) == times.sets + runs
    assert len(set(called[-runs:])) == runs  # each result in memory of its own
    pool.return_value.free_all_blocks.assert_called_once()


def test_inputs_are_random_and_never_constant() -> None:
    (drawn,) = Work("softmax", (3, 1000), "bfloat16").drawn()
    values = drawn.astype(np.float32)
    assert len(np.unique(values)) > 100
    assert not (values[0] == values[1]).all()
    assert 8 < values.std() < 12
    with emulator.activate():
        on = Machine(DeviceSpec.known(90), True, emulator.asarray, emulator.asnumpy)
        y, dy = Work("softmax_vjp", (3, 100), "float32").arrays(on)
        np.testing.assert_allclose(on.asnumpy(y).sum(-1), 1, rtol=1e-5)
        assert 0.5 < on.asnumpy(dy).std() < 2


@pytest.mark.parametrize(
    ("op", "shape", "dtype", "axis", "arch", "expected"),
    [
        ("softmax", (8192, 4096), "float16", -1, "sm_90", (1, 4096)),
        (
            "softmax",
            (8192, 32000),
            "float16",
            -1,
            "sm_90",
            (64, 32000),
        ),  # fewer make larger clusters
        ("softmax", (8192, 32000), "float16", -1, "sm_80", (128, 32000)),  # fewer have an SM each
        ("softmax_vjp", (4, 131072), "float32", 1, "sm_90", (1, 131072)),
        # Fewer pass fewer times through a block.
        ("softmax", (100000, 100), "float32", -1, "sm_90", (100000, 100)),
        ("softmax", (1000000, 100), "float32", -1, "sm_90", (262144, 100)),
        ("softmax", (8192, 4097), "float16", -1, "sm_90", (16, 4097)),  # until 32 bytes align
        ("softmax", (7, 64, 600), "float32", 1, "sm_90", (1, 64, 128)),  # fewer have fewer lanes
        ("softmax", (30, 20), "float32", None, "sm_90", (30, 20)),
        ("softmax", (0, 20), "float32", -1, "sm_90", (0, 20)),
    ],
)
def test_fewer_rows(
    op: str, shape: tuple[int, ...], dtype: str, axis: int, arch: str, expected: tuple[int, ...]
) -> None:
    assert fewer_rows(Work(op, shape, dtype, axis), DeviceSpec.known(arch)) == expected


@pytest.mark.parametrize(
    ("op", "shape", "axis"),
    [
        ("softmax", (40, 4096), -1),
        ("softmax_vjp", (3, 131072), -1),
        ("softmax", (64, 130), -1),
        ("softmax", (64, 1025), -1),  # rows that start anywhere in a sector
        ("softmax", (96, 192), 0),
    ],
)
def test_emulated_traffic_of_fewer_rows_is_that_of_all(
    op: str, shape: tuple[int, ...], axis: int
) -> None:
    work = Work(op, shape, "float16", axis)
    got = emulate(work, "sm_90")
    assert got.ran.rows < got.plan.rows == np.prod(shape) // shape[axis]
    with emulator.activate(arch="sm_90"):
        drawn = np.random.default_rng(5).standard_normal(shape).astype(np.float16)
        arrays = [emulator.asarray(drawn)] * (1 + (op != "softmax"))
        with emulator.trace() as whole:
            getattr(cs, op)(*arrays, axis=axis)
    assert got.moved == whole.global_bytes_read + whole.global_bytes_written
    for few, all_rows in zip(got.counted.kernels, whole.kernels, strict=True):
        assert few.kernel == all_rows.kernel
        assert few.sectors_read * got.plan.rows == all_rows.sectors_read * got.ran.rows


# -------------------------------------------------------------------------------------- the command


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["profile", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_emulator_output(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(
        capsys, "softmax", "300x4096", "--dtype", "float16", "--emulator", "--arch", "sm_80"
    )
    assert (status, err) == (0, "")
    with emulator.activate(arch="sm_80"):
        x = emulator.asarray(np.ones((1, 4096), np.float16))
        with emulator.trace() as direct:
            cs.softmax(x)
    assert "1 of 300 rows" in out
    sectors = direct.sectors_read + direct.sectors_written
    for said in (
        "kernel       csm_softmax_block_f16_v8\n",
        f" {direct.global_bytes_read:,} bytes read, {direct.global_bytes_written:,} written, "
        f"up to {direct.widest_read} bytes at a time",
        f" {sectors:,} sectors of 32 bytes, 1.00 x",
        f" {direct.bank_conflicts} bank conflicts, {direct.shuffles} shuffles",
        f" barriers: {direct.barriers} of a block, {direct.cluster_barriers} of a cluster",
    ):
        assert said in out
    assert "4,915,200 bytes for 300 rows, 1.000 x the least possible" in out
    assert "A100 (sm_80)" in out
    assert "install" not in out


def test_without_gpu_or_profiler(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "gpu_is_present", lambda: False)
    status, out, err = run(capsys, "softmax", "64x1024", "--dtype", "float16")
    assert (status, err) == (0, "")
    for words in ("group: ", "nothing is measured", "command ncu", "command nsys", "1.000 x"):
        assert words in out
    assert "registers, 0 spills" in out or "pip install" in out
    status, out, _ = run(capsys, "softmax", "0x1024")
    assert status == 0
    assert "empty: there is no element" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["softmax", "4x5", "--tool", "perf"], "no tool 'perf'"),
        (["softmax", "4x5", "--tool", "ncu"], "no GPU for ncu"),
        (["softmin", "4x5"], "no operation 'softmin'"),
        (["softmax", "4x5", "--dtype", "int8"], "takes one of float16"),
        (["softmax", "4x99999999", "--emulator"], "give a shorter row"),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(backend, "gpu_is_present", lambda: False)
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let the command believe in an H100 on which profilers print what the test says."""
    says = {"ncu": raw_page(), "nsys": GPU_TRACE}

    @contextlib.contextmanager
    def machine(kind: str) -> Iterator[Machine]:
        yield Machine(DeviceSpec.known(90), False, emulator.asarray, emulator.asnumpy)

    def execute(command: list[str], folder: str) -> tuple[int, str]:
        Path(folder, "timeline.nsys-rep").touch()
        return 0, says[command[0]]

    monkeypatch.setattr(backend, "gpu_is_present", lambda: True)
    monkeypatch.setattr(cli_profile, "machine", machine)
    monkeypatch.setattr(cli_profile, "measure", lambda w, on: Times(400e-6, 300e-6, 4 << 20, 1))
    monkeypatch.setattr(tools, "find_tool", lambda name: name if name in says else None)
    monkeypatch.setattr(tools, "execute", execute)
    return says


def test_profile_on_a_gpu(capsys: pytest.CaptureFixture[str], gpu: dict[str, str]) -> None:
    status, out, err = run(capsys, "softmax", "4x262144", "--dtype", "float16")
    assert (status, err) == (0, "")
    moved, least = 2 * 1024300000, 4 * 262144 * 2 * 2
    for words in (
        "of copy      75.0 %",
        f"DRAM         {moved:,} bytes, {moved / least:.3f} x the least possible",
        "read         524,300,000 bytes of DRAM; the kernel asked for 524,288,000",
        "registers    56 a thread",
        "limited by registers",
        "waits        long scoreboard 75 %, barrier 25 %",
        "times the bytes that it must",
        "6.1 us of kernels a call, 0.5 us between kernels",
        "does not wait for the host",
        "PYTHONPATH=",
        "--clock-control none",
    ):
        assert words in out
    status, out, _ = run(capsys, "softmax", "4x262144", "--dtype", "float16", "--kernel-only")
    assert "timeline" not in out


def test_refused_counters_on_a_gpu(capsys: pytest.CaptureFixture[str], gpu: dict[str, str]) -> None:
    gpu["ncu"] = DENIED
    status, out, _ = run(capsys, "softmax", "64x1024", "--dtype", "float16")
    assert status == 1
    assert "ERR_NVGPUCTRPERM" in out
    assert "ncu --profile-from-start off" in out
    assert "NVreg_RestrictProfilingToAdminUsers=0" in out
    assert "of copy      75.0 %" in out  # what is known all the same
    assert "1.000 x the least possible" in out
    assert "to install" not in out


def test_a_timeline_that_fails_is_no_failure_unless_asked_for(
    capsys: pytest.CaptureFixture[str], gpu: dict[str, str]
) -> None:
    gpu["nsys"] = "Generating report failed\n"
    status, out, _ = run(capsys, "softmax", "64x1024")
    assert status == 0
    assert "timeline     nsys: no kernel was profiled: Generating report failed" in out
    status, out, _ = run(capsys, "softmax", "64x1024", "--tool", "nsys")
    assert status == 1


def test_no_emulator_on_a_gpu(
    capsys: pytest.CaptureFixture[str], gpu: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(cli_profile, "emulate", broken)
    status, out, _ = run(capsys, "softmax", "64x1024", "--tool", "none")
    assert status == 0
    assert "emulated     nothing: no compiler\n" in out


def test_no_profiler_on_a_gpu(capsys: pytest.CaptureFixture[str], gpu: dict[str, str]) -> None:
    gpu.clear()
    status, out, _ = run(capsys, "softmax", "64x1024", "--dtype", "float16")
    assert status == 0
    for words in ("of copy      75.0 %", "to install", "command ncu", "1.000 x the least possible"):
        assert words in out
    status, _, err = run(capsys, "softmax", "64x1024", "--tool", "ncu")
    assert status == 2
    assert "ncu is not found" in err
    status, _, err = run(capsys, "softmax", "64x1024", "--arch", "sm_80")
    assert status == 2
    assert "--emulator" in err
