// softmax_others: B = Σ_{j≠m} y_j of a softmax y, with m its one element above ½; −1 if there is none.
//
// It is 1 − y_m before y_m was rounded, which softmax_jacobian's diagonal needs. In two words, and so two values of the
// row. Summed over the row: y_j.
#pragma once

#include "reduce/mean.cuh"

namespace csm {

struct Op : PicksFromSoftmax<WritesRows> {
  static constexpr Neutral kNeutral[] = {Neutral::zero};

  CSM_DEVICE static void terms(Element& e, const Reference&, Place, const RowContext&, Values<1>& term) {
    term[0] = e[0];
  }
  CSM_DEVICE static void finish(const Node& row, const RowContext&, Values<kRowOutputs>& value) {
    const bool dominated = row.picked[0] > Acc(0);
    const DoubleWord others = normalised(drop_invalid_low(row.s[0]));
    value[0] = dominated ? others.hi : Acc(-1);
    value[1] = dominated ? others.lo : Acc(0);
  }
};

}  // namespace csm
