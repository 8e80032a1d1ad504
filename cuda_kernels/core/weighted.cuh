// Elements x with weights b, where the operation has a second input; else every weight is 1.
#pragma once

#include "core/monoid.cuh"

namespace csm {

template <class Base>
struct Weighted : Base {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // x, b

  CSM_DEVICE static Acc weight(const Element& e) {
    if constexpr (kInputs == 1) return Acc(1);
    else return e[kInputs - 1];
  }

  // An element of weight 0 counts for nothing, whatever it is.
  CSM_DEVICE static Acc key(const Element& e) { return weight(e) == Acc(0) ? negative_infinity() : e[0]; }
  CSM_DEVICE static Acc weighted(const Element& e, Acc term) {
    if constexpr (kInputs == 1) return term;
    else return weight(e) == Acc(0) ? Acc(0) : weight(e) * term;
  }
};

}  // namespace csm
