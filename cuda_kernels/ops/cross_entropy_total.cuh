// cross_entropy_total: the sum or the mean of the losses, times a factor.
//
// The one row holds the losses of all rows. The factor is an option of the call; a value of the row, where there is
// one, is a second factor (the result of cross_entropy_divisor). Summed over the row: its elements.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesRows {
  static constexpr Neutral kNeutral[] = {Neutral::zero};
  enum Option { kFactor = own_option("factor") };

  CSM_DEVICE static void terms(Element& e, const Reference&, Place, const RowContext&, Values<1>& term) {
    term[0] = e[0];
  }
  CSM_DEVICE static void finish(const Node& row, const RowContext& context, Values<kRowOutputs>& value) {
    const DoubleWord sum = drop_invalid_low(row.s[0]);
    value[0] = (sum.hi + sum.lo) * context.number(kFactor);
    if constexpr (kRowInputs > 0) value[0] *= context[0];
  }
};

}  // namespace csm
