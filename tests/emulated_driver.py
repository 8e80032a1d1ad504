"""A plugin of pytest that gives CuPy emulated GPUs: the half of the tests that needs a GPU runs.

``python -m pytest -p tests.emulated_driver -m cuda tests/functions``
"""

from __future__ import annotations

import os

import pytest

from cusoftmax.emulator import cuda_driver

MACHINE = pytest.StashKey[cuda_driver.Machine]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line choose the GPU."""
    parser.addoption("--driver-arch", default="sm_90", help="architecture of the emulated GPUs")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Install the driver before a conftest imports CuPy."""
    arch = early_config.known_args_namespace.driver_arch
    early_config.stash[MACHINE] = cuda_driver.install(arch)
    # Processes of pytest-xdist take plugins of the command line only after the conftests.
    os.environ["PYTEST_PLUGINS"] = __name__
    import cupy

    # Without CuPy's pool each array is an allocation of its own, whose ends are checked.
    cupy.cuda.set_allocator(None)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> cuda_driver.Machine:
    """Return the emulated devices, with nothing launched yet."""
    found = request.config.stash[MACHINE]
    found.launches.clear()
    return found
