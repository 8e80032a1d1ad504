// The natural logarithm of a sum s ≥ 0, from a double word to a double word: used for log-softmax, logsumexp and the
// cross-entropy loss; its parts also for Gumbel noise.
//
// With s = 2^k·(1 + δ) and 1 + δ in [√½, √2): ln s = k ln 2 + 2 artanh z, 2z = δ / (1 + δ/2). δ and 2z are double
// words, so the result is accurate also for s near 1, where ln s is nearly δ: its error is a sixth of a unit roundoff.
// δ is never halved by itself, since half of it may be subnormal, and flushed. The series artanh z = z + z³/3 + z⁵/5 +
// … ends where the rest is smaller than 2^-28 (float) or 2^-57 (double) of the whole, for |z| ≤ 0.1716.
#pragma once

#include "numeric/exp.cuh"

namespace csm {

// a = 2^k · fraction, the fraction in [√½, √2), for normal positive a; if kNegative, for negative ones, with −fraction
// there. k = exponent · kExponentUnit: in float the exponent is as it lies in the bits, which saves shifts.
struct Parts {
  Acc exponent, fraction;
};
constexpr Acc kExponentUnit = kSingle ? Acc(0x1p-23) : Acc(1);
template <bool kNegative = false>
CSM_DEVICE Parts split_at_root_half(float a) {
  constexpr unsigned kRootHalf = kNegative ? 0xbf3504f3u : 0x3f3504f3u;
  const unsigned bits = float_to_bits(a), exponent = (bits - kRootHalf) & 0xff800000u;
  return {static_cast<Acc>(static_cast<int>(exponent)), static_cast<Acc>(bits_to_float(bits - exponent))};
}
template <bool kNegative = false>
CSM_DEVICE Parts split_at_root_half(double a) {
  constexpr u64 kRootHalf = kNegative ? 0xbfe6a09e667f3bcdull : 0x3fe6a09e667f3bcdull;
  const u64 bits = double_to_bits(a);
  const i64 k = static_cast<i64>(bits - kRootHalf) >> 52;
  return {static_cast<Acc>(k), static_cast<Acc>(bits_to_double(bits - (static_cast<u64>(k) << 52)))};
}

// 2 artanh z = 2z + z³ · artanh_series(z²).
CSM_DEVICE Acc artanh_series(Acc square) {
  constexpr int kTerms = kSingle ? 4 : 10;
  Acc series = Acc(2) / Acc(2 * kTerms + 1);
#pragma unroll
  for (int i = kTerms - 1; i >= 1; --i) series = fused(series, square, Acc(2) / Acc(2 * i + 1));
  return series;
}

CSM_DEVICE DoubleWord logarithm(DoubleWord sum) {
  DoubleWord s = normalised(sum);
  Acc raised = Acc(0);
  if constexpr (!kSingle) {  // float has no subnormal sums: they are flushed to zero
    if (s.hi < bits_to_double(0x0010000000000000ull)) {
      const Acc power = bits_to_double(0x4350000000000000ull);  // 2^54
      s = times(s, power);
      raised = Acc(54);
    }
  }
  const auto [exponent_of, fraction] = split_at_root_half(s.hi);
  const Acc exponent = exponent_of * kExponentUnit - raised;
  // The low word, divided by the same power of two as the high one.
  const Acc low = kCompensated || kOthersInLow ? s.lo * (fraction * reciprocal_approx(s.hi)) : Acc(0);
  const Acc t = fraction - Acc(1);  // exact
  const DoubleWord denominator = fast_two_sum(Acc(1), Acc(0.5) * t);
  const Acc denominator_low = fused(Acc(0.5), low, denominator.lo);
  const Acc inverse = reciprocal_approx(denominator.hi);
  const Acc twice = (t + low) * inverse, z = Acc(0.5) * twice;  // 2z and z
  const Acc twice_low = ((fused(-twice, denominator.hi, t) + low) - twice * denominator_low) * inverse;
  const Acc square = z * z;
  const Acc series = artanh_series(square);
  const Acc small = fused(z * square, series, twice_low);
  // k ln 2 in three words, the largest first. Where it is not 0 it is larger than 2z, which is added to it.
  const Acc whole = exponent * ExpC::kLn2;
  const Acc whole_low = fused(exponent, ExpC::kLn2, -whole) + exponent * ExpC::kLn2Low;
  const DoubleWord large = two_sum(whole, twice);
  DoubleWord result = normalised({large.hi, large.lo + (whole_low + small)});
  if constexpr (!kCompensated) result.hi = large.hi + (whole_low + small);
  if (s.hi == Acc(0)) result = as_double_word(negative_infinity());
  if (!is_finite(s.hi)) result = as_double_word(s.hi);  // +∞ and NaN stay
  return result;
}

CSM_DEVICE bool has_sign(float a) { return static_cast<int>(float_to_bits(a)) < 0; }
CSM_DEVICE bool has_sign(double a) { return static_cast<i64>(double_to_bits(a)) < 0; }
CSM_DEVICE float to_float(float a) { return a; }
CSM_DEVICE float to_float(double a) { return static_cast<float>(a); }

// 2^k, such that 2^k · largest is next to the sum: between √½ and √2 of it.
struct NearPower {
  Acc k, power;
};
CSM_DEVICE NearPower power_near(Acc sum, Acc largest) {
  const float ratio = to_float(sum) * reciprocal_approx(to_float(largest));
  const int k = (static_cast<int>(float_to_bits(ratio)) - 0x3f3504f3) >> 23;
  if constexpr (kSingle) return {static_cast<Acc>(k), bits_to_float((static_cast<unsigned>(k) << 23) + 0x3f800000u)};
  else return {static_cast<Acc>(k), bits_to_double(static_cast<u64>(k + 1023) << 52)};
}

// ln(1 + others / (largest + lost)), the logarithm of a sum over its largest term, of which `largest` has lost
// something. `sum` is largest + others, or, if it is negative, minus the others.
//
// With c = 2^k of power_near(): k ln 2 + 2 artanh z, 2z = t / (c · largest + t/2), t = sum − c · largest. t
// is exact but for the low word. Nothing is divided by the largest, and t and the others have all their digits where k
// is 0. In float 2z is lifted: its low word is not flushed beside the smallest numbers. The low word of the result may
// be a unit of the high one's last place.
CSM_DEVICE DoubleWord log_of_sum(DoubleWord sum, Acc largest, Acc lost) {
  if (!kRowIsTile && unlikely(-sum.hi > Acc(0.25) * largest)) sum = add(negative(sum), largest);  // of a union
  const bool apart = has_sign(sum.hi);
  constexpr Acc kDown = kSingle ? Acc(0x1p-60) : Acc(1);
  const auto [k, c] = power_near(apart ? largest : sum.hi, largest);
  const Acc part = c * largest;
  DoubleWord t = {sum.hi - part, fused(Acc(1) - c, lost, sum.lo)};
  if (apart) t = negative(sum);
  const DoubleWord half = fast_two_sum(part, Acc(0.5) * t.hi);
  const Acc divisor = half.hi * kDown, divisor_low = fused(c, lost, fused(Acc(0.5), t.lo, half.lo)) * kDown;
  const Acc inverse = reciprocal_approx(divisor);
  const Acc twice = (t.hi + t.lo) * inverse;
  const Acc twice_low = ((fused(-twice, divisor, t.hi) + t.lo) - twice * divisor_low) * inverse;
  const Acc lifted_z = Acc(0.5) * twice, z = lifted_z * kDown, square = z * z;
  const DoubleWord near = fast_two_sum(twice, fused(lifted_z * square, artanh_series(square), twice_low));
  // k ln 2 in three words. Where it is not 0 it is larger than 2z.
  const Acc whole = k * ExpC::kLn2, whole_low = fused(k, ExpC::kLn2, -whole) + k * ExpC::kLn2Low;
  const DoubleWord large = fast_two_sum(whole, near.hi * kDown);
  DoubleWord result = {large.hi, large.lo + fused(near.lo, kDown, whole_low)};
  if (sum.hi == Acc(0) && !apart) result = as_double_word(negative_infinity());
  if (!is_finite(sum.hi)) result = as_double_word(sum.hi);  // +∞ and NaN stay
  return result;
}

// The same for results of 16 bits, in one word. `terms` are those equal to the largest, or all if `others` are 0.
CSM_DEVICE Acc fast_log_of_sum(Acc terms, Acc others, Acc largest) {
  const Acc sum = terms + others;
  const auto [k, c] = power_near(sum, largest);
  const Acc part = c * largest, t = (terms - part) + others;
  const Acc twice = t * reciprocal_approx(fused(Acc(0.5), t, part)), z = Acc(0.5) * twice, square = z * z;
  const Acc log = fused(k, ExpC::kLn2, fused(z * square, artanh_series(square), twice));
  return sum > Acc(0) && sum < -negative_infinity() ? log : sum == Acc(0) ? negative_infinity() : sum;
}

}  // namespace csm
