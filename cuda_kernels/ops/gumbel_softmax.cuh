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
    x[0] = enter(x[0], place, context);
  }
  static constexpr bool kEntersPairs = true;
  CSM_DEVICE static bool enters(const RowContext&) { return true; }
  // Of one element or two.
  template <class T>
  CSM_DEVICE static T enter(T x, Place place, const RowContext& context) {
    constexpr bool kFast = kFastExp && !has(feature::cold);
    return plus_gumbel<kFast>(x, context.options(kSeed), context.row, place.start, place.step) *
           T(context.number(kPerTemperature));
  }
};

}  // namespace csm
