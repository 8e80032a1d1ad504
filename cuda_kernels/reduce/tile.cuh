// RowTile: a chunk of one row in the registers of kLanes lanes, kItems elements each. It reads the chunk, reduces it to
// a node, and writes the results; all patterns with contiguous rows use it.
//
// Element j of the chunk is item (j / (kVec·kLanes))·kVec + j % kVec of lane (j / kVec) % kLanes: each access of kVec
// elements is contiguous over the lanes, for any kVec. The sums must not depend on kVec: a row has the same bits
// whether it is aligned for wide accesses or, like every second row of an odd length, not. So their order is defined by
// the bits of the element's number j:
//
//   first   over the bits from log2(kMaxVec·kLanes) up: one after the other, in ascending order of j;
//   then    over the log2 kMaxVec lowest bits: a binary tree, from bit 0 up;
//   then    over the log2 kLanes bits between: likewise.
//
// kVec decides whether a bit of j is a bit of the item's number or of the lane's, and so only which thread adds. So it
// is with kOrder, the lanes that the order is defined by, where fewer, kLanes, hold the row. A lane whose neighbouring
// items have changed places adds the same two numbers.
#pragma once

#include "reduce/row.cuh"

namespace csm {

constexpr int kPartials = kSums > 0 ? kSums : 1;  // the size of arrays with an entry for each sum

template <int Operand = 0>
CSM_DEVICE constexpr bool all_staged() {
  if constexpr (Operand == kFirstRowOutput) return true;
  else if constexpr (Operand >= kInputs && Operand < kFirstOutput) return all_staged<Operand + 1>();
  else return (kStaged<Operand> || kRepeated<Operand>) && all_staged<Operand + 1>();
}
// The kVec of staged chunks: a lane has two neighbours though each is accessed by itself, since fewer partial sums are
// then exchanged between lanes. With more, the addresses of more would take as many instructions, or banks conflict;
// so they do with the few elements of a lane that parks chunks in double.
constexpr bool kTwoNeighbours = kStages && kVec == 1 && kMaxVec > 1 && all_staged() && (kSingle || !kParks);
constexpr int kStagedVec = kTwoNeighbours ? 2 : kVec;

// The segment pattern chooses lanes, items and access width itself, by the length of each row. Fewer items give a row
// the same bits if they hold all of it, since items beyond the row's end add nothing. `Index` holds numbers of
// elements; int where a row fits on the chip.
//
// kPadded: a staged chunk has room for all of its items, neutral ones beyond the row's end (Span::pad). Accesses to it
// need no conditions. Nor do those to the first kSure items, which a row has in all lanes, if it is read at all.
template <class Op, int kLanes = csm::kLanes, int kItems = csm::kItems, int kVec = csm::kVec, class Index = i64,
          bool kPadded = false, int kOrder = kLanes, int kSure = 0>
class RowTile {
  using Adder = csm::Adder<Op, false>;
  static constexpr int kVectors = kItems / kVec, kChunk = kLanes * kItems;
  static constexpr bool kGiven = kPickRule == PickRule::given && kPicked > 0;
  // Whether the given element is read once more: for the warp that has it, choosing it among items, a comparison and a
  // selection each, and passing it on takes longer. The second read hits the level 1 cache, or shared memory. Not in
  // clusters that read global memory: the compiler issues that read last, and the whole block would wait for it. Only
  // the lane that has the element reads it (kOneReads) where results take the place of elements without a barrier.
  static constexpr bool kRereads = kGiven && (kOfGroup || kStaged<0> || kCluster == 1);
  static constexpr bool kOneReads = kOfGroup;
  static_assert(!kGiven || (kPicked == 1 && kOutputs <= 1), "one element is given, and one result of it");
  static constexpr int kLeaves = kMaxVec * (kOrder / kLanes);  // sums of a lane's items one after the other
  static constexpr int kSwapped = kLanes < kLeaves / kVec ? kLanes : kLeaves / kVec;  // see sums_of_lane
  // Whether the mask is read in words of four bytes.
  static constexpr bool kWordMask =
      kMasked && kVec % 4 == 0 && !kStages && !kRepeated<kInputs - 1> && sizeof(Type<kInputs - 1>) == 1;
  using Mask = unsigned[kWordMask ? kItems / 4 : 1];
  // Whether a lane's two neighbours are accessed one by one. Of 4 bytes or more some lanes have them in the other
  // order, so that no two lanes access one bank of shared memory: lanes apart by its 32 words, in accesses of 8 bytes
  // by 16.
  static constexpr bool kOneByOne = kVec > csm::kVec, kSwaps = kOneByOne && kMaxVec <= 4;
  // Of 16 bits, and without conditions, they are accessed at once in rows that start at an even element of the span, as
  // every second row of an odd length does. Of 32 bits the instructions of two ways would be as many as they spare.
  static constexpr bool kMayPair = kOneByOne && !kSwaps && (kPadded || kSure > 0);
  template <bool kValue>
  struct Flag {  // a condition that is an argument
    static constexpr bool value = kValue;
  };

 public:
  CSM_DEVICE RowTile() {}
  CSM_DEVICE RowTile(Index first, Index n) { place(first, n); }
  // The chunk starts at element `first` of a row of n elements.
  CSM_DEVICE void place(Index first, Index n) {
    lane_at_ = thread_index() % kLanes * kVec;
    index_ = first + lane_at_;
    swapped_ = kSwaps ? thread_index() / (4 * kMaxVec) % 2 : 0;
    const Index left = n - first;
    left_ = static_cast<int>(left < kChunk ? left : kChunk);
    mine_ = left_ - (thread_index() % kLanes) * kVec;
  }

  // Elements beyond the row's end are neutral, and Op::enter is not called for them. Hidden elements become neutral.
  // `once`: they are not read again.
  CSM_DEVICE void read(const Arguments& args, const Row& row, const RowContext& context, bool once = false) {
    if constexpr (kCausal) {
      all_seen_ = context.visible - start() >= kChunk;
      const i64 more = context.visible - index_;
      seen_ = static_cast<int>(more < 0 ? 0 : more < kChunk ? more : kChunk);
    }
    Mask mask = {};
    if (kWordMask && full() &&
        all_seen()) {  // each way by itself: all loads are started before the first is waited for
      read_mask<true>(args, row, mask);
      read_inputs<false>(args, row, mask, once);
    } else {
      read_mask<false>(args, row, mask);
      if (starts_even(row)) read_inputs<kMayPair>(args, row, mask, once);
      else read_inputs<false>(args, row, mask, once);
    }
    if (Op::enters(context)) enter(context);
    hide();
    if constexpr (kRereads && !kOneReads) read_given(args, row, context);
  }

  // Reads the given element once more. Where only one lane does, it is called by itself: so a row that is not there
  // needs no branch.
  CSM_DEVICE void read_given(const Arguments& args, const Row& row, const RowContext& context) {
    if constexpr (kRereads) {
      i64 index = Op::given(context);
      bool wanted = true;
      if constexpr (kOneReads) {
        wanted = item_of(index) >= 0;
      } else {  // one warp of several
        given_ = Acc(0);
        index = computed_in_place(given_index(context));
        if ((kLanes < kWarp && left_ <= 0) || !has_element(static_cast<Index>(index))) return;
      }
      Element e = {};
      e[0] = widen(element_at<0>(args, row, index, wanted));
      Op::enter(e, {index, 0}, context);
      given_ = wanted ? e[0] : Acc(0);
    }
  }

  // Makes all elements neutral, without reading.
  CSM_DEVICE void clear() {
    kept_ = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int k = 0; k < kInputs; ++k) item_[i][k] = neutral<Op>(k);
    }
  }

  // Sets the elements without reading: this lane's i-th becomes get(i).
  template <class Get>
  CSM_DEVICE void fill(Get get) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) item_[i] = get(i);
  }

  // kComplete: Op::complete has been called for the scale, power_applied is not needed, and the tile has elements.
  template <bool kComplete = false>
  CSM_DEVICE void write(const Arguments& args, const Row& row, const typename Op::Scale& row_scale) {
    if (!kComplete && !reached(0)) return;
    typename Op::Scale scale = row_scale;
    if constexpr (!kComplete) scale = ready(row_scale);
    const auto every = [](int) { return true; };
    const auto some = [&](int v) { return wanted(v); };
    const bool whole_tile = all_padded() || full();
    if constexpr (kHides && Op::kMapsHidden) {
      if (kept_ == 0 || !Op::maps_hidden(scale))
        return write_results<false, false, false, true>(args, row, scale, some);
    }
    if constexpr (Op::kHasUsual && kGiven) {
      if (kRowIsTile || !Op::are_usual(start(), kChunk, scale)) {
        if (Op::is_blank(scale)) return write_blank(args, row);
        if constexpr (kPatches) return write_patched(args, row, scale);
      }
    } else if constexpr (Op::kHasUsual) {
      bool usual = Op::are_usual(start(), kChunk, scale);
#pragma unroll
      for (int i = 0; i < kItems; ++i) usual = usual & Op::is_usual(item_[i], scale);
      if (!usual) {
        Op::complete(scale);
        return write_results<false>(args, row, scale, some);
      }
    }
    constexpr bool kUsual = Op::kHasUsual;
    if constexpr (kSure > 0) {
      // Block by block of items, those that the row has whole without conditions.
      const auto write_blocks = [&](auto paired) {
#pragma unroll
        for (int block = 0; block < kItems; block += kMaxVec) {
          const int end = end_of(block);
          if (whole(end)) write_results<kUsual, paired.value>(args, row, scale, every, block, end);
          else write_results<kUsual>(args, row, scale, some, block, end);
        }
      };
      if (starts_even(row)) write_blocks(Flag<kMayPair>{});
      else write_blocks(Flag<false>{});
    } else if (whole_tile) {
      if (starts_even(row)) write_results<kUsual, kMayPair>(args, row, scale, every);
      else write_results<kUsual>(args, row, scale, every);
    } else {
      write_results<kUsual>(args, row, scale, some);
    }
    if constexpr (kUsual && kGiven && !kPatches) {
      if (!Op::are_usual(start(), kChunk, scale)) write_given<kComplete>(args, row, scale);
    }
  }

  // The chunk's node, in all of its lanes. Op::terms replaces each element by what Op::map needs.
  CSM_DEVICE Node reduce(const RowContext& context) {
    // All may be hidden. Lanes that share a warp with another row would have to wait for it; with a bias a kernel
    // spills.
    constexpr bool kMayHideAll = kCausal && kLanes == kWarp && !has(feature::biased);
    if (kMayHideAll && start() >= context.visible) return empty_node();
    if constexpr (kOthersInLow && kSameType<Type<0>, bf16>) drop_words();
    return reduce_to(maximum_of(context), context);
  }
  // The same where the maximum is known.
  CSM_DEVICE Node reduce_to(DoubleWord m, const RowContext& context) {
    Node node = empty_node();
    node.m = m;
    node.picked = picked_of(context);
    DoubleWord partial[1][kPartials][kLeaves];
    terms(node.m, context, partial[0], node.picked);
    if constexpr (kPickRule == PickRule::largest) node.picked = sum_over_lanes(node.picked);
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      const bool exact = Adder::exact(k), low = Adder::has_low(k);
      DoubleWord sum[1];
      sums_of_lane(partial, k, exact, low, sum);
      node.s[k] = kDivides ? sum[0] : sum_in_order(sum[0], exact, low);
    }
    if constexpr (kDivides) divide_over_lanes(node.s);
#pragma unroll
    for (int k = 0; k < kSums; ++k) node.s[k] = Adder::whole(k, node.s[k]);
    if constexpr (kKeepsOthers) {
      keep_others(node, [&](Acc largest) { return others_than(largest, node.m, context); });
    }
    return node;
  }

  // Reduces one tile, or two at once: lanes with kOfSecond in their number return the second one's node, all others
  // that of the first. So what lanes exchange is exchanged for both at once, in the same order. `maxima` are those of
  // each.
  static constexpr int kOfSecond = kSwapped;  // the first lane bit that the sum over lanes adds over
  CSM_DEVICE static bool has_second() { return (thread_index() & kOfSecond) != 0; }
  // A lane's number among those that have the same tile's node.
  CSM_DEVICE static int lane_of_tile(int lane) { return lane % kOfSecond + lane / (2 * kOfSecond) * kOfSecond; }
  CSM_DEVICE static Node reduce_tiles(RowTile (&tile)[1], const RowContext& context, DoubleWord (&maxima)[1]) {
    const Node node = tile[0].reduce(context);
    maxima[0] = node.m;
    return node;
  }
  CSM_DEVICE static Node reduce_tiles(RowTile (&tile)[2], const RowContext& context, DoubleWord (&maxima)[2]) {
    return reduce_tiles(tile, context, context, maxima);
  }
  // The same of tiles of two rows.
  CSM_DEVICE static Node reduce_tiles(RowTile (&tile)[2], const RowContext& context, const RowContext& other,
                                      DoubleWord (&maxima)[2]) {
    static_assert(kLanes == kWarp && !Op::kHasLowKey && !kHides);
    const bool second = has_second();
    Node node = empty_node();
    maxima[0] = maxima[1] = node.m;
    if constexpr (kMaximum) {
      const Acc a = tile[0].largest_key(context), b = tile[1].largest_key(other);
      Acc m = larger_key<Op>(second ? b : a, shuffle_xor(second ? a : b, kOfSecond, kLanes));
#pragma unroll
      for (int mask = 1; mask < kLanes; mask *= 2) {
        if (mask != kOfSecond) m = larger_key<Op>(m, shuffle_xor(m, mask, kLanes));
      }
      node.m = Op::maximum_from(m, context);
      maxima[0] = Op::maximum_from(shuffle(m, 0, kLanes), context);
      maxima[1] = Op::maximum_from(shuffle(m, kOfSecond, kLanes), other);
    }
    DoubleWord partial[2][kPartials][kLeaves];
    Values<kPicked> picked[2];
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const RowContext& own = t == 0 ? context : other;
      picked[t] = tile[t].picked_of(own);
      tile[t].terms(maxima[t], own, partial[t], picked[t]);
      if constexpr (kPickRule == PickRule::largest) picked[t] = sum_over_lanes(picked[t]);
    }
#pragma unroll
    for (int k = 0; k < kPicked; ++k) node.picked[k] = second ? picked[1][k] : picked[0][k];
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      const bool exact = Adder::exact(k), low = Adder::has_low(k);
      DoubleWord sum[2];
      sums_of_lane(partial, k, exact, low, sum);
      const DoubleWord given = shuffle_xor(second ? sum[0] : sum[1], kOfSecond, kLanes, low);
      node.s[k] = add_parts(exact, second ? sum[1] : sum[0], given);
      if constexpr (!kDivides) node.s[k] = sum_in_order(node.s[k], exact, low, 2 * kOfSecond);
    }
    if constexpr (kDivides) divide_over_lanes<1>(node.s);
#pragma unroll
    for (int k = 0; k < kSums; ++k) node.s[k] = Adder::whole(k, node.s[k]);
    if constexpr (kKeepsOthers) {
      keep_others(node, [&](Acc largest) {
        const Acc others_largest = shuffle_xor(largest, kOfSecond, kLanes);
        const DoubleWord a = tile[0].others_than(second ? others_largest : largest, maxima[0], context);
        const DoubleWord b = tile[1].others_than(second ? largest : others_largest, maxima[1], other);
        return second ? b : a;
      });
    }
    return node;
  }

  // Changes the elements as reduce() does, and returns the maximum; the compiler drops the sums.
  CSM_DEVICE DoubleWord prepare(const RowContext& context) {
    const DoubleWord m = maximum_of(context);
    DoubleWord unused[kPartials][kLeaves];
    Values<kPicked> none = {};
    terms(m, context, unused, none);
    return m;
  }

  CSM_DEVICE void multiply(Acc power) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) item_[i][0] *= power;
  }

  // Stores the elements in shared memory, for chunks that do not fit in registers, and loads them again. Each lane
  // loads what it has stored, so no barrier is needed; neighbouring lanes use neighbouring words, so no banks conflict.
  CSM_DEVICE void park(Shared<Acc> slot) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int k = 0; k < kRegisterInputs; ++k) slot.store(parked_at(i, k), item_[i][k]);
    }
    if constexpr (kHides) slot.store(parked_at(kItems, 0), from_bits(kept_));
  }
  CSM_DEVICE void unpark(Shared<Acc> slot) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int k = 0; k < kRegisterInputs; ++k) item_[i][k] = slot.load(parked_at(i, k));
    }
    if constexpr (kHides) kept_ = to_bits(slot.load(parked_at(kItems, 0)));
  }
  static constexpr int kParkedWords = kChunk * kRegisterInputs + (kHides ? kLanes : 0);  // words of a parked chunk

 protected:
  Element item_[kItems];
  int lane_at_;    // this lane's first element in the chunk
  Index index_;    // this lane's first element in the row
  int left_;       // elements of the row from the chunk's start on, at most kChunk; 0 or less if it ends before
  int mine_;       // the same from index_ on
  int swapped_;    // 1 if neighbouring items have changed places, else 0
  int seen_;       // causal order: elements of the row from index_ on that are not hidden, at most kChunk
  bool all_seen_;  // and whether none of the chunk is
  unsigned kept_;  // if elements may be hidden: bit bit_of(i) is set if item i is not
  Acc given_;      // with PickRule::given: the element's first input, if this lane has read it, else 0
  static_assert(!kHides || kItems <= 32, "kept_ has a bit for each item");

  CSM_DEVICE i64 start() const { return i64(index_) - (thread_index() % kLanes) * kVec; }
  CSM_DEVICE i64 index_of(int v) const { return i64(index_) + v * (kLanes * kVec); }
  CSM_DEVICE static constexpr int step_of(int i) { return i / kVec * (kLanes * kVec) + i % kVec; }
  CSM_DEVICE Place place_of(int i) const { return {index_, step_of(i) + shift_of(i)}; }
  CSM_DEVICE int shift_of(int i) const { return i % 2 == 0 ? swapped_ : -swapped_; }
  // Whether the tile has that element of the row; −1 is none.
  CSM_DEVICE bool has_element(Index index) const {
    using Unsigned = typename NthType<sizeof(Index) == 4, u64, unsigned>::type;
    return static_cast<Unsigned>(index - (index_ - lane_at_)) < static_cast<Unsigned>(kChunk);
  }
  // Which item the row's element of that index is, or −1 if another lane or tile has it.
  CSM_DEVICE int item_of(i64 index) const {
    constexpr unsigned kStep = kLanes * kVec;
    const i64 from = index - index_;
    const unsigned near = static_cast<unsigned>(from), end = mine_ > 0 ? mine_ : 0;
    const bool mine = static_cast<u64>(from) < end && near % kStep < kVec;
    return mine ? static_cast<int>(near / kStep * kVec + near % kVec) ^ swapped_ : -1;
  }
  // Whether the row has item i.
  CSM_DEVICE bool holds(int i) const { return i < kSure || place_of(i).step < mine_; }
  // Whether the row has the elements of access v. kVec divides the size of the row's last dimension, so it has all or
  // none of them.
  CSM_DEVICE bool wanted(int v) const { return v * kVec < kSure || v * (kLanes * kVec) < mine_; }
  // Whether access v is read: it is if its first element is not hidden.
  CSM_DEVICE bool seen(int v) const { return wanted(v) && (!kCausal || step_of(v * kVec) < seen_); }
  // Whether the row has any of the items from i on, a multiple of kMaxVec, of all lanes. The lanes of a row agree.
  CSM_DEVICE bool reached(int i) const { return i * kLanes < left_; }
  // Whether the row is known to have all items before `end`, of all lanes. It is seldom asked of a few items.
  CSM_DEVICE bool whole(int end) const {
    constexpr bool kAsks = !kSwaps && kItems - kSure > kMaxVec;
    return end <= kSure || (kAsks && end * kLanes <= left_);
  }
  CSM_DEVICE static constexpr int end_of(int block) { return block + kMaxVec < kItems ? block + kMaxVec : kItems; }
  // Whether the row has all items. Accesses are then without conditions.
  CSM_DEVICE bool full() const { return left_ >= kChunk; }
  // Whether none of them is hidden by the causal order. Loads without conditions are all started before the first is
  // waited for. Of 16-bit elements a kernel has no registers for both ways, but where a mask hides them as words.
  CSM_DEVICE bool all_seen() const { return !kCausal || ((kWordMask || kMaxVec <= 4) && all_seen_); }
  // Whether results are stored without them in any case.
  template <int Which = 0>
  CSM_DEVICE static constexpr bool all_padded() {
    if constexpr (Which < kOutputs) return kPadded && kStaged<kFirstOutput + Which> && all_padded<Which + 1>();
    else return true;
  }

  template <int Operand = 0>
  CSM_DEVICE static bool starts_even(const Row& row) {
    if constexpr (!kMayPair) return false;
    else if constexpr (kStaged<Operand>) return row.staged[Operand] % static_cast<int>(2 * sizeof(Type<Operand>)) == 0;
    else return starts_even<Operand + 1>(row);
  }

  CSM_DEVICE typename Op::Scale ready(const typename Op::Scale& whole) {
    return power_applied<Op>(whole, [&](Acc power) { multiply(power); });
  }

 private:
  CSM_DEVICE void enter(const RowContext& context) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {  // one condition for each access, so that its elements share what they compute
      if (!kOneByOne && !wanted(v)) continue;
#pragma unroll
      for (int i = v * kVec; i < (v + 1) * kVec; ++i) {
        if (kOneByOne && !holds(i)) continue;
        if constexpr (!Op::kEntersPairs || kVec == 1 || kOneByOne) Op::enter(item_[i], place_of(i), context);
        else if (i % 2 == 0) Op::enter(pair_at(i), place_of(i), context).get(item_[i][0], item_[i + 1][0]);
      }
    }
    if constexpr (kWordMask) {  // what became neutral as it was read
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
#pragma unroll
        for (int k = 0; k < kRegisterInputs; ++k) item_[i][k] = kept(i) ? item_[i][k] : neutral<Op>(k);
      }
    }
  }

  // The given element's index, or −1 if the row has no such element.
  CSM_DEVICE static Index given_index(const RowContext& context) {
    const i64 index = Op::given(context);
    return static_cast<u64>(index) < static_cast<u64>(context.n) ? static_cast<Index>(index) : Index(-1);
  }

  // A mask of bytes hides elements as they are read; else they are hidden one by one.
  template <bool kAll>
  CSM_DEVICE void read_mask(const Arguments& args, const Row& row, Mask& mask) {
    if constexpr (kWordMask) {
      constexpr int kWords = kVec / 4;
      kept_ = 0;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const auto got = global_load(address_of<kInputs - 1>(args, row, v), kAll || seen(v), Vec<unsigned, kWords>{});
#pragma unroll
        for (int i = 0; i < kWords; ++i) mask[v * kWords + i] = got.item[i];
      }
#pragma unroll
      for (int k = 0; k < kItems / 4; ++k) {
        mask[k] |= (mask[k] & 0x7f7f7f7fu) + 0x7f7f7f7fu;  // a byte's highest bit says whether it was 0
        if (kCausal && !kAll) mask[k] &= ~shifted_out(~0u, 8 * (seen_ - step_of(4 * k)));
        kept_ |= mask[k] >> (7 - k) & 0x01010101u << k;
      }
    }
  }
  CSM_DEVICE void hide() {
    if constexpr (!kHides || kWordMask) return;
    kept_ = ~0u;
    if (!kMasked && all_seen_) return;
    kept_ = 0;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (!hide_element<Op>(item_[i], !kCausal || step_of(i) < seen_)) kept_ |= 1u << bit_of(i);
    }
  }
  CSM_DEVICE static constexpr int bit_of(int i) { return kWordMask ? i % 4 * 8 + i / 4 : i; }
  CSM_DEVICE bool kept(int i) const { return (kept_ >> bit_of(i) & 1) != 0; }

  // Where the elements of access v of a staged operand are in shared memory.
  template <int Operand>
  CSM_DEVICE int place_in(const Row& row, int v) const {
    constexpr int kSize = static_cast<int>(sizeof(Type<Operand>));
    return row.staged[Operand] + lane_at_ * kSize + v * (kLanes * kVec * kSize);
  }
  // And where one of them is.
  template <int Operand>
  CSM_DEVICE int place_of_item(const Row& row, int i) const {
    constexpr int kSize = static_cast<int>(sizeof(Type<Operand>));
    return row.staged[Operand] + (lane_at_ + shift_of(i)) * kSize + step_of(i) * kSize;
  }
  // And where the row's element of an index is, which the tile has.
  template <int Operand>
  CSM_DEVICE int place_of_index(const Row& row, i64 index) const {
    return row.staged[Operand] + static_cast<int>(index - start()) * static_cast<int>(sizeof(Type<Operand>));
  }
  // And where those of any other are in global memory.
  template <int Operand>
  CSM_DEVICE char* address_of(const Arguments& args, const Row& row, int v) const {
    char* const start = row.start[Operand];
    if constexpr (!kUncached || kRowDims > 1) {
      return start + element_offset<Operand>(args, index_of(v));
    } else {
      constexpr int kStep = kLanes * kVec * static_cast<int>(sizeof(Type<Operand>));
      return common_base(start + element_offset<Operand>(args, index_)) + v * kStep;
    }
  }
  // One element of an operand, at an index in the row.
  template <int Operand>
  CSM_DEVICE Type<Operand> element_at(const Arguments& args, const Row& row, i64 index, bool wanted) const {
    using T = Type<Operand>;
    if constexpr (kRepeated<Operand>) return global_load(row.start[Operand], wanted, T{});
    else if constexpr (!kStaged<Operand>)
      return global_load(row.start[Operand] + element_offset<Operand>(args, index), wanted, T{});
    else return wanted ? Shared<T>(place_of_index<Operand>(row, index)).load(0) : T{};
  }
  CSM_DEVICE static int parked_at(int i, int k) { return (i * kRegisterInputs + k) * kLanes + thread_index() % kLanes; }

  // With kPaired a lane's neighbours are accessed at once where the row has both.
  template <bool kPaired, int Operand = 0>
  CSM_DEVICE void read_inputs(const Arguments& args, const Row& row, const Mask& mask, bool once) {
    if constexpr (Operand < (kWordMask ? kRegisterInputs : kInputs)) {
      // Accesses to staged elements are narrow, and so without conditions where no lane needs one.
      constexpr bool kPairedAtEnd = kPaired && kPadded;
      constexpr bool kNoConditions = kPadded && kHasNeutral<Type<Operand>, neutral_of<Op>(Operand)>;
      Acc same[1];
      if constexpr (kRepeated<Operand>) load<Type<Operand>, neutral_of<Op>(Operand)>(row.start[Operand], seen(0), same);
      const auto get = [&](int v, bool wanted, bool seen, auto paired) {
        Acc got[kVec];
        if constexpr (kRepeated<Operand>) {
#pragma unroll
          for (int i = 0; i < kVec; ++i)
            got[i] = (kWordMask   ? kept(v * kVec + i)
                      : kOneByOne ? holds(v * kVec + i)
                                  : wanted)
                         ? same[0]
                         : neutral<Op>(Operand);
        } else if constexpr (kStaged<Operand> && kOneByOne && !paired.value) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) {
            Acc one[1];
            const int item = v * kVec + i;
            load<Type<Operand>, neutral_of<Op>(Operand)>(place_of_item<Operand>(row, item),
                                                         kNoConditions || holds(item), one);
            got[i] = one[0];
          }
        } else if constexpr (kStaged<Operand>) {
          load<Type<Operand>, neutral_of<Op>(Operand)>(place_in<Operand>(row, v), wanted, got);
        } else if constexpr (kWordMask) {
          load<Type<Operand>, neutral_of<Op>(Operand)>(address_of<Operand>(args, row, v), seen, got, once,
                                                       KeepsMasked{mask + v * kVec / 4});
        } else {
          load<Type<Operand>, neutral_of<Op>(Operand)>(address_of<Operand>(args, row, v), seen, got, once);
        }
#pragma unroll
        for (int i = 0; i < kVec; ++i) item_[v * kVec + i][Operand] = got[i];
      };
      if (!kStaged<Operand> && full() && all_seen()) {
#pragma unroll
        for (int v = 0; v < kVectors; ++v) get(v, true, true, Flag<kPaired>{});
        return read_inputs<kPaired, Operand + 1>(args, row, mask, once);
      }
#pragma unroll
      for (int block = 0; block < kItems; block += kMaxVec) {
        const int end = end_of(block);
        if (kStaged<Operand> && (kNoConditions || whole(end))) {
#pragma unroll
          for (int v = block / kVec; v < end / kVec; ++v) get(v, true, true, Flag<kPaired>{});
        } else {
#pragma unroll
          for (int v = block / kVec; v < end / kVec; ++v) get(v, wanted(v), seen(v), Flag<kPairedAtEnd>{});
        }
      }
      read_inputs<kPaired, Operand + 1>(args, row, mask, once);
    }
  }

  // Writes results that are 0.
  CSM_DEVICE void write_blank(const Arguments& args, const Row& row) const {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const Values<kOutputs> none[kVec] = {};
      store_outputs<false, false>(args, row, v, wanted(v), none);
    }
  }
  // Whether the given element has its result before it is stored: in shared memory it is stored a second time.
  static constexpr bool kPatches = kGiven && !kStages;
  CSM_DEVICE void write_patched(const Arguments& args, const Row& row, typename Op::Scale scale) {
    Op::complete(scale);
    const int item = item_of(Op::given(scale));
    const Patch patch = Patch::at<Type<kFirstOutput>, kVec>(item, Op::given_result(scale));
    write_results<true, false, true>(args, row, scale, [&](int v) { return wanted(v); }, 0, kItems, patch);
  }
  // Writes the result of the given element, last, in place of what it is otherwise.
  template <bool kComplete>
  CSM_DEVICE void write_given(const Arguments& args, const Row& row, typename Op::Scale scale) {
    static_assert(kStaged<kFirstOutput>, "it would be stored twice");
    using T = Type<kFirstOutput>;
    if constexpr (!kComplete) Op::complete(scale);
    const i64 index = Op::given(scale);
    const Acc given[1] = {Op::given_result(scale)};
    if (item_of(index) < 0) return;
    store<T>(place_of_index<kFirstOutput>(row, index), true, given);
  }

  template <bool kUsual, bool kPaired = false, bool kPatched = false, bool kHidesResults = !Op::kMapsHidden,
            class Wanted>
  CSM_DEVICE void write_results(const Arguments& args, const Row& row, const typename Op::Scale& scale, Wanted wanted,
                                int first = 0, int end = kItems, const Patch& patch = {}) {
    constexpr bool kAsks = kHides && kHidesResults;
#pragma unroll
    for (int v = first / kVec; v < end / kVec; ++v) {
      Values<kOutputs> result[kVec];
#pragma unroll
      for (int i = 0; i < kVec; ++i) {
        Element& e = item_[v * kVec + i];
        if constexpr (Op::kPairResults && kUsual == Op::kHasUsual && kVec > 1) {
          if (i % 2 == 0) Op::map_of(pair_at(v * kVec + i), scale).get(result[i][0], result[i + 1][0]);
        } else if constexpr (kUsual) {
          Op::map_usual(e, scale, result[i]);
        } else {
          Op::map(e, scale, place_of(v * kVec + i), result[i]);
        }
        if (kAsks && !kept(v * kVec + i)) hide_result<Op>(result[i]);
      }
      store_outputs<kPaired, kPatched>(args, row, v, wanted(v), result, patch);
    }
  }

  template <bool kPaired, bool kPatched, int Which = 0>
  CSM_DEVICE void store_outputs(const Arguments& args, const Row& row, int v, bool wanted,
                                const Values<kOutputs> (&result)[kVec], const Patch& patch = {}) const {
    if constexpr (Which < kOutputs) {
      constexpr int kOperand = kFirstOutput + Which;
      Acc give[kVec];
#pragma unroll
      for (int i = 0; i < kVec; ++i) give[i] = result[i][Which];
      if constexpr (kStaged<kOperand> && kOneByOne && !kPaired) {
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          const Acc one[1] = {give[i]};
          const int item = v * kVec + i;
          store<Type<kOperand>>(place_of_item<kOperand>(row, item), kPadded || holds(item), one);
        }
      } else if constexpr (kStaged<kOperand>) {
        store<Type<kOperand>>(place_in<kOperand>(row, v), kPadded || wanted, give);
      } else {
        if constexpr (!kPatched) store<Type<kOperand>>(address_of<kOperand>(args, row, v), wanted, give);
        else store_patched<Type<kOperand>>(address_of<kOperand>(args, row, v), wanted, give, patch, v * kVec);
      }
      store_outputs<kPaired, kPatched, Which + 1>(args, row, v, wanted, result);
    }
  }

  CSM_DEVICE static Acc maximum_over_lanes(Acc m) {
#pragma unroll
    for (int mask = 1; mask < kLanes; mask *= 2) m = larger_key<Op>(m, shuffle_xor(m, mask, kLanes));
    return m;
  }

  // Of this lane's elements.
  CSM_DEVICE Acc largest_key(const RowContext& context) const {
    Acc m = negative_infinity();
#pragma unroll
    for (int i = 0; i < kItems; ++i) m = larger_key<Op>(m, Op::key(item_[i], context));
    return m;
  }
  // Computes elements once: else the compiler keeps the packed words that they come from in registers as well.
  CSM_DEVICE void drop_words() {
#pragma unroll
    for (int i = 0; i < kItems; ++i) item_[i][0] = computed_once(item_[i][0]);
  }

  CSM_DEVICE DoubleWord maximum_of(const RowContext& context) const {
    Acc m = negative_infinity();
    if constexpr (kMaximum) {
      m = maximum_over_lanes(largest_key(context));
      if constexpr (!Op::kHasLowKey) return Op::maximum_from(m, context);
      Acc low = negative_infinity();
#pragma unroll
      for (int i = 0; i < kItems; ++i) low = maximum(low, Op::low_key(item_[i], m, context));
      low = maximum_over_lanes(low);
      return {m, low == negative_infinity() ? Acc(0) : low};
    }
    return as_double_word(m);
  }

  CSM_DEVICE static Values<kPicked> sum_over_lanes(Values<kPicked> picked) {
#pragma unroll
    for (int k = 0; k < kPicked; ++k) {
#pragma unroll
      for (int mask = 1; mask < kLanes; mask *= 2) picked[k] += shuffle_xor(picked[k], mask, kLanes);
    }
    return picked;
  }

  // What is picked before the terms are known.
  CSM_DEVICE Values<kPicked> picked_of(const RowContext& context) const {
    Values<kPicked> picked = {};
    if constexpr (kGiven) {
      const i64 index = kRereads ? Op::given(context) : computed_in_place(Op::given(context));
      if constexpr (kOneReads) {
        picked[0] = shuffle(given_, static_cast<int>(index / kVec) & (kLanes - 1), kLanes);
      } else if constexpr (kRereads) {
        picked[0] = given_;
      } else if (static_cast<u64>(index - start()) < static_cast<u64>(kChunk)) {
#pragma unroll
        for (int i = 0; i < kItems; ++i) Op::pick(item_[i], place_of(i), context, picked);
        picked = sum_over_lanes(picked);
      }
    }
    if constexpr (kDominant) {
      Acc largest = neutral<Op>(0);
#pragma unroll
      for (int i = 0; i < kItems; ++i) largest = Op::larger(largest, item_[i][0]);
      if (!any_lane(largest > Op::kHalf)) return picked;  // most chunks have none: one instruction an element
      picked = pick_dominant<Op, kItems>(largest, [&](int i) { return item_[i]; });
      const int lane = thread_index() % kWarp;
      constexpr unsigned kRow = ~0u >> (kWarp - kLanes);
      const unsigned lanes = ballot(picked[0] != Acc(0)) & kRow << (lane / kLanes * kLanes);
      const bool several = (lanes & (lanes - 1)) != 0;
#pragma unroll
      for (int k = 0; k < kPicked; ++k) {
        const Acc found = shuffle(picked[k], lanes != 0 ? lowest_bit(lanes) : lane, kWarp);
        picked[k] = !several ? found : k == 0 ? Acc(-1) : Acc(0);
      }
    }
    return picked;
  }

  static constexpr bool kKeepsOthers = kOthersInLow || kOthersNegative<Op>;
  // Keeps the others of a chunk apart that its largest term dominates (reduce/node.cuh): others(largest) is their sum.
  template <class Others>
  CSM_DEVICE static void keep_others(Node& node, Others others) {
    if constexpr (kOthersInLow) {
      const Adder adder(node.m, {});
      const Acc sum = node.s[0].hi;
      const bool dominated = is_dominated(sum, adder.largest());
      node.s[0] = as_double_word(sum);
      // By a vote lanes are known to stay together; in blocks it takes registers.
      constexpr bool kAlike = kLanes == kWarp && !kOfGroup && kTiles == 1;
      if (!(kAlike ? dominated : any_lane(dominated))) return;
      const DoubleWord apart = others(adder.largest());
      if (kAlike || dominated) node.s[0] = {adder.largest(), apart.hi};
    } else {
      if (!unlikely(any_lane(may_be_dominated(node.s[0].hi)))) return;
      const Acc largest = largest_exponential(node.m);
      const bool dominated = is_dominated(node.s[0].hi, largest);
      if (any_lane(dominated)) {
        const DoubleWord apart = others(largest);
        if (dominated) node.s[0] = negative(apart);
      }
    }
  }

  // The first part of the order above: partial[k][p] becomes the k-th sum over the items i with i % kLeaves = p.
  CSM_DEVICE void terms(DoubleWord m, const RowContext& context, DoubleWord (&partial)[kPartials][kLeaves],
                        Values<kPicked>& picked) {
    const Adder adder(m, picked, start_of_sums<Op>(m.hi));
    if constexpr (Op::kPairs) return terms_of_pairs(adder, context, partial[0]);
    typename Adder::Held held[kPartials][kLeaves];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (is_blank(i)) continue;
      Values<kSums> term;
      const Element e = adder.terms(item_[i], place_of(i), context, term, picked);
      const int number = i / kLeaves, p = i % kLeaves;
#pragma unroll
      for (int k = 0; k < kSums; ++k) {
        adder.add(k, partial[k][p], partial[k][0].hi, held[k][p], e, term[k], number, (kItems - p - 1) / kLeaves + 1);
      }
    }
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
#pragma unroll
      for (int i = 0; i < kLeaves; ++i) partial[k][i] = i < kItems ? adder.sum_of(k, partial[k][i]) : DoubleWord{};
    }
  }

  // Whether an item is known to be beyond the end of a row that is one tile, and has no term: it is 0, and adds
  // nothing. It is asked of two items at a time, or of an access, which are not the first of their sums.
  static constexpr int kAskedFrom = kSure > 0 ? kSure + 1 : kItems - (kVec > 2 ? kVec : 2);
  CSM_DEVICE bool is_blank(int i) {
    constexpr bool kAsks = kRowIsTile && !kFastExp && kSums == 1 && Op::kBounded > 0 && !kHides;
    constexpr int kStep = kVec > 2 ? kVec : 2;
    const int first = i / kStep * kStep;
    if (!kAsks || first < kLeaves || first < kAskedFrom || reached(first)) return false;
    if constexpr (Op::kKeepsTerm) item_[i][0] = Acc(0);
    if (Op::kPairs && Op::kKeepsTerm) item_[i + 1][0] = Acc(0);
    return true;
  }

  // The same for two elements at a time.
  CSM_DEVICE void terms_of_pairs(const Adder& adder, const RowContext& context, DoubleWord (&partial)[kLeaves]) {
    static_assert(kItems % 2 == 0);
    if constexpr (kOfNumbers<Op> && !Op::kSomePairs) {
      if (unlikely(adder.shift() != Acc(0))) {
#pragma unroll
        for (int i = 0; i < kItems; ++i) item_[i][0] -= adder.shift();
      }
    }
    typename Adder::PairSum sum[(kLeaves + 1) / 2];
    if (Op::kSomePairs && unlikely(adder.shift() != Acc(0))) {
#pragma unroll
      for (int i = 0; i < kItems; i += 2) {
        Values<kSums> one, other;
        Values<kPicked> none = {};
        adder.terms(item_[i], place_of(i), context, one, none);
        adder.terms(item_[i + 1], place_of(i + 1), context, other, none);
        adder.add(sum[i % kLeaves / 2], Pair(one[0], other[0]), i / kLeaves);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kItems; i += 2) {
        if (is_blank(i)) continue;
        Pair elements = pair_at(i);
        adder.add(sum[i % kLeaves / 2], adder.terms_of(elements, context), i / kLeaves);
        elements.get(item_[i][0], item_[i + 1][0]);
      }
    }
#pragma unroll
    for (int i = 0; i < kLeaves; i += 2) {
      partial[i] = partial[i + 1] = DoubleWord{};
      if (i >= kItems) continue;
      sum[i / 2].hi.get(partial[i].hi, partial[i + 1].hi);
      sum[i / 2].lo.get(partial[i].lo, partial[i + 1].lo);
      partial[i] = adder.sum_of(0, partial[i]);
      partial[i + 1] = adder.sum_of(0, partial[i + 1]);
    }
  }
  CSM_DEVICE Pair pair_at(int i) const { return {item_[i][0], item_[i + 1][0]}; }

  // The chunk's sum of terms without the largest, no digit of which is lost beside that.
  CSM_DEVICE DoubleWord others_than(Acc largest, DoubleWord m, const RowContext& context) const {
    if constexpr (!kOthersInLow) m.hi = computed_anew(m.hi);
    // Else the chunk's exponentials stay in registers until here; ptxas sees through computed_anew().
    else if constexpr (kOneStep && kOutputs > 0 && !Op::kKeepsTerm)
      m.hi = shuffle(m.hi, thread_index() % kLanes, kLanes);
    const csm::Adder<Op> adder(m, {});
    DoubleWord partial[1][1][kLeaves] = {}, sum_of_all[1];
    const auto add_to = [&](int i, Acc term) {
      const Acc other = other_term(term, largest);
      DoubleWord& sum = partial[0][0][i % kLeaves];
      sum = i < kLeaves ? as_double_word(other) : add(sum, other);
    };
    constexpr int kAtOnce = Op::kPairs && !Op::kKeepsTerm && !kOthersInLow ? 2 : 1;  // of 16 bits registers are short
#pragma unroll
    for (int i = 0; i < kItems; i += kAtOnce) {
      if constexpr (kAtOnce == 1) {
        add_to(i, adder.term_of(item_[i], context));
      } else {
        Pair elements = pair_at(i);
        Acc term[2];
        adder.terms_of(elements, context).get(term[0], term[1]);
        add_to(i, term[0]);
        add_to(i + 1, term[1]);
      }
    }
    sums_of_lane(partial, 0, false, kCompensated, sum_of_all);
    return sum_in_order(sum_of_all[0], false, kCompensated);
  }

  // The other two parts of the order: the tree over the kMaxVec partial sums, and over the lanes, some of which may be
  // parts of this one. With kVec < kLeaves some of the log2 kLeaves lowest bits of j are bits of the lane's number, and
  // as many of the bits between are bits of the item's. Each step of the second loop adds over such a lane bit. Both
  // lanes would hold the same sums after it; so each keeps half of the items, and that item bit becomes this lane bit.
  // So kSwapped lanes divide the items among them. `exact`: the high words add up exactly.
  template <int kCount, int kOf>
  CSM_DEVICE static void sums_of_lane(DoubleWord (&p)[kCount][kOf][kLeaves], int k, bool exact, bool low_word,
                                      DoubleWord (&sum)[kCount]) {
    const int lane = thread_index() % kLanes;
    const auto each = [&](auto step) {
#pragma unroll
      for (int t = 0; t < kCount; ++t) step(p[t][k]);
    };
    each([&](DoubleWord(&q)[kLeaves]) {
#pragma unroll
      for (int step = 1; step < kVec; step *= 2) {
#pragma unroll
        for (int i = 0; i < kLeaves; i += 2 * step) {
          if (i + step < kItems) q[i] = add_parts(exact, q[i], q[i + step]);
        }
      }
    });
    // The sums are now p[h · kVec]. Before the parts of different lanes of the order are added, each is settled.
    constexpr int kParts = kLeaves / kVec, kLeft = kParts / kSwapped;
    const auto settle = [&](DoubleWord(&q)[kLeaves], int added, int count) {
#pragma unroll
      for (int h = 0; h < kParts; ++h) {
        if (exact && added == kMaxVec && h < count) q[h * kVec] = Adder::of_lane(k, q[h * kVec]);
      }
    };
#pragma unroll
    for (int bit = 1; bit < kSwapped; bit *= 2) {
      const bool upper = lane & bit;
      const int half = kParts / bit / 2;
      each([&](DoubleWord(&q)[kLeaves]) {
        settle(q, kVec * bit, kParts / bit);
#pragma unroll
        for (int h = 0; h < kParts / 2; ++h) {
          if (h >= half) continue;
          const DoubleWord low = q[h * kVec], high = q[(h + half) * kVec];
          q[h * kVec] = add_parts(exact, upper ? high : low, shuffle_xor(upper ? low : high, bit, kLanes, low_word));
        }
      });
    }
    each([&](DoubleWord(&q)[kLeaves]) {
#pragma unroll
      for (int step = 1; step < kLeft; step *= 2) {
        settle(q, kVec * kSwapped * step, kLeft);
#pragma unroll
        for (int h = 0; h < kLeft; h += 2 * step) {
          if (kLanes > 1 || (h + step) * kVec < kItems) {
            q[h * kVec] = add_parts(exact, q[h * kVec], q[(h + step) * kVec]);
          }
        }
      }
      settle(q, kLeaves, 1);
    });
#pragma unroll
    for (int t = 0; t < kCount; ++t) sum[t] = p[t][k][0];
  }

  // A lane's sum becomes that of all lanes, or of those that have the same tile.
  CSM_DEVICE static DoubleWord sum_in_order(DoubleWord sum, bool exact, bool low_word, int first = kSwapped) {
#pragma unroll
    for (int bit = first; bit < kLanes; bit *= 2) sum = add_parts(exact, sum, shuffle_xor(sum, bit, kLanes, low_word));
#pragma unroll
    for (int bit = kSwapped / 2; bit >= 1; bit /= 2)
      sum = add_parts(exact, sum, shuffle_xor(sum, bit, kLanes, low_word));
    return sum;
  }

  // Several plain sums, each of its lane, in the same order. They are divided among lanes: in each of the first steps a
  // lane keeps half of them, and adds these alone. At last those that have a sum pass it on. Sums that add up exactly
  // have the same bits by add() too.
  static constexpr bool kDivides = kLanes == kWarp && kRelative == 0 && kSums >= 2 && kSums <= 4;
  template <int kFirst = 0>
  CSM_DEVICE static void divide_over_lanes(DoubleWord (&sum)[kPartials]) {
    const auto bit_of = [](int step) {  // those from kSwapped up, then those below it, down
      const int beyond = (kSwapped << step) / kLanes;
      return beyond == 0 ? kSwapped << step : kSwapped / 2 / beyond;
    };
    const int lane = thread_index() % kLanes;
    int kept = kSums;
#pragma unroll
    for (int step = kFirst; (1 << step) < kLanes; ++step) {
      const int bit = bit_of(step), half = (kept + 1) / 2;
      const bool upper = lane & bit;
#pragma unroll
      for (int k = 0; k < kPartials; ++k) {
        if (k >= half) continue;
        DoubleWord keep = sum[k], give = keep;
        if (half + k < kept) {
          keep = upper ? sum[half + k] : keep;
          give = upper ? give : sum[half + k];
        }
        sum[k] = add(keep, shuffle_xor(give, bit, kLanes, kCompensated));
      }
      kept = half;
    }
    const DoubleWord mine = sum[0];
    constexpr int kHalf = (kSums + 1) / 2;
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      const int of_tile = kFirst == 0 ? 0 : lane & bit_of(0);
      const int from = of_tile + (k < kHalf ? 0 : bit_of(kFirst)) + (k % kHalf == 0 ? 0 : bit_of(kFirst + 1));
      sum[k] = {shuffle(mine.hi, from, kWarp), kCompensated ? shuffle(mine.lo, from, kWarp) : Acc(0)};
    }
  }
};

}  // namespace csm
