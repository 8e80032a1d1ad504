// ln s of a sum s ≥ 0 that is carried in two words, in two words.
//
// With s = 2^k·(1 + δ) and 1 + δ in [√½, √2): ln s = k ln 2 + 2 artanh z, z = δ / (2 + δ). δ and z have a second word,
// so the result has all its digits also next to s = 1, where ln s is nearly δ: its error is a sixth of a unit roundoff.
// The series artanh z = z + z³/3 + z⁵/5 + … is cut where |z| ≤ 0.1716 makes the rest smaller than 2^-28 (float) or
// 2^-57 (double) of the whole.
#pragma once

#include "numeric/exp.cuh"
#include "numeric/vec.cuh"

namespace csm {

// a = 2^exponent · fraction, for normal positive a.
struct Parts {
  Acc exponent, fraction;
};
CSM_DEVICE Parts split_at_root_half(float a) {
  const int bits = static_cast<int>(float_to_bits(a));
  const int k = (bits - 0x3f3504f3) >> 23;
  return {static_cast<Acc>(k), static_cast<Acc>(bits_to_float(static_cast<unsigned>(bits - k * (1 << 23))))};
}
CSM_DEVICE Parts split_at_root_half(double a) {
  const i64 bits = static_cast<i64>(double_to_bits(a));
  const i64 k = (bits - 0x3fe6a09e667f3bcdll) >> 52;
  const i64 one = i64(1) << 52;
  return {static_cast<Acc>(k), static_cast<Acc>(bits_to_double(static_cast<unsigned long long>(bits - k * one)))};
}

CSM_DEVICE Wide logarithm(Wide sum) {
  Wide s = normalised(sum);
  Acc raised = Acc(0);
  if constexpr (!kSingle) {  // float32 has no subnormal sums: they are flushed
    if (s.hi < bits_to_double(0x0010000000000000ull)) {
      const Acc power = bits_to_double(0x4350000000000000ull);  // 2^54
      s = {s.hi * power, s.lo * power};
      raised = Acc(54);
    }
  }
  const auto [exponent_of, fraction] = split_at_root_half(s.hi);
  const Acc exponent = exponent_of - raised;
  // The second word in the fraction's scale: multiplied by a power of two.
  const Acc low = kCompensated ? s.lo * (fraction * reciprocal(s.hi)) : Acc(0);
  const Acc t = fraction - Acc(1);  // exact
  const Acc denominator = Acc(2) + t;
  const Acc denominator_low = (t - (denominator - Acc(2))) + low;
  const Acc inverse = reciprocal(denominator);
  const Acc z = (t + low) * inverse;
  const Acc z_low = ((fused(-z, denominator, t) + low) - z * denominator_low) * inverse;
  const Acc square = z * z;
  constexpr int kTerms = kSingle ? 4 : 10;
  Acc series = Acc(2) / Acc(2 * kTerms + 1);
#pragma unroll
  for (int i = kTerms - 1; i >= 1; --i) series = fused(series, square, Acc(2) / Acc(2 * i + 1));
  const Acc small = fused(z * square, series, Acc(2) * z_low);
  // k ln 2 in three words, the largest first; it is 0 for k = 0, and else larger than what is added to it.
  const Acc whole = exponent * ExpC::kLn2;
  const Acc whole_low = fused(exponent, ExpC::kLn2, -whole) + exponent * ExpC::kLn2Low;
  const Acc hi = whole + Acc(2) * z;
  const Acc of_z = hi - whole;
  const Acc lost = (whole - (hi - of_z)) + (Acc(2) * z - of_z);
  Wide result = normalised({hi, lost + (whole_low + small)});
  if constexpr (!kCompensated) result.hi = hi + (whole_low + small);
  if (s.hi == Acc(0)) result = widen_exactly(negative_infinity());
  if (!(magnitude(s.hi) < -negative_infinity())) result = widen_exactly(s.hi);  // +inf and NaN stay
  return result;
}

// a + b, for a word and a number in two: rounded twice, and so within one unit of the result's last place.
CSM_DEVICE Acc plus(Acc a, Wide b) {
  const Acc sum = a + b.hi;
  if constexpr (!kCompensated) return sum;
  const Acc of_b = sum - a;
  const Acc rest = ((a - (sum - of_b)) + (b.hi - of_b)) + b.lo;
  return rest == rest ? sum + rest : sum;  // among infinities the rest is NaN, and the sum right
}

}  // namespace csm
