"""Rates of GPUs, from which costs are predicted. No figure was tuned to fit a measurement.

Each figure that differs from chip to chip carries its source (`Figure`); docs/cost.md has the same
table. The sources:

- Bandwidth and clock: NVIDIA's data sheets. The clock is the boost clock that their float32 figure
  implies.
- "measured copy": a device-to-device copy, counting bytes read and written.
- "AI_kernels": M. Dewing, github.com/markdewing/AI_kernels, latency/README.md (2025): pointers
  chased through more memory than the level 2 cache holds, the same program on each chip.
- "gpu-benches": D. Ernst, github.com/te42kyfo/gpu-benches, gpu-l2-cache and gpu-cache: data of 10
  to 40 MB read again and again by all multiprocessors.
- "cuda_microbenchmark": github.com/smallscientist1/cuda_microbenchmark, analysis_RTX4090.md.
- Warps, blocks, registers and shared memory of a multiprocessor: CUDA C++ Programming Guide,
  "Technical Specifications per Compute Capability".
- Results per clock and multiprocessor: the same guide, "Throughput of Native Arithmetic
  Instructions". A warp's instruction has 32 results. Half-precision instructions have two results
  a thread, so they are counted at half the guide's figure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cusoftmax.planning.device import DeviceSpec


class Figure(float):
    """A number and where it comes from."""

    source: str

    def __new__(cls, value: float, source: str) -> Figure:
        figure = super().__new__(cls, value)
        figure.source = source
        return figure

    @property
    def assumed(self) -> bool:
        """Whether no source for this chip was found, so that it follows from another figure."""
        return self.source.startswith("assumed")


@dataclass(frozen=True)
class Chip:
    """A GPU's rates.

    Attributes
    ----------
    name, arch : str, int
        Product, and compute capability times ten.
    sheet_bandwidth, copy_bandwidth : float, Figure
        Bytes per second: of the data sheet, and of a copy.
    l2_bandwidth : Figure
        Bytes per second that the level 2 cache serves to all multiprocessors.
    clock : float
        Hertz of the multiprocessors.
    latency : Figure
        Cycles of an access to idle memory that misses the caches.
    warps, blocks : int
        The most that a multiprocessor holds.
    rates : dict of str to float
        Instructions of a thread, per clock and multiprocessor, by unit.
    """

    name: str
    arch: int
    sheet_bandwidth: float
    copy_bandwidth: Figure
    l2_bandwidth: Figure
    clock: float
    latency: Figure
    warps: int
    blocks: int
    rates: dict[str, float]

    def copy_seconds(self, nbytes: float) -> float:
        """Return the time of a kernel that copies, and so moves that many bytes.

        It waits for memory once, as any kernel that loads what it stores.
        """
        return max(nbytes / self.copy_bandwidth, self.latency / self.clock)

    @staticmethod
    def of(device: DeviceSpec) -> Chip:
        """Return the rates of a GPU by its name, or if that is unknown by its architecture."""
        for chip in _TABLE:
            if chip.arch == device.arch and chip.name in device.name:
                return chip
        base = max(arch for arch in CHIPS if arch <= device.arch)
        chip = CHIPS[base]
        return chip if base == device.arch else replace(chip, arch=device.arch)

    @staticmethod
    def named(name: str) -> Chip:
        """Return the rates of a product; upper and lower case are the same."""
        known = {chip.name.lower(): chip for chip in _TABLE}
        if name.lower() not in known:
            names = ", ".join(chip.name for chip in _TABLE)
            raise ValueError(f"there are no rates of {name!r}; there are those of {names}")
        return known[name.lower()]


# The same on all chips. Instructions a clock: of 4 schedulers, the integer units, the integer
# multipliers, special functions, and loads, stores and shuffles.
ISSUE, ALU, IMAD, XU, LSU = 4, 64, 64, 16, 32
REGISTERS = 65536  # of a multiprocessor
REGISTER_UNIT = 256  # registers are allocated to a warp in multiples of this
FILL = 64  # bytes per clock between the level 2 cache and one multiprocessor


def _chip(
    name: str,
    arch: int,
    sheet: float,
    copy: Figure | None,
    l2: Figure,
    clock: float,
    latency: Figure,
    limits: tuple[int, int],
    floats: tuple[float, float, float],
) -> Chip:
    fma, half, double = floats
    rates = {
        "fma": fma, "half": half, "double": double, "alu": ALU, "imad": IMAD, "xu": XU, "lsu": LSU
    }  # fmt: skip
    share = Figure(0.90 * sheet, f"assumed: 0.90 of the data sheet's {sheet / 1e12:.2f} TB/s")
    return Chip(name, arch, sheet, copy or share, l2, clock, latency, *limits, rates)


_COPY, _LATENCY, _L2 = "measured copy", "AI_kernels", "gpu-benches"
# Bytes a second of the data sheet, of a copy where it was measured, and of the level 2 cache; Hz;
# cycles; warps and blocks; float32, half2 and float64 a clock. `planning.device` has the rest.
_TABLE = (
    _chip(
        "Tesla T4", 75, 0.320e12, None,
        Figure(1.1e12, "assumed: the RTX 3090's, per multiprocessor and clock"),
        1.59e9, Figure(560, "assumed"), (32, 16), (64, 64, 2),
    ),
    _chip(
        "A100", 80, 2.039e12, None, Figure(5.4e12, _L2),
        1.41e9, Figure(550, _LATENCY), (64, 32), (64, 128, 32),
    ),
    _chip(
        "GeForce RTX 3090", 86, 0.936e12, None, Figure(2.4e12, f"{_L2}: A40, the same chip"),
        1.695e9, Figure(500, "assumed"), (48, 16), (128, 64, 2),
    ),
    _chip(
        "GeForce RTX 4090", 89, 1.008e12, None, Figure(4.9e12, "cuda_microbenchmark"),
        2.52e9, Figure(636, _LATENCY), (48, 24), (128, 64, 2),
    ),
    _chip(
        "H100", 90, 3.35e12, Figure(3.0e12, _COPY), Figure(9.7e12, f"{_L2}: H200, the same chip"),
        1.98e9, Figure(700, _LATENCY), (64, 32), (128, 128, 64),
    ),
    _chip(
        "H200", 90, 4.8e12, Figure(4.3e12, _COPY), Figure(9.7e12, _L2),
        1.98e9, Figure(700, f"{_LATENCY}: H100, the same chip"), (64, 32), (128, 128, 64),
    ),
    _chip(
        "B200", 100, 8.0e12, None,
        Figure(10.8e12, "assumed: the H200's, per multiprocessor and clock"),
        1.965e9, Figure(860, _LATENCY), (64, 32), (128, 128, 64),
    ),
    _chip(
        "GeForce RTX 5090", 120, 1.792e12, None,
        Figure(6.2e12, "assumed: the RTX 4090's, per multiprocessor and clock"),
        2.407e9, Figure(936, _LATENCY), (48, 24), (128, 64, 2),
    ),
)  # fmt: skip
# The representative chip of each architecture is the first in the table.
CHIPS: dict[int, Chip] = {chip.arch: chip for chip in reversed(_TABLE)}
