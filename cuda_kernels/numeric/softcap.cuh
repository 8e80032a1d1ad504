// cap · tanh u with u = x / cap, a smooth limit on logits, and its derivative: for cross-entropy with a soft cap.
//
// |tanh u| = −E / (2 + E) with E = exp(−2|u|) − 1, which is computed without cancellation near 0; 16-bit outputs of
// float arithmetic use ex2.approx, whose absolute error is as small as that of the exponentials that follow. For a
// small u the result is x·(1 − u²/3): it is right relative to x then, however large the cap, and whether or not u is
// flushed to 0. The host passes 4 / cap, which is a normal number for all caps from 2^-125 on: 1 / cap would not be for
// large ones.
#pragma once

#include "numeric/exp.cuh"

namespace csm {

CSM_DEVICE Acc capped(Acc x, Acc cap, Acc four_per_cap) {
  // Below this |u|, tanh u = u·(1 − u²/3) to less than a quarter of a unit roundoff.
  constexpr Acc kSmall = kSingle ? Acc(0x1p-6) : Acc(0x1p-13);
  const Acc four_u = x * four_per_cap;
  const Acc e = exp_minus_one(Acc(-0.5) * magnitude(four_u));
  const Acc large = cap * (-e * reciprocal(Acc(2) + e));
  const Acc limited = x < Acc(0) ? -large : large;
  return magnitude(four_u) < Acc(4) * kSmall ? fused(x * four_u, four_u * (Acc(-1) / Acc(48)), x) : limited;
}

// The derivative of capped(), from its value.
CSM_DEVICE Acc capped_slope(Acc limited, Acc four_per_cap) {
  const Acc t = Acc(0.25) * (limited * four_per_cap);
  return (Acc(1) - t) * (Acc(1) + t);
}

}  // namespace csm
