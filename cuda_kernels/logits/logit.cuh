// Logits z = scale · x + bias, and exponentials of them. A variant may have either or both (features scaled and
// biased). Used by softmax, log_softmax and logsumexp; the derivatives use the scale alone.
//
// z is a double word: its absolute error is the relative error of its exponential. It is computed anew wherever it is
// needed, so that registers hold only x and the bias. Its low word is finite. The sign of the scale is applied on load,
// to elements of the row alone, and |scale| later: so elements beyond the row's end stay −∞.
#pragma once

#include "numeric/exp.cuh"
#include "reduce/operation.cuh"

namespace csm {

constexpr bool kScaled = has(feature::scaled), kBiased = has(feature::biased), kPlainLogits = !kScaled && !kBiased;
constexpr int kBias = kRegisterInputs - 1;  // the input that is the bias
// Whether two logits are computed with at once.
constexpr bool kPlainPairs = kSingle && kPlainLogits && kRegisterInputs == 1 && kMaxVec % 2 == 0;

// |scale|, as a double word, since its rounding error too is multiplied by x. For a scale of 0 the host passes 1, and 0
// as the sign.
CSM_DEVICE DoubleWord factor_of(const RowContext& context) {
  if constexpr (kScaled) return {context.number(kFactor), context.number(kFactorLow)};
  else return as_double_word(Acc(1));
}
// For derivatives: the scale with its sign, and a product with it.
CSM_DEVICE Acc rescaled(Acc x, Acc scale) { return kScaled ? x * scale : x; }
CSM_DEVICE Acc scale_of(const RowContext& context) {
  return kScaled ? context.number(kFactor) * context.number(kSign) : Acc(1);
}

CSM_DEVICE DoubleWord logit(const Element& e, DoubleWord factor) {
  DoubleWord z = {e[0], Acc(0)};
  if constexpr (kScaled) {
    z.hi = e[0] * factor.hi;
    z.lo = fused(e[0], factor.lo, fused(e[0], factor.hi, -z.hi));
    if constexpr (!kBiased) return drop_invalid_low(z);
  }
  if constexpr (kBiased) {
    const DoubleWord sum = two_sum(z.hi, e[kBias]);
    z = {sum.hi, z.lo + sum.lo};
    // If x and the bias cancel, lo may be the larger: renormalise. If one of them is infinite, lo is NaN: drop it.
    const DoubleWord whole = fast_two_sum(z.hi, z.lo);
    const bool finite = is_finite(whole.hi);
    z = {finite ? whole.hi : z.hi, finite ? whole.lo : Acc(0)};
  }
  return z;
}

// z − m for the maximum m of z: at most 0, and exactly 0 for the largest z. The low word is 0 if exponentials are fast
// ones.
CSM_DEVICE DoubleWord below_maximum(DoubleWord z, DoubleWord m) {
  if constexpr (kFastExp) {
    return as_double_word((z.hi - m.hi) + (z.lo - m.lo));
  } else {
    return difference(z, m);
  }
}

// e^z relative to a reference.
CSM_DEVICE Acc exp_logit(const Element& e, const Reference& to, DoubleWord factor) {
  if constexpr (!kPlainLogits) return exponential(logit(e, factor), to);
  else return exponential(e[0], to);
}

// Base of operations on exponentials of logits. Without a bias the key is x, as the largest z is that of the largest x.
template <class Base>
struct OfLogits : Base {
  static constexpr bool kHasLowKey = kBiased;

  CSM_DEVICE static void enter(Element& e, Place, const RowContext& context) {
    if constexpr (kScaled) e[0] *= context.number(kSign);
  }
  CSM_DEVICE static Acc key(const Element& e, const RowContext& context) {
    return kBiased ? logit(e, factor_of(context)).hi : e[0];
  }
  CSM_DEVICE static Acc low_key(const Element& e, Acc largest, const RowContext& context) {
    const DoubleWord z = logit(e, factor_of(context));
    return z.hi == largest ? z.lo : negative_infinity();
  }
  CSM_DEVICE static DoubleWord maximum_from(Acc key, const RowContext& context) {
    return drop_invalid_low(logit({key}, factor_of(context)));
  }
};

}  // namespace csm
