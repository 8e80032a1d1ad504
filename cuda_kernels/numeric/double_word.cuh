// Double words: a number as an unevaluated sum hi + lo, for results as precise as the arithmetic itself. Where
// kCompensated is false, lo is 0 and hi alone is computed. Used for sums, maxima of logits, scales and logarithms. With
// kOthersInLow (reduce/node.cuh) lo is used in sums and logarithms alone.
//
// The sums are error-free transformations: Knuth's two-sum and Dekker's fast two-sum. The rounding error of a product
// comes from one fused multiply-add. They need each operation rounded by itself: the host compiles without contraction
// (-fmad=false) and without reassociation.
#pragma once

#include "numeric/vec.cuh"

namespace csm {

struct DoubleWord {
  Acc hi, lo;
};

CSM_DEVICE DoubleWord as_double_word(Acc x) { return {x, Acc(0)}; }

// --- error-free transformations --------------------------------------------------------------------------------------

// a + b exactly: the rounded sum and its rounding error (Knuth).
CSM_DEVICE DoubleWord two_sum(Acc a, Acc b) {
  const Acc sum = a + b;
  const Acc of_b = sum - a;
  return {sum, (a - (sum - of_b)) + (b - of_b)};
}

// a − b exactly.
CSM_DEVICE DoubleWord two_difference(Acc a, Acc b) {
  const Acc difference = a - b;
  const Acc of_b = difference - a;
  return {difference, (a - (difference - of_b)) - (b + of_b)};
}

// The rounding error of sum = large + small, for |large| ≥ |small| (Dekker).
template <class T>
CSM_DEVICE T fast_error(T large, T small, T sum) {
  return small - (sum - large);
}

// large + small exactly, for |large| ≥ |small|.
CSM_DEVICE DoubleWord fast_two_sum(Acc large, Acc small) {
  const Acc sum = large + small;
  return {sum, fast_error(large, small, sum)};
}

// --- arithmetic ------------------------------------------------------------------------------------------------------

// a + b, with the same bits if a and b are exchanged. It compares magnitudes for the fast two-sum, since Knuth's is not
// symmetric where one of its differences is subnormal and flushed to zero.
CSM_DEVICE DoubleWord add(DoubleWord a, DoubleWord b) {
  const Acc sum = a.hi + b.hi;
  if constexpr (kOthersInLow) return {sum, a.lo + b.lo};
  if constexpr (!kCompensated) return {sum, Acc(0)};
  const bool exchange = magnitude(a.hi) < magnitude(b.hi);
  const Acc large = exchange ? b.hi : a.hi, small = exchange ? a.hi : b.hi;
  return {sum, (a.lo + b.lo) + fast_error(large, small, sum)};
}

CSM_DEVICE DoubleWord add(DoubleWord a, Acc b) {
  if constexpr (!kCompensated) return {a.hi + b, Acc(0)};
  const DoubleWord sum = two_sum(a.hi, b);
  return {sum.hi, a.lo + sum.lo};
}

CSM_DEVICE DoubleWord negative(DoubleWord a) { return {-a.hi, -a.lo}; }
CSM_DEVICE DoubleWord subtract(DoubleWord a, DoubleWord b) { return add(a, negative(b)); }

// a · power, exactly for a power of two whose products are normal.
CSM_DEVICE DoubleWord times(DoubleWord a, Acc power) { return {a.hi * power, a.lo * power}; }

CSM_DEVICE DoubleWord multiply(DoubleWord a, DoubleWord b) {
  const Acc product = a.hi * b.hi;
  if constexpr (!kCompensated) return {product, Acc(0)};
  return {product, fused(a.lo, b.hi, fused(a.hi, b.lo, fused(a.hi, b.hi, -product)))};
}

CSM_DEVICE DoubleWord reciprocal_of(DoubleWord a) {
  const Acc first = reciprocal_approx(a.hi);
  if constexpr (!kCompensated) return {first, Acc(0)};
  // The low word by one Newton step: first · (1 − first · a).
  return {first, -(fused(first, a.hi, Acc(-1)) + first * a.lo) * first};
}

// The same number with lo at most half a unit in the last place of hi. A sum's lo collects many rounding errors and
// grows to several units of hi; multiplied by a small x, such a lo would be flushed to zero.
CSM_DEVICE DoubleWord normalised(DoubleWord a) {
  if constexpr (!kCompensated) return a;
  return fast_two_sum(a.hi, a.lo);
}

// a without its low word if hi is infinite or NaN: lo is then a NaN that would spoil an infinite result.
CSM_DEVICE DoubleWord drop_invalid_low(DoubleWord a) {
  if (!is_finite(a.hi)) a.lo = Acc(0);
  return a;
}

// --- arithmetic with a word as the result ----------------------------------------------------------------------------

// Double words of two numbers each.
struct PairOfDoubleWords {
  Pair hi, lo;

  CSM_DEVICE PairOfDoubleWords(DoubleWord a, DoubleWord b) : hi(a.hi, b.hi), lo(a.lo, b.lo) {}
};

// x · a, rounded once, but for the product x · a.lo. T is Acc or Pair, and a one double word or one for each number.
template <class T, class Words>
CSM_DEVICE T scaled(T x, const Words& a) {
  if constexpr (!kCompensated) return x * T(a.hi);
  else return fused(x, T(a.hi), x * T(a.lo));
}

// x − a, rounded twice.
CSM_DEVICE Acc minus(Acc x, DoubleWord a) {
  if constexpr (!kCompensated) return x - a.hi;
  return (x - a.hi) - a.lo;
}

CSM_DEVICE Acc largest_number() {
  if constexpr (kSingle) return bits_to_float(0x7f7fffffu);
  return bits_to_double(0x7fefffffffffffffull);
}

// x + a, rounded twice: the error is below one unit in the last place.
CSM_DEVICE Acc plus(Acc x, DoubleWord a) {
  if constexpr (!kCompensated) return x + a.hi;
  const DoubleWord sum = two_sum(x, a.hi);
  // If x or a is infinite, the low word is NaN, and sum.hi is the result.
  return sum.hi + maximum(-largest_number(), sum.lo + a.lo);
}

// --- shuffles --------------------------------------------------------------------------------------------------------

// The low word is passed only if `low` is set; else it is 0.
CSM_DEVICE DoubleWord shuffle_xor(DoubleWord a, int lane_mask, int width, bool low = kCompensated) {
  DoubleWord other = {shuffle_xor(a.hi, lane_mask, width), Acc(0)};
  if (low) other.lo = shuffle_xor(a.lo, lane_mask, width);
  return other;
}

}  // namespace csm
