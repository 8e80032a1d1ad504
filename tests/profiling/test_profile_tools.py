"""Which profiler runs, by what command, and what it means when it gives nothing. None runs here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import cusoftmax as cs
from cusoftmax.machine import UserError
from cusoftmax.profiling import tools
from cusoftmax.profiling.profile import Work
from tests.profiling.profile_samples import DENIED, STALL, raw_page

FOUND = {name: f"/opt/{name}" for name in ("nvprof", "ncu", "nsys")}
WORK = Work("softmax", (8192, 32000), "float16")


@pytest.mark.parametrize(
    ("wanted", "arch", "cuda", "kernel_only", "counters", "timeline"),
    [
        ("auto", 70, 12, False, "nvprof", "nsys"),
        ("auto", 75, 12, False, "ncu", "nsys"),  # nvprof reads no counters from sm_75 on
        ("auto", 70, 13, False, "ncu", "nsys"),
        ("auto", 90, 12, False, "ncu", "nsys"),
        ("auto", 90, 13, True, "ncu", None),
        ("nsys", 90, 13, False, None, "nsys"),
        ("nvprof", 75, 12, False, None, "nvprof"),
        ("nvprof", 70, 12, False, "nvprof", "nvprof"),
        ("none", 90, 13, False, None, None),
    ],
)
def test_choice(
    wanted: str, arch: int, cuda: int, kernel_only: bool, counters: str, timeline: str
) -> None:
    choice = tools.choose(wanted, arch, cuda, FOUND, kernel_only)
    assert (choice.counters, choice.timeline) == (counters, timeline)


def test_choice_of_what_is_not_there() -> None:
    choose = tools.choose
    assert choose("auto", 90, 13, {}) == tools.Choice()
    assert choose("auto", 75, 12, {"nvprof": "/n"}).timeline == "nvprof"
    with pytest.raises(UserError, match=r"developer\.nvidia\.com/nsight-compute"):
        choose("ncu", 90, 13, {"ncu": None})
    with pytest.raises(UserError, match="cannot profile sm_90 with CUDA 12"):
        choose("nvprof", 90, 12, FOUND)
    with pytest.raises(UserError, match="with CUDA 13"):
        choose("nvprof", 70, 13, FOUND)


def test_advice() -> None:
    ncu, nsys = tools.advice(90, 13, {})
    assert "command ncu" in ncu
    assert "command nsys" in nsys
    assert tools.advice(70, 12, {})[0].startswith("nvprof")
    assert tools.advice(90, 13, FOUND) == []


def test_commands() -> None:
    arguments = WORK.arguments
    assert arguments == ["softmax", "8192x32000", "--dtype", "float16", "--axis=-1"]
    assert Work("softmax", (2, 3), axis=None).arguments[-1] == "--axis=none"
    assert Work("softmax", (2, 3, 4), axis=(-2, -1)).arguments[-1] == "--axis=-2,-1"
    child = [sys.executable, "-m", "cusoftmax.cli.profiled", *arguments]
    ncu = tools.ncu_command("/opt/ncu", ["a.sum", "b.pct"], arguments)
    assert ncu[0] == "/opt/ncu"
    for option, value in (
        ("--profile-from-start", "off"), ("--clock-control", "none"), ("--page", "raw"),
        ("--cache-control", "all"), ("--print-units", "base"), ("--metrics", "a.sum,b.pct"),
    ):  # fmt: skip
        assert ncu[ncu.index(option) + 1] == value
    assert "--csv" in ncu
    assert ncu[-len(child) - 2 :] == [*child, "--calls", "1"]
    nvprof = tools.nvprof_command("/opt/nvprof", arguments)
    assert nvprof[nvprof.index("--metrics") + 1].startswith("dram_read_bytes,dram_write_bytes")
    assert "--csv" in nvprof
    assert nvprof[nvprof.index("--profile-from-start") + 1] == "off"
    assert "--print-gpu-trace" in tools.nvprof_command("n", arguments, timeline=True)
    record, show = tools.nsys_commands("/opt/nsys", arguments)
    assert "--capture-range=cudaProfilerApi" in record
    assert record[-2:] == ["--calls", str(tools.CALLS)]
    assert show[show.index("--report") + 1] == "cuda_gpu_trace"
    assert show[show.index("--format") + 1] == "csv"


def test_names_by_architecture() -> None:
    assert tools.ncu_names(90)["dram_read"][0] == "dram__bytes_read.sum"
    assert tools.ncu_names(100)["dram_read"][0] == "dram__bytes_op_read.sum"
    assert tools.ncu_names(120)["busy.DRAM"] == tools.ncu_names(90)["busy.DRAM"]


def test_unknown_counters_are_asked_for_by_their_other_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    def execute(command: list[str], folder: str) -> tuple[int, str]:
        names = command[command.index("--metrics") + 1].split(",")
        asked.append(names)
        for name in ("dram__bytes_op_read.sum", STALL.format("sleeping")):
            if name in names:  # the profiler stops at the first
                return 1, rf"==ERROR== Failed to find metric regex:^{name.split('.')[0]}(\.sum)?$"
        return 0, raw_page("dram__throughput")

    monkeypatch.setattr(tools, "execute", execute)
    counters, command = tools.count("ncu", "ncu", 100, WORK.arguments)
    assert counters[0].get("dram_read") == 524300000
    assert len(asked) == 4
    assert "dram__bytes_read.sum" in asked[1]
    assert STALL.format("sleeping") not in asked[2]
    # Absent from the table, so asked for by the next name, and then let be.
    assert "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed" in asked[3]
    assert asked[3] != asked[2]
    assert ",".join(asked[-1]) in command


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DENIED, "NVreg_RestrictProfilingToAdminUsers=0"),
        ("==ERROR== Failed to initialize the profiler: LibraryNotLoaded", "sandboxes"),
        ("==ERROR== a driver resource was unavailable. Ensure", "another program"),
        ("Traceback\ncupy.cuda.memory.OutOfMemoryError: Out of memory\n", "Out of memory"),
        ("==PROF== Connected\n==ERROR== Strange\n==PROF== Bye\n", "==ERROR== Strange"),
        ("", "no output"),
    ],
)
def test_refusals_are_one_line(text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "execute", lambda command, folder: (1, text))
    for tool in ("ncu", "nvprof"):
        with pytest.raises(tools.Refused, match=said) as refused:
            tools.count(tool, tool, 90, WORK.arguments)
        assert "\n" not in str(refused.value)
    with pytest.raises(tools.Refused, match=said):
        tools.trace("nsys", "nsys", WORK.arguments)


def test_execute_finds_the_package_and_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "beside.py").write_text("print('beside')\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "lib")  # relative: the child runs in another folder
    code = "import beside, cusoftmax; print(cusoftmax.__file__)"
    status, text = tools.execute([sys.executable, "-c", code], str(tmp_path / "elsewhere"))
    assert (status, text.split()) == (0, ["beside", str(cs.__file__)])
    assert str(tmp_path / "lib") in tools.by_hand(["ncu"])
    monkeypatch.setattr(tools, "_SECONDS", 0.2)
    status, text = tools.execute(["sh", "-c", "echo begun; sleep 30"], str(tmp_path))
    assert status == 1
    assert "begun" in text
    assert "more than 0.2 seconds" in text


def test_find_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "ncu"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(tools, "_FOLDERS", ("{cuda}/bin",))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert tools.find_tool("ncu") == str(tool)
    assert tools.find_tool("nsys") is None
