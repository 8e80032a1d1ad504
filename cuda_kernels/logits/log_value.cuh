// log_softmax of an element, z − m − ln s, where m = max_j z_j and s = Σ_j exp(z_j − m) comes of the row's first sum.
// For the operations that have it as a result.
#pragma once

#include "logits/logit.cuh"
#include "numeric/log.cuh"

namespace csm {

// If true, chunk_exponential() replaces each element by z − m_chunk, so that map() need not form z again or keep it in
// registers.
constexpr bool kShifted = !kPlainLogits && kFastExp;

// The exponential of z, relative to the chunk's reference.
CSM_DEVICE Acc chunk_exponential(Element& e, const Reference& to, const RowContext& context) {
  if constexpr (kShifted) {
    e[0] = below_maximum(logit(e, factor_of(context)), to.shift).hi;
    return exp_term(e[0]);
  } else {
    return exp_logit(e, to, factor_of(context));
  }
}

// Base of the operations that have log_softmax as their first result.
struct LogSoftmax : OfLogits<WritesElements> {
  static constexpr bool kOthers = true;
  CSM_DEVICE static Acc hidden(int result) { return result == 0 ? negative_infinity() : Acc(0); }
  CSM_DEVICE static Acc term_of(const Element& e, const Reference& to, const RowContext& context) {
    if constexpr (kShifted) return exp_term(e[0]);
    else return exp_logit(e, to, factor_of(context));
  }
};

// The result is the sum of z − m and −ln s. Both are ≤ 0, so nothing cancels. In a row of −inf alone z − m is NaN.
//
// Plain logits of results as precise as the arithmetic are less m + ln s instead: two instructions. What they lose to
// its rounding is nothing, as its second word has all that ln s is beside m, and as x less the first word is exact
// where that is next to x.
constexpr bool kWholeLog = kPlainLogits && kCompensated;
struct LogValue {
  DoubleWord maximum;   // or, if kWholeLog, m + ln s
  Reference reference;  // that of the row
  DoubleWord minus_log;
  DoubleWord factor;
};

CSM_DEVICE LogValue log_value(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
  const DoubleWord log = log_of_row(row);
  if constexpr (kWholeLog) {
    const DoubleWord whole = two_sum(row.m.hi, log.hi);
    return {{whole.hi, whole.lo + log.lo}, reference_of(row.m), {}, factor_of(context)};
  }
  // The chunk's maximum has already been subtracted from shifted elements.
  const DoubleWord maximum = kShifted ? below_maximum(row.m, reference_of(chunk_maximum).shift) : row.m;
  return {maximum, reference_of(row.m), negative(log), factor_of(context)};
}

CSM_DEVICE Acc log_of(const Element& e, const LogValue& row) {
  if constexpr (kWholeLog) {
    return minus(e[0], row.maximum);
  } else if constexpr (kPlainLogits || kShifted) {
    return plus(e[0] - row.maximum.hi, row.minus_log);
  } else {
    const DoubleWord d = below_maximum(logit(e, row.factor), row.maximum);
    return plus(d.hi, {row.minus_log.hi, d.lo == d.lo ? row.minus_log.lo + d.lo : Acc(0)});
  }
}

// The exponential of z, relative to the row's reference.
CSM_DEVICE Acc row_exponential(const Element& e, const LogValue& row) {
  if constexpr (kShifted) return exp_fast(e[0] - row.maximum.hi);
  else return exp_logit(e, row.reference, row.factor);
}

}  // namespace csm
