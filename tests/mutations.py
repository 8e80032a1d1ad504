"""Deliberate breaks of the kernels, each with the check that has to see it.

A break is one replacement in a temporary copy of the CUDA sources, on which its probes are then
run. ``python -m tests.mutations`` prints what caught each.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cusoftmax.emulator import _backend, _run, ptx
from cusoftmax.runtime import launch, source
from tests.probes import Probe, finding
from tests.support import boundaries, kind


@dataclass(frozen=True)
class Mutation:
    """A break: in `file`, the text `old`, which is there once, becomes `new`."""

    name: str
    by: tuple[str, ...]  # the checks that are meant to see it: an accident would prove nothing
    file: str
    old: str
    new: str
    probes: tuple[Probe, ...]

    def apply(self, root: pathlib.Path) -> None:
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        found = text.count(self.old)
        if found != 1:
            raise LookupError(f"{self.name}: found {found} times in {self.file}: {self.old!r}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@contextlib.contextmanager
def broken(mutation: Mutation | None) -> Iterator[None]:
    """Run everything on a copy of the kernels with that break in it."""
    _run.runtime()  # from the usual cache; what is built below is gone afterwards
    root_of, cache = source.kernel_root, os.environ.get("CUSOFTMAX_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "cuda_kernels"
        shutil.copytree(root_of(), copy)
        if mutation is not None:
            mutation.apply(copy)
        source.kernel_root = lambda: copy  # type: ignore[assignment]
        os.environ["CUSOFTMAX_CACHE_DIR"] = str(pathlib.Path(folder) / "cache")
        forget()
        try:
            yield
        finally:
            source.kernel_root = root_of
            os.environ.pop("CUSOFTMAX_CACHE_DIR")
            if cache is not None:
                os.environ["CUSOFTMAX_CACHE_DIR"] = cache
            forget()


def forget() -> None:
    source.code.cache_clear()
    source.digest.cache_clear()
    _backend._host_kernel.cache_clear()
    _backend._ptx_kernel.cache_clear()
    ptx.kernel.compiled.cache_clear()
    launch._calls.clear()


def caught_by(mutation: Mutation) -> str | None:
    """Return the check that catches a break, or None if none does."""
    with broken(mutation):
        return next(filter(None, map(finding, mutation.probes)), None)


_GROUP = Probe("group", "softmax", "float32", (5, 600))
_SHORT = Probe("group", "softmax", "float32", (70, 61))
_HALF = Probe("group", "softmax", "float16", (64, 1000))
_TALL = Probe("group", "softmax", "float32", (1, 1024), rows="tall")
_BLOCK = Probe("block", "softmax", "float32", (3, 5000), arch="sm_80")
_BULK = replace(_BLOCK, shape=(3, 5001), arch="sm_90")
_CLUSTER = Probe("block x8", "softmax", "float32", (2, 40000))
_PARKED = Probe("block parked", "softmax_vjp", "float64", (2, 12000), arch="sm_80")
_LONE = Probe("block x8 parked", "softmax_vjp", "float64", (9, 80000), only=(0,))
_LARGE = replace(_LONE, kind="block x16 parked", shape=(17, 80000), twin=_LONE)
# Of whole sectors: a staged round has barriers of its own.
_STREAM = Probe("stream", "softmax", "float32", (11, 70016), arch="sm_75", only=(0,))
_TWO_ROUNDS = Probe("stream parked", "softmax", "float64", (109, 16400), arch="sm_80", only=(0,))
_SELECTED = Probe("topk_block", "topk_softmax", "float32", (3, 5000))
_COLUMN = Probe("column x4", "softmax", "float32", (500, 39), axis=0)
_LONG_COLUMNS = Probe("column long", "softmax", "float32", (5000, 8), axis=0, arch="sm_80")
_WALKERS = Probe("column long", "softmax_vjp", "float64", (33_000, 4), axis=0)  # four nodes each
_AHEAD = Probe("column long", "softmax", "float16", (36_000, 16), axis=0)  # two rounds
_COLUMNS = Probe("column", "softmax", "float32", (100, 600), axis=0, grid=1)
_STREAMED = Probe("column stream", "softmax", "float32", (1100, 336), axis=0, arch="sm_75")
_PARKED_COLUMNS = Probe(
    "column stream parked", "softmax_vjp", "float32", (1900, 872), axis=0, arch="sm_80"
)
_SIDE_BY_SIDE = Probe("column", "softmax", "float16", (60, 2201), axis=0)  # staged, in parts
# Two chunks of a warp at once, or two rows; group nodes over those of other blocks.
_TWO_CHUNKS = Probe("block", "log_softmax", "float32", (140, 5001), only=(0, 1))
_TWO_ROWS = Probe("group", "cross_entropy_grad", "float16", (4229, 1001), only=tuple(range(8)))
_OVER = Probe("block x16 parked", "softmax", "float64", (40, 131072), arch="sm_100", only=(0,))
# The widths of the tests of changes of plan: on both sides of a change of the number of pieces.
_SPLIT = {
    n: Probe("split", "softmax", "float32", (2, n), arch="sm_80")
    for n, plan in boundaries("softmax", "float32", "sm_80", 2, False, 65_000, 66_000)
    if kind(plan) == "split"
}
# 7 rounds of 16 chunks: three digits of the counter to fold, and none in the twin.
_DIGITS = Probe(
    "stream",
    "softmax_vjp",
    "float16",
    (11, 57344),
    arch="sm_75",
    rows="near",
    only=tuple(range(8)),
    twin=Probe("block x8", "softmax_vjp", "float16", (8, 57344), rows="near"),
)


RACE = ("race", "read of unwritten shared memory")  # which of them, the order of threads decides
SHUFFLE = ("shuffle out of its group",)
DIVERGENCE = ("divergence",)
MEMORY = ("out of bounds", "element written twice")
BOUND = ("error bound", "special values")
BITS = ("bits of the same row elsewhere",)

MUTATIONS = (
    Mutation(
        "block: barrier before the fold dropped",
        RACE,
        "patterns/block.cuh",
        "    } else {\n      block_barrier();\n    }",
        "    }",
        (_BLOCK,),
    ),
    Mutation(
        "block: nodes published to eight blocks of sixteen",
        RACE,
        "patterns/block.cuh",
        "if (to >= kCluster ||",
        "if (to >= kCluster || to >= 8 ||",
        (_LARGE,),
    ),
    Mutation(
        "block: barrier between two rows with parked chunks dropped",
        RACE,
        "patterns/block.cuh",
        "else if (kParks && !kStages && number != first_row) block_barrier();",
        "",
        (replace(_PARKED, op="softmax", grid=1),),  # which needs the maxima of chunks once more
    ),
    Mutation(
        "block: cluster barrier between two rows dropped",
        (*RACE, "remote store to a finished block"),
        "patterns/block.cuh",
        """    if constexpr (kCluster > 1) cluster_arrive();
    const auto ready = [&] {
      if constexpr (kCluster > 1) cluster_wait();
      else""",
        """    const auto ready = [&] {
     """,
        (replace(_CLUSTER, grid=1),),
    ),
    Mutation(
        "stream: the row's node left where the next row's first ones go",
        RACE,
        "patterns/stream.cuh",
        "const Node whole = nodes.load(2 * warps);",
        """if (thread_index() == 0) nodes.store(0, nodes.load(2 * warps));
    block_barrier();
    const Node whole = nodes.load(0);""",
        (replace(_STREAM, only=(), grid=3, shape=(11, 20032), dtype="float64"),),
    ),
    Mutation(
        "block: elements are taken before all of them are staged",
        RACE,
        "patterns/block.cuh",
        """(warp + 1) * kTiles * kChunk);
      block_barrier();""",
        "(warp + 1) * kTiles * kChunk);",
        (replace(_BLOCK, shape=(3, 5001)),),
    ),
    Mutation(
        "block: results leave before all of them are there",
        RACE,
        "patterns/block.cuh",
        """        Span::results_barrier();
        span_of(chunk).write();""",
        "        span_of(chunk).write();",
        (replace(_BLOCK, shape=(3, 5001)),),
    ),
    Mutation(
        "span: one vector more than the whole sectors have",
        (*RACE, *MEMORY),
        "reduce/span.cuh",
        "left = static_cast<int>(whole) - vector;",
        "left = static_cast<int>(whole) - vector + 1;",
        (replace(_BLOCK, shape=(3, 5001)),),
    ),
    Mutation(
        "span: copies are not waited for",
        RACE,
        "reduce/span.cuh",
        "    finish_copies();\n",
        "",
        (replace(_BLOCK, shape=(3, 5001)),),
    ),
    Mutation(
        "span: bulk copies are not waited for",
        (*RACE, "bulk copies not finished"),
        "reduce/span.cuh",
        "      if (first) finish_bulk_reads(kBarrier);\n",
        "",
        (_BULK,),
    ),
    Mutation(
        "span: bulk copies of results are not waited for",
        ("bulk copies not finished",),
        "reduce/span.cuh",
        "      if (first) finish_bulk_writes();\n",
        "",
        (_BULK,),
    ),
    Mutation(
        "span: bulk copies take what is not published",
        ("bulk copy of what is not published",),
        "reduce/span.cuh",
        "    if constexpr (kInBulk) publish_to_bulk_copies();\n",
        "",
        (_BULK,),
    ),
    Mutation(
        "span: a sector too few in bulk copies",
        (*RACE, "bulk copy of another size"),
        "reduce/span.cuh",
        "bytes += part_of<operand.number>().whole;",
        "bytes += part_of<operand.number>().whole - 32;",
        (_BULK,),
    ),
    Mutation(
        "span: an element too few behind a row",
        (*RACE, *BOUND),
        "reduce/span.cuh",
        "first = at_[Operand] + count_ * kSize<Operand>,",
        "first = at_[Operand] + (count_ + 1) * kSize<Operand>,",
        (replace(_BLOCK, shape=(3, 5001)),),
    ),
    Mutation(
        "column: barrier between two passes dropped",
        RACE,
        "patterns/column.cuh",
        "if (kCluster == 1 && !is_first) block_barrier();",
        "",
        (_COLUMNS,),
    ),
    Mutation(
        "column: barrier after the node of a piece dropped",
        RACE,
        "patterns/column.cuh",
        "      }\n      block_barrier();\n    }\n  }\n  fold_columns(of_pieces, parts);",
        "      }\n    }\n  }\n  fold_columns(of_pieces, parts);",
        (_STREAMED,),
    ),
    Mutation(
        "column: a round parked where another one is",
        BOUND,
        "patterns/column.cuh",
        "return round * parked_bytes;",
        "return round / 2 * parked_bytes;",
        (_PARKED_COLUMNS,),
    ),
    Mutation(
        "column: the second pass leaves out the first round",
        ("element not written",),
        "patterns/column.cuh",
        "for (int round = rounds - 1; round >= 0; --round)",
        "for (int round = rounds - 1; round > 0; --round)",
        (_STREAMED,),
    ),
    Mutation(
        "column: passes begin before all lines have been staged",
        RACE,
        "patterns/column.cuh",
        "static_cast<int>(beside));\n      block_barrier();",
        "static_cast<int>(beside));",
        (_SIDE_BY_SIDE,),
    ),
    Mutation(
        "column: a pass too few over rows side by side",
        (*RACE, *BOUND),
        "patterns/column.cuh",
        "start < beside; start += kColumns",
        "start + kColumns < beside; start += kColumns",
        (_SIDE_BY_SIDE,),
    ),
    Mutation(
        "column span: elements behind the whole sectors left out",
        RACE,
        "reduce/column_span.cuh",
        "return byte < before ? byte : byte + whole;",
        "return byte < before ? byte : bytes;",
        (_SIDE_BY_SIDE,),
    ),
    Mutation(
        "column span: lines in shared memory at a pitch of another place in 16 bytes",
        ("misaligned access",),
        "reduce/column_span.cuh",
        "(apart - line) % kVector",
        "(apart - line) % 1",
        (_SIDE_BY_SIDE,),
    ),
    Mutation(
        "segment: barrier between two units dropped",
        RACE,
        "patterns/segment.cuh",
        "if (unit != begin) block_barrier();",
        "",
        (Probe("segment", "segment_softmax", "float32", (30000, 1), axis=0, grid=3),),
    ),
    Mutation(
        "segment: nodes of a long row used for the next one",
        BOUND,
        "patterns/segment.cuh",
        "piece.start != written",
        "written < 0",
        (Probe("segment", "segment_softmax", "float32", (60000, 1), axis=0, grid=3),),
    ),
    Mutation(
        "segment: beyond a row's end, half of a word is 0, not neutral",
        BOUND,
        "reduce/staged.cuh",
        "missing, 0x5410)",
        "missing, 0x3210)",
        (Probe("segment", "segment_softmax", "float16", (30000, 1), axis=0),),
    ),
    Mutation(
        "segment: a row's first element loaded with its neighbour's, which replaces it",
        RACE,
        "reduce/staged.cuh",
        "j == 0 && odd ? staged.bits(k, place) << 16 : words.load(j)",
        "words.load(j)",
        (Probe("segment", "segment_softmax", "float16", (30000, 1), axis=0),),
    ),
    Mutation(
        "segment: rows of about one length are given to one thread",
        RACE,
        "patterns/segment.cuh",
        "(shorter >> shift_of(at) & 255) + number",
        "(shorter >> shift_of(at) & 255)",
        (Probe("segment", "segment_softmax", "float16", (30000, 1), axis=0),),
    ),
    Mutation(
        "segment: places after shorter rows counted with rows as long",
        (*RACE, *MEMORY),
        "patterns/segment.cuh",
        "kBefore = kEach << 8",
        "kBefore = kEach",
        (Probe("segment", "segment_softmax", "float32", (30000, 1), axis=0),),
    ),
    Mutation(
        "segment: words loaded whole that not all lanes have",
        (*RACE, *BOUND),
        "reduce/staged.cuh",
        "2 * (block + kAsked) > end",
        "2 * block > end",
        (Probe("segment", "segment_softmax", "float16", (30000, 1), axis=0),),
    ),
    Mutation(
        "segment: bulk copies take what is not published",
        ("bulk copy of what is not published",),
        "reduce/staged.cuh",
        "    if constexpr (kBulk) publish_to_bulk_copies();\n",
        "",
        (Probe("segment", "segment_softmax", "float32", (30000, 1), axis=0),),
    ),
    Mutation(
        "segment: the next tile overwrites what bulk copies still write",
        ("bulk copies not finished",),
        "reduce/staged.cuh",
        "    if (first) finish_bulk_writes();\n",
        "",
        (Probe("segment", "segment_softmax", "float32", (30000, 1), axis=0, grid=3),),
    ),
    Mutation(
        "segment: the first element of a row not stored if it is half of a word",
        BOUND,
        "reduce/staged.cuh",
        "if (odd && this->mine_ > 0) staged.put_bits(place, first);",
        "",
        (Probe("segment", "segment_softmax_vjp", "bfloat16", (30000, 1), axis=0),),
    ),
    Mutation(
        "split: the last piece left out where it is one element",
        (*MEMORY, *BOUND, "element not written"),
        "patterns/split.cuh",
        "layout.n + kChunk - 1) /",
        "layout.n + kChunk - 2) /",
        tuple(_SPLIT.values()),
    ),
    Mutation(
        "block: cluster_wait after the exchange dropped",
        RACE,
        "patterns/block.cuh",
        "      cluster_arrive();\n      cluster_wait();\n    } else",
        "      cluster_arrive();\n    } else",
        (_CLUSTER,),
    ),
    Mutation(
        "block: last block of the cluster gets no nodes",
        RACE,
        "patterns/block.cuh",
        "if (to >= kCluster ||",
        "if (to >= kCluster - 1 ||",
        (_CLUSTER,),
    ),
    Mutation(
        "stream: two parked rounds overlap",
        BOUND,
        "patterns/stream.cuh",
        "parked_at + (chunk - warps) *",
        "parked_at + chunk % warps *",
        (_TWO_ROUNDS,),
    ),
    Mutation(
        "stream: nodes and parked chunks lie in the span",
        RACE,
        "patterns/stream.cuh",
        "const int nodes_at = Span::bytes(block_threads() * kItems);",
        "const int nodes_at = 0;",
        (replace(_TWO_ROUNDS, shape=(109, 12001)),),
    ),
    Mutation(
        "block: parked chunks of two warps overlap",
        RACE,
        "patterns/block.cuh",
        "(number * warps + warp) *",
        "(number * warps + warp / 2) *",
        (_PARKED,),
    ),
    Mutation(
        "block: parked chunks of one warp overlap",
        BOUND,
        "patterns/block.cuh",
        "(number * warps + warp) *",
        "(number / 2 * warps + warp) *",
        (_PARKED,),
    ),
    Mutation(
        "fold: shuffle width halved",
        SHUFFLE,
        "reduce/fold.cuh",
        "shuffle_xor(node, mask, kWarp)",
        "shuffle_xor(node, mask, kWarp / 2)",
        (_CLUSTER,),
    ),
    Mutation(
        "tile: maximum over half of the lanes",
        BOUND,
        "reduce/tile.cuh",
        "for (int mask = 1; mask < kLanes; mask *= 2) m = larger",
        "for (int mask = 1; mask < kLanes / 2; mask *= 2) m = larger",
        (_GROUP,),
    ),
    Mutation(
        "tile: bound off by one",
        MEMORY,
        "reduce/tile.cuh",
        "(kLanes * kVec) < mine_; }",
        "(kLanes * kVec) <= mine_; }",
        (_GROUP,),
    ),
    Mutation(
        "tile: each second access writes its neighbour's place",
        MEMORY,
        "reduce/tile.cuh",
        "store<Type<kOperand>>(address_of<kOperand>(args, row, v), wanted, give);",
        "store<Type<kOperand>>(address_of<kOperand>(args, row, v / 2 * 2), wanted, give);",
        (_GROUP,),
    ),
    Mutation(
        "tile: one step of the sum in another order for narrow accesses",
        BITS,
        "reduce/tile.cuh",
        "for (int bit = kSwapped / 2; bit >= 1; bit /= 2)",
        "for (int bit = 1; bit < kSwapped; bit *= 2)",
        (replace(_HALF, misalign=2, twin=_HALF),),
    ),
    Mutation(
        "group: early return before the shuffles",
        DIVERGENCE,
        "patterns/group.cuh",
        "      const Node node = tile.reduce(context);\n",
        "      if (!present) return;\n      const Node node = tile.reduce(context);\n",
        (_SHORT,),
    ),
    Mutation(
        "softmax: the maximum not subtracted",
        BOUND,
        "logits/softmax.cuh",
        "exp_logit(e, to, factor_of(context))",
        "exp_logit(e, Reference{DoubleWord{}, ExpC::kRound}, factor_of(context))",
        (replace(_COLUMN, rows="far"),),
    ),
    Mutation(
        "softmax: the maximum not subtracted from pairs",
        BOUND,
        "numeric/exp.cuh",
        "return exponential(x, to);",
        "return exponential(x, Reference{DoubleWord{}, ExpC::kRound});",
        (replace(_HALF, rows="far"),),
    ),
    Mutation(
        "softmax: the shift of huge logits not taken off pairs",
        BOUND,
        "reduce/tile.cuh",
        "item_[i][0] -= adder.shift();",
        ";",
        (replace(_BLOCK, rows="huge"),),
    ),
    Mutation(
        "softmax: chunks not rescaled to the row's maximum",
        BOUND,
        "logits/softmax.cuh",
        "factor_between(chunk_maximum, row.m, reciprocal_of(row.s[0]))",
        "factor_between(row.m, row.m, reciprocal_of(row.s[0]))",
        (_BLOCK,),
    ),
    Mutation(
        "softmax: a far chunk's power joined to the inverse of the sum",
        BOUND,
        "reduce/operation.cuh",
        "!kSingle && factor.power < Acc(0x1p-60);",
        "false;",
        (replace(_BLOCK, dtype="float64", shape=(3, 5000), rows="abyss"),),
    ),
    Mutation(
        "softmax: missing elements read as 0",
        BOUND,
        "logits/softmax.cuh",
        "{Neutral::lowest}",
        "{Neutral::zero}",
        (replace(_GROUP, shape=(5, 601)),),
    ),
    Mutation(
        "sum: second words of a chunk as large as its lanes' left as they are",
        BOUND,
        "reduce/operation.cuh",
        "return exact(k) ? normalised(sum) :",
        "return exact(k) ? sum :",
        (replace(_TALL, rows="lone"),),
    ),
    Mutation(
        "merge: sums not rescaled to the larger maximum",
        BOUND,
        "reduce/node.cuh",
        "times_power(moved[k], power)",
        "moved[k]",
        (_BLOCK,),
    ),
    Mutation(
        "merge: the shift of huge logits forgotten",
        BOUND,
        "numeric/exp.cuh",
        "if (steps < Acc(step) * ExpC::kFar) break;",
        "break;",
        (replace(_BLOCK, rows="huge"),),
    ),
    Mutation(
        "reference: no guard for a chunk of −inf",
        BOUND,
        "numeric/exp.cuh",
        "shift_of({maximum(m.hi, -largest_number()), m.lo})",
        "shift_of(m)",
        (replace(_BLOCK, dtype="float64", rows="masked"),),  # pairs of float32 are safe without it
    ),
    Mutation(
        "exp: ln 2 in one word",
        BOUND,
        "numeric/exp.cuh",
        "r = fused(k, T(-ExpC::kLn2Low), high);",
        "r = high;",
        (replace(_GROUP, rows="steep"),),
    ),
    Mutation(
        "sum: low part of the running sum dropped",
        BOUND,
        "reduce/node.cuh",
        "first ? error : sum.lo + error",
        "first ? error : sum.lo",
        (Probe("group", "softmax", "float64", (5, 300)),),
    ),
    Mutation(
        "sum: low part of the running sums of pairs dropped",
        BOUND,
        "reduce/operation.cuh",
        "? lost : sum.lo + lost;",
        "? lost : sum.lo;",
        (_TALL,),
    ),
    Mutation(
        "sum: low part of the tree's sums dropped",
        BOUND,
        "reduce/node.cuh",
        "{a.hi + b.hi, a.lo + b.lo}",
        "{a.hi + b.hi, a.lo}",
        (_TALL,),
    ),
    Mutation(
        "others: a lower set's largest left out of a union",
        BOUND,
        "reduce/node.cuh",
        "      low.s[0] = with_largest(low.s[0], largest);\n",
        "",
        (Probe("block", "log_softmax", "float32", (3, 5000), arch="sm_80", rows="others"),),
    ),
    Mutation(
        "others: a lower set's sum subtracted from them",
        BOUND,
        "reduce/node.cuh",
        "if (lacks_largest(high.s[0])) low.s[0] = negative(low.s[0]);",
        "",
        (Probe("block", "log_softmax", "float32", (3, 5000), arch="sm_80", rows="others"),),
    ),
    Mutation(
        "others: no vote on whether the largest term dominates a chunk",
        DIVERGENCE,
        "reduce/tile.cuh",
        "if (any_lane(dominated)) {",
        "if (dominated) {",
        (Probe("group", "log_softmax", "float32", (70, 61), rows="wide"),),
    ),
    Mutation(
        "others: a chunk's sum without its largest left as it was",
        BOUND,
        "reduce/tile.cuh",
        "if (dominated) node.s[0] = negative(apart);",
        ";",
        (Probe("group", "log_softmax", "float32", (5, 600), rows="others"),),
    ),
    Mutation(
        "others: one word of a chunk's sum without its largest",
        BOUND,
        "reduce/tile.cuh",
        "as_double_word(other) : add(sum, other);",
        "as_double_word(other) : as_double_word(sum.hi + other);",
        (Probe("group", "logsumexp", "float32", (5, 1024), rows="others"),),
    ),
    Mutation(
        "others: one word of a column's sum without its largest",
        BOUND,
        "patterns/column.cuh",
        "others = add(others, other_term(adder.term_of(item_[i][column], context), largest));",
        "others.hi += other_term(adder.term_of(item_[i][column], context), largest);",
        (Probe("column", "log_softmax", "float32", (14, 7), axis=0, rows="others"),),
    ),
    Mutation(
        "others: one word of the sums of two columns without their largest",
        BOUND,
        "patterns/column.cuh",
        "others[k] = add(others[k], other_term(term[k], largest[k]));",
        "others[k].hi += other_term(term[k], largest[k]);",
        (Probe("column", "log_softmax", "float32", (14, 8), axis=0, rows="others"),),
    ),
    Mutation(
        "others: 1 less a softmax that was rounded to 1",
        BOUND,
        "ops/cross_entropy.cuh",
        "others = negative(row.rest);",
        "others.lo = Acc(0);",
        (Probe("group", "cross_entropy_grad", "float32", (5, 600), rows="others"),),
    ),
    Mutation(
        "cross_entropy: the power of two of a small upstream gradient forgotten",
        BOUND,
        "numeric/exp.cuh",
        "a.power *= power;",
        "",
        (Probe("group", "cross_entropy_vjp", "float32", (5, 600)),),
    ),
    Mutation(
        "logsumexp: of two infinities in different chunks one rescaled",
        BOUND,
        "reduce/node.cuh",
        "&& !infinite) refer_sums",
        ") refer_sums",
        (Probe("block", "logsumexp", "float32", (3, 5000), arch="sm_80", rows="infinities"),),
    ),
    Mutation(
        "log_softmax: a shift taken off columns that still have it",
        BOUND,
        "patterns/column.cuh",
        "kOfNumbers<Op> && !Op::kKeepsTerm ? as_double_word(Acc(0)) : m;",
        "m;",
        (Probe("column", "log_softmax", "float32", (100, 8), axis=0, rows="huge"),),
    ),
    Mutation(
        "mean: the vector's value at the element above one half forgotten",
        BOUND,
        "reduce/mean.cuh",
        "sum = two_sum(mean.at, mean.beyond.hi);",
        "sum = as_double_word(mean.beyond.hi);",
        (Probe("block x2", "softmax_vjp_vjp", "float32", (3, 2000)),),
    ),
    Mutation(
        "tile: a sum that lanes have divided among them comes from another",
        BOUND,
        "reduce/tile.cuh",
        "(k % kHalf == 0 ? 0 : bit_of(kFirst + 1))",
        "0",
        (Probe("block x2", "softmax_vjp_vjp", "float32", (3, 2000)),),
    ),
    Mutation(
        "tile: of two reduced at once both have the first one's maximum",
        BOUND,
        "reduce/tile.cuh",
        "Op::maximum_from(shuffle(m, kOfSecond, kLanes), other)",
        "Op::maximum_from(shuffle(m, 0, kLanes), other)",
        (replace(_TWO_CHUNKS, rows="steep"),),
    ),
    Mutation(
        "tile: of two reduced at once one step of the sum is left out",
        BOUND,
        "reduce/tile.cuh",
        "sum_in_order(node.s[k], exact, low, 2 * kOfSecond)",
        "sum_in_order(node.s[k], exact, low, 4 * kOfSecond)",
        (_TWO_CHUNKS,),
    ),
    Mutation(
        "tile: the second of two whose others are apart has the first one's",
        BOUND,
        "reduce/tile.cuh",
        "return second ? b : a;",
        "return a;",
        (replace(_TWO_CHUNKS, rows="others"),),
    ),
    Mutation(
        "tile: a pair of which the row has one element is stored at once",
        RACE,
        "reduce/tile.cuh",
        "else write_results<kUsual>(args, row, scale, some, block, end);",
        "else write_results<kUsual, paired.value>(args, row, scale, some, block, end);",
        (_TWO_ROWS,),
    ),
    Mutation(
        "group: both rows of a warp have the first one's scale",
        BOUND,
        "patterns/group.cuh",
        "shuffle(word, t * Tile::kOfSecond, kLanes)",
        "shuffle(word, 0, kLanes)",
        (_TWO_ROWS,),
    ),
    Mutation(
        "group: the last row of an odd number is written twice",
        MEMORY,
        "patterns/group.cuh",
        "&& (!other || first != second)",
        "",
        (replace(_TWO_ROWS, shape=(565, 1001), only=()),),
    ),
    Mutation(
        "block: a group's node is stored by a lane that has not read the place",
        RACE,
        "patterns/block.cuh",
        "bytes(1)), other / kEach}",
        "bytes(1)), other / kEach + 1}",
        (_OVER,),
    ),
    Mutation(
        "block: nodes of groups over those of the block's own chunks",
        BOUND,
        "patterns/block.cuh",
        "cluster_rank() == 0 ? warps : 0",
        "0",
        (_OVER,),
    ),
    Mutation(
        "softmax_hvp: the short map of a row with an element kept apart",
        BOUND,
        "ops/softmax_hvp.cuh",
        "return !row.apart;",
        "return true;",
        (Probe("group", "softmax_hvp", "float32", (3, 200)),),
    ),
    Mutation(
        "column: the short map for a row that lies beside one that may have it",
        BOUND,
        "patterns/column.cuh",
        "usual = usual & Op::are_usual(0, 0, scale[c]);",
        "usual = Op::are_usual(0, 0, scale[c]);",
        (Probe("column", "softmax_hvp", "float32", (40, 64), axis=0),),
    ),
    Mutation(
        "stream: one scale for all chunks of a row that has a maximum",
        BOUND,
        "reduce/stretch.cuh",
        "if constexpr (kMaximum) tile.write",
        "if constexpr (false) tile.write",
        (_STREAM,),
    ),
    Mutation(
        "softmax_vjp: an overflowed sum keeps its low part",
        BOUND,
        "reduce/mean.cuh",
        "return is_finite(sum.hi) ? drop_invalid_low(sum) : DoubleWord{sum.hi, sum.hi};",
        "return sum;",
        (Probe("group", "softmax_vjp", "float32", (3, 300), rows="infinite"),),
    ),
    Mutation(
        "fold: barrier between groups of nodes and the rest dropped",
        RACE,
        "reduce/fold.cuh",
        "    if (many) block_barrier();\n",
        "",
        (Probe("block x8", "softmax", "float32", (5, 70000)),),
    ),
    Mutation(
        "fold: barrier before the row's node is loaded dropped",
        RACE,
        "reduce/fold.cuh",
        "  block_barrier();\n  return folded",
        "  return folded",
        (replace(_BLOCK, grid=1),),
    ),
    Mutation(
        "fold: the last group of nodes left out",
        BOUND,
        "reduce/fold.cuh",
        "static_cast<int>((count + (kWarp * each - 1u)) / (kWarp * each))",
        "count / (kWarp * each)",
        (Probe("block x8", "softmax", "float32", (5, 70000)),),
    ),
    Mutation(
        "log: no second word of the sum",
        BOUND,
        "numeric/log.cuh",
        "fused(Acc(1) - c, lost, sum.lo)",
        "Acc(0)",
        (Probe("group", "log_softmax", "float32", (64, 7)),),
    ),
    Mutation(
        "log: of a 16-bit row that one logit dominates all terms in one sum",
        BOUND,
        "reduce/tile.cuh",
        "if (!(kAlike ? dominated : any_lane(dominated))) return;",
        "return;",
        (Probe("group", "log_softmax", "float16", (64, 7), rows="lone"),),
    ),
    Mutation(
        "cross_entropy: the target's result in the other half of its word",
        BOUND,
        "numeric/vec.cuh",
        "place % 2 == 0 ? 0x3254u : 0x5410u",
        "place % 2 == 0 ? 0x5410u : 0x3254u",
        (Probe("group", "cross_entropy_grad", "float16", (64, 200)),),
    ),
    Mutation(
        "softmax_vjp_vjp: both sums are the first",
        BOUND,
        "ops/softmax_vjp_vjp.cuh",
        "value_of(mean_of(row, 1))",
        "value_of(mean_of(row, 0))",
        (Probe("block x2", "softmax_vjp_vjp", "float32", (3, 2000)),),
    ),
    Mutation(
        "group: the last items of a row taken to be beyond its end",
        BOUND,
        "reduce/tile.cuh",
        "first < kAskedFrom || reached(first)) return false;",
        "first < kAskedFrom) return false;",
        (Probe("group", "softmax", "float32", (5, 1024)),),
    ),
    Mutation(
        "block: every block of a cluster writes the row's value",
        MEMORY,
        "patterns/block.cuh",
        "mine == 0 && lane == 0",
        "warp == 0 && lane == 0",
        (Probe("block x8", "logsumexp", "float32", (2, 40000)),),
    ),
    Mutation(
        "split: values of a row by each warp's every lane",
        MEMORY,
        "patterns/split.cuh",
        "thread_index() % kWarp == 0);\n    });",
        "true);\n    });",
        (Probe("split", "logsumexp", "float32", (1, 70001), arch="sm_80"),),
    ),
    Mutation(
        "map: a row's second chunk is its first",
        MEMORY,
        "patterns/map.cuh",
        "(unit - number * chunks) * kChunk",
        "0",
        (Probe("map", "softmax_jacobian", "float32", (1200, 1200)),),
    ),
    Mutation(
        "softmax_jacobian: the diagonal a place off",
        BOUND,
        "ops/softmax_jacobian.cuh",
        "context.row % context.n}",
        "(context.row + 1) % context.n}",
        (Probe("map", "softmax_jacobian", "float32", (40, 40)),),
    ),
    Mutation(
        "stream: one buffer of nodes instead of two",
        RACE,
        "reduce/stretch.cuh",
        "const int buffer = static_cast<int>(round & 1) * warps;",
        "const int buffer = 0;",
        (_STREAM,),
    ),
    Mutation(
        "fold: digits of the counter folded from the top",
        BITS,
        "reduce/fold.cuh",
        "for (int level = 0; (count_ >> level) != 0; ++level) {",
        "for (int level = 31; level >= 0; --level) {",
        (_DIGITS,),
    ),
    Mutation(
        "split: barrier between two pieces dropped",
        RACE,
        "patterns/split.cuh",
        "if (unit + step < units) block_barrier();",
        "",
        (Probe("split", "softmax", "float32", (1, 70000), arch="sm_80", grid=3),),
    ),
    Mutation(
        "split: only one node of each lane's two is folded",
        BOUND,
        "reduce/fold.cuh",
        "const Node next = nodes.load(i + 1, each > 1",
        "const Node next = nodes.load(i + 1, each > 2",
        (Probe("split", "softmax", "float32", (1, 300_000), arch="sm_80"),),
    ),
    Mutation(
        "column: barrier of fold_columns dropped",
        RACE,
        "patterns/column.cuh",
        "    }\n    block_barrier();\n  }\n}",
        "    }\n  }\n}",
        (_COLUMN,),
    ),
    Mutation(
        "column: walkers' nodes stored at a pitch one node short",
        RACE,
        "patterns/column.cuh",
        "nodes.store(node_at(walker, c * kLanes + lane), node);",
        "nodes.store(node_at(walker, c * kLanes + lane) - 2 * walker, node);",
        (_COLUMN,),
    ),
    Mutation(
        "column: a walker's last node is merged with one of its others alone",
        BOUND,
        "patterns/column.cuh",
        "for (; count_ >> level & 1; ++level) {",
        "for (; level < 1 && count_ >> level & 1; ++level) {",
        (_WALKERS,),
    ),
    Mutation(
        "column: the rows of a warp's second half of walkers stored as those of the first",
        (*RACE, *BOUND),
        "patterns/column.cuh",
        "if (divides && upper) first += left;",
        "",
        (_LONG_COLUMNS,),
    ),
    Mutation(
        "column: nodes behind a row's last piece are folded",
        (*BOUND, *MEMORY),
        "patterns/column.cuh",
        "present && piece < pieces, to);",
        "present, to);",
        (_WALKERS,),
    ),
    Mutation(
        "column: a round computed twice in place of the next, which was loaded ahead",
        BOUND,
        "patterns/column.cuh",
        "tile(round + 1).fetch_words(",
        "tile(round).fetch_words(",
        (_AHEAD,),
    ),
    Mutation(
        "column: the second of two rows relative to the reference of the first",
        BOUND,
        "patterns/column.cuh",
        "const PairReference to(first.reference(), second.reference());",
        "const PairReference to(first.reference(), first.reference());",
        (_LONG_COLUMNS,),
    ),
    Mutation(
        "column: a NaN left out of the maximum of one of two columns",
        ("special values",),
        "patterns/column.cuh",
        "node.m.hi = larger_key<Op>(",
        "node.m.hi = maximum(",
        (replace(_LONG_COLUMNS, rows="undefined"),),
    ),
    Mutation(
        "column: the sum of the second of two rows begins as that of the first",
        ("special values",),
        "patterns/column.cuh",
        "const Pair start(first.start(), second.start());",
        "const Pair start(first.start(), first.start());",
        (replace(_LONG_COLUMNS, rows="undefined"),),
    ),
    Mutation(
        "topk: elements are taken before all of them are staged",
        RACE,
        "select/pick_stretch.cuh",
        "      span.read();\n      block_barrier();",
        "      span.read();",
        (Probe("topk_block", "topk_softmax", "float32", (11, 5001)),),
    ),
    Mutation(
        "topk: barrier before a warp's list is merged dropped",
        RACE,
        "select/pick_stretch.cuh",
        "    block_barrier();\n    if (warp % (2 * step) == 0",
        "    if (warp % (2 * step) == 0",
        (_SELECTED,),
    ),
    Mutation(
        "topk: the warps that sum do not wait for those that read",
        RACE,
        "select/pick_stretch.cuh",
        "      block_barrier();\n      if (!takes && left > 0)",
        "      if (!takes && left > 0)",
        (Probe("topk_split", "topk_softmax", "float32", (2, 40000)),),
    ),
    Mutation(
        "topk: an element put in twice",
        BOUND,
        "select/picks.cuh",
        "either(lane == 0 || above(before, one), one, before)",
        "one",
        (_SELECTED,),
    ),
    Mutation(
        "sample: barrier before warps' elements are read dropped",
        RACE,
        "select/pick_stretch.cuh",
        "    block_barrier();\n    if (warp == 0) picks.slot(0)",
        "    if (warp == 0) picks.slot(0)",
        (Probe("topk_block", "sample", "float32", (60, 20000)),),
    ),
    Mutation(
        "topk: barrier between two rows dropped",
        RACE,
        "patterns/topk_block.cuh",
        "if (number + grid_blocks() < layout.rows) block_barrier();",
        "",
        (replace(_SELECTED, grid=1),),
    ),
    Mutation(
        "topk: barrier between two pieces dropped",
        RACE,
        "patterns/topk_split.cuh",
        "block_barrier();",
        ";",
        (Probe("topk_split", "topk_softmax", "float32", (1, 140_000), grid=1),),
    ),
    Mutation(
        "topk: barrier after the chunk in shared memory has been read dropped",
        RACE,
        "patterns/topk_column.cuh",
        "block_barrier();  // all of it has been read",
        "",
        (Probe("topk_column", "topk_softmax", "float32", (3000, 8), axis=0),),
    ),
    Mutation(
        "topk: lists merged without turning one round",
        BOUND,
        "select/picks.cuh",
        "reversed[s] = exchange(other.at_[kSlots - 1 - s], kLanes - 1);",
        "reversed[s] = other.at_[s];",
        (_SELECTED,),
    ),
    Mutation(
        "topk: an element taken twice",
        BOUND,
        "select/key_tile.cuh",
        "best = above(bound, item[i]) ? chosen(best, item[i], true) : best;",
        "best = chosen(best, item[i], true);",
        (_SELECTED,),
    ),
    Mutation(
        "topk: a short row's lists merged by other pairs",
        BOUND,
        "select/picks.cuh",
        "step == kCount || i / step % 2 == 1",
        "step == kCount || i / step % 2 == 0",
        (Probe("topk_group", "topk_softmax", "float32", (70, 61)),),
    ),
    Mutation(
        "topk: what a lane's list leaves out is not compared with it",
        BOUND,
        "select/picks.cuh",
        "  lose(all[kCount]);\n",
        "",
        (Probe("topk_group", "topk_softmax", "float32", (70, 128), rows="level"),),
    ),
    Mutation(
        "topk: kept elements read before all are there",
        RACE,
        "patterns/topk_group.cuh",
        "tile.keep();\n      block_barrier();",
        "tile.keep();",
        (Probe("topk_group", "topk_softmax", "float32", (70, 128)),),
    ),
    Mutation(
        "topk: rows kept before those of the last turn were read",
        RACE,
        "patterns/topk_group.cuh",
        "if (base != block_index() * rows_at_once) block_barrier();\n      tile.keep();",
        "tile.keep();",
        (Probe("topk_group", "topk_softmax", "float32", (170, 128), grid=2),),
    ),
    Mutation(
        "topk: a lane's two picks stored one place before",
        ("misaligned access",),
        "select/key_tile.cuh",
        "const int first = Picks::place_of(0);",
        "const int first = Picks::place_of(1) - kSlots;",
        (Probe("topk_group", "topk_softmax", "float32", (70, 128)),),
    ),
    Mutation(
        "topk: the lists of two lanes merged without turning one round",
        BOUND,
        "select/picks.cuh",
        "exchange(a[2 * kept - 1 - i], mask)",
        "exchange(a[i], mask)",
        (Probe("topk_group", "topk_softmax", "float32", (70, 61)),),
    ),
    Mutation(
        "topk: a split row's second list left out",
        BOUND,
        "select/pick_stretch.cuh",
        "for (i64 list = warp + warps; list < count; list += warps)",
        "for (i64 list = warp + warps; list < count; list += 2 * warps)",
        (Probe("topk_split", "topk_softmax", "float16", (1, 1 << 17)),),
    ),
    Mutation(
        "masks: what a parked chunk hides is forgotten",
        BOUND,
        "reduce/tile.cuh",
        "kept_ = to_bits(slot.load(parked_at(kItems, 0)));",
        "kept_ = ~0u;",
        (
            Probe(
                *("block parked", "softmax_masked", "float16", (3, 37000)),
                arch="sm_80",
                rows="infinite",
            ),
        ),
    ),
    Mutation(
        "masks: hidden elements of a row that is NaN left to the map",
        BOUND,
        "logits/softmax.cuh",
        "return is_finite(scale.times.hi);",
        "return true;",
        (Probe("block", "softmax_masked", "float16", (3, 5000), rows="infinite"),),
    ),
    Mutation(
        "masks: elements of 16 bits hidden by their neighbours' bytes",
        BOUND,
        "numeric/vec.cuh",
        "number % 2 == 0 ? 0x1100 : 0x3322",
        "number % 2 == 0 ? 0x1000 : 0x3322",
        (Probe("block x2", "softmax_masked", "float16", (3, 8192)),),
    ),
    Mutation(
        "causal: a byte of a mask too many",
        BOUND,
        "reduce/tile.cuh",
        "8 * (seen_ - step_of(4 * k))",
        "8 * (seen_ + 1 - step_of(4 * k))",
        (Probe("group", "softmax_vjp_scaled_masked_causal", "float16", (64, 64)),),
    ),
    Mutation(
        "masks: a hidden element of a column stays in its sum",
        BOUND,
        "reduce/operation.cuh",
        "e[k] = kept ? e[k] : neutral<Op>(k);",
        "e[k] = kept || kVec == 2 ? e[k] : neutral<Op>(k);",
        (Probe("column", "softmax_masked", "float32", (100, 64), axis=0),),
    ),
    Mutation(
        "causal: one key too few",
        BOUND,
        "reduce/row.cuh",
        "context.row % queries + 1 + (context.n - queries)",
        "context.row % queries + (context.n - queries)",
        (Probe("group", "softmax_causal", "float32", (70, 61)),),
    ),
    Mutation(
        "causal: the vector in which hidden elements begin is not read",
        BOUND,
        "reduce/tile.cuh",
        "step_of(v * kVec) < seen_)",
        "step_of(v * kVec + kVec - 1) < seen_)",
        (Probe("group", "softmax_causal", "float32", (64, 64)),),
    ),
    Mutation(
        "scale: one word of it",
        BOUND,
        "logits/logit.cuh",
        "fused(x, Pair(factor.lo), fused(x, Pair(factor.hi), -high))",
        "fused(x, Pair(factor.hi), -high)",
        (Probe("group", "softmax_scaled", "float32", (70, 61)),),
    ),
    Mutation(
        "scale: its sign lost",
        BOUND,
        "logits/logit.cuh",
        "e[0] *= context.number(kSign);",
        "(void)e;",
        (Probe("group", "softmax_scaled", "float32", (70, 61)),),
    ),
    Mutation(
        "bias: what its sum lost",
        BOUND,
        "logits/logit.cuh",
        "z.lo + sum.lo}",
        "z.lo}",
        (Probe("group", "softmax_biased", "float32", (70, 61)),),
    ),
    Mutation(
        "philox: a round too few",
        BOUND,
        "numeric/philox.cuh",
        "round < kRounds;",
        "round < kRounds - 1;",
        (Probe("group", "gumbel_softmax", "float16", (70, 61)),),
    ),
    Mutation(
        "gumbel: the digits of 1 − u lost where u is near 1",
        BOUND,
        "numeric/gumbel.cuh",
        "u.exponent == Acc(0) ? minus_smaller : Acc(-1) - u.fraction",
        "Acc(-1) - u.fraction",
        (Probe("block", "gumbel_softmax", "float32", (3, 2000)),),
    ),
    Mutation(
        "gumbel: of a 16-bit result, the error of lg2.approx where u is near 1",
        BOUND,
        "numeric/gumbel.cuh",
        "kNear = 0xe0000000u",
        "kNear = 0xffffff00u",
        (Probe("block", "gumbel_softmax", "float16", (200, 2000)),),
    ),
    Mutation(
        "sample: a row's noise for all that a block takes side by side",
        BOUND,
        "patterns/topk_column.cuh",
        "row_context<Op>(args, from, number)",
        "row_context<Op>(args, from, first_row)",
        (Probe("topk_column", "sample", "float32", (3000, 8), axis=0),),
    ),
    Mutation(
        "sample: noise that may be the largest is not formed",
        BOUND,
        "numeric/gumbel.cuh",
        "Acc(159 *",
        "Acc(150 *",
        (Probe("topk_block", "sample", "float32", (60, 20000)),),
    ),
    Mutation(
        "offsets of 32 bits",
        MEMORY,
        "machine/layout.cuh",
        "return offset + index * stride[0];",
        "return offset + static_cast<int>(index * stride[0]);",
        (Probe("group", "softmax", "float32", (2**19 + 8, 1024), rows="zeros", only=(-1,)),),
    ),
)

# A scale whose second word was many units of the first: float32 results below 2^-102 lost it when
# its product was flushed to zero, and with it 5 units in the last place.
CAUGHT_FAULTS = (Probe("block", "softmax", "float32", (8, 4096), arch="sm_80", rows="steep"),)


def every_probe() -> list[Probe]:
    """Return all probes, each once, and those that have caught a real fault."""
    return list(dict.fromkeys([*(probe for m in MUTATIONS for probe in m.probes), *CAUGHT_FAULTS]))


def main() -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table("break", "file", "caught by")
    missed = 0
    for mutation in MUTATIONS:
        check = caught_by(mutation)
        missed += check is None
        table.add_row(mutation.name, mutation.file, check or "[red]nothing")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"{len(MUTATIONS) - missed} of {len(MUTATIONS)} breaks caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
