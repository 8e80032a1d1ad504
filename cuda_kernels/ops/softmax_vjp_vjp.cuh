// softmax_vjp_vjp: the gradients through dx = y ∘ (dy − ⟨y, dy⟩), softmax's VJP, of a loss whose gradient at dx is g:
//
//   with respect to y:   g ∘ (dy − ⟨y, dy⟩) − dy ⟨y, g⟩
//   with respect to dy:  y ∘ (g − ⟨y, g⟩)
//
// Summed over the row: y_j dy_j and y_j g_j.
#pragma once

#include "reduce/mean.cuh"

namespace csm {

struct Op : OfSoftmax {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero, Neutral::zero};  // y, dy, g

  CSM_DEVICE static void terms(Element& e, const Reference&, Place, const RowContext&, Values<kSums>& term) {
    if constexpr (kDominant) term[0] = e[0];
    term[kFirst] = e[0] * e[1];
    term[kFirst + 1] = e[0] * e[2];
  }

  struct Scale {
    Mean dy, g;  // ⟨y, dy⟩, ⟨y, g⟩
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext&) {
    return {mean_of(row, 0), mean_of(row, 1)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<2>& gradient) {
    gradient[0] = fused(e[2], less(e[1], row.dy), -scaled(e[1], value_of(row.g)));
    gradient[1] = e[0] * less(e[2], row.g);
  }
};

}  // namespace csm
