// log_softmax: y_i = x_i − m − ln Σ_j exp(x_j − m), m = max_j x_j.
#pragma once

#include "core/log.cuh"
#include "core/monoid.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::lowest};

  CSM_DEVICE static Acc key(const Element& x) { return x[0]; }
  CSM_DEVICE static void terms(Element& x, Acc shift, Place, const Given&, Values<1>& term) {
    term[0] = exp_difference(x[0], shift);
  }

  // Both parts of y are ≤ 0, so no digits cancel. A row of −inf alone has x − m = NaN.
  struct Scale {
    Acc maximum;
    Wide minus_log;
  };
  CSM_DEVICE static Scale scale(Acc, const Node& row, const Given&) {
    const Wide log = logarithm(row.s[0]);
    return {row.m, {-log.hi, -log.lo}};
  }
  CSM_DEVICE static void map(const Element& x, const Scale& row, Place, Values<1>& y) {
    y[0] = plus(x[0] - row.maximum, row.minus_log);
  }
};

}  // namespace csm
