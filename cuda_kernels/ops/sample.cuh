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
      const Acc noise = gumbel(context.options(kSeed), context.row, place.start, place.step);
      return fused(context.number(kOfLogits), widen(x), context.number(kOfNoise) * noise);
    } else {
      return x;
    }
  }

  // In float: the random words of four elements; and of an element a limit that compared() is not above.
  CSM_DEVICE static RowWords words(Place place, const RowContext& context) {
    return RowWords(context.options(kSeed), context.row, place.start, place.step);
  }
  CSM_DEVICE static Acc limit(Acc x, u32 word, const RowContext& context) {
    return fused(context.number(kOfLogits), x, gumbel_limit(word, context.number(kOfNoise)));
  }

  // −1 where there is no distribution to draw from: the largest is NaN or +inf, or every element is −inf, of which none
  // may have been looked at.
  CSM_DEVICE static i64 index(const Candidate& best) {
    if constexpr (has(feature::noisy)) {
      const Acc z = value_of(best.key);
      if (best.key == 0 || !is_finite(z)) return -1;
    }
    return best.index;
  }
};

}  // namespace csm
