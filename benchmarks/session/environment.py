"""The machine, software and commit of a run, as a results file records them."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import warnings
from pathlib import Path
from typing import Any

from benchmarks.measuring.devices import Device
from benchmarks.measuring.results import Clocks, Machine

ROOT = Path(__file__).resolve().parents[2]


def machine(device: Device) -> Machine:
    """Describe the GPU; a field is None where NVML does not say."""
    spec = device.spec
    made = Machine(
        gpu=spec.name,
        arch=f"sm_{spec.arch}",
        sm_count=spec.sm_count,
        l2_bytes=spec.l2_bytes,
        driver=None,
        clocks=None,
        power_limit_w=None,
        temperature_c=None,
        host_cpu=_host_cpu(),
    )
    if not device.emulated:
        _add_driver_data(made)
    return made


def _add_driver_data(made: Machine) -> None:
    """Add what NVML knows. It only reads; no setting of the GPU is changed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pynvml
        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver
        return

    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(pynvml, name)(*arguments)
        except Exception:  # not supported by this GPU, or not permitted
            return None

    import cupy

    try:
        bus = cupy.cuda.Device().pci_bus_id
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(bus.encode() if isinstance(bus, str) else bus)
    except Exception:
        return
    driver = ask("nvmlSystemGetDriverVersion")
    made.driver = driver.decode() if isinstance(driver, bytes) else driver
    kinds = (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM)
    found = [ask("nvmlDeviceGetClockInfo", handle, kind) for kind in kinds]
    found += [ask("nvmlDeviceGetMaxClockInfo", handle, kind) for kind in kinds]
    if None not in found:
        made.clocks = Clocks(*map(int, found))
    limit = ask("nvmlDeviceGetEnforcedPowerLimit", handle)  # in milliwatts
    made.power_limit_w = None if limit is None else limit / 1000
    temperature = ask("nvmlDeviceGetTemperature", handle, pynvml.NVML_TEMPERATURE_GPU)
    made.temperature_c = None if temperature is None else int(temperature)


def _host_cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions(device: Device) -> dict[str, str | None]:
    """Return the versions of the libraries; CUDA's as major.minor."""
    import cupy

    import cusoftmax

    def quietly(get: Any) -> str | None:
        try:
            return str(get())
        except Exception:  # a library that is missing
            return None

    def runtime() -> str:
        number = cupy.cuda.runtime.runtimeGetVersion()
        return f"{number // 1000}.{number % 1000 // 10}"

    return {
        "python": platform.python_version(),
        "numpy": quietly(lambda: importlib.metadata.version("numpy")),
        "cupy": str(cupy.__version__),
        "cuda_runtime": quietly(runtime),
        "nvrtc": quietly(lambda: ".".join(map(str, cupy.cuda.nvrtc.getVersion()))),
        "cusoftmax": cusoftmax.__version__,
    }


def checkout(described: str | None = None) -> tuple[str | None, bool]:
    """Return the commit of the checkout, and whether its files differ from it.

    `described` is for a copy without its git repository: the output of
    ``git describe --always --dirty --abbrev=40 --exclude '*'`` where the copy was made.
    """
    if described:
        return described.removesuffix("-dirty"), described.endswith("-dirty")

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        return None, False
