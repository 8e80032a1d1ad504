// topk_group: selects the k largest elements of a short row, which 1 to 32 lanes hold in registers.
//
// Thread: holds kItems elements of one row.
// Warp: holds 32 / kLanes neighbouring rows; the kLanes lanes of a row select by shuffles among themselves.
// Block: its warps are independent of each other. There is no shared memory and no barrier, unless rows are staged, as
// in the group pattern, or kept for the selection (KeyTile::keep), or results are staged: those of the block's rows lie
// end to end, but the stores of its lanes do not, unless each has two picks and stores them at once
// (CSM_PICKS_TOGETHER). The results then take the place of the rows, values before indices, and neighbouring threads
// write neighbours.
#pragma once

#include "reduce/span.cuh"
#include "select/key_tile.cuh"

namespace csm {

// The results of a block's rows in shared memory.
class StagedPicks {
  static constexpr int kIndex = static_cast<int>(sizeof(Type<kLast>));

 public:
  // Of `picks` in all.
  CSM_DEVICE explicit StagedPicks(int picks)
      : values_(0), indices_((picks * static_cast<int>(sizeof(Type<1>)) + kIndex - 1) / kIndex * kIndex) {}

  CSM_DEVICE void store(int pick, Type<1> value, Type<kLast> index) const {
    values_.store(pick, value);
    indices_.store(pick, index);
  }
  // Writes the first `count` picks, that of `row` first.
  CSM_DEVICE void write(const Row& row, int count) const {
    for (int i = thread_index(); i < count; i += block_threads()) {
      global_store(row.start[1] + i * sizeof(Type<1>), values_.load(i), true);
      global_store(row.start[kLast] + i * sizeof(Type<kLast>), indices_.load(i), true);
    }
  }

 private:
  Shared<Type<1>> values_;
  Shared<Type<kLast>> indices_;
};

static_assert(CSM_KEPT_BYTES == (kKeeps ? kKeptBytes : 0), "the host gives a thread other room for its elements");

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int k = static_cast<int>(layout.option[kSelected]), rows_at_once = block_threads() / kLanes;
  // All threads of a block make the same number of iterations, so that every lane reaches every shuffle.
  for (i64 base = block_index() * rows_at_once; base < layout.rows; base += grid_blocks() * rows_at_once) {
    const i64 number = base + thread_index() / kLanes;
    const bool present = number < layout.rows;
    Row row = row_at(args, present ? number : base);
    if constexpr (kStaged<0>) {
      const Span span = span_of_rows(args, base, rows_at_once);
      if (base != block_index() * rows_at_once) block_barrier();
      span.read();
      block_barrier();
      span.set_places(row, thread_index() / kLanes * layout.n);
    }
    KeyTile<Op> tile(0, present ? layout.n : 0);
    const RowContext context = row_context<Op>(args, row, number, present);
    tile.read(args, row, context);
    if constexpr (kKeeps) {
      if (base != block_index() * rows_at_once) block_barrier();
      tile.keep();
      block_barrier();
    }
    Node whole;
    Picks picks;
    if constexpr (kSorts) {
      if constexpr (kSortsRoughly) picks = pick_roughly(args, row, tile);
      else picks = pick_sorted(tile);
      whole = tile.reduce(args, value_of(shuffle(picks.slot(0).key, 0, kLanes)));
    } else {
      whole = tile.reduce(args);
      pick_into(picks, tile, k, context);
    }
    if constexpr (kStaged<1>) {
      const StagedPicks staged(rows_at_once * k);
      const int first = thread_index() / kLanes * k;
      block_barrier();
      put_values_and_indices<Op>(args, picks, whole, present,
                                 [&](int slot, Type<1> value, Type<kLast> index, bool there) {
                                   if (there) staged.store(first + Picks::place_of(slot), value, index);
                                 });
      block_barrier();
      const i64 left = layout.rows - base;
      staged.write(row_at(args, base), static_cast<int>(left < rows_at_once ? left : rows_at_once) * k);
    } else {
      write_picks<Op, CSM_PICKS_TOGETHER>(args, row, picks, whole, present);
    }
  }
}

}  // namespace csm
