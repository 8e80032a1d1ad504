"""Builds kernels and the runtime for the host, and keeps them in the user's own cache folder."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import pathlib
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence

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


class CompilerNotFound(RuntimeError):
    """There is no C++ compiler to build kernels for the CPU with."""

    def __init__(self) -> None:
        super().__init__(
            "the emulator needs a C++17 compiler, and none of $CXX, g++, clang++ or ziglang is "
            'there: pip install "cusoftmax[emulator]"'
        )


class BuildError(RuntimeError):
    """The host compiler refused a kernel; the message holds what it said."""


@functools.cache
def compiler() -> tuple[str, ...]:
    """Return the command of the compiler: ``$CXX``, else g++, clang++ or ziglang's."""
    chosen = os.environ.get("CXX", "")
    if chosen:
        command = shlex.split(chosen)
        found = shutil.which(command[0])
        if found:
            return (found, *command[1:])
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
    done = subprocess.run(
        [*compiler(), "--version"], capture_output=True, text=True, check=False, env=_environment()
    )
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


def cache_folder() -> pathlib.Path:
    """Return the folder of built libraries; PermissionError if others can write to it."""
    chosen = os.environ.get("CUSOFTMAX_CACHE_DIR")
    if chosen:
        folder = pathlib.Path(chosen).expanduser()
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "cusoftmax"
    folder = folder.absolute() / "emulator"
    for made in (folder.parent, folder):
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(made)
    return folder


def _require_own(path: pathlib.Path) -> None:
    """Raise PermissionError if another user owns a file or folder or can write to it."""
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        raise PermissionError(f"{path} is a link; the emulator loads libraries from no link")
    if about.st_uid != os.geteuid():
        raise PermissionError(
            f"{path} belongs to another user; set CUSOFTMAX_CACHE_DIR to a folder of yours"
        )
    if about.st_mode & 0o022:
        raise PermissionError(f"{path} can be written by other users: chmod go-w it")


def _sources(folders: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    found: set[pathlib.Path] = set()
    for folder in folders:
        found.update(path for path in folder.rglob("*") if path.suffix in _SOURCE_SUFFIXES)
    return sorted(found)


def build(
    source: pathlib.Path, options: Sequence[str], folders: Sequence[pathlib.Path], optimise: str
) -> pathlib.Path:
    """Compile `source` to a shared library, unless it is in the cache.

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
    command += [f"-I{folder}" for folder in folders]
    digest = hashlib.sha256("\0".join([*command, compiler_version()]).encode())
    for path in [source, *_sources(folders)]:
        digest.update(f"\0{path}\0".encode())
        digest.update(path.read_bytes())
    folder = cache_folder()
    library = folder / f"{source.stem}-{digest.hexdigest()[:32]}.so"
    if not library.exists():
        _compile([*command, str(source)], library)
    _require_own(library)
    return library


def _compile(command: Sequence[str], library: pathlib.Path) -> None:
    # Written under another name first, so that no other process loads an unfinished file.
    handle, name = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    fresh = pathlib.Path(name)
    try:
        done = subprocess.run(
            [*command, "-o", name, "-lm"],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
        )
        if done.returncode:
            raise BuildError(f"{shlex.join(command)}\n{done.stderr.strip()}")
        fresh.chmod(0o700)
        fresh.replace(library)
    finally:
        fresh.unlink(missing_ok=True)


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    if pathlib.Path(compiler()[0]).name == "zig":
        zig = str(cache_folder() / "zig")
        environment.setdefault("ZIG_GLOBAL_CACHE_DIR", zig)
        environment.setdefault("ZIG_LOCAL_CACHE_DIR", zig)
    return environment
