// gumbel_softmax: softmax of z_i = (x_i + g_i) / T, where g_i is standard Gumbel noise and T the temperature.
//
// The noise follows from the seed, the row's number and the element's place in the row, and from nothing else. 16-bit
// results have it less precisely; not with the feature cold, a temperature that would magnify the error. Summed over
// the row: exp(z_j).
#pragma once

#include "numeric/gumbel.cuh"
#include "logits/softmax.cuh"

namespace csm {

struct Op : Softmax {
  enum Option { kSeed = own_option("seed"), kPerTemperature = own_option("per_temperature") };

  // −inf stays −inf, and its result is 0.
  CSM_DEVICE static void enter(Element& x, Place place, const RowContext& context) {
    Acc same;
    entered(Pair(x[0]), place, place.step, context).get(x[0], same);
  }
  static constexpr bool kEntersPairs = true;
  CSM_DEVICE static Pair enter(Pair x, Place place, const RowContext& context) {
    return entered(x, place, place.step + 1, context);
  }
  CSM_DEVICE static Pair entered(Pair x, Place place, int next, const RowContext& context) {
    constexpr bool kFast = kFastExp && !has(feature::cold);
    return plus_gumbel<kFast>(x, context.options(kSeed), context.row, place.start, place.step, next) *
           Pair(context.number(kPerTemperature));
  }
};

}  // namespace csm
