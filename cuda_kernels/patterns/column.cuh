// column: the rows run down a strided axis, and neighbouring rows may lie side by side in memory.
//
// A thread walks down kVec neighbouring rows, kItems elements of each, all in registers. A warp is kLanes threads side
// by side, so that its accesses are contiguous, times 32 / kLanes further down. A block is several such warps one below
// the other: a power of two of walkers for each row. A walker's stretch is a leaf; leaves are folded as the binary tree
// of core/fold.cuh, by groups of lanes, through shared memory.
//
//   stage 0   the row is on the chip: a leaf for each walker of kCluster blocks, one below the other;
//   stage 1   longer rows, first of three launches: each block folds its leaves and writes the node to the workspace;
//   stage 2   a warp folds the nodes of one row;
//   stage 3   the leaves are read again, and written.
//
// Shared memory: a node for each walker and row, and for a cluster one more for each block and row; in stage 3 a node
// for each row. Workspace: a node for each segment of each row, then the rows' nodes.
#pragma once

#include "core/fold.cuh"
#include "core/tile.cuh"

namespace csm {

// kItems elements of each of kVec neighbouring rows, in one thread's registers.
template <class Op>
class ColumnTile {
 public:
  // Elements [first, first + kItems) of the rows; `n` is 0 for a thread with no rows.
  CSM_DEVICE ColumnTile(i64 first, i64 n) : first_(first), n_(n) {}

  CSM_DEVICE void read(const Arguments& args, const Row& row) {
    read_input<In0, 0>(args, row.in0);
    if constexpr (Op::kInputs > 1) read_input<In1, 1>(args, row.in1);
  }

  CSM_DEVICE Node reduce(int column) {
    Node node = nothing();
    if constexpr (Op::kMaximum) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) node.m = maximum(node.m, Op::key(item_[i][column]));
    }
    node.s = terms(column, shift_of(node.m));
    node.s.hi = node.s.hi + Acc(0);  // no −0, as in RowTile
    return node;
  }

  // What reduce() does to the elements, without the sum. Returns the maximum.
  CSM_DEVICE Acc prepare(int column) { return reduce(column).m; }

  CSM_DEVICE void write(const Arguments& args, const Row& row, const typename Op::Scale (&scale)[kVec]) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      Acc result[kVec];
#pragma unroll
      for (int c = 0; c < kVec; ++c) result[c] = Op::map(item_[i][c], scale[c]);
      store<Out>(row.out + down<2>(args, i), wanted(i), result);
    }
  }

 private:
  Acc item_[kItems][kVec][Op::kInputs];
  i64 first_, n_;

  CSM_DEVICE bool wanted(int i) const { return first_ + i < n_; }
  template <int Operand>
  CSM_DEVICE i64 down(const Arguments& args, int i) const {
    const Layout& at = args.layout;
    return offset_of(first_ + i, at.reduce_size, at.reduce_stride[Operand], at.reduce_dims);
  }
  template <class T, int Operand>
  CSM_DEVICE void read_input(const Arguments& args, const char* row) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      Acc got[kVec];
      load<T, Op::kNeutral>(row + down<Operand>(args, i), wanted(i), got);
#pragma unroll
      for (int c = 0; c < kVec; ++c) item_[i][c][Operand] = got[c];
    }
  }
  CSM_DEVICE Wide terms(int column, Acc shift) {
    Wide sum = widen_exactly(Op::term(item_[0][column], shift));
#pragma unroll
    for (int i = 1; i < kItems; ++i) sum = add(sum, Op::term(item_[i][column], shift));
    return sum;
  }
};

constexpr int kColumns = kLanes * kVec;  // rows that a block works on
// Nodes from a walker's to the next's: odd, so that 32 parts of a row meet no bank conflict, and fewer parts of several
// rows few (at most four ways; the fold is a small part of the work).
constexpr int kPitch = kColumns + 1;

// Folds the first `parts` (a power of two) entries of each of the block's rows in place, into entry 0. Neighbouring
// lanes take neighbouring parts. Called by the whole block, after a barrier; after it, too, all threads have met.
CSM_DEVICE void fold_columns(const SharedNodes& nodes, int parts) {
  for (int stride = 1; stride < parts; stride *= kWarp) {
    const int left = parts / stride, width = left < kWarp ? left : kWarp;
    for (int base = thread_index() - thread_index() % kWarp; base < left * kColumns; base += block_threads()) {
      const int place = base + thread_index() % kWarp;  // over the parts of a group, then rows, then groups
      const int group = place / width / kColumns, column = place / width % kColumns, part = place % width;
      const bool present = place < left * kColumns;
      const int at = (group * width + part) * stride * kPitch + column;
      const Node node = fold_lanes<Op::kMaximum>(nodes.load(at, present), width);
      if (present && part == 0) nodes.store(at, node);
    }
    block_barrier();
  }
}

// How rows are cut: `length` elements for each block or cluster that works on a row.
CSM_DEVICE i64 segments_of(const Layout& layout) {
  const i64 length = i64(kItems) * (block_threads() / kLanes) * kCluster;
  return (layout.n + length - 1) / length;
}

CSM_DEVICE void walk(const Arguments& args) {
  const Layout& layout = args.layout;
  const int walkers = block_threads() / kLanes, walker = thread_index() / kLanes, lane = thread_index() % kLanes;
  const int rank = kCluster > 1 ? cluster_rank() : 0;
  const i64 tiles = (layout.inner + kColumns - 1) / kColumns;
  const i64 segments = segments_of(layout);
  const i64 units = layout.rows / layout.inner * tiles * segments;
  const SharedNodes nodes(0, kStage == 3 ? kPitch : walkers * kPitch);
  const SharedNodes of_blocks(3 * static_cast<int>(sizeof(Acc)) * walkers * kPitch, kCluster * kPitch);
  const GlobalNodes workspace(args.workspace);

  const i64 first_unit = block_index() / kCluster;
  for (i64 unit = first_unit; unit < units; unit += grid_blocks() / kCluster) {
    const i64 segment = unit % segments, outer = unit / segments / tiles;
    const i64 column = unit / segments % tiles * kColumns + lane * kVec;
    const bool present = column < layout.inner;  // kVec divides inner: all of the thread's rows, or none
    const i64 number = outer * layout.inner + column;
    Row row = row_at(args, outer);
    if (present) row.advance(layout, column);

    if constexpr (kCluster > 1) cluster_arrive();
    else if (unit != first_unit) block_barrier();  // the last rows' nodes have been read
    ColumnTile<Op> tile(((segment * kCluster + rank) * walkers + walker) * kItems, present ? layout.n : 0);
    tile.read(args, row);
    typename Op::Scale scale[kVec];
    if constexpr (kStage == 3) {
      // One walker reads the rows' nodes for all.
      if (walker == 0) {
#pragma unroll
        for (int c = 0; c < kVec; ++c) {
          nodes.store(c * kLanes + lane, workspace.load(layout.rows * segments + number + c, present));
        }
      }
      block_barrier();
#pragma unroll
      for (int c = 0; c < kVec; ++c) scale[c] = Op::scale(tile.prepare(c), nodes.load(c * kLanes + lane));
      tile.write(args, row, scale);
      continue;
    }

    Acc m[kVec];
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
      const Node node = tile.reduce(c);
      m[c] = node.m;
      nodes.store(walker * kPitch + c * kLanes + lane, node);
    }
    block_barrier();
    fold_columns(nodes, walkers);
    if constexpr (kStage == 1) {
      if (walker == 0) {
#pragma unroll
        for (int c = 0; c < kVec; ++c) {
          workspace.store((number + c) * segments + segment, nodes.load(c * kLanes + lane), present);
        }
      }
      continue;
    }
    if constexpr (kCluster > 1) {
      cluster_wait();
      for (int i = thread_index(); i < kCluster * kColumns; i += block_threads()) {
        of_blocks.store_remote(rank * kPitch + i % kColumns, nodes.load(i % kColumns), i / kColumns);
      }
      cluster_arrive();
      cluster_wait();
      fold_columns(of_blocks, kCluster);
    }
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
      scale[c] = Op::scale(m[c], (kCluster > 1 ? of_blocks : nodes).load(c * kLanes + lane));
    }
    tile.write(args, row, scale);
  }
}

// Stage 2. Launched with the blocks of stage 1, so that it counts the same segments.
CSM_DEVICE void fold_rows(const Arguments& args) {
  const i64 segments = segments_of(args.layout), warps = block_threads() / kWarp;
  const GlobalNodes workspace(args.workspace);
  for (i64 number = block_index() * warps + thread_index() / kWarp; number < args.layout.rows;
       number += grid_blocks() * warps) {
    const Node whole = fold_all<Op::kMaximum>(
        segments, [&](i64 i, bool wanted) { return workspace.load(number * segments + i, wanted); });
    workspace.store(args.layout.rows * segments + number, whole, thread_index() % kWarp == 0);
  }
}

CSM_DEVICE void run(const Arguments& args) {
  if constexpr (kStage == 2) fold_rows(args);
  else walk(args);
}

}  // namespace csm
