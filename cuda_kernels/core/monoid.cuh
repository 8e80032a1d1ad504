// What is known of a set of elements of one row: their maximum m and the sum s of their terms, relative to m.
//
// An operation without a maximum stage leaves m at −inf, and merging is plain addition.
#pragma once

#include "core/exp.cuh"
#include "core/vec.cuh"

namespace csm {

struct Node {
  Acc m;
  Wide s;
};

CSM_DEVICE Node nothing() { return {negative_infinity(), {Acc(0), Acc(0)}}; }

// What to subtract from elements whose maximum is m: nothing if they are all −inf, since −inf − (−inf) is NaN.
CSM_DEVICE Acc shift_of(Acc m) { return m == negative_infinity() ? Acc(0) : m; }

// The union of two sets. Symmetric, bit for bit, and merging `nothing()` changes no bit: so a tree of merges gives the
// same bits whoever does them and however many empty leaves pad it.
//   (−inf, 0) and (−inf, 0): the maxima are equal, no exponential is formed, the sum stays 0.
//   +inf or NaN among the elements: their chunk's sum is NaN already, and NaN it stays.
template <bool HasMaximum>
CSM_DEVICE Node merge(Node a, Node b) {
  if constexpr (!HasMaximum) return {a.m, add(a.s, b.s)};
  const bool exchange = a.m < b.m;
  const Node high = exchange ? b : a, low = exchange ? a : b;
  return {high.m, add(high.s, low.m == high.m ? low.s : exp_difference_times(low.m, high.m, low.s))};
}

// The node that `pass` makes of each word in use.
template <class Pass>
CSM_DEVICE Node with_words(Node a, bool has_maximum, Pass pass) {
  if (has_maximum) a.m = pass(a.m);
  a.s.hi = pass(a.s.hi);
  if constexpr (kCompensated) a.s.lo = pass(a.s.lo);
  return a;
}

CSM_DEVICE Node shuffle_xor(Node a, int lane_mask, int width, bool has_maximum) {
  return with_words(a, has_maximum, [=](Acc word) { return shuffle_xor(word, lane_mask, width); });
}

CSM_DEVICE Node shuffle(Node a, int lane, int width, bool has_maximum) {
  return with_words(a, has_maximum, [=](Acc word) { return shuffle(word, lane, width); });
}

}  // namespace csm
