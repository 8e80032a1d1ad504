"""The results file of a benchmark run: its fields as dataclasses, and how it is read and written.

Times are in seconds, sizes in bytes. `save` replaces the previous file in a single step, so a run
that is cut off leaves a complete file of what it had measured.
"""

from __future__ import annotations

import json
import os
import tempfile
import types
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

SCHEMA = 1
# `who` of this package, and of the device-to-device copy that all are compared with.
OURS, COPY = "cusoftmax", "copy"
# More of them where whole calls are timed: this package without allocation, the same kernel
# launched by hand without and with allocation of the result, and first calls with a full cache.
OURS_OUT = f"{OURS}, out="
RAW_KERNEL, RAW_KERNEL_ALLOCATING = "rawkernel", "rawkernel, empty_like"
OURS_CACHED = f"{OURS}, cached"
TIMING_METHODS = ("events", "graph", "host")
ERROR_UNITS = ("ulp", "u")
DRY_RUN_STAMP = "dry run on the emulator: times mean nothing"


class ResultsError(ValueError):
    """A results file with a wrong, missing or unknown field; the message names it."""


@dataclass
class Clocks:
    """Clocks after the first cell, and the highest that the GPU allows."""

    sm_mhz: int
    memory_mhz: int
    sm_max_mhz: int
    memory_max_mhz: int


@dataclass
class Machine:
    """The machine of a run. On the emulator, `gpu` and `arch` are the emulated GPU's."""

    gpu: str
    arch: str
    sm_count: int
    l2_bytes: int
    driver: str | None
    clocks: Clocks | None
    power_limit_w: float | None
    temperature_c: int | None
    host_cpu: str


@dataclass
class PlanSummary:
    """The plan of cusoftmax for a problem."""

    pattern: str
    kernels: list[str]
    grid: int
    block: int
    cluster: int
    reads: int
    chunk: int
    vector: int


@dataclass
class Times:
    """Seconds of one call, over many runs."""

    median: float
    q10: float
    q25: float
    q75: float
    q90: float
    min: float
    runs: int


@dataclass
class WorstError:
    """Largest error in a few rows, in ulp, or in unit roundoffs times a sum of magnitudes."""

    value: float
    unit: str


@dataclass
class Measurement:
    """One contender's result for one problem.

    Attributes
    ----------
    suite, op, dtype : str
        Suite that the problem belongs to, public function, NumPy name of the dtype.
    rows, n, axis : int
        Rows, elements of a row, and the axis (-1, or 0 for rows down a matrix).
    sigma : float
        Standard deviation of the logits.
    who : str
        ``"cusoftmax"``, ``"copy"`` (a device-to-device copy of as many bytes) or a peer.
    plan : PlanSummary or None
        How cusoftmax computed it; None for the others.
    how : str
        ``"events"``: on the GPU, between CUDA events; ``"host"``: the whole call, by the host's
        clock; ``"graph"``: replay of a CUDA graph.
    times : Times or None
    bytes : int
        Least traffic: each input read once, each output written once.
    gb_per_s, copy_gb_per_s, fraction_of_copy : float or None
        `bytes` over the median time; the same for the copy in the same rounds; their ratio.
    worst_error : WorstError or None
    failed : str or None
        One line on why it could not be measured.
    """

    suite: str
    op: str
    dtype: str
    rows: int
    n: int
    axis: int
    sigma: float
    who: str
    plan: PlanSummary | None
    how: str
    times: Times | None
    bytes: int
    gb_per_s: float | None = None
    copy_gb_per_s: float | None = None
    fraction_of_copy: float | None = None
    worst_error: WorstError | None = None
    failed: str | None = None

    @property
    def cell(self) -> tuple[str, str, str, int, int, int, float, str]:
        """The problem and how it was timed: equal for all contenders that can be compared."""
        return (
            self.suite, self.op, self.dtype, self.rows, self.n, self.axis, self.sigma, self.how,
        )  # fmt: skip


@dataclass
class Results:
    """A whole run.

    Attributes
    ----------
    dry_run : bool
        Whether it ran on the emulator: its times are a CPU's and mean nothing.
    started, finished : str
        ISO 8601 in UTC. `finished` is None while the run is under way, or where it was cut off.
    command : str
    commit : str or None
        Of the checkout; `dirty` where files differ from it.
    versions, peers : dict
        Of what ran. A peer has either ``{"version": …}`` or ``{"missing": reason}``.
    skipped : list of str
        What was left out and why, such as the part beyond a time budget.
    """

    dry_run: bool
    started: str
    command: str
    commit: str | None
    dirty: bool
    machine: Machine
    versions: dict[str, str | None]
    peers: dict[str, dict[str, str]]
    measurements: list[Measurement] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    finished: str | None = None
    schema: int = SCHEMA

    def of(self, suite: str) -> list[Measurement]:
        """Return the measurements of a suite."""
        return [m for m in self.measurements if m.suite == suite]


def save(results: Results, path: str | Path) -> Path:
    """Validate the results and write them to `path`; if that fails, the old file stays."""
    path = Path(path)
    validate(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        json.dump(asdict(results), file, indent=1, allow_nan=False)
        file.write("\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return path


def load(path: str | Path) -> Results:
    """Read a results file; `ResultsError` names the first invalid field."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path}: not JSON: {error}") from None
    found = data.get("schema") if isinstance(data, dict) else None
    if found != SCHEMA:
        raise ResultsError(f"{path}: schema is {found!r}, and this reads {SCHEMA}")
    try:
        results: Results = _read(Results, data, "")
        validate(results)
    except ResultsError as error:
        raise ResultsError(f"{path}: {error}") from None
    return results


def validate(results: Results) -> None:
    """Raise `ResultsError` for values that the fields' types allow but a results file does not."""
    for name, peer in results.peers.items():
        if set(peer) not in ({"version"}, {"missing"}):
            raise ResultsError(f"peers.{name}: {sorted(peer)} is neither a version nor missing")
    for number, m in enumerate(results.measurements):
        where = f"measurements[{number}]"
        if m.how not in TIMING_METHODS:
            raise ResultsError(f"{where}.how: {m.how!r} is not one of {', '.join(TIMING_METHODS)}")
        if m.axis not in (-1, 0):
            raise ResultsError(f"{where}.axis: {m.axis} is neither -1 nor 0")
        if (m.times is None) == (m.failed is None):
            raise ResultsError(f"{where}: either times or failed must be given, and not both")
        if m.times is not None and not 0 < m.times.min <= m.times.median <= m.times.q90:
            raise ResultsError(f"{where}.times: not ordered, or not positive")
        if m.worst_error is not None and m.worst_error.unit not in ERROR_UNITS:
            raise ResultsError(f"{where}.worst_error.unit: {m.worst_error.unit!r} is not known")


@cache
def _field_types(of: Any) -> dict[str, Any]:
    return get_type_hints(of)


def _read(wanted: Any, value: Any, where: str) -> Any:
    """Convert the JSON `value` of field `where` to `wanted`, a dataclass or a plain type."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        (wanted,) = [k for k in inner if k is not type(None)]
        return _read(wanted, value, where)
    if origin is list and isinstance(value, list):
        return [_read(inner[0], each, f"{where}[{i}]") for i, each in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {k: _read(inner[1], v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(wanted, type) and is_dataclass(wanted) and isinstance(value, dict):
        prefix = f"{where}." if where else ""
        given = {}
        for f in fields(wanted):
            if f.name in value:
                given[f.name] = _read(
                    _field_types(wanted)[f.name], value[f.name], f"{prefix}{f.name}"
                )
            elif f.default is MISSING and f.default_factory is MISSING:
                raise ResultsError(f"{prefix}{f.name} is missing")
        unknown = sorted(set(value) - set(given))
        if unknown:
            raise ResultsError(f"{prefix}{unknown[0]} is not a field of this schema")
        return wanted(**given)
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        raise ResultsError(f"{where}: {value!r} is not {getattr(wanted, '__name__', wanted)}")
    return value
