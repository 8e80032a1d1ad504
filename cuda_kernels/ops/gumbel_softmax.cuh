// gumbel_softmax: softmax of z_i = (x_i + g_i) / T, where g_i is standard Gumbel noise and T the temperature.
//
// The noise follows from the seed, the row's number and the element's place in the row, and from nothing else.
// Summed over the row: exp(z_j).
#pragma once

#include "numeric/gumbel.cuh"
#include "logits/softmax.cuh"

namespace csm {

struct Op : Softmax {
  enum Option { kSeed = own_option("seed"), kPerTemperature = own_option("per_temperature") };

  // −inf stays −inf, and its result is 0.
  CSM_DEVICE static void enter(Element& x, Place place, const RowContext& context) {
    const Acc noise = gumbel(context.options(kSeed), context.row, place.start, place.step);
    x[0] = (x[0] + noise) * context.number(kPerTemperature);
  }
  static constexpr bool kEntersPairs = true;
  CSM_DEVICE static Pair enter(Pair x, Place place, const RowContext& context) {
    const Pair minus = minus_gumbel_of_two(context.options(kSeed), context.row, place.start, place.step);
    return (x - minus) * Pair(context.number(kPerTemperature));
  }
};

}  // namespace csm
