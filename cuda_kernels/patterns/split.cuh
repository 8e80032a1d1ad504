// split: few, long rows, each over many blocks, in two launches.
//
// A block takes a segment of a row, in layout.rounds (a power of two) rounds of as many neighbouring chunks as it has
// warps. A warp has one chunk at a time, a thread kItems elements of it. Launch 0 writes each segment's node to the
// workspace; in launch 1 every block folds all nodes of its row again, and writes its segment. Where there are only
// values of the row to write, a warp folds each row in launch 1.
//
// Shared memory: as reduce_stretch needs. Workspace: a node for each segment of each row.
#pragma once

#include "reduce/stretch.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int warps = block_threads() / kWarp;
  const i64 segment_chunks = layout.rounds * warps;
  const i64 segments = (layout.n + segment_chunks * kChunk - 1) / (segment_chunks * kChunk);
  const SharedNodes nodes(0, 2 * warps + 1);
  const GlobalNodes workspace(args.workspace);

  if constexpr (kStage == 1 && kOutputs == 0) {
    fold_rows(args, segments, [&](i64 number, const Node& whole) {
      const Row row = row_at(args, number);
      write_values<Op>(row, whole, given_of<Op>(args, row, number), thread_index() % kWarp == 0);
    });
    return;
  }
  for (i64 unit = block_index(); unit < layout.rows * segments; unit += grid_blocks()) {
    const i64 number = unit / segments;
    const Row row = row_at(args, number);
    const Given given = given_of<Op>(args, row, number);
    const Stretch segment = {(unit - number * segments) * segment_chunks * kChunk, layout.rounds};
    if constexpr (kStage == 0) {
      reduce_stretch(args, row, segment, given, nodes);
      if (thread_index() == 0) workspace.store(unit, nodes.load(2 * warps), true);
    } else {
      if (thread_index() < kWarp) {
        const Node whole =
            fold_all(segments, [&](i64 i, bool wanted) { return workspace.load(number * segments + i, wanted); });
        if (thread_index() == 0) nodes.store(2 * warps, whole);
      }
      block_barrier();
      const Node whole = nodes.load(2 * warps);
      write_stretch(args, row, segment, whole, given);
      write_values<Op>(row, whole, given, segment.first == 0 && thread_index() == 0);
    }
    if (unit + grid_blocks() < layout.rows * segments) block_barrier();  // the row's node has been read
  }
}

}  // namespace csm
