// cap · tanh(x / cap), a smooth limit on logits, and its derivative: for cross-entropy with a soft cap. Below, per_cap
// is 1 / cap.
//
// |tanh u| = −E / (2 + E) with E = exp(−2|u|) − 1, which is computed without cancellation near 0. 16-bit outputs of
// float arithmetic use ex2.approx, whose error is as small as that of the exponentials that follow.
#pragma once

#include "numeric/exp.cuh"

namespace csm {

// e^d − 1 for d ≤ 0, to about one unit in the last place.
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

CSM_DEVICE Acc capped(Acc x, Acc cap, Acc per_cap) {
  const Acc e = exp_minus_one(Acc(-2) * magnitude(x * per_cap));
  const Acc limited = cap * (-e * reciprocal(Acc(2) + e));
  return x < Acc(0) ? -limited : limited;
}

// The derivative of capped(), from its value.
CSM_DEVICE Acc capped_slope(Acc limited, Acc per_cap) {
  const Acc t = limited * per_cap;
  return (Acc(1) - t) * (Acc(1) + t);
}

}  // namespace csm
