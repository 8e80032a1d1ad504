// Picks: a sorted list of the best elements of a set, in the registers of the kLanes lanes that share a row. With it
// sorting over lanes and the merge of two lists. Used by all topk patterns.
//
// Better means a larger key or, of equal keys, a smaller index. No two elements are equal in that order, so the best k
// of a set are the same whichever threads pick them and however the set is divided.
#pragma once

#include "select/keys.cuh"

namespace csm {

constexpr int kSelected = option_named("k");    // the option that says how many elements are selected
constexpr bool kSelectsOne = kRowOutputs == 1;  // one element, of which the index alone is written

// A key and where it is: its index in the row (Candidate), or its place in a chunk (Local).
template <class Index>
struct Ranked {
  Key key;
  Index index;
};
using Candidate = Ranked<i64>;

// Both in one word, where one has room for both: of equal keys, the first place has the largest word.
struct Packed {
  using Word = NthType<(Order<Compared>::kFree > 0), u64, u32>::type;
  static constexpr int kShift = sizeof(Word) > 4 ? 32 : 0;
  static constexpr int kPlaces = 1 << 13;
  Word word;
};
using Local = NthType<(sizeof(Key) > 4), Packed, Ranked<int>>::type;

CSM_DEVICE void set_local(Packed& to, Key key, int place) {
  const Packed::Word shifted = Packed::Word(key) << Packed::kShift;
  to.word = (shifted & ~(Packed::Word(Packed::kPlaces) - 1)) | static_cast<unsigned>(Packed::kPlaces - 1 - place);
}
CSM_DEVICE void set_local(Ranked<int>& to, Key key, int place) { to = {key, place}; }
CSM_DEVICE Local local_at(Key key, int place) {
  Local local;
  set_local(local, key, place);
  return local;
}

CSM_DEVICE int place_of(Packed a) { return Packed::kPlaces - 1 - static_cast<int>(a.word % Packed::kPlaces); }
CSM_DEVICE int place_of(Ranked<int> a) { return a.index; }
CSM_DEVICE Key key_of(Packed a) {
  return static_cast<Key>((a.word & ~(Packed::Word(Packed::kPlaces) - 1)) >> Packed::kShift);
}
CSM_DEVICE Key key_of(Ranked<int> a) { return a.key; }
// Adds to the place of an element, which has none of these bits.
CSM_DEVICE Packed moved(Packed a, int by) { return {a.word & ~static_cast<Packed::Word>(by)}; }
CSM_DEVICE Ranked<int> moved(Ranked<int> a, int by) { return {a.key, a.index | by}; }

// No element. Every element is better.
CSM_DEVICE Candidate no_candidate() { return {Key(0), static_cast<i64>(~0ull >> 1)}; }
CSM_DEVICE Local no_local() { return local_at(Key(0), Packed::kPlaces - 1); }

template <class Index>
CSM_DEVICE bool above(Ranked<Index> a, Ranked<Index> b) {
  return a.key > b.key || (a.key == b.key && a.index < b.index);
}
CSM_DEVICE bool above(Packed a, Packed b) { return a.word > b.word; }

// A key and a place in a word that has room for a part of the key only.
struct Rough {
  u32 word;
};
CSM_DEVICE bool above(Rough a, Rough b) { return a.word > b.word; }
CSM_DEVICE Rough exchange(Rough a, int lane_mask) { return {shuffle_xor(a.word, lane_mask, kLanes)}; }
CSM_DEVICE Rough either(bool first, Rough a, Rough b) { return {first ? a.word : b.word}; }

template <class Index>
CSM_DEVICE Ranked<Index> from_lane(Ranked<Index> a, int lane) {
  return {shuffle(a.key, lane, kLanes), shuffle(a.index, lane, kLanes)};
}
CSM_DEVICE Packed from_lane(Packed a, int lane) { return {shuffle(a.word, lane, kLanes)}; }

template <class Index>
CSM_DEVICE Ranked<Index> exchange(Ranked<Index> a, int lane_mask) {
  return {shuffle_xor(a.key, lane_mask, kLanes), shuffle_xor(a.index, lane_mask, kLanes)};
}
CSM_DEVICE Packed exchange(Packed a, int lane_mask) { return {shuffle_xor(a.word, lane_mask, kLanes)}; }

// One of two elements, member by member: what the compiler copies of Ranked as a whole has bytes that nobody sets.
template <class Index>
CSM_DEVICE Ranked<Index> either(bool first, Ranked<Index> a, Ranked<Index> b) {
  return {first ? a.key : b.key, first ? a.index : b.index};
}
CSM_DEVICE Packed either(bool first, Packed a, Packed b) { return {first ? a.word : b.word}; }

// The better of two elements if `better`, else the other.
template <class Element>
CSM_DEVICE Element chosen(Element mine, Element other, bool better) {
  return either(above(other, mine) == better, other, mine);
}

// Puts the better of two elements first.
template <class Element>
CSM_DEVICE void put_in_order(Element& a, Element& b) {
  const Element first = a, second = b;
  const bool swap = above(second, first);
  a = swap ? second : first;
  b = swap ? first : second;
}

// Sorts the elements of a lane, the best first: Batcher's odd-even merge sort.
template <class Element, int kCount>
CSM_DEVICE void sort_in_lane(Element (&a)[kCount]) {
#pragma unroll
  for (int size = 1; size < kCount; size *= 2) {
#pragma unroll
    for (int step = size; step >= 1; step /= 2) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int start = step % size, j = i + step;
        const bool compared = i >= start && (i - start) / step % 2 == 0 && i / (2 * size) == j / (2 * size);
        if (compared && j < kCount) put_in_order(a[i], a[j < kCount ? j : i]);
      }
    }
  }
}

// Keeps the best of two lists, sorted: Batcher's odd-even merge, of which the compiler drops what only others need. The
// best of the others is given to `lose`.
struct Forget {
  template <class Element>
  CSM_DEVICE void operator()(Element) const {}
};
template <class Element, int kCount, class Lose = Forget>
CSM_DEVICE void merge_in_lane(Element (&a)[kCount], const Element (&b)[kCount], Lose lose = {}) {
  Element all[2 * kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) all[i] = a[i], all[kCount + i] = b[i];
#pragma unroll
  for (int step = kCount; step >= 1; step /= 2) {
#pragma unroll
    for (int i = 0; i < 2 * kCount; ++i) {
      const int j = i + step;
      if (j < 2 * kCount && (step == kCount || i / step % 2 == 1)) put_in_order(all[i], all[j < 2 * kCount ? j : i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) a[i] = all[i];
  lose(all[kCount]);
}

// Merges the sorted lists of all lanes into one, of which each lane keeps its part: kCount / kLanes places, those of
// lane 0 first. Of two lists of several lanes each, the second with its parts in reverse, the better element of each
// pair of places is one of the best of all; they form a bitonic sequence, which a bitonic merge sorts. Of the pairs of
// places, and of what is compared then, each lane has its share. The others are given to `lose`.
template <class Element, int kCount, class Lose = Forget>
CSM_DEVICE void merge_over_lanes(Element (&a)[kCount], Lose lose = {}) {
  const int lane = thread_index() % kLanes;
#pragma unroll
  for (int mask = kLanes / 2; mask >= 1; mask /= 2) {
    const int kept = kCount * mask / kLanes;
    const bool reverse = lane & mask / 2;  // for the next merge
    Element other[kCount];
    const auto keep_first = [&](int bit) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < kept) a[i] = chosen(a[i], other[i], ((lane & bit) == 0) != reverse);
      }
    };
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < kept) other[i] = exchange(a[2 * kept - 1 - i], mask);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i >= kept) continue;
      lose(chosen(a[i], other[i], false));
      a[i] = chosen(a[i], other[i], true);
    }
#pragma unroll
    for (int bit = kLanes / 2; bit > mask; bit /= 2) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i < kept) other[i] = exchange(a[i], bit);
      }
      keep_first(bit);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < kept) other[i] = exchange(a[kept - 1 - i], mask);
    }
    keep_first(mask);
#pragma unroll
    for (int step = kCount / 2; step >= 1; step /= 2) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (i + step < kept && !(i & step)) put_in_order(a[i], a[i | step]);
      }
    }
  }
}

// kCount elements a lane, sorted over the lanes, the best first: Batcher's bitonic sort.
template <int kCount>
CSM_DEVICE void sort_over_lanes(Local (&a)[kCount]) {
  const int first = thread_index() % kLanes * kCount;
#pragma unroll
  for (int size = 2; size <= kLanes * kCount; size *= 2) {
#pragma unroll
    for (int step = size / 2; step >= 1; step /= 2) {
      Local other[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) other[i] = step < kCount ? a[i ^ step] : exchange(a[i], step / kCount);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        a[i] = chosen(a[i], other[i], ((first + i & step) == 0) == ((first + i & size) == 0));
      }
    }
  }
}

// The best of the elements that lanes have, one each.
template <class Element>
CSM_DEVICE Element best_over_lanes(Element mine) {
#pragma unroll
  for (int mask = 1; mask < kLanes; mask *= 2) mine = chosen(mine, exchange(mine, mask), true);
  return mine;
}

// A sorted list of kPicks places, the best element first. Place p is slot p % kSlots of lane p / kSlots. Empty places
// hold none(). If one element is selected, slot 0 of every lane holds it, and of a list every lane loads the first.
constexpr int kPicks = kLanes * kSlots;

class Picks {
 public:
  CSM_DEVICE Picks() {
#pragma unroll
    for (int s = 0; s < kSlots; ++s) at_[s] = no_candidate();
  }

  CSM_DEVICE static int place_of(int slot) { return thread_index() % kLanes * kSlots + slot; }
  CSM_DEVICE static int loaded_place(int slot) { return kSelectsOne ? 0 : place_of(slot); }
  CSM_DEVICE Candidate& slot(int s) { return at_[s]; }
  CSM_DEVICE const Candidate& slot(int s) const { return at_[s]; }

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

  // Puts in an element, the same in all lanes. Of lists with a slot a lane.
  CSM_DEVICE void insert(Candidate one) {
    const int lane = thread_index() % kLanes;
    const Candidate before = from_lane(at_[0], (lane + kLanes - 1) % kLanes);
    if (above(one, at_[0])) at_[0] = either(lane == 0 || above(before, one), one, before);
  }

  // Keeps the best of both lists, as merge_over_lanes() does.
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
