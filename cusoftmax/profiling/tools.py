"""Chooses, starts and reads NVIDIA's profilers, and explains when they refuse."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import NoReturn

from cusoftmax.machine import UserError
from cusoftmax.profiling.read import NCU, NVPROF, Counters, Span, read_ncu, read_nvprof, read_trace

TOOLS = ("auto", "nvprof", "ncu", "nsys", "none")
CALLS = 10  # in a timeline; counters need one
_SECONDS = 400  # most that a profiler may take
_TRIES = 5  # runs with other names for counters that do not exist
_NVPROF_COUNTERS = 75  # nvprof reads no counters from this architecture on,
_NVPROF_NOTHING = 80  # and nothing from this one on
_NVPROF_CUDA = 12  # the last toolkit that has it
_OP_NAMES = 100  # architectures from here on say dram__bytes_op_read

_FOLDERS = (
    "{cuda}/bin", "/usr/local/cuda/bin", "/opt/nvidia/nsight-compute/*",
    "/opt/nvidia/nsight-systems/*/bin", "/opt/nvidia/nsight-systems/*/target-linux-x64",
    "/opt/nvidia/nsight-systems-cli/*/bin",
)  # fmt: skip
INSTALL = {
    "ncu": "Nsight Compute (command ncu): `apt-get install cuda-nsight-compute-13-0` from NVIDIA's "
    "repository, `conda install nvidia::nsight-compute`, or "
    "https://developer.nvidia.com/nsight-compute",
    "nsys": "Nsight Systems (command nsys), for timelines: `apt-get install nsight-systems-cli`, "
    "or https://developer.nvidia.com/nsight-systems",
    "nvprof": "nvprof: `apt-get install cuda-nvprof-12-9` from NVIDIA's repository, or "
    "`conda install nvidia::cuda-nvprof`",
}


def find_tool(name: str) -> str | None:
    """Return the path of a profiler: on the PATH, or where NVIDIA's packages put it."""
    cuda = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    folders = [path for place in _FOLDERS for path in sorted(glob(place.format(cuda=cuda)))[::-1]]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))


@dataclass(frozen=True)
class Choice:
    """The profilers to run, by name: for counters and for a timeline."""

    counters: str | None = None
    timeline: str | None = None


def choose(
    wanted: str, arch: int, cuda: int, found: Mapping[str, str | None], kernel_only: bool = False
) -> Choice:
    """Choose profilers for an architecture and a CUDA major version, out of those found.

    Raises
    ------
    UserError
        If the one asked for is not found, or cannot profile this GPU.
    """
    old = arch < _NVPROF_NOTHING and cuda <= _NVPROF_CUDA
    if wanted == "nvprof" and not old:
        raise UserError(f"nvprof cannot profile sm_{arch} with CUDA {cuda}: use --tool ncu")
    if wanted not in ("auto", "none") and not found.get(wanted):
        raise UserError(f"{wanted} is not found. {INSTALL[wanted]}")

    def usable(*names: str) -> str | None:
        return next((n for n in names if wanted in ("auto", n) and found.get(n)), None)

    nvprof = ("nvprof",) if old else ()
    counters = usable(*(nvprof if arch < _NVPROF_COUNTERS else ()), "ncu")
    timeline = None if kernel_only else usable("nsys", *nvprof)
    return Choice(counters, timeline)


def advice(arch: int, cuda: int, found: Mapping[str, str | None]) -> list[str]:
    """Return what to install for what `choose` could not find."""
    choice = choose("auto", arch, cuda, found)
    old = arch < _NVPROF_COUNTERS and cuda <= _NVPROF_CUDA
    lines = [] if choice.counters else [INSTALL["nvprof" if old else "ncu"]]
    return lines + ([] if choice.timeline else [INSTALL["nsys"]])


# ----------------------------------------------------------------------------------------- commands


def child(arguments: Sequence[str], calls: int = 1) -> list[str]:
    """Return the command that profilers start; it needs `environment`."""
    return [sys.executable, "-m", "cusoftmax.cli.profiled", *arguments, "--calls", str(calls)]


def environment() -> dict[str, str]:
    """Return the environment in which the child imports this same package."""
    given = os.environ.get("PYTHONPATH", "")
    paths = [str(Path(__file__).resolve().parents[2])]  # the folder that holds the package
    paths += [os.path.abspath(path) for path in given.split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def ncu_names(arch: int) -> dict[str, list[str]]:
    """Return the names to ask for by key of `NCU`, the likeliest on an architecture first."""
    newer = arch >= _OP_NAMES
    return {
        key: list(names[::-1] if newer and key.startswith("dram_") else names)
        for key, names in NCU.items()
    }


def ncu_command(path: str, names: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Return the command for counters by Nsight Compute: clocks left alone, caches cold."""
    return [
        path, "--profile-from-start", "off", "--target-processes", "all",
        "--clock-control", "none", "--cache-control", "all",
        "--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(names),
        *child(arguments),
    ]  # fmt: skip


def nvprof_command(path: str, arguments: Sequence[str], timeline: bool = False) -> list[str]:
    """Return the command for counters, or for a timeline, by nvprof."""
    what = ["--print-gpu-trace"] if timeline else ["--metrics", ",".join(NVPROF.values())]
    return [
        path, "--profile-from-start", "off", "--csv", "--normalized-time-unit", "ns", *what,
        *child(arguments, CALLS if timeline else 1),
    ]  # fmt: skip


def nsys_commands(path: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the commands that record a timeline by Nsight Systems, and that print it."""
    record = [
        path, "profile", "--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none",
        "--capture-range=cudaProfilerApi", "--capture-range-end=stop", "--force-overwrite=true",
        "--output=timeline", *child(arguments, CALLS),
    ]  # fmt: skip
    show = [
        path, "stats", "--report", "cuda_gpu_trace", "--format", "csv", "--output", "-",
        "timeline.nsys-rep",
    ]  # fmt: skip
    return record, show


def by_hand(command: Sequence[str]) -> str:
    """Return a command to type in any folder."""
    return f"PYTHONPATH={shlex.quote(environment()['PYTHONPATH'])} {shlex.join(command)}"


# ------------------------------------------------------------------------------------------ running


def execute(command: Sequence[str], folder: str) -> tuple[int, str]:
    """Run a command; return its exit status, and its output and errors together."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), text=True, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the profiler, and what it started
        text, _ = process.communicate()
        return 1, f"{text}\nit took more than {_SECONDS} seconds"
    return process.returncode, text


class Refused(Exception):
    """A profiler ran without a result: the message says why in one line; `command` is what ran."""

    def __init__(self, why: str, command: str) -> None:
        super().__init__(why)
        self.command = command


def count(tool: str, path: str, arch: int, arguments: Sequence[str]) -> tuple[list[Counters], str]:
    """Read the counters of a call's kernels; return them with the command.

    Raises
    ------
    Refused
        If there are none.
    """
    with tempfile.TemporaryDirectory() as folder:
        if tool == "nvprof":
            command = nvprof_command(path, arguments)
            _, text = execute(command, folder)
            shown = by_hand(command)
            return read_nvprof(text) or _refuse(text, shown), shown
        names = ncu_names(arch)
        best: list[Counters] = []
        for _ in range(_TRIES):
            command = ncu_command(path, [n for n, *_ in names.values()], arguments)
            _, text = execute(command, folder)
            counters = read_ncu(text)
            best = counters or best
            if not rename_missing(names, text, counters):
                break
    shown = by_hand(command)
    return best or _refuse(text, shown), shown


def rename_missing(names: dict[str, list[str]], text: str, counters: Sequence[Counters]) -> bool:
    """Replace the names of counters that were not found by their next; return whether to rerun.

    For an unknown name Nsight Compute refuses to run, or prints ``n/a``.
    """
    unknown = "\n".join(line for line in text.splitlines() if "Failed to find metric" in line)
    again = False
    for key, (name, *others) in list(names.items()):
        refused = re.search(rf"\b{name.partition('.')[0]}\b", unknown) is not None
        empty = bool(counters) and all(c.get(key) is None for c in counters)
        if not refused and not (empty and others):
            continue
        again = True
        if others:
            names[key] = others
        else:
            del names[key]
    return again


def trace(tool: str, path: str, arguments: Sequence[str]) -> tuple[list[Span], str]:
    """Record a timeline of some calls; return its kernels with the command.

    Raises
    ------
    Refused
        If there are none.
    """
    with tempfile.TemporaryDirectory() as folder:
        if tool == "nvprof":
            command = nvprof_command(path, arguments, timeline=True)
            _, text = execute(command, folder)
            shown = by_hand(command)
            return read_trace(text) or _refuse(text, shown), shown
        record, show = nsys_commands(path, arguments)
        _, text = execute(record, folder)
        if Path(folder, "timeline.nsys-rep").is_file():
            _, text = execute(show, folder)
        shown = f"{by_hand(record)}\n{shlex.join(show)}"
        return read_trace(text) or _refuse(text, shown), shown


def _refuse(text: str, command: str) -> NoReturn:
    raise Refused(why_refused(text), command)


_REFUSALS = {
    "ERR_NVGPUCTRPERM": "the driver shows counters to administrators only (ERR_NVGPUCTRPERM): run "
    "as root (`sudo -E`; in a container with --cap-add SYS_ADMIN), or set the driver's option "
    "NVreg_RestrictProfilingToAdminUsers=0; https://developer.nvidia.com/ERR_NVGPUCTRPERM",
    "driver resource was unavailable": "another program holds the counters (DCGM, or another "
    "profiler): stop it first",
    "LibraryNotLoaded": "the profiler cannot load its part of the driver (LibraryNotLoaded): "
    "virtual machines and sandboxes may withhold the counters",
    "profiling is not supported on devices": "this profiler is too old for this GPU: use ncu",
}


def why_refused(text: str) -> str:
    """Return in one line why a profiler's output holds no measurement."""
    for sign, reason in _REFUSALS.items():
        if sign in text:
            return reason
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [
        line for line in lines if re.match(r"==ERROR==|=+ Error|.*\w*Error: |cusoftmax: e", line)
    ]
    said = errors or [line for line in lines if not line.startswith("==PROF==")]
    return f"no kernel was profiled: {said[0] if errors else said[-1] if said else 'no output'}"
