// Change of log_softmax along a change ẋ of its input: ẋ − ⟨exp(ℓ), ẋ⟩, where ℓ = log_softmax(x).
#pragma once

#include "logits/logit.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // ℓ, ẋ

  CSM_DEVICE static void terms(Element& e, Wide, Place, const Given&, Values<1>& term) {
    term[0] = exp_difference(e[0], Acc(0)) * e[1];
  }

  struct Scale {
    Wide dot;  // ⟨y, ẋ⟩
    Acc factor;
  };
  CSM_DEVICE static Scale scale(Wide, const Node& row, const Given& given) {
    return {settled(row.s[0]), scale_of(given)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& change) {
    change[0] = rescaled(minus(e[1], row.dot), row.factor);
  }
};

}  // namespace csm
