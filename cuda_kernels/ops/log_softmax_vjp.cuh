// log_softmax_vjp: the gradient dx = dy − exp(ℓ) Σ_j dy_j with respect to x, where ℓ = log_softmax(x).
//
// For ℓ = log_softmax(scale · x) it is multiplied by the scale. Summed over the row: dy_j.
#pragma once

#include "logits/logit.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero};  // ℓ, dy

  CSM_DEVICE static void terms(Element& e, Wide, Place, const Given&, Values<1>& term) { term[0] = e[1]; }

  struct Scale {
    Wide minus_sum;  // −Σ dy
    Acc factor;      // the scale of scale · x, or 1
  };
  CSM_DEVICE static Scale scale(Wide, const Node& row, const Given& given) {
    const Wide sum = settled(normalised(settled(row.s[0])));
    return {{-sum.hi, -sum.lo}, scale_of(given)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& dx) {
    const Acc y = exp_difference(e[0], Acc(0));
    const Acc low = kCompensated ? fused(y, row.minus_sum.lo, e[1]) : e[1];
    dx[0] = rescaled(fused(y, row.minus_sum.hi, low), row.factor);
  }
};

}  // namespace csm
