// Standard Gumbel noise of an element of a row, for sampling: g = −ln(−ln u), with u uniform in (0, 1) from the random
// words of a seed, the row and the element (numeric/philox.cuh).
//
// u is (bits + ½)·2^-32 (float) or 2^-53 (double), so it is neither 0 nor 1. −ln u is an exponential variable; for u
// near 1, which gives the largest g, it is nearly 1 − u. So the smaller of u and 1 − u is kept, which has more digits.
// gumbel() has only correctly rounded arithmetic and no approximate instruction, whose results differ between GPUs: the
// same element has the same noise everywhere. The error of g is at most three unit roundoffs of 1 + |g|. 16-bit results
// take the logarithms by lg2.approx, with an error of up to eleven (docs/derivation.md).
#pragma once

#include "numeric/log.cuh"
#include "numeric/philox.cuh"

namespace csm {

// ln(2^k·(1 + t)), with 1 + t in [√½, √2), to about one unit in the last place. In float ln(1 + t) = t + t²·q(t), with
// a polynomial q by Lawson's weighted least squares: relative error 2^-27.8. In double 2 artanh z, z = t / (2 + t), by
// the series of numeric/log.cuh. k comes in units of kExponentUnit.
CSM_DEVICE Pair log_of_parts(Pair k, Pair t) {
  Pair log;
  if constexpr (kSingle) {
    constexpr float kQ[] = {-0x1.fffff8p-2f, 0x1.55555p-2f,   -0x1.000426p-2f, 0x1.99a3f4p-3f, -0x1.54276cp-3f,
                            0x1.22718cp-3f,  -0x1.0f3764p-3f, 0x1.0848bep-3f,  -0x1.3830fcp-4f};
    Pair q = Pair(Acc(kQ[8]));
#pragma unroll
    for (int i = 7; i >= 0; --i) q = fused(q, t, Pair(Acc(kQ[i])));
    log = fused(t * t, q, t);
  } else {
    log = each(t, [](Acc one) {
      const Acc z = one * reciprocal(Acc(2) + one), square = z * z, series = artanh_series(square);
      // 2z = t − tz, of which t is exact.
      return fused(z * square, series, fused(-one, z, one));
    });
  }
  constexpr Acc kHigh = ExpC::kLn2 * kExponentUnit, kLow = ExpC::kLn2Low * kExponentUnit;
  return fused(k, Pair(kHigh), fused(k, Pair(kLow), log));
}

// A uniform number u: minus the smaller of u and 1 − u, and whether u is the smaller.
struct Uniform {
  Acc minus_smaller;
  bool below_half;

  // u = 2^exponent·(1 + fraction), for its logarithm.
  CSM_DEVICE Parts parts() const {
    const Parts u = split_at_root_half<true>(below_half ? minus_smaller : Acc(-1) - minus_smaller);
    // For u ≥ √½, `minus_smaller` is u − 1 with digits that u has not.
    return {u.exponent, u.exponent == Acc(0) ? minus_smaller : Acc(-1) - u.fraction};
  }
};

// The word of element start + step of a row, of those that have one. As in RowWords, `step` is a compile-time constant
// after unrolling.
CSM_DEVICE u32 random_word(const i64* keys, i64 row, i64 start, int step) {
  const RowWords words(keys, row, start, step);
  return words[words.index];
}
// The uniform number of element start + step.
CSM_DEVICE Uniform uniform(const i64* keys, i64 row, i64 start, int step) {
  if constexpr (kSingle) {
    const int bits = static_cast<int>(random_word(keys, row, start, step));
    const bool below_half = bits > -1;
    const int flipped = computed_once(~bits);  // else the compiler takes bits ^ bits >> 31, an instruction more
    return {fused(static_cast<float>(below_half ? bits : flipped), -0x1p-32f, -0x1p-33f), below_half};
  } else {  // two words an element, the lower half first
    const RowWords words(keys, row, 2 * start, 2 * step);
    const u64 bits = (u64(words[words.index + 1]) << 32 | words[words.index]) >> 11;
    const bool below_half = bits >> 52 == 0;
    const u64 rest = below_half ? bits : bits ^ 0x1fffffffffffffull;
    return {(static_cast<double>(rest) + 0.5) * -0x1p-53, below_half};
  }
}

// −g of two uniform numbers.
CSM_DEVICE Pair minus_gumbel(Uniform low, Uniform high) {
  const Parts a = low.parts(), b = high.parts();
  Acc first, second;  // ln u
  log_of_parts({a.exponent, b.exponent}, {a.fraction, b.fraction}).get(first, second);
  const Parts c = split_at_root_half<true>(first), d = split_at_root_half<true>(second);
  return log_of_parts({c.exponent, d.exponent}, Pair(Acc(-1)) - Pair(c.fraction, d.fraction));
}

// The noise of element start + step of a row.
CSM_DEVICE Acc gumbel(const i64* keys, i64 row, i64 start, int step) {
  const Uniform u = uniform(keys, row, start, step);
  Acc minus, same;
  minus_gumbel(u, u).get(minus, same);
  return -minus;
}

// lg2(−lg2 u) of a word, by lg2.approx. That has an absolute error where u is next to 1: there lg2 u = v·q(v), with
// v = 1 − u ≤ 1/8 and q by Lawson's weighted least squares, relative error 2^-20.9.
CSM_DEVICE bool is_near_one(u32 word) {
  constexpr u32 kNear = 0xe0000000u;
  return word >= kNear;
}
// v there, and u elsewhere.
CSM_DEVICE Acc fast_uniform(u32 word) {
  return fused(static_cast<Acc>(is_near_one(word) ? ~word : word), Acc(0x1p-32), Acc(0x1p-33));
}
template <class T>
CSM_DEVICE T near_logarithm(T v) {
  constexpr Acc kQ[] = {-0x1.71546ap+0, -0x1.716ba8p-1, -0x1.e55cd8p-2, -0x1.c791eep-2};
  T q(kQ[3]);
#pragma unroll
  for (int i = 2; i >= 0; --i) q = fused(q, v, T(kQ[i]));
  return v * q;
}
CSM_DEVICE Acc outer_logarithm(u32 word, Acc uniform, Acc near) {
  return log2_approx(is_near_one(word) ? near : log2_approx(uniform));
}
CSM_DEVICE Acc fast_logarithm(u32 word) {
  const Acc uniform = fast_uniform(word);
  return outer_logarithm(word, uniform, near_logarithm(uniform));
}
CSM_DEVICE Pair fast_logarithm(u32 low, u32 high) {
  const Acc a = fast_uniform(low), b = fast_uniform(high);
  Acc first, second;
  near_logarithm(Pair(a, b)).get(first, second);
  return {outer_logarithm(low, a, first), outer_logarithm(high, b, second)};
}

// x + g of element start + step, and of this one and the next. If kFast, −ln(ln 2) less.
template <bool kFast>
CSM_DEVICE Acc plus_gumbel(Acc x, const i64* keys, i64 row, i64 start, int step) {
  if constexpr (kFast) return fused(fast_logarithm(random_word(keys, row, start, step)), -ExpC::kLn2, x);
  else return x + gumbel(keys, row, start, step);
}
template <bool kFast>
CSM_DEVICE Pair plus_gumbel(Pair x, const i64* keys, i64 row, i64 start, int step) {
  if constexpr (kFast) {
    const u32 low = random_word(keys, row, start, step), high = random_word(keys, row, start, step + 1);
    return fused(fast_logarithm(low, high), Pair(-ExpC::kLn2), x);
  } else {
    return x - minus_gumbel(uniform(keys, row, start, step), uniform(keys, row, start, step + 1));
  }
}

// In float, a bound of `factor` times the noise as it is computed of a random word: g ≤ −ln(1 − u), since −ln u ≥ 1 −
// u. The bits of a number are its binary logarithm, in units of its last place, or up to 0.0861 less. 2^-14 is more
// than rounding takes off: 2^-17 of the noise's own, and 2^-15 here.
CSM_DEVICE Acc gumbel_limit(u32 word, Acc factor) {
  const float rest = static_cast<float>(~word);  // 2^32 (1 − u) less a half
  const Acc bits = static_cast<Acc>(static_cast<int>(float_to_bits(rest)));
  return fused(bits, Acc(-0x1.62e43p-24f) * factor, Acc(159 * 0x1.62e43p-1f + 0x1p-14f) * factor);
}

}  // namespace csm
