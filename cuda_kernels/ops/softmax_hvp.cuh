// softmax_hvp: the Hessian of x ↦ ⟨dy, softmax(x)⟩, applied to v. With y = softmax(x) and ẏ = y ∘ (v − ⟨y, v⟩) it is
//
//   ẏ ∘ (dy − ⟨y, dy⟩) − y ⟨ẏ, dy⟩,   where   ⟨ẏ, dy⟩ = Σ_j y_j v_j dy_j − ⟨y, v⟩⟨y, dy⟩.
//
// Summed over the row, in one pass: y_j dy_j, y_j v_j and y_j v_j dy_j.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero, Neutral::zero};  // y, dy, v

  CSM_DEVICE static void terms(Element& e, DoubleWord, Place, const RowContext&, Values<3>& term) {
    term[0] = e[0] * e[1];
    term[1] = e[0] * e[2];
    term[2] = term[1] * e[1];
  }

  struct Scale {
    DoubleWord dot_dy, dot_v, both;  // ⟨y, dy⟩, ⟨y, v⟩, ⟨ẏ, dy⟩
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext&) {
    const DoubleWord dy = drop_invalid_low(row.s[0]), v = drop_invalid_low(row.s[1]), product = multiply(dy, v);
    return {dy, v, drop_invalid_low(add(drop_invalid_low(row.s[2]), {-product.hi, -product.lo}))};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& change) {
    const Acc inner =
        minus(fused(minus(e[2], row.dot_v), minus(e[1], row.dot_dy), -row.both.hi), {row.both.lo, Acc(0)});
    change[0] = e[0] * inner;
  }
};

}  // namespace csm
