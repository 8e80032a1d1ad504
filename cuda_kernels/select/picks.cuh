// The largest elements of a set, in the registers of the kLanes lanes that share a row.
//
// Elements are ordered by key, the larger first, and equal keys by index, the smaller first. No two are equal in that
// order, so the best k of a set are the same whoever picks them, in whatever parts.
#pragma once

#include "select/keys.cuh"

namespace csm {

// An element, by its index in the row or, among those of one chunk, by its place there.
template <class Index>
struct Ranked {
  Key key;
  Index index;
};
using Local = Ranked<int>;
using Candidate = Ranked<i64>;

// Below every element: no element at all.
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

// Of the two, the better one if `better`, else the other one.
template <class Index>
CSM_DEVICE Ranked<Index> chosen(Ranked<Index> mine, Ranked<Index> other, bool better) {
  return above(other, mine) == better ? other : mine;
}

// The best of one element a lane, in all lanes.
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

// A sorted list of kPicks places, the best first: place p is with lane p / kSlots as its slot p % kSlots. Places that
// nothing was picked for hold none().
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

  // What is at a place, in all lanes.
  CSM_DEVICE Candidate get(int place) const {
    // Every slot is asked for, and then one answer taken: a register cannot be chosen by its number.
    Candidate found = from_lane(at_[0], place / kSlots);
#pragma unroll
    for (int s = 1; s < kSlots; ++s) {
      const Candidate other = from_lane(at_[s], place / kSlots);
      if (place % kSlots == s) found = other;
    }
    return found;
  }

  // The best of both lists. Against the other one in reverse, the better of each pair of places are the best of all, in
  // an order that rises once and falls once: a bitonic merge sorts them.
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
