// Node: what is known of a set of elements of one row, and the merge of two sets. The tiles compute nodes of chunks,
// and reduce/fold.cuh merges them into that of the row.
//
// A node has the maximum m, the sums of terms relative to the reference of m (numeric/exp.cuh), plain sums, and values
// picked from single elements. For an operation without relative sums m stays −∞, and a merge just adds.
#pragma once

#include "numeric/log.cuh"

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
  DoubleWord m;  // its low word is used only if kDoubleWordMaximum
  // The relative sums first. The first one may have the largest term and the others apart (see below).
  DoubleWord s[kSums > 0 ? kSums : 1];
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

// --- sums ------------------------------------------------------------------------------------------------------------

// Whether the k-th sum has a second word.
CSM_DEVICE constexpr bool has_low_word(int k) { return kCompensated || (kOthersInLow && k < kRelative); }

// Adds a term to the k-th sum, or makes it the first. `start` is not smaller than any bounded term: the sum starts
// there, for the fast two-sum, and less_start() takes it off again. With kOthersInLow it is the largest term, and those
// equal to it are counted: exactly, so that several sums may have one count, `ones`.
CSM_DEVICE void add_term(int k, DoubleWord& sum, Acc& ones, Acc term, bool first, bool bounded, Acc start) {
  if (kOthersInLow && k < kRelative) {
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
// Exact: the sum is not smaller than the start, which is a multiple of the sum's last place.
CSM_DEVICE DoubleWord less_start(DoubleWord sum, Acc start) { return {sum.hi - start, sum.lo}; }

// The sum of two partial sums of a chunk, whose high words may be known to add up exactly.
CSM_DEVICE DoubleWord add_parts(bool exact, DoubleWord a, DoubleWord b) {
  if (exact) return {a.hi + b.hi, a.lo + b.lo};
  return add(a, b);
}

// A relative sum as the double word that it is.
CSM_DEVICE DoubleWord collected(DoubleWord sum) {
  if constexpr (kOthersInLow) return two_sum(sum.hi, sum.lo);
  return sum;
}
// The sums relative to a set's reference, relative to that of a larger maximum.
CSM_DEVICE void refer_sums(Node& node, DoubleWord to) {
  if constexpr (kFastExp) {
#pragma unroll
    for (int k = 0; k < kRelative; ++k) {
      const Factor moved = factor_between(node.m, to, collected(node.s[k]));
      node.s[k] = kOthersInLow ? DoubleWord{Acc(0), moved.times.hi * moved.power} : moved.times;
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

// --- others than the largest -----------------------------------------------------------------------------------------
//
// With Op::kOthers the first sum without the largest term is needed to all its digits: where that dominates, the
// logarithm of the sum is nearly the sum of the others, which is lost beside it. So a chunk whose others are less than
// kDominated of its largest term adds them once more by themselves (RowTile::others_than, ColumnTile::reduce). It keeps
// them in one of two ways:
//   kOthersNegative  s[0] is minus the sum of the others, a double word; −0 if they are nothing. So it is in a union
//                    with lower sets. Otherwise s[0] is the sum of all terms.
//   kOthersInLow     results of 16 bits, which have no time for the six more instructions an element of double words:
//                    s[0].hi is the sum of the terms equal to the largest, s[0].lo that of the others. A chunk that
//                    no term dominates has all of its sum as s[0].hi. Columns, which do not add twice, tell the terms
//                    apart as they add them: two more instructions an element.
template <class AnyOp>
constexpr bool kOthersNegative = AnyOp::kOthers && kCompensated && !kFastExp;
constexpr Acc kDominated = kOthersInLow ? Acc(0x1p-3) : kSingle ? Acc(0x1p-4) : Acc(0x1p-20);

// Whether the largest term dominates the sum of a chunk; that of a chunk of −∞ alone is 0.
CSM_DEVICE bool is_dominated(Acc sum, Acc largest) {
  return (!kOthersInLow || sum > Acc(0)) && sum < (Acc(1) + kDominated) * largest;
}
// Whether it may, for kOthersNegative: no term is above 1.5 / kRaise.
CSM_DEVICE bool may_be_dominated(Acc sum) { return sum < (Acc(1) + kDominated) * (Acc(1.5) / ExpC::kRaise); }
// A term, or 0 if it is the largest: where that dominates, no other is above half of it.
CSM_DEVICE Acc other_term(Acc term, Acc largest) { return term > Acc(0.5) * largest ? Acc(0) : term; }

CSM_DEVICE bool lacks_largest(DoubleWord sum) { return has_sign(sum.hi); }
// The whole of such a sum, and the others, of a sum that may be one.
CSM_DEVICE DoubleWord with_largest(DoubleWord sum, Acc largest) {
  if constexpr (kRowIsTile) {  // the others are less than the largest
    const DoubleWord whole = fast_two_sum(largest, -sum.hi);
    return lacks_largest(sum) ? DoubleWord{whole.hi, whole.lo - sum.lo} : sum;
  }
  return lacks_largest(sum) ? add(negative(sum), largest) : sum;
}
CSM_DEVICE DoubleWord without_largest(DoubleWord sum, Acc largest) {
  return normalised(lacks_largest(sum) ? negative(sum) : add(sum, -largest));
}
// The first sum of a row, whose maximum has the exponential `largest`; and what it is without that.
template <class AnyOp>
CSM_DEVICE DoubleWord whole_sum(const Node& row, Acc largest) {
  if constexpr (kOthersNegative<AnyOp>) return with_largest(row.s[0], largest);
  else return collected(row.s[0]);
}
template <class AnyOp>
CSM_DEVICE DoubleWord sum_of_others(const Node& row, Acc largest) {
  if constexpr (kOthersNegative<AnyOp>) return without_largest(row.s[0], largest);
  const DoubleWord sum = normalised(drop_invalid_low(collected(row.s[0])));
  return normalised({sum.hi - largest, sum.lo});
}

// A relative sum over the exponential of the maximum, `largest`: Σ b exp(x − m). If the maximum's own term is nearly
// all of the sum, the others are known to all digits.
CSM_DEVICE DoubleWord relative_to_maximum(DoubleWord sum, DoubleWord m, Acc largest) {
  sum = drop_invalid_low(collected(sum));
  if constexpr (!kFastExp) {
    if (!is_finite(m.hi) || !is_finite(sum.hi)) return as_double_word(sum.hi);
    const DoubleWord others = normalised(add(sum, -largest));
    const DoubleWord inverse = normalised(reciprocal_of(as_double_word(largest)));
    if (!(magnitude(others.hi) < Acc(0.5) * largest)) return multiply(normalised(sum), inverse);
    const DoubleWord lifted = normalised(multiply(csm::lifted(others), inverse));
    const DoubleWord rest = times(lifted, Acc(1) / kLift);
    const DoubleWord whole = fast_two_sum(Acc(1), rest.hi);
    sum = {whole.hi, whole.lo + rest.lo};
  }
  return sum;
}

// The logarithm of a row's first sum, of exponentials, over that of its maximum.
CSM_DEVICE DoubleWord log_of_row(const Node& row) {
  const Acc largest = largest_exponential(row.m);
  if constexpr (kCompensated) return log_of_sum(row.s[0], largest, lost_of_largest(row.m, largest));
  else return as_double_word(fast_log_of_sum(row.s[0].hi, row.s[0].lo, largest));
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
  if constexpr (kOthersNegative<AnyOp>) {
    if (unlikely(lacks_largest(a.s[0]) || lacks_largest(b.s[0]))) {
      // The lower set's sum becomes whole, and of two with the row's maximum the other one too.
      const Acc largest = largest_exponential(low.m);
      low.s[0] = with_largest(low.s[0], largest);
      if (same) high.s[0] = with_largest(high.s[0], largest);
      if (lacks_largest(high.s[0])) low.s[0] = negative(low.s[0]);
    }
  }
  // Relative to the reference of +∞ all else would be 0, and +∞ itself NaN.
  const bool infinite = AnyOp::kMayBeInfinite && !kFastExp && unlikely(high.m.hi > largest_number());
  if (kMaximum && (!kFastExp || !same) && !infinite) refer_sums(low, high.m);
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
