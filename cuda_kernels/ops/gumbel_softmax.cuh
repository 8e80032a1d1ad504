// gumbel_softmax: softmax of z = (x + g) / T, with g standard Gumbel noise of a seed, the row and the place in it.
#pragma once

#include "numeric/gumbel.cuh"
#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::lowest};
  enum Option { kSeed = option_named("seed", 0), kPerTemperature = option_named("per_temperature", 1) };

  // −∞ stays −∞, and has no part in the row.
  CSM_DEVICE static void enter(Element& x, Place place, const RowContext& context) {
    const Acc noise = gumbel(static_cast<u64>(context.option(kSeed)), context.row, place.start, place.step);
    x[0] = (x[0] + noise) * context.number(kPerTemperature);
  }

  // From here on as in softmax.
  CSM_DEVICE static Acc key(const Element& z, const RowContext&) { return z[0]; }
  CSM_DEVICE static void terms(Element& z, DoubleWord shift, Place, const RowContext&, Values<1>& term) {
    term[0] = z[0] = exp_difference(z[0], shift);
  }

  using Scale = DoubleWord;
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext&) {
    return exp_difference_times(chunk_maximum, shift_of(row.m), normalised(reciprocal_of(row.s[0])));
  }
  CSM_DEVICE static void map(const Element& e, Scale scale, Place, Values<1>& y) { y[0] = scaled(e[0], scale); }
};

}  // namespace csm
