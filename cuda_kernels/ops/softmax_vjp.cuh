// softmax_vjp: J v = y ∘ (v − ⟨y, v⟩), where y = softmax(x) and J = diag(y) − y yᵀ is its Jacobian.
//
// J is symmetric, so this is the gradient with respect to x (v = dy) and also the change of y along a change of x
// (v = ẋ). For y = softmax(scale · x) the product is multiplied by the scale. Summed over the row: y_j v_j.
#pragma once

#include "logits/subtracts_dot.cuh"

namespace csm {

struct Op : SubtractsDot {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero};  // y, v

  CSM_DEVICE static void terms(Element& e, DoubleWord, Place, const RowContext&, Values<1>& term) {
    term[0] = e[0] * e[1];
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& product) {
    product[0] = rescaled(e[0] * minus(e[1], row.dot), row.factor);
  }
};

}  // namespace csm
