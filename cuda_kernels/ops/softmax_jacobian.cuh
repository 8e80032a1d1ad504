// softmax_jacobian: ∂y_i/∂x_j = y_i (δ_ij − y_j), where y = softmax(x).
//
// Each row of the kernel is a row i of the matrix. Its value is y_i and its elements are y_j: off the diagonal −y_i
// y_j, on it y_i − y_i², which one fused multiply-add rounds once. Nothing is summed.
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
    entry[0] =
        place.is(row.diagonal) ? fused(-row.y, row.y, row.y) : fused(-row.y, e[0], Acc(0));  // + 0 turns −0 into 0
  }
};

}  // namespace csm
