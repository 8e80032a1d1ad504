// softmax_jacobian: ∂y_i/∂x_j = y_i (δ_ij − y_j), where y = softmax(x).
//
// Each row of the kernel is a row i of the matrix. Its value is y_i and its elements are y_j: off the diagonal −y_i
// y_j, on it y_i − y_i², which one fused multiply-add rounds once. Nothing is summed. Where y_i is above ½, 1 − y_i has
// lost its digits: the diagonal is then y_i B, with B = Σ_{j≠i} y_j from softmax_others, if the row has it.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero};

  struct Scale {
    Acc y, at_diagonal;
    i64 diagonal;
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node&, const RowContext& context) {
    const Acc y = context[0];
    Acc at_diagonal = fused(-y, y, y);
    if constexpr (kRowInputs > 1) {  // B in two words
      if (y > Acc(0.5) && context[1] >= Acc(0)) at_diagonal = fused(y, context[1], y * context[2]);
    }
    return {y, at_diagonal, context.row % context.n};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place place, Values<1>& entry) {
    entry[0] = place.is(row.diagonal) ? row.at_diagonal : fused(-row.y, e[0], Acc(0));  // + 0 turns −0 into 0
  }
};

}  // namespace csm
