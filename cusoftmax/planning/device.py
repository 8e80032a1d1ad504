"""What the planner needs to know about a GPU, which may be present or only named."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from cusoftmax.planning.checks import described, wrong_kind

KIB, MIB = 1 << 10, 1 << 20

# Blocks in a cluster on every GPU that has clusters, and on those known to have more: H100 and
# H200, B200, B300. Thor and DGX Spark have no more (documentation of NVIDIA Warp, 1.15).
PORTABLE_CLUSTER = 8
_LARGE_CLUSTER = {90: 16, 100: 16, 103: 16}
_MANY_DOUBLE_UNITS = (80, 90, 100)  # a float64 unit for two of float32; others: for 32 or 64


@dataclass(frozen=True)
class DeviceSpec:
    """The properties of a GPU that a plan depends on.

    Attributes
    ----------
    arch : int
        Compute capability times ten: 90 for sm_90.
    name : str
        Product name, for messages.
    sm_count : int
        Streaming multiprocessors.
    shared_per_block, shared_per_sm : int
        Bytes of shared memory that a block may ask for (opt-in), and that a multiprocessor has.
    l2_bytes : int
        Size of the level 2 cache in bytes.
    """

    arch: int
    name: str
    sm_count: int
    shared_per_block: int
    shared_per_sm: int
    l2_bytes: int

    @property
    def clusters(self) -> bool:
        """Whether blocks can form clusters and reach each other's shared memory."""
        return self.arch >= 90

    @property
    def max_cluster(self) -> int:
        """Most blocks in a cluster; a kernel has to ask for more than `PORTABLE_CLUSTER`."""
        return _LARGE_CLUSTER.get(self.arch, PORTABLE_CLUSTER) if self.clusters else 1

    @property
    def many_double_units(self) -> bool:
        """Whether float64 is half as fast as float32, and not a 32nd or less."""
        return self.arch in _MANY_DOUBLE_UNITS

    @property
    def reserved_shared(self) -> int:
        """Bytes of shared memory that the system takes of each block."""
        return KIB if self.arch >= 80 else 0

    @staticmethod
    def known(arch: str | int, caller: str = "cusoftmax") -> DeviceSpec:
        """Return the representative GPU of an architecture: ``"sm_90"``, ``"sm_90a"`` or 90.

        An architecture that is not in the table takes the figures of the nearest one below it.
        Errors begin with the name of the function `caller`.
        """
        if isinstance(arch, bool) or not isinstance(arch, (str, int)):
            raise wrong_kind(caller, "arch", arch, "a name such as 'sm_90', or a number such as 90")
        digits = arch.removeprefix("sm_").rstrip("af") if isinstance(arch, str) else described(arch)
        number = int(digits) if digits.isdecimal() and len(digits) <= 4 else 0
        if number < ARCHITECTURES[0]:
            raise ValueError(
                f"{caller}: there is no architecture {described(arch)} that this package compiles "
                f"for; give {', '.join(f'sm_{a}' for a in ARCHITECTURES)} or a later one"
            )
        base = max(a for a in ARCHITECTURES if a <= number)
        _, *figures = _TABLE[base]
        name = _TABLE[base][0] if base == number else f"sm_{number} taken as {_TABLE[base][0]}"
        return DeviceSpec(number, name, *figures)

    @staticmethod
    def current() -> DeviceSpec:
        """Return the current CuPy device; each device is read once."""
        import cupy  # here: the planner must work without it

        return _read(int(cupy.cuda.runtime.getDevice()))


# Name, multiprocessors, shared bytes per block (opt-in) and per multiprocessor, L2 bytes. The
# figures of shared memory belong to the compute capability (CUDA C++ Programming Guide, technical
# specifications), the others to the product.
_TABLE: dict[int, tuple[str, int, int, int, int]] = {
    75: ("Tesla T4", 40, 64 * KIB, 64 * KIB, 4 * MIB),
    80: ("A100", 108, 163 * KIB, 164 * KIB, 40 * MIB),
    86: ("GeForce RTX 3090", 82, 99 * KIB, 100 * KIB, 6 * MIB),
    89: ("GeForce RTX 4090", 128, 99 * KIB, 100 * KIB, 72 * MIB),
    90: ("H100", 132, 227 * KIB, 228 * KIB, 50 * MIB),
    100: ("B200", 148, 227 * KIB, 228 * KIB, 126 * MIB),
    120: ("GeForce RTX 5090", 170, 99 * KIB, 100 * KIB, 96 * MIB),
}
ARCHITECTURES = tuple(_TABLE)


@cache
def _read(device_id: int) -> DeviceSpec:
    import cupy

    device = cupy.cuda.Device(device_id)
    attributes = device.attributes
    name = cupy.cuda.runtime.getDeviceProperties(device_id)["name"]
    return DeviceSpec(
        arch=int(device.compute_capability),
        name=name.decode() if isinstance(name, bytes) else str(name),
        sm_count=attributes["MultiProcessorCount"],
        shared_per_block=attributes["MaxSharedMemoryPerBlockOptin"],
        shared_per_sm=attributes["MaxSharedMemoryPerMultiprocessor"],
        l2_bytes=attributes["L2CacheSize"],
    )
