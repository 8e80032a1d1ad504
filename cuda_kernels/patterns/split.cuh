// split: few, long rows, each over many blocks, in two launches.
//
// A block takes a piece of a row, in layout.rounds (a power of two) rounds of as many neighbouring chunks as it has
// warps. A warp has one chunk at a time, a thread kItems elements of it. Launch 0 writes each piece's node to the
// workspace; in launch 1 every block folds all nodes of its row again, and writes its piece. Where there are only
// values of the row to write, a warp folds each row in launch 1.
//
// Shared memory: as reduce_stretch needs. Workspace: a node for each piece of each row.
#pragma once

#include "reduce/stretch.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int warps = block_threads() / kWarp;
  const i64 piece_chunks = layout.rounds * warps;
  const i64 pieces = (layout.n + piece_chunks * kChunk - 1) / (piece_chunks * kChunk);
  const SharedNodes nodes(0, 2 * warps + 1);
  const GlobalNodes workspace(args.workspace);

  if constexpr (kStage == 1 && kOutputs == 0) {
    fold_rows(args, pieces, [&](i64 number, const Node& whole) {
      const Row row = row_at(args, number);
      write_values<Op>(row, whole, row_context<Op>(args, row, number), thread_index() % kWarp == 0);
    });
    return;
  }
  for (i64 unit = block_index(); unit < layout.rows * pieces; unit += grid_blocks()) {
    const i64 number = unit / pieces;
    const Row row = row_at(args, number);
    const RowContext context = row_context<Op>(args, row, number);
    const Stretch piece = {(unit - number * pieces) * piece_chunks * kChunk, layout.rounds};
    if constexpr (kStage == 0) {
      reduce_stretch(args, row, piece, context, nodes);
      if (thread_index() == 0) workspace.store(unit, nodes.load(2 * warps), true);
    } else {
      if (thread_index() < kWarp) {
        const Node whole =
            fold_all(pieces, [&](i64 i, bool wanted) { return workspace.load(number * pieces + i, wanted); });
        if (thread_index() == 0) nodes.store(2 * warps, whole);
      }
      block_barrier();
      const Node whole = nodes.load(2 * warps);
      write_stretch(args, row, piece, whole, context);
      write_values<Op>(row, whole, context, piece.first == 0 && thread_index() == 0);
    }
    if (unit + grid_blocks() < layout.rows * pieces) block_barrier();  // the row's node has been read
  }
}

}  // namespace csm
