// topk_group: the best elements of a short row, which is in the registers of 1 to 32 lanes.
//
// A thread holds kItems elements of one row. A warp holds 32 / kLanes neighbouring rows, each with kLanes lanes that
// pick by shuffles. A block is as many warps as launched, which share nothing: no shared memory, no barrier.
#pragma once

#include "select/key_tile.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int k = static_cast<int>(layout.option[kSelected]), rows_at_once = block_threads() / kLanes;
  // The loop is the same for all threads of a block, so that every lane reaches every shuffle.
  for (i64 base = block_index() * rows_at_once; base < layout.rows; base += grid_blocks() * rows_at_once) {
    const i64 number = base + thread_index() / kLanes;
    const bool present = number < layout.rows;
    const Row row = row_at(args, present ? number : base);
    KeyTile<Op> tile(0, present ? layout.n : 0);
    tile.read(args, row, row_context<Op>(args, row, number, present));
    const Node whole = tile.reduce(args);
    Picks picks;
    if constexpr (kLanes == kWarp) pick_into(picks, tile, k);
    else picks = pick_one_by_one(tile, k);
    write_picks<Op>(args, row, picks, whole, present);
  }
}

}  // namespace csm
