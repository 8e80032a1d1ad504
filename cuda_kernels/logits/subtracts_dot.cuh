// Base of the Jacobian-vector products that subtract ⟨y, v⟩ from each v_i, where y = softmax(x): those of softmax and
// of log_softmax.
#pragma once

#include "logits/logit.cuh"

namespace csm {

// The operation forms the terms y_j v_j, which are summed to ⟨y, v⟩.
struct SubtractsDot : WritesElements {
  struct Scale {
    DoubleWord dot;  // ⟨y, v⟩
    Acc factor;      // the scale of scale · x, or 1
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext& context) {
    return {drop_invalid_low(row.s[0]), scale_of(context)};
  }
};

}  // namespace csm
