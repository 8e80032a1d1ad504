// Change of log_softmax along a change ẋ of its input: ẋ − ⟨exp(ℓ), ẋ⟩, where ℓ = log_softmax(x).
#pragma once

#include "logits/logit.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // ℓ, ẋ

  CSM_DEVICE static void terms(Element& e, DoubleWord, Place, const RowContext&, Values<1>& term) {
    term[0] = exp_difference(e[0], Acc(0)) * e[1];
  }

  struct Scale {
    DoubleWord dot;  // ⟨y, ẋ⟩
    Acc factor;
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext& context) {
    return {drop_invalid_low(row.s[0]), scale_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& change) {
    change[0] = rescaled(minus(e[1], row.dot), row.factor);
  }
};

}  // namespace csm
