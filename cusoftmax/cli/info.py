"""``cusoftmax info``: what is installed and what is missing."""

from __future__ import annotations

import contextlib
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import cusoftmax
from cusoftmax.machine import first_line
from cusoftmax.runtime import source

# The distributions that each extra installs.
_EXTRAS = {
    "cuda13": ("cupy-cuda13x", "nvidia-cuda-nvrtc"),
    "cuda12": ("cupy-cuda12x", "nvidia-cuda-nvrtc-cu12"),
    "emulator": ("ziglang",),
    "test": ("pytest", "hypothesis", "scipy"),
}


def lines() -> Iterator[tuple[str, str]]:
    """Yield labels and texts; where something cannot be found, the text says why."""
    yield "cusoftmax", f"{cusoftmax.__version__}, in {Path(cusoftmax.__file__).parent}"
    yield "kernel sources", _attempt(lambda: f"{source.kernel_root()}, digest {source.digest()}")
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    for name in ("numpy", "ml_dtypes", "rich"):
        yield name, _version(name)
    yield "CuPy", _attempt(_cupy)
    yield "NVRTC", _attempt(_nvrtc)
    yield "NVIDIA driver", _attempt(_driver)
    yield from _devices()
    yield "emulator's compiler", _attempt(_compiler)
    yield "emulator, PTX", _attempt(_ptx)
    yield "cache of CuPy", _folder(_cupy_cache())
    yield "cache of the emulator", _attempt(_emulator_cache)
    for extra, names in _EXTRAS.items():
        absent = [name for name in names if _installed(name) is None]
        text = f"no {', '.join(absent)}" if absent else "present"
        yield f"extra {extra}", text


def _attempt(find: Callable[[], str]) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return find()
    except ModuleNotFoundError as error:
        return f"not found: {error.name} is not installed"
    except Exception as error:  # a broken installation may raise anything
        return f"not found: {first_line(error)}"


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _version(name: str) -> str:
    return _installed(name) or "not installed"


def _cupy() -> str:
    import cupy

    built = cupy.cuda.runtime.runtimeGetVersion()
    return f"{cupy.__version__}, for CUDA {_dotted(built)}"


def _nvrtc() -> str:
    from cupy.cuda import nvrtc

    major, minor = nvrtc.getVersion()
    return f"{major}.{minor}"


def _driver() -> str:
    import cupy

    version = cupy.cuda.runtime.driverGetVersion()
    return f"for CUDA up to {_dotted(version)}" if version else "not found"


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _devices() -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except ModuleNotFoundError:
        count, why = 0, "CuPy is not installed"
    except Exception as error:  # no driver, no device, or one that the wheel does not fit
        count, why = 0, first_line(error)
    else:
        why = "CuPy sees no device"
    if not count:
        yield "GPU", f"none ({why}); the emulator runs the kernels on this CPU"
    for number in range(count):
        yield f"GPU {number}", _attempt(lambda number=number: _device(number))  # type: ignore[misc]


def _device(number: int) -> str:
    import cupy

    from cusoftmax.planning.device import DeviceSpec

    with cupy.cuda.Device(number):
        spec = DeviceSpec.current()
    return (
        f"{spec.name}, sm_{spec.arch}, {spec.sm_count} multiprocessors, "
        f"{spec.shared_per_block} bytes of shared memory a block"
    )


def _compiler() -> str:
    from cusoftmax.emulator import _build

    command = " ".join(_build.compiler())
    return f"{command} ({first_line(RuntimeError(_build.compiler_version()))})"


def _ptx() -> str:
    return f"NVRTC {_nvrtc()} compiles, {_compiler().partition(' (')[0]} builds the interpreter"


def _cupy_cache() -> Path:
    given = os.environ.get("CUPY_CACHE_DIR")
    return Path(given) if given else Path.home() / ".cupy" / "kernel_cache"


def _emulator_cache() -> str:
    from cusoftmax.emulator._cache import cache_folder

    return _folder(cache_folder())


def _folder(path: Path) -> str:
    if not path.is_dir():
        return f"{path} (not there yet)"
    sizes = []
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a temporary of another process
            if file.is_file():
                sizes.append(file.stat().st_size)
    return f"{path} ({len(sizes)} files, {sum(sizes) / 1e6:.1f} MB)"
