"""What the wheel holds, what importing costs, and that the README's commands are those of CI."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import cusoftmax

ROOT = Path(__file__).resolve().parents[1]
CARRIED = {".py", ".cu", ".cuh", ".h", ".cpp", ".typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Return the wheel of this checkout."""
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = builder.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


def test_wheel_is_pure_and_owns_one_name(wheel: zipfile.ZipFile) -> None:
    assert Path(str(wheel.filename)).name == f"cusoftmax-{cusoftmax.__version__}-py3-none-any.whl"
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"cusoftmax", f"cusoftmax-{cusoftmax.__version__}.dist-info"}


def test_wheel_carries_every_source(wheel: zipfile.ZipFile) -> None:
    sources = {
        f"{prefix}{path.relative_to(root).as_posix()}"
        for root, prefix in (
            (ROOT / "cusoftmax", "cusoftmax/"),
            (ROOT / "cuda_kernels", "cusoftmax/cuda_kernels/"),
        )
        for path in root.rglob("*")
        if path.suffix in CARRIED
    }
    assert len(sources) > 30
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == sources


def test_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    info = f"cusoftmax-{cusoftmax.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode()
    assert "Requires-Python: >=3.11" in metadata
    for extra in ("cuda12", "cuda13", "dask", "docs", "emulator", "test"):
        assert f"Provides-Extra: {extra}" in metadata
    needs = [
        line.split(": ")[1]
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert sorted(need.partition(">")[0] for need in needs) == ["ml-dtypes", "numpy", "rich"]
    assert "cusoftmax = cusoftmax.cli.main:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_import_brings_little() -> None:
    """Importing the package imports no CuPy and no planning: the first call does.

    Time is measured by ``benchmarks/import_time.py``; most of it goes into finding files.
    """
    code = (
        "import sys, numpy; known = set(sys.modules); import cusoftmax; "
        "print(*sorted(set(sys.modules) - known))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    modules = done.stdout.split()
    own = {module for module in modules if module.partition(".")[0] == "cusoftmax"}
    assert set(modules) - own <= {"__future__"}
    assert "cusoftmax.functions.softmax" in own
    for name in ("planning.planner", "planning.prepare", "operations.table", "runtime.source"):
        assert f"cusoftmax.{name}" not in own
    assert len(own) <= 21


def test_readme_commands_are_lines_of_their_own() -> None:
    # .ci/run takes them from the README by how they end.
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    (setup,) = [line for line in lines if line.endswith("bin/cusoftmax demo")]
    (tests,) = [line for line in lines if line.endswith("-m pytest -n auto")]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = set(extras["optional-dependencies"])
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (site,) = [line for line in text.splitlines() if line.endswith("-b html docs build/site")]
    for line in (setup, tests, site):
        named = line.partition(".[")[2].partition("]")[0].split(",")
        assert set(named) <= known


def test_documents_name_files_that_exist() -> None:
    folders = ("cuda_kernels/", "cusoftmax/", "tests/", "benchmarks/", "docs/", ".ci/")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"]
    assert len(pages) > 8
    for page in pages:
        words = page.read_text(encoding="utf-8").replace("`", " ").replace("](", " ").split()
        paths = {word.strip(".,;:()*") for word in words}
        for path in paths:
            if path.startswith(folders) and "NAME" not in path and "results/" not in path:
                assert (ROOT / path.partition("#")[0]).exists(), f"{page.name} names {path}"
