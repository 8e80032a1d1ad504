"""Compares predictions with the benchmarks' results files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import Cost


@dataclass(frozen=True)
class Measured:
    """The measured time of a problem, and its prediction."""

    gpu: str
    suite: str
    seconds: float  # median
    fraction_of_copy: float | None
    predicted: Cost

    @property
    def error(self) -> float:
        """Relative error of the prediction: predicted time / measured time - 1."""
        return self.predicted.seconds / self.seconds - 1


def load(path: str | Path) -> dict[str, Any]:
    """Read a results file; ValueError if it is not one, or has no times of a GPU."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        dry = bool(document["dry_run"])
        document["machine"]["gpu"], document["measurements"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a results file of the benchmarks: {error!r}") from None
    if dry:
        raise ValueError(f"{path} is of a dry run: its times are not of a GPU")
    return dict(document)


def compare(cost: Cost, document: dict[str, Any], dtype: str, axis: int) -> list[Measured]:
    """Return the measurements of the problem: one for each suite that has it."""
    plan, machine = cost.plan, document["machine"]
    if str(machine["arch"]).removeprefix("sm_") != str(plan.device.arch):
        return []
    found = []
    for m in document["measurements"]:
        same = (m["op"], m["dtype"], m["rows"], m["n"], m["who"]) == (
            plan.op, dtype, plan.rows, plan.n, "cusoftmax"
        )  # fmt: skip
        if same and (m["axis"] == -1) == (axis == -1) and m["times"] and m["how"] != "host":
            found.append(
                Measured(
                    machine["gpu"], m["suite"], m["times"]["median"], m["fraction_of_copy"], cost
                )
            )
    return found


def chip_of(document: dict[str, Any], otherwise: Chip) -> Chip:
    """Return the rates of the GPU of a results file where it is an H200, or else `otherwise`."""
    known = [name for name in ("H200",) if name in document["machine"]["gpu"]]
    return Chip.named(known[0]) if known and otherwise.arch == 90 else otherwise
