// logsumexp: m + ln |Σ_j b_j exp(x_j − m)|, m the largest x_j whose weight b_j is not 0. A value of the row.
//
// The weights are there if the operation has a second input, and the sum's sign is given if it has a second result;
// without that, a negative sum has no logarithm and gives NaN.
#pragma once

#include "core/log.cuh"
#include "core/monoid.cuh"

namespace csm {

struct Op : WritesRows {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // x, b

  CSM_DEVICE static Acc weight(const Element& e) {
    if constexpr (kInputs == 1) return Acc(1);
    else return e[kInputs - 1];
  }

  CSM_DEVICE static Acc key(const Element& e) { return weight(e) == Acc(0) ? negative_infinity() : e[0]; }
  // The term of +inf is +inf, and not the NaN of its difference to itself: then so is the result.
  CSM_DEVICE static void terms(Element& e, Acc shift, Place, const Given&, Values<1>& term) {
    term[0] = e[0] == -negative_infinity() ? e[0] : exp_difference(e[0], shift);
    if constexpr (kInputs > 1) term[0] = weight(e) == Acc(0) ? Acc(0) : weight(e) * term[0];
  }

  CSM_DEVICE static void finish(const Node& row, const Given&, Values<kRowOutputs>& value) {
    const Wide sum = settled(normalised(settled(row.s[0])));
    const bool negative = sum.hi < Acc(0);
    if constexpr (kRowOutputs > 1) value[kRowOutputs - 1] = sum.hi > Acc(0) ? Acc(1) : negative ? Acc(-1) : sum.hi;
    value[0] = plus(row.m, logarithm(negative ? Wide{-sum.hi, -sum.lo} : sum));
    if (kRowOutputs == 1 && negative) value[0] = negative_infinity() - negative_infinity();
  }
};

}  // namespace csm
