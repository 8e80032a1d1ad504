// A chunk of one row in the registers of kLanes lanes, kItems elements each.
//
// Element j of the chunk is with lane (j / kVec) % kLanes, as item (j / (kVec·kLanes))·kVec + j % kVec: each access of
// kVec elements is contiguous over the lanes, whatever kVec the rows' alignment allowed. Sums must not depend on kVec
// (row 0 of a batch of odd rows is aligned, row 1 is not, and both owe the same bits), so they follow the bits of the
// element's number j, in one order:
//
//   first   the bits from log2(kGroup·kLanes) up: ascending j, one after the other;
//   then    the log2 kGroup lowest bits: a binary tree from bit 0 up;
//   then    the log2 kLanes bits between: likewise.
//
// Where a bit lives, in the item's number or in the lane's, is what kVec decides; only who adds depends on it.
#pragma once

#include "reduce/node.cuh"

namespace csm {

// Where one row starts, in every operand.
struct Row {
  char* start[kOperands];

  CSM_DEVICE void advance(const Layout& at, i64 rows) {
#pragma unroll
    for (int k = 0; k < kOperands; ++k) start[k] += rows * at.inner_stride[k];
  }
};

CSM_DEVICE Row row_at(const Arguments& args, i64 row) {
  const Layout& at = args.layout;
  Row found;
#pragma unroll
  for (int k = 0; k < kOperands; ++k) {
    found.start[k] = args.operand[k] + offset_of(row, at.batch_size, at.batch_stride[k], at.batch_dims);
  }
  return found;
}

// Byte offset of an element of a row. The last of the row's dimensions is contiguous.
template <int Operand>
CSM_DEVICE i64 element_offset(const Arguments& args, i64 index) {
  if constexpr (kRowDims == 1) return index * static_cast<i64>(sizeof(Type<Operand>));
  else return offset_of(index, args.layout.reduce_size, args.layout.reduce_stride[Operand], args.layout.reduce_dims);
}

// The values that come with a row.
template <int Which = 0>
CSM_DEVICE void read_given(const Row& row, bool wanted, Given& given) {
  if constexpr (Which < kRowInputs) {
    const auto value = global_load(row.start[kInputs + Which], wanted, Type<kInputs + Which>{});
    given[Which] = widen(value);
    given.whole[Which] = as_integer(value);
    read_given<Which + 1>(row, wanted, given);
  }
}
// How many elements a row may see of itself: as many as its place among the queries allows. The last query sees all.
CSM_DEVICE i64 kept_of(const Arguments& args, i64 number) {
  const i64 queries = args.layout.option[kQueries], n = args.layout.n;
  const i64 kept = number % queries + 1 + (n - queries);
  return kept > 0 ? kept : 0;
}

template <class Op>
CSM_DEVICE Given given_of(const Arguments& args, const Row& row, i64 number, bool wanted = true) {
  Given given = {};
  given.args = &args;
  given.row = number;
  given.n = args.layout.n;
  if constexpr (kCausal) given.kept = kept_of(args, number);
  read_given(row, wanted, given);
  Op::begin(given);
  return given;
}

// Writes a row's values, which follow from its node.
template <int Which = 0>
CSM_DEVICE void store_values(const Row& row, bool wanted, const Values<kRowOutputs>& values) {
  if constexpr (Which < kRowOutputs) {
    using T = Type<kFirstRowOutput + Which>;
    global_store(row.start[kFirstRowOutput + Which], narrow<T>(values[Which]), wanted);
    store_values<Which + 1>(row, wanted, values);
  }
}
template <class Op>
CSM_DEVICE void write_values(const Row& row, const Node& whole, const Given& given, bool wanted) {
  if constexpr (kRowOutputs > 0) {
    Values<kRowOutputs> values = {};
    if (wanted) Op::finish(whole, given, values);
    store_values(row, wanted, values);
  }
}

constexpr int kPartials = kSums > 0 ? kSums : 1;

// A pattern that lays rows of several lengths names the lanes, items and access itself. Fewer items change no bit of a
// row that they hold: those beyond its end add nothing.
template <class Op, int kLanes = csm::kLanes, int kItems = csm::kItems, int kVec = csm::kVec>
class RowTile {
  static constexpr int kVectors = kItems / kVec, kChunk = kLanes * kItems;

 public:
  // Places this lane's elements in the chunk that starts at element `first` of a row of n.
  CSM_DEVICE RowTile(i64 first, i64 n) : index_(first + (thread_index() % kLanes) * kVec) {
    const i64 left = n - first;
    left_ = static_cast<int>(left < kChunk ? left : kChunk);
  }

  // Elements beyond the row's end are read as the operation's neutral value, and do not enter; hidden ones become it.
  CSM_DEVICE void read(const Arguments& args, const Row& row, const Given& given) {
    if constexpr (kCausal) {
      const i64 more = given.kept - index_;
      seen_ = static_cast<int>(more < 0 ? 0 : more < kChunk ? more : kChunk);
    }
    read_inputs(args, row);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {  // under one condition, so that neighbours share what they have in common
      if (!wanted(v)) continue;
#pragma unroll
      for (int i = v * kVec; i < (v + 1) * kVec; ++i) Op::enter(item_[i], place_of(i), given);
    }
    if constexpr (kHides) {
      kept_ = 0;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (!hides<Op>(item_[i], !kCausal || step_of(i) < seen_)) kept_ |= 1u << i;
      }
    }
  }

  // The same of elements that are at hand: get(i) is this lane's i-th.
  template <class Get>
  CSM_DEVICE void fill(Get get) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) item_[i] = get(i);
  }

  CSM_DEVICE void write(const Arguments& args, const Row& row, const typename Op::Scale& scale) const {
#pragma unroll
    for (int block = 0; block < kItems; block += kGroup) {
      if (!reached(block)) continue;
#pragma unroll
      for (int v = block / kVec; v < (block + kGroup) / kVec; ++v) {
        Values<kOutputs> result[kVec];
#pragma unroll
        for (int i = 0; i < kVec; ++i) {
          Op::map(item_[v * kVec + i], scale, place_of(v * kVec + i), result[i]);
          if (kHides && !(kept_ >> (v * kVec + i) & 1)) hide<Op>(result[i]);
        }
        store_outputs(args, row, v, result);
      }
    }
  }

  // Maximum and sum of the chunk, the same in all its lanes; the elements become what the map needs of them.
  CSM_DEVICE Node reduce(const Given& given) {
    Node node = nothing();
    node.m = maximum_of(given);
    node.picked = picked_of(given);
    Wide partial[kPartials][kGroup];
    terms(node.m, given, partial);
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      node.s[k] = sum_in_order(partial[k]);
      node.s[k].hi = node.s[k].hi + Acc(0);  // no −0: it would not survive merging with nothing()
    }
    return node;
  }

  // What reduce() does to the elements, without the sum. Returns the maximum.
  CSM_DEVICE Wide prepare(const Given& given) {
    const Wide m = maximum_of(given);
    Wide unused[kPartials][kGroup];
    terms(m, given, unused);
    return m;
  }

  // The elements' resting place in shared memory, for chunks beyond those in registers: one value a lane, so neither
  // barrier nor bank conflict.
  CSM_DEVICE void park(Shared<Acc> slot) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int k = 0; k < kHeld; ++k) slot.store(parked_at(i, k), item_[i][k]);
    }
    if constexpr (kHides) slot.store(parked_at(kItems, 0), from_bits(kept_));
  }
  CSM_DEVICE void unpark(Shared<Acc> slot) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int k = 0; k < kHeld; ++k) item_[i][k] = slot.load(parked_at(i, k));
    }
    if constexpr (kHides) kept_ = to_bits(slot.load(parked_at(kItems, 0)));
  }
  static constexpr int kParked = kChunk * kHeld + (kHides ? kLanes : 0);  // words of a parked chunk

 protected:
  Element item_[kItems];
  i64 index_;  // this lane's first element in the row
  int left_;   // elements of the chunk that the row has; none if not positive
  // Where elements may be hidden: those from here on, counted from this lane's first; and a bit for each that is not.
  int seen_;
  unsigned kept_;
  static_assert(!kHides || kItems <= 32, "a bit for each of a lane's elements");

  CSM_DEVICE i64 index_of(int v) const { return index_ + v * (kLanes * kVec); }
  CSM_DEVICE static constexpr int step_of(int i) { return i / kVec * (kLanes * kVec) + i % kVec; }
  CSM_DEVICE Place place_of(int i) const { return {index_, step_of(i)}; }
  // kVec divides the length of the row's last dimension: a vector is inside whole or not at all.
  CSM_DEVICE bool wanted(int v) const { return v * (kLanes * kVec) + (thread_index() % kLanes) * kVec < left_; }
  // Whether it is read, too: of a vector that hidden elements begin in, all are.
  CSM_DEVICE bool seen(int v) const { return wanted(v) && (!kCausal || step_of(v * kVec) < seen_); }
  // Whether the row reaches the items [i, i + kGroup), in any lane: they are kGroup·kLanes neighbouring elements. Lanes
  // of a row agree, so work on items beyond the row's end is skipped at the price of a branch: a row one element longer
  // than a chunk costs a warp of kGroup items a lane, not of kItems.
  CSM_DEVICE bool reached(int i) const { return i * kLanes < left_; }

 private:
  CSM_DEVICE static int parked_at(int i, int k) { return (i * kHeld + k) * kLanes + thread_index() % kLanes; }

  template <int Operand = 0>
  CSM_DEVICE void read_inputs(const Arguments& args, const Row& row) {
    if constexpr (Operand < kInputs) {
      Acc same[1];
      if constexpr (kRepeated<Operand>) load<Type<Operand>, neutral_of<Op>(Operand)>(row.start[Operand], seen(0), same);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        Acc got[kVec];
        if constexpr (kRepeated<Operand>) {
#pragma unroll
          for (int i = 0; i < kVec; ++i) got[i] = wanted(v) ? same[0] : neutral<Op>(Operand);
        } else {
          load<Type<Operand>, neutral_of<Op>(Operand)>(row.start[Operand] + element_offset<Operand>(args, index_of(v)),
                                                       seen(v), got);
        }
#pragma unroll
        for (int i = 0; i < kVec; ++i) item_[v * kVec + i][Operand] = got[i];
      }
      read_inputs<Operand + 1>(args, row);
    }
  }

  template <int Which = 0>
  CSM_DEVICE void store_outputs(const Arguments& args, const Row& row, int v,
                                const Values<kOutputs> (&result)[kVec]) const {
    if constexpr (Which < kOutputs) {
      constexpr int kOperand = kFirstOutput + Which;
      Acc give[kVec];
#pragma unroll
      for (int i = 0; i < kVec; ++i) give[i] = result[i][Which];
      store<Type<kOperand>>(row.start[kOperand] + element_offset<kOperand>(args, index_of(v)), wanted(v), give);
      store_outputs<Which + 1>(args, row, v, result);
    }
  }

  CSM_DEVICE Wide maximum_of(const Given& given) const {
    Acc m = negative_infinity();
    if constexpr (kMaximum) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) m = maximum(m, Op::key(item_[i], given));
#pragma unroll
      for (int mask = 1; mask < kLanes; mask *= 2) m = maximum(m, shuffle_xor(m, mask, kLanes));
      if constexpr (!Op::kSecondKey) return Op::largest(m, given);
      Acc low = negative_infinity();
#pragma unroll
      for (int i = 0; i < kItems; ++i) low = maximum(low, Op::second_key(item_[i], m, given));
#pragma unroll
      for (int mask = 1; mask < kLanes; mask *= 2) low = maximum(low, shuffle_xor(low, mask, kLanes));
      return {m, low == negative_infinity() ? Acc(0) : low};
    }
    return widen_exactly(m);
  }

  CSM_DEVICE Values<kPicked> picked_of(const Given& given) const {
    Values<kPicked> picked = {};
    if constexpr (kPicked > 0) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) Op::pick(item_[i], place_of(i), given, picked);
#pragma unroll
      for (int k = 0; k < kPicked; ++k) {
#pragma unroll
        for (int mask = 1; mask < kLanes; mask *= 2) picked[k] += shuffle_xor(picked[k], mask, kLanes);
      }
    }
    return picked;
  }

  // The bits from log2(kGroup·kLanes) up: partial[k][p] is the k-th sum over the items ≡ p (mod kGroup).
  CSM_DEVICE void terms(Wide m, const Given& given, Wide (&partial)[kPartials][kGroup]) {
    const Wide shift = shift_of(m);
#pragma unroll
    for (int block = 0; block < kItems; block += kGroup) {
      if (block > 0 && !reached(block)) continue;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        Values<kSums> term;
        Op::terms(item_[block + i], shift, place_of(block + i), given, term);
#pragma unroll
        for (int k = 0; k < kSums; ++k) {
          partial[k][i] = block == 0 ? widen_exactly(term[k]) : add(partial[k][i], term[k]);
        }
      }
    }
  }

  // The other bits. With kVec < kGroup some of the kGroup low bits lie in the lane's number, and as many of the bits
  // between in the item's: each step below adds over a lane bit and, since every lane would hold the same sums, hands
  // half of the items to each of the two lanes. The bit that told the items apart then lies in that lane bit.
  CSM_DEVICE static Wide sum_in_order(Wide (&p)[kGroup]) {
    const int lane = thread_index() % kLanes;
    constexpr int kSwapped = kLanes < kGroup / kVec ? kLanes : kGroup / kVec;  // lanes over which items are handed out
#pragma unroll
    for (int step = 1; step < kVec; step *= 2) {
#pragma unroll
      for (int i = 0; i < kGroup; i += 2 * step) p[i] = add(p[i], p[i + step]);
    }
    // From here on every kVec-th is a sum, and `count` of them are left.
    int count = kGroup / kVec;
#pragma unroll
    for (int bit = 1; bit < kSwapped; bit *= 2) {
      count /= 2;
      const bool upper = lane & bit;
#pragma unroll
      for (int h = 0; h < count; ++h) {
        const Wide low = p[h * kVec], high = p[(h + count) * kVec];
        p[h * kVec] = add(upper ? high : low, exchange(upper ? low : high, bit));
      }
    }
#pragma unroll
    for (int step = 1; step < count; step *= 2) {
#pragma unroll
      for (int h = 0; h < count; h += 2 * step) p[h * kVec] = add(p[h * kVec], p[(h + step) * kVec]);
    }
    Wide sum = p[0];
#pragma unroll
    for (int bit = kSwapped; bit < kLanes; bit *= 2) sum = add(sum, exchange(sum, bit));
#pragma unroll
    for (int bit = kSwapped / 2; bit >= 1; bit /= 2) sum = add(sum, exchange(sum, bit));
    return sum;
  }

  CSM_DEVICE static Wide exchange(Wide a, int lane_mask) {
    Wide b = {shuffle_xor(a.hi, lane_mask, kLanes), Acc(0)};
    if constexpr (kCompensated) b.lo = shuffle_xor(a.lo, lane_mask, kLanes);
    return b;
  }
};

}  // namespace csm
