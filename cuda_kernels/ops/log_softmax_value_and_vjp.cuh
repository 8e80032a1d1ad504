// log_softmax_value_and_vjp: ℓ = log_softmax(x), and the gradient dx = dy − y Σ_j dy_j with respect to x, y = exp(ℓ).
//
// Where y is above ½, it is that of the maximum, whose exponential e is above half of the sum s. There dx is
// dy − (Σ dy − B Σ dy), with B = (s − e) / s, which is 1 − y with all its digits. Summed over the row: exp(z_j) and
// dy_j.
#pragma once

#include "logits/log_value.cuh"

namespace csm {

struct Op : LogSoftmax {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // x, dy
  enum Sum { kExponentials, kGradients };

  CSM_DEVICE static void terms(Element& e, const Reference& to, Place, const RowContext& context, Values<2>& term) {
    term[kExponentials] = chunk_exponential(e, to, context);
    term[kGradients] = e[1];
  }

  struct Scale {
    LogValue log;
    DoubleWord inverse;     // 1 / s
    DoubleWord minus_sum;   // −Σ dy
    DoubleWord at_largest;  // Σ dy − B Σ dy
    Acc largest;            // the exponential of a y above ½, if there is one and Σ dy is finite
    Acc factor;             // the scale of scale · x, or 1
  };
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
    const Acc largest = largest_exponential(row.m);
    const DoubleWord exponentials = normalised(drop_invalid_low(whole_sum<Op>(row, largest)));
    const DoubleWord sum = drop_invalid_low(normalised(drop_invalid_low(row.s[kGradients])));
    const DoubleWord inverse = normalised(reciprocal_of(whole_sum<Op>(row, largest)));
    const DoubleWord others = multiply(sum_of_others<Op>(row, largest), inverse);
    const DoubleWord at_largest = drop_invalid_low(normalised(subtract(sum, multiply(others, sum))));
    const LogValue log = log_value(chunk_maximum, row, context);
    const bool dominates = exponentials.hi < Acc(2) * largest && is_finite(sum.hi);
    return {log, inverse, negative(sum), at_largest, dominates ? largest : Acc(-1), scale_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<2>& result) {
    result[0] = log_of(e, row.log);
    const Acc exponential = row_exponential(e, row.log), y = scaled(exponential, row.inverse);
    const Acc otherwise = fused(y, row.minus_sum.hi, fused(y, row.minus_sum.lo, e[1]));
    const bool largest = exponential == row.largest;
    result[1] = rescaled(largest ? minus(e[1], row.at_largest) : otherwise, row.factor);
  }
};

}  // namespace csm
