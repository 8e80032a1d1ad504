// logsumexp_vjp: the gradient dx_i = dL · b_i exp(z_i − m) / Σ_j b_j exp(z_j − m) with respect to x.
//
// dL, the gradient with respect to the result, is a value of the row. The weights b are the second input of an
// operation that has them; without them dx = dL · softmax(z). For z = scale · x + bias, dx is multiplied by the scale.
// Summed over the row: b_j exp(z_j − m), where m is the largest z_j whose weight is not 0.
#pragma once

#include "logits/weighted.cuh"

namespace csm {

struct Op : Weighted<WritesElements> {
  CSM_DEVICE static void terms(Element& e, DoubleWord shift, Place, const RowContext& context, Values<1>& term) {
    term[0] = e[0] = weighted(e, exp_logit(e, shift, factor_of(context)));  // kept for map()
  }

  struct Scale {
    DoubleWord factor;  // exp(m_chunk − m) / s
    Acc upstream, factor_of_x;
  };
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
    DoubleWord inverse = reciprocal_of(row.s[0]);
    if (inverse.lo != inverse.lo) inverse.lo = Acc(0);  // weights may sum to infinity or, with both signs, to 0
    return {exp_difference_times(chunk_maximum, shift_of(row.m), normalised(inverse)), context[0], scale_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& dx) {
    dx[0] = rescaled(scaled(e[0], row.factor) * row.upstream, row.factor_of_x);
  }
};

}  // namespace csm
