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

#include "reduce/subtrees.cuh"
#include "reduce/tile.cuh"

namespace csm {

CSM_DEVICE void reduce_piece(const Arguments& args) {
  const i64 rounds = args.layout.rounds, first = args.layout.option[kFirstElement], end = end_of_piece(args);
  const Subtrees nodes(args.workspace, args.layout.rows);
  each_chunk(args, rounds, [&](i64 number, bool present, const Row& row, const RowContext& context, i64 unit) {
    const Subtree found = subtree_of(rounds, first + unit * rounds * kChunk, end, [&](i64 at) {
      RowTile<Op> tile(at, present ? end : at);
      tile.read(args, row, context);
      return tile.reduce(context);
    });
    nodes.store(unit, number, found.node, found.level, present && thread_index() % kLanes == 0);
  });
}

// The nodes come in place of the first operand.
CSM_DEVICE void fold_nodes(const Arguments& args) {
  const Layout& layout = args.layout;
  const i64 warps = block_threads() / kWarp;
  const Subtrees from(args.operand[0], layout.rows), to(args.workspace, layout.rows);
  for (i64 row = block_index() * warps + thread_index() / kWarp; row < layout.rows; row += grid_blocks() * warps) {
    fold_subtrees(args, from, to, row);
  }
}

CSM_DEVICE void write_piece(const Arguments& args) {
  const i64 first = args.layout.option[kFirstElement], end = end_of_piece(args);
  const Subtrees nodes(args.workspace, args.layout.rows);
  each_chunk(args, 1, [&](i64 number, bool present, const Row& row, RowContext context, i64 unit) {
    const Node whole = nodes.load(0, number);
    Op::summarise(whole, context, true);
    const i64 start = first + unit * kChunk;
    RowTile<Op> tile(start, present ? end : start);
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
    const Node whole = nodes.load(0, number);
    RowContext context = row_context<Op>(args, row, number);
    Op::summarise(whole, context, true);
    write_values<Op>(row, whole, context, true);
  }
}

CSM_DEVICE void run(const Arguments& args) {
  if constexpr (kStage == 0) reduce_piece(args);
  else if constexpr (kStage == 1) fold_nodes(args);
  else if constexpr (kStage == 2) write_piece(args);
  else write_row_values(args);
}

}  // namespace csm
