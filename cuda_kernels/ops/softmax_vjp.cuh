// Jacobian-vector product of softmax: with J = diag(y) − y yᵀ, J v = y ∘ (v − ⟨y, v⟩).
//
// J is symmetric, so this is the product backward (v = dy) and forward (v = ẋ).
#pragma once

#include "core/monoid.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero};  // y, v

  CSM_DEVICE static void terms(Element& e, Acc, Place, const Given&, Values<1>& term) { term[0] = e[0] * e[1]; }

  using Scale = Wide;  // ⟨y, v⟩
  CSM_DEVICE static Scale scale(Acc, const Node& row, const Given&) { return settled(row.s[0]); }
  CSM_DEVICE static void map(const Element& e, Scale dot, Place, Values<1>& product) {
    product[0] = e[0] * minus(e[1], dot);
  }
};

}  // namespace csm
