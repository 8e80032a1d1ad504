// What softmax does with a row of logits z: y_i = exp(z_i − m) / Σ_j exp(z_j − m), where m = max_j z_j.
//
// softmax is this with logits as logits/logit.cuh forms them, gumbel_softmax with noisy ones.
#pragma once

#include "logits/logit.cuh"

namespace csm {

struct Softmax : OfLogits<WritesElements> {
  static constexpr Neutral kNeutral[] = {Neutral::lowest};  // −inf: never the maximum, and its exponential is 0

  // The exponential replaces the element, so that each is computed only once.
  CSM_DEVICE static void terms(Element& e, DoubleWord shift, Place, const RowContext& context, Values<1>& term) {
    term[0] = e[0] = exp_logit(e, shift, factor_of(context));
  }

  // exp(m_chunk − m) / s, which turns exp(z − m_chunk) into y. A row of −inf alone has s = 0, and its results are NaN.
  using Scale = DoubleWord;
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext&) {
    return exp_difference_times(chunk_maximum, shift_of(row.m), normalised(reciprocal_of(row.s[0])));
  }
  CSM_DEVICE static void map(const Element& e, Scale scale, Place, Values<1>& y) { y[0] = scaled(e[0], scale); }
};

}  // namespace csm
