// exp(x − m) for x ≤ m, of any finite size; a little above m does no harm.
//
// Three sources of error matter, each magnified by |x − m|: the rounding of x − m itself, of its reduction by ln 2,
// and that of the exponential. The first is carried as a second word, the second done in two steps (Cody and Waite),
// and the third is a polynomial; but for 16-bit outputs of float arithmetic ex2.approx (relative error 2^-22) is
// enough. The polynomial is e^r = 1 + r + r²·q(r) on |r| ≤ ln2/2, q by Lawson's weighted least squares: relative error
// 2^-27.9 (float, degree 4) and 2^-56.6 (double, degree 9).
#pragma once

#include "numeric/wide.cuh"

namespace csm {

template <class A>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLog2e = 0x1.715476p+0f;
  static constexpr float kLn2 = 0x1.62e43p-1f, kLn2Low = -0x1.05c61p-29f;
  static constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, kept in the low bits
  static constexpr float kSmallest = -87.6f;    // a little below ln 2^-126: what is subnormal, the product flushes
  static constexpr int kTerms = 5;
  static constexpr float kQ[kTerms] = {0x1.fffffcp-2f, 0x1.55548ap-3f, 0x1.555916p-5f, 0x1.123fcep-7f, 0x1.6a1a2cp-10f};
};

template <>
struct ExpConstants<double> {
  static constexpr double kLog2e = 0x1.71547652b82fep+0;
  static constexpr double kLn2 = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 · 2^52
  static constexpr double kSmallest = -745.14;          // ln 2^-1075: below, a float64 result rounds to zero
  static constexpr int kTerms = 10;
  static constexpr double kQ[kTerms] = {0x1.000000000000ap-1,  0x1.55555555554f9p-3,  0x1.55555555507dfp-5,
                                        0x1.1111111127e6ap-7,  0x1.6c16c1844e4aep-10, 0x1.a01a0129c7413p-13,
                                        0x1.a01999a5e5647p-16, 0x1.71df25f28f1a4p-19, 0x1.28add50594c45p-22,
                                        0x1.ad7f6f91e3bc8p-26};
};

using ExpC = ExpConstants<Acc>;

constexpr bool kFastExp = kSingle && !kCompensated;  // 16-bit outputs of float arithmetic

// a · 2^k, k an integer ≤ 2 that was made by adding kRound.
CSM_DEVICE float scale_by_power(float a, float rounded) {
  return a * bits_to_float((float_to_bits(rounded) << 23) + 0x3f800000u);
}
CSM_DEVICE double scale_by_power(double a, double rounded) {
  // k may reach −1075, out of a single exponent's range: two factors.
  const int k = static_cast<int>(double_to_bits(rounded));
  const int half = k / 2;
  const auto power = [](int e) { return bits_to_double(static_cast<unsigned long long>(e + 1023) << 52); };
  return a * power(half) * power(k - half);
}

// e^(x − m) = mantissa · 2^k, k held as kRound + k; zero where it vanishes. The mantissa's second word only if
// `Second`.
struct Exponential {
  Wide mantissa;
  Acc rounded;
  Acc distance;  // x − m
  CSM_DEVICE bool vanishes() const { return distance < ExpC::kSmallest; }
};

// x − m, exactly (two-sum).
CSM_DEVICE Wide difference(Acc x, Acc m) {
  const Acc d = x - m;
  const Acc of_m = d - x;
  return {d, (x - (d - of_m)) - (m + of_m)};
}

template <bool Second>
CSM_DEVICE Exponential exp_reduced(Wide distance) {
  const Acc d = distance.hi, lost = distance.lo;
  const Acc rounded = fused(d, ExpC::kLog2e, ExpC::kRound);
  const Acc k = rounded - ExpC::kRound;
  const Acc r = fused(k, -ExpC::kLn2, d);  // exact
  const Acc r_low = fused(k, -ExpC::kLn2Low, lost);
  Acc q = ExpC::kQ[ExpC::kTerms - 1];
#pragma unroll
  for (int i = ExpC::kTerms - 2; i >= 0; --i) q = fused(q, r, ExpC::kQ[i]);
  // e^(r + r_low) = 1 + r + r²·q + r_low·e^r: the largest first, what its rounding lost with the rest.
  const Acc square = r * r;
  const Acc first = Acc(1) + r;
  const Acc first_lost = r - (first - Acc(1));
  const Acc rest = fused(square, q, fused(r_low, fused(square, q, first), first_lost));
  const Acc sum = first + rest;
  // A comparison that is false for NaN keeps NaN; x = −inf vanishes, its lost and r are meaningless.
  return {{sum, Second ? rest - (sum - first) : Acc(0)}, rounded, d};
}

// For 16-bit outputs of float arithmetic. −∞ gives 0 and NaN stays NaN by themselves.
CSM_DEVICE float exp_fast(float x, float m) { return exp2_approx((x - m) * ExpConstants<float>::kLog2e); }

// One element: e^d to about 0.6 ulp of Acc, or as exp_fast.
CSM_DEVICE Acc exp_of(Wide d) {
  if constexpr (kFastExp) {
    return exp2_approx(d.hi * ExpConstants<float>::kLog2e);
  } else {
    const Exponential e = exp_reduced<false>(d);
    return zero_if_less(scale_by_power(e.mantissa.hi, e.rounded), e.distance, ExpC::kSmallest);
  }
}

CSM_DEVICE Acc exp_difference(Acc x, Acc m) {
  if constexpr (kFastExp) return exp_fast(x, m);
  else return exp_of(difference(x, m));
}

CSM_DEVICE Acc exp_difference(Acc x, Wide m) { return exp_difference(x, m.hi); }

// x − m of numbers in two words, for x ≤ m. What infinities make of the second words counts for nothing.
CSM_DEVICE Wide difference(Wide x, Wide m) {
  const Wide d = difference(x.hi, m.hi);
  const Acc lost = d.lo + (x.lo - m.lo);
  const Acc low = lost == lost ? lost : Acc(0);
  const Acc hi = d.hi + low;
  return {hi, low - (hi - d.hi)};
}

// e^(x − m) · factor, for what scales many elements: exactly `factor` for x = m. The power of two comes last: before,
// it could make the product's second word subnormal, and flushed. Where e^(x − m) vanishes, an infinite factor (a row
// of −∞ has no sum) or a NaN still gives NaN.
CSM_DEVICE Wide exp_difference_times(Wide x, Wide m, Wide factor) {
  if constexpr (!kCompensated) {
    const bool same = x.hi == m.hi && (!kWideMaximum || x.lo == m.lo);
    const Acc exponential = kWideMaximum ? exp_of(difference(x, m)) : exp_difference(x.hi, m.hi);
    return widen_exactly(same ? factor.hi : exponential * factor.hi);
  } else {
    const Exponential e = exp_reduced<true>(kWideMaximum ? difference(x, m) : difference(x.hi, m.hi));
    const Wide product = normalised(settled(multiply(e.mantissa, settled(factor))));
    if (e.vanishes()) return widen_exactly(Acc(0) * factor.hi);
    return {scale_by_power(product.hi, e.rounded), scale_by_power(product.lo, e.rounded)};
  }
}

}  // namespace csm
