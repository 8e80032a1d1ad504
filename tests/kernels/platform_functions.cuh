// Functions of machine/platform.cuh, of three elements each: an operation of tests/kernels/test_platform.py.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::zero};

  struct Scale {};
  CSM_DEVICE static Scale scale(DoubleWord, const Node&, const RowContext&) { return {}; }
  CSM_DEVICE static void map(const Element& e, Scale, Place, Values<4>& result) {
    result[0] = maximum(e[0], e[1]);
    result[1] = fused(e[0], e[1], e[2]);
    result[2] = zero_if_less(e[2], e[0], e[1]);
    result[3] = reciprocal(e[0]);
  }
};

}  // namespace csm
