// split: few, long rows, each over many blocks, in two launches.
//
// A block takes a segment of a row: as many neighbouring chunks as it has warps (a power of two). A warp has one chunk,
// a thread kItems elements of it. Launch 0 writes each segment's node to the workspace. In launch 1 every block folds
// all nodes of its row again, while its chunks are on their way, and writes its segment.
//
// Shared memory: a node for each warp. Workspace: a node for each segment of each row.
#pragma once

#include "core/fold.cuh"
#include "core/tile.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  using Tile = RowTile<Op>;
  const Layout& layout = args.layout;
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp, warps = block_threads() / kWarp;
  const i64 segment_length = i64(kChunk) * warps;
  const i64 segments = (layout.n + segment_length - 1) / segment_length;
  const SharedNodes nodes(0, warps);
  const GlobalNodes workspace(args.workspace);

  for (i64 unit = block_index(); unit < layout.rows * segments; unit += grid_blocks()) {
    const i64 number = unit / segments;
    const Row row = row_at(args, number);
    Tile tile((unit - number * segments) * segment_length + warp * kChunk, layout.n);
    tile.read(args, row);
    if constexpr (kStage == 0) {
      const Node node = tile.reduce();
      if (lane == 0) nodes.store(warp, node);
      block_barrier();
      if (warp == 0) {
        const Node segment = fold_lanes<Op::kMaximum>(nodes.load(lane % warps), warps);
        workspace.store(unit, segment, lane == 0);
      }
    } else {
      const Acc m = tile.prepare();
      if (warp == 0) {
        const Node whole = fold_all<Op::kMaximum>(
            segments, [&](i64 i, bool wanted) { return workspace.load(number * segments + i, wanted); });
        if (lane == 0) nodes.store(0, whole);
      }
      block_barrier();
      tile.write(args, row, Op::scale(m, nodes.load(0)));
    }
    if (unit + grid_blocks() < layout.rows * segments) block_barrier();  // the nodes have been read
  }
}

}  // namespace csm
