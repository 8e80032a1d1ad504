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
  CSM_DEVICE static void terms(Element& e, DoubleWord shift, Place, const RowContext& context, Values<1>& term) {
    const DoubleWord factor = factor_of(context);
    const Acc z = logit(e, factor).hi;
    term[0] = weighted(e, z == -negative_infinity() ? z : exp_logit(e, shift, factor));
  }

  CSM_DEVICE static void finish(const Node& row, const RowContext&, Values<kRowOutputs>& value) {
    const DoubleWord sum = drop_invalid_low(normalised(drop_invalid_low(row.s[0])));
    const bool negative = sum.hi < Acc(0);
    if constexpr (kRowOutputs > 1) value[kRowOutputs - 1] = sum.hi > Acc(0) ? Acc(1) : negative ? Acc(-1) : sum.hi;
    DoubleWord log = logarithm(negative ? DoubleWord{-sum.hi, -sum.lo} : sum);
    log.lo += row.m.lo;
    value[0] = plus(row.m.hi, log);
    if (kRowOutputs == 1 && negative) value[0] = not_a_number();
  }
};

}  // namespace csm
