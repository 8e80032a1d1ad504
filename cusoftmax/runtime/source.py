"""Where the CUDA sources are, what identifies them, and the options they are compiled with."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

from cusoftmax.planning.plan import Kernel

UNIT = "row_kernel.cu"

# Products and sums are fused only where the source says so. The compiler's own choice would break
# the two-sums, and could give a row different bits in different patterns.
FLAGS = ("-std=c++17", "-fmad=false")


@cache
def kernel_root() -> Path:
    """Return the folder of the CUDA sources: in the package if installed, else next to it."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / "cuda_kernels", package.parent / "cuda_kernels"):
        if (root / UNIT).is_file():
            return root
    raise FileNotFoundError(
        f"the CUDA sources are missing: no {UNIT} in {package / 'cuda_kernels'}; "
        "reinstall cusoftmax"
    )


@cache
def code() -> str:
    """Return the translation unit."""
    return (kernel_root() / UNIT).read_text(encoding="utf-8")


@cache
def digest() -> str:
    """Return a digest of every source file, because CuPy's cache ignores included files."""
    sha = hashlib.sha256()
    for path in sorted(kernel_root().rglob("*.cu*")):
        sha.update(path.relative_to(kernel_root()).as_posix().encode() + b"\0")
        sha.update(path.read_bytes() + b"\0")
    return sha.hexdigest()[:16]


def included(kernel: Kernel) -> list[Path]:
    """Return the files that a kernel is compiled from: the unit, and what they include.

    Under whatever condition they do: a file too many is no harm.
    """
    macros, root = dict(kernel.macros), kernel_root()
    found = [root / UNIT]
    for path in found:  # which grows
        for name in _includes(path):
            named = root / re.sub(r"CSM_\w+", lambda macro: macros[macro[0]], name)
            if named not in found and named.is_file():  # the emulator's is elsewhere
                found.append(named)
    return sorted(found)


@cache
def _includes(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    names = re.findall(r'^\s*#\s*include\s+(?:"(.+)"|CSM_HEADER\((.+)\))', text, re.M)
    return [quoted or header for quoted, header in names]


@cache
def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def identity(kernel: Kernel, target: str) -> str:
    """Return a digest of all that a compiler is given for a kernel: its files, and the options."""
    root = kernel_root()
    parts = [f"{path.relative_to(root).as_posix()} {_digest_of(path)}" for path in included(kernel)]
    where = (f"-I{root}", f"-DCSM_DIGEST=0x{digest()}")  # where the files are, and all of them
    parts += [option for option in all_options(kernel, target) if option not in where]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def definitions(kernel: Kernel) -> tuple[str, ...]:
    """Return the ``-D`` options that make this kernel of the translation unit."""
    return tuple(f"-D{macro}={value}" for macro, value in kernel.macros)


def options(kernel: Kernel) -> tuple[str, ...]:
    """Return the options that CuPy is given."""
    return (*FLAGS, f"-I{kernel_root()}", f"-DCSM_DIGEST=0x{digest()}", *definitions(kernel))


def all_options(kernel: Kernel, target: str) -> tuple[str, ...]:
    """Return the options that CuPy gives NVRTC for a target such as ``"sm_90"``.

    Less the folders of CuPy's and CUDA's headers, of which the kernels include none.
    """
    added = ("-ftz=true", f"-arch={target}", "--device-as-default-execution-space")
    return (*options(kernel), *added)
