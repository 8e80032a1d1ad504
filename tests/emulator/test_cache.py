"""The emulator's cache of built libraries: it heals, stays small, and says what is wrong."""

from __future__ import annotations

import ctypes
import os
import pathlib
import shlex
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from cusoftmax.emulator import BuildError, _build, _cache
from cusoftmax.machine import first_line

ROOT = pathlib.Path(__file__).resolve().parents[1]
while not (ROOT / "pyproject.toml").exists():
    ROOT = ROOT.parent

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n'


@pytest.fixture
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Return the folder of an empty cache."""
    monkeypatch.setenv("CUSOFTMAX_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "emulator"


def build(tmp_path: pathlib.Path, *options: str) -> pathlib.Path:
    source = tmp_path / "answer.cpp"
    source.write_text(SOURCE)
    return _build.build(source, options or ("-DANSWER=42",), (), "-O0")


def test_a_copy_of_the_sources_builds_nothing_anew(
    cache: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folders = [tmp_path / "here", tmp_path / "elsewhere"]
    for folder in folders:
        (folder / "include").mkdir(parents=True)
        (folder / "include" / "number.h").write_text("constexpr int number = 42;\n")
        (folder / "answer.cpp").write_text('#include "number.h"\n' + SOURCE)

    def built(folder: pathlib.Path) -> pathlib.Path:
        source, include = folder / "answer.cpp", folder / "include"
        return _build.build(source, ("-DANSWER=number",), (include,), "-O0")

    assert built(folders[0]) == built(folders[1])
    (folders[1] / "include" / "number.h").rename(folders[1] / "include" / "other.h")
    with pytest.raises(BuildError, match="number"):
        built(folders[1])
    (folders[1] / "include" / "number.h").write_text("constexpr int number = 43;\n")
    (folders[1] / "include" / "other.h").unlink()
    changed = built(folders[1])
    assert changed != built(folders[0])
    assert ctypes.CDLL(str(changed)).answer() == 43


def in_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own: the compiler is looked for once in each."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def cut(library: pathlib.Path) -> None:
    os.truncate(library, library.stat().st_size // 2)


def empty(library: pathlib.Path) -> None:
    os.truncate(library, 0)


def change(library: pathlib.Path) -> None:
    content = bytearray(library.read_bytes())
    content[len(content) // 3] ^= 1
    library.write_bytes(content)


def replace(library: pathlib.Path) -> None:
    """Put there what was sealed, and does not load."""
    library.write_bytes(b"of another system")
    _cache.seal(library)


@pytest.mark.parametrize("damage", [cut, empty, change, replace])
def test_a_damaged_library_is_built_anew(
    cache: pathlib.Path, tmp_path: pathlib.Path, damage: Callable[[pathlib.Path], None]
) -> None:
    library = build(tmp_path)
    whole = library.read_bytes()
    # Another file, since a loaded library must not change.
    library.unlink()
    library.write_bytes(whole)
    library.chmod(0o700)
    damage(library)
    assert build(tmp_path) == library
    assert ctypes.CDLL(str(library)).answer() == 42
    assert _cache.is_whole(library)
    assert [path.name for path in cache.iterdir()] == [library.name]


def test_a_truncated_runtime_is_no_bus_error(cache: pathlib.Path) -> None:
    demo = "from cusoftmax.cli.main import main; main(['explain', 'softmax', '3x4']); "
    demo += "from cusoftmax.emulator import _run; _run.runtime(); print('it runs')"
    assert "it runs" in in_process(demo).stdout
    (runtime,) = cache.glob("runtime-*.so")
    cut(runtime)
    done = in_process(demo)
    assert done.returncode == 0, done.stderr
    assert "it runs" in done.stdout


def test_a_compiler_that_makes_nothing_leaves_nothing(cache: pathlib.Path) -> None:
    code = "from cusoftmax.emulator import _run; _run.runtime()"
    done = in_process(code, CXX="/bin/true")
    assert "BuildError: /bin/true: error: it made no library that loads" in done.stderr
    assert "set CXX to a C++17 compiler" in done.stderr
    assert list(cache.iterdir()) == []
    done = in_process(code, CXX="/bin/false")
    assert "BuildError: /bin/false: error: exit status 1" in done.stderr
    assert list(cache.iterdir()) == []


def test_the_first_error_is_shown_and_not_the_summary(
    cache: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(BuildError) as raised:
        build(tmp_path, "-DANSWER=1", "-lno_such_library")
    first, command, *_ = str(raised.value).splitlines()
    assert first.startswith(f"{_build.compiler()[0]}: first error: ")
    assert "no_such_library" in first
    assert "collect2" not in first
    assert first_line(raised.value) == first  # what the command line prints
    assert shlex.split(command)[0] == _build.compiler()[0]
    with pytest.raises(BuildError, match=r"^\S+: first error: .*error: .*no_such_name"):
        build(tmp_path, "-DANSWER=no_such_name")
    assert list(cache.iterdir()) == []


_COLLECT = "collect2: error: ld returned 1 exit status"
_UNDEFINED = "x.cpp:3: undefined reference to `g'"


@pytest.mark.parametrize(
    ("said", "first"),
    [
        ("x.cpp: In function 'f':\nx.cpp:3: error: no\nx.cpp:4: error: nor", "x.cpp:3: error: no"),
        (f"/bin/ld: x.o: in function `f':\n{_UNDEFINED}\n{_COLLECT}", _UNDEFINED),
        ("ld.lld: error: no g\nclang: error: linker command failed", "ld.lld: error: no g"),
        (_COLLECT, _COLLECT),
        ("", ""),
    ],
)
def test_first_error(said: str, first: str) -> None:
    assert _build.first_error(said) == first


def test_an_unwritable_folder_is_named(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CUSOFTMAX_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"file/emulator \(.*\): make room .* CUSOFTMAX_CACHE_DIR"):
        _cache.cache_folder()
    monkeypatch.setenv("CUSOFTMAX_CACHE_DIR", "/proc/none")
    with pytest.raises(OSError, match=r"/proc/none/emulator \(.*CUSOFTMAX_CACHE_DIR"):
        _cache.cache_folder()


def test_a_full_disk_is_named(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = rf"{cache} \(No space left on device\): make room there, or set CUSOFTMAX_CACHE_DIR"
    full = tmp_path / "compiler"
    full.write_text('#!/bin/sh\necho "as: can\'t write: No space left on device" >&2; exit 1\n')
    full.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(_build, "compiler", lambda: (str(full),))
        with pytest.raises(OSError, match=said):
            build(tmp_path)

    def seal(library: pathlib.Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("a digest")

    monkeypatch.setattr(_build, "seal", seal)
    with pytest.raises(OSError, match=said):
        build(tmp_path)
    assert list(cache.iterdir()) == []


def test_old_things_are_tidied(
    cache: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = _cache.cache_folder()

    def put(name: str, age: float, size: int = 1000) -> pathlib.Path:
        path = cache / name
        if "." in name:
            path.write_bytes(b"\0" * size)
        else:
            path.mkdir()
            (path / "part.o").write_bytes(b"\0")
        os.utime(path, (time.time() - age,) * 2)
        return path

    killed = [put("tmp1", _cache.ABANDONED + 60), put("tmp2.so", _cache.ABANDONED + 60)]
    running = put("tmp3", _cache.ABANDONED - 60)
    unused = put("entry-1.so", _cache.UNUSED + 60)
    used = [put(f"entry-{n}.so", 1000 * n) for n in (2, 3, 4)]
    compilers = put("zig", 10 * _cache.UNUSED)
    _cache.tidy(cache)
    assert not any(path.exists() for path in (*killed, unused))
    assert all(path.exists() for path in (running, *used, compilers))

    monkeypatch.setattr(_cache, "MOST_BYTES", 2500)
    _cache.tidy(cache)
    assert [path.exists() for path in used] == [True, True, False]
    assert all(path.exists() for path in (running, compilers))


def test_a_build_tidies_and_a_use_counts(cache: pathlib.Path, tmp_path: pathlib.Path) -> None:
    library = build(tmp_path)
    long_ago = time.time() - 2 * _cache.UNUSED
    os.utime(library, (long_ago, long_ago))
    assert build(tmp_path) == library
    assert library.stat().st_mtime > long_ago + _cache.UNUSED
    _cache.tidy_once.cache_clear()
    killed = cache / "tmp_of_a_killed_build"
    killed.mkdir()
    os.utime(killed, (long_ago, long_ago))
    build(tmp_path, "-DANSWER=43")
    assert not killed.exists()
    assert library.exists()
