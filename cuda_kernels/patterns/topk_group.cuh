// topk_group: selects the k largest elements of a short row, which 1 to 32 lanes hold in registers.
//
// Thread: holds kItems elements of one row.
// Warp: holds 32 / kLanes neighbouring rows; the kLanes lanes of a row select by shuffles among themselves.
// Block: its warps are independent of each other. There is no shared memory and no barrier, unless the row is staged,
// as in the group pattern.
#pragma once

#include "reduce/span.cuh"
#include "select/key_tile.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int k = static_cast<int>(layout.option[kSelected]), rows_at_once = block_threads() / kLanes;
  // All threads of a block make the same number of iterations, so that every lane reaches every shuffle.
  for (i64 base = block_index() * rows_at_once; base < layout.rows; base += grid_blocks() * rows_at_once) {
    const i64 number = base + thread_index() / kLanes;
    const bool present = number < layout.rows;
    Row row = row_at(args, present ? number : base);
    if constexpr (kStages) {
      const Span span = span_of_rows(args, base, rows_at_once);
      if (base != block_index() * rows_at_once) block_barrier();
      span.read();
      block_barrier();
      span.set_places(row, thread_index() / kLanes * layout.n);
    }
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
