// Pieces of rows, whose other pieces lie elsewhere: ranges of a row's chunks, and the nodes of the largest subtrees of
// the row's fold (reduce/fold.cuh) that they consist of. Used by the patterns piece and topk_piece.
#pragma once

#include "reduce/fold.cuh"
#include "reduce/row.cuh"

namespace csm {

// The element of the row that the piece starts at, whether it ends with the row, and how many nodes stage 1 folds.
// Layout::n is the piece's length.
constexpr int kFirstElement = own_option("first"), kRowEnds = own_option("row_ends"), kNodes = own_option("nodes");

CSM_DEVICE i64 first_chunk(const Arguments& args) { return args.layout.option[kFirstElement] / kChunk; }
CSM_DEVICE i64 end_of_piece(const Arguments& args) { return args.layout.option[kFirstElement] + args.layout.n; }

// Nodes of subtrees in global memory, those of one subtree for all rows after the other. Each has one word more than
// a Node: the level of its subtree, that of a chunk being 0. `words` are those from one node to the next.
class Subtrees {
 public:
  CSM_DEVICE Subtrees(char* base, i64 rows, i64 words = kNodeWords + 1) : base_(base), rows_(rows), words_(words) {}

  CSM_DEVICE void store(i64 i, i64 row, Node node, int level, bool wanted) const {
    each_word(node, [&](int field, Acc word) { global_store(at(i, row, field), word, wanted); });
    global_store(at(i, row, kNodeWords), static_cast<Acc>(level), wanted);
  }
  CSM_DEVICE Node load(i64 i, i64 row, bool wanted = true) const {
    Node node = empty_node();
    each_word(node, [&](int field, Acc& word) { word = global_load(at(i, row, field), wanted, word); });
    return node;
  }
  CSM_DEVICE int level(i64 i, i64 row, bool wanted) const {
    return static_cast<int>(global_load(at(i, row, kNodeWords), wanted, Acc(0)));
  }

 private:
  char* base_;
  i64 rows_, words_;
  CSM_DEVICE char* at(i64 i, i64 row, int field) const {
    return base_ + ((i * rows_ + row) * words_ + field) * static_cast<i64>(sizeof(Acc));
  }
};

// The row as if all of it were there: an element of the piece lies where its index in the row says.
template <int Operand = 0>
CSM_DEVICE void move_to_row(Row& row, i64 first) {
  if constexpr (Operand < kOperands) {
    constexpr bool kAlong = Operand < kInputs || (Operand >= kFirstOutput && Operand < kFirstRowOutput);
    if constexpr (kAlong && !kRepeated<Operand>) row.start[Operand] -= first * static_cast<i64>(sizeof(Type<Operand>));
    move_to_row<Operand + 1>(row, first);
  }
}

// Calls visit(row number, present, row, context, unit) for each unit of `rounds` neighbouring chunks of the piece,
// which kLanes lanes have; for lanes that have none, `present` is false. All lanes of a warp make the same calls.
template <class Visit>
CSM_DEVICE void each_chunk(const Arguments& args, i64 rounds, Visit visit) {
  const Layout& layout = args.layout;
  const i64 length = rounds * kChunk, units = (layout.n + length - 1) / length, side_by_side = block_threads() / kLanes;
  const i64 first = args.layout.option[kFirstElement];
  constexpr bool kOne = kLanes == kWarp;  // a warp has one unit: no lane is without, and registers are saved
  const int within = thread_index() / kLanes;
  for (i64 base = block_index() * side_by_side + (kOne ? within : 0); base < layout.rows * units;
       base += grid_blocks() * side_by_side) {
    const i64 mine = base + (kOne ? 0 : within);
    const bool present = kOne || mine < layout.rows * units;
    const i64 number = present ? mine / units : 0, unit = present ? mine - number * units : 0;
    Row row = row_at(args, number);
    const RowContext context = row_context<Op>(args, row, number, present);
    move_to_row(row, first);
    visit(number, present, row, context, unit);
  }
}

// A subtree's node, and its level.
struct Subtree {
  Node node;
  int level;
};

// The node of `rounds` neighbouring chunks from element `start` on, a power of two, or up to `end`; node_of(element)
// is that of one chunk. Where several rows share a warp, each is one chunk.
template <class NodeOf>
CSM_DEVICE Subtree subtree_of(i64 rounds, i64 start, i64 end, NodeOf node_of) {
  if constexpr (kLanes < kWarp) {
    return {node_of(start), 0};
  } else {  // all lanes have the same row
    TreeFold fold;
    for (i64 round = 0; round < rounds && start + round * kChunk < end; ++round) {
      fold.push(node_of(start + round * kChunk));
    }
    int level = 0;
    while ((i64(1) << level) < rounds) ++level;
    return {fold.result(), level};
  }
}

// One warp folds the nodes of subtrees that come one after the other, from chunk `first` on: a binary counter, as
// TreeFold, but of subtrees of any size, and with nothing before the first. It stores a subtree as soon as it cannot
// grow, since it is the right half of one whose left half is not there.
class SubtreeFold {
 public:
  CSM_DEVICE SubtreeFold(const Subtrees& to, i64 row, i64 first)
      : to_(to), row_(row), at_(first), stored_(0), held_(0), digit_(empty_node()) {}

  // Where the next subtree starts.
  CSM_DEVICE i64 at() const { return at_; }

  // `node` is the next subtree's, the same in all lanes.
  CSM_DEVICE void push(Node node, int level) {
    i64 start = at_;
    at_ += i64(1) << level;
    for (; held_ >> level & 1; ++level) {
      node = merge(shuffled(level), node);
      held_ &= ~(1u << level);
      start -= i64(1) << level;
    }
    if (start >> level & 1) return store(node, level);
    if (thread_index() % kWarp == level) digit_ = node;
    held_ |= 1u << level;
  }

  // Stores what is left. Where the row ends, that is one subtree, whose other leaves are missing. Returns how many
  // subtrees it has stored in all.
  CSM_DEVICE i64 finish(bool row_ends) {
    if (held_ == 0) return stored_;
    Node whole = empty_node();
    int top = 0, count = 0;
    for (int step = 0; step < kWarp; ++step) {
      const int level = row_ends ? step : kWarp - 1 - step;
      if (!(held_ >> level & 1)) continue;
      const Node node = shuffled(level);
      if (row_ends) whole = merge(node, whole);
      else store(node, level);
      top = level;
      ++count;
    }
    if (row_ends) store(whole, count > 1 ? top + 1 : top);
    return stored_;
  }

 private:
  Subtrees to_;
  i64 row_, at_, stored_;
  unsigned held_;  // bit k is set if lane k has a subtree of level k, which lacks its right neighbour
  Node digit_;

  CSM_DEVICE Node shuffled(int level) const { return shuffle(digit_, level, kWarp); }
  CSM_DEVICE void store(const Node& node, int level) {
    to_.store(stored_++, row_, node, level, thread_index() % kWarp == 0);
  }
};

// One warp folds the nodes of a row; returns how many there are then.
CSM_DEVICE i64 fold_subtrees(const Arguments& args, const Subtrees& from, const Subtrees& to, i64 row) {
  const i64 count = args.layout.option[kNodes];
  const int lane = thread_index() % kWarp;
  const bool row_ends = args.layout.option[kRowEnds] != 0;
  SubtreeFold fold(to, row, first_chunk(args));
  for (i64 i = 0; i < count; i += kWarp) {
    const i64 left = count - i;
    const bool mine = lane < left;
    Node node = from.load(i + lane, row, mine);
    const int level = from.level(i + lane, row, mine), low = shuffle(level, 0, kWarp);
    // 32 subtrees of one size that make a larger one, or all up to the row's end.
    const bool alike = !any_lane(mine && level != low) && (fold.at() >> low) % kWarp == 0;
    const bool together = alike && left > 1 && (left >= kWarp || row_ends);
    if (together) node = fold_lanes(node, kWarp);
    const int pushes = together ? 1 : left < kWarp ? static_cast<int>(left) : kWarp;
    for (int k = 0; k < pushes; ++k) {
      fold.push(shuffle(node, k, kWarp), together ? low + 5 : shuffle(level, k, kWarp));
    }
  }
  return fold.finish(row_ends);
}

}  // namespace csm
