// one_hot: 1 at the place that each row is given, 0 elsewhere; NaN in a row that is given none (−1).
//
// The place is a value of the row. The input is there for its shape only: its elements are not used, and the compiler
// drops their loads. Nothing is summed.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero};

  struct Scale {
    i64 place;
    Acc elsewhere;
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node&, const RowContext& context) {
    return {context.integer[0], context.integer[0] < 0 ? not_a_number() : Acc(0)};
  }
  CSM_DEVICE static void map(const Element&, const Scale& row, Place place, Values<1>& y) {
    y[0] = place.is(row.place) ? Acc(1) : row.elsewhere;
  }
};

}  // namespace csm
