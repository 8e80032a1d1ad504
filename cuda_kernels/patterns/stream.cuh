// stream: a row longer than the chip can hold; one block passes over it twice.
//
// Thread: holds kItems elements of a chunk.
// Warp: reduces one chunk at a time to a node.
// Block: takes a round at a time, as many neighbouring chunks as it has warps. In the first pass warp 0 folds the nodes
// of each round as they come. The second pass goes from the last round to the first, because the cache holds the last
// elements: each chunk is read again and its results are written. With kParks the last round, or two, wait in shared
// memory, and are written last. Values of a row are known after the first pass.
//
// Shared memory: as reduce_stretch needs (reduce/stretch.cuh), then the parked chunks. Barriers: one each round of the
// first pass, before warp 0 reads the round's nodes, and one at its end, before all warps read the row's node; and
// those of staged spans.
#pragma once

#include "reduce/stretch.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  static_assert(StretchTile::kParkedWords == CSM_PARKED_WORDS, "the host counts the words of a parked chunk otherwise");
  const int warps = block_threads() / kWarp;
  const i64 round_length = i64(kChunk) * warps;
  const Stretch whole_row = {0, (layout.n + round_length - 1) / round_length};
  const ListedNodes nodes = nodes_of_stretch();
  for (i64 number = block_index(); number < layout.rows; number += grid_blocks()) {
    const Row row = row_at(args, number);
    RowContext context = row_context<Op>(args, row, number);
    reduce_stretch(args, row, whole_row, context, nodes);
    const Node whole = nodes.load(2 * warps);
    Op::summarise(whole, context, thread_index() < kWarp);
    if constexpr (kOutputs > 0) write_stretch(args, row, whole_row, whole, context);
    write_values<Op>(row, whole, context, thread_index() == 0);
  }
}

}  // namespace csm
