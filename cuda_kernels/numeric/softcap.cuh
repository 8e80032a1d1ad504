// cap · tanh(x / cap), a smooth limit on logits, and its derivative: for cross-entropy with a soft cap. Below, per_cap
// is 1 / cap.
//
// |tanh u| = −E / (2 + E) with E = exp(−2|u|) − 1, which is computed without cancellation near 0. 16-bit outputs of
// float arithmetic use ex2.approx, whose error is as small as that of the exponentials that follow.
#pragma once

#include "numeric/exp.cuh"

namespace csm {

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
