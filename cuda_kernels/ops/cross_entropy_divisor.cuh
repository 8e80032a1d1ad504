// cross_entropy_divisor: 1 / Σ w_t, by which the mean of cross_entropy multiplies the sum of the losses.
//
// The one row holds the targets t of all losses. Without weights each w_t is 1. Ignored targets, and those that name no
// class, have weight 0. Summed over the row: w_t.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesRows {
  static constexpr Neutral kNeutral[] = {Neutral::zero};
  enum Option {
    kIgnored = own_option("ignore_index"),
    kStride = own_option("stride"),
    kClasses = own_option("classes")
  };

  // Integer inputs are converted to double, which holds every class exactly.
  CSM_DEVICE static void enter(Element& e, Place, const RowContext& context) {
    const bool counts = e[0] >= Acc(0) && e[0] < static_cast<Acc>(context.option(kClasses)) &&
                        e[0] != static_cast<Acc>(context.option(kIgnored));
    if constexpr (kTables > 0) {
      e[0] = context.look_up<0>((counts ? static_cast<i64>(e[0]) : 0) * context.option(kStride), counts);
    } else {
      e[0] = counts ? Acc(1) : Acc(0);
    }
  }
  CSM_DEVICE static void terms(Element& e, const Reference&, Place, const RowContext&, Values<1>& term) {
    term[0] = e[0];
  }
  CSM_DEVICE static void finish(const Node& row, const RowContext&, Values<kRowOutputs>& value) {
    const DoubleWord sum = drop_invalid_low(row.s[0]);
    value[0] = reciprocal(sum.hi + sum.lo);
  }
};

}  // namespace csm
