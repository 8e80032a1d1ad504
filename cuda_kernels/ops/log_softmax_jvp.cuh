// log_softmax_jvp: the change of ℓ = log_softmax(x) along a change ẋ of x: ẋ − ⟨y, ẋ⟩, where y = exp(ℓ).
//
// For ℓ = log_softmax(scale · x) it is multiplied by the scale. Summed over the row: y_j ẋ_j.
#pragma once

#include "logits/subtracts_dot.cuh"

namespace csm {

struct Op : SubtractsDot {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // ℓ, ẋ

  CSM_DEVICE static void terms(Element& e, DoubleWord, Place, const RowContext&, Values<1>& term) {
    term[0] = exp_difference(e[0], Acc(0)) * e[1];
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& change) {
    change[0] = rescaled(minus(e[1], row.dot), row.factor);
  }
};

}  // namespace csm
