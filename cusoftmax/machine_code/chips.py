"""Rates of GPUs, from which costs are predicted. No figure was tuned to fit a measurement.

Sources
-------
- Bandwidth, clock: NVIDIA's data sheets. The clock is the boost clock that their float32 figure
  implies.
- Attainable bandwidth: a measured device-to-device copy for H100 and H200, counting bytes read and
  written. For the others, the same share of the data sheet's figure.
- Warps, blocks, registers and shared memory of a multiprocessor: CUDA C++ Programming Guide,
  "Technical Specifications per Compute Capability".
- Results per clock and multiprocessor: the same guide, "Throughput of Native Arithmetic
  Instructions". A warp's instruction has 32 results. Half-precision instructions have two results
  a thread, so they are counted at half the guide's figure.
- Memory latency: Luo et al., "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via
  Microbenchmarking" (2024) for idle A100, RTX 4090 and H100. The others are assumed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cusoftmax.planning.device import DeviceSpec

_MEASURED_SHARE = 0.90  # 3.0 of 3.35 TB/s on H100, 4.3 of 4.8 TB/s on H200


@dataclass(frozen=True)
class Chip:
    """A GPU's rates.

    Attributes
    ----------
    name, arch : str, int
        Product, and compute capability times ten.
    sheet_bandwidth, copy_bandwidth : float
        Bytes per second: of the data sheet, and of a copy.
    measured : bool
        Whether `copy_bandwidth` was measured; if not, it is a share of the data sheet's.
    clock : float
        Hertz of the multiprocessors.
    latency : int
        Cycles of an access to idle memory that misses the caches.
    latency_source : str
        The source of `latency`.
    warps, blocks : int
        The most that a multiprocessor holds.
    rates : dict of str to float
        Instructions of a thread, per clock and multiprocessor, by unit.
    """

    name: str
    arch: int
    sheet_bandwidth: float
    copy_bandwidth: float
    measured: bool
    clock: float
    latency: int
    latency_source: str
    warps: int
    blocks: int
    rates: dict[str, float]

    @property
    def bandwidth_source(self) -> str:
        """The source of `copy_bandwidth`, in words."""
        if self.measured:
            return "measured copy"
        share = self.copy_bandwidth / self.sheet_bandwidth
        return f"{share:.2f} of the data sheet's {self.sheet_bandwidth / 1e12:.2f} TB/s, assumed"

    @staticmethod
    def of(device: DeviceSpec) -> Chip:
        """Return the rates of a GPU by its name, or if that is unknown by its architecture."""
        for chip in _VARIANTS:
            if chip.arch == device.arch and chip.name in device.name:
                return chip
        base = max(arch for arch in CHIPS if arch <= device.arch)
        chip = CHIPS[base]
        return chip if base == device.arch else replace(chip, arch=device.arch)

    @staticmethod
    def named(name: str) -> Chip:
        """Return the rates of a product; upper and lower case are the same."""
        known = {chip.name.lower(): chip for chip in (*CHIPS.values(), *_VARIANTS)}
        if name.lower() not in known:
            names = ", ".join(chip.name for chip in (*CHIPS.values(), *_VARIANTS))
            raise ValueError(f"there are no rates of {name!r}; there are those of {names}")
        return known[name.lower()]


# The same on all chips. Instructions a clock: of 4 schedulers, the integer units, the integer
# multipliers, special functions, and loads, stores and shuffles.
ISSUE, ALU, IMAD, XU, LSU = 4, 64, 64, 16, 32
REGISTERS = 65536  # of a multiprocessor
REGISTER_UNIT = 256  # registers are allocated to a warp in multiples of this
RESERVED_SHARED = 1024  # bytes of each block that the system takes, from sm_80 on
FILL = 64  # bytes per clock between the level 2 cache and one multiprocessor


def _chip(
    name: str,
    arch: int,
    sheet: float,
    clock: float,
    latency: int,
    source: str,
    limits: tuple[int, int],
    floats: tuple[float, float, float],
    copy: float | None = None,
) -> Chip:
    fma, half, double = floats
    rates = {
        "fma": fma, "half": half, "double": double, "alu": ALU, "imad": IMAD, "xu": XU, "lsu": LSU
    }  # fmt: skip
    return Chip(
        name, arch, sheet, copy or _MEASURED_SHARE * sheet, copy is not None, clock, latency,
        source, *limits, rates,
    )  # fmt: skip


_PAPER, _ASSUMED = "Luo et al. 2024", "assumed"
# Data sheet's TB/s, GHz, cycles; warps and blocks; float32, half2 and float64 a clock.
CHIPS: dict[int, Chip] = {
    chip.arch: chip
    for chip in (
        _chip("Tesla T4", 75, 0.320e12, 1.59e9, 560, _ASSUMED, (32, 16), (64, 64, 2)),
        _chip("A100", 80, 2.039e12, 1.41e9, 466, _PAPER, (64, 32), (64, 128, 32)),
        _chip("GeForce RTX 3090", 86, 0.936e12, 1.695e9, 500, _ASSUMED, (48, 16), (128, 64, 2)),
        _chip("GeForce RTX 4090", 89, 1.008e12, 2.52e9, 542, _PAPER, (48, 24), (128, 64, 2)),
        _chip("H100", 90, 3.35e12, 1.98e9, 479, _PAPER, (64, 32), (128, 128, 64), 3.0e12),
        _chip("B200", 100, 8.0e12, 1.965e9, 600, _ASSUMED, (64, 32), (128, 128, 64)),
        _chip("GeForce RTX 5090", 120, 1.792e12, 2.407e9, 600, _ASSUMED, (48, 24), (128, 64, 2)),
    )
}
# Products whose rates differ from those of the chip of the same architecture above.
_VARIANTS = (
    replace(CHIPS[90], name="H200", sheet_bandwidth=4.8e12, copy_bandwidth=4.3e12),
)  # fmt: skip
