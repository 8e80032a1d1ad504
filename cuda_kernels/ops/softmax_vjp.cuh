// Jacobian-vector product of softmax: with J = diag(y) − y yᵀ, J v = y ∘ (v − ⟨y, v⟩).
//
// J is symmetric, so this is the product backward (v = dy) and forward (v = ẋ). Of softmax(scale · x) it is `scale`
// times that.
#pragma once

#include "logits/logit.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero};  // y, v

  CSM_DEVICE static void terms(Element& e, DoubleWord, Place, const RowContext&, Values<1>& term) {
    term[0] = e[0] * e[1];
  }

  struct Scale {
    DoubleWord dot;  // ⟨y, v⟩
    Acc factor;
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext& context) {
    return {drop_invalid_low(row.s[0]), scale_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& product) {
    product[0] = rescaled(e[0] * minus(e[1], row.dot), row.factor);
  }
};

}  // namespace csm
