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
    Acc other;
    fused(Pair(e[2], e[0]), Pair(e[1]), Pair(e[0], e[2])).get(other, result[1]);
    result[2] = at_least(e[0], e[1] == e[1] ? e[1] : e[2]);
    result[3] = reciprocal(e[0]);
  }
};

}  // namespace csm
