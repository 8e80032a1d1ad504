// Exponentials of logits with weights b, which are the second input; without one, every weight is 1. Used by logsumexp
// and its gradient.
#pragma once

#include "logits/logit.cuh"

namespace csm {

template <class Base>
struct Weighted : OfLogits<Base> {
  using Logits = OfLogits<Base>;
  static constexpr Neutral kNeutral[] = {Neutral::lowest};  // x; the weight's is 0
  static constexpr bool kWeights = kRegisterInputs - kBiased > 1;
  static constexpr int kBounded = kWeights ? 0 : 1;

  CSM_DEVICE static Acc weight(const Element& e) {
    if constexpr (kWeights) return e[1];
    else return Acc(1);
  }

  // An element of weight 0 is left out of the maximum and of the sum, even if it is NaN or infinite.
  CSM_DEVICE static Acc key(const Element& e, const RowContext& context) {
    return weight(e) == Acc(0) ? negative_infinity() : Logits::key(e, context);
  }
  CSM_DEVICE static Acc low_key(const Element& e, Acc largest, const RowContext& context) {
    return weight(e) == Acc(0) ? negative_infinity() : Logits::low_key(e, largest, context);
  }
  // What a weight is multiplied by: in double a part of the largest exponential; in float that itself, so that products
  // with small weights are normal numbers, and weights may be 2^34 times smaller than large.
  CSM_DEVICE static Acc part(Acc exponential) { return kSingle ? exponential : part_of_largest(exponential); }
  CSM_DEVICE static Acc weighted(const Element& e, Acc exponential) {
    if constexpr (kWeights) return weight(e) == Acc(0) ? Acc(0) : weight(e) * part(exponential);
    else return exponential;
  }
};

}  // namespace csm
