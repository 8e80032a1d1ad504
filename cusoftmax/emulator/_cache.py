"""The folder of what was built: each file is checked before it is used, and what is old goes.

A library ends with the SHA-256 of what comes before, which the loader does not read. So one that
was cut short or changed is recognised before it is loaded, which could be a bus error.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator

# Seconds, and bytes of all libraries together. All that the tests build is 0.1 GB.
ABANDONED = 6 * 3600  # a temporary this old is of a build that was killed
UNUSED = 30 * 24 * 3600  # a library that nothing used for so long is removed
MOST_BYTES = 1 << 30  # above, those that were used longest ago are removed

_DIGEST_BYTES = 32


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
        with naming_folder(folder):
            made.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_own(made)
    return folder


@contextlib.contextmanager
def naming_folder(folder: pathlib.Path) -> Iterator[None]:
    """Let errors of the file system name the folder and the variable that chooses another."""
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"the emulator cannot keep what it builds in {folder} ({error.strerror or error}): "
            "make room there, or set CUSOFTMAX_CACHE_DIR to a folder that you can write to"
        ) from error


def require_own(path: pathlib.Path) -> None:
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


def seal(library: pathlib.Path) -> None:
    """Append to a library the digest of what it holds."""
    digest = hashlib.sha256(library.read_bytes()).digest()
    with library.open("ab") as file:
        file.write(digest)


def is_whole(library: pathlib.Path) -> bool:
    """Whether a library is there as it was sealed; note that it is used."""
    try:
        require_own(library)
        content = library.read_bytes()
    except FileNotFoundError:
        return False
    with contextlib.suppress(OSError):  # a folder that can only be read
        os.utime(library)
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return hashlib.sha256(body).digest() == digest


def keep(path: pathlib.Path, content: bytes) -> None:
    """Write a sealed file, under another name first, so that none is ever partial."""
    with naming_folder(path.parent), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = pathlib.Path(folder, path.name)
        fresh.write_bytes(content)
        fresh.chmod(0o600)
        seal(fresh)
        fresh.replace(path)
    tidy_once(path.parent)


def sealed(path: pathlib.Path) -> bytes | None:
    """Return what a sealed file holds, or None if it is absent or damaged."""
    return path.read_bytes()[:-_DIGEST_BYTES] if is_whole(path) else None


@functools.cache
def tidy_once(folder: pathlib.Path) -> None:
    """Tidy a folder, once in a process."""
    tidy(folder)


def tidy(folder: pathlib.Path) -> None:
    """Remove temporaries of killed builds, libraries long unused, and what is too much."""
    now, kept = time.time(), []
    for entry in os.scandir(folder):
        try:
            about = entry.stat(follow_symlinks=False)
        except FileNotFoundError:  # another process tidies too
            continue
        age = now - about.st_mtime
        if entry.name.startswith("tmp"):
            if age > ABANDONED:
                _remove(entry)
        elif entry.name.endswith((".so", ".ptx", ".json")):
            if age > UNUSED:
                _remove(entry)
            else:
                kept.append((age, about.st_size, entry))
    total = 0
    for _, size, entry in sorted(kept, key=lambda library: library[0]):
        total += size
        if total > MOST_BYTES:
            _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(entry.path)
