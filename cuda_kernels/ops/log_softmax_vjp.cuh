// log_softmax_vjp: the gradient dx = dy − exp(ℓ) Σ_j dy_j with respect to x, where ℓ = log_softmax(x).
//
// For ℓ = log_softmax(scale · x) it is multiplied by the scale. Summed over the row: dy_j.
#pragma once

#include "logits/logit.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero};  // ℓ, dy

  CSM_DEVICE static void terms(Element& e, DoubleWord, Place, const RowContext&, Values<1>& term) { term[0] = e[1]; }

  struct Scale {
    DoubleWord minus_sum;  // −Σ dy
    Acc factor;            // the scale of scale · x, or 1
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext& context) {
    const DoubleWord sum = drop_invalid_low(normalised(drop_invalid_low(row.s[0])));
    return {{-sum.hi, -sum.lo}, scale_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& dx) {
    const Acc y = exp_difference(e[0], Acc(0));
    const Acc low = kCompensated ? fused(y, row.minus_sum.lo, e[1]) : e[1];
    dx[0] = rescaled(fused(y, row.minus_sum.hi, low), row.factor);
  }
};

}  // namespace csm
