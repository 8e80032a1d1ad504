// The mean of a vector v over a row with the weights y, a softmax, so that v_i less the mean is right relative to
// itself also where a weight is next to 1. Used by the products with softmax's Jacobian, and by those of log_softmax.
//
// With m the one element of the row whose y is above ½, A = Σ_{j≠m} y_j v_j and B = Σ_{j≠m} y_j, the mean is
// v_m + (A − B v_m): y_m itself is not in it, which has lost 1 − y_m to rounding. So v_i less the mean is
// (v_i − v_m) − (A − B v_m), and for i = m just B v_m − A, by the same instructions. A row without such an element, or
// with several, which are then all next to ½, has the mean Σ y_j v_j.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Mean {
  Acc at;             // v_m, or 0
  DoubleWord beyond;  // the mean less that; the low word is NaN where the high one is infinite
};

// From the sums over the others. An infinite or NaN v_m is the mean.
CSM_DEVICE Mean mean_from(DoubleWord products, DoubleWord weights, Acc v_m) {
  if (!is_finite(v_m)) return {Acc(0), as_double_word(v_m)};
  return {v_m, subtract(products, multiply(weights, as_double_word(v_m)))};
}

// The mean in two words, also where Acc's other numbers have one: v_m less the high word is exact, so that v_m less
// both has the digits of v_m − mean. Both words of an infinite mean are infinite: times an infinite y they are too.
CSM_DEVICE DoubleWord value_of(const Mean& mean) {
  DoubleWord sum = mean.beyond;
  if constexpr (kPickRule != PickRule::given) {
    sum = two_sum(mean.at, mean.beyond.hi);
    sum.lo += mean.beyond.lo;
  }
  return is_finite(sum.hi) ? drop_invalid_low(sum) : DoubleWord{sum.hi, sum.hi};
}

constexpr bool kMeanHasLow = kCompensated || kPickRule != PickRule::given;

// v − mean, rounded twice.
CSM_DEVICE Acc less(Acc v, DoubleWord mean) { return kMeanHasLow ? (v - mean.hi) - mean.lo : v - mean.hi; }

// The same in two words. The second is NaN where v or the mean is infinite.
CSM_DEVICE DoubleWord less_exactly(Acc v, DoubleWord mean) {
  if constexpr (!kMeanHasLow) return as_double_word(v - mean.hi);
  const DoubleWord from = two_difference(v, mean.hi);
  return {from.hi, from.lo - mean.lo};
}

// y (v − mean), rounded twice.
CSM_DEVICE Acc times_less(Acc y, Acc v, DoubleWord mean) {
  return kMeanHasLow ? fused(y, v - mean.hi, -(y * mean.lo)) : y * (v - mean.hi);
}

// What operations on y, the first input, pick: the values of the element above ½.
template <class Base>
struct PicksFromSoftmax : Base {
  static constexpr Acc kHalf = Acc(0.5);
  CSM_DEVICE static void pick(const Element& e, Place, const RowContext&, Values<kPicked>& picked) {
#pragma unroll
    for (int k = 0; k < kPicked; ++k) picked[k] = e[k];
  }
  CSM_DEVICE static void pick_largest(Acc y, Values<kPicked>& picked) { picked[0] = y; }
  CSM_DEVICE static Acc larger(Acc a, Acc b) { return larger_positive(a, b); }
  CSM_DEVICE static Element element_of(const Values<kPicked>& picked) {
    Element e = {};
#pragma unroll
    for (int k = 0; k < kPicked; ++k) e[k] = picked[k];
    return e;
  }
};

// Base of operations on y and vectors. With PickRule::dominant their sums are Σ y_j, then those of
// the operation, products with y, first Σ y_j v_j for each vector v; and y_m and v_m are picked.
struct OfSoftmax : PicksFromSoftmax<WritesElements> {
  static constexpr int kFirst = kDominant ? 1 : 0;  // the operation's first sum
  static constexpr int kParts = kFirst, kProductSums = kSums - kFirst;

  // Of the number-th vector.
  CSM_DEVICE static Mean mean_of(const Node& row, int number) {
    const DoubleWord products = row.s[kFirst + number];
    if constexpr (kDominant) {
      const Acc y_m = row.picked[0], v_m = row.picked[1 + number];
      Mean mean = mean_from(products, row.s[0], v_m);
      // Times an infinite y_m, both words are to have the sign of v_m − mean.
      const Acc whole = v_m + mean.beyond.hi;
      if (y_m > largest_number()) mean = {Acc(0), {whole, (whole - v_m) * Acc(0x1p-53)}};
      if (y_m > Acc(0)) return mean;
    }
    return {Acc(0), products};
  }
};

// Of logits: from s[0] = Σ e_j and s[1] = Σ p_j v_j of exponentials e and their parts p of the largest (exp.cuh), whose
// v is picked. It dominates if it is above half of s[0], and its product is rounded there as it is here: what the
// others add up to is then the sum's low word. `inverse` is 1 / s[0].
template <class AnyOp>
CSM_DEVICE Mean mean_of_exponentials(const Node& row, DoubleWord inverse) {
  const DoubleWord products = drop_invalid_low(row.s[1]);
  const Acc largest = largest_exponential(row.m);
  const DoubleWord sum = normalised(drop_invalid_low(whole_sum<AnyOp>(row, largest)));
  const DoubleWord of_products = kFastExp ? inverse : DoubleWord{inverse.hi / ExpC::kRaise, inverse.lo / ExpC::kRaise};
  if (!(sum.hi < Acc(2) * largest)) return {Acc(0), multiply(products, of_products)};
  const Acc v_m = row.picked[0];
  const DoubleWord rest = normalised(drop_invalid_low(add(products, -(part_of_largest(largest) * v_m))));
  return mean_from(multiply(rest, of_products), multiply(sum_of_others<AnyOp>(row, largest), inverse), v_m);
}

}  // namespace csm
