// map: each element is computed by itself; nothing is summed.
//
// Thread: holds kItems elements of one row.
// Warp: takes 32 / kLanes chunks, each of kLanes · kItems elements of one row.
// Block: its warps are independent of each other. There is no shared memory, no barrier and no shuffle.
#pragma once

#include "reduce/tile.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const i64 chunks = (layout.n + kChunk - 1) / kChunk, at_once = block_threads() / kLanes;
  const i64 first = block_index() * at_once + thread_index() / kLanes;
  for (i64 unit = first; unit < layout.rows * chunks; unit += grid_blocks() * at_once) {
    const i64 number = unit / chunks;
    const Row row = row_at(args, number);
    RowTile<Op> tile((unit - number * chunks) * kChunk, layout.n);
    const RowContext context = row_context<Op>(args, row, number);
    tile.read(args, row, context);
    tile.write(args, row, Op::scale(DoubleWord{}, empty_node(), context));
  }
}

}  // namespace csm
