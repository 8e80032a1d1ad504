// sample: the index of the largest of z = x / T + g, with g standard Gumbel noise of a seed, the row and the place in
// it: a draw from softmax(x / T). Without the feature noisy, of the largest x as stored.
//
// What is compared is z, or T z where that is less, T < 1: neither overflows, and the largest is the same element's.
#pragma once

#include "numeric/gumbel.cuh"
#include "reduce/node.cuh"
#include "select/picks.cuh"

namespace csm {

struct Op : Plain {
  enum Option { kSelected, kSeed, kOfLogits, kOfNoise };  // min(1, 1/T) and min(1, T)

  template <class T>
  CSM_DEVICE static Compared compared(T x, Place place, const Given& given) {
    if constexpr (has(feature::noisy)) {
      const Acc noise = gumbel(static_cast<u64>(given.option(kSeed)), given.row, place);
      return fused(given.number(kOfLogits), widen(x), given.number(kOfNoise) * noise);
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
