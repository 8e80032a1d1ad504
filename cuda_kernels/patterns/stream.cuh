// stream: a row longer than the chip holds, passed over twice by one block.
//
// A warp reduces one chunk of kChunk elements at a time, a block as many neighbouring chunks as it has warps (a power
// of two), a thread kItems elements of a chunk. First pass: warp 0 folds the chunks' nodes as they come, one barrier
// for each round of chunks. Second pass, last chunks first since the cache still holds them: each chunk is read and
// reduced to its maximum again, and written.
//
// Shared memory: nodes of two rounds, so that one is filled while the other is folded, and the row's.
#pragma once

#include "core/fold.cuh"
#include "core/tile.cuh"

namespace csm {

CSM_DEVICE void run(const Arguments& args) {
  using Tile = RowTile<Op>;
  const Layout& layout = args.layout;
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp, warps = block_threads() / kWarp;
  const i64 chunks = (layout.n + kChunk - 1) / kChunk;
  const i64 rounds = (chunks + warps - 1) / warps;
  const SharedNodes nodes(0, 2 * warps + 1);

  for (i64 number = block_index(); number < layout.rows; number += grid_blocks()) {
    const Row row = row_at(args, number);
    TreeFold<Op::kMaximum> fold;
    for (i64 round = 0; round < rounds; ++round) {
      const int buffer = static_cast<int>(round & 1) * warps;
      Tile tile((round * warps + warp) * kChunk, layout.n);
      tile.read(args, row);
      const Node node = tile.reduce();
      if (lane == 0) nodes.store(buffer + warp, node);
      block_barrier();
      // Warp 0 reads this buffer before the next barrier; it is filled again after that one.
      if (warp == 0) fold.push(fold_lanes<Op::kMaximum>(nodes.load(buffer + lane % warps), warps));
    }
    if (warp == 0) {
      const Node whole = fold.result();
      if (lane == 0) nodes.store(2 * warps, whole);
    }
    block_barrier();
    const Node whole = nodes.load(2 * warps);
    for (i64 round = rounds - 1; round >= 0; --round) {
      Tile tile((round * warps + warp) * kChunk, layout.n);
      tile.read(args, row);
      const Acc m = tile.prepare();
      tile.write(args, row, Op::scale(m, whole));
    }
  }
}

}  // namespace csm
