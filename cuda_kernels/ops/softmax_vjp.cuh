// Jacobian-vector product of softmax: with J = diag(y) − y yᵀ, J v = y ∘ (v − ⟨y, v⟩).
//
// J is symmetric, so this is the product backward (v = dy) and forward (v = ẋ).
#pragma once

#include "core/monoid.cuh"

namespace csm {

struct Op {
  static constexpr int kInputs = 2;  // y, v
  static constexpr bool kMaximum = false;
  static constexpr Neutral kNeutral = Neutral::zero;

  CSM_DEVICE static Acc term(Acc (&e)[2], Acc) { return e[0] * e[1]; }

  using Scale = Wide;  // ⟨y, v⟩
  CSM_DEVICE static Scale scale(Acc, Node row) { return settled(row.s); }
  CSM_DEVICE static Acc map(const Acc (&e)[2], Scale dot) {
    if constexpr (!kCompensated) return e[0] * (e[1] - dot.hi);
    return e[0] * ((e[1] - dot.hi) - dot.lo);
  }
};

}  // namespace csm
