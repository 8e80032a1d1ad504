// sample: the index of the largest of z = x / T + g, with g standard Gumbel noise of a seed, the row and the place in
// it: a draw from softmax(x / T). Without the feature noisy, of the largest x as stored.
//
// What is compared is z, or T z where that is less, T < 1: neither overflows, and the largest is the same element's.
#pragma once

#include "numeric/gumbel.cuh"
#include "reduce/operation.cuh"
#include "select/picks.cuh"

namespace csm {

struct Op : OperationBase {
  enum Option {
    kSeed = option_named("seed", 1),
    kOfLogits = option_named("of_logits", 2),  // min(1, 1/T)
    kOfNoise = option_named("of_noise", 3)     // min(1, T)
  };

  template <class T>
  CSM_DEVICE static Compared compared(T x, Place place, const RowContext& context) {
    if constexpr (has(feature::noisy)) {
      const Acc noise = gumbel(static_cast<u64>(context.option(kSeed)), context.row, place.start, place.step);
      return fused(context.number(kOfLogits), widen(x), context.number(kOfNoise) * noise);
    } else {
      return x;
    }
  }

  // A row with a NaN or a +inf, which then is the largest, or of −inf alone has no distribution to draw from.
  CSM_DEVICE static i64 index(const Candidate& best) {
    if constexpr (has(feature::noisy)) {
      const Acc z = value_of(best.key);
      if (!(magnitude(z) < -negative_infinity())) return -1;
    }
    return best.index;
  }
};

}  // namespace csm
