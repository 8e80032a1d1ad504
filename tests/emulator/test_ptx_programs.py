"""Whole programs on the PTX machine: control flow, registers, memory of every kind, collectives."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cusoftmax.emulator._run import Executed
from tests.emulator.ptx_support import entry, load, packed, run

# ---- control flow: programs drawn at random, against Python ----

REGISTERS, BLOCKS, STEPS, OUT = 9, 8, 5, 3
OPERATIONS = {
    "add.u32": lambda a, b: a + b,
    "sub.u32": lambda a, b: a - b,
    "mul.lo.u32": lambda a, b: a * b,
    "xor.b32": lambda a, b: a ^ b,
}


class Program:
    """Blocks of guarded computations; each ends in a branch to any block, until the fuel is spent.

    Registers live from anywhere to anywhere, so that two which share a slot by mistake show.
    """

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        number = lambda: draw.randrange(REGISTERS)  # noqa: E731
        self.blocks = [
            [
                (draw.choice([*OPERATIONS]), number(), number(), number(), draw.choice("  pn"))
                for _ in range(draw.randrange(STEPS))
            ]
            for _ in range(BLOCKS)
        ]
        self.branches = [(number(), draw.randrange(BLOCKS)) for _ in range(BLOCKS)]
        self.fuel = draw.randrange(5, 25)
        self.shown = [draw.randrange(REGISTERS) for _ in range(OUT)]

    def text(self) -> str:
        lines = [
            "ld.param.u64 %rd1, [p0]; mov.u32 %r30, %tid.x;",
            f"mul.wide.u32 %rd2, %r30, {4 * OUT}; add.s64 %rd1, %rd1, %rd2; mov.u32 %r31, 0;",
            *(f"mad.lo.u32 %r{i}, %r30, {i + 3}, {7 * i + 1};" for i in range(REGISTERS)),
        ]
        for i, (steps, (by, to)) in enumerate(zip(self.blocks, self.branches, strict=True)):
            lines.append(
                f"B{i}: and.b32 %r29, %r{(by + 1) % REGISTERS}, 1; setp.eq.u32 %p1, %r29, 1;"
            )
            for name, result, a, b, guard in steps:
                written = {" ": "", "p": "@%p1 ", "n": "@!%p1 "}[guard]
                lines.append(f"{written}{name} %r{result}, %r{a}, %r{b};")
            lines.append(f"add.u32 %r31, %r31, 1; setp.gt.u32 %p2, %r31, {self.fuel}; @%p2 bra E;")
            lines.append(f"and.b32 %r29, %r{by}, 3; setp.ne.u32 %p3, %r29, 0; @%p3 bra B{to};")
        lines.append("E:")
        lines += [f"st.global.u32 [%rd1+{4 * k}], %r{r};" for k, r in enumerate(self.shown)]
        return "\n".join([*lines, "ret;"])

    def result(self, thread: int) -> list[int]:
        held = [(thread * (i + 3) + 7 * i + 1) % 2**32 for i in range(REGISTERS)]
        at = burnt = 0
        while at < BLOCKS:
            by, to = self.branches[at]
            holds = held[(by + 1) % REGISTERS] & 1
            for name, result, a, b, guard in self.blocks[at]:
                if guard == " " or holds == (guard == "p"):
                    held[result] = OPERATIONS[name](held[a], held[b]) % 2**32
            burnt += 1
            if burnt > self.fuel:
                break
            at = to if held[by] & 3 else at + 1
        return [held[r] for r in self.shown]


@pytest.mark.parametrize("seed", range(12))
def test_random_programs(seed: int) -> None:
    program = Program(seed)
    found = run(program.text(), words=32 * OUT, seed=seed).reshape(32, OUT)
    assert found.tolist() == [program.result(thread) for thread in range(32)]


# ---- what is written by hand ----

ARRAY = "ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;"
HERE = f"{ARRAY} add.s64 %rd3, %rd1, %rd2;"
STORE = "st.global.u32 [%rd3], %r9; ret;"
LANES = np.arange(32)
SHARED = {"shared_bytes": 256}
CLUSTER = ".explicitcluster\n.reqnctapercluster 2, 1, 1"
BOTH = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"

PROGRAMS = {
    "loop": (
        "mov.u32 %r9, 0; mov.u32 %r2, 0;\n"
        "L: add.u32 %r9, %r9, %r2; add.u32 %r2, %r2, 1; setp.le.u32 %p1, %r2, %r1; @%p1 bra L;",
        LANES * (LANES + 1) // 2,
    ),
    "numbers": (
        "mov.b32 %r9, -2; and.b32 %r9, %r9, 0xFFFF; mov.f32 %f1, 0f3F800000; mov.b32 %r2, %f1;"
        " add.u32 %r9, %r9, %r2;",
        LANES * 0 + 0xFFFE + 0x3F800000,
    ),
    "special registers": (
        "mov.u32 %r2, %ntid.x; mov.u32 %r3, %laneid; mov.u32 %r4, %nctaid.x; mov.u32 %r5, %tid.y;"
        " mov.u32 %r6, %ntid.z; mad.lo.u32 %r9, %r2, 100, %r3; mad.lo.u32 %r9, %r4, 10000, %r9;"
        " add.u32 %r9, %r9, %r5; mad.lo.u32 %r9, %r6, 1000000, %r9;",
        1013200 + LANES,
    ),
    "registers of a brace": (
        "mov.u32 %r9, 1;\n{ .reg .b32 t; .reg .pred p; add.u32 t, %r1, 1; setp.gt.u32 p, t, 16;"
        " @p add.u32 %r9, %r9, t; }\n{ .reg .b32 t; mov.b32 t, 5; add.u32 %r9, %r9, t; }",
        6 + np.where(LANES >= 16, LANES + 1, 0),
    ),
    "words packed": (
        "cvt.u16.u32 %rs1, %r1; mov.b32 %r2, {%rs1, %rs1}; mov.b64 %rd4, {%r2, %r1};"
        " mov.b64 {%r3, %r4}, %rd4; mov.b32 {%rs2, %rs3}, %r3; cvt.u32.u16 %r5, %rs3;"
        " mov.b64 %rd5, {%rs1, %rs2, %rs3, %rs1}; shr.u64 %rd5, %rd5, 48; cvt.u32.u64 %r6, %rd5;"
        " add.u32 %r9, %r4, %r5; add.u32 %r9, %r9, %r6;",
        3 * LANES,
    ),
    "words that are not wanted": (
        "mov.b64 %rd4, {%r1, %r1}; mov.b64 {_, %r2}, %rd4; mov.b64 {%r3, _}, %rd4;"
        " mov.b32 {%rs1, _}, %r2; cvt.u32.u16 %r4, %rs1; add.u32 %r9, %r2, %r3;"
        " add.u32 %r9, %r9, %r4;",
        3 * LANES,
    ),
    "vectors of shared memory": (
        "mul.lo.u32 %r2, %r1, 8; add.u32 %r3, %r1, 7; st.shared.v2.u32 [%r2], {%r1, %r3};"
        " bar.sync 0; xor.b32 %r4, %r2, 8; ld.shared.u32 %r9, [%r4+4];",
        (LANES ^ 1) + 7,
    ),
    "shared memory behind a negative address": (
        "mul.lo.u32 %r2, %r1, 4; st.shared.u32 [%r2], %r1; sub.u32 %r3, %r2, 128;"
        " ld.shared.u32 %r9, [%r3+128];",
        LANES,
    ),
    "copies to shared memory": (
        "mul.lo.u32 %r2, %r1, 4; mad.lo.u32 %r3, %r1, 3, 5; st.global.u32 [%rd3], %r3; bar.sync 0;"
        " and.b32 %r4, %r1, 3; setp.eq.u32 %p1, %r4, 0;"
        " @%p1 cp.async.cg.shared.global [%r2], [%rd3], 16; cp.async.wait_all; bar.sync 0;"
        " xor.b32 %r5, %r2, 124; ld.shared.u32 %r9, [%r5];",
        (LANES ^ 31) * 3 + 5,
    ),
    "bulk copies": (
        "mul.lo.u32 %r2, %r1, 4; mad.lo.u32 %r3, %r1, 3, 5; st.global.u32 [%rd3], %r3; bar.sync 0;"
        " setp.ne.u32 %p1, %r1, 0; @%p1 bra READ; mov.b32 %r6, 128;"
        " mbarrier.init.shared::cta.b64 [%r6], 1; fence.proxy.async.shared::cta;"
        " mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r6], 128;"
        " cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
        " [%r2], [%rd3], 128, [%r6]; WAIT: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r6], 0;"
        " @!%p2 bra WAIT; mbarrier.inval.shared::cta.b64 [%r6];"
        " READ: bar.sync 0; ld.shared.u32 %r4, [%r2]; add.u32 %r4, %r4, 7;"
        " st.shared.u32 [%r2], %r4; fence.proxy.async.shared::cta; bar.sync 0; @%p1 bra DONE;"
        " cp.async.bulk.global.shared::cta.bulk_group [%rd3], [%r2], 128;"
        " cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;"
        " DONE: bar.sync 0; ld.global.u32 %r9, [%rd3];",
        LANES * 3 + 12,
    ),
    "additions to one word": (
        "mov.b32 %r2, 0; setp.ne.u32 %p1, %r1, 0; @!%p1 st.shared.u32 [%r2+4], %r2; bar.sync 0;"
        " atom.shared.add.u32 %r3, [%r2+4], %r1; bar.sync 0; ld.shared.u32 %r4, [%r2+4];"
        " setp.gt.u32 %p2, %r3, %r4; selp.u32 %r5, 1000, 0, %p2; add.u32 %r9, %r4, %r5;",
        LANES * 0 + 496,
    ),
    "signs of narrow loads": (
        "mul.lo.u32 %r2, %r1, 4; mov.b32 %r3, -3; st.shared.u32 [%r2], %r3;"
        " ld.shared.s8 %rs1, [%r2]; ld.shared.u8 %rs2, [%r2]; ld.shared.s16 %r4, [%r2];"
        " cvt.s32.s16 %r5, %rs1; cvt.u32.u16 %r6, %rs2; add.s32 %r9, %r5, %r6;"
        " add.s32 %r9, %r9, %r4;",
        LANES * 0 + 247,
    ),
    "generic addresses": (
        "mov.u64 %rd4, sh; cvta.shared.u64 %rd5, %rd4; add.s64 %rd5, %rd5, %rd2;"
        " st.u32 [%rd5], %r1; cvta.to.shared.u64 %rd6, %rd5; ld.shared.u32 %r2, [%rd6];"
        " cvta.global.u64 %rd7, %rd3;"
        " st.u32 [%rd7], %r2; cvta.to.global.u64 %rd8, %rd7; ld.global.u32 %r9, [%rd8];",
        LANES,
    ),
    "shuffles": (
        "shfl.sync.bfly.b32 %r2|%p1, %r1, 5, 31, -1; shfl.sync.idx.b32 %r3, %r1, 3, 0x181f, -1;"
        " selp.u32 %r4, 1000, 0, %p1; mad.lo.u32 %r9, %r3, 32, %r2; add.u32 %r9, %r9, %r4;",
        (LANES ^ 5) + 32 * (LANES // 8 * 8 + 3) + 1000,
    ),
    "votes": (
        "setp.lt.u32 %p1, %r1, 3; vote.sync.ballot.b32 %r2, %p1, -1;"
        " vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1;"
        " selp.u32 %r3, 8, 0, %p2; selp.u32 %r4, 16, 0, %p3;"
        " setp.lt.u32 %p4, %r1, 32; vote.sync.all.pred %p5, %p4, -1; selp.u32 %r5, 32, 0, %p5;"
        " add.u32 %r9, %r2, %r3; add.u32 %r9, %r9, %r4; add.u32 %r9, %r9, %r5;",
        LANES * 0 + 7 + 8 + 32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_program(name: str) -> None:
    body, expected = PROGRAMS[name]
    for seed in range(3):
        assert run(f"{HERE}\n{body}\n{STORE}", words=32, seed=seed, **SHARED).tolist() == [
            *expected
        ]


@pytest.mark.parametrize("seed", range(5))
def test_remote_store_reaches_its_block(seed: int) -> None:
    body = (
        f"{ARRAY} mov.u32 %r2, %ctaid.x; mad.lo.u32 %r3, %r2, 100, %r1;"
        " mov.u32 %r4, %cluster_ctarank; xor.b32 %r5, %r4, 1; mul.lo.u32 %r6, %r1, 4;"
        " mapa.shared::cluster.u32 %r7, %r6, %r5;"
        f" {BOTH} st.shared::cluster.b32 [%r7+16], %r3; {BOTH} ld.shared.u32 %r9, [%r6+16];"
        " mad.lo.u32 %r10, %r2, 32, %r1; mul.wide.u32 %rd4, %r10, 4; add.s64 %rd3, %rd1, %rd4;"
    )
    found = run(f"{body}\n{STORE}", words=128, grid=4, seed=seed, directives=CLUSTER, **SHARED)
    block = np.arange(128) // 32
    assert found.tolist() == ((block ^ 1) * 100 + np.arange(128) % 32).tolist()


def test_parameters_lie_as_the_driver_puts_them() -> None:
    text = (
        ".visible .entry k(.param .u64 .ptr .align 1 a, .param .u8 b, .param .align 8 .b8 c[20],"
        " .param .u32 d)\n"
        "{ .reg .b64 %rd<9>; .reg .b32 %r<9>; .reg .b16 %rs<9>; ld.param.u64 %rd1, [a];"
        " ld.param.u8 %rs1, [b]; ld.param.v2.u32 {%r1, %r2}, [c+8]; mov.b64 %rd2, c;"
        " ld.param.u32 %r3, [%rd2+16]; ld.param.u32 %r4, [d]; cvt.u32.u16 %r5, %rs1;"
        " st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4}; st.global.u32 [%rd1+16], %r5; ret; }\n"
    )
    kernel = load(text).kernel("k")
    assert kernel.parameters == ((0, 8), (8, 1), (16, 20), (36, 4))
    words = np.zeros(16, np.uint32)
    bytes_of = bytearray(packed(words.ctypes.data, 0xFF7, 0, 0, 0))
    bytes_of[16:40] = np.array([1, 2, 3, 4, 5, 6], np.uint32).tobytes()
    kernel.run(1, 1, bytes(bytes_of), 0, [(words.ctypes.data, 64)])
    assert words[:5].tolist() == [3, 4, 5, 6, 0xF7]


def test_kernels_of_a_module_are_apart() -> None:
    module = load(entry("one", "u64", "ret;") + entry("two", "u64", "trap; ret;"))
    assert [*module.kernels] == ["one", "two"]
    module.kernel("one").run(1, 32, packed(0), 0, [])


def executed(body: str, grid: int, block: int) -> Executed:
    """Return how often each instruction of a kernel without memory was executed."""
    kernel = load(entry("k", "u64", body)).kernel("k")
    found = kernel.run(grid, block, packed(0), 0, []).executed
    assert found is not None
    return found


def test_instructions_are_counted() -> None:
    counted = executed(
        "mov.u32 %r1, %tid.x; mov.u32 %r2, 0;\n"
        "L: add.u32 %r2, %r2, 1; setp.le.u32 %p1, %r2, %r1; @%p1 bra L;\n"
        "@%p1 add.u32 %r2, %r2, 1; ret;",
        grid=2,
        block=4,
    ).by_name()
    turns = 2 * (1 + 2 + 3 + 4)
    assert counted == {
        "mov.u32": 16,
        "add.u32": turns + 8,  # what its guard left out counts too
        "setp.le.u32": turns,
        "bra": turns,
        "ret": 8,
    }


def test_warps_take_as_long_as_their_slowest_lane() -> None:
    """Of two warps, lane 3 of one makes 7 rounds and lane 5 of the other 4; all others make one."""
    lines = executed(
        "mov.u32 %r1, %tid.x; mov.u32 %r2, 1;\n"
        "setp.eq.u32 %p1, %r1, 3; selp.b32 %r2, 7, %r2, %p1;\n"
        "setp.eq.u32 %p1, %r1, 37; selp.b32 %r2, 4, %r2, %p1;\n"
        "L: sub.u32 %r2, %r2, 1; setp.ne.u32 %p1, %r2, 0; @%p1 bra L; ret;",
        grid=1,
        block=64,
    ).by_line()
    assert lines[:2] == [("block", 2), ("mov.u32", 2)]
    assert [times for name, times in lines if name == "sub.u32"] == [7 + 4]
    assert lines[-2:] == [("block", 2), ("ret", 2)]
