// topk_split: the best elements of few, long rows, each over many blocks, in two launches.
//
// In launch 0 a block takes a piece of a row, as topk_block takes a row, and writes its best elements and its node to
// the workspace. In launch 1 a block merges the lists of one row, its warps taking turns, and folds the nodes.
//
// Shared memory: as pick_stretch needs. Workspace: k candidates and a node for each piece of each row.
#pragma once

#include "select/pick_stretch.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int warp = thread_index() / kWarp, warps = block_threads() / kWarp;
  // Both launches have the same blocks, and so count the same pieces.
  const i64 piece_chunks = layout.rounds * warps;
  const i64 pieces = (layout.n + piece_chunks * kChunk - 1) / (piece_chunks * kChunk);
  const GlobalPicks workspace(args.workspace, layout.rows * pieces, layout.option[kSelected]);

  if constexpr (kStage == 0) {
    for (i64 unit = block_index(); unit < layout.rows * pieces; unit += grid_blocks()) {
      const i64 number = unit / pieces;
      Picks picks;
      const Node node =
          pick_stretch<Op>(args, row_at(args, number), number, (unit - number * pieces) * piece_chunks * kChunk, picks);
      if (warp == 0) {
        workspace.store(unit, picks);
        if constexpr (kSums > 0) workspace.nodes().store(unit, node, thread_index() == 0);
      }
      if (unit + grid_blocks() < layout.rows * pieces) block_barrier();  // the lists have been read
    }
  } else {
    fold_lists<Op>(args, workspace, pieces);
  }
}

}  // namespace csm
