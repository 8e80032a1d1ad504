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

CSM_DEVICE Node shuffle_xor(Node a, int lane_mask, int width, bool has_maximum) {
  Node b = a;
  if (has_maximum) b.m = shuffle_xor(a.m, lane_mask, width);
  b.s.hi = shuffle_xor(a.s.hi, lane_mask, width);
  if constexpr (kCompensated) b.s.lo = shuffle_xor(a.s.lo, lane_mask, width);
  return b;
}

CSM_DEVICE Node shuffle(Node a, int lane, int width, bool has_maximum) {
  Node b = a;
  if (has_maximum) b.m = shuffle(a.m, lane, width);
  b.s.hi = shuffle(a.s.hi, lane, width);
  if constexpr (kCompensated) b.s.lo = shuffle(a.s.lo, lane, width);
  return b;
}

}  // namespace csm
