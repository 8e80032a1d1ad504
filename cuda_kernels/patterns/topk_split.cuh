// topk_split: selects the k largest elements of few, long rows, each cut into pieces for many blocks, in two launches.
//
// Launch 0: a block takes a piece of a row as topk_block takes a row (threads and warps as there), and writes the list
// and the node of the piece to the workspace.
// Launch 1: a block merges the lists of one row, each warp every warps-th of them, and folds the nodes.
//
// Shared memory: as pick_stretch needs (select/pick_stretch.cuh). Workspace: a list of k candidates and a node for each
// piece of each row. Barriers: those of pick_stretch, and one between two pieces, so that no list is overwritten before
// it has been read.
#pragma once

#include "select/pick_stretch.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int warp = thread_index() / kWarp, warps = block_threads() / kWarp;
  // Both launches have blocks of the same size, and so count the same pieces.
  const i64 length = layout.rounds * warps * kChunk;  // of a piece
  const int pieces = static_cast<int>((layout.n + length - 1) / length);
  const GlobalPicks workspace(args.workspace, layout.rows * pieces, layout.option[kSelected]);

  if constexpr (kStage == 0) {
    for (i64 unit = block_index(); unit < layout.rows * pieces; unit += grid_blocks()) {
      const i64 number = unit / pieces;
      Picks picks;
      const int piece = static_cast<int>(unit - number * pieces);
      const Node node = pick_stretch<Op>(args, row_at(args, number), number, piece * length, picks);
      if (warp == 0) {
        workspace.store(unit, picks);
        if constexpr (kSums > 0) workspace.nodes().store(unit, node, thread_index() == 0);
      }
      if (unit + grid_blocks() < layout.rows * pieces) block_barrier();  // every list has been read
    }
  } else {
    fold_lists<Op>(args, workspace, pieces);
  }
}

}  // namespace csm
