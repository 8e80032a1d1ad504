// logsumexp: m + ln |Σ_j b_j exp(x_j − m)|, m the largest x_j whose weight b_j is not 0. A value of the row.
//
// The weights are there if the operation has a second input, and the sum's sign is given if it has a second result;
// without that, a negative sum has no logarithm and gives NaN.
#pragma once

#include "numeric/log.cuh"
#include "logits/weighted.cuh"

namespace csm {

struct Op : Weighted<WritesRows> {
  // The term of +inf is +inf, and not the NaN of its difference to itself: then so is the result.
  CSM_DEVICE static void terms(Element& e, Wide shift, Place, const Given& given, Values<1>& term) {
    const Wide factor = factor_of(given);
    const Acc z = logit(e, factor).hi;
    term[0] = weighted(e, z == -negative_infinity() ? z : exp_logit(e, shift, factor));
  }

  CSM_DEVICE static void finish(const Node& row, const Given&, Values<kRowOutputs>& value) {
    const Wide sum = settled(normalised(settled(row.s[0])));
    const bool negative = sum.hi < Acc(0);
    if constexpr (kRowOutputs > 1) value[kRowOutputs - 1] = sum.hi > Acc(0) ? Acc(1) : negative ? Acc(-1) : sum.hi;
    Wide log = logarithm(negative ? Wide{-sum.hi, -sum.lo} : sum);
    log.lo += row.m.lo;
    value[0] = plus(row.m.hi, log);
    if (kRowOutputs == 1 && negative) value[0] = not_a_number();
  }
};

}  // namespace csm
