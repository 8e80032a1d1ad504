// Node: what is known of a set of elements of one row, and the merge of two sets. The tiles compute nodes of chunks,
// and reduce/fold.cuh merges them into that of the row.
//
// A node has the maximum m, the sums of terms relative to m, plain sums, and values picked from single elements. For an
// operation without relative sums m stays −∞, and a merge just adds.
#pragma once

#include "numeric/exp.cuh"
#include "numeric/vec.cuh"

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
  DoubleWord s[kSums > 0 ? kSums : 1];  // the relative sums first
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

// What to subtract from elements whose maximum is m: m, or 0 if all of them are −∞, since −∞ − (−∞) is NaN.
CSM_DEVICE DoubleWord shift_of(DoubleWord m) { return m.hi == negative_infinity() ? as_double_word(Acc(0)) : m; }

// The node of the union of two sets. merge(a, b) and merge(b, a) have the same bits, and merging empty_node() changes
// none: so a tree of merges gives the same bits whichever threads compute it and however many empty leaves pad it.
//   Two sets of −∞ alone: the maxima are equal, no exponential is computed, and the sum stays 0.
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
  const Node low = exchange ? a : b;
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    const bool rescale = k < kRelative && (low.m.hi != high.m.hi || (kDoubleWordMaximum && low.m.lo != high.m.lo));
    high.s[k] = add(high.s[k], rescale ? exp_difference_times(low.m, high.m, low.s[k]) : low.s[k]);
  }
  // Of two elements with the row's maximum neither dominates.
  const bool keeps = kPickRule == PickRule::largest && (low.m.hi != high.m.hi || low.m.lo != high.m.lo);
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
    if constexpr (kCompensated) visit(kMaximumWords + 1 + 2 * k, node.s[k].lo);
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
