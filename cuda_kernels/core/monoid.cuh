// What is known of a set of elements of one row: their maximum m and the sums s of their terms, relative to m.
//
// An operation without a maximum stage leaves m at −inf, and merging is plain addition. Also what operations have in
// common, seen from the patterns.
#pragma once

#include "core/exp.cuh"
#include "core/vec.cuh"

namespace csm {

struct Node {
  Acc m;
  Wide s[kSums > 0 ? kSums : 1];
};

CSM_DEVICE Node nothing() {
  Node node = {negative_infinity(), {}};
#pragma unroll
  for (int k = 0; k < kSums; ++k) node.s[k] = {Acc(0), Acc(0)};
  return node;
}

// What to subtract from elements whose maximum is m: nothing if they are all −inf, since −inf − (−inf) is NaN.
CSM_DEVICE Acc shift_of(Acc m) { return m == negative_infinity() ? Acc(0) : m; }

// The union of two sets. Symmetric, bit for bit, and merging `nothing()` changes no bit: so a tree of merges gives the
// same bits whoever does them and however many empty leaves pad it.
//   (−inf, 0) and (−inf, 0): the maxima are equal, no exponential is formed, the sum stays 0.
//   +inf or NaN among the elements: their chunk's sum is NaN already, and NaN it stays.
template <bool HasMaximum>
CSM_DEVICE Node merge(Node a, Node b) {
  if constexpr (!HasMaximum) {
#pragma unroll
    for (int k = 0; k < kSums; ++k) a.s[k] = add(a.s[k], b.s[k]);
    return a;
  } else {
    const bool exchange = a.m < b.m;
    Node high = exchange ? b : a;
    const Node low = exchange ? a : b;
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      high.s[k] = add(high.s[k], low.m == high.m ? low.s[k] : exp_difference_times(low.m, high.m, low.s[k]));
    }
    return high;
  }
}

// The node that `pass` makes of each word in use.
template <class Pass>
CSM_DEVICE Node with_words(Node a, bool has_maximum, Pass pass) {
  if (has_maximum) a.m = pass(a.m);
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    a.s[k].hi = pass(a.s[k].hi);
    if constexpr (kCompensated) a.s[k].lo = pass(a.s[k].lo);
  }
  return a;
}

CSM_DEVICE Node shuffle_xor(Node a, int lane_mask, int width, bool has_maximum) {
  return with_words(a, has_maximum, [=](Acc word) { return shuffle_xor(word, lane_mask, width); });
}

CSM_DEVICE Node shuffle(Node a, int lane, int width, bool has_maximum) {
  return with_words(a, has_maximum, [=](Acc word) { return shuffle(word, lane, width); });
}

using Element = Values<kInputs>;  // of one place in a row, from every input

// What comes with a row: its values, its number and its length.
struct Given : Values<kRowInputs> {
  i64 row, n;
};

// Base of an operation with no value of a row among its results: nothing to finish.
struct WritesElements {
  CSM_DEVICE static void finish(const Node&, const Given&, Values<kRowOutputs>&) {}
};

// Base of an operation whose results are values of a row alone: nothing to map.
struct WritesRows {
  struct Scale {};
  CSM_DEVICE static Scale scale(Acc, const Node&, const Given&) { return {}; }
  CSM_DEVICE static void map(const Element&, Scale, i64, Values<kOutputs>&) {}
};

}  // namespace csm
