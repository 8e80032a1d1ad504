// block: a row on the chip, in one block or in a cluster of kCluster blocks.
//
// A thread holds kItems elements of a chunk in registers, and with kParks those of further chunks in shared memory. A
// warp reads and reduces one chunk at a time, by shuffles. A block exchanges its chunks' nodes through shared memory, a
// cluster through the shared memory of every member; then the nodes are folded, up to 32 of them by each warp for
// itself, and each warp writes its chunks. One block barrier a row, two with more than 32 chunks; in a cluster also two
// cluster barriers, the first of them spread around the reading.
//
// Shared memory: a node for each chunk that the row has, and one for each 32 of more than 32; then the parked chunks.
// An operation with values of a row alone parks nothing.
#pragma once

#include "reduce/fold.cuh"
#include "reduce/tile.cuh"

namespace csm {

// Whether a thread has no register to spare: where it holds the most words and takes exponentials. Rows of several
// dimensions have smaller blocks, and so more registers.
constexpr bool kShortOfRegisters = kMaximum && kRowDims == 1 && kHeld * kItems * sizeof(Acc) >= 128;

CSM_DEVICE void run(const Arguments& args) {
  using Tile = RowTile<Op>;
  const Layout& layout = args.layout;
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp, warps = block_threads() / kWarp;
  const int chunks = static_cast<int>((layout.n + kChunk - 1) / kChunk);
  const int mine = (kCluster > 1 ? cluster_rank() : 0) * warps + warp;  // the chunk that stays in registers
  const int step = warps * kCluster;
  const int groups = chunks > kWarp ? (chunks + kWarp - 1) / kWarp : 0;
  const SharedNodes nodes(0, chunks);
  const SharedNodes of_groups(kNodeWords * chunks * static_cast<int>(sizeof(Acc)), groups);
  const auto slot = [&](int chunk) {
    return Shared<Acc>(
        static_cast<int>(sizeof(Acc)) *
        (kNodeWords * (chunks + groups) + ((chunk - mine) / step - 1) * warps * Tile::kParked + warp * Tile::kParked));
  };
  const auto publish = [&](int chunk, Node node) {
    if constexpr (kCluster > 1) {
      const int lane = (kShortOfRegisters ? reread_thread_index() : thread_index()) % kWarp;
      if (lane < kCluster) nodes.store_remote(chunk, node, lane);
    } else {
      if (lane == 0) nodes.store(chunk, node);
    }
  };

  const i64 first_row = block_index() / kCluster;
  for (i64 number = first_row; number < layout.rows; number += grid_blocks() / kCluster) {
    const Row row = row_at(args, number);
    const Given given = given_of<Op>(args, row, number);
    // Before nodes are written, every block that they go to must live and have read the last row's.
    if constexpr (kCluster > 1) cluster_arrive();
    const auto ready = [&] {
      if constexpr (kCluster > 1) cluster_wait();
      else if (number != first_row) block_barrier();
    };

    if constexpr (kParks) {
      ready();
      for (int chunk = mine + step; chunk < chunks; chunk += step) {
        Tile tile(chunk * i64(kChunk), layout.n);
        tile.read(args, row, given);
        publish(chunk, tile.reduce(given));
        tile.park(slot(chunk));
      }
    }
    Tile tile(mine * i64(kChunk), layout.n);
    tile.read(args, row, given);
    const Node node = tile.reduce(given);
    if constexpr (!kParks) ready();
    if (mine < chunks) publish(mine, node);

    if constexpr (kCluster > 1) {
      cluster_arrive();
      cluster_wait();
    } else {
      block_barrier();
    }
    const Node whole = fold_in_block(chunks, nodes, of_groups);
    tile.write(args, row, Op::scale(node.m, whole, given));
    write_values<Op>(row, whole, given, mine == 0 && lane == 0);
    if constexpr (kParks) {
      for (int chunk = mine + step; chunk < chunks; chunk += step) {
        Tile parked(chunk * i64(kChunk), layout.n);
        parked.unpark(slot(chunk));
        parked.write(args, row, Op::scale(nodes.load(chunk).m, whole, given));
      }
    }
  }
}

}  // namespace csm
