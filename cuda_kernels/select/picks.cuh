// Picks: a sorted list of the best elements of a set, in the registers of the kLanes lanes that share a row. With it
// sorting over lanes and the merge of two lists. Used by all topk patterns.
//
// Better means a larger key or, of equal keys, a smaller index. No two elements are equal in that order, so the best k
// of a set are the same whichever threads pick them and however the set is divided.
#pragma once

#include "select/keys.cuh"

namespace csm {

constexpr int kSelected = option_named("k");  // the option that says how many elements are selected

// A key and where it is: its index in the row (Candidate), or its place in a chunk (Local).
template <class Index>
struct Ranked {
  Key key;
  Index index;
};
using Local = Ranked<int>;
using Candidate = Ranked<i64>;

// No element. Every element is better.
template <class Index>
CSM_DEVICE Ranked<Index> none() {
  constexpr Index kLast = sizeof(Index) == 4 ? static_cast<Index>(0x7fffffff) : static_cast<Index>(~0ull >> 1);
  return {Key(0), kLast};
}

template <class Index>
CSM_DEVICE bool above(Ranked<Index> a, Ranked<Index> b) {
  return a.key > b.key || (a.key == b.key && a.index < b.index);
}

template <class Index>
CSM_DEVICE Ranked<Index> exchange(Ranked<Index> a, int lane_mask) {
  return {shuffle_xor(a.key, lane_mask, kLanes), shuffle_xor(a.index, lane_mask, kLanes)};
}

template <class Index>
CSM_DEVICE Ranked<Index> from_lane(Ranked<Index> a, int lane) {
  return {shuffle(a.key, lane, kLanes), shuffle(a.index, lane, kLanes)};
}

// The better of two elements if `better`, else the other.
template <class Index>
CSM_DEVICE Ranked<Index> chosen(Ranked<Index> mine, Ranked<Index> other, bool better) {
  return above(other, mine) == better ? other : mine;
}

// The best of one element a lane, returned in all lanes.
CSM_DEVICE Local best_of_lanes(Local mine) {
#pragma unroll
  for (int mask = 1; mask < kLanes; mask *= 2) mine = chosen(mine, exchange(mine, mask), true);
  return mine;
}

// One element a lane, sorted over the lanes, the best first: Batcher's bitonic sort.
CSM_DEVICE Local sorted_over_lanes(Local mine) {
  const int lane = thread_index() % kLanes;
#pragma unroll
  for (int size = 2; size <= kLanes; size *= 2) {
#pragma unroll
    for (int mask = size / 2; mask >= 1; mask /= 2) {
      mine = chosen(mine, exchange(mine, mask), ((lane & mask) == 0) == ((lane & size) == 0));
    }
  }
  return mine;
}

// A sorted list of kPicks places, the best element first. Place p is slot p % kSlots of lane p / kSlots. Empty places
// hold none().
constexpr int kPicks = kLanes * kSlots;

class Picks {
 public:
  CSM_DEVICE Picks() {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) at_[s] = none<i64>();
  }

  CSM_DEVICE static int place_of(int slot) { return thread_index() % kLanes * kSlots + slot; }
  CSM_DEVICE Candidate& slot(int s) { return at_[s]; }
  CSM_DEVICE const Candidate& slot(int s) const { return at_[s]; }

  CSM_DEVICE void set(int place, Candidate candidate) {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      if (place_of(s) == place) at_[s] = candidate;
    }
  }

  // The element at a place, returned in all lanes.
  CSM_DEVICE Candidate get(int place) const {
    // Shuffles every slot and selects one of the results: registers cannot be indexed at run time.
    Candidate found = from_lane(at_[0], place / kSlots);
#pragma unroll
    for (int s = 1; s < kSlots; ++s) {
      const Candidate other = from_lane(at_[s], place / kSlots);
      if (place % kSlots == s) found = other;
    }
    return found;
  }

  // Keeps the best of both lists. With the other list reversed, the better element of each pair of places is one of the
  // best of all; they form a bitonic sequence, which a bitonic merge sorts.
  CSM_DEVICE void merge(const Picks& other) {
    const int lane = thread_index() % kLanes;
    Candidate reversed[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) reversed[s] = exchange(other.at_[kSlots - 1 - s], kLanes - 1);
#pragma unroll
    for (int s = 0; s < kSlots; ++s) at_[s] = chosen(at_[s], reversed[s], true);
#pragma unroll
    for (int mask = kLanes / 2; mask >= 1; mask /= 2) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s) at_[s] = chosen(at_[s], exchange(at_[s], mask), (lane & mask) == 0);
    }
#pragma unroll
    for (int step = kSlots / 2; step >= 1; step /= 2) {
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        if (s & step) continue;
        const Candidate a = at_[s], b = at_[s + step];
        at_[s] = chosen(a, b, true);
        at_[s + step] = above(b, a) ? a : b;
      }
    }
  }

 private:
  Candidate at_[kSlots];
};

}  // namespace csm
