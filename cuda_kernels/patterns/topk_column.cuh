// topk_column: selects the k largest elements of rows that run down a strided axis and lie side by side in memory.
//
// Thread: holds kItems elements of a chunk. Each element is read from global memory once.
// Warp: takes the chunks of one row from shared memory, one at a time, and selects as in topk_block.
// Block: takes as many neighbouring rows as it has warps, chunk after chunk: all its threads read one chunk of all
// these rows, in the order in which they lie in memory, into shared memory.
//
//   stage 0   a block passes over its rows from end to end;
//   stage 1   few rows, first of two launches: a block takes one piece of them, layout.rounds chunks (a power of two),
//             and writes the list and the node of each row's piece to the workspace;
//   stage 2   a block merges the lists of one row and folds its nodes.
//
// Shared memory: a chunk for each warp, kPitch elements apart; in stage 2 a list for each warp.
// Barriers: one after a chunk has been stored, one after it has been taken and before the next is stored.
#pragma once

#include "select/pick_stretch.cuh"

namespace csm {

// Chunks of neighbouring rows are not a power of two apart but four elements more: a warp stores to several rows at
// once, and so meets few bank conflicts.
constexpr int kPitch = kChunk + 4;
static_assert(kPitch == CSM_PITCH, "the host spaces the staged rows otherwise");
constexpr int kLoadsInFlight = kItems < 16 ? kItems : 16;  // elements that a thread reads before it stores them

CSM_DEVICE void run(const Arguments& args) {
  const Layout& layout = args.layout;
  const int warp = thread_index() / kWarp, warps = block_threads() / kWarp,
            k = static_cast<int>(layout.option[kSelected]);
  const i64 piece_length = kStage == 0 ? layout.n : kChunk * layout.rounds;
  const i64 pieces = (layout.n + piece_length - 1) / piece_length;
  const GlobalPicks workspace(args.workspace, layout.rows * pieces, k);
  if constexpr (kStage == 2) {
    fold_lists<Op>(args, workspace, pieces);
    return;
  }
  const Shared<In> staged(0);
  const i64 units = (layout.rows + warps - 1) / warps * pieces;
  for (i64 unit = block_index(); unit < units; unit += grid_blocks()) {
    const i64 first_row = unit / pieces * warps, piece = unit % pieces;
    // A thread reads elements of row first_row + column, but then selects from the row of its warp.
    const int column = thread_index() % warps;
    const bool present = first_row + column < layout.rows;
    const Row from = row_at(args, present ? first_row + column : first_row);
    const i64 number = first_row + warp, length = number < layout.rows ? layout.n : 0;
    const i64 first = piece * piece_length;
    const i64 end = first + piece_length < layout.n ? first + piece_length : layout.n;
    const RowContext context = row_context<Op>(args, from, number);
    Picks picks;
    TreeFold fold;
    for (i64 start = first; start < end; start += kChunk) {
#pragma unroll 1
      for (int part = 0; part < kChunk; part += kLoadsInFlight * kWarp) {
#pragma unroll
        for (int i = 0; i < kLoadsInFlight; ++i) {
          const int place = part + i * kWarp + thread_index() / warps;
          const bool wanted = present && start + place < layout.n;
          const char* at = from.start[0] + (start + place) * layout.reduce_stride[0][0];
          staged.store(column * kPitch + place, global_load(at, wanted, In{}));
        }
      }
      block_barrier();
      KeyTile<Op> tile(start, length);
      tile.fill(context, [&](int place) { return staged.load(warp * kPitch + place); });
      block_barrier();  // all of it has been read
      if constexpr (kSums > 0) fold.push(tile.reduce(args));
      pick_into(picks, tile, k, context);
    }
    const Node node = fold.result();
    if (number < layout.rows) {
      if constexpr (kStage == 0) {
        write_picks<Op>(args, row_at(args, number), picks, node, true);
      } else {
        workspace.store(number * pieces + piece, picks);
        if constexpr (kSums > 0) workspace.nodes().store(number * pieces + piece, node, thread_index() % kWarp == 0);
      }
    }
  }
}

}  // namespace csm
