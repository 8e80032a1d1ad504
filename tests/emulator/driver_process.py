"""Python, and pytest on emulated GPUs, in a process of its own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def python(*arguments: str, **environment: str) -> str:
    """Run Python in a process of its own and return what it printed.

    pytest's options are those of the tests that start it: they may name plugins left out here.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=env | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def on_the_driver(arch: str, *tests: str) -> str:
    """Run tests on emulated GPUs of an architecture and return pytest's last line."""
    plugins = ("-p", "tests.emulated_driver", "-p", "no:xdist", "-p", "no:cacheprovider")
    places = [f"tests/{test}" for test in tests]
    said = python("-m", "pytest", "-q", *plugins, "--driver-arch", arch, *places)
    return said.splitlines()[-1]
