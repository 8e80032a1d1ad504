// Logits as they enter an exponential: z = scale · x + bias, of which both may be missing (features scaled, biased).
//
// z is as large as x and its error becomes a relative one of the exponential, so it is carried in two words, formed
// anew wherever it is needed: registers hold x, and the bias. Of a scale, x takes the sign when it enters and the
// absolute value after that: an element that is not there stays at −∞.
#pragma once

#include "numeric/exp.cuh"
#include "reduce/node.cuh"

namespace csm {

constexpr bool kScaled = has(feature::scaled), kBiased = has(feature::biased), kPlainLogits = !kScaled && !kBiased;
constexpr int kBias = kHeld - 1;  // which input it is

// |scale|, in two words since its rounding too is as large as z; 1 for a scale of 0, which the sign makes 0.
CSM_DEVICE Wide factor_of(const Given& given) {
  if constexpr (kScaled) return {given.number(kFactor), given.number(kFactorLow)};
  else return widen_exactly(Acc(1));
}
// The scale as it was given, of a product by it.
CSM_DEVICE Acc rescaled(Acc x, Acc scale) { return kScaled ? x * scale : x; }
CSM_DEVICE Acc scale_of(const Given& given) { return kScaled ? given.number(kFactor) * given.number(kSign) : Acc(1); }

CSM_DEVICE Wide logit(const Element& e, Wide factor) {
  Wide z = {e[0], Acc(0)};
  if constexpr (kScaled) {
    z.hi = e[0] * factor.hi;
    z.lo = fused(e[0], factor.lo, fused(e[0], factor.hi, -z.hi));
  }
  if constexpr (kBiased) {
    const Acc x = z.hi, b = e[kBias];
    z.hi = x + b;
    const Acc of_b = z.hi - x;
    z.lo += (x - (z.hi - of_b)) + (b - of_b);
    // Where x and b cancel, the second word may be the larger. Infinities leave it a NaN.
    const Acc hi = z.hi + z.lo;
    const bool finite = hi - hi == Acc(0);
    z = {finite ? hi : z.hi, finite ? z.lo - (hi - z.hi) : Acc(0)};
  }
  return z;
}

// z − m, in two words unless the exponential is a fast one. m is the largest z, in two words, so this is at most 0, and
// exactly 0 for that one.
CSM_DEVICE Wide below_maximum(Wide z, Wide m) {
  if constexpr (kFastExp) {
    const Acc low = z.lo - m.lo;  // NaN or infinite where the product has overflowed
    return widen_exactly((z.hi - m.hi) + (low - low == Acc(0) ? low : Acc(0)));
  } else {
    return difference(z, m);
  }
}

// e^(z − m).
CSM_DEVICE Acc exp_logit(const Element& e, Wide m, Wide factor) {
  if constexpr (kPlainLogits) return exp_difference(e[0], m);
  else return exp_of(below_maximum(logit(e, factor), m));
}

// Base of operations that take exponentials of logits. Of a scale alone the largest z is that of the largest x, since z
// grows with it.
template <class Base>
struct OfLogits : Base {
  static constexpr bool kSecondKey = kBiased;

  CSM_DEVICE static void enter(Element& e, Place, const Given& given) {
    if constexpr (kScaled) e[0] *= given.number(kSign);
  }
  CSM_DEVICE static Acc key(const Element& e, const Given& given) {
    return kBiased ? logit(e, factor_of(given)).hi : e[0];
  }
  CSM_DEVICE static Acc second_key(const Element& e, Acc largest, const Given& given) {
    const Wide z = logit(e, factor_of(given));
    return z.hi == largest ? z.lo : negative_infinity();
  }
  CSM_DEVICE static Wide largest(Acc key, const Given& given) { return settled(logit({key}, factor_of(given))); }
};

}  // namespace csm
