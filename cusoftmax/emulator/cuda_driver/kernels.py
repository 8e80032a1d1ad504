"""Modules of PTX, their functions, and launches."""

from __future__ import annotations

import ctypes
import dataclasses

from cusoftmax.planning.device import PORTABLE_CLUSTER, DeviceSpec

from ..ptx import Module as PtxModule
from ..ptx import PtxKernel
from .errors import DriverError
from .memory import Memory
from .streams import Stream

FREE_SHARED = 48 * 1024  # bytes that a block may have of any chip unless it asked for more
_MAX_GRID = (1 << 31) - 1
_MAX_ARRAYS = 8

# Of CUfunction_attribute.
MAX_THREADS, MAX_DYNAMIC_SHARED, CARVEOUT, LARGE_CLUSTERS = 0, 8, 9, 14


@dataclasses.dataclass(frozen=True)
class Module:
    """PTX loaded for a device."""

    code: PtxModule
    device: int


@dataclasses.dataclass
class Function:
    """A kernel of a module, and what it may use."""

    name: str
    kernel: PtxKernel
    device: int
    dynamic_shared: int = FREE_SHARED
    large_clusters: bool = False


@dataclasses.dataclass(frozen=True)
class Launch:
    """A launch that ran."""

    name: str
    grid: int
    block: int
    shared_bytes: int
    device: int
    stream: int
    sizes: tuple[int, ...]  # of the arguments, in bytes


def image_text(image: bytes) -> str:
    """Return the PTX that an image is."""
    if not image.lstrip().startswith((b"//", b".version")):
        raise DriverError(
            "a module that is no PTX cannot be loaded: the emulated driver runs what CuPy compiles "
            "under CUPY_COMPILE_WITH_PTX=1"
        )
    return image.rstrip(b"\0").decode()


def check_target(target: str, spec: DeviceSpec) -> None:
    """Refuse PTX of a later architecture than a device has, or of another's own features."""
    digits = target.removeprefix("sm_")
    own = digits.lstrip("0123456789")  # "a" or "f"
    number = int(digits.removesuffix(own))
    # "f" is a family: the same major number.
    same = {"a": number == spec.arch, "f": number // 10 == spec.arch // 10}.get(own, True)
    if number > spec.arch or not same:
        raise DriverError(f"PTX for {target} does not run on sm_{spec.arch} ({spec.name})")


def set_attribute(function: Function, attribute: int, value: int, spec: DeviceSpec) -> None:
    """Let a function use more than any chip has, as far as this chip has it."""
    if attribute == MAX_DYNAMIC_SHARED:
        most = spec.shared_per_block
        if not 0 <= value <= most:
            raise DriverError(
                f"{function.name}: {value} bytes of dynamic shared memory asked for, but a block "
                f"of sm_{spec.arch} has {most}"
            )
        function.dynamic_shared = value
    elif attribute == LARGE_CLUSTERS and spec.clusters:
        function.large_clusters = bool(value)
    elif attribute != CARVEOUT or not -1 <= value <= 100:
        raise DriverError(f"{function.name}: attribute {attribute} cannot be set to {value}")


def attribute_of(function: Function, attribute: int) -> int:
    """Return what is known of a function before it is machine code."""
    known = {
        MAX_THREADS: function.kernel.max_threads,
        MAX_DYNAMIC_SHARED: function.dynamic_shared,
        LARGE_CLUSTERS: int(function.large_clusters),
    }
    if attribute not in known:
        raise DriverError(
            f"{function.name}: attribute {attribute} belongs to machine code, and this is PTX"
        )
    return known[attribute]


def check_launch(
    function: Function, grid: tuple[int, ...], block: tuple[int, ...], shared: int, spec: DeviceSpec
) -> None:
    """Refuse a launch that a GPU would."""
    name, kernel = function.name, function.kernel
    if (*grid[1:], *block[1:]) != (1, 1, 1, 1):
        raise DriverError(f"{name}: a grid {grid} of blocks {block}, but only x is emulated")
    most = kernel.max_threads
    if not 1 <= block[0] <= most:
        raise DriverError(f"{name}: {block[0]} threads a block, but its launch bounds say {most}")
    if not 1 <= grid[0] <= _MAX_GRID:
        raise DriverError(
            f"{name}: a grid of {grid[0]} blocks, but at most {_MAX_GRID} are allowed"
        )
    cluster = kernel.cluster
    if cluster > 1:
        most = spec.max_cluster if function.large_clusters else PORTABLE_CLUSTER
        if cluster > min(most, spec.max_cluster):
            raise DriverError(
                f"{name}: clusters of {cluster} blocks on sm_{spec.arch}, where "
                f"{min(most, spec.max_cluster)} are allowed"
            )
        if grid[0] % cluster:
            raise DriverError(f"{name}: a grid of {grid[0]} blocks in clusters of {cluster}")
    if shared > function.dynamic_shared:
        raise DriverError(
            f"{name}: {shared} bytes of dynamic shared memory, but {function.dynamic_shared} are "
            "allowed unless cuFuncSetAttribute asked for more"
        )


def arguments(function: Function, pointers: int) -> bytes:
    """Copy the arguments of a launch into the buffer that the kernel reads.

    `pointers` is the address of an array with the address of each argument. The sizes are the
    kernel's, which is all that a driver knows.
    """
    parameters = function.kernel.parameters
    if parameters and not pointers:
        raise DriverError(f"{function.name}: no arguments, but it has {len(parameters)} parameters")
    buffer = bytearray(max((offset + size for offset, size in parameters), default=0))
    addresses = (ctypes.c_uint64 * len(parameters)).from_address(pointers) if parameters else ()
    for i, ((offset, size), address) in enumerate(zip(parameters, addresses, strict=True)):
        if not address:
            # CuPy before 14 passed None so, and the driver read address 0.
            raise DriverError(f"{function.name}: argument {i} has no address")
        buffer[offset : offset + size] = ctypes.string_at(address, size)
    return bytes(buffer)


def run(
    function: Function,
    grid: int,
    block: int,
    values: bytes,
    shared: int,
    stream: Stream,
    memory: Memory,
    seed: int,
) -> Launch:
    """Run a launch on the memory that its pointers name."""
    arrays: dict[int, tuple[int, int]] = {}
    sizes = tuple(size for _, size in function.kernel.parameters)
    for i, (offset, size) in enumerate(function.kernel.parameters):
        # A pointer, or the first word of a struct: CuPy's own kernels take structs of a pointer and
        # a layout. What is no address names no array, and the kernel cannot access it.
        found = memory.behind(int.from_bytes(values[offset : offset + 8], "little"))
        if size < 8 or found is None:
            continue
        if found.device is None:
            raise DriverError(f"{function.name}: argument {i} is in memory of the host")
        if found.device != stream.device:
            raise DriverError(
                f"{function.name}: argument {i} is on device {found.device}, and the launch on "
                f"device {stream.device}"
            )
        arrays[found.base] = (found.base, found.nbytes)
    if len(arrays) > _MAX_ARRAYS:
        raise DriverError(f"{function.name}: {len(arrays)} arrays, but {_MAX_ARRAYS} are emulated")
    function.kernel.run(grid, block, values, shared, list(arrays.values()), seed)
    return Launch(function.name, grid, block, shared, stream.device, stream.handle, sizes)
