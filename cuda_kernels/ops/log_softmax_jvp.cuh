// Change of log_softmax along a change ẋ of its input: ẋ − ⟨exp(ℓ), ẋ⟩, where ℓ = log_softmax(x).
#pragma once

#include "core/monoid.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // ℓ, ẋ

  CSM_DEVICE static void terms(Element& e, Acc, Place, const Given&, Values<1>& term) {
    term[0] = exp_difference(e[0], Acc(0)) * e[1];
  }

  using Scale = Wide;  // ⟨y, ẋ⟩
  CSM_DEVICE static Scale scale(Acc, const Node& row, const Given&) { return settled(row.s[0]); }
  CSM_DEVICE static void map(const Element& e, Scale dot, Place, Values<1>& change) { change[0] = minus(e[1], dot); }
};

}  // namespace csm
