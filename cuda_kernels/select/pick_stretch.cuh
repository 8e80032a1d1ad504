// One block picks the best elements of a stretch of a row of many chunks, and computes its node, in one pass. And the
// lists of several blocks are merged. Used by all topk patterns but topk_group.
//
// Each warp takes the same number of neighbouring chunks by itself, all of them one chunk at a time if the row is
// staged; then the warps merge their lists and nodes through shared memory. The chunks of a warp are a power of two, so
// they are a subtree of the fold; where several blocks share a row, so are those of a block.
#pragma once

#include "reduce/fold.cuh"
#include "reduce/span.cuh"
#include "select/key_tile.cuh"

namespace csm {

// Lists in shared memory, as one array of indices and one of keys: neighbouring lanes have no bank conflicts.
class SharedPicks {
 public:
  CSM_DEVICE SharedPicks(int offset, int lists)
      : index_(offset), key_(offset + lists * kPicks * static_cast<int>(sizeof(i64))) {}
  static constexpr int kBytes = kPicks * static_cast<int>(sizeof(i64) + sizeof(Key));  // bytes of a list

  CSM_DEVICE void store(int list, const Picks& picks) const {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      index_.store(at(list, s), picks.slot(s).index);
      key_.store(at(list, s), picks.slot(s).key);
    }
  }
  // Of one element each.
  CSM_DEVICE void store_one(int list, const Candidate& one) const {
    index_.store(list, one.index);
    key_.store(list, one.key);
  }
  CSM_DEVICE Candidate load_one(int list) const { return {key_.load(list), index_.load(list)}; }
  CSM_DEVICE Picks load(int list) const {
    Picks picks;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) picks.slot(s) = {key_.load(at(list, s)), index_.load(at(list, s))};
    return picks;
  }

 private:
  Shared<i64> index_;
  Shared<Key> key_;
  CSM_DEVICE static int at(int list, int slot) { return (list * kSlots + slot) * kLanes + thread_index() % kLanes; }
};

// The first k places of each of `lists` lists, and a node for each list: the workspace between two launches.
class GlobalPicks {
 public:
  CSM_DEVICE GlobalPicks(char* base, i64 lists, i64 k)
      : index_(base), node_(base + lists * k * 8), key_(base + lists * (k * 8 + kNodeBytes)), k_(k) {}

  CSM_DEVICE void store(i64 list, const Picks& picks) const {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int place = Picks::place_of(s);
      global_store(index_ + (list * k_ + place) * 8, picks.slot(s).index, place < k_);
      global_store(key_ + (list * k_ + place) * kKeyBytes, picks.slot(s).key, place < k_);
    }
  }
  CSM_DEVICE Picks load(i64 list) const {
    Picks picks;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int place = Picks::loaded_place(s);
      const Candidate otherwise = no_candidate();
      picks.slot(s).index = global_load(index_ + (list * k_ + place) * 8, place < k_, otherwise.index);
      picks.slot(s).key = global_load(key_ + (list * k_ + place) * kKeyBytes, place < k_, otherwise.key);
    }
    return picks;
  }
  CSM_DEVICE GlobalNodes nodes() const { return GlobalNodes(node_); }

 private:
  static constexpr i64 kNodeBytes = kSums > 0 ? kNodeWords * static_cast<i64>(sizeof(Acc)) : 0;
  static constexpr i64 kKeyBytes = sizeof(Key);
  char *index_, *node_, *key_;
  i64 k_;
};

static_assert(SharedPicks::kBytes + (kSums > 0 ? kNodeWords * static_cast<int>(sizeof(Acc)) : 0) == CSM_LIST_BYTES,
              "the host gives a list and its node another size");

// Merges the lists of a block's first warps into that of warp 0. The whole block calls it.
CSM_DEVICE void merge_warps(Picks& picks, const SharedPicks& lists, int warps) {
  const int warp = thread_index() / kWarp;
  if constexpr (kSelectsOne) {
    const int lane = thread_index() % kWarp;
    if (lane == 0) lists.store_one(warp, picks.slot(0));
    block_barrier();
    if (warp == 0) picks.slot(0) = best_over_lanes(lane < warps ? lists.load_one(lane) : no_candidate());
    return;
  }
  for (int step = 1; step < warps; step *= 2) {
    if (warp % (2 * step) == step) lists.store(warp, picks);
    block_barrier();
    if (warp % (2 * step) == 0 && warp + step < warps) picks.merge(lists.load(warp + step));
  }
}

// The best of `count` lists, of which load(i) returns one to all lanes of a warp, or its only element. Warp w takes
// every warps-th of them from w on, or of single elements each thread one; the result is valid in warp 0. The whole
// block calls it. Shared memory: a list for each warp.
template <class Load>
CSM_DEVICE Picks merge_lists(i64 count, Load load) {
  const int warp = thread_index() / kWarp, warps = block_threads() / kWarp;
  Picks picks;
  if constexpr (kSelectsOne) {
    Candidate& best = picks.slot(0);
    for (i64 list = thread_index(); list < count; list += block_threads())
      best = chosen(best, load(list).slot(0), true);
    best = best_over_lanes(best);
    if (count <= kWarp) return picks;
  } else {
    if (warp < count) picks = load(warp);
    for (i64 list = warp + warps; list < count; list += warps) picks.merge(load(list));
  }
  merge_warps(picks, SharedPicks(0, warps), warps);
  return picks;
}

// Picks from the elements of a row from `first` on, layout.rounds chunks for each warp. The results, `picks` and the
// returned node, are valid in warp 0. Shared memory: if the row is staged, a chunk for each warp; a list for each warp,
// then a node for each warp.
//
// `halves`: the first half of the warps take a chunk each, and pass it to the others, which compute the nodes
// meanwhile; the returned node is valid in the first of these. Shared memory behind the nodes: those chunks.
template <class Op>
CSM_DEVICE Node pick_stretch(const Arguments& args, Row row, i64 number, i64 first, Picks& picks, bool halves = false) {
  using WarpSpan = SpanOf<kItems, true>;
  const Layout& layout = args.layout;
  const RowContext context = row_context<Op>(args, row, number);
  const int lane = thread_index() % kWarp, warps = block_threads() / kWarp, sharing = halves ? warps / 2 : warps;
  const bool takes = thread_index() < sharing * kWarp;
  const int warp = thread_index() / kWarp - (takes ? 0 : sharing);
  const int lists_at = kStages ? warps * WarpSpan::bytes(kChunk) : 0;
  const SharedPicks lists(lists_at, warps);
  const SharedNodes nodes(lists_at + warps * SharedPicks::kBytes, warps);
  const int chunk_at = lists_at + warps * CSM_LIST_BYTES + warp * kChunk * static_cast<int>(sizeof(In));
  TreeFold fold;
  first += warp * layout.rounds * kChunk;
  for (i64 round = 0; round < layout.rounds && (kStages || halves || first + round * kChunk < layout.n); ++round) {
    const i64 start = first + round * kChunk, left = layout.n - start;
    if constexpr (kStages) {
      const WarpSpan span(row, start, !takes ? 0 : left < kChunk ? left : kChunk, kChunk);
      if (round > 0) block_barrier();
      span.read();
      block_barrier();
      span.set_places(row, -start);
    }
    KeyTile<Op> tile(start, layout.n);
    if (takes && left > 0) tile.read(args, row, context);
    if (halves) {
      if (takes && left > 0) tile.park(chunk_at);
      block_barrier();
      if (!takes && left > 0) tile.unpark(chunk_at);
    }
    if (left <= 0) continue;
    if constexpr (kSums > 0) {
      if (!halves || !takes) fold.push(tile.reduce(args));
    }
    if (takes) pick_into(picks, tile, static_cast<int>(layout.option[kSelected]), context);
  }
  if constexpr (kSums > 0) {
    const Node node = fold.result();
    if (lane == 0 && takes != halves) nodes.store(warp, node);
    block_barrier();
  }
  merge_warps(picks, lists, sharing);
  Node whole = empty_node();
  if constexpr (kSums > 0) {
    if (warp == 0 && takes != halves) {
      whole = fold_all(sharing, [&](i64 i, bool wanted) { return nodes.load(i, wanted); });
    }
  }
  return whole;
}

// One block a row: merges the row's `count` lists in the workspace, folds its nodes, and writes the results.
template <class Op>
CSM_DEVICE void fold_lists(const Arguments& args, const GlobalPicks& workspace, i64 count) {
  const Layout& layout = args.layout;
  for (i64 number = block_index(); number < layout.rows; number += grid_blocks()) {
    const auto nodes = [&](i64 i, bool wanted) { return workspace.nodes().load(number * count + i, wanted); };
    Node whole = empty_node();  // at first the node that this lane folds first: it comes while the lists do
    if (kSums > 0 && thread_index() < kWarp) {
      const int first =
          count < kWarp ? thread_index() & (power_not_below(static_cast<int>(count)) - 1) : thread_index();
      whole = nodes(first, first < count);
    }
    const Picks picks = merge_lists(count, [&](i64 list) { return workspace.load(number * count + list); });
    if (thread_index() < kWarp) {
      if constexpr (kSums > 0)
        whole = fold_all(count, [&](i64 i, bool wanted) { return i < kWarp ? whole : nodes(i, wanted); });
      write_picks<Op>(args, row_at(args, number), picks, whole, true);
    }
    if (number + grid_blocks() < layout.rows) block_barrier();  // the lists have been read
  }
}

}  // namespace csm
