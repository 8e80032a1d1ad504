// topk_split: the best elements of few, long rows, each over many blocks, in two launches.
//
// In launch 0 a block takes a segment of a row, as topk_block takes a row, and writes its best elements and its node to
// the workspace. In launch 1 a block merges the lists of one row, its warps taking turns, and folds the nodes.
//
// Shared memory: as pick_stretch needs. Workspace: k candidates and a node for each segment of each row.
#pragma once

#include "select/pick_stretch.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int warp = thread_index() / kWarp, warps = block_threads() / kWarp;
  // Both launches have the same blocks, and so count the same segments.
  const i64 segment_chunks = layout.rounds * warps;
  const i64 segments = (layout.n + segment_chunks * kChunk - 1) / (segment_chunks * kChunk);
  const GlobalPicks workspace(args.workspace, layout.rows * segments, layout.option[0]);

  if constexpr (kStage == 0) {
    for (i64 unit = block_index(); unit < layout.rows * segments; unit += grid_blocks()) {
      const i64 number = unit / segments;
      Picks picks;
      const Node node = pick_stretch<Op>(args, row_at(args, number), number,
                                         (unit - number * segments) * segment_chunks * kChunk, picks);
      if (warp == 0) {
        workspace.store(unit, picks);
        if constexpr (kSums > 0) workspace.nodes().store(unit, node, thread_index() == 0);
      }
      if (unit + grid_blocks() < layout.rows * segments) block_barrier();  // the lists have been read
    }
  } else {
    fold_lists<Op>(args, workspace, segments);
  }
}

}  // namespace csm
