// softmax_vjp_vjp: the gradients through dx = y ∘ (dy − ⟨y, dy⟩), softmax's VJP, of a loss whose gradient at dx is g:
//
//   with respect to y:   g ∘ (dy − ⟨y, dy⟩) − dy ⟨y, g⟩
//   with respect to dy:  y ∘ (g − ⟨y, g⟩)
//
// Summed over the row: y_j dy_j and y_j g_j.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero, Neutral::zero};  // y, dy, g

  CSM_DEVICE static void terms(Element& e, DoubleWord, Place, const RowContext&, Values<2>& term) {
    term[0] = e[0] * e[1];
    term[1] = e[0] * e[2];
  }

  struct Scale {
    DoubleWord dot_dy, dot_g;  // ⟨y, dy⟩, ⟨y, g⟩
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext&) {
    return {drop_invalid_low(row.s[0]), drop_invalid_low(row.s[1])};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<2>& gradient) {
    gradient[0] = fused(e[2], minus(e[1], row.dot_dy), -scaled(e[1], row.dot_g));
    gradient[1] = e[0] * minus(e[2], row.dot_g);
  }
};

}  // namespace csm
