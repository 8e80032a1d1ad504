// Logits as they enter an exponential: z = scale · x + bias, of which both may be missing (features scaled, biased).
//
// z is as large as x and its error becomes a relative one of the exponential, so it is carried in two words, formed
// anew wherever it is needed: registers hold x, and the bias. Of a scale, x takes the sign when it enters and the
// absolute value after that: an element that is not there stays at −∞.
#pragma once

#include "core/exp.cuh"
#include "core/monoid.cuh"

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

CSM_DEVICE void enter_logit(Element& e, const Given& given) {
  if constexpr (kScaled) e[0] *= given.number(kSign);
}

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
  }
  return z;
}

// What the largest is sought of, and the largest first word of a z that follows from it: without a bias x will do,
// since z grows with it.
CSM_DEVICE Acc logit_key(const Element& e, const Given& given) {
  return kBiased ? logit(e, factor_of(given)).hi : e[0];
}
CSM_DEVICE Acc largest_logit(Acc key, const Given& given) {
  return kScaled && !kBiased ? key * given.number(kFactor) : key;
}

CSM_DEVICE Acc cut_at_one(Acc low) { return -maximum(-maximum(low, Acc(-1)), Acc(-1)); }

// z − m, where m is the largest of the first words of some z; in two words unless the exponential is a fast one. Of a z
// so large that the second word reaches 1 (2^24, or 2^53) it is cut there, as is what infinities make of it: so z − m
// stays below about 1.
CSM_DEVICE Wide below_maximum(Wide z, Acc m) {
  if constexpr (kFastExp) return widen_exactly((z.hi - m) + cut_at_one(z.lo));
  const Wide d = difference(z.hi, m);
  const Acc low = cut_at_one(d.lo + z.lo);
  const Acc hi = d.hi + low;
  return {hi, low - (hi - d.hi)};
}

// e^(z − m).
CSM_DEVICE Acc exp_logit(const Element& e, Acc m, Wide factor) {
  if constexpr (kPlainLogits) return exp_difference(e[0], m);
  else return exp_of(below_maximum(logit(e, factor), m));
}

}  // namespace csm
