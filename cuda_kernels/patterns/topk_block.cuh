// topk_block: selects the k largest elements of a row of many chunks, in one pass of one block.
//
// Thread: holds kItems elements of a chunk.
// Warp: takes one chunk at a time, layout.rounds neighbouring ones in all. Its lanes hold a sorted list of the best
// elements so far; only elements above the last of these are looked at again.
// Block: its warps' lists are merged at the end of the row, in pairs, so that a row costs log2(warps) barriers.
//
// Shared memory: as pick_stretch needs (select/pick_stretch.cuh). Barriers: those of pick_stretch, and one between two
// rows, so that no list is overwritten before it has been read.
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
    if (number + grid_blocks() < layout.rows) block_barrier();  // every list has been read
  }
}

}  // namespace csm
