// piece: a piece of each row, whose other pieces lie on other devices or come at other times.
//
// A piece is a range of the row's chunks. What is known of it is a node for each of the largest subtrees of the row's
// fold (reduce/fold.cuh) that it consists of, at most two for each level of the tree. Nodes of neighbouring pieces fold
// to those of their union, and those of all pieces to the node of the row, with the bits that it has on one device.
//
// Stage 0 reduces the piece: nodes of chunks, or of so many rounds of chunks.
// Stage 1 folds nodes, all of one piece or of neighbouring pieces, to those of the largest subtrees.
// Stage 2 writes the piece's results, from the node of the row; stage 3 the values of rows alone.
//
// Thread: holds kItems elements of a chunk; in stage 3 has a row.
// Warp: in stages 0 and 2 has a chunk, or several rows of at most one chunk as in the group pattern; in stage 1 a row.
// Block: its warps are independent of each other. There is no shared memory and no barrier.
#pragma once

#include "reduce/fold.cuh"
#include "reduce/tile.cuh"

namespace csm {

// The element of the row that the piece starts at, whether it ends with the row, and how many nodes stage 1 folds.
// Layout::n is the piece's length.
constexpr int kFirstElement = own_option("first"), kRowEnds = own_option("row_ends"), kNodes = own_option("nodes");

CSM_DEVICE i64 first_chunk(const Arguments& args) { return args.layout.option[kFirstElement] / kChunk; }
CSM_DEVICE i64 end_of_piece(const Arguments& args) { return args.layout.option[kFirstElement] + args.layout.n; }

// Nodes of subtrees in global memory, those of one subtree for all rows after the other. Each has one word more than
// a Node: the level of its subtree, that of a chunk being 0.
class Subtrees {
 public:
  CSM_DEVICE Subtrees(char* base, i64 rows) : base_(base), rows_(rows) {}

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
  i64 rows_;
  CSM_DEVICE char* at(i64 i, i64 row, int field) const {
    return base_ + ((i * rows_ + row) * (kNodeWords + 1) + field) * static_cast<i64>(sizeof(Acc));
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
  for (i64 base = block_index() * side_by_side; base < layout.rows * units; base += grid_blocks() * side_by_side) {
    const i64 mine = base + thread_index() / kLanes;
    const bool present = mine < layout.rows * units;
    const i64 number = present ? mine / units : 0, unit = present ? mine - number * units : 0;
    Row row = row_at(args, number);
    const RowContext context = row_context<Op>(args, row, number, present);
    move_to_row(row, first);
    visit(number, present, row, context, unit);
  }
}

using PieceTile = RowTile<Op, kLanes, kItems, kVec, i64>;

CSM_DEVICE void reduce_piece(const Arguments& args) {
  const i64 rounds = args.layout.rounds, first = args.layout.option[kFirstElement], end = end_of_piece(args);
  const Subtrees nodes(args.workspace, args.layout.rows);
  each_chunk(args, rounds, [&](i64 number, bool present, const Row& row, const RowContext& context, i64 unit) {
    const i64 start = first + unit * rounds * kChunk;
    const auto node_of = [&](i64 at) {
      PieceTile tile(at, present ? end : at);
      tile.read(args, row, context);
      return tile.reduce(context);
    };
    Node node;
    int level = 0;
    if constexpr (kLanes < kWarp) {
      node = node_of(start);
    } else {  // all lanes have the same row
      TreeFold fold;
      for (i64 round = 0; round < rounds && start + round * kChunk < end; ++round) {
        fold.push(node_of(start + round * kChunk));
      }
      node = fold.result();
      while ((i64(1) << level) < rounds) ++level;
    }
    nodes.store(unit, number, node, level, present && thread_index() % kLanes == 0);
  });
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

  // Stores what is left. Where the row ends, that is one subtree, whose other leaves are missing.
  CSM_DEVICE void finish(bool row_ends) {
    if (held_ == 0) return;
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

// The nodes come in place of the first operand.
CSM_DEVICE void fold_nodes(const Arguments& args) {
  const Layout& layout = args.layout;
  const i64 warps = block_threads() / kWarp, count = layout.option[kNodes];
  const int lane = thread_index() % kWarp;
  const bool row_ends = layout.option[kRowEnds] != 0;
  const Subtrees from(args.operand[0], layout.rows), to(args.workspace, layout.rows);
  for (i64 row = block_index() * warps + thread_index() / kWarp; row < layout.rows; row += grid_blocks() * warps) {
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
    fold.finish(row_ends);
  }
}

CSM_DEVICE void write_piece(const Arguments& args) {
  const i64 first = args.layout.option[kFirstElement], end = end_of_piece(args);
  const Subtrees nodes(args.workspace, args.layout.rows);
  each_chunk(args, 1, [&](i64 number, bool present, const Row& row, const RowContext& context, i64 unit) {
    const Node whole = nodes.load(0, number);
    const i64 start = first + unit * kChunk;
    PieceTile tile(start, present ? end : start);
    tile.read(args, row, context);
    const DoubleWord m = tile.prepare(context);
    tile.write(args, row, Op::scale(m, whole, context));
    write_values<Op>(row, whole, context, present && unit == 0 && thread_index() % kLanes == 0);
  });
}

CSM_DEVICE void write_row_values(const Arguments& args) {
  const Layout& layout = args.layout;
  const Subtrees nodes(args.workspace, layout.rows);
  const i64 threads = block_threads();
  for (i64 number = block_index() * threads + thread_index(); number < layout.rows; number += grid_blocks() * threads) {
    const Row row = row_at(args, number);
    write_values<Op>(row, nodes.load(0, number), row_context<Op>(args, row, number), true);
  }
}

CSM_DEVICE void run(const Arguments& args) {
  if constexpr (kStage == 0) reduce_piece(args);
  else if constexpr (kStage == 1) fold_nodes(args);
  else if constexpr (kStage == 2) write_piece(args);
  else write_row_values(args);
}

}  // namespace csm
