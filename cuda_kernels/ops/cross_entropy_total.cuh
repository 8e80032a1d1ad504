// cross_entropy_total: the sum or the mean of the losses, times a factor.
//
// The one row holds the losses of all rows. The factor is an option of the call; a value of the row, where there is
// one, is a second factor (the result of cross_entropy_divisor). Summed over the row: its elements.
#pragma once

#include "reduce/node.cuh"

namespace csm {

struct Op : WritesRows {
  static constexpr Neutral kNeutral[] = {Neutral::zero};

  CSM_DEVICE static void terms(Element& e, Wide, Place, const Given&, Values<1>& term) { term[0] = e[0]; }
  CSM_DEVICE static void finish(const Node& row, const Given& given, Values<kRowOutputs>& value) {
    const Wide sum = settled(row.s[0]);
    value[0] = (sum.hi + sum.lo) * given.number(0);
    if constexpr (kRowInputs > 0) value[0] *= given[0];
  }
};

}  // namespace csm
