// One block reduces and writes a stretch of a row, of any number of chunks: for the stream and split patterns. And the
// fold of each row's nodes in the workspace: for the split and column patterns.
//
// A round is one chunk for each warp, neighbours in the row. The number of warps is a power of two, so a round is a
// subtree of the fold, and so is a power of two of rounds. Where operands are staged, a round is a span
// (reduce/span.cuh).
#pragma once

#include "reduce/fold.cuh"
#include "reduce/span.cuh"
#include "reduce/tile.cuh"

namespace csm {

struct Stretch {
  i64 first;   // its first element
  i64 rounds;  // rounds that the block makes over it
};

// The nodes of a stretch in shared memory, behind the span. There are 2 · warps + 1 places: those of two rounds, so
// that the warps fill one while warp 0 folds the other, and the result's.
CSM_DEVICE ListedNodes nodes_of_stretch() { return ListedNodes(Span::bytes(block_threads() * kItems)); }

using StretchTile = RowTile<Op, kLanes, kItems, kStagedVec, i64, kStages>;

// The span of a round that starts at element `first`. read_round() begins with a barrier if the last span may still be
// in use.
CSM_DEVICE Span span_of_round(const Arguments& args, const Row& row, i64 first) {
  const int room = block_threads() * kItems;
  const i64 left = args.layout.n - first;
  return Span(row, first, left < room ? left : room, room);
}
CSM_DEVICE void read_round(const Arguments& args, Row& row, i64 first, bool in_use) {
  if constexpr (kStages) {
    const Span span = span_of_round(args, row, first);
    if (in_use) block_barrier();
    span.read();
    span.pad<Op>(thread_index(), block_threads(), block_threads() * kItems);
    block_barrier();
    span.set_places(row, thread_index() / kWarp * kChunk);
  }
}

// Reduces the stretch, and stores its node at nodes[2 · warps] for the whole block; ends with a barrier.
CSM_DEVICE void reduce_stretch(const Arguments& args, Row row, Stretch stretch, const RowContext& context,
                               const ListedNodes& nodes) {
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp, warps = block_threads() / kWarp;
  TreeFold fold;
  for (i64 round = 0; round < stretch.rounds; ++round) {
    const int buffer = static_cast<int>(round & 1) * warps;
    read_round(args, row, stretch.first + round * warps * kChunk, round == 0);
    StretchTile tile(stretch.first + (round * warps + warp) * kChunk, args.layout.n);
    tile.read(args, row, context);
    const Node node = tile.reduce(context);
    if (lane == 0) nodes.store(buffer + warp, node);
    block_barrier();
    // Warp 0 reads this buffer before the next barrier; it is filled again after that one.
    if (warp == 0) fold.push(fold_lanes(nodes.load(buffer + lane % warps), warps));
  }
  if (warp == 0) {
    const Node whole = fold.result();
    if (lane == 0) nodes.store(2 * warps, whole);
  }
  block_barrier();
}

// Reads the stretch again and writes its results; `whole` is the row's node. It starts with the last chunks, which are
// still in the cache.
CSM_DEVICE void write_stretch(const Arguments& args, Row row, Stretch stretch, const Node& whole,
                              const RowContext& context) {
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp, warps = block_threads() / kWarp;
  const typename Op::Scale alike = Op::scale(empty_node().m, whole, context);  // of all chunks, without a maximum
  for (i64 round = stretch.rounds - 1; round >= 0; --round) {
    const i64 first = stretch.first + round * warps * kChunk;
    read_round(args, row, first, true);
    StretchTile tile(stretch.first + (round * warps + warp) * kChunk, args.layout.n);
    tile.read(args, row, context);
    const DoubleWord m = tile.prepare(context);
    if constexpr (kStages) block_barrier();
    if constexpr (kMaximum) tile.write(args, row, Op::scale(m, whole, context));
    else tile.write(args, row, alike);
    if constexpr (kStages) {
      Span::results_barrier();
      span_of_round(args, row, first).write();
    }
  }
}

// One warp a row: folds the row's `count` nodes in the workspace, the i-th of which is at place(row number, i), and
// calls finish(row number, node).
template <class Place, class Finish>
CSM_DEVICE void fold_rows(const Arguments& args, const GlobalNodes& workspace, i64 count, Place place, Finish finish) {
  const i64 warps = block_threads() / kWarp;
  for (i64 number = block_index() * warps + thread_index() / kWarp; number < args.layout.rows;
       number += grid_blocks() * warps) {
    finish(number, fold_all(count, [&](i64 i, bool wanted) { return workspace.load(place(number, i), wanted); }));
  }
}

}  // namespace csm
