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
  CSM_DEVICE static Acc factor(const Element& e, int k, int which) { return which == 0 ? e[0] : e[1 + k - kFirst]; }

  struct Scale {
    DoubleWord dy, g;  // ⟨y, dy⟩, ⟨y, g⟩
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext&) {
    return {value_of(mean_of(row, 0)), value_of(mean_of(row, 1))};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<2>& gradient) {
    Acc low = Acc(0);  // what the means' low words are multiplied by
    if constexpr (kMeanHasLow) low = fused(e[2], row.dy.lo, e[1] * row.g.lo);
    gradient[0] = fused(e[2], e[1] - row.dy.hi, -fused(e[1], row.g.hi, low));
    gradient[1] = times_less(e[0], e[2], row.g);
  }
};

}  // namespace csm
