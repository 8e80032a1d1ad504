// logsumexp: m + ln |Σ_j b_j exp(z_j − m)|, one value for each row.
//
// m is the largest z_j whose weight b_j is not 0. The logits are z = x or, with the features scaled and biased,
// z = scale · x + bias. The weights are the second input of an operation that has them; else each b_j is 1. The sign of
// the sum is a second result; without it, a negative sum has no logarithm and gives NaN. Summed over the row: b_j
// exp(z_j − m).
#pragma once

#include "numeric/log.cuh"
#include "logits/weighted.cuh"

namespace csm {

struct Op : Weighted<WritesRows> {
  static constexpr bool kOthers = !kWeights, kKeepsTerm = !kOthersInLow, kMayBeInfinite = true;

  // For z = +inf, m is +inf too and z − m would be NaN: the term is +inf instead, and so is the result.
  CSM_DEVICE static void terms(Element& e, const Reference& to, Place, const RowContext& context, Values<1>& term) {
    const DoubleWord factor = factor_of(context);
    const Acc z = logit(e, factor).hi;
    if constexpr (kOthersInLow) term[0] = exp_logit(e, not_infinite(to), factor);
    else term[0] = weighted(e, z == -negative_infinity() ? z : exp_logit(e, to, factor));
    if constexpr (kKeepsTerm) e[0] = term[0];
  }
  CSM_DEVICE static Acc term_of(const Element& e, const Reference& to, const RowContext& context) {
    return exp_logit(e, to, factor_of(context));
  }
  // Relative to it the exponential of +inf is +inf, and so is a sum with it.
  CSM_DEVICE static Reference not_infinite(Reference to) {
    if (to.shift.hi == -negative_infinity()) to.shift = DoubleWord{};
    return to;
  }

  // +∞ less the shift, which is then infinite too, is NaN: its term is 0, and the sum starts at +∞.
  static constexpr bool kPairs = !kWeights && kPlainPairs;
  CSM_DEVICE static Pair terms_of(Pair& e, const Reference& to, const RowContext&) {
    const Pair terms = exponentials(e, kFastExp ? not_infinite(to) : to);
    if constexpr (kKeepsTerm) e = terms;
    return terms;
  }

  CSM_DEVICE static void finish(const Node& row, const RowContext&, Values<kRowOutputs>& value) {
    DoubleWord log;
    Acc sign = Acc(1);
    if constexpr (kWeights) {
      const Acc largest = part(largest_exponential(row.m));
      const DoubleWord sum = drop_invalid_low(normalised(relative_to_maximum(row.s[0], row.m, largest)));
      sign = sum.hi > Acc(0) ? Acc(1) : sum.hi < Acc(0) ? Acc(-1) : sum.hi;
      log = logarithm(sign < Acc(0) ? negative(sum) : sum);
    } else {
      log = log_of_row(row);
      if (log.hi == negative_infinity()) sign = Acc(0);
      if (log.hi != log.hi) sign = log.hi;
    }
    log.lo += row.m.lo;
    value[0] = plus(row.m.hi, log);
    if constexpr (kRowOutputs > 1) value[kRowOutputs - 1] = sign;
    else if (sign < Acc(0)) value[0] = not_a_number();
  }
};

}  // namespace csm
