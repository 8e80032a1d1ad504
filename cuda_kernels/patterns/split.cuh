// split: few, long rows, each cut into pieces for many blocks, in two launches.
//
// Thread: holds kItems elements of a chunk.
// Warp: has one chunk at a time.
// Block: takes one piece of a row, in layout.rounds rounds (a power of two); a round is as many neighbouring chunks as
// the block has warps. In launch 0 it reduces the piece and writes its node to the workspace. In launch 1 its warps
// fold the nodes of the whole row, each its share of the groups of them, and then the block reads its piece again and
// writes the result. If there are only values of a row to write, launch 1 instead has one warp fold each row and write
// them.
//
// Shared memory: as reduce_stretch needs (reduce/stretch.cuh); in launch 1 the folded groups of nodes and the row's
// node. Workspace: a node for each piece of each row.
// Barriers: those of reduce_stretch; in launch 1 those of fold_in_block; in both one between two pieces, so that the
// node is not overwritten before it has been read.
#pragma once

#include "reduce/stretch.cuh"

namespace csm {

// Nodes that a lane folds of a group of them in the workspace. Two of float64 make the registers too few.
constexpr int kNodesEach = sizeof(Acc) == 4 ? 2 : 1;

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int warps = block_threads() / kWarp;
  const unsigned piece_chunks = static_cast<unsigned>(layout.rounds) * warps;  // a power of two
  const i64 chunks = (layout.n + kChunk - 1) / kChunk;
  // Units are fewer than 2^31: a division of 64 bits takes as long as a quarter of a load from memory.
  const unsigned pieces = static_cast<unsigned>((chunks + piece_chunks - 1) >> (31 - leading_zeros(piece_chunks)));
  const unsigned units = static_cast<unsigned>(layout.rows) * pieces, step = static_cast<unsigned>(grid_blocks());
  const GlobalNodes workspace = GlobalNodes::by_word(args.workspace, units);

  if constexpr (kStage == 1 && kOutputs == 0) {
    const auto place = [&](i64 number, i64 piece) { return number * pieces + piece; };
    fold_rows(args, workspace, pieces, place, [&](i64 number, const Node& whole) {
      const Row row = row_at(args, number);
      RowContext context = row_context<Op>(args, row, number);
      Op::summarise(whole, context, true);
      write_values<Op>(row, whole, context, thread_index() % kWarp == 0);
    });
    return;
  }
  for (unsigned unit = static_cast<unsigned>(block_index()); unit < units; unit += step) {
    const unsigned number = unit / pieces;
    const Row row = row_at(args, number);
    RowContext context = row_context<Op>(args, row, number);
    const Stretch piece = {i64(unit - number * pieces) * piece_chunks * kChunk, layout.rounds};
    if constexpr (kStage == 0) {
      const ListedNodes nodes = nodes_of_stretch();
      reduce_stretch(args, row, piece, context, nodes);
      if (thread_index() == 0) workspace.store(unit, nodes.load(2 * warps), true);
    } else {
      const int count = static_cast<int>(pieces), groups = groups_of(count, kNodesEach);
      const FoldedNodes folded = FoldedNodes::behind(Span::bytes(block_threads() * kItems), groups);
      const Node whole = fold_in_block<kNodesEach>(count, workspace.from(i64(number) * pieces), groups, folded);
      Op::summarise(whole, context, piece.first == 0 && thread_index() < kWarp);
      write_stretch(args, row, piece, whole, context);
      write_values<Op>(row, whole, context, piece.first == 0 && thread_index() == 0);
    }
    if (unit + step < units) block_barrier();  // every warp has read the node
  }
}

}  // namespace csm
