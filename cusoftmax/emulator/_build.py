"""Builds kernels and the runtime for the host."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import importlib.util
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

from ._cache import cache_folder, is_whole, naming_folder, seal, tidy_once

HERE = pathlib.Path(__file__).resolve().parent

_SOURCE_SUFFIXES = {".cu", ".cuh", ".h", ".cpp"}
# -ffp-contract=off: a product and a sum are fused only where the source says so.
_OPTIONS = (
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-math-errno",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-w",
)
_FULL = os.strerror(errno.ENOSPC)


class CompilerNotFound(RuntimeError):
    """There is no C++ compiler to build kernels for the CPU with."""

    def __init__(self, given: str = "") -> None:
        if given:
            what = f"CXX={given} names none: set CXX to one, or unset it for g++ or another"
        else:
            names = "none of $CXX, g++, clang++ or ziglang"
            what = f'{names} is there: pip install "cusoftmax[emulator]"'
        super().__init__(f"the emulator needs a C++17 compiler, and {what}")


class BuildError(RuntimeError):
    """The host compiler failed: the message has its first error, its command and all it said."""

    def __init__(self, command: Sequence[str], what: str, said: str = "") -> None:
        super().__init__(f"{command[0]}: {what}\n{shlex.join(command)}\n{said}".rstrip())


@functools.cache
def compiler() -> tuple[str, ...]:
    """Return the command of the compiler: ``$CXX`` if set, else g++, clang++ or ziglang's."""
    given = os.environ.get("CXX", "").strip()
    if given:
        try:
            program, *options = shlex.split(given)
        except ValueError:  # a quotation that does not end
            raise CompilerNotFound(given) from None
        found = shutil.which(program)
        if not found:
            raise CompilerNotFound(given)
        return (found, *options)
    for name in ("g++", "clang++"):
        found = shutil.which(name)
        if found:
            return (found,)
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        zig = pathlib.Path(folder) / "zig"
        if zig.is_file():
            return (str(zig), "c++")
    raise CompilerNotFound


@functools.cache
def compiler_version() -> str:
    """Return what the compiler prints for ``--version``."""
    done = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


@functools.cache
def _machine_options() -> tuple[str, ...]:
    options = ["-nostdlib++", "-fno-sanitize=all"] if _is_clang() else ["-fno-gnu-unique"]
    if platform.machine() in ("x86_64", "AMD64"):
        try:
            has_fma = " fma " in pathlib.Path("/proc/cpuinfo").read_text()
        except OSError:
            has_fma = False
        if has_fma:
            options.append("-mfma")
    return tuple(options)


def _is_clang() -> bool:
    return "clang" in compiler_version()


def _sources(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the sources in a folder; of a file, itself."""
    if folder.is_file():
        return [folder]
    # Below the emulator's own folder lies what interprets PTX: no part of a kernel's library.
    paths = folder.glob("*") if folder == HERE else folder.rglob("*")
    return sorted(path for path in paths if path.suffix in _SOURCE_SUFFIXES)


@functools.cache
def bare() -> tuple[str, ...]:
    """Return options for a library that calls nothing of C++'s: its links take half the time."""
    return () if _is_clang() else ("-nostdlib", "-lgcc")


def build(
    source: pathlib.Path, options: Sequence[str], folders: Sequence[pathlib.Path], optimise: str
) -> pathlib.Path:
    """Compile `source` to a shared library that loads, unless one is in the cache.

    The key of the cache has the names of sources within their folders and what they hold, not where
    the folders lie: copies of a checkout, and an installed package, build alike.

    Parameters
    ----------
    source : pathlib.Path
        The file to compile.
    options : sequence of str
        Options besides those that every build has.
    folders : sequence of pathlib.Path
        Include folders. All sources below them count for the key of the cache.
    optimise : str
        ``"-O1"`` or the like.

    Returns
    -------
    pathlib.Path
        The library, owned by this user.
    """
    command = [*compiler(), optimise, *_OPTIONS, *_machine_options(), *options]
    digest = hashlib.sha256("\0".join([*command, compiler_version()]).encode())
    command += [f"-I{folder}" for folder in folders]
    for folder in (source, *folders):
        for path in _sources(folder):
            digest.update(f"\0{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
        digest.update(b"\0")  # ends the folder
    folder = cache_folder()
    library = folder / f"{source.stem}-{digest.hexdigest()[:32]}.so"
    if not is_whole(library) or _why_not_loaded(library) is not None:
        tidy_once(folder)
        _compile([*command, str(source)], library)
    return library


def _why_not_loaded(library: pathlib.Path) -> str | None:
    """Return the loader's error, or None if the library loads."""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error)
    return None


def _compile(command: Sequence[str], library: pathlib.Path) -> None:
    """Build a library under another name, check it and rename it, so that none is ever partial."""
    with naming_folder(library.parent), tempfile.TemporaryDirectory(dir=library.parent) as folder:
        fresh = pathlib.Path(folder, library.name)
        done = subprocess.run(
            [*command, "-o", str(fresh), "-lm"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=_environment(folder),
        )
        if _FULL in done.stderr:
            raise OSError(errno.ENOSPC, _FULL)
        if done.returncode:
            first = first_error(done.stderr)
            what = f"first error: {first}" if first else f"error: exit status {done.returncode}"
            raise BuildError(command, what, done.stderr)
        fresh.touch()  # where the compiler made nothing, the check below says so
        fresh.chmod(0o700)
        seal(fresh)
        why = _why_not_loaded(fresh)
        if why is not None:
            what = f"error: it made no library that loads ({why}); set CXX to a C++17 compiler"
            raise BuildError(command, what, done.stderr)
        fresh.replace(library)


def first_error(said: str) -> str:
    """Return the first error that a compiler or linker printed, not the driver's summary of it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line and not _is_summary(line)]
    # A linker's lines that end with a colon say where the next one applies.
    others = [line for line in lines if not line.endswith(":") and not _is_summary(line)]
    return (errors or others or lines or [""])[0]


def _is_summary(line: str) -> bool:
    return line.startswith("collect2:") or "linker command failed" in line


def _environment(temporaries: str | None = None) -> dict[str, str]:
    """Return the environment in which a compiler's temporaries lie in the given folder."""
    environment = dict(os.environ)
    if temporaries is not None:
        environment["TMPDIR"] = temporaries
    if pathlib.Path(compiler()[0]).name == "zig":
        kept = str(cache_folder() / "zig")  # its own libraries
        environment.setdefault("ZIG_GLOBAL_CACHE_DIR", kept)
        environment.setdefault("ZIG_LOCAL_CACHE_DIR", temporaries or kept)
    return environment
