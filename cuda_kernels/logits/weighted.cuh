// Logits with weights b, where the operation has them as its second input; else every weight is 1.
#pragma once

#include "logits/logit.cuh"

namespace csm {

template <class Base>
struct Weighted : OfLogits<Base> {
  using Logits = OfLogits<Base>;
  static constexpr Neutral kNeutral[] = {Neutral::lowest};  // x; no weight
  static constexpr bool kWeights = kHeld - kBiased > 1;

  CSM_DEVICE static Acc weight(const Element& e) {
    if constexpr (kWeights) return e[1];
    else return Acc(1);
  }

  // An element of weight 0 counts for nothing, whatever it is.
  CSM_DEVICE static Acc key(const Element& e, const Given& given) {
    return weight(e) == Acc(0) ? negative_infinity() : Logits::key(e, given);
  }
  CSM_DEVICE static Acc second_key(const Element& e, Acc largest, const Given& given) {
    return weight(e) == Acc(0) ? negative_infinity() : Logits::second_key(e, largest, given);
  }
  CSM_DEVICE static Acc weighted(const Element& e, Acc term) {
    if constexpr (kWeights) return weight(e) == Acc(0) ? Acc(0) : weight(e) * term;
    else return term;
  }
};

}  // namespace csm
