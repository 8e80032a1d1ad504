// sample: the index of the largest z_i = x_i / T + g_i, where g_i is standard Gumbel noise: a draw from softmax(x / T).
//
// The noise follows from the seed, the row's number and the element's place in the row. Without the feature noisy, the
// result is the index of the largest x_i as stored. Elements are compared by min(1, T) · z, which has its maximum at
// the same place as z: for T < 1, x / T could overflow. Nothing is summed.
#pragma once

#include "numeric/gumbel.cuh"
#include "reduce/operation.cuh"
#include "select/picks.cuh"

namespace csm {

struct Op : OperationBase {
  enum Option {
    kSeed = own_option("seed"),
    kOfLogits = own_option("of_logits"),  // min(1, 1/T)
    kOfNoise = own_option("of_noise")     // min(1, T)
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

  // −1 where there is no distribution to draw from: the largest is NaN or +inf, or every element is −inf.
  CSM_DEVICE static i64 index(const Candidate& best) {
    if constexpr (has(feature::noisy)) {
      const Acc z = value_of(best.key);
      if (!(magnitude(z) < -negative_infinity())) return -1;
    }
    return best.index;
  }
};

}  // namespace csm
