"""The lower bounds of pyproject.toml: every dependency has one, and CI runs with them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = next(place for place in Path(__file__).resolve().parents if (place / ".ci").is_dir())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BOUND = re.compile(r"[\w.-]+(\[\w+\])?>=(?P<least>\d+(\.\d+)*)(,<\d+)?")


def least(need: str) -> tuple[int, ...]:
    """Return the lowest version that a requirement allows."""
    found = BOUND.fullmatch(need)
    assert found is not None, f"{need}: give it a lower bound"
    return tuple(int(number) for number in found["least"].split("."))


def test_every_dependency_has_a_lower_bound() -> None:
    for needs in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()):
        assert all(least(need) > (0,) for need in needs)


def test_numpy_is_one_with_which_cupy_has_bfloat16() -> None:
    (numpy,) = (need for need in PROJECT["dependencies"] if need.startswith("numpy"))
    assert least(numpy) >= (2, 1, 2)


def test_cupy_is_one_that_passes_none_as_a_null_pointer() -> None:
    extras = PROJECT["optional-dependencies"]
    for extra in ("cuda12", "cuda13"):
        (cupy,) = (need for need in extras[extra] if need.startswith("cupy"))
        assert least(cupy) >= (14,)


def test_ci_checks_with_the_lowest_and_with_the_newest() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    functions = {
        name: script.split(f"\n{name}() {{\n")[1].split("\n}\n")[0]
        for name in ("install_wheel", "newest", "lowest")
    }
    for checked in ("newest", "lowest"):
        assert "bin/cusoftmax check --quick" in functions[checked]
    for part in (
        "--resolution lowest-direct",
        "for extra in cuda13 cuda12",
        "pyproject.toml",
        "--extra $extra",
        "--extra emulator",
        "--no-deps",
    ):
        assert part in functions["install_wheel"]
    # The kernels as either CUDA's lowest compiler makes them: the source's emulator needs no NVRTC.
    assert "--emulator-code ptx" in functions["lowest"]
    for name, job in (
        ("cuda13", "lowest cuda13"),
        ("cuda12", "lowest cuda12"),
        ("elsewhere", "newest"),
    ):
        assert f"\nbeside {name} {job}\n" in script and f"\nawait {name}\n" in script
