// log_softmax_value_and_jvp: ℓ = log_softmax(x), and its change ẋ − ⟨exp(ℓ), ẋ⟩ along a change ẋ of x.
//
// The change is right relative to itself in every dtype (reduce/mean.cuh). Summed over the row: exp(z_j) and
// exp(z_j) ẋ_j.
#pragma once

#include "logits/log_value.cuh"
#include "reduce/mean.cuh"

namespace csm {

struct Op : LogSoftmax {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // x, ẋ

  CSM_DEVICE static void terms(Element& e, const Reference& to, Place, const RowContext& context, Values<2>& term) {
    term[0] = chunk_exponential(e, to, context);
    term[1] = part_of_largest(term[0]) * e[1];
  }

  struct Scale {
    LogValue log;
    DoubleWord mean;  // ⟨exp(ℓ), ẋ⟩
    Acc factor;       // the scale of scale · x, or 1
  };
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
    const DoubleWord inverse = normalised(reciprocal_of(whole_sum<Op>(row, largest_exponential(row.m))));
    const DoubleWord mean = value_of(mean_of_exponentials<Op>(row, inverse));
    return {log_value(chunk_maximum, row, context), mean, scale_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<2>& result) {
    result[0] = log_of(e, row.log);
    result[1] = rescaled(less(e[1], row.mean), row.factor);
  }
};

}  // namespace csm
