// topk_split: selects the k largest elements of few, long rows, each cut into pieces for many blocks, in two launches.
//
// Launch 0: a block takes a piece of a row as topk_block takes a row (threads and warps as there), and writes the list
// and the node of the piece to the workspace. If layout.passes is 2, the pieces are few, of one round: half of the
// warps select, and the others sum meanwhile.
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
  const bool halves = kSums > 0 && layout.passes > 1;
  // Both launches have blocks of the same size, a power of two of warps, and so count the same pieces.
  const unsigned piece_chunks = static_cast<unsigned>(layout.rounds) * (halves ? warps / 2 : warps);
  const i64 chunks = (layout.n + kChunk - 1) / kChunk;
  const unsigned pieces = static_cast<unsigned>((chunks + piece_chunks - 1) >> (31 - leading_zeros(piece_chunks)));
  const unsigned units = static_cast<unsigned>(layout.rows) * pieces, step = static_cast<unsigned>(grid_blocks());
  const GlobalPicks workspace(args.workspace, units, layout.option[kSelected]);

  if constexpr (kStage == 0) {
    for (unsigned unit = static_cast<unsigned>(block_index()); unit < units; unit += step) {
      const unsigned number = unit / pieces;
      Picks picks;
      const i64 first = i64(unit - number * pieces) * piece_chunks * kChunk;
      const Node node = pick_stretch<Op>(args, row_at(args, number), number, first, picks, halves);
      if (warp == 0) workspace.store(unit, picks);
      if constexpr (kSums > 0) {
        const int summed_by = halves ? block_threads() / 2 : 0;
        workspace.nodes().store(unit, node, thread_index() == summed_by);
      }
      if (unit + step < units) block_barrier();  // every list has been read
    }
  } else {
    fold_lists<Op>(args, workspace, pieces);
  }
}

}  // namespace csm
