// Jacobian of softmax, a row of it at a time: ∂y_i/∂x_j = y_i (δ_ij − y_j).
//
// Row i of the matrix has the value y_i, and the elements y_j: off the diagonal −y_i y_j, on it y_i − y_i², which one
// fused multiply-add rounds once.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero};

  struct Scale {
    Acc y;
    i64 diagonal;
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node&, const RowContext& context) {
    return {context[0], context.row % context.n};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place place, Values<1>& entry) {
    entry[0] = place.is(row.diagonal) ? fused(-row.y, row.y, row.y) : fused(-row.y, e[0], Acc(0));  // no −0
  }
};

}  // namespace csm
