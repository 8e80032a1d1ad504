// KeyTile: a chunk of one row as keys in the registers of kLanes lanes, laid out as in reduce/tile.cuh. It finds the
// best elements and moves them to a list (Picks); and the results of a row are written here. Used by all topk patterns.
#pragma once

#include "select/picks.cuh"
#include "reduce/tile.cuh"

namespace csm {

template <class Op>
class KeyTile {
 public:
  CSM_DEVICE KeyTile(i64 first, i64 n) : first_(first), left_(0) {
    const i64 more = n - first;
    length_ = static_cast<int>(more < kChunk ? more : kChunk);
  }

  CSM_DEVICE void read(const Arguments& args, const Row& row, const RowContext& context) {
#pragma unroll
    for (int v = 0; v < kItems / kVec; ++v) {
      const int place = place_of(v * kVec);
      const bool wanted = place < length_;
      Vec<In, kVec> got = {};
      if constexpr (kStaged<0>) {
        const int start = row.staged[0] + static_cast<int>(first_ * static_cast<i64>(sizeof(In)));
        if (wanted) got = Shared<Vec<In, kVec>>(start).load(place / kVec);
      } else {
        got = global_load(row.start[0] + element_offset<0>(args, first_ + place), wanted, got);
      }
#pragma unroll
      for (int i = 0; i < kVec; ++i) key_[v * kVec + i] = key_of(got.item[i], v * kVec + i, context);
      left_ |= wanted ? kVectorMask << (v * kVec) : 0u;
    }
  }

  // Sets the elements without reading: the one at each place of the chunk becomes get(place).
  template <class Get>
  CSM_DEVICE void fill(const RowContext& context, Get get) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      key_[i] = key_of(get(place_of(i)), i, context);
      left_ |= place_of(i) < length_ ? 1u << i : 0u;
    }
  }

  // The chunk's node, for operations with sums. Called before any element is taken.
  CSM_DEVICE Node reduce(const Arguments& args) const {
    if constexpr (kSums == 0) {
      return empty_node();
    } else {
      RowTile<Op> tile(0, length_);
      tile.fill([&](int i) { return Element{left_ >> i & 1 ? value_of(key_[i]) : negative_infinity()}; });
      return tile.reduce(row_context<Op>(args, Row{}, 0));
    }
  }

  // The best of this lane's remaining elements.
  CSM_DEVICE Local best() const {
    Key key = 0;
    int item = -1;
    // Backwards, so that of equal keys the first element is kept.
#pragma unroll
    for (int block = kItems - kMaxVec; block >= 0; block -= kMaxVec) {
      if (block * kLanes >= length_) continue;  // beyond the row's end for all lanes
#pragma unroll
      for (int i = block + kMaxVec - 1; i >= block; --i) {
        const bool better = (left_ >> i & 1) && key_[i] >= key;
        key = better ? key_[i] : key;
        item = better ? i : item;
      }
    }
    return item < 0 ? none<int>() : Local{key, place_of(item)};
  }

  // Removes what best() has found.
  CSM_DEVICE void take(Local found) { left_ &= ~(1u << (item_of(found.index) & 31)); }

  // The same element, by its index in the row.
  CSM_DEVICE Candidate in_row(Local found) const {
    return found.index < kChunk ? Candidate{found.key, first_ + found.index} : none<i64>();
  }

 private:
  static_assert(kItems <= 32, "left_ has a bit for each item");
  static constexpr unsigned kVectorMask = (1u << kVec) - 1;

  Key key_[kItems];
  i64 first_;
  int length_;     // elements of the row from the chunk's start on, at most kChunk; 0 or less if there are none
  unsigned left_;  // bit i is set if item i is an element of the row and has not been taken

  CSM_DEVICE Key key_of(In x, int item, const RowContext& context) const {
    const Place place = {first_ + thread_index() % kLanes * kVec, item / kVec * (kLanes * kVec) + item % kVec};
    return Order<Compared>::key(Op::compared(x, place, context));
  }
  CSM_DEVICE static int place_of(int item) {
    return item / kVec * (kLanes * kVec) + thread_index() % kLanes * kVec + item % kVec;
  }
  CSM_DEVICE static int item_of(int place) { return place / (kLanes * kVec) * kVec + place % kVec; }
};

// Takes the k best elements of a chunk that is a whole row, one after the other. For few lanes: after each, the lane
// that had it searches its elements again.
template <class Op>
CSM_DEVICE Picks pick_one_by_one(KeyTile<Op>& tile, int k) {
  Picks picks;
  Local mine = tile.best();
  for (int p = 0; p < k; ++p) {
    const Local best = best_of_lanes(mine);
    picks.set(p, tile.in_row(best));
    if (mine.index == best.index) {
      tile.take(mine);
      mine = tile.best();
    }
  }
  return picks;
}

// Merges a chunk into `picks`, of which the best k count. A whole warp calls it. In each round every lane offers its
// best element, if it is better than the k-th of the list. The first chunk of a row takes a few rounds; a later one
// seldom takes any, since few elements are better than the k-th so far.
template <class Op>
CSM_DEVICE void pick_into(Picks& picks, KeyTile<Op>& tile, int k) {
  static_assert(kLanes == kWarp || sizeof(Op) == 0, "a whole warp");
  Candidate floor = picks.get(k - 1);
  Local mine = tile.best();
  for (;;) {
    const bool offers = above(tile.in_row(mine), floor);
    if (!any_lane(offers)) break;
    const Local sorted = sorted_over_lanes(offers ? mine : none<int>());
    Picks fresh;
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int place = Picks::place_of(s), from = place % kLanes;
      const Local found = {shuffle(sorted.key, from, kLanes), shuffle(sorted.index, from, kLanes)};
      fresh.slot(s) = place < kLanes ? tile.in_row(found) : none<i64>();
    }
    picks.merge(fresh);
    floor = picks.get(k - 1);
    if (offers) {
      tile.take(mine);
      mine = tile.best();
    }
  }
}

constexpr int kLast = kOperands - 1;  // the indices

// Writes the results of an operation that has indices alone.
template <class Op>
CSM_DEVICE void write_indices(const Arguments& args, const Row& row, const Picks& picks, bool wanted) {
  const Layout& layout = args.layout;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const i64 place = Picks::place_of(s);
    const bool there = wanted && place < layout.option[kSelected];
    global_store(row.start[kLast] + place * layout.reduce_stride[kLast][0], Type<kLast>(Op::index(picks.slot(s))),
                 there);
  }
}

// Calls put(place, value, index, whether the lane has this pick) for the picks. `whole` is the row's node, if the
// operation sums over the row; else the sum is that of the picks.
template <class Op, class Put>
CSM_DEVICE void put_values_and_indices(const Arguments& args, const Picks& picks, const Node& whole, bool wanted,
                                       Put put) {
  const Layout& layout = args.layout;
  const Acc m = kSums > 0 ? whole.m.hi : value_of(picks.get(0).key);
  const Reference reference = reference_of(as_double_word(m));
  Acc term[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    term[s] = Picks::place_of(s) < layout.option[kSelected] ? Op::term(value_of(picks.slot(s).key), reference) : Acc(0);
  }
  DoubleWord sum = whole.s[0];
  if constexpr (kSums == 0) {
    sum = as_double_word(term[0]);
#pragma unroll
    for (int s = 1; s < kSlots; ++s) sum = add(sum, term[s]);
#pragma unroll
    for (int mask = 1; mask < kLanes; mask *= 2) sum = add(sum, shuffle_xor(sum, mask, kLanes));
  }
  const typename Op::Scale scale = Op::scale(sum);
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    const int place = Picks::place_of(s);
    put(place, narrow<Type<1>>(Op::value(term[s], scale)), Type<kLast>(picks.slot(s).index),
        wanted && place < layout.option[kSelected]);
  }
}

template <class Op>
CSM_DEVICE void write_picks(const Arguments& args, const Row& row, const Picks& picks, const Node& whole, bool wanted) {
  if constexpr (kRowOutputs == 1) {
    write_indices<Op>(args, row, picks, wanted);
  } else {
    const Layout& layout = args.layout;
    put_values_and_indices<Op>(args, picks, whole, wanted,
                               [&](i64 place, Type<1> value, Type<kLast> index, bool there) {
                                 global_store(row.start[1] + place * layout.reduce_stride[1][0], value, there);
                                 global_store(row.start[kLast] + place * layout.reduce_stride[kLast][0], index, there);
                               });
  }
}

}  // namespace csm
