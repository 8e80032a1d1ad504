// topk_block: the best elements of a row of many chunks, passed over once by one block.
//
// A thread holds kItems elements of a chunk, a warp one chunk at a time, of layout.rounds neighbouring ones. Its lanes
// hold the best so far, in order; an element is only looked at twice if it is above the last of them. The warps' lists
// are merged at the end: the barriers of a row are as many as the logarithm of the warps.
//
// Shared memory: as pick_stretch needs.
#pragma once

#include "select/pick_stretch.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  for (i64 number = block_index(); number < layout.rows; number += grid_blocks()) {
    const Row row = row_at(args, number);
    Picks picks;
    const Node whole = pick_stretch<Op>(args, row, number, 0, picks);
    if (thread_index() < kWarp) write_picks<Op>(args, row, picks, whole, true);
    if (number + grid_blocks() < layout.rows) block_barrier();  // the lists have been read
  }
}

}  // namespace csm
