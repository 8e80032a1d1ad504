// log_softmax: y_i = z_i − m − ln Σ_j exp(z_j − m), where m = max_j z_j.
//
// The logits are z = x or, with the features scaled and biased, z = scale · x + bias (logits/logit.cuh).
// Summed over the row: exp(z_j − m).
#pragma once

#include "numeric/log.cuh"
#include "logits/logit.cuh"

namespace csm {

struct Op : OfLogits<WritesElements> {
  // If true, terms() replaces each element by z − m_chunk, so that map() need not form z again or keep it in registers.
  static constexpr bool kShifted = !kPlainLogits && kFastExp;
  static constexpr Neutral kNeutral[] = {Neutral::lowest};

  CSM_DEVICE static Acc hidden() { return negative_infinity(); }
  CSM_DEVICE static void terms(Element& e, DoubleWord shift, Place, const RowContext& context, Values<1>& term) {
    if constexpr (kShifted) e[0] = below_maximum(logit(e, factor_of(context)), shift).hi;
    term[0] = kShifted ? exp_of(as_double_word(e[0])) : exp_logit(e, shift, factor_of(context));
  }

  // y is the sum of z − m and −ln s. Both are ≤ 0, so nothing cancels. In a row of −inf alone z − m is NaN.
  struct Scale {
    DoubleWord maximum;
    DoubleWord minus_log;
    DoubleWord factor;
  };
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
    const DoubleWord log = logarithm(row.s[0]);
    // The chunk's maximum has already been subtracted from shifted elements.
    const DoubleWord maximum = kShifted ? below_maximum(row.m, shift_of(chunk_maximum)) : row.m;
    return {maximum, {-log.hi, -log.lo}, factor_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& y) {
    if constexpr (kPlainLogits || kShifted) {
      y[0] = plus(e[0] - row.maximum.hi, row.minus_log);
    } else {
      const DoubleWord d = below_maximum(logit(e, row.factor), row.maximum);
      y[0] = plus(d.hi, {row.minus_log.hi, d.lo == d.lo ? row.minus_log.lo + d.lo : Acc(0)});
    }
  }
};

}  // namespace csm
