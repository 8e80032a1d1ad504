// softmax_vjp: J v = y ∘ (v − ⟨y, v⟩), where y = softmax(x) and J = diag(y) − y yᵀ is its Jacobian.
//
// J is symmetric, so this is the gradient with respect to x (v = dy) and also the change of y along a change of x
// (v = ẋ). For y = softmax(scale · x) the product is multiplied by the scale. Summed over the row: y_j v_j.
#pragma once

#include "logits/logit.cuh"
#include "reduce/mean.cuh"

namespace csm {

struct Op : OfSoftmax {
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero};  // y, v

  CSM_DEVICE static void terms(Element& e, const Reference&, Place, const RowContext&, Values<kSums>& term) {
    if constexpr (kDominant) term[0] = e[0];
    term[kFirst] = e[0] * e[1];
  }

  CSM_DEVICE static Acc factor(const Element& e, int, int which) { return e[which]; }

  struct Scale {
    DoubleWord mean;  // ⟨y, v⟩
    Acc factor;       // the scale of scale · x, or 1
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext& context) {
    return {value_of(mean_of(row, 0)), scale_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& product) {
    product[0] = rescaled(times_less(e[0], e[1], row.mean), row.factor);
  }
};

}  // namespace csm
