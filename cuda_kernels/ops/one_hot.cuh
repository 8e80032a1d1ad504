// 1 at the place that a row is given, 0 elsewhere; NaN in rows that are given none (−1).
//
// The elements of the input are not looked at: it is there for its shape, and a compiler drops its loads.
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
