// The exponential e^(x − m) for x ≤ m, both finite: for terms of a sum (exp_of, exp_difference), and for a factor that
// scales many elements (exp_difference_times). An x a little above m does no harm.
//
// The result has three errors: that of rounding x − m, that of reducing x − m by ln 2, and that of the exponential of
// the rest. The first two are multiplied by |x − m|. So x − m is a double word, the reduction takes two steps (Cody and
// Waite), and the exponential is a polynomial. 16-bit outputs of float arithmetic use ex2.approx instead (relative
// error 2^-22). The polynomial is e^r = 1 + r + r²·q(r) on |r| ≤ ln2/2, q by Lawson's weighted least squares: relative
// error 2^-27.9 (float, degree 4) and 2^-56.6 (double, degree 9).
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
  static constexpr float kSmallest = -87.6f;    // a little below ln 2^-126: smaller results are subnormal, flushed to 0
  static constexpr int kTerms = 5;
  static constexpr float kQ[kTerms] = {0x1.fffffcp-2f, 0x1.55548ap-3f, 0x1.555916p-5f, 0x1.123fcep-7f, 0x1.6a1a2cp-10f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLog2e = 0x1.71547652b82fep+0;
  static constexpr double kLn2 = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 · 2^52
  static constexpr double kSmallest = -745.14;          // ln 2^-1075: smaller results round to 0
  static constexpr int kTerms = 10;
  static constexpr double kQ[kTerms] = {0x1.000000000000ap-1,  0x1.55555555554f9p-3,  0x1.55555555507dfp-5,
                                        0x1.1111111127e6ap-7,  0x1.6c16c1844e4aep-10, 0x1.a01a0129c7413p-13,
                                        0x1.a01999a5e5647p-16, 0x1.71df25f28f1a4p-19, 0x1.28add50594c45p-22,
                                        0x1.ad7f6f91e3bc8p-26};
};

using ExpC = ExpConstants<Acc>;

// a · 2^k for an integer k ≤ 2, given as kRound + k.
CSM_DEVICE float scale_by_power(float a, float rounded) {
  return a * bits_to_float((float_to_bits(rounded) << 23) + 0x3f800000u);
}
CSM_DEVICE double scale_by_power(double a, double rounded) {
  // k may reach −1075, which no single power of two has as its exponent: two factors.
  const int k = static_cast<int>(double_to_bits(rounded));
  const int half = k / 2;
  const auto power = [](int e) { return bits_to_double(static_cast<unsigned long long>(e + 1023) << 52); };
  return a * power(half) * power(k - half);
}

// e^distance = mantissa · 2^k.
struct Exponential {
  DoubleWord mantissa;
  Acc rounded;  // kRound + k
  Acc distance;
  CSM_DEVICE bool vanishes() const { return distance < ExpC::kSmallest; }  // whether it is 0
};

// q(r) of e^r = 1 + r + r²·q(r).
CSM_DEVICE Acc exp_polynomial(Acc r) {
  Acc q = ExpC::kQ[ExpC::kTerms - 1];
#pragma unroll
  for (int i = ExpC::kTerms - 2; i >= 0; --i) q = fused(q, r, ExpC::kQ[i]);
  return q;
}

// The low word of the mantissa is computed only if LowWord is set.
template <bool LowWord>
CSM_DEVICE Exponential exp_reduced(DoubleWord distance) {
  const Acc d = distance.hi, lost = distance.lo;
  const Acc rounded = fused(d, ExpC::kLog2e, ExpC::kRound);
  const Acc k = rounded - ExpC::kRound;
  const Acc r = fused(k, -ExpC::kLn2, d);  // exact
  const Acc q = exp_polynomial(r);
  const Acc r_low = fused(k, -ExpC::kLn2Low, lost);
  // e^(r + r_low) = (1 + r) + (r²·q + r_low·e^r + the rounding error of 1 + r).
  const Acc square = r * r;
  const DoubleWord first = fast_two_sum(Acc(1), r);
  const Acc rest = fused(square, q, fused(r_low, fused(square, q, first.hi), first.lo));
  const DoubleWord sum = fast_two_sum(first.hi, rest);
  return {{sum.hi, LowWord ? sum.lo : Acc(0)}, rounded, d};
}

// For 16-bit outputs of float arithmetic. x = −∞ gives 0, and NaN stays NaN.
CSM_DEVICE float exp_fast(float x, float m) { return exp2_approx((x - m) * ExpConstants<float>::kLog2e); }

// e^d with an error of about 0.6 units in the last place, or that of exp_fast.
CSM_DEVICE Acc exp_of(DoubleWord d) {
  if constexpr (kFastExp) {
    return exp2_approx(d.hi * ExpConstants<float>::kLog2e);
  } else {
    const Exponential e = exp_reduced<false>(d);
    // d = −∞ leaves NaN in the mantissa and is set to 0 here; NaN stays, as its comparison is false.
    return zero_if_less(scale_by_power(e.mantissa.hi, e.rounded), e.distance, ExpC::kSmallest);
  }
}

CSM_DEVICE Acc exp_difference(Acc x, Acc m) {
  if constexpr (kFastExp) return exp_fast(x, m);
  else return exp_of(two_difference(x, m));
}

// e^d − 1 for d ≤ 0, with an error of about one unit in the last place.
CSM_DEVICE Acc exp_minus_one(Acc d) {
  if constexpr (kFastExp) {
    return exp_fast(d, Acc(0)) - Acc(1);
  } else {
    if (d < Acc(-80)) d = Acc(-80);  // the result is −1 to the last bit; NaN stays
    const Acc rounded = fused(d, ExpC::kLog2e, ExpC::kRound);
    const Acc k = rounded - ExpC::kRound;
    const Acc r = fused(k, -ExpC::kLn2Low, fused(k, -ExpC::kLn2, d));
    const Acc power = scale_by_power(Acc(1), rounded);
    return fused(power, fused(r * r, exp_polynomial(r), r), power - Acc(1));
  }
}

CSM_DEVICE Acc exp_difference(Acc x, DoubleWord m) { return exp_difference(x, m.hi); }

// x − m of double words, for x ≤ m. The low word is dropped where it is NaN: where x or m is infinite.
CSM_DEVICE DoubleWord difference(DoubleWord x, DoubleWord m) {
  const DoubleWord d = two_difference(x.hi, m.hi);
  const Acc lost = d.lo + (x.lo - m.lo);
  return fast_two_sum(d.hi, lost == lost ? lost : Acc(0));
}

// e^(x − m) · factor, for a factor that scales many elements: exactly `factor` for x = m. It is multiplied by the power
// of two last, since that could make the product's low word subnormal, and flush it. An infinite or NaN factor (a row
// of −∞ has the sum 0) gives NaN, even where e^(x − m) is 0.
CSM_DEVICE DoubleWord exp_difference_times(DoubleWord x, DoubleWord m, DoubleWord factor) {
  if constexpr (!kCompensated) {
    const bool same = x.hi == m.hi && (!kDoubleWordMaximum || x.lo == m.lo);
    const Acc exponential = kDoubleWordMaximum ? exp_of(difference(x, m)) : exp_difference(x.hi, m.hi);
    return as_double_word(same ? factor.hi : exponential * factor.hi);
  } else {
    const Exponential e = exp_reduced<true>(kDoubleWordMaximum ? difference(x, m) : two_difference(x.hi, m.hi));
    const DoubleWord product = normalised(drop_invalid_low(multiply(e.mantissa, drop_invalid_low(factor))));
    if (e.vanishes()) return as_double_word(Acc(0) * factor.hi);
    return {scale_by_power(product.hi, e.rounded), scale_by_power(product.lo, e.rounded)};
  }
}

}  // namespace csm
