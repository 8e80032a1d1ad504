"""Small modules of PTX for the tests of the machine that runs it: instructions, whole kernels."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cusoftmax.emulator import ptx

HEAD = ".version 8.3\n.target sm_90\n.address_size 64\n"
REGISTERS = (
    ".reg .pred %p<16>; .reg .b16 %rs<16>; .reg .b32 %r<32>; .reg .b64 %rd<32>;"
    " .reg .f32 %f<16>; .reg .f64 %fd<16>;"
)
_SIZES = {
    **{f"{kind}{bits}": bits // 8 for kind in "bus" for bits in (8, 16, 32, 64)},
    "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "f32x2": 8, "pred": 4,
}  # fmt: skip
_KINDS = {1: "rs", 2: "rs", 4: "r", 8: "rd"}


def entry(name: str, parameters: str, body: str, directives: str = "") -> str:
    """Return a kernel's text; `parameters` as in ``"u64 u64"``, named p0, p1 and so on."""
    listed = ", ".join(f".param .{kind} p{i}" for i, kind in enumerate(parameters.split()))
    return f".visible .entry {name}({listed})\n{directives}\n{{\n{REGISTERS}\n{body}\n}}\n"


def packed(*values: int) -> bytes:
    """Return the bytes of 64-bit parameters."""
    return struct.pack(f"<{len(values)}Q", *values)


def load(text: str, shared: bool = False) -> Any:
    """Return the module of these kernels; with `shared`, dynamic shared memory is named `sh`."""
    head = HEAD + (".extern .shared .align 16 .b8 sh[];\n" if shared else "")
    return ptx.load(head + text)


def run(body: str, words: int = 64, block: int = 32, grid: int = 1, **how: Any) -> np.ndarray:
    """Run a kernel of one parameter, an array of 32-bit words that is zero at first; return it."""
    directives, shared_bytes = how.pop("directives", ""), how.pop("shared_bytes", 0)
    array = np.zeros(words, np.uint32)
    kernel = load(entry("k", "u64", body, directives), shared=bool(shared_bytes)).kernel("k")
    kernel.run(
        grid, block, packed(array.ctypes.data), shared_bytes, [(array.ctypes.data, array.nbytes)],
        **how,
    )  # fmt: skip
    return array


# ---- one instruction at a time ----


def _register(kind: str, number: int) -> str:
    if kind in ("f32", "f64"):
        return f"%{'f' if kind == 'f32' else 'fd'}{number}"
    return f"%p{number}" if kind == "pred" else f"%{_KINDS[_SIZES[kind]]}{number + 8}"


def _memory(kind: str) -> str:
    return kind if kind in ("f32", "f64") else f"u{8 * _SIZES[kind]}"


def _entry_of(number: int, name: str, types: Sequence[str]) -> str:
    """Return a kernel in which each thread gives the instruction operands of its own."""
    result, *operands = types
    lines = [
        "ld.param.u64 %rd1, [p0]; ld.param.u64 %rd2, [p1];",
        "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x;",
        "mad.lo.s32 %r4, %r2, %r3, %r1;",
        f"mul.wide.u32 %rd3, %r4, {8 * len(operands)}; add.s64 %rd1, %rd1, %rd3;",
        "mul.wide.u32 %rd4, %r4, 8; add.s64 %rd2, %rd2, %rd4;",
    ]
    names = [_register(kind, i + 1) for i, kind in enumerate(operands)]
    for i, (kind, register) in enumerate(zip(operands, names, strict=True)):
        if kind == "pred":
            lines.append(f"ld.global.u32 %r5, [%rd1+{8 * i}]; setp.ne.u32 {register}, %r5, 0;")
        else:
            lines.append(f"ld.global.{_memory(kind)} {register}, [%rd1+{8 * i}];")
    to = _register(result, 0)
    lines.append(f"{name} {', '.join([to, *names])};")
    if result == "pred":
        lines.append(f"selp.u32 %r6, 1, 0, {to}; st.global.u32 [%rd2], %r6;")
    else:
        lines.append(f"st.global.{_memory(result)} [%rd2], {to};")
    return entry(f"k{number}", "u64 u64", "\n".join([*lines, "ret;"]))


def evaluate(
    given: Mapping[str, tuple[Sequence[str], Sequence[Sequence[int]]]], seed: int = 0
) -> dict[str, list[int]]:
    """Return the results of instructions, as raw bits.

    `given` has, for each instruction's name, the types of its result and operands, and the
    operands of each case as raw bits.
    """
    names = [*given]
    module = load("".join(_entry_of(i, name, given[name][0]) for i, name in enumerate(names)))
    found = {}
    for i, name in enumerate(names):
        cases = given[name][1]
        count = -(-len(cases) // 32) * 32
        inputs = np.zeros((count, len(cases[0])), np.uint64)
        inputs[: len(cases)] = np.array(cases, dtype=np.uint64)
        results = np.zeros(count, np.uint64)
        arrays = [(a.ctypes.data, a.nbytes) for a in (inputs, results)]
        parameters = packed(*(pointer for pointer, _ in arrays))
        module.kernel(f"k{i}").run(count // 32, 32, parameters, 0, arrays, seed=seed)
        found[name] = results[: len(cases)].tolist()
    return found
