"""The compiler, where there is one, and a kernel as it compiles it."""

from __future__ import annotations

from functools import cache

import pytest

from cusoftmax.machine_code import catalog, gate
from cusoftmax.machine_code.sass import Compiled
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.planner import plan


@cache
def unavailable() -> str | None:
    return gate.missing()


@pytest.fixture(scope="session")
def compiler() -> None:
    reason = unavailable()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def vector_kernel(compiler: None) -> Compiled:
    problem = catalog.problem_of("softmax", "float16", (64, 1024), -1)
    (launch,) = plan(problem, DeviceSpec.known(90)).launches
    return gate.inspect(launch.kernel, 90)
