// What the mean of cross_entropy multiplies by: 1 / Σ w_t over the targets t that are not ignored; without weights,
// 1 / their number. The targets are the elements of the one row; those that name no class count for nothing.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesRows {
  static constexpr Neutral kNeutral[] = {Neutral::zero};
  enum Option {
    kIgnored = option_named("ignore_index", 0),
    kStride = option_named("stride", 1),
    kClasses = option_named("classes", 2)
  };

  // Arithmetic with integers is in double, which holds every number of classes exactly.
  CSM_DEVICE static void enter(Element& e, Place, const RowContext& context) {
    const bool counts = e[0] >= Acc(0) && e[0] < static_cast<Acc>(context.option(kClasses)) &&
                        e[0] != static_cast<Acc>(context.option(kIgnored));
    if constexpr (kTables > 0) {
      e[0] = context.look_up<0>((counts ? static_cast<i64>(e[0]) : 0) * context.option(kStride), counts);
    } else {
      e[0] = counts ? Acc(1) : Acc(0);
    }
  }
  CSM_DEVICE static void terms(Element& e, DoubleWord, Place, const RowContext&, Values<1>& term) { term[0] = e[0]; }
  CSM_DEVICE static void finish(const Node& row, const RowContext&, Values<kRowOutputs>& value) {
    const DoubleWord sum = drop_invalid_low(row.s[0]);
    value[0] = reciprocal(sum.hi + sum.lo);
  }
};

}  // namespace csm
