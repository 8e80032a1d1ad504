"""What the PTX machine refuses: text that it does not know, and what no kernel may do."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from cusoftmax import emulator
from cusoftmax.emulator import ptx
from cusoftmax.emulator.ptx import kernel as ptx_kernel
from tests.emulator.ptx_support import HEAD, entry, load, packed, run
from tests.support import planned

ARRAY = "ld.param.u64 %rd1, [p0]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;"
LANE = "mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 5;"

# ---- text that is not known ----

UNKNOWN = {
    "frobnicate.b32 %r1, %r2;": r"unknown instruction frobnicate\.b32",
    "add.sat.s32 %r1, %r2, %r3;": r"unknown instruction add\.sat\.s32",
    "add.s32 %r1, %r2;": r"unknown instruction add\.s32 of 2",
    "add.rz.f32 %f1, %f2, %f3;": r"unknown instruction add\.rz\.f32",
    "add.f32 %f1, %f2, %f3;": r"unknown instruction add\.f32",
    "mul.f64 %fd1, %fd2, %fd3;": r"unknown instruction mul\.f64",
    "ex2.approx.f32 %f1, %f2;": r"unknown instruction ex2\.approx\.f32",
    "ld.global.nc.u32 %r1, [%rd1];": r"unknown instruction ld\.global\.nc\.u32",
    "ld.volatile.shared.u32 %r1, [%rd1];": r"unknown instruction ld\.volatile",
    "ld.shared::cluster.u32 %r1, [%r2];": r"unknown instruction ld\.shared::cluster",
    "st.param.u32 [p0], %r1;": r"unknown instruction st\.param",
    "ld.global.v2.u32 %r1, [%rd1];": r"ld\.global\.v2\.u32 of 1 registers",
    "ld.global.u32 %r1, %rd1;": r"without an address",
    "add.s32 %r1, [%rd1], %r2;": r"unknown instruction add\.s32",
    "setp.lt.f32 %p1|%p2, %f1, %f2;": r"unknown instruction setp\.lt\.f32",
    "setp.lt.and.f32 %p1, %f1, %f2, %p3;": r"unknown instruction setp\.lt\.and",
    "bar.sync 0, 64;": r"unknown instruction bar\.sync of 2",
    "barrier.cluster.wait;": r"unknown instruction barrier\.cluster\.wait",
    "shfl.sync.up.b32 %r1|%p1, %r2, 1, 0, -1;": r"unknown instruction shfl\.sync\.up",
    "shfl.sync.bfly.b32 %r1, %r2, 1, 31;": r"unknown instruction shfl\.sync\.bfly",
    "mov.b128 %rd3, {%rd1, %rd2};": r"unknown instruction mov\.b128",
    "mov.b32 {%rs1, %rs2}, {%rs3, %rs4};": r"mov\.b32 of 2 registers to 2",
    "mov.b16 {%rs1, %rs2, %rs3, %rs4}, %rs5;": r"mov\.b16 of 1 registers to 4",
    "mov.u32 %r1, %smid;": r"unknown operand %smid",
    "mov.u64 %rd1, elsewhere;": r"unknown operand elsewhere",
    "mov.u32 %r1, _;": r"unknown operand _",
    "bra NOWHERE;": r"no label NOWHERE",
    "call helper;": r"unknown instruction call",
    ".local .b8 depot[16];": r"unknown '\.local",
    ".shared .b8 own[16];": r"unknown '\.shared",
}  # fmt: skip


@pytest.mark.parametrize("statement", UNKNOWN)
def test_unknown_text_is_named(statement: str) -> None:
    text = HEAD + entry("k", "u64", f"mov.u32 %r9, 1;\n{statement}\nret;")
    line = text.splitlines().index(statement) + 1
    with pytest.raises(ptx.PtxError, match=UNKNOWN[statement]) as raised:
        ptx.load(text).kernel("k")
    assert re.search(rf"\bline {line}\b", str(raised.value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no .target"),
        (HEAD + ".func f() { ret; }", r"functions beside its kernels"),
        (HEAD + entry("k", "u64", "ret;", ".maxnreg 32"), r"kernel k: unknown directive \.maxnreg"),
        (HEAD + entry("k", "texref", "ret;"), r"kernel k: unknown parameter '\.param \.texref p0'"),
        (HEAD + entry("k", "u64", ""), r"kernel k: a thread may run beyond its last"),
        (HEAD + entry("k", "u64", "mov.u32 %r1, 1;"), r"may run beyond its last instruction"),
        (HEAD + entry("k", "u64", f"{LANE} @%p1 ret;"), r"may run beyond its last instruction"),
        (HEAD + entry("k", "u64", f"L: {LANE} @%p1 bra L;"), r"may run beyond its last"),
    ],
)
def test_unknown_module_is_refused(text: str, message: str) -> None:
    with pytest.raises(ptx.PtxError, match=message):
        ptx.load(text).kernel("k")


# ---- what no kernel may do ----

CLUSTER = ".explicitcluster\n.reqnctapercluster 2, 1, 1"
ARRIVE, WAIT = "barrier.cluster.arrive.release.aligned;", "barrier.cluster.wait.acquire.aligned;"
REMOTE = "mapa.shared::cluster.u32 %r3, %r2, {}; st.shared::cluster.b32 [%r3], %r1;"
SHARED = {"shared_bytes": 256}
ONE_THREAD = {"block": 1, **SHARED}
BULK_READ = (
    "ld.param.u64 %rd1, [p0]; mov.u32 %r1, 0; mov.u32 %r2, 128;"
    " mbarrier.init.shared::cta.b64 [%r2], 1;"
    " mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 16;"
    " cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 16, [%r2];"
)
PAIR = {"grid": 2, "directives": CLUSTER, **SHARED}
# Of each: the instructions, how they are launched, and what is said after kernel, block and thread.
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "register_on_one_path": (
        f"{LANE} @%p1 bra L; mov.u32 %r2, 1; L: add.u32 %r3, %r2, 1; ret;",
        {}, "0, thread 5: a register is read that has no value",
    ),
    "register_under_guard": (
        f"{LANE} @!%p1 mov.u32 %r2, 1; add.u32 %r3, %r2, 1; ret;",
        {}, "0, thread 5: a register is read that has no value",
    ),
    "register_as_guard": (
        "@%p1 bra L; mov.u32 %r2, 1; L: ret;", {}, "a register is read that has no value",
    ),
    "register_in_loop": (
        f"{LANE} mov.u32 %r3, 0; L: @%p1 add.u32 %r2, %r2, 1; add.u32 %r3, %r3, 1;"
        " setp.lt.u32 %p2, %r3, 3; @%p2 bra L; ret;",
        {}, "0, thread 5: a register is read that has no value",
    ),
    "register_stored": (f"{ARRAY} st.global.u32 [%rd1], %r2; ret;", {}, "that has no value"),
    "shared_unwritten": ("ld.shared.u32 %r1, [sh+8]; ret;", SHARED, "that nobody wrote, at byte 8"),
    "shared_past_end": (
        f"{LANE} mul.lo.u32 %r2, %r1, 8; st.shared.v2.u32 [%r2+8], {{%r1, %r1}}; ret;",
        SHARED, "0, thread 31: shared write of 8 bytes out of bounds, at byte 256 of 256",
    ),
    "shared_before_start": (
        "mov.u32 %r1, 1; st.shared.u32 [sh+-4], %r1; ret;", SHARED, "out of bounds, at byte -4",
    ),
    "shared_far": (
        "mov.u64 %rd1, 0x7fffffffffffffff; ld.shared.u8 %rs1, [%rd1]; ret;",
        SHARED, "shared read of 1 bytes out of bounds",
    ),
    "shared_misaligned": (
        "mov.u32 %r1, 1; st.shared.v4.u32 [sh+8], {%r1, %r1, %r1, %r1}; ret;",
        SHARED, "misaligned shared write of 16 bytes at byte 8",
    ),
    "global_past_end": (
        f"{ARRAY} add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3+132], %r1; ret;",
        {}, "0, thread 31: write of 4 bytes out of bounds, at byte 256 of argument 0",
    ),
    "global_before_start": (
        f"{ARRAY} ld.global.u32 %r2, [%rd1+-4]; ret;", {}, "at byte -4 of argument 0",
    ),
    "global_far": (
        "mov.u64 %rd1, 0x4000000000000000; sub.s64 %rd1, %rd1, 64; ld.global.u32 %r1, [%rd1]; ret;",
        {}, "read of 4 bytes out of bounds",
    ),
    "global_misaligned": (
        f"{ARRAY} ld.global.v2.u32 {{%r2, %r3}}, [%rd1+4]; ret;", {}, "misaligned read of 8 bytes",
    ),
    "generic_shared_past_end": (
        "mov.u64 %rd1, sh; cvta.shared.u64 %rd2, %rd1; mov.u32 %r1, 1; st.u32 [%rd2+256], %r1;"
        " ret;",
        SHARED, "shared write of 4 bytes out of bounds, at byte 256 of 256",
    ),
    "parameter_past_end": ("ld.param.u64 %rd1, [p0+8]; ret;", {}, "read beyond the parameters"),
    "parameter_before": ("ld.param.u64 %rd1, [p0+-8]; ret;", {}, "read beyond the parameters"),
    "parameter_misaligned": ("ld.param.u64 %rd1, [p0+4]; ret;", {}, "misaligned read of a param"),
    "trap": (f"{LANE} @%p1 trap; ret;", {}, r"0, thread 5: trap"),
    "shuffle_lane_returned": (
        f"{LANE} @%p1 ret; shfl.sync.bfly.b32 %r2|%p2, %r1, 1, 31, -1; ret;",
        {}, "divergent shuffle_xor.* returned",
    ),
    "shuffle_in_branches": (
        f"{LANE} @%p1 bra L; shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; ret;\n"
        "L: shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1; ret;",
        {}, "divergent shuffle_xor .*line 9.*line 8|divergent.*line 8.*line 9",
    ),
    "shuffle_under_guard": (
        f"{LANE} @%p1 shfl.sync.idx.b32 %r2, %r1, 0, 31, -1; ret;",
        {}, "divergent shuffle.* returned",
    ),
    "shuffle_masks_differ": (
        "mov.u32 %r1, %tid.x; and.b32 %r2, %r1, 1; shfl.sync.bfly.b32 %r3, %r1, %r2, 31, -1; ret;",
        {}, "divergent shuffle_xor .*lane mask [01]",
    ),
    "shuffle_leaves_group": (
        "mov.u32 %r1, %tid.x; shfl.sync.bfly.b32 %r3, %r1, 16, 0x101f, -1; ret;",
        {}, "lane mask 16 leaves the group of 16",
    ),
    "shuffle_of_some": (
        "mov.u32 %r1, %tid.x; shfl.sync.bfly.b32 %r3, %r1, 1, 31, 0x0000ffff; ret;",
        {}, "a shuffle of some lanes only",
    ),
    "shuffle_clamped": (
        "mov.u32 %r1, %tid.x; shfl.sync.bfly.b32 %r3, %r1, 1, 15, -1; ret;",
        {}, "a shuffle whose lanes are clamped",
    ),
    "vote_of_some": (
        f"{LANE} vote.sync.ballot.b32 %r3, %p1, 0x7fffffff; ret;", {}, "a vote of some lanes only",
    ),
    "warp_barrier_of_some": ("bar.warp.sync 1; ret;", {}, "a vote of some lanes only"),
    "vote_lane_returned": (
        f"{LANE} @%p1 ret; vote.sync.any.pred %p2, %p1, -1; ret;", {}, "divergent vote.* returned",
    ),
    "shuffle_of_half_a_warp": (
        "mov.u32 %r1, %tid.x; shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1; ret;",
        {"block": 48}, "names 32 lanes, but this warp has 16",
    ),
    "barrier_lane_returned": (
        f"{LANE} @%p1 ret; bar.sync 0; ret;", {}, "divergent block_barrier.* returned",
    ),
    "barrier_warp_returned": (
        "mov.u32 %r1, %tid.x; setp.ge.u32 %p1, %r1, 32; @%p1 ret; bar.sync 0; ret;",
        {"block": 64}, "0, thread 0: divergent block_barrier.*thread 32, which has returned",
    ),
    "barrier_in_two_places": (
        "mov.u32 %r1, %tid.x; setp.ge.u32 %p1, %r1, 32; @%p1 bra L; bar.sync 0; ret;\n"
        "L: bar.sync 0; ret;",
        {"block": 64}, "divergent block_barrier .* of the same block is",
    ),
    "another_barrier": ("bar.sync 1; ret;", {}, "a barrier other than 0"),
    "cluster_block_returned": (
        f"mov.u32 %r1, %ctaid.x; setp.eq.u32 %p1, %r1, 1; @%p1 ret; {ARRIVE} {WAIT} ret;",
        PAIR, "divergent cluster_wait.*block 1.*has returned",
    ),
    "cluster_wait_alone": (f"{WAIT} ret;", PAIR, "cluster_wait .*without cluster_arrive"),
    "cluster_arrive_twice": (f"{ARRIVE} {ARRIVE} {WAIT} ret;", PAIR, "twice without cluster_wait"),
    "cluster_divergent": (f"{LANE} @%p1 ret; {ARRIVE} {WAIT} ret;", PAIR, "divergent cluster_arr"),
    "remote_to_nobody": (
        f"mov.u32 %r1, %tid.x; mul.lo.u32 %r2, %r1, 4; {ARRIVE} {WAIT} {REMOTE.format(2)}"
        f" {ARRIVE} {WAIT} ret;",
        PAIR, "remote store to rank 2 of a cluster of 2",
    ),
    "remote_too_early": (
        f"mov.u32 %r1, %tid.x; mul.lo.u32 %r2, %r1, 4; {REMOTE.format(1)} {ARRIVE} {WAIT} ret;",
        PAIR, "0, thread .*remote store to rank 1 before the cluster's first barrier",
    ),
    "remote_with_no_barrier_after": (
        f"mov.u32 %r1, %tid.x; mul.lo.u32 %r2, %r1, 4; mov.u32 %r4, %cluster_ctarank;"
        f" xor.b32 %r5, %r4, 1; {ARRIVE} {WAIT} {REMOTE.format('%r5')} ret;",
        PAIR, "remote store .*returned",
    ),
    "remote_out_of_bounds": (
        f"mov.u32 %r1, %tid.x; mov.u32 %r2, 0x1000004; {ARRIVE} {WAIT} {REMOTE.format(1)}"
        f" {ARRIVE} {WAIT} ret;",
        PAIR, "shared write of 4 bytes out of bounds",
    ),
    "remote_race": (
        f"mov.u32 %r1, %tid.x; mov.u32 %r2, 0; {ARRIVE} {WAIT} {REMOTE.format(1)}"
        f" {ARRIVE} {WAIT} ret;",
        PAIR, "race at byte 0 of shared memory",
    ),
    "remote_read_before_wait": (
        f"mov.u32 %r1, %tid.x; mul.lo.u32 %r2, %r1, 4; mov.u32 %r4, %cluster_ctarank;"
        f" xor.b32 %r5, %r4, 1; {ARRIVE} {WAIT} {REMOTE.format('%r5')} ld.shared.u32 %r6, [%r2];"
        f" {ARRIVE} {WAIT} ret;",
        PAIR, "race at byte|that nobody wrote",
    ),
    "race_of_warps": (
        "mov.u32 %r1, %tid.x; mul.lo.u32 %r2, %r1, 4; xor.b32 %r3, %r2, 128;"
        " st.shared.u32 [%r2], %r1; ld.shared.u32 %r4, [%r3]; ret;",
        {"block": 64, **SHARED}, "race at byte|that nobody wrote",
    ),
    "copy_not_finished": (
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, 0; cp.async.cg.shared.global [%r1], [%rd1], 16;"
        " ld.shared.u32 %r2, [%r1]; ret;",
        SHARED, "read of shared memory that nobody wrote",
    ),
    "copy_of_lanes_to_one_place": (
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, 0; cp.async.cg.shared.global [%r1], [%rd1], 16;"
        " cp.async.wait_all; ret;",
        SHARED, "race at byte 0",
    ),
    "copy_past_end": (
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, 256; cp.async.cg.shared.global [%r1], [%rd1], 16;"
        " cp.async.wait_all; ret;",
        SHARED, "shared write of 16 bytes out of bounds",
    ),
    "bulk_read_not_waited_for": (
        f"{BULK_READ} ret;", ONE_THREAD, "returns before its bulk copies have finished",
    ),
    "bulk_barrier_left": (
        f"{BULK_READ} mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0; ret;",
        ONE_THREAD, "returns before its bulk copies have finished",
    ),
    "bulk_barrier_of_two": (
        "mov.u32 %r2, 128; mbarrier.init.shared::cta.b64 [%r2], 2; ret;",
        ONE_THREAD, "a barrier for other than one arrival",
    ),
    "bulk_barrier_twice": (
        f"{BULK_READ} mbarrier.init.shared::cta.b64 [%r2], 1; ret;",
        ONE_THREAD, "a barrier for bulk copies that is not the thread's only one",
    ),
    "bulk_barrier_unknown": (
        "mov.u32 %r2, 128; mbarrier.inval.shared::cta.b64 [%r2]; ret;",
        ONE_THREAD, "a barrier for bulk copies that is not initialized",
    ),
    "bulk_second_phase": (
        f"{BULK_READ} mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 1; ret;",
        ONE_THREAD, "a wait for other than a barrier's first phase",
    ),
    "bulk_write_in_no_group": (
        "ld.param.u64 %rd1, [p0]; mov.u32 %r1, 0; st.shared.u32 [%r1], %r1;"
        " cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r1], 16;"
        " cp.async.bulk.wait_group.read 0; ret;",
        ONE_THREAD, "a wait that is not for all bulk copies",
    ),
    "race_of_lanes": (
        "mov.u32 %r1, %tid.x; st.shared.u32 [sh], %r1; ret;", SHARED, "race at byte 0",
    ),
    "addition_to_unwritten": (
        "mov.u32 %r1, 0; atom.shared.add.u32 %r2, [sh], %r1; ret;", SHARED, "that nobody wrote",
    ),
    "race_over_shuffle": (
        "mov.u32 %r1, %tid.x; mul.lo.u32 %r2, %r1, 4; st.shared.u32 [%r2], %r1;"
        " shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1; xor.b32 %r4, %r2, 4; ld.shared.u32 %r5, [%r4];"
        " ret;",
        SHARED, "race at byte",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernel_is_reported(name: str) -> None:
    body, how, message = WRONG[name]
    for seed in range(5):
        with pytest.raises(emulator.KernelError, match=message) as raised:
            run(body, seed=seed, **how)
        assert str(raised.value).startswith("kernel k, block ")
        assert "PTX line" in str(raised.value) or "no cluster barrier follows" in str(raised.value)


def test_registers_that_are_guarded_alike_have_values() -> None:
    guarded = "@%p1 mov.u32 %r2, 7; @%p1 st.global.u32 [%rd1], %r2;"
    assert run(f"{ARRAY} setp.eq.u32 %p1, %r1, 5; {guarded} ret;")[0] == 7


def test_bytes_of_a_load_that_are_not_used_need_no_value() -> None:
    """The compiler says so, where it joins loads with gaps between or behind them."""
    load = "ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [sh];"
    written = "mov.u32 %r1, 1; st.shared.u32 [sh], %r1;"
    run(f'{written} .pragma "used_bytes_mask 15"; {load} ret;', **ONE_THREAD)
    for mask in ("", '.pragma "used_bytes_mask 0xff";'):
        with pytest.raises(emulator.KernelError, match="nobody wrote, at byte 4"):
            run(f"{written} {mask} {load} ret;", **ONE_THREAD)
    wide = "ld.shared.v2.b64 {%rd1, %rd2}, [sh];"
    more = "st.shared.u32 [sh+4], %r1; st.shared.u32 [sh+8], %r1;"
    run(f'{written} {more} .pragma "used_bytes_mask 0xfff"; {wide} ret;', **ONE_THREAD)
    gaps = '.pragma "used_bytes_mask 0xf0f";'
    run(f"{written} st.shared.u32 [sh+8], %r1; {gaps} {load} ret;", **ONE_THREAD)
    with pytest.raises(emulator.KernelError, match="nobody wrote, at byte 8"):
        run(f"{written} {gaps} {load} ret;", **ONE_THREAD)
    at_8 = load.replace("[sh]", "[sh+8]")
    with pytest.raises(emulator.KernelError, match="misaligned shared read of 12 bytes at byte 8"):
        run(f'.pragma "used_bytes_mask 4095"; {at_8} ret;', **ONE_THREAD)
    with pytest.raises(emulator.KernelError, match="misaligned read of shared memory"):
        run(f"{gaps} {at_8} ret;", **ONE_THREAD)


def test_parts_of_a_word_that_are_not_read_need_no_value() -> None:
    """The compiler packs a register that nothing writes, where it unpacks the other alone."""
    packed = "mov.u32 %r1, 1; mov.b64 %rd1, {%r1, %r2};"
    run(f"{packed} mov.b64 {{%r3, _}}, %rd1; add.u32 %r3, %r3, 1; ret;")
    for read in ("mov.b64 {_, %r3}, %rd1;", "add.u64 %rd1, %rd1, 1;"):
        with pytest.raises(emulator.KernelError, match="a register is read that has no value"):
            run(f"{packed} mov.b64 {{%r3, _}}, %rd1; {read} ret;")


def test_endless_loop_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptx_kernel, "MOST_ENTERED", 1000)
    with pytest.raises(
        emulator.KernelError, match=r"thread \d+: the thread does not come to an end"
    ):
        run("L: bra L;")
    run("mov.u32 %r1, 0; L: add.u32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, 900; @%p1 bra L; ret;")


def test_endless_rounds_of_all_threads_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long before each thread by itself would be, but not if one of them accesses an array."""
    monkeypatch.setattr(ptx_kernel, "MOST_IDLE", 100)
    rounds = "add.u32 %r2, %r2, 1; {access} bar.sync 0; setp.lt.u32 %p2, %r2, 900; "
    looped = f"{ARRAY} mov.u32 %r2, 0; setp.eq.u32 %p1, %r1, 5; L: {rounds} @%p2 bra L; ret;"
    with pytest.raises(emulator.KernelError, match="the launch does not come to an end"):
        run(looped.format(access=""))
    run(looped.format(access="@%p1 st.global.u32 [%rd1], %r2;"))


# ---- launches ----

COPY = (
    f"{ARRAY} ld.param.u64 %rd3, [p1]; add.s64 %rd4, %rd1, %rd2; add.s64 %rd5, %rd3, %rd2;"
    " ld.global.u32 %r2, [%rd4]; "
)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("st.global.u32 [%rd5], %r2; ret;", None),
        (
            "setp.ne.u32 %p1, %r1, 9; @%p1 st.global.u32 [%rd5], %r2; ret;",
            "element 9 of argument 1 was never written, of 32",
        ),
        ("st.global.u32 [%rd3], %r2; ret;", "element 0 of argument 1 is written a second time"),
        ("st.global.u16 [%rd5], %r2; ret;", "not whole elements"),
        ("st.global.u32 [%rd4], %r2; ret;", "argument 0, which is for reading only"),
        ("ld.global.u32 %r3, [%rd5]; ret;", "argument 1, which is for writing only"),
    ],
)
def test_elements_are_written_once(rest: str, message: str | None) -> None:
    kernel = load(entry("k", "u64 u64", COPY + rest)).kernel("k", ("read", "write"))
    given = emulator.asarray(np.arange(32, dtype=np.uint32))
    result = emulator.asarray(np.zeros(32, np.uint32))
    if message is None:
        kernel.launch(1, 32, (given, result))
        assert emulator.asnumpy(result).tolist() == [*range(32)]
    else:
        with pytest.raises(emulator.KernelError, match=message):
            kernel.launch(1, 32, (given, result))


def test_launches_that_no_driver_accepts() -> None:
    with pytest.raises(emulator.KernelError, match="launch bounds say 64"):
        run("ret;", block=65, directives=".maxntid 64, 1, 1")
    with pytest.raises(emulator.KernelError, match="cannot launch 3 blocks"):
        run("ret;", grid=3, directives=CLUSTER)
    kernel = load(entry("k", "u64", "ret;")).kernel("k")
    with pytest.raises(emulator.KernelError, match="9 arrays, but it may have 8"):
        kernel.run(1, 32, packed(0), 0, [(0, 0)] * 9)
    with pytest.raises(emulator.KernelError, match="2 arguments, but it has 1 parameters"):
        kernel.launch(1, 32, (None, None))
    with pytest.raises(
        emulator.KernelError, match="argument 0 has 4 bytes, but the parameter has 8"
    ):
        kernel.launch(1, 32, (np.int32(1),))
    with pytest.raises(
        emulator.KernelError, match="argument 0 has 4 bytes, but the parameter has 8"
    ):
        kernel.run(1, 32, bytes(4), 0, [])
    with pytest.raises(ptx.PtxError, match="no kernel other among k"):
        load(entry("k", "u64", "ret;")).kernel("other")


def test_chip_is_not_exceeded() -> None:
    kernel = planned("softmax", "float32", (2, 60), -1, "sm_75").launches[0].kernel
    function = emulator.EmulatorBackend("sm_75", code="ptx").load(kernel)
    with pytest.raises(emulator.KernelError, match=r"a block of .* has 65536"):
        function((1,), (32,), (), 65537)
    clustered = planned("softmax", "float32", (2, 40000), -1, "sm_90").launches[0].kernel
    with pytest.raises(emulator.KernelError, match="clusters of 8 blocks, but"):
        emulator.EmulatorBackend("sm_80", code="ptx").load(clustered)


# ---- places ----

FILES = (
    '.file 1 "/somewhere/cuda_kernels/patterns/block.cuh"\n'
    '.file 2 "/somewhere/cuda_kernels/machine/platform.cuh"\n'
    '.file 3 "/somewhere/cuda_kernels/reduce/fold.cuh"\n'
)


@pytest.mark.parametrize(
    ("loc", "place"),
    [
        (".loc 1 42 3", r"PTX line 12, patterns/block\.cuh:42"),
        (".loc 3 7 1, function_name $L__info_string3, inlined_at 1 43 5", r"reduce/fold\.cuh:7"),
        # What platform.cuh offers is told by who asks for it.
        (".loc 2 9 1, function_name $L__info_string4, inlined_at 3 8 5", r"reduce/fold\.cuh:8"),
        (".loc 2 9 1", r"machine/platform\.cuh:9"),
    ],
)
def test_messages_name_the_line_of_the_source(loc: str, place: str) -> None:
    text = HEAD + FILES + entry("k", "u64", f"{loc}\ntrap;\nret;")
    with pytest.raises(
        emulator.KernelError, match=rf"^kernel k, block 0, thread \d+: trap.*{place}\)"
    ):
        ptx.load(text).kernel("k").run(1, 32, packed(0), 0, [])
