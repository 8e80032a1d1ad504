// What is known of a set of elements of one row: their maximum m, the sums of terms relative to m, plain
// sums, and values picked out of the row.
//
// An operation without sums of the first sort leaves m at −inf, and merging is plain addition. Also what operations
// have in common, seen from the patterns.
#pragma once

#include "numeric/exp.cuh"
#include "numeric/vec.cuh"

namespace csm {

struct Node {
  Wide m;                         // its second word where terms follow from numbers of two: kWideMaximum
  Wide s[kSums > 0 ? kSums : 1];  // the relative ones first
  Values<kPicked> picked;         // each that of at most one element, else 0: exact, however they are added
};

CSM_DEVICE Node nothing() {
  Node node = {widen_exactly(negative_infinity()), {}};
#pragma unroll
  for (int k = 0; k < kSums; ++k) node.s[k] = {Acc(0), Acc(0)};
#pragma unroll
  for (int k = 0; k < kPicked; ++k) node.picked[k] = Acc(0);
  return node;
}

// What to subtract from elements whose maximum is m: nothing if they are all −inf, since −inf − (−inf) is NaN.
CSM_DEVICE Wide shift_of(Wide m) { return m.hi == negative_infinity() ? widen_exactly(Acc(0)) : m; }

// The union of two sets. Symmetric, bit for bit, and merging `nothing()` changes no bit: so a tree of merges gives the
// same bits whoever does them and however many empty leaves pad it.
//   (−inf, 0) and (−inf, 0): the maxima are equal, no exponential is formed, the sum stays 0.
//   +inf or NaN among the elements: their chunk's sum is NaN already, and NaN it stays.
CSM_DEVICE Node merge(Node a, Node b) {
  const bool exchange = kMaximum && (a.m.hi < b.m.hi || (kWideMaximum && a.m.hi == b.m.hi && a.m.lo < b.m.lo));
  Node high = exchange ? b : a;
  const Node low = exchange ? a : b;
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    const bool rescale = k < kRelative && (low.m.hi != high.m.hi || (kWideMaximum && low.m.lo != high.m.lo));
    high.s[k] = add(high.s[k], rescale ? exp_difference_times(low.m, high.m, low.s[k]) : low.s[k]);
  }
#pragma unroll
  for (int k = 0; k < kPicked; ++k) high.picked[k] += low.picked[k];
  return high;
}

// The node that `pass` makes of each word in use.
template <class Pass>
CSM_DEVICE Node with_words(Node a, Pass pass) {
  if constexpr (kMaximum) a.m.hi = pass(a.m.hi);
  if constexpr (kWideMaximum) a.m.lo = pass(a.m.lo);
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    a.s[k].hi = pass(a.s[k].hi);
    if constexpr (kCompensated) a.s[k].lo = pass(a.s[k].lo);
  }
#pragma unroll
  for (int k = 0; k < kPicked; ++k) a.picked[k] = pass(a.picked[k]);
  return a;
}

CSM_DEVICE Node shuffle_xor(Node a, int lane_mask, int width) {
  return with_words(a, [=](Acc word) { return shuffle_xor(word, lane_mask, width); });
}

CSM_DEVICE Node shuffle(Node a, int lane, int width) {
  return with_words(a, [=](Acc word) { return shuffle(word, lane, width); });
}

using Element = Values<kInputs>;  // of one place in a row, from every input

// Where an element stands in its row: a number known to the compiler beyond where the thread's elements start, so that
// it costs one comparison of 32 bits to find an element that has a given place.
struct Place {
  i64 start;
  int step;

  CSM_DEVICE operator i64() const { return start + step; }
  CSM_DEVICE bool is(i64 place) const { return near(place) == step; }
  CSM_DEVICE bool before(i64 end) const {
    const i64 left = end - start;
    return step < (left < kReach ? static_cast<int>(left) : kReach);
  }

 private:
  static constexpr int kReach = 1 << 30;  // more than the elements of a thread lie apart
  CSM_DEVICE int near(i64 place) const {  // the same for all of a thread's elements
    const i64 distance = place - start;
    return distance >= 0 && distance < kReach ? static_cast<int>(distance) : -1;
  }
};

// What comes with a row: its values (integers also as they are), its number and length, and the call's numbers.
struct Given : Values<kRowInputs> {
  const Arguments* args;
  i64 row, n;
  i64 kept;  // where later elements are hidden: how many are not
  i64 whole[kRowInputs > 0 ? kRowInputs : 1];
  Values<kTables> found;  // of the tables, if the operation looks up something for the row

  CSM_DEVICE i64 option(int k) const { return args->layout.option[k]; }
  CSM_DEVICE Acc number(int k) const { return args->layout.number(k); }
  // The value `offset` bytes into a table; 0 if it is not wanted.
  template <int Table>
  CSM_DEVICE Acc look_up(i64 offset, bool wanted) const {
    using T = Type<kFirstTable + Table>;
    return widen(global_load(args->operand[kFirstTable + Table] + offset, wanted, T{}));
  }
};

// What most operations leave alone: `begin` when a row's values have been read, `enter` when an element has, and
// `pick`, which sets a value that the element at one place has; `hidden` is what a hidden element gives, `second_key`
// and `largest` make the maximum that sums are relative to, from the largest key.
struct Plain {
  CSM_DEVICE static void begin(Given&) {}
  CSM_DEVICE static void enter(Element&, Place, const Given&) {}
  CSM_DEVICE static void pick(const Element&, Place, const Given&, Values<kPicked>&) {}
  CSM_DEVICE static Acc hidden() { return Acc(0); }
  static constexpr bool kSecondKey = false;
  CSM_DEVICE static Acc second_key(const Element&, Acc, const Given&) { return Acc(0); }
  CSM_DEVICE static Wide largest(Acc key, const Given&) { return widen_exactly(key); }
};

// What an input's elements are read as where there are none: zeros, of those that the operation does not name.
template <class Op>
CSM_DEVICE constexpr Neutral neutral_of(int input) {
  constexpr int kNamed = sizeof(Op::kNeutral) / sizeof(Neutral);
  return input < kNamed ? Op::kNeutral[input < kNamed ? input : 0] : Neutral::zero;
}
template <class Op>
CSM_DEVICE Acc neutral(int input) {
  return neutral_of<Op>(input) == Neutral::lowest ? negative_infinity() : Acc(0);
}

// Whether an element is hidden: if its mask is 0, or it is not `seen`. It then becomes the neutral one.
template <class Op>
CSM_DEVICE bool hides(Element& e, bool seen) {
  bool kept = seen;
  if constexpr (kMasked) kept = kept && e[kInputs - 1] != Acc(0);
#pragma unroll
  for (int k = 0; k < kHeld; ++k) e[k] = kept ? e[k] : neutral<Op>(k);
  return !kept;
}

// The results of a hidden element.
template <class Op>
CSM_DEVICE void hide(Values<kOutputs>& result) {
#pragma unroll
  for (int k = 0; k < kOutputs; ++k) result[k] = Op::hidden();
}

// Base of an operation with no value of a row among its results: nothing to finish.
struct WritesElements : Plain {
  CSM_DEVICE static void finish(const Node&, const Given&, Values<kRowOutputs>&) {}
};

// Base of an operation whose results are values of a row alone: nothing to map.
struct WritesRows : Plain {
  struct Scale {};
  CSM_DEVICE static Scale scale(Wide, const Node&, const Given&) { return {}; }
  CSM_DEVICE static void map(const Element&, Scale, Place, Values<kOutputs>&) {}
};

}  // namespace csm
