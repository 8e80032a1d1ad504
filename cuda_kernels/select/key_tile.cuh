// KeyTile: a chunk of one row as keys in the registers of kLanes lanes, laid out as in reduce/tile.cuh. It finds the
// best elements and moves them to a list (Picks); and the results of a row are written here. Used by all topk patterns.
#pragma once

#include "numeric/philox.cuh"
#include "select/picks.cuh"
#include "reduce/tile.cuh"

namespace csm {

// Whether noise is formed of few elements: those for which the bound of Op::limit is not below the best so far.
constexpr bool kDraws = has(feature::noisy) && kSingle && kItems >= 8;

// Whether elements, of 16 bits, are held two in a word, as they are read: their keys are made together.
constexpr bool kHoldsPairs = kSixteenBits<In> && kSingle && !has(feature::noisy);
static_assert(!kHoldsPairs || kItems % 2 == 0);

// Whether pick_sorted() takes the best of a short row: long lists, and float64, need too many registers.
constexpr bool kSorts = !kDraws && kSingle && kLanes < kWarp && kPicks <= 8;

// Whether pick_roughly() does, which reads a few elements by their places: from shared memory, where a lane keeps its
// own unless the row is there.
constexpr bool kSortsRoughly = kSorts && kRowOutputs > 1 && sizeof(Local) > 4 && kItems >= 16 && kItems % kPicks == 0;
constexpr bool kKeeps = kSortsRoughly && !kStaged<0>;
constexpr int kKeptBytes = kItems * static_cast<int>(sizeof(In)) + 16;  // of a lane

template <class Op, class In = csm::In>
class KeyTile {
 public:
  CSM_DEVICE KeyTile(i64 first, i64 n) : first_(first) {
    const i64 more = n - first;
    length_ = static_cast<int>(more < kChunk ? more : kChunk);
  }

  CSM_DEVICE void read(const Arguments& args, const Row& row, const RowContext& context) {
    if (length_ == kChunk) read_all(args, row, context, [](int) { return true; });
    else read_all(args, row, context, [&](int place) { return place < length_; });
    if constexpr (kDraws) set_limits(context);
  }
  template <class Wanted>
  CSM_DEVICE void read_all(const Arguments& args, const Row& row, const RowContext& context, Wanted is_wanted) {
    constexpr int kSize = static_cast<int>(sizeof(In));
    const int staged = kStaged<0> ? row.staged[0] + static_cast<int>(first_ * kSize) : 0;
#pragma unroll
    for (int v = 0; v < kItems / kVec; ++v) {
      const int place = lane_place() + step_of(v * kVec);
      const bool wanted = is_wanted(place);
      const char* const address = row.start[0] + element_offset<0>(args, first_ + place);
      if constexpr (kHoldsPairs && kVec > 1) {
        Pairs<kVec> got;
#pragma unroll
        for (int i = 0; i < kVec / 2; ++i) got.word[i] = Lowest<In>::kPair;
        if constexpr (kStaged<0>) {
          if (wanted) got = Shared<Pairs<kVec>>(staged).load(place / kVec);
        } else {
          got = global_load(address, wanted, got);
        }
#pragma unroll
        for (int i = 0; i < kVec / 2; ++i) held_[v * kVec / 2 + i] = got.word[i];
        continue;
      }
      Vec<In, kVec> got;
#pragma unroll
      for (int i = 0; i < kVec; ++i) got.item[i] = absent<In>();
      if constexpr (kStaged<0>) {
        if (wanted) got = Shared<Vec<In, kVec>>(staged).load(place / kVec);
      } else {
        got = global_load(address, wanted, got);
      }
#pragma unroll
      for (int i = 0; i < kVec; ++i) enter(v * kVec + i, got.item[i], context);
    }
  }

  // Sets the elements without reading: the one at each place of the chunk becomes get(place).
  template <class Get>
  CSM_DEVICE void fill(const RowContext& context, Get get) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const In x = get(lane_place() + step_of(i));
      enter(i, present(i) ? x : absent<In>(), context);
    }
    if constexpr (kDraws) set_limits(context);
  }

  // Stores the elements from shared memory's byte `at` on, and loads them again: in the same lane of any warp.
  CSM_DEVICE void park(int at) const {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) Shared<Held>(at).store(i * kLanes + thread_index() % kLanes, held_[i]);
  }
  CSM_DEVICE void unpark(int at) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held_[i] = Shared<Held>(at).load(i * kLanes + thread_index() % kLanes);
  }

  // The chunk's node, for operations with sums; and where the maximum is known.
  CSM_DEVICE Node reduce(const Arguments& args) const {
    return node([&](auto& tile) { return tile.reduce(row_context<Op>(args, Row{}, 0)); });
  }
  CSM_DEVICE Node reduce(const Arguments& args, Acc maximum) const {
    return node([&](auto& tile) { return tile.reduce_to(as_double_word(maximum), row_context<Op>(args, Row{}, 0)); });
  }

  // Whether this lane may have an element that is better than one with this key, before it in the row.
  CSM_DEVICE bool may_exceed(Key floor) const {
    if constexpr (kEndsLowest) {
      Acc limit = floor == 0 ? negative_infinity() : value_of(floor);
      // Comparisons of float take subnormals for 0.
      if (kSingle && limit == Acc(0)) limit = Acc(-0x1p-126);
      bool exceeds = limit == negative_infinity();
      Acc x[kItems];
      get_numbers(x);
#pragma unroll
      for (int i = 0; i < kItems; ++i) exceeds = exceeds | !(x[i] <= limit);
      return exceeds;
    }
    return true;
  }

  // Keeps this lane's elements for key_at(), which a barrier has to come before.
  CSM_DEVICE void keep() const {
    const Shared<Vec<In, kVec>> kept(kept_at());
#pragma unroll
    for (int i = 0; i < kItems; i += kVec) {
      Vec<In, kVec> some;
#pragma unroll
      for (int k = 0; k < kVec; ++k) some.item[k] = held_[i + k];
      kept.store((lane_place() + step_of(i)) / kVec, some);
    }
  }
  // The key of the element at a place, of any lane of the row.
  CSM_DEVICE Key key_at(const Row& row, int place) const {
    In x = absent<In>();
    if (kKeeps || place < length_) x = Shared<In>(kKeeps ? kept_at() : row.staged[0]).load(place);
    return Order<In>::key(x);
  }

  // An element of this lane. Its place is yet without the lane's: see in_chunk().
  CSM_DEVICE Local item(int i) const {
    if constexpr (kHoldsPairs) {
      const u32 keys = keys_of_pair<In>(held_[i / 2]);
      return local_at(i % 2 == 0 ? keys << 16 : keys & 0xffff0000u, step_of(i));
    } else {
      const Local local = local_at(Order<Compared>::key(held_[i]), step_of(i));
      return kEndsLowest || present(i) ? local : no_local();
    }
  }
  // The same with its place in the chunk.
  CSM_DEVICE Local in_chunk(Local item) const { return moved(item, lane_place()); }
  // The same with its index in the row. `exists`: it is known to be an element.
  CSM_DEVICE Candidate in_row(Local found, bool exists = false) const {
    const int place = csm::place_of(found);
    return exists || place < kChunk ? Candidate{key_of(found), first_ + place} : no_candidate();
  }

  // If it draws: the largest limit of this lane's elements, NaN if one is; and the element that has it, with its noise,
  // which is not looked at again.
  CSM_DEVICE Acc limit() const {
    Acc most = limit_[0];
#pragma unroll
    for (int i = 1; i < kItems; ++i) most = maximum_or_nan(most, limit_[i]);
    return most;
  }
  CSM_DEVICE Candidate take(Acc limit, const RowContext& context) {
    int step = 0;
    Acc x = negative_infinity();
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const bool here = !(limit_[i] < limit) && limit_[i] != negative_infinity();
      step = here ? step_of(i) : step;
      x = here ? widen(held_[i]) : x;
    }
#pragma unroll
    for (int i = 0; i < kItems; ++i) limit_[i] = step == step_of(i) ? negative_infinity() : limit_[i];
    const i64 index = first_ + lane_place() + step;
    return {Order<Compared>::key(Op::compared(x, Place{index, 0}, context)), index};
  }

  // Whether the row has any of the items from i on, a multiple of kMaxVec, of all lanes.
  CSM_DEVICE bool reached(int i) const { return i * kLanes < length_; }

  // Whether elements beyond the row's end are −∞, and so come after all of the row's: the best k are none of them.
  static constexpr bool kEndsLowest = Lowest<In>::kStored && !has(feature::noisy);

 private:
  static_assert(kChunk < Packed::kPlaces, "a place is a word's low bits");

  using Held = typename NthType<kHoldsPairs && sizeof(In) == 2, Compared, u32>::type;
  static constexpr int kHeld = kHoldsPairs ? kItems / 2 : kItems;
  Held held_[kHeld];  // elements, if it draws without noise, or pairs of them
  Acc limit_[kDraws ? kItems : 1];
  i64 first_;
  int length_;  // elements of the row from the chunk's start on, at most kChunk; 0 or less if there are none

  template <class Get>
  CSM_DEVICE Node node(Get get) const {
    if constexpr (kSums == 0) {
      return empty_node();
    } else {
      RowTile<Op> tile(0, length_);
      Acc x[kItems];
      get_numbers(x);
      tile.fill([&](int i) { return Element{kEndsLowest || present(i) ? x[i] : negative_infinity()}; });
      return get(tile);
    }
  }
  // Where the row is kept: apart from the next one, so that no two lanes store to one bank.
  CSM_DEVICE static int kept_at() { return thread_index() / kLanes * (kLanes * kKeptBytes); }
  template <class T>
  CSM_DEVICE static T absent() {
    if constexpr (Lowest<T>::kStored) return Lowest<T>::value();
    else return T(0);
  }
  CSM_DEVICE void enter(int i, In x, const RowContext& context) {
    if constexpr (kDraws) held_[i] = narrow<Compared>(widen(x));  // here an Acc
    else if constexpr (kHoldsPairs) held_[i / 2] = i % 2 == 0 ? x.bits : held_[i / 2] | static_cast<u32>(x.bits) << 16;
    else held_[i] = Op::compared(x, {first_ + lane_place(), step_of(i)}, context);
  }
  CSM_DEVICE void get_numbers(Acc (&x)[kItems]) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if constexpr (!kHoldsPairs) x[i] = widen(held_[i]);
      else if (i % 2 == 0) widen_pair(held_[i / 2], In{}, x[i], x[i + 1]);
    }
  }
  // Four neighbours share a counter. Where they are in several lanes, each of these forms the words of one item, or
  // two, of all: those that others need are exchanged.
  CSM_DEVICE void set_limits(const RowContext& context) {
    constexpr int kSharing = kVec < 4 ? 4 / kVec : 1, kOfLane = 4 / kSharing;
    constexpr bool kExchanges = kLanes >= kSharing;
    // The index that was read for the elements would take one register too many until here.
    const int sharer = static_cast<int>(reread_thread_index() % kSharing);
    const i64 start = first_ + (lane_place() & ~3) + sharer * (kLanes * kVec);
#pragma unroll
    for (int i = 0; i < kItems; i += 4) {
      u32 word[4];
      if constexpr (kExchanges) {
        const RandomWords words = Op::words({start, step_of(i)}, context).of;
#pragma unroll
        for (int k = 0; k < 4; ++k) word[k] = words.word[k];
#pragma unroll
        for (int mask = 1; mask < kSharing; mask *= 2) {
          const bool upper = sharer & mask;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const int other = k ^ mask * kOfLane;
            if (other < k) continue;
            const u32 given = shuffle_xor(upper ? word[k] : word[other], mask, kLanes);
            if (upper) word[k] = given;
            else word[other] = given;
          }
        }
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const RowWords words = Op::words({first_ + lane_place(), step_of(i + k)}, context);
          word[k] = words[words.index];
        }
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) limit_[i + k] = Op::limit(held_[i + k], word[k], context);
    }
  }
  CSM_DEVICE static constexpr int step_of(int i) { return i / kVec * (kLanes * kVec) + i % kVec; }
  CSM_DEVICE static int lane_place() { return thread_index() % kLanes * kVec; }
  CSM_DEVICE bool present(int i) const { return lane_place() + step_of(i / kVec * kVec) < length_; }
};

// Whether it may have none of the items from one on, in any lane: a row takes more than half of its lanes' items.
CSM_DEVICE constexpr bool may_lack(int item) { return item > kItems / 2 && item % kMaxVec == 0; }

// The best elements of a chunk that is a whole row, for few lanes: each lane sorts its own, kListed at a time, and
// keeps the best of these; then the lanes merge their lists, until each of them has the row's.
template <class Op>
CSM_DEVICE Picks pick_sorted(const KeyTile<Op>& tile) {
  constexpr int kListed = kRowOutputs == 1 ? 1 : kPicks;
  Local best[kListed];
#pragma unroll
  for (int start = 0; start < kItems; start += kListed) {
    if (may_lack(start) && !tile.reached(start)) continue;
    Local next[kListed];
#pragma unroll
    for (int i = 0; i < kListed; ++i) next[i] = start + i < kItems ? tile.item(start + i) : no_local();
    sort_in_lane(next);
    if (start > 0) {
      merge_in_lane(best, next);
    } else {
#pragma unroll
      for (int i = 0; i < kListed; ++i) best[i] = next[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kListed; ++i) best[i] = tile.in_chunk(best[i]);
  Picks picks;
  if constexpr (kListed == kPicks) {
    merge_over_lanes(best);
#pragma unroll
    for (int s = 0; s < kSlots; ++s) picks.slot(s) = tile.in_row(best[s], tile.kEndsLowest && kItems % kListed == 0);
  } else {
    picks.slot(0) = tile.in_row(best_over_lanes(best[0]));
  }
  return picks;
}

// The same where a key leaves no room for a place in a word of 32 bits, and one of 64 bits takes six instructions where
// that takes two. Of a key, the place takes the last bits. The others tell the best elements, unless the last of them
// and the best of all others differ in these bits alone, and how they follow, unless two of them do.
template <class Op>
CSM_DEVICE Picks pick_roughly(const Arguments& args, const Row& row, const KeyTile<Op>& tile) {
  constexpr u32 kPlaces = kChunk - 1;
  // An instruction takes one constant, so the compiler must not know this one: the upper half of k is 0.
  const u32 key_bits = ~kPlaces | static_cast<u32>(args.layout.option[kSelected] >> 32);
  const int lane = thread_index() % kLanes;
  Rough best[kPicks], rest = {0};  // the best of all that are not in the list
  const auto lose = [&](Rough a) { rest = chosen(rest, a, true); };
#pragma unroll
  for (int start = 0; start < kItems; start += kPicks) {
    if (may_lack(start) && !tile.reached(start)) continue;
    Rough next[kPicks];
#pragma unroll
    for (int i = 0; i < kPicks; ++i) {
      const Local local = tile.item(start + i);
      next[i] = {(static_cast<u32>(key_of(local)) & key_bits) | (kPlaces - place_of(local))};
    }
    sort_in_lane(next);
    if (start > 0) {
      merge_in_lane(best, next, lose);
    } else {
#pragma unroll
      for (int i = 0; i < kPicks; ++i) best[i] = next[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kPicks; ++i) best[i] = {best[i].word & ~static_cast<u32>(lane * kVec)};
  merge_over_lanes(best, lose);
#pragma unroll
  for (int mask = 1; mask < kLanes; mask *= 2) lose(exchange(rest, mask));
  const bool last = lane == kLanes - 1;
  if (any_lane(last && (best[kSlots - 1].word ^ rest.word) <= kPlaces)) return pick_sorted(tile);

  const u32 after = shuffle(best[0].word, (lane + 1) % kLanes, kLanes);
  bool tied = !last && (best[kSlots - 1].word ^ after) <= kPlaces;
  Local found[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    if (s > 0) tied = tied || (best[s - 1].word ^ best[s].word) <= kPlaces;
    const int place = static_cast<int>(kPlaces - (best[s].word & kPlaces));
    found[s] = local_at(tile.key_at(row, place), place);
  }
  if (any_lane(tied)) sort_over_lanes(found);
  Picks picks;
#pragma unroll
  for (int s = 0; s < kSlots; ++s) picks.slot(s) = tile.in_row(found[s], tile.kEndsLowest);
  return picks;
}

// The best element of a lane, and the best that comes after `bound`.
CSM_DEVICE Local best_of(const Local (&item)[kItems]) {
  Local best = item[0];
#pragma unroll
  for (int i = 1; i < kItems; ++i) best = chosen(best, item[i], true);
  return best;
}
CSM_DEVICE Local next_after(Local bound, const Local (&item)[kItems]) {
  Local best = no_local();
#pragma unroll
  for (int i = 0; i < kItems; ++i) best = above(bound, item[i]) ? chosen(best, item[i], true) : best;
  return best;
}

// Merges a chunk into `picks`, of which the best counts, here the same in all lanes of the row. In each round lanes
// with an element that may be as good as the best so far form the noise of the likeliest. A row's first chunk takes two
// or three rounds. Nothing is looked for beside an infinity or NaN.
template <class Op>
CSM_DEVICE void draw_into(Picks& picks, KeyTile<Op>& tile, const RowContext& context) {
  Candidate& best = picks.slot(0);
  for (;;) {
    const Acc floor = best.key == 0 ? negative_infinity() : value_of(best.key), limit = tile.limit();
    const bool offers = !(limit < floor) && limit != negative_infinity() && floor < -negative_infinity();
    if (!any_lane(offers)) return;
    Candidate found = no_candidate();
    if (offers) found = tile.take(limit, context);
    best = chosen(best, best_over_lanes(found), true);
  }
}

// Where a warp has one row, and lists a place a lane, so few elements are put in one by one: a sort and a merge take as
// long as ten.
constexpr bool kInserts = kLanes == kWarp && kSlots == 1;
constexpr int kFewOffers = 6;

// Merges a chunk into `picks`, of which the best k count. All lanes of a warp call it. In each round every lane offers
// its best element, if it is better than the k-th of the list. The first chunk of a row takes a few rounds; a later one
// seldom takes any, since few elements are better than the k-th so far.
template <class Op>
CSM_DEVICE void pick_into(Picks& picks, KeyTile<Op>& tile, int k, const RowContext& context) {
  if constexpr (kDraws) return draw_into(picks, tile, context);
  Candidate floor = picks.get(k - 1);
  if (!any_lane(tile.may_exceed(floor.key))) return;
  Local item[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) item[i] = tile.item(i);
  Local mine = best_of(item);
  if constexpr (kSelectsOne) {
    if (!any_lane(above(tile.in_row(tile.in_chunk(mine)), floor))) return;
    picks.slot(0) = chosen(floor, tile.in_row(best_over_lanes(tile.in_chunk(mine))), true);
    return;
  }
  for (;;) {
    const Local offer = tile.in_chunk(mine);
    const bool offers = above(tile.in_row(offer), floor);
    unsigned rest = ballot(offers);
    if (!rest) break;
    if (kInserts && count_bits(rest) <= kFewOffers) {
      for (; rest; rest &= rest - 1) picks.insert(tile.in_row(from_lane(offer, lowest_bit(rest))));
    } else {
      Local sorted[1] = {offers ? offer : no_local()};
      sort_over_lanes(sorted);
      Picks fresh;
#pragma unroll
      for (int s = 0; s < kSlots; ++s) {
        const int place = Picks::place_of(s);
        const Local found = from_lane(sorted[0], place % kLanes);
        fresh.slot(s) = place < kLanes ? tile.in_row(found) : no_candidate();
      }
      picks.merge(fresh);
    }
    floor = picks.get(k - 1);
    if (offers) mine = next_after(mine, item);
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

// Calls put(slot, value, index, whether the lane has this pick) for the picks. `whole` is the row's node, if the
// operation sums over the row; else the sum is that of the picks.
template <class Op, class Put>
CSM_DEVICE void put_values_and_indices(const Arguments& args, const Picks& picks, const Node& whole, bool wanted,
                                       Put put) {
  const int k = static_cast<int>(args.layout.option[kSelected]);
  const Acc m = kSums > 0 ? whole.m.hi : value_of(picks.get(0).key);
  const Reference reference = reference_of(as_double_word(m));
  Acc term[kSlots];
#pragma unroll
  for (int s = 0; s < kSlots; ++s) {
    term[s] = Picks::place_of(s) < k ? Op::term(value_of(picks.slot(s).key), reference) : Acc(0);
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
    put(s, narrow<Type<1>>(Op::value(term[s], scale)), Type<kLast>(picks.slot(s).index),
        wanted && Picks::place_of(s) < k);
  }
}

// kTogether: the row's results lie end to end and are aligned to those of a lane, which has all of its picks or none.
template <class Op, bool kTogether = false>
CSM_DEVICE void write_picks(const Arguments& args, const Row& row, const Picks& picks, const Node& whole, bool wanted) {
  if constexpr (kRowOutputs == 1) {
    write_indices<Op>(args, row, picks, wanted);
  } else if constexpr (kTogether) {
    Vec<Type<1>, kSlots> values;
    Vec<Type<kLast>, kSlots> indices;
    put_values_and_indices<Op>(args, picks, whole, wanted, [&](int slot, Type<1> value, Type<kLast> index, bool) {
      values.item[slot] = value;
      indices.item[slot] = index;
    });
    const int first = Picks::place_of(0);
    const bool there = wanted && first < static_cast<int>(args.layout.option[kSelected]);
    global_store(row.start[1] + first * sizeof(Type<1>), values, there);
    global_store(row.start[kLast] + first * sizeof(Type<kLast>), indices, there);
  } else {
    const Layout& layout = args.layout;
    put_values_and_indices<Op>(args, picks, whole, wanted, [&](int slot, Type<1> value, Type<kLast> index, bool there) {
      const i64 place = Picks::place_of(slot);
      global_store(row.start[1] + place * layout.reduce_stride[1][0], value, there);
      global_store(row.start[kLast] + place * layout.reduce_stride[kLast][0], index, there);
    });
  }
}

}  // namespace csm
