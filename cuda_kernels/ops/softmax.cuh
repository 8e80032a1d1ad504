// softmax: y_i = exp(x_i − m) / Σ_j exp(x_j − m), m = max_j x_j.
#pragma once

#include "core/monoid.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::lowest};  // no maximum, and adds nothing

  CSM_DEVICE static Acc key(const Element& x) { return x[0]; }
  // The element's exponential stays in its place: one exponential an element.
  CSM_DEVICE static void terms(Element& x, Acc shift, Place, const Given&, Values<1>& term) {
    term[0] = x[0] = exp_difference(x[0], shift);
  }

  // What turns exp(x − m_chunk) into y: exp(m_chunk − m) / s. A row of −inf alone has s = 0 and becomes NaN.
  using Scale = Wide;
  CSM_DEVICE static Scale scale(Acc chunk_maximum, const Node& row, const Given&) {
    return exp_difference_times(chunk_maximum, shift_of(row.m), normalised(reciprocal_of(row.s[0])));
  }
  CSM_DEVICE static void map(const Element& e, Scale scale, Place, Values<1>& y) { y[0] = scaled(e[0], scale); }
};

}  // namespace csm
