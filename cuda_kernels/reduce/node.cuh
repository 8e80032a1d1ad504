// Node: what is known of a set of elements of one row, and the merge of two sets. The tiles compute nodes of chunks,
// and reduce/fold.cuh merges them into that of the row.
//
// A node has the maximum m, the sums of terms relative to the reference of m (numeric/exp.cuh), plain sums, and values
// picked from single elements. For an operation without relative sums m stays −∞, and a merge just adds.
#pragma once

#include "numeric/exp.cuh"

namespace csm {

struct Op;  // the operation (ops/)

// A fixed number of values, which may be 0.
template <int Count>
struct Values {
  Acc at[Count > 0 ? Count : 1];
  CSM_DEVICE Acc& operator[](int i) { return at[i]; }
  CSM_DEVICE const Acc& operator[](int i) const { return at[i]; }
};

struct Node {
  DoubleWord m;                         // its low word is used only if kDoubleWordMaximum
  DoubleWord s[kSums > 0 ? kSums : 1];  // the relative sums first; with kCountsOnes they are counts and sums
  // Each is that of one element, or 0: their addition is exact. With PickRule::dominant the first is positive, and −1
  // for a set that has several such elements, which are then in the sums.
  Values<kPicked> picked;
};

// The node of no elements: the identity of merge().
CSM_DEVICE Node empty_node() {
  Node node = {as_double_word(negative_infinity()), {}};
#pragma unroll
  for (int k = 0; k < kSums; ++k) node.s[k] = {Acc(0), Acc(0)};
#pragma unroll
  for (int k = 0; k < kPicked; ++k) node.picked[k] = Acc(0);
  return node;
}

// --- counts and sums -------------------------------------------------------------------------------------------------
//
// Where one term of a relative sum dominates, the logarithm of the sum is nearly the sum of the others, which is lost
// beside the 1 that the maximum's own term is. A double word keeps it, but at six more instructions an element, which
// 16-bit kernels have no time for. With kCountsOnes the first word counts the terms that are the maximum's own, and the
// second sums the others: two more instructions.

// Whether the k-th sum has a second word.
CSM_DEVICE constexpr bool has_low_word(int k) { return kCompensated || (kCountsOnes && k < kRelative); }

// Adds a term to the k-th sum, or makes it the first. Counts are exact in any order, so several sums may have one
// count, `ones`: that of the first of them; `start` is the maximum's own term. Else the sum starts there if no term is
// larger, for the fast two-sum; less_start() takes that off again.
CSM_DEVICE void add_term(int k, DoubleWord& sum, Acc& ones, Acc term, bool first, bool bounded, Acc start) {
  if (kCountsOnes && k < kRelative) {
    if (first) sum = {Acc(0), Acc(0)};
    count_or_add(term, start, ones, sum.lo);
  } else if (bounded) {
    const Acc large = first ? start : sum.hi;
    sum.hi = large + term;
    const Acc error = fast_error(large, term, sum.hi);
    sum.lo = first ? error : sum.lo + error;
  } else {
    sum = first ? as_double_word(term) : add(sum, term);
  }
}
template <bool kPowerOfTwo>
CSM_DEVICE DoubleWord less_start(DoubleWord sum, Acc start) {
  if constexpr (kPowerOfTwo)
    return {sum.hi - start, sum.lo};  // exact: it is not larger, and a multiple of its last place
  const DoubleWord rest = fast_two_sum(sum.hi, -start);
  return {rest.hi, rest.lo + sum.lo};
}

// The sum of two partial sums of a chunk, whose high words may be known to add up exactly, or not to be negative: the
// smaller is then what the larger lacks of both, a comparison and a selection less.
CSM_DEVICE DoubleWord add_parts(bool exact, bool positive, DoubleWord a, DoubleWord b) {
  if (exact) return {a.hi + b.hi, a.lo + b.lo};
  if (!positive || !kSingle) return add(a, b);
  const Acc sum = a.hi + b.hi;
  return {sum, (a.lo + b.lo) + fast_error(maximum(a.hi, b.hi), minimum(a.hi, b.hi), sum)};
}

// A relative sum as the double word that it is.
CSM_DEVICE DoubleWord collected(DoubleWord sum) {
  if constexpr (kCountsOnes) return two_sum(sum.hi, kRaisesOthers ? sum.lo * Acc(0x1p-24) : sum.lo);
  return sum;
}
// The sums relative to a set's reference, relative to that of a larger maximum.
CSM_DEVICE void refer_sums(Node& node, DoubleWord to) {
  if constexpr (kFastExp) {
#pragma unroll
    for (int k = 0; k < kRelative; ++k) {
      const DoubleWord moved = factor_between(node.m, to, collected(node.s[k])).times;
      node.s[k] = kCountsOnes ? DoubleWord{Acc(0), moved.hi} : moved;
    }
  } else {
    DoubleWord moved[kRelative > 0 ? kRelative : 1];
#pragma unroll
    for (int k = 0; k < kRelative; ++k) moved[k] = node.s[k];
    const Acc power = move_between(node.m, to, moved);
#pragma unroll
    for (int k = 0; k < kRelative; ++k) node.s[k] = times_power(moved[k], power);
  }
}

// A relative sum over the exponential of the maximum, `largest`: Σ exp(x − m), in which the maximum's own term is
// exactly 1. If that is nearly all of the sum, the others are known to all digits, and so is what they are divided by.
// kWeighted: the maximum's own term is another one.
template <bool kWeighted = false>
CSM_DEVICE DoubleWord relative_to_maximum(DoubleWord sum, DoubleWord m, Acc largest) {
  sum = drop_invalid_low(collected(sum));
  if constexpr (!kFastExp) {
    if (!(magnitude(m.hi) < -negative_infinity()) || !(magnitude(sum.hi) < -negative_infinity()))
      return as_double_word(sum.hi);
    const DoubleWord inverse = normalised(reciprocal_of(as_double_word(largest)));
    const DoubleWord others = normalised(add(sum, -largest));
    if (!(magnitude(others.hi) < Acc(0.5) * largest)) return multiply(normalised(sum), inverse);
    const Acc lost = kWeighted ? Acc(0) : lost_of_largest(m, largest);
    const DoubleWord by = normalised(reciprocal_of({largest, lost}));
    const DoubleWord lifted = normalised(multiply({others.hi * kLift, others.lo * kLift}, by));
    const DoubleWord rest = {lifted.hi * (Acc(1) / kLift), lifted.lo * (Acc(1) / kLift)};
    const DoubleWord whole = fast_two_sum(Acc(1), rest.hi);
    sum = {whole.hi, whole.lo + rest.lo};
  }
  return sum;
}

// ---------------------------------------------------------------------------------------------------------------------

// The node of the union of two sets. merge(a, b) and merge(b, a) have the same bits, and merging empty_node() changes
// none: so a tree of merges gives the same bits whichever threads compute it and however many empty leaves pad it.
//   Two sets of −∞ alone: the sum stays 0.
//   Elements of +∞ or NaN: the sum of their chunk is NaN already, and stays NaN.
template <class AnyOp>
CSM_DEVICE void put_back(Node& node);  // adds the picked element to the sums

template <class AnyOp = Op>
CSM_DEVICE Node merge(Node a, Node b) {
  if constexpr (kDominant) {
    if (a.picked[0] != Acc(0) && b.picked[0] != Acc(0)) {
      put_back<AnyOp>(a);
      put_back<AnyOp>(b);
      a.picked[0] = Acc(-1);
    }
  }
  const bool exchange = kMaximum && (a.m.hi < b.m.hi || (kDoubleWordMaximum && a.m.hi == b.m.hi && a.m.lo < b.m.lo));
  Node high = exchange ? b : a;
  Node low = exchange ? a : b;
  const bool same = low.m.hi == high.m.hi && (!kDoubleWordMaximum || low.m.lo == high.m.lo);
  if (kMaximum && (!kFastExp || !same)) refer_sums(low, high.m);
#pragma unroll
  for (int k = 0; k < kSums; ++k) high.s[k] = add(high.s[k], low.s[k]);
  // Of two elements with the row's maximum neither dominates.
  const bool keeps = kPickRule == PickRule::largest && !same;
#pragma unroll
  for (int k = 0; k < kPicked; ++k) high.picked[k] = keeps ? high.picked[k] : high.picked[k] + low.picked[k];
  return high;
}

// Calls visit(field, word) for each word of a node that is in use, and for the high word of m, word 0, in any case.
template <class AnyNode, class Visit>
CSM_DEVICE void each_word(AnyNode& node, Visit visit) {
  constexpr int kMaximumWords = 1 + kDoubleWordMaximum;
  visit(0, node.m.hi);
  if constexpr (kDoubleWordMaximum) visit(1, node.m.lo);
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    visit(kMaximumWords + 2 * k, node.s[k].hi);
    if (has_low_word(k)) visit(kMaximumWords + 1 + 2 * k, node.s[k].lo);
  }
#pragma unroll
  for (int k = 0; k < kPicked; ++k) visit(kMaximumWords + 2 * kSums + k, node.picked[k]);
}

// The node of another lane. Without a maximum, m is the same in all lanes.
CSM_DEVICE Node shuffle_xor(Node node, int lane_mask, int width) {
  each_word(node, [=](int field, Acc& word) {
    if (kMaximum || field > 0) word = shuffle_xor(word, lane_mask, width);
  });
  return node;
}
CSM_DEVICE Node shuffle(Node node, int lane, int width) {
  each_word(node, [=](int field, Acc& word) {
    if (kMaximum || field > 0) word = shuffle(word, lane, width);
  });
  return node;
}

}  // namespace csm
