// stream: a row longer than the chip holds, passed over twice by one block.
//
// A thread holds kItems elements of a chunk. A warp reduces one chunk at a time, a block as many neighbouring chunks as
// it has warps, and warp 0 folds their nodes as they come: one barrier a round. In the second pass, last chunks first,
// each is read and prepared again, and written. Values of the row are known after the first.
//
// Shared memory: as reduce_stretch needs.
#pragma once

#include "reduce/stretch.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int warps = block_threads() / kWarp;
  const i64 round_length = i64(kChunk) * warps;
  const Stretch whole_row = {0, (layout.n + round_length - 1) / round_length};
  const SharedNodes nodes(0, 2 * warps + 1);
  for (i64 number = block_index(); number < layout.rows; number += grid_blocks()) {
    const Row row = row_at(args, number);
    const RowContext context = row_context<Op>(args, row, number);
    reduce_stretch(args, row, whole_row, context, nodes);
    const Node whole = nodes.load(2 * warps);
    if constexpr (kOutputs > 0) write_stretch(args, row, whole_row, whole, context);
    write_values<Op>(row, whole, context, thread_index() == 0);
  }
}

}  // namespace csm
