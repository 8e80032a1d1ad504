"""Predicted cost of the peers' kernels, compiled by Triton's own compiler without a driver."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import Any

from cusoftmax.machine_code.chips import Chip
from cusoftmax.machine_code.cost import Code, KernelCost, kernel_cost, read_code
from cusoftmax.machine_code.flow import Loop
from cusoftmax.machine_code.opcodes import access_bytes
from cusoftmax.operations.dtypes import ITEMSIZE
from cusoftmax.planning.builder import ceil_div
from cusoftmax.planning.device import DeviceSpec
from cusoftmax.planning.plan import WARP
from cusoftmax.profiling.emulated import SECTOR

POINTER_TYPES = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32", "float64": "*fp64"}


class NoKernel(Exception):
    """The reason why a peer has no kernel for a problem."""


@dataclass(frozen=True)
class PeerLaunch:
    """A peer's kernel, with the launch parameters that its own host code would choose."""

    function: Any
    arguments: tuple[str, ...]  # "p": a pointer; "n": row length or stride; "r": rows
    constants: dict[str, int]
    warps: int
    grid: int
    row_rounds: float  # rows per block, one after the other


def missing() -> str | None:
    """Return the reason why no peer can be compiled here, or None."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"Triton and what it compiles: {error}"
    return None


def _triton(op: str, rows: int, n: int, device: DeviceSpec) -> PeerLaunch:
    kernels = importlib.import_module("benchmarks.peers.triton_kernels")
    if n > kernels.WIDEST:
        raise NoKernel(f"its rows are one block of at most {kernels.WIDEST}")
    chosen = kernels.settings(n)
    warps = chosen.pop("num_warps")
    forward = op == "softmax"
    function = kernels.softmax_forward if forward else kernels.softmax_backward
    pointers = 2 if forward else 3
    grid = min(rows, device.sm_count * max(1, 2048 // (WARP * warps)))  # as in kernels.run
    arguments = ("p",) * pointers + ("n",) * pointers + ("r", "n")
    return PeerLaunch(function, arguments, chosen, warps, grid, rows / grid)


def _liger(op: str, rows: int, n: int, device: DeviceSpec) -> PeerLaunch:
    kernels = importlib.import_module("liger_kernel.ops.softmax")
    settings = importlib.import_module("liger_kernel.ops.utils").calculate_settings
    try:
        block, warps = settings(n)
    except RuntimeError:  # its own message is several lines long
        raise NoKernel("its rows are one block of at most 65536") from None
    if op == "softmax":
        function, arguments = kernels._softmax_single_block_forward_kernel, ("p", "n") * 2 + ("n",)
    else:
        function, arguments = kernels._softmax_single_block_backward_kernel, ("p", "n") * 3 + ("n",)
    return PeerLaunch(function, arguments, {"BLOCK_SIZE": block}, warps, rows, 1.0)


PEERS: dict[str, Callable[[str, int, int, DeviceSpec], PeerLaunch]] = {
    "Triton": _triton,
    "Liger": _liger,
}


def cost(
    peer: str, op: str, dtype: str, rows: int, n: int, chip: Chip, device: DeviceSpec
) -> KernelCost:
    """Return the cost of a peer's kernel for contiguous rows, or raise `NoKernel`."""
    launch = PEERS[peer](op, rows, n, device)
    code, shared, name = _compiled(peer, op, dtype, n, rows, device.arch)
    arrays = 2 if op == "softmax" else 3
    row_bytes = n * ITEMSIZE[dtype]
    widest = max((access_bytes(x.opcode) for x in code.instructions if x.stem == "STG"), default=4)
    touched = rows * arrays * sectors_touched(row_bytes, widest) * SECTOR

    def iterations(loop: Loop) -> float | None:
        return launch.row_rounds if loop.depth == 0 and loop.has("STG") else None

    found: KernelCost = kernel_cost(
        name,
        code,
        iterations,
        chip,
        device,
        grid=launch.grid,
        threads=launch.warps * WARP,
        shared_bytes=shared,
        elements=rows * n,
        memory_bytes=lambda _: rows * arrays * row_bytes,
        level2_bytes=touched,
    )
    return found


def sectors_touched(row_bytes: int, access: int) -> float:
    """Return the sectors of a row that warps touch, in rows that lie end to end.

    The threads of a warp access `access` bytes each, side by side. Together they touch one sector
    more than they need, unless they start at the boundary of one.
    """
    stretches = ceil_div(row_bytes, WARP * access)
    return row_bytes / SECTOR + stretches * (1 - gcd(row_bytes, SECTOR) / SECTOR)


@cache
def _compiled(
    peer: str, op: str, dtype: str, n: int, rows: int, arch: int
) -> tuple[Code, int, str]:
    """Return machine code, shared memory and name.

    As in a call, the compiler is told which arguments are multiples of 16.
    """
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # Triton's default so far
    triton = importlib.import_module("triton")
    compiler = importlib.import_module("triton.compiler")
    backend = importlib.import_module("triton.backends.compiler")
    launch = PEERS[peer](op, rows, n, DeviceSpec.known(arch))
    names = launch.function.arg_names
    signature, hints = {}, {}
    for place, (name, kind) in enumerate(zip(names, launch.arguments, strict=False)):
        signature[name] = POINTER_TYPES[dtype] if kind == "p" else "i32"
        if kind == "p" or {"n": n, "r": rows}[kind] % 16 == 0:
            hints[(place,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(launch.constants, "constexpr")
    try:
        source = compiler.ASTSource(launch.function, signature, launch.constants, hints)
        target = backend.GPUTarget("cuda", arch, WARP)
        built = triton.compile(source, target=target, options={"num_warps": launch.warps})
    except Exception as error:  # Triton's errors have no common base class
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise NoKernel(f"does not compile: {lines[-1]}") from None
    (code,) = read_code([built.asm["cubin"]], arch)
    return code, built.metadata.shared, built.metadata.name
