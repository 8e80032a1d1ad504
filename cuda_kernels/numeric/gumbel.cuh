// Standard Gumbel noise of an element of a row, for sampling: g = −ln(−ln u), with u uniform in (0, 1) from the random
// words of a seed, the row and the element (numeric/philox.cuh).
//
// u is (bits + ½)·2^-32 (float) or 2^-53 (double), so it is neither 0 nor 1. −ln u is an exponential variable; for u
// near 1, which gives the largest g, it is nearly 1 − u. So the smaller of u and 1 − u is kept, which has more digits.
// There is only correctly rounded arithmetic here and no approximate instruction, whose results differ between GPUs:
// the same element has the same noise everywhere. The error of g is at most three unit roundoffs of 1 + |g|.
#pragma once

#include "numeric/log.cuh"
#include "numeric/philox.cuh"

namespace csm {

// ln(2^k·(1 + t)), with 1 + t in [√½, √2), to about one unit in the last place. In float ln(1 + t) = t + t²·q(t), with
// a polynomial q by Lawson's weighted least squares: relative error 2^-27.8. In double 2 artanh z, z = t / (2 + t), by
// the series of numeric/log.cuh.
CSM_DEVICE Acc log_of_parts(Acc k, Acc t) {
  Acc log;
  if constexpr (kSingle) {
    constexpr float kQ[] = {-0x1.fffff8p-2f, 0x1.55555p-2f,   -0x1.000426p-2f, 0x1.99a3f4p-3f, -0x1.54276cp-3f,
                            0x1.22718cp-3f,  -0x1.0f3764p-3f, 0x1.0848bep-3f,  -0x1.3830fcp-4f};
    Acc q = kQ[8];
#pragma unroll
    for (int i = 7; i >= 0; --i) q = fused(q, t, Acc(kQ[i]));
    log = fused(t * t, q, t);
  } else {
    const Acc z = t * reciprocal(Acc(2) + t), square = z * z, series = artanh_series(square);
    // 2z = t − tz, of which t is exact.
    log = fused(z * square, series, fused(-t, z, t));
  }
  return fused(k, ExpC::kLn2, fused(k, ExpC::kLn2Low, log));
}

// g, from the smaller of u and 1 − u, and whether u is the larger.
CSM_DEVICE Acc gumbel_of(Acc smaller, bool above_half) {
  const Parts u = split_at_root_half(above_half ? Acc(1) - smaller : smaller);
  // For u ≥ √½, `smaller` is 1 − u with digits that u has not.
  const Acc exponential = -log_of_parts(u.exponent, u.exponent == Acc(0) ? -smaller : u.fraction - Acc(1));
  const Parts e = split_at_root_half(exponential);
  return -log_of_parts(e.exponent, e.fraction - Acc(1));
}

// The noise of element start + step of a row. As in RowWords, `step` is a compile-time constant after unrolling.
CSM_DEVICE Acc gumbel(u64 seed, i64 row, i64 start, int step) {
  if constexpr (kSingle) {  // one word an element
    const RowWords words(seed, row, start, step);
    const u32 bits = words[words.index];
    const bool above_half = bits >> 31;
    return gumbel_of(fused(static_cast<float>(above_half ? ~bits : bits), 0x1p-32f, 0x1p-33f), above_half);
  } else {  // two words an element, the lower half first
    const RowWords words(seed, row, 2 * start, 2 * step);
    const u64 bits = (u64(words[words.index + 1]) << 32 | words[words.index]) >> 11;
    const bool above_half = bits >> 52;
    const u64 rest = above_half ? bits ^ 0x1fffffffffffffull : bits;
    return gumbel_of((static_cast<double>(rest) + 0.5) * 0x1p-53, above_half);
  }
}

}  // namespace csm
