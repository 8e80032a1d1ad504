// stream: a row longer than the chip can hold; one block passes over it twice.
//
// Thread: holds kItems elements of a chunk.
// Warp: reduces one chunk at a time to a node.
// Block: takes a round at a time, as many neighbouring chunks as it has warps. In the first pass warp 0 folds the nodes
// of each round as they come. The second pass goes from the last round to the first, because the cache holds the last
// elements: each chunk is read again and its results are written. Values of a row are known after the first pass.
//
// With kParks, for rows of fewer than 2^31 elements, the block keeps what it can: the first round in registers, which
// is read last and written first, and layout.passes chunks after it in shared memory, which are read first and written
// last. What is read again is what was read last before, and caches are told not to keep the rest. The nodes of all
// chunks are folded as in the block pattern.
//
// Shared memory: as reduce_stretch needs (reduce/stretch.cuh); with kParks a span, a node for each chunk, for each
// group of 64 and for the row, then the parked chunks. Barriers: one each round of the first pass, before warp 0 reads
// the round's nodes, and one at its end, before all warps read the row's node, and with kParks as in the block pattern;
// and those of staged spans.
#pragma once

#include "reduce/stretch.cuh"

namespace csm {

// The same with kParks.
CSM_DEVICE void run_keeping(const Arguments& args) {
  using Tile = RowTile<Op, kLanes, kItems, kStagedVec, int, kStages>;
  const Layout& layout = args.layout;
  static_assert(Tile::kParkedWords == CSM_PARKED_WORDS, "the host counts the words of a parked chunk otherwise");
  const int warps = block_threads() / kWarp;
  const int n = static_cast<int>(layout.n), kept = warps + static_cast<int>(layout.passes);  // chunks
  const int chunks = (n + (kChunk - 1)) / kChunk, rounds = (chunks + (warps - 1)) / warps,
            groups = groups_of(chunks, 2);
  const int nodes_at = Span::bytes(block_threads() * kItems);
  const int parked_at = nodes_at + ListedNodes::bytes(chunks + groups + 1);
  const ListedNodes nodes(nodes_at);
  const FoldedNodes folded = FoldedNodes::behind(nodes_at + ListedNodes::bytes(chunks), groups);
  const auto slot = [&](int chunk) {
    return Shared<Acc>(parked_at + (chunk - warps) * (Tile::kParkedWords * static_cast<int>(sizeof(Acc))));
  };
  for (i64 number = block_index(); number < layout.rows; number += grid_blocks()) {
    Row row = row_at(args, number);
    RowContext context = row_context<Op>(args, row, number);
    Tile tile(0, 0);
#pragma unroll 1
    for (int step = 1; step <= rounds; ++step) {
      const int round = step < rounds ? step : 0;
      const int warp = static_cast<int>(reread_thread_index() / kWarp), lane = thread_index() % kWarp,
                chunk = round * warps + warp;
      read_round(args, row, i64(round * warps) * kChunk, step == 1);
      tile = Tile(chunk * kChunk, n);
      tile.read(args, row, context, chunk < kept);
      const Node node = tile.reduce(context);
      if (lane == 0 && chunk < chunks) nodes.store(chunk, node);
      if (chunk >= warps && chunk < kept) tile.park(slot(chunk));
      if constexpr (kStages) block_barrier();
    }
    block_barrier();
    const Node whole = fold_in_block<2>(chunks, nodes, groups, folded);
    Op::summarise(whole, context, thread_index() < kWarp);
    const typename Op::Scale alike = Op::scale(empty_node().m, whole, context);  // of all chunks, without a maximum
#pragma unroll 1
    for (int step = rounds; step > 0; --step) {
      const int round = step < rounds ? step : 0;
      const int warp = static_cast<int>(reread_thread_index() / kWarp), lane = thread_index() % kWarp,
                chunk = round * warps + warp;
      const i64 first = i64(round * warps) * kChunk;
      if constexpr (kStages) {
        if ((round + 1) * warps <= kept) span_of_round(args, row, first).set_places(row, warp * kChunk);
        else read_round(args, row, first, true);
      }
      if (step < rounds) {
        tile = Tile(chunk * kChunk, n);
        if (chunk < kept) {
          tile.unpark(slot(chunk));
        } else {
          tile.read(args, row, context);
          tile.prepare(context);
        }
      }
      if constexpr (kStages) block_barrier();
      if constexpr (kMaximum) {  // loaded by the lane that stores the next row's node there
        const DoubleWord m = shuffle(nodes.load(chunk, lane == 0 && chunk < chunks), 0, kWarp).m;
        tile.write(args, row, Op::scale(m, whole, context));
      } else {
        tile.write(args, row, alike);
      }
      if constexpr (kStages) {
        Span::results_barrier();
        span_of_round(args, row, first).write();
      }
    }
    write_values<Op>(row, whole, context, thread_index() == 0);
  }
}

CSM_DEVICE void run(const Arguments& args) {
  if constexpr (kParks) return run_keeping(args);
  const Layout& layout = args.layout;
  const int warps = block_threads() / kWarp;
  const i64 round_length = i64(kChunk) * warps;
  const Stretch whole_row = {0, (layout.n + round_length - 1) / round_length};
  const ListedNodes nodes = nodes_of_stretch();
  for (i64 number = block_index(); number < layout.rows; number += grid_blocks()) {
    const Row row = row_at(args, number);
    RowContext context = row_context<Op>(args, row, number);
    reduce_stretch(args, row, whole_row, context, nodes);
    const Node whole = nodes.load(2 * warps);
    Op::summarise(whole, context, thread_index() < kWarp);
    if constexpr (kOutputs > 0) write_stretch(args, row, whole_row, whole, context);
    write_values<Op>(row, whole, context, thread_index() == 0);
  }
}

}  // namespace csm
