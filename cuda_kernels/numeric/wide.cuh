// A number carried as an unevaluated sum hi + lo, where the bounds of the output need it; else as hi alone.
//
// The error-free transformations are Knuth's two-sum and Dekker's fast two-sum; products get theirs from one fused
// multiply-add. Their order of operations is the point of them: compile without contraction or reassociation.
#pragma once

#include "machine/config.cuh"

namespace csm {

struct Wide {
  Acc hi, lo;
};

CSM_DEVICE Wide widen_exactly(Acc x) { return {x, Acc(0)}; }

// a + b; the same bits with a and b exchanged. The larger goes first: Knuth's two-sum, which needs no comparison, loses
// that symmetry where one of its differences is subnormal and flushed to zero.
CSM_DEVICE Wide add(Wide a, Wide b) {
  const Acc sum = a.hi + b.hi;
  if constexpr (!kCompensated) return {sum, Acc(0)};
  const bool exchange = magnitude(a.hi) < magnitude(b.hi);
  const Acc large = exchange ? b.hi : a.hi, small = exchange ? a.hi : b.hi;
  return {sum, (a.lo + b.lo) + (small - (sum - large))};
}

CSM_DEVICE Wide add(Wide a, Acc b) {
  const Acc sum = a.hi + b;
  if constexpr (!kCompensated) return {sum, Acc(0)};
  const Acc of_b = sum - a.hi;
  return {sum, a.lo + ((a.hi - (sum - of_b)) + (b - of_b))};
}

CSM_DEVICE Wide multiply(Wide a, Wide b) {
  const Acc product = a.hi * b.hi;
  if constexpr (!kCompensated) return {product, Acc(0)};
  return {product, fused(a.hi, b.hi, -product) + (a.hi * b.lo + a.lo * b.hi)};
}

CSM_DEVICE Wide reciprocal_of(Wide a) {
  const Acc first = reciprocal(a.hi);
  if constexpr (!kCompensated) return {first, Acc(0)};
  // One Newton step for the second word: first · (1 − first · a).
  return {first, -(fused(first, a.hi, Acc(-1)) + first * a.lo) * first};
}

// The same number with all that fits in hi. Many small losses add up to several units of hi in lo; as a factor of a
// small x such a lo would be flushed to zero with its product.
CSM_DEVICE Wide normalised(Wide a) {
  if constexpr (!kCompensated) return a;
  const Acc hi = a.hi + a.lo;
  return {hi, a.lo - (hi - a.hi)};
}

// x · a, rounded once but for the second word's product.
CSM_DEVICE Acc scaled(Acc x, Wide a) {
  if constexpr (!kCompensated) return x * a.hi;
  return fused(x, a.hi, x * a.lo);
}

// x − a, rounded twice.
CSM_DEVICE Acc minus(Acc x, Wide a) {
  if constexpr (!kCompensated) return x - a.hi;
  return (x - a.hi) - a.lo;
}

// An infinite sum has a meaningless lo; so has a NaN. Then hi alone is the value.
CSM_DEVICE Wide settled(Wide a) {
  if (!(a.hi - a.hi == Acc(0))) a.lo = Acc(0);
  return a;
}

}  // namespace csm
