// topk_piece: selects the k largest elements of a piece of each row, whose other pieces lie elsewhere (piece.cuh).
//
// What is known of a piece are its nodes, as in piece.cuh, if the operation sums over the row, and the list of its k
// best elements: a key each, and the index in the whole row. The first node has the list, and those of the others are
// empty. So lists are merged in any order, and the row's is that of all of its nodes.
//
// Stage 0 selects from the piece: a node and a list for so many rounds of chunks.
// Stage 1 folds nodes, as in piece.cuh, and merges their lists to one.
// Stage 2 writes the results of rows from their nodes and lists. Of the elements nothing is read again.
//
// Thread: holds kItems elements of a chunk.
// Warp: in stage 0 has one chunk at a time, or several rows of at most one chunk; in stage 2 as many rows.
// Block: its warps are independent of each other but in stage 1. There it has a row, and its warps share the lists.
// Shared memory: in stage 1 a list for each warp. Barriers: there those of merge_lists, and one between two rows.
#pragma once

#include "reduce/subtrees.cuh"
#include "select/pick_stretch.cuh"

namespace csm {

// Nodes, if there are any, each followed by a list of k candidates.
class PieceLists {
  using Word = NthType<kSingle, u64, u32>::type;
  static constexpr int kIndexWords = static_cast<int>(sizeof(i64) / sizeof(Word)), kWords = 1 + kIndexWords;
  static constexpr int kNodeAndLevel = kSums > 0 ? kNodeWords + 1 : 0;
  static_assert(sizeof(Key) <= sizeof(Word), "a key is one word");

 public:
  CSM_DEVICE PieceLists(char* base, const Layout& layout)
      : base_(base), rows_(layout.rows), k_(layout.option[kSelected]), words_(kNodeAndLevel + k_ * kWords) {}

  CSM_DEVICE Subtrees nodes() const { return Subtrees(base_, rows_, words_); }

  CSM_DEVICE void store(i64 i, i64 row, const Picks& picks, bool wanted) const {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int place = Picks::place_of(s);
      const bool there = wanted && place < k_;
      global_store(at(i, row, place), static_cast<Word>(picks.slot(s).key), there);
#pragma unroll
      for (int w = 0; w < kIndexWords; ++w) {
        const u64 index = static_cast<u64>(picks.slot(s).index) >> w * 32;
        global_store(at(i, row, place) + (1 + w) * sizeof(Word), static_cast<Word>(index), there);
      }
    }
  }
  CSM_DEVICE Picks load(i64 i, i64 row) const {
    Picks picks;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int place = Picks::loaded_place(s);
      const bool there = place < k_;
      const Word key = global_load(at(i, row, place), there, Word(0));
      u64 index = 0;
#pragma unroll
      for (int w = 0; w < kIndexWords; ++w) {
        index |= u64(global_load(at(i, row, place) + (1 + w) * sizeof(Word), there, Word(0))) << w * 32;
      }
      if (there) picks.slot(s) = {static_cast<Key>(key), static_cast<i64>(index)};
    }
    return picks;
  }

 private:
  char* base_;
  i64 rows_, k_, words_;
  CSM_DEVICE char* at(i64 i, i64 row, int place) const {
    return base_ + ((i * rows_ + row) * words_ + kNodeAndLevel + place * kWords) * static_cast<i64>(sizeof(Word));
  }
};

// The option that says which number the first row has, of operations that depend on it; else −1.
constexpr int kFirstRow = option_named("first_row");

CSM_DEVICE void pick_from_piece(const Arguments& args) {
  const i64 rounds = args.layout.rounds, first = args.layout.option[kFirstElement], end = end_of_piece(args);
  const int k = static_cast<int>(args.layout.option[kSelected]);
  const PieceLists lists(args.workspace, args.layout);
  each_chunk(args, rounds, [&](i64 number, bool present, const Row& row, const RowContext& here, i64 unit) {
    RowContext context = here;
    if constexpr (kFirstRow >= 0) context.row += args.layout.option[kFirstRow];
    Picks picks;
    const Subtree found = subtree_of(rounds, first + unit * rounds * kChunk, end, [&](i64 at) {
      KeyTile<Op> tile(at, present ? end : at);
      tile.read(args, row, context);
      const Node node = tile.reduce(args);
      pick_into(picks, tile, k, context);
      return node;
    });
    if constexpr (kSums > 0) {
      lists.nodes().store(unit, number, found.node, found.level, present && thread_index() % kLanes == 0);
    }
    lists.store(unit, number, picks, present);
  });
}

// The nodes and lists come in place of the first operand.
CSM_DEVICE void merge_pieces(const Arguments& args) {
  const Layout& layout = args.layout;
  const PieceLists from(args.operand[0], layout), to(args.workspace, layout);
  for (i64 row = block_index(); row < layout.rows; row += grid_blocks()) {
    const Picks picks = merge_lists(layout.option[kNodes], [&](i64 list) { return from.load(list, row); });
    if (thread_index() < kWarp) {
      i64 stored = 1;
      if constexpr (kSums > 0) stored = fold_subtrees(args, from.nodes(), to.nodes(), row);
      to.store(0, row, picks, true);
      for (i64 i = 1; i < stored; ++i) to.store(i, row, Picks(), true);
    }
    if (row + grid_blocks() < layout.rows) block_barrier();  // the lists have been read
  }
}

CSM_DEVICE void write_rows(const Arguments& args) {
  const Layout& layout = args.layout;
  const PieceLists lists(args.workspace, layout);
  const i64 side_by_side = block_threads() / kLanes;
  for (i64 base = block_index() * side_by_side; base < layout.rows; base += grid_blocks() * side_by_side) {
    const i64 mine = base + thread_index() / kLanes;
    const bool present = mine < layout.rows;
    const i64 number = present ? mine : base;
    Node whole = empty_node();
    if constexpr (kSums > 0) whole = lists.nodes().load(0, number);
    write_picks<Op>(args, row_at(args, number), lists.load(0, number), whole, present);
  }
}

CSM_DEVICE void run(const Arguments& args) {
  if constexpr (kStage == 0) pick_from_piece(args);
  else if constexpr (kStage == 1) merge_pieces(args);
  else write_rows(args);
}

}  // namespace csm
