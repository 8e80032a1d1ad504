// The sum or the mean of the losses of rows: the elements of the one row, times a number of the call, and another that
// is read from memory if there is a row input.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesRows {
  static constexpr Neutral kNeutral[] = {Neutral::zero};
  enum Option { kFactor = option_named("factor", 0) };

  CSM_DEVICE static void terms(Element& e, DoubleWord, Place, const RowContext&, Values<1>& term) { term[0] = e[0]; }
  CSM_DEVICE static void finish(const Node& row, const RowContext& context, Values<kRowOutputs>& value) {
    const DoubleWord sum = drop_invalid_low(row.s[0]);
    value[0] = (sum.hi + sum.lo) * context.number(kFactor);
    if constexpr (kRowInputs > 0) value[0] *= context[0];
  }
};

}  // namespace csm
