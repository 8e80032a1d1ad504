// block: a row is held on the chip, by one block or by a cluster of kCluster blocks.
//
// Thread: holds kItems elements of one chunk, or of two neighbouring ones (kTiles), in registers and, with kParks,
// those of further chunks in shared memory. Warp: reads a chunk (32 · kItems elements) at a time, or kTiles of them,
// and reduces it by shuffles to a node; it takes every (warps · kCluster)-th chunk of the row. When the row's node is
// known, it writes the chunks it has read. Block: its warps publish the nodes of their chunks in shared memory, in a
// cluster in that of every block. Then the first warp folds all nodes of the row: up to 64 nodes by itself, more of
// them after all warps have folded groups of 64.
//
// Shared memory: where operands are staged, a span of a chunk for each warp (reduce/span.cuh); a node for each chunk of
// the row; if there are more than 64, a node for each group of 64; the node of the row; then the parked chunks. The
// nodes of groups and of the row may take the places of chunks' nodes instead (kMayStoreOver). An operation that writes
// only values of a row parks nothing.
//
// Barriers in one block, for each row: one after the nodes are published, before they are folded; one more inside the
// fold if there are groups; one after it, after which the next row's nodes may be published; with parked chunks, whose
// nodes are loaded again, one more between two rows. In a cluster, a cluster barrier takes the place of the first, and
// there is one more between any two rows, so that no node is overwritten before every block has folded it. That one
// also makes sure that every block has started before another block writes to its memory; without parked chunks its two
// halves lie before and after the reading of a row, which hides its latency. Spans have the barriers that they ask for
// besides.
#pragma once

#include "reduce/fold.cuh"
#include "reduce/span.cuh"
#include "reduce/tile.cuh"

namespace csm {

// Whether a thread has no register to spare: where it holds the most words and takes exponentials. Rows of several
// dimensions have smaller blocks, and so more registers.
constexpr bool kShortOfRegisters = kMaximum && kRowDims == 1 && kRegisterInputs * kItems * sizeof(Acc) >= 128;

CSM_DEVICE void run(const Arguments& args) {
  using Tile = RowTile<Op, kLanes, kItems, kStagedVec, int, kStages>;
  using Span = SpanOf<kItems * kTiles>;
  static_assert(kTiles == 1 || (kStages && !kParks && kFirstItems == kItems));
  const Layout& layout = args.layout;
  static_assert(Tile::kParkedWords == CSM_PARKED_WORDS, "the host counts the words of a parked chunk otherwise");
  // One lane says which warp it is: the compiler then knows that conditions on it hold in all lanes or in none.
  const int warp = shuffle(thread_index() / kWarp, 0, kWarp), lane = thread_index() % kWarp,
            warps = block_threads() / kWarp;
  const int n = static_cast<int>(layout.n);  // a row that fits on the chip
  const int chunks = static_cast<int>((n + (kChunk - 1u)) / kChunk);
  // The first chunk kept in registers.
  const int mine = ((kCluster > 1 ? cluster_rank() : 0) * warps + warp) * kTiles;
  const int step = warps * kCluster;
  // One block without parked chunks has as many warps as the row has chunks at least, and so 32 chunks at most.
  constexpr bool kGroups = kCluster > 1 || kParks;
  constexpr int kEach = kGroups ? 2 : 1;
  const int groups = kGroups ? groups_of(chunks, kEach) : 0;
  constexpr bool kMayIdle = kCluster > 1 && !kParks;  // warps may have no chunk: the last of the last blocks
  const int room = block_threads() * kItems * kTiles, nodes_at = Span::bytes(room);
  const ListedNodes nodes(nodes_at);
  // Of float64, whose parked chunks need all of the shared memory, the nodes of groups and of the row are stored over
  // nodes that are not needed again: a block loads only those of its own chunks a second time. Chunk c is block
  // (c % step) / warps's, so where a group is a multiple of `step`, chunks `other` and `other` + 1 of each are not.
  constexpr int kGroup = kWarp * kEach;
  constexpr bool kMayStoreOver = kCluster > 1 && kParks && !kSingle;
  const bool power = (step & (step - 1)) == 0 && step <= kGroup, whole_groups = chunks % kGroup == 0;
  const bool over = kMayStoreOver && groups > 0 && warps > 1 && power && whole_groups;
  FoldedNodes folded = FoldedNodes::behind(nodes_at + ListedNodes::bytes(chunks), groups);
  if (over) {
    const int other = cluster_rank() == 0 ? warps : 0, at = nodes_at + ListedNodes::bytes(other);
    folded = {ListedNodes(at, kGroup), ListedNodes(at + ListedNodes::bytes(1)), other / kEach};
  }
  const int stored = over ? chunks : chunks + groups + 1;
  const auto slot = [&](int number) {  // of this warp's number-th parked chunk
    return Shared<Acc>(nodes_at + ListedNodes::bytes(stored) +
                       static_cast<int>(sizeof(Acc)) * (number * warps + warp) * Tile::kParkedWords);
  };
  const auto reread_lane = [] {
    return static_cast<int>((kShortOfRegisters ? reread_thread_index() : thread_index()) % kWarp);
  };
  // Stores a chunk's node in every block: that of a lane's tile.
  const auto publish = [&](int chunk, Node node) {
    const int own = kCluster > 1 ? reread_lane() : lane, to = kTiles > 1 ? Tile::lane_of_tile(own) : own;
    if (to >= kCluster || (kTiles > 1 && chunk >= chunks)) return;
    if constexpr (kCluster > 1) nodes.store_remote(chunk, node, to);
    else nodes.store(chunk, node);
  };

  const i64 first_row = block_index() / kCluster;
  for (i64 number = first_row; number < layout.rows; number += grid_blocks() / kCluster) {
    Row row = row_at(args, number);
    // The span of the warps' chunks, of which `chunk` is this warp's first. No chunk is in it if the row ends before.
    const auto span_of = [&](int chunk) {
      const int first = (chunk - warp * kTiles) * kChunk, left = n - first;
      return Span(row, first, left < room ? left : room, room);
    };
    const auto stage = [&](int chunk) {
      if constexpr (!kStages) return;
      const Span span = span_of(chunk);
      block_barrier();  // the first time too: to ask takes longer
      span.read();
      const int at = kParks ? reread_lane() : lane;
      if (!kGroups || chunk < chunks) span.pad<Op>(at, kWarp, (warp + 1) * kTiles * kChunk);
      block_barrier();
      span.set_places(row, warp * kTiles * kChunk);
    };
    const auto write = [&](Tile& tile, int chunk, const typename Op::Scale& scale) {
      if constexpr (kStages) span_of(chunk).set_places(row, warp * kChunk);
      tile.write(args, row, scale);
      if constexpr (kStages) {
        Span::results_barrier();
        span_of(chunk).write();
      }
    };
    RowContext context = row_context<Op>(args, row, number);
    // `ready` returns when nodes may be written: every block they go to has started and has folded the last row's
    // nodes.
    if constexpr (kCluster > 1) cluster_arrive();
    const auto ready = [&] {
      if constexpr (kCluster > 1) cluster_wait();
      else if (kParks && !kStages && number != first_row) block_barrier();  // a staged span has had one
    };

    if constexpr (kParks) {
      ready();
      // Barriers of a staged span are reached by warps that have no chunk in it too.
      for (int chunk = mine + step, parked = 0; chunk - (kStages ? warp : 0) < chunks; chunk += step, ++parked) {
        stage(chunk);
        if (kStages && chunk >= chunks) break;
        Tile tile(chunk * kChunk, n);
        tile.read(args, row, context);
        const Node node = tile.reduce(context);
        publish(chunk, node);
        tile.park(slot(parked));
      }
    }
    stage(mine);
    Tile tile[kTiles];
    Node node = empty_node();
    DoubleWord maxima[kTiles];
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {
      tile[k].place((mine + k) * kChunk, n);
      maxima[k] = node.m;
    }
    if (!kMayIdle || mine < chunks) {
#pragma unroll
      for (int k = 0; k < kTiles; ++k) {
        if (k > 0) span_of(mine).set_places(row, (warp * kTiles + k) * kChunk);
        tile[k].read(args, row, context);
      }
      node = Tile::reduce_tiles(tile, context, maxima);
    }
    if constexpr (!kParks) ready();
    if (mine < chunks) publish(kTiles > 1 ? mine + Tile::has_second() : mine, node);

    if constexpr (kCluster > 1) {
      cluster_arrive();
      cluster_wait();
    } else {
      block_barrier();
    }
    const Node whole = fold_in_block<kEach>(chunks, nodes, groups, folded);
    Op::summarise(whole, context, mine == 0);
    const typename Op::Scale scale = Op::scale(maxima[0], whole, context);
    if constexpr (kTiles == 1) {
      write(tile[0], mine, scale);
    } else {
#pragma unroll
      for (int k = 0; k < kTiles; ++k) {
        span_of(mine).set_places(row, (warp * kTiles + k) * kChunk);
        if (!kMaximum || k == 0) tile[k].write(args, row, scale);
        else tile[k].write(args, row, Op::scale(maxima[k], whole, context));
      }
      Span::results_barrier();
      span_of(mine).write();
    }
    write_values<Op>(row, whole, context, mine == 0 && lane == 0);
    if constexpr (kParks) {
      for (int chunk = mine + step, parked = 0; chunk - (kStages ? warp : 0) < chunks; chunk += step, ++parked) {
        if constexpr (kStages) block_barrier();
        Tile kept(chunk * kChunk, n);
        if (chunk < chunks) kept.unpark(slot(parked));
        if constexpr (!kMaximum) write(kept, chunk, scale);
        else write(kept, chunk, Op::scale(chunk < chunks ? nodes.load(chunk).m : maxima[0], whole, context));
      }
    }
  }
}

}  // namespace csm
