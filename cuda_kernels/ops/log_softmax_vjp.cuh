// Gradient through log_softmax: dx = dy − exp(ℓ) Σ_j dy_j, where ℓ = log_softmax(x).
#pragma once

#include "core/monoid.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero};  // ℓ, dy

  CSM_DEVICE static void terms(Element& e, Acc, Place, const Given&, Values<1>& term) { term[0] = e[1]; }

  using Scale = Wide;  // −Σ dy
  CSM_DEVICE static Scale scale(Acc, const Node& row, const Given&) {
    const Wide sum = settled(normalised(settled(row.s[0])));
    return {-sum.hi, -sum.lo};
  }
  CSM_DEVICE static void map(const Element& e, Scale minus_sum, Place, Values<1>& dx) {
    const Acc y = exp_difference(e[0], Acc(0));
    if constexpr (kCompensated) dx[0] = fused(y, minus_sum.hi, fused(y, minus_sum.lo, e[1]));
    else dx[0] = fused(y, minus_sum.hi, e[1]);
  }
};

}  // namespace csm
