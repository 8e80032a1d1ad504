"""Breaks of what only a GPU runs: the device half of platform.cuh, and how kernels are launched.

Each is seen, on the PTX machine, by a check that is meant to see it, whatever the seed. The
emulator of the source cannot see them: it has other functions in place of those that are broken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import cusoftmax as cs
from benchmarks.static.tuning_problems import tuned_to
from cusoftmax import emulator
from cusoftmax.emulator.ptx import PtxError, decode
from cusoftmax.runtime import calls, source
from tests.emulator.both_codes import difference, outcome
from tests.mutations import BOUND, DIVERGENCE, MEMORY, RACE, SHUFFLE, Mutation, broken, forget
from tests.probes import FAULT_KINDS, SEEDS, Probe, finding, plan_kind
from tests.support import dtype_of, logits

OTHER_BITS = ("bits of the source's run",)
UNKNOWN = ("unknown instruction",)

# ---- what sees them ----


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """A call of softmax on source and PTX, of which all bits are compared, the workspace's too."""

    rows: np.ndarray
    dtype: str
    axis: int = -1
    arch: str = "sm_90"

    def outcome(self, code: str, seed: int) -> list[np.ndarray]:
        def call() -> Any:
            return cs.softmax(emulator.asarray(self.rows), self.axis, dtype_of(self.dtype))

        return outcome(call, code, self.arch, seed)

    @functools.cached_property
    def truths(self) -> list[list[np.ndarray]]:
        """What the source gives, for each seed: it has nothing of what is broken here."""
        return [self.outcome("source", seed) for seed in SEEDS]

    def finding(self, seed: int) -> str | None:
        found = difference(self.truths[SEEDS.index(seed)], self.outcome("ptx", seed))
        return OTHER_BITS[0] if found else None


class Uncached(Comparison):
    """The same of results that are taken to be too large for the caches."""

    def outcome(self, code: str, seed: int) -> list[np.ndarray]:
        with tuned_to("UNCACHED_PERCENT", 1):
            return super().outcome(code, seed)

    def finding(self, seed: int) -> str | None:
        try:
            return super().finding(seed)
        except emulator.KernelError as error:
            return next(kind for text, kind in FAULT_KINDS if text in str(error))


def near_ties(dtype: str) -> Comparison:
    """Return rows of two whose first softmax is next to the middle of two numbers of a dtype.

    It is further from it than float64 rounds, and nearer than float32 does.
    """
    digits = {"float16": 11, "bfloat16": 8}[dtype]
    odd = np.arange(1, 2**digits, 2, dtype=np.longdouble)[::37]
    middle = 0.5 + odd / 2 ** (digits + 1)
    little = np.longdouble(2) ** -30
    p = np.concatenate([middle * (1 - little), middle * (1 + little)])
    x = np.zeros((p.size, 2))
    x[:, 0] = np.log(p / (1 - p))
    return Comparison(x, dtype)


def nan_behind_the_largest() -> Comparison:
    """Return columns with a NaN, of which the workspace has the maximum of the others."""
    x = np.random.default_rng(0).normal(0, 1, (3, 300, 37)).astype(np.float32)
    x[:, ::50], x[:, 1::50] = 50, np.nan
    return Comparison(x, "float32", axis=1, arch="sm_75")


def tiny_results() -> Comparison:
    """Return rows with results from the smallest normal float32 down to nothing."""
    x = np.zeros((4, 600), np.float32)
    x[:] = -np.linspace(80, 105, 600)
    x[:, 0] = 0
    return Comparison(x, "float32")


def normal_rows(dtype: str, arch: str = "sm_90") -> Comparison:
    return Comparison(logits((16, 200), dtype), dtype, arch=arch)


def ptx(kind: str, op: str, dtype: str, shape: tuple[int, int], **more: Any) -> Probe:
    return Probe(kind, op, dtype, shape, code="ptx", **more)


GROUP = ptx("group", "softmax", "float32", (5, 600))
BLOCK = ptx("block", "softmax", "float32", (3, 1500))
CLUSTER = ptx("block x2", "softmax", "float32", (3, 9001))
VALUES = ptx("group", "logsumexp", "float32", (5, 600))
HALF = ptx("group", "softmax", "float16", (16, 200))
BFLOAT = ptx("group", "softmax", "bfloat16", (16, 200))
UNCACHED = Uncached(logits((40, 600), "float16"), "float16", arch="sm_75")
SELECTED = ptx("topk_block", "topk_softmax", "float32", (3, 9000))

# ---- the breaks ----

Seen = Probe | Comparison


@dataclasses.dataclass(frozen=True)
class Break:
    """A change of platform.cuh, a text for another, or of the launcher; and what sees it how."""

    by: tuple[str, ...]
    seen: Seen
    change: tuple[str, str] | Callable[[pytest.MonkeyPatch], None]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        if isinstance(self.change, tuple):
            with broken(Mutation("", self.by, "machine/platform.cuh", *self.change, ())):
                yield
        else:
            with pytest.MonkeyPatch.context() as patch:
                self.change(patch)
                forget()
                yield
            forget()


def without_ftz(patch: pytest.MonkeyPatch) -> None:
    every = source.all_options
    patch.setattr(source, "all_options", lambda *of: tuple(o for o in every(*of) if "ftz" not in o))


def with_contraction(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(source, "FLAGS", ("-std=c++17", "-fmad=true"))


def strides_a_word_late(patch: pytest.MonkeyPatch) -> None:
    layout_of = calls.layout_of

    def late(plan: Any) -> Any:
        words = layout_of(plan)
        return np.concatenate([words[:8], np.roll(words[8:], 1)])

    patch.setattr(calls, "layout_of", late)


def struct_a_word_short(patch: pytest.MonkeyPatch) -> None:
    layout_of = calls.layout_of
    patch.setattr(calls, "layout_of", lambda plan: layout_of(plan)[:-1])


def little_shared_memory(patch: pytest.MonkeyPatch) -> None:
    planner = calls.plan

    def less(*of: Any) -> Any:
        whole = planner(*of)
        launches = (dataclasses.replace(x, shared_bytes=x.shared_bytes - 4) for x in whole.launches)
        return dataclasses.replace(whole, launches=tuple(launches))

    patch.setattr(calls, "plan", less)


def half_of_the_threads(patch: pytest.MonkeyPatch) -> None:
    planner = calls.plan

    def less(*of: Any) -> Any:
        whole = planner(*of)
        launches = (dataclasses.replace(x, block=x.block // 2) for x in whole.launches)
        return dataclasses.replace(whole, launches=tuple(launches))

    patch.setattr(calls, "plan", less)


BREAKS = {
    "shuffle_xor: half its width": Break(
        SHUFFLE, GROUP, ("value, lane_mask, width);", "value, lane_mask, width / 2);")
    ),
    "shuffle_xor: half of the lanes": Break(
        ("collective of some lanes",),
        GROUP,
        ("__shfl_xor_sync(0xffffffffu", "__shfl_xor_sync(0xffffu"),
    ),
    "any_lane: all lanes": Break(BOUND, SELECTED, ("__any_sync(", "__all_sync(")),
    "block_barrier: none": Break(RACE, BLOCK, ("{ __syncthreads(); }", "{}")),
    "block_barrier: not for one lane": Break(
        (*DIVERGENCE, *RACE),  # whichever that lane comes to first
        BLOCK,
        ("{ __syncthreads(); }", "{ if (threadIdx.x != 5) __syncthreads(); }"),
    ),
    "cluster_arrive: none": Break(
        ("cluster barrier out of step",),
        CLUSTER,
        ('  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");', ""),
    ),
    "cluster_arrive: not for one lane": Break(
        DIVERGENCE,
        CLUSTER,
        (
            '  asm volatile("barrier.cluster.arrive',
            '  if (threadIdx.x % 32 != 7) asm volatile("barrier.cluster.arrive',
        ),
    ),
    "cluster_wait: none": Break(
        (*RACE, "cluster barrier out of step", "remote store to a finished block"),
        CLUSTER,
        ('  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");', ""),
    ),
    "cluster_rank: 0": Break(
        (*MEMORY, *RACE), CLUSTER, ("return static_cast<int>(rank);", "return 0;")
    ),
    "store_remote: to another rank": Break(RACE, CLUSTER, ('"r"(rank));', '"r"(rank / 2));')),
    "store_remote: to a rank that is not there": Break(
        ("remote store to a finished block",), CLUSTER, ('"r"(rank));', '"r"(rank + 1));')
    ),
    "store_remote: no mapa": Break(
        RACE,
        CLUSTER,
        ('"mapa.shared::cluster.u32 %0, %1, %2;"', '"mov.b32 %0, %1;"'),
    ),
    "global_store: where it is not wanted": Break(
        (*MEMORY, "element not written"),
        GROUP,
        ("if (wanted) *static_cast<V*>", "if (!wanted) *static_cast<V*>"),
    ),
    "global_load: always": Break(
        MEMORY,
        dataclasses.replace(GROUP, shape=(5, 601)),
        ("if (wanted) otherwise = ", "otherwise = "),
    ),
    "global_load_uncached: always": Break(
        MEMORY, UNCACHED, ("if (wanted) {\n      asm volatile(\"ld", '{\n      asm volatile("ld')
    ),
    "global_store_uncached: where it is not wanted": Break(
        MEMORY, UNCACHED, ("if (wanted) {\n      asm volatile(\"st", '{\n      asm volatile("st')
    ),
    "global_store_uncached: words exchanged": Break(
        OTHER_BITS, UNCACHED, ("[%0], {%1, %2, %3, %4}", "[%0], {%1, %3, %2, %4}")
    ),
    "global_load_uncached: words exchanged": Break(
        OTHER_BITS,
        UNCACHED,
        ("no_allocate.v4.b32 {%0, %1, %2, %3}", "no_allocate.v4.b32 {%0, %2, %1, %3}"),
    ),
    "float_to_half: cvt.rz": Break(UNKNOWN, HALF, ("cvt.rn.f16.f32", "cvt.rz.f16.f32")),
    "float_to_half: toward zero": Break(  # within the bound, which is one unit
        OTHER_BITS,
        normal_rows("float16"),
        (
            "cvt.rn.f16.f32 %0, %1;",
            "{ .reg .b32 t; .reg .f32 f; mov.b32 t, %1; and.b32 t, t, -8192; mov.b32 f, t;"
            " cvt.rn.f16.f32 %0, f; }",
        ),
    ),
    "double_to_half: by way of float": Break(
        OTHER_BITS,
        near_ties("float16"),
        (
            'asm("cvt.rn.f16.f64 %0, %1;"',
            'asm("{ .reg .f32 f; cvt.rn.f32.f64 f, %1; cvt.rn.f16.f32 %0, f; }"',
        ),
    ),
    "float_to_bfloat: cvt.rz": Break(UNKNOWN, BFLOAT, ("cvt.rn.bf16.f32", "cvt.rz.bf16.f32")),
    "float_to_bfloat: toward zero": Break(
        OTHER_BITS,
        normal_rows("bfloat16"),
        (
            "cvt.rn.bf16.f32 %0, %1;",
            "{ .reg .b32 t; .reg .f32 f; mov.b32 t, %1; and.b32 t, t, -65536; mov.b32 f, t;"
            " cvt.rn.bf16.f32 %0, f; }",
        ),
    ),
    "float_to_bfloat: toward zero below sm_80": Break(
        OTHER_BITS,
        normal_rows("bfloat16", "sm_75"),
        ("(bits + 0x7fffu + ((bits >> 16) & 1u))", "(bits)"),
    ),
    "double_to_float_toward_zero: to the nearest": Break(
        OTHER_BITS, near_ties("bfloat16"), ("__double2float_rz", "__double2float_rn")
    ),
    "halves_to_floats: exchanged": Break(
        BOUND,
        HALF,
        ("cvt.f32.f16 %0, a; cvt.f32.f16 %1, b;", "cvt.f32.f16 %0, b; cvt.f32.f16 %1, a;"),
    ),
    "maximum: NaN in the right operand": Break(
        OTHER_BITS,
        nan_behind_the_largest(),
        ("{ return fmaxf(a, b); }", "{ return a > b ? a : b; }"),
    ),
    "reciprocal: toward zero": Break(
        UNKNOWN,
        ptx("group", "gumbel_softmax", "float64", (5, 200)),
        ("__drcp_rn(a)", "__drcp_rz(a)"),
    ),
    "bits_to_float: of the other sign": Break(
        BOUND, GROUP, ("__uint_as_float(bits); }", "-__uint_as_float(bits); }")
    ),
    "exp2_approx: subnormals kept": Break(UNKNOWN, HALF, ("ex2.approx.ftz.f32", "ex2.approx.f32")),
    "fused: in two roundings": Break(
        BOUND,
        dataclasses.replace(GROUP, rows="wide"),
        ("return __fmaf_rn(a, b, c);", "return __fadd_rn(__fmul_rn(a, b), c);"),
    ),
    "options: no -ftz": Break(OTHER_BITS, tiny_results(), without_ftz),
    "options: -fmad=true": Break(UNKNOWN, GROUP, with_contraction),
    "launch: strides a word late": Break(
        (*MEMORY, "misaligned access"), GROUP, strides_a_word_late
    ),
    "launch: struct a word short": Break(
        ("argument of another size",), VALUES, struct_a_word_short
    ),
    "launch: a word of shared memory too little": Break(MEMORY, BLOCK, little_shared_memory),
    "launch: half of the threads": Break(
        (*MEMORY, *RACE, "element not written"), BLOCK, half_of_the_threads
    ),
}  # fmt: skip


def found(seen: Seen, seed: int) -> str | None:
    try:
        return finding(seen, (seed,)) if isinstance(seen, Probe) else seen.finding(seed)
    except PtxError as error:
        if UNKNOWN[0] in str(error):
            return UNKNOWN[0]
        raise


EVERY_SEEN = {id(b.seen): b.seen for b in BREAKS.values()}.values()


@pytest.mark.parametrize("seen", EVERY_SEEN, ids=lambda s: f"{s.dtype}-{type(s).__name__}")
def test_nothing_is_wrong_with_the_kernels(seen: Seen) -> None:
    if isinstance(seen, Probe):
        assert plan_kind(seen) == seen.kind
    for seed in SEEDS:
        assert found(seen, seed) is None


@pytest.mark.parametrize("name", BREAKS)
def test_break_is_caught(name: str, record_property: Callable[[str, object], None]) -> None:
    decode.library()  # from the usual cache: what is built below is gone afterwards
    with BREAKS[name].applied():
        checks = [found(BREAKS[name].seen, seed) for seed in SEEDS]
    record_property("caught by", checks[0])
    assert {*checks} <= {*BREAKS[name].by}


def test_messages_name_kernel_and_lines() -> None:
    decode.library()
    where = r"\(PTX line \d+, (reduce|patterns)/\w+\.cuh:\d+\)"
    message = (
        rf"^kernel csm_softmax_block_f32_\w+, block \d, thread \d+: (race|read of sh).*{where}"
    )
    with BREAKS["block_barrier: none"].applied(), emulator.activate(code="ptx"):
        x = emulator.asarray(np.zeros(BLOCK.shape, np.float32))
        with pytest.raises(emulator.KernelError, match=message):
            cs.softmax(x)
