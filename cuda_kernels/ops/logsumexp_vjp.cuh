// Gradient through logsumexp: dx_i = dL · b_i exp(x_i − m) / Σ_j b_j exp(x_j − m); without weights dL · softmax(x).
//
// dL, the gradient with respect to the result, is a value of the row. The weights are there if there is a second input.
#pragma once

#include "logits/weighted.cuh"

namespace csm {

struct Op : Weighted<WritesElements> {
  CSM_DEVICE static void terms(Element& e, DoubleWord shift, Place, const RowContext& context, Values<1>& term) {
    term[0] = e[0] = weighted(e, exp_logit(e, shift, factor_of(context)));  // stays in its place
  }

  struct Scale {
    DoubleWord factor;  // exp(m_chunk − m) / s
    Acc upstream, factor_of_x;
  };
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
    const DoubleWord inverse = normalised(reciprocal_of(row.s[0]));
    return {exp_difference_times(chunk_maximum, shift_of(row.m), inverse), context[0], scale_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& dx) {
    dx[0] = rescaled(scaled(e[0], row.factor) * row.upstream, row.factor_of_x);
  }
};

}  // namespace csm
