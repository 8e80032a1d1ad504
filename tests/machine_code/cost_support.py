"""What the tests of the cost model share."""

from __future__ import annotations

from functools import cache

import pytest

from cusoftmax.machine_code import cost
from cusoftmax.machine_code import sass as machine_code
from cusoftmax.machine_code.catalog import problem_of
from cusoftmax.machine_code.flow import Loop
from cusoftmax.machine_code.opcodes import Instruction
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import Plan
from cusoftmax.planning.planner import plan


def sass(text: str) -> list[Instruction]:
    """Read lines of ``@P0 OPCODE operands``; comments begin with #."""
    found = []
    for line in text.strip().splitlines():
        words = line.split("#")[0].strip()
        predicated = words.startswith("@")
        opcode, _, operands = (words.split(" ", 1)[1] if predicated else words).partition(" ")
        found.append(Instruction(predicated, opcode, operands))
    return found


def plan_of(op: str, dtype: str, shape: tuple[int, ...], axis: int, arch: int) -> Plan:
    return plan(problem_of(op, dtype, shape, axis), DeviceSpec.known(arch))


compiled = cache(cost.compiled)


def once(loop: Loop) -> float:
    return 1.0


def need_tools() -> None:
    reason = machine_code.missing()
    if reason:
        pytest.skip(reason)
