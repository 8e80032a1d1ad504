// Gradient through logsumexp: dx_i = dL · b_i exp(x_i − m) / Σ_j b_j exp(x_j − m); without weights dL · softmax(x).
//
// dL, the gradient with respect to the result, is a value of the row. The weights are there if there is a second input.
#pragma once

#include "core/monoid.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // x, b

  CSM_DEVICE static Acc weight(const Element& e) {
    if constexpr (kInputs == 1) return Acc(1);
    else return e[kInputs - 1];
  }

  CSM_DEVICE static Acc key(const Element& e) { return weight(e) == Acc(0) ? negative_infinity() : e[0]; }
  CSM_DEVICE static void terms(Element& e, Acc shift, Place, const Given&, Values<1>& term) {
    Acc exponential = exp_difference(e[0], shift);
    if constexpr (kInputs > 1) exponential = weight(e) == Acc(0) ? Acc(0) : weight(e) * exponential;
    term[0] = e[0] = exponential;  // stays in its place
  }

  struct Scale {
    Wide factor;  // exp(m_chunk − m) / s
    Acc upstream;
  };
  CSM_DEVICE static Scale scale(Acc chunk_maximum, const Node& row, const Given& given) {
    const Wide inverse = normalised(reciprocal_of(row.s[0]));
    return {exp_difference_times(chunk_maximum, shift_of(row.m), inverse), given[0]};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& dx) {
    dx[0] = scaled(e[0], row.factor) * row.upstream;
  }
};

}  // namespace csm
