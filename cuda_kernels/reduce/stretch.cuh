// Two passes of one block over a stretch of a row that is longer than its registers.
//
// A round is one chunk for each warp, neighbours in the row; the number of warps is a power of two, so that a round,
// and a power of two of them, is a subtree of the fold.
#pragma once

#include "reduce/fold.cuh"
#include "reduce/tile.cuh"

namespace csm {

struct Stretch {
  i64 first;   // its first element
  i64 rounds;  // of the block over it
};

// Reduces the stretch; its node is left at nodes[2 · warps]. Shared memory that it needs: nodes of two rounds, so that
// one is filled while the other is folded, and one place more, where the stretch's node is left for all. Ends with a
// barrier.
CSM_DEVICE void reduce_stretch(const Arguments& args, const Row& row, Stretch stretch, const Given& given,
                               const SharedNodes& nodes) {
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp, warps = block_threads() / kWarp;
  TreeFold fold;
  for (i64 round = 0; round < stretch.rounds; ++round) {
    const int buffer = static_cast<int>(round & 1) * warps;
    RowTile<Op> tile(stretch.first + (round * warps + warp) * kChunk, args.layout.n);
    tile.read(args, row, given);
    const Node node = tile.reduce(given);
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

// Reads the stretch again and writes it; `whole` is the row's node. The last chunks first, since the cache holds them.
CSM_DEVICE void write_stretch(const Arguments& args, const Row& row, Stretch stretch, const Node& whole,
                              const Given& given) {
  const int warp = thread_index() / kWarp, warps = block_threads() / kWarp;
  for (i64 round = stretch.rounds - 1; round >= 0; --round) {
    RowTile<Op> tile(stretch.first + (round * warps + warp) * kChunk, args.layout.n);
    tile.read(args, row, given);
    const Wide m = tile.prepare(given);
    tile.write(args, row, Op::scale(m, whole, given));
  }
}

// One warp a row: folds the `count` nodes that the row has in the workspace.
template <class Finish>
CSM_DEVICE void fold_rows(const Arguments& args, i64 count, Finish finish) {
  const i64 warps = block_threads() / kWarp;
  const GlobalNodes workspace(args.workspace);
  for (i64 number = block_index() * warps + thread_index() / kWarp; number < args.layout.rows;
       number += grid_blocks() * warps) {
    finish(number, fold_all(count, [&](i64 i, bool wanted) { return workspace.load(number * count + i, wanted); }));
  }
}

}  // namespace csm
