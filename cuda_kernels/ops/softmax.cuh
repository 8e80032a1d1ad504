// softmax: y_i = exp(z_i − m) / Σ_j exp(z_j − m), m = max_j z_j, where z = x or as logits/logit.cuh says.
#pragma once

#include "logits/logit.cuh"

namespace csm {

struct Op : OfLogits<WritesElements> {
  static constexpr Neutral kNeutral[] = {Neutral::lowest};  // no maximum, and adds nothing

  // The element's exponential stays in its place: one exponential an element.
  CSM_DEVICE static void terms(Element& e, DoubleWord shift, Place, const RowContext& context, Values<1>& term) {
    term[0] = e[0] = exp_logit(e, shift, factor_of(context));
  }

  // What turns exp(x − m_chunk) into y: exp(m_chunk − m) / s. A row of −inf alone has s = 0 and becomes NaN.
  using Scale = DoubleWord;
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext&) {
    return exp_difference_times(chunk_maximum, shift_of(row.m), normalised(reciprocal_of(row.s[0])));
  }
  CSM_DEVICE static void map(const Element& e, Scale scale, Place, Values<1>& y) { y[0] = scaled(e[0], scale); }
};

}  // namespace csm
