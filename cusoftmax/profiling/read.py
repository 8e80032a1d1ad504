"""Reads what NVIDIA's profilers print: counters of kernels, and timelines.

Nothing here runs a profiler, so everything is tested on captured text. The readers find columns by
name, skip other output of the program and the tool, and treat absent, empty and ``n/a`` values as
unknown.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

# The counters of a kernel, each with its names in Nsight Compute: dram__bytes_read is called
# dram__bytes_op_read from sm_100 on, and some GPUs have no dram__throughput.
_PERCENT = "pct_of_peak_sustained_active"
_ELAPSED = "pct_of_peak_sustained_elapsed"
_SECTORS = "l1tex__t_sectors_pipe_lsu_mem_global_op_"
NCU: dict[str, tuple[str, ...]] = {
    "seconds": ("gpu__time_duration.sum",),
    "dram_read": ("dram__bytes_read.sum", "dram__bytes_op_read.sum"),
    "dram_written": ("dram__bytes_write.sum", "dram__bytes_op_write.sum"),
    "sectors_read": (f"{_SECTORS}ld.sum",),
    "sectors_written": (f"{_SECTORS}st.sum",),
    "bank_conflicts": ("l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",),
    "registers": ("launch__registers_per_thread",),
    "waves": ("launch__waves_per_multiprocessor",),
    "occupancy": (f"sm__warps_active.avg.{_PERCENT}",),
    "most_occupancy": ("sm__maximum_warps_per_active_cycle_pct",),
    "limit.registers": ("launch__occupancy_limit_registers",),
    "limit.shared memory": ("launch__occupancy_limit_shared_mem",),
    "limit.warps": ("launch__occupancy_limit_warps",),
    "limit.blocks": ("launch__occupancy_limit_blocks",),
    "busy.DRAM": (f"dram__throughput.avg.{_ELAPSED}", f"gpu__dram_throughput.avg.{_ELAPSED}"),
    "busy.L2": (f"lts__throughput.avg.{_ELAPSED}",),
    "busy.L1 and shared memory": (f"l1tex__throughput.avg.{_PERCENT}",),
    "busy.issue": (f"smsp__issue_active.avg.{_PERCENT}",),
    "busy.special functions": (f"sm__inst_executed_pipe_xu.avg.{_PERCENT}",),
    "busy.FMA": (f"sm__inst_executed_pipe_fma.avg.{_PERCENT}",),
    "busy.ALU": (f"sm__inst_executed_pipe_alu.avg.{_PERCENT}",),
    "busy.load/store": (f"sm__inst_executed_pipe_lsu.avg.{_PERCENT}",),
    "busy.float64": (
        f"sm__inst_executed_pipe_fp64.avg.{_PERCENT}",
        f"sm__pipe_fp64_cycles_active.avg.{_PERCENT}",
    ),
} | {
    f"stall.{reason}": (f"smsp__average_warps_issue_stalled_{reason}_per_issue_active.ratio",)
    for reason in (
        "barrier", "branch_resolving", "dispatch_stall", "drain", "imc_miss", "lg_throttle",
        "long_scoreboard", "math_pipe_throttle", "membar", "mio_throttle", "no_instruction",
        "not_selected", "selected", "short_scoreboard", "sleeping", "tex_throttle", "wait",
    )
}  # fmt: skip

# The same in nvprof, for the GPUs whose counters it reads (below sm_75).
NVPROF = {
    "dram_read": "dram_read_bytes",
    "dram_written": "dram_write_bytes",
    "occupancy": "achieved_occupancy",
    "busy.DRAM": "dram_utilization",
    "busy.L2": "l2_utilization",
    "busy.L1 and shared memory": "shared_utilization",
    "busy.issue": "issue_slot_utilization",
    "busy.special functions": "special_fu_utilization",
    "busy.float64": "double_precision_fu_utilization",
    "busy.load/store": "ldst_fu_utilization",
    "stall.long_scoreboard": "stall_memory_dependency",
    "stall.barrier": "stall_sync",
    "stall.wait": "stall_exec_dependency",
    "stall.no_instruction": "stall_inst_fetch",
    "stall.math_pipe_throttle": "stall_pipe_busy",
    "stall.lg_throttle": "stall_memory_throttle",
    "stall.not_selected": "stall_not_selected",
}

_SCALE = {
    "byte": 1.0, "kbyte": 1e3, "mbyte": 1e6, "gbyte": 1e9, "b": 1.0, "kb": 1e3, "mb": 1e6,
    "gb": 1e9, "nsecond": 1e-9, "ns": 1e-9, "usecond": 1e-6, "us": 1e-6, "msecond": 1e-3,
    "ms": 1e-3, "second": 1.0, "s": 1.0, "ksector": 1e3, "msector": 1e6, "gsector": 1e9,
}  # fmt: skip
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][+-]?\d+)?")


@dataclass
class Counters:
    """The counters of one kernel; what the profiler did not print is absent.

    Attributes
    ----------
    kernel : str
        The kernel's name.
    values : dict of str to float
        Keys of `NCU`, in bytes, seconds, per cent and plain counts.
    """

    kernel: str
    values: dict[str, float] = field(default_factory=dict)

    def get(self, key: str) -> float | None:
        """Return a value, or None."""
        return self.values.get(key)

    def group(self, prefix: str) -> dict[str, float]:
        """Return the values whose keys begin with ``prefix.``, largest first, without it."""
        found = {
            k.partition(".")[2]: v for k, v in self.values.items() if k.startswith(f"{prefix}.")
        }
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def dram_bytes(self) -> float | None:
        """Bytes read from and written to DRAM."""
        read, written = self.get("dram_read"), self.get("dram_written")
        return None if read is None or written is None else read + written


@dataclass(frozen=True)
class Span:
    """A kernel on the timeline, in seconds."""

    kernel: str
    start: float
    seconds: float


def number(text: str, unit: str = "") -> float | None:
    """Return a printed number in the base unit, or None if it is not one, such as ``n/a``."""
    found = _NUMBER.search(text)
    if found is None:
        return None
    return float(found.group().replace(",", "")) * _SCALE.get(unit.strip().lower(), 1.0)


def _tables(text: str, column: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield header and rows of each table in a text that has a column of this name."""
    header: list[str] = []
    rows: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith(("==", "NOTICE", "Processing")):
            continue
        try:
            cells = next(csv.reader([line]), [])
        except csv.Error:
            continue
        if column in (cell.partition(" (")[0] for cell in cells):
            if header:
                yield header, rows
            header, rows = cells, []
        elif header and len(cells) == len(header):
            rows.append(cells)
    if header:
        yield header, rows


def read_ncu(text: str) -> list[Counters]:
    """Read ``ncu --csv``, of ``--page raw`` (a column each) or of the details page (a row each)."""
    keys = {name: key for key, names in NCU.items() for name in names}
    found: dict[str, Counters] = {}
    for header, rows in _tables(text, "Kernel Name"):
        at = {name: i for i, name in enumerate(header)}
        units = [""] * len(header)
        for row in rows:
            if not row[at["Kernel Name"]]:  # the row of units, under the names
                units = row
                continue
            identity = row[at["ID"]] if "ID" in at else str(len(found))
            counters = found.setdefault(identity, Counters(row[at["Kernel Name"]]))
            if "Metric Name" in at:
                unit = row[at["Metric Unit"]] if "Metric Unit" in at else ""
                cells = [(row[at["Metric Name"]], row[at["Metric Value"]], unit)]
            else:
                cells = list(zip(header, row, units, strict=True))
            for name, printed, unit in cells:
                value = number(printed, unit) if name in keys else None
                if value is not None:
                    counters.values[keys[name]] = value
    return list(found.values())


def read_nvprof(text: str) -> list[Counters]:
    """Read ``nvprof --csv --metrics``: the averages of each kernel."""
    keys = {name: key for key, name in NVPROF.items()}
    found: dict[str, Counters] = {}
    for header, rows in _tables(text, "Metric Name"):
        for row in rows:
            cell = dict(zip(header, row, strict=True))
            key = keys.get(cell.get("Metric Name", ""))
            value = number(cell.get("Avg", ""))
            if key is None or value is None:
                continue
            if key == "occupancy":  # a fraction of the warps
                value *= 100
            elif key.startswith("busy") and "(" in cell["Avg"]:  # a level, such as "High (8)"
                value *= 10
            kernel = cell.get("Kernel", "")
            found.setdefault(kernel, Counters(kernel)).values[key] = value
    return list(found.values())


def read_trace(text: str) -> list[Span]:
    """Read the kernels of ``nsys stats --report cuda_gpu_trace`` or ``nvprof --print-gpu-trace``.

    Either says its units: ``Start (ns)``, or a row of them under the header.
    """
    spans = []
    for header, rows in _tables(text, "Start"):
        names = [cell.partition(" (")[0] for cell in header]
        if "Name" not in names or "Duration" not in names:
            continue
        start, took, name = (names.index(n) for n in ("Start", "Duration", "Name"))
        units = [cell.partition(" (")[2].rstrip(")") for cell in header]
        for row in rows:
            if not row[name] and number(row[start]) is None:
                units = row
                continue
            begin, seconds = number(row[start], units[start]), number(row[took], units[took])
            if begin is None or seconds is None or row[name].startswith("[CUDA mem"):
                continue
            kernel = re.sub(r" \[\d+\]$", "", row[name])  # nvprof appends a number
            spans.append(Span(kernel, begin, seconds))
    return sorted(spans, key=lambda span: span.start)


@dataclass(frozen=True)
class Timeline:
    """What a timeline of several calls shows.

    Attributes
    ----------
    kernels : int
        Kernels that ran.
    seconds : float
        Median duration of a call's kernels together.
    gap : float
        Median time between the end of a kernel and the start of the next; 0 for a single one.
    """

    kernels: int
    seconds: float
    gap: float


def summarise(spans: Sequence[Span], launches: int) -> Timeline | None:
    """Summarise a timeline of calls with `launches` kernels each; None if it has no kernel."""
    if not spans:
        return None
    each = max(launches, 1)
    calls = [
        sum(s.seconds for s in spans[i : i + each]) for i in range(0, len(spans) - each + 1, each)
    ]
    gaps = [after.start - before.start - before.seconds for before, after in pairwise(spans)]
    return Timeline(len(spans), median(calls or [0.0]), max(median(gaps), 0.0) if gaps else 0.0)
