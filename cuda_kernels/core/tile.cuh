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

#include "core/monoid.cuh"

namespace csm {

// Where one row starts, in every operand.
struct Row {
  const char* in0;
  const char* in1;
  char* out;

  CSM_DEVICE void advance(const Layout& at, i64 rows) {
    in0 += rows * at.inner_stride[0];
    in1 += rows * at.inner_stride[1];
    out += rows * at.inner_stride[2];
  }
};

CSM_DEVICE Row row_at(const Arguments& args, i64 row) {
  const Layout& at = args.layout;
  return {args.in0 + offset_of(row, at.batch_size, at.batch_stride[0], at.batch_dims),
          args.in1 + offset_of(row, at.batch_size, at.batch_stride[1], at.batch_dims),
          args.out + offset_of(row, at.batch_size, at.batch_stride[2], at.batch_dims)};
}

// Byte offset of an element of a row. The last of the row's dimensions is contiguous.
template <class T, int Operand>
CSM_DEVICE i64 element_offset(const Arguments& args, i64 index) {
  if constexpr (kDims == 1) return index * static_cast<i64>(sizeof(T));
  else return offset_of(index, args.layout.reduce_size, args.layout.reduce_stride[Operand], args.layout.reduce_dims);
}

template <class Op>
class RowTile {
  static constexpr int kVectors = kItems / kVec;

 public:
  // Places this lane's elements in the chunk that starts at element `first` of a row of n.
  CSM_DEVICE RowTile(i64 first, i64 n) : index_(first + (thread_index() % kLanes) * kVec) {
    const i64 left = n - first;
    left_ = static_cast<int>(left < kChunk ? left : kChunk);
  }

  // Elements beyond the row's end are read as the operation's neutral value.
  CSM_DEVICE void read(const Arguments& args, const Row& row) {
    read_input<In0, 0>(args, row.in0);
    if constexpr (Op::kInputs > 1) read_input<In1, 1>(args, row.in1);
  }

  CSM_DEVICE void write(const Arguments& args, const Row& row, const typename Op::Scale& scale) const {
#pragma unroll
    for (int block = 0; block < kItems; block += kGroup) {
      if (!reached(block)) continue;
#pragma unroll
      for (int v = block / kVec; v < (block + kGroup) / kVec; ++v) {
        Acc result[kVec];
#pragma unroll
        for (int i = 0; i < kVec; ++i) result[i] = Op::map(item_[v * kVec + i], scale);
        store<Out>(row.out + element_offset<Out, 2>(args, index_of(v)), wanted(v), result);
      }
    }
  }

  // Maximum and sum of the chunk, the same in all its lanes; the elements become what the map needs of them.
  CSM_DEVICE Node reduce() {
    Node node = nothing();
    node.m = maximum_of();
    Wide partial[kGroup];
    terms(node.m, partial);
    node.s = sum_in_order(partial);
    node.s.hi = node.s.hi + Acc(0);  // no −0: it would not survive merging with nothing()
    return node;
  }

  // What reduce() does to the elements, without the sum. Returns the maximum.
  CSM_DEVICE Acc prepare() {
    const Acc m = maximum_of();
    Wide unused[kGroup];
    terms(m, unused);
    return m;
  }

  // The elements' resting place in shared memory, for chunks beyond those in registers: one value a lane, so neither
  // barrier nor bank conflict.
  CSM_DEVICE void park(Shared<Acc> slot) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int k = 0; k < Op::kInputs; ++k) slot.store(parked_at(i, k), item_[i][k]);
    }
  }
  CSM_DEVICE void unpark(Shared<Acc> slot) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
#pragma unroll
      for (int k = 0; k < Op::kInputs; ++k) item_[i][k] = slot.load(parked_at(i, k));
    }
  }
  static constexpr int kParked = kChunk * Op::kInputs;  // words of a parked chunk

 private:
  Acc item_[kItems][Op::kInputs];
  i64 index_;  // this lane's first element in the row
  int left_;   // elements of the chunk that the row has; none if not positive

  CSM_DEVICE i64 index_of(int v) const { return index_ + v * (kLanes * kVec); }
  // kVec divides the length of the row's last dimension: a vector is inside whole or not at all.
  CSM_DEVICE bool wanted(int v) const { return v * (kLanes * kVec) + (thread_index() % kLanes) * kVec < left_; }
  // Whether the row reaches the items [i, i + kGroup), in any lane: they are kGroup·kLanes neighbouring elements. Lanes
  // of a row agree, so work on items beyond the row's end is skipped at the price of a branch: a row one element longer
  // than a chunk costs a warp of kGroup items a lane, not of kItems.
  CSM_DEVICE bool reached(int i) const { return i * kLanes < left_; }
  CSM_DEVICE static int parked_at(int i, int k) { return (i * Op::kInputs + k) * kLanes + thread_index() % kLanes; }

  template <class T, int Operand>
  CSM_DEVICE void read_input(const Arguments& args, const char* row) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      Acc got[kVec];
      load<T, Op::kNeutral>(row + element_offset<T, Operand>(args, index_of(v)), wanted(v), got);
#pragma unroll
      for (int i = 0; i < kVec; ++i) item_[v * kVec + i][Operand] = got[i];
    }
  }

  CSM_DEVICE Acc maximum_of() const {
    Acc m = negative_infinity();
    if constexpr (Op::kMaximum) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) m = maximum(m, Op::key(item_[i]));
#pragma unroll
      for (int mask = 1; mask < kLanes; mask *= 2) m = maximum(m, shuffle_xor(m, mask, kLanes));
    }
    return m;
  }

  // The bits from log2(kGroup·kLanes) up: partial[p] is the sum over the items ≡ p (mod kGroup).
  CSM_DEVICE void terms(Acc m, Wide (&partial)[kGroup]) {
    const Acc shift = shift_of(m);
#pragma unroll
    for (int block = 0; block < kItems; block += kGroup) {
      if (block > 0 && !reached(block)) continue;
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const Acc term = Op::term(item_[block + i], shift);
        partial[i] = block == 0 ? widen_exactly(term) : add(partial[i], term);
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
