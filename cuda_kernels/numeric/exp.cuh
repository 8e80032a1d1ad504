// Exponentials of logits, and the reference that a sum of them is relative to.
//
// Results as precise as the arithmetic. With k = rint(x log2 e) and r = x − k ln 2, e^x = e^r · 2^k, so a sum of
// exponentials may be relative to a power of two, 2^K: no x − m is formed, whose rounding error |x − m| would magnify,
// and a sum moves to another K by an exact multiplication. r is reduced in two steps (Cody and Waite), and e^r is a
// polynomial: 1 + r + r²·q(r) on |r| ≤ ln2/2, q by Lawson's weighted least squares: relative error 2^-33.1 (float,
// degree 5) and 2^-56.6 (double, degree 9). The error of an exponential is below 1.24 u in float, and the errors of two
// differ by at most 2.471 u (docs/accuracy.md).
//
// K is kLowered below the exponent of the chunk's maximum: so an exponential is a normal number if its part of the row
// is a normal or subnormal one. Many such make up the logarithm of a sum that one element dominates.
//
// 16-bit results of float arithmetic use ex2.approx instead (relative error 2^-22), relative to the maximum itself.
// Where the logits have 16 bits too, they are 2^(x log2 e − c) in one step with c = m log2 e rounded, which is the same
// for all of a chunk: so that rounding cancels. The maximum's own exponential is then next to 1, not 1.
#pragma once

#include "numeric/double_word.cuh"

namespace csm {

template <class A>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLog2e = 0x1.715476p+0f;
  static constexpr float kLn2 = 0x1.62e43p-1f, kLn2Low = -0x1.05c61p-29f;
  static constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, kept in the low bits
  static constexpr float kBias = 127.0f;        // 2^-kBias is flushed to 0
  static constexpr float kLowered = 34.0f, kRaise = 0x1p-34f;  // an even number; kRaise is 2^-kLowered
  // Added to exponentials, each rounds them to multiples of one power of two, of which a lane's add up exactly, or the
  // 1024 of a chunk.
  static constexpr float kAbove = 0x1.8p+39f, kAboveAll = 0x1.8p+44f;
  // e^-kFar = (kFarRest + kFarRestLow) · 2^-kFarPower. Logits larger than kFar are referred to a multiple of it.
  static constexpr float kFar = 0x1p+18f, kFarPower = 378194.0f;
  static constexpr float kFarRest = 0x1.1c495p+0f, kFarRestLow = 0x1.38bbd4p-25f;
  static constexpr int kTerms = 6;
  static constexpr float kQ[kTerms] = {0x1p-1f,        0x1.555554p-3f,  0x1.5554dep-5f,
                                       0x1.1112f4p-7f, 0x1.6d592ep-10f, 0x1.9e40bcp-13f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLog2e = 0x1.71547652b82fep+0;
  static constexpr double kLn2 = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 · 2^52
  static constexpr double kBias = 1023.0;
  static constexpr double kLowered = 64.0, kRaise = 0x1p-64;
  static constexpr double kAbove = 0x1.8p+76, kAboveAll = kAbove;
  static constexpr double kFar = 0x1p+40, kFarPower = 1586259972792.0;
  static constexpr double kFarRest = 0x1.c1beeabe4d55ep-1, kFarRestLow = -0x1.d4ed429231f5ep-59;
  static constexpr int kTerms = 10;
  static constexpr double kQ[kTerms] = {0x1.000000000000ap-1,  0x1.55555555554f9p-3,  0x1.55555555507dfp-5,
                                        0x1.1111111127e6ap-7,  0x1.6c16c1844e4aep-10, 0x1.a01a0129c7413p-13,
                                        0x1.a01999a5e5647p-16, 0x1.71df25f28f1a4p-19, 0x1.28add50594c45p-22,
                                        0x1.ad7f6f91e3bc8p-26};
};

using ExpC = ExpConstants<Acc>;

// --- powers of two ---------------------------------------------------------------------------------------------------

// 2^k for an integer k from −kBias on, for which it is 0, given as kRound + k.
CSM_DEVICE float power_of_two(float rounded) { return bits_to_float((float_to_bits(rounded) << 23) + 0x3f800000u); }
CSM_DEVICE double power_of_two(double rounded) {
  return bits_to_double((double_to_bits(rounded) << 52) + 0x3ff0000000000000ull);
}

CSM_DEVICE Pair power_of_two(Pair rounded) {
  return each(rounded, [](Acc one) { return power_of_two(one); });
}

// power · 2^k for a power in [0.5, 2) and an integer k from 1 − kBias on, given as kRound + k. Subnormal where it is
// below 2^(1 − kBias): operations on it take it as 0.
CSM_DEVICE float times_power_of_two(float power, float rounded) {
  return bits_to_float(float_to_bits(power) + (float_to_bits(rounded) << 23));
}
CSM_DEVICE Pair times_power_of_two(Pair power, Pair rounded) {
  Acc low, high, low_rounded, high_rounded;
  power.get(low, high);
  rounded.get(low_rounded, high_rounded);
  return {times_power_of_two(low, low_rounded), times_power_of_two(high, high_rounded)};
}

// a · 2^k for an integer k of a size up to 2000.
CSM_DEVICE double scale_by_power(double a, int k) {
  // k may reach −1075, which no single power of two has as its exponent: two factors.
  const int half = k / 2;
  return a * power_of_two(ExpConstants<double>::kRound + half) *
         power_of_two(ExpConstants<double>::kRound + (k - half));
}

// a = fraction · 2^power, the size of the fraction in [1, 2). For 0, infinity and NaN the power is 0.
struct FractionAndPower {
  double fraction;
  int power;
};
CSM_DEVICE FractionAndPower split_power(double a) {
  int lowered = 0;
  if (magnitude(a) < 0x1p-1022) {  // subnormal
    a *= 0x1p54;
    lowered = 54;
  }
  const unsigned long long bits = double_to_bits(a);
  const int field = static_cast<int>(bits >> 52 & 0x7ff);
  if (field == 0 || field == 0x7ff) return {a, 0};
  return {bits_to_double((bits & 0x800fffffffffffffull) | 0x3ff0000000000000ull), field - 1023 - lowered};
}

// A power of two that a is 1 to 4 times as large as, with an inverse. 1 for 0, infinity and NaN.
CSM_DEVICE float power_within(float a) {
  const unsigned field = float_to_bits(a) & 0x7f800000u, most = 0x7e800000u;
  if (field == 0u || field == 0x7f800000u) return 1.0f;
  return bits_to_float(field < most ? field : most);
}

// A power of two up to 1, next to a small a: a divided by it is a normal number, or 0 in float. And its inverse.
CSM_DEVICE float small_power_within(float a) {
  const unsigned field = float_to_bits(a) & 0x7f800000u, least = 0x00800000u, one = 0x3f800000u;
  return bits_to_float(field < least ? least : field < one ? field : one);
}
CSM_DEVICE float inverse_of_power(float a) { return bits_to_float(0x7f000000u - float_to_bits(a)); }
CSM_DEVICE double small_power_within(double a) {
  const unsigned long long field = double_to_bits(a) & 0x7ff0000000000000ull;
  const unsigned long long least = 0x07b0000000000000ull, one = 0x3ff0000000000000ull;  // 2^-900, 1
  return bits_to_double(field < least ? least : field < one ? field : one);
}
CSM_DEVICE double inverse_of_power(double a) { return bits_to_double(0x7fe0000000000000ull - double_to_bits(a)); }

// --- the reference ---------------------------------------------------------------------------------------------------

// Exponentials are those of x − shift, relative to 2^K with K = kRound − round. Fast ones are e^(x − shift), in one
// step 2^(x · round − shift).
struct Reference {
  DoubleWord shift;
  Acc round;
};
// Those of two rows.
struct PairReference {
  struct {
    Pair hi;
  } shift;
  Pair round;

  CSM_DEVICE PairReference(const Reference& a, const Reference& b)
      : shift{{a.shift.hi, b.shift.hi}}, round(a.round, b.round) {}
};
// With kOthersInLow fast ones are 2^24 times as large, unless all results are float16: many others that are too small
// for a result make one together.
constexpr bool kRaises = kOthersInLow && !(kSameType<Type<kFirstOutput>, f16> && kSameType<Type<kOperands - 1>, f16>);
constexpr Acc kRaisedBy = kRaises ? Acc(24) : Acc(0), kRaised = kRaises ? Acc(0x1p24) : Acc(1);
constexpr bool kOneStep = kFastExp && kRelative == 1 && kSums == 1 &&
                          (kOthersInLow ? kRegisterInputs == 1 : kPicked == 0) && kSixteenBits<Type<0>> &&
                          !has(feature::scaled | feature::biased | feature::cold | feature::capped);
// log2 e. From 2^23 on, which bfloat16 has, distinct logits are so far apart that any base will do: with 2 the largest
// one's product is exact and finite.
CSM_DEVICE Acc exponent_per_logit(Acc m) {
  return kSameType<Type<0>, f16> || magnitude(m) < Acc(0x1p23) ? ExpC::kLog2e : Acc(1);
}

// The shift of exponentials in one step.
CSM_DEVICE Acc one_step_shift(Acc m, Acc scale) {
  if constexpr (kRaises) return fused(m, scale, -kRaisedBy);
  else return m * scale;
}

// A multiple of kFar, towards 0. Of a double word, each word's: the low one of a large logit is itself large.
CSM_DEVICE Acc shift_of(Acc m) { return ExpC::kFar * towards_zero(m * (Acc(1) / ExpC::kFar)); }
CSM_DEVICE DoubleWord shift_of(DoubleWord m) { return {shift_of(m.hi), kDoubleWordMaximum ? shift_of(m.lo) : Acc(0)}; }
CSM_DEVICE Acc shifted(DoubleWord m, DoubleWord shift) {
  const Acc high = m.hi - shift.hi;
  return kDoubleWordMaximum ? high + (m.lo - shift.lo) : high;
}
// kRound + rint(m log2 e).
CSM_DEVICE Acc rounded_power(Acc m) { return fused(m, ExpC::kLog2e, ExpC::kRound); }

// That of elements whose maximum is m. The shift is 0 but for logits beyond kFar, and such that x − shift is exact for
// an x that does not vanish beside m. For m = ±∞ it makes exponentials of −∞ 0, and such of +∞ NaN.
CSM_DEVICE Reference reference_of(DoubleWord m) {
  if constexpr (kFastExp) {
    const Acc scale = kOneStep ? exponent_per_logit(m.hi) : Acc(1);
    const Acc shift = kOneStep ? one_step_shift(m.hi, scale) : m.hi;
    return {m.hi == negative_infinity() ? as_double_word(Acc(0)) : DoubleWord{shift, m.lo}, scale};
  }
  const DoubleWord shift = shift_of({maximum(m.hi, -largest_number()), m.lo});
  const Acc near = maximum(Acc(-2) * ExpC::kFar, shifted(m, shift));
  return {shift, (Acc(2) * ExpC::kRound + ExpC::kLowered) - rounded_power(near)};
}

// Makes sums that are relative to the reference of the maximum `from` relative to that of `to`, which is not smaller,
// but for a factor 2^k. Returns k ≤ 0.
template <int kCount>
CSM_DEVICE Acc move_between(DoubleWord from, DoubleWord to, DoubleWord (&sums)[kCount]) {
  const bool far = from.hi <= -ExpC::kFar || to.hi >= ExpC::kFar;
  if (unlikely(far && from.hi != negative_infinity())) {
    // Where the shifts differ by more steps, all vanishes.
    const DoubleWord shift = shift_of(from), shift_to = shift_of(to);
    Acc steps = shift_to.hi - shift.hi;
    if constexpr (kDoubleWordMaximum) steps += shift_to.lo - shift.lo;
#pragma unroll 1
    for (int step = 1; step <= (kDoubleWordMaximum ? 2 : 1); ++step) {
      if (steps < Acc(step) * ExpC::kFar) break;
#pragma unroll
      for (int k = 0; k < kCount; ++k) sums[k] = multiply(sums[k], {ExpC::kFarRest, ExpC::kFarRestLow});
    }
    const Acc k = rounded_power(shifted(from, shift)) - rounded_power(shifted(to, shift_to));
    return fused(steps, -ExpC::kFarPower / ExpC::kFar, k);
  }
  const DoubleWord none = as_double_word(Acc(0));
  return rounded_power(shifted(from, none)) - rounded_power(shifted(to, none));  // from −∞ any k will do: the sum is 0
}

// 2^k for a k of move_between(), or 0 where that is not normal.
CSM_DEVICE Acc power_of(Acc k) { return power_of_two(ExpC::kRound + maximum(-ExpC::kBias, k)); }
// A sum that is kLowered larger, times 2^k: of a k that is far below 0 a part is taken off before.
CSM_DEVICE DoubleWord times_power(DoubleWord sum, Acc k) {
  const bool far = k < Acc(-0.5) * ExpC::kBias;
  const Acc first = far ? ExpC::kRaise : Acc(1), power = power_of(far ? k + ExpC::kLowered : k);
  return times(times(sum, first), power);
}

// --- exponentials ----------------------------------------------------------------------------------------------------

// q(r) of e^r = 1 + r + r²·q(r).
template <class T>
CSM_DEVICE T exp_polynomial(T r) {
  T q(ExpC::kQ[ExpC::kTerms - 1]);
#pragma unroll
  for (int i = ExpC::kTerms - 2; i >= 0; --i) q = fused(q, r, T(ExpC::kQ[i]));
  return q;
}

// Below it e^x · 2^(round − kRound) is 0; with kNumbers, the least x that it may be formed of.
template <bool kNumbers, class T>
CSM_DEVICE T least_of(T round) {
  const T from = T(ExpC::kRound - ExpC::kBias) - round;
  // With kNumbers k = 1 − kBias and r < 0.
  return kNumbers ? fused(from + T(Acc(1)), T(ExpC::kLn2), T(Acc(-0.25) * ExpC::kLn2)) : from * T(ExpC::kLn2);
}

// e^(x + low) · 2^(round − kRound). It is 0 where that is below 2^-kBias, and for −∞; NaN stays. x is a multiple of the
// last place of low, which is finite. T is Acc or, with kNumbers or without low, Pair; `round` is one for both, or a
// Pair.
//
// kNumbers: x is a float or −∞; NaN gives 0, and +∞ anything. In place of 0 there may be a subnormal. With low, x is
// a number about least_of() at least, and low of the size of its last place.
template <bool kLow = false, bool kNumbers = false, class T, class Round>
CSM_DEVICE T exp_of(T x, Round round, T low = T(Acc(0))) {
  const Round least = least_of<kNumbers>(round);
  T near = x;
  if constexpr (kLow && kNumbers) {  // neither far below nor unlike a double word
  } else if constexpr (kLow) {
    near = x + low;  // low may be large if x is
    const bool vanishes = near < least;
    low = vanishes ? Acc(0) : fast_error(x, low, near);
    near = vanishes ? least : near;
  } else if constexpr (kNumbers) {
    near = maximum(near, least);
  } else {
    near = at_least(near, least);
  }
  const T rounded = fused(near, T(ExpC::kLog2e), T(round));
  const T k = rounded - T(round);
  const T one(Acc(1)), high = fused(k, T(-ExpC::kLn2), near);  // exact
  T rest(Acc(0)), r(Acc(0));
  if constexpr (kLow) {
    rest = fused(k, T(-ExpC::kLn2Low), low);
    r = high + rest;
  } else {
    r = fused(k, T(-ExpC::kLn2Low), high);
  }
  T power(Acc(0));
  if constexpr (kLow && kSingle) {
    // 1 + r is rounded, and its error added to what follows: of numbers x + low the exponentials would differ more in
    // their errors than those of single words do.
    const T first = one + r;
    power = first + fused(r * exp_polynomial(r), r, (high - (first - one)) + rest);
  } else {
    power = fused(r, fused(r, exp_polynomial(r), one), one);
  }
  if constexpr (kNumbers) return times_power_of_two(power, rounded);
  else return power * power_of_two(rounded);
}

// For 16-bit outputs of float arithmetic. x = −∞ gives 0, and NaN stays NaN.
template <class T>
CSM_DEVICE T exp_fast(T d) {
  return exp2_approx(d * T(ExpC::kLog2e));
}

// The exponential as a term of a sum.
template <class T>
CSM_DEVICE T exp_term(T d) {
  if constexpr (kRaises) return exp2_approx(fused(d, T(ExpC::kLog2e), T(kRaisedBy)));
  else return exp_fast(d);
}

// e^x relative to a reference. NaN stays NaN.
template <class T, class References>
CSM_DEVICE T exponential(T x, const References& to) {
  if constexpr (kOneStep) return exp2_approx(fused(x, T(to.round), T(-to.shift.hi)));
  const T shifted = x - T(to.shift.hi);
  if constexpr (kFastExp) return exp_term(shifted);
  else return exp_of(shifted, to.round);
}

// Of two elements, of one row or of two; those that are not fast of numbers or −∞ alone, from which the shift has been
// subtracted.
template <class References>
CSM_DEVICE Pair exponentials(Pair x, const References& to) {
  if constexpr (kFastExp) return exponential(x, to);
  else return exp_of<false, true>(x, to.round);
}

// An exponential as a part of the largest, up to a factor of 2: for products with vectors and weights, which might
// overflow.
CSM_DEVICE Acc part_of_largest(Acc exponential) { return kFastExp ? exponential : exponential * ExpC::kRaise; }

// e^x for the logarithm x of a weight, which is about 0 at most.
CSM_DEVICE Acc exp_of_log(Acc x) {
  if constexpr (kFastExp) return exp_fast(x);
  else if constexpr (kSingle) return exp_of(x, ExpC::kRound);
  else return exp_of(x, ExpC::kRound + ExpC::kLowered) * ExpC::kRaise;
}

// e^d − 1 for d ≤ 0, with an error of about one unit in the last place.
CSM_DEVICE Acc exp_minus_one(Acc d) {
  if constexpr (kFastExp) {
    return exp_fast(d) - Acc(1);
  } else {
    if (d < Acc(-80)) d = Acc(-80);  // the result is −1 to the last bit; NaN stays
    const Acc rounded = fused(d, ExpC::kLog2e, ExpC::kRound);
    const Acc k = rounded - ExpC::kRound;
    const Acc r = fused(k, -ExpC::kLn2Low, fused(k, -ExpC::kLn2, d));
    const Acc power = power_of_two(rounded);
    return fused(power, fused(r * r, exp_polynomial(r), r), power - Acc(1));
  }
}

// x − m of double words, for x ≤ m. The low word is dropped where it is NaN: where x or m is infinite.
CSM_DEVICE DoubleWord difference(DoubleWord x, DoubleWord m) {
  const DoubleWord d = two_difference(x.hi, m.hi);
  return fast_two_sum(d.hi, number_or_zero(d.lo + (x.lo - m.lo)));
}

// The same of a double word, whose low word is finite.
CSM_DEVICE Acc exponential(DoubleWord x, const Reference& to) {
  if constexpr (kFastExp) {
    return exp_term((x.hi - to.shift.hi) + (x.lo - to.shift.lo));
  } else {
    return exp_of<true>(x.hi - to.shift.hi, to.round, x.lo - to.shift.lo);
  }
}

// The exponential of the maximum itself.
CSM_DEVICE Acc largest_exponential(DoubleWord m) {
  if constexpr (kFastExp && !kOneStep) return kRaises ? exp_term(Acc(0)) : Acc(1);
  else if constexpr (kDoubleWordMaximum) return exponential(m, reference_of(m));
  else return exponential(m.hi, reference_of(m));
}

// What the exponential of the maximum, `largest`, lacks: next to nothing is lost of both together.
CSM_DEVICE Acc lost_of_largest(DoubleWord m, Acc largest) {
  if constexpr (kFastExp) return Acc(0);
  const Reference to = reference_of(m);
  DoubleWord x = as_double_word(m.hi - to.shift.hi);
  if constexpr (kDoubleWordMaximum) x = fast_two_sum(x.hi, m.lo - to.shift.lo);
  else x.hi = at_least(x.hi, least_of<false>(to.round));
  const Acc rounded = fused(x.hi, ExpC::kLog2e, to.round), k = rounded - to.round;
  const Acc high = fused(k, -ExpC::kLn2, x.hi);
  Acc from = high, rest = fused(k, -ExpC::kLn2Low, x.lo), r = high + rest;
  if constexpr (!kDoubleWordMaximum) {  // as exp_of() has it: the compiler computes it once
    from = r = fused(k, -ExpC::kLn2Low, high);
    rest = fused(k, -ExpC::kLn2Low, high - r);
  }
  const Acc first = Acc(1) + r, power = power_of_two(rounded);
  const Acc second = fused(r * exp_polynomial(r), r, (from - (first - Acc(1))) + rest);
  return fused(second, power, fused(first, power, -largest));
}

// A factor of many exponentials.
struct Factor {
  DoubleWord times;
  Acc power;  // multiplied first, since its product with `times` might be flushed
};
// Those of two rows, without powers.
struct PairFactor {
  PairOfDoubleWords times;

  CSM_DEVICE PairFactor(const Factor& a, const Factor& b) : times(a.times, b.times) {}
};
template <class T>
CSM_DEVICE T scaled(T x, const Factor& factor) {
  if constexpr (kFastExp) return x * T(factor.times.hi);
  else return scaled(x * T(factor.power), factor.times);
}

// The factor that makes exponentials relative to the reference of `from` into such relative to that of `to`, times
// `factor`. Exactly `factor` for equal maxima. An infinite or NaN one (a row of −∞ has the sum 0) gives NaN, even where
// the exponential is 0. With kRaise it has a power of its own, that of what exponentials are raised by: without it
// `times` might be flushed.
template <bool kRaise = kRaises>
CSM_DEVICE Factor factor_between(DoubleWord from, DoubleWord to, DoubleWord factor) {
  const Acc scale = kFastExp ? exponent_per_logit(to.hi) : Acc(1);
  const bool raises = kRaise && !(kOneStep && scale == Acc(1));  // rounding takes it off again of logits so large
  const Acc raised = raises ? kRaised : Acc(1), power = raises ? Acc(1) / kRaised : Acc(1);
  if constexpr (kRowIsTile) return {times(factor, raised), power};
  if constexpr (kFastExp) {
    const bool same = from.hi == to.hi && (!kDoubleWordMaximum || from.lo == to.lo);
    // Where their exponents per logit differ, so do the maxima by so much that all vanishes.
    const Acc low = kDoubleWordMaximum ? from.lo - to.lo : Acc(0);
    const Acc by = kRaise ? kRaisedBy : Acc(0);
    const Acc moved = kOneStep ? exp2_approx(one_step_shift(from.hi, scale) - one_step_shift(to.hi, scale) + by)
                      : kRaise ? exp_term((from.hi - to.hi) + low)
                               : exp_fast((from.hi - to.hi) + low);
    return {as_double_word((same ? raised : moved) * factor.hi), power};
  } else {
    DoubleWord moved[1] = {factor};
    const Acc k = move_between(from, to, moved);
    // In double the power may be subnormal: there it is times 2^kLowered.
    if constexpr (kSingle) return {moved[0], power_of(k)};
    return {times(moved[0], ExpC::kRaise), power_of(k + ExpC::kLowered)};
  }
}

// A factor times b, without the low word of what is infinite. A small power of two in b joins that of the factor: its
// product with 1 / s might vanish where results do not.
CSM_DEVICE Factor multiplied(Factor a, Acc b) {
  if constexpr (!kFastExp) {
    const Acc power = small_power_within(b);
    a.power *= power;
    b *= inverse_of_power(power);
  }
  return {drop_invalid_low(multiply(a.times, as_double_word(b))), a.power};
}

// A factor times kLift, and what it makes of exponentials. Otherwise the product of an exponential and a low word would
// be flushed beside results of 2^-102 and less, in float. T is Acc or Pair.
constexpr Acc kLift = kSingle && !kFastExp ? Acc(0x1p+80) : Acc(1);
CSM_DEVICE DoubleWord lifted(DoubleWord a) { return times(a, kLift); }
CSM_DEVICE Factor lifted(const Factor& a) { return {lifted(a.times), a.power}; }
template <class T, class Words>
CSM_DEVICE T scaled_by_lifted(T x, const Words& times) {
  const T product = scaled(x, times);
  if constexpr (kLift == Acc(1)) return product;
  else return product * T(Acc(1) / kLift);
}

// The same factor without a power of its own, where that is not too small.
CSM_DEVICE Factor joined(const Factor& a) { return {times(a.times, a.power), Acc(1)}; }

}  // namespace csm
