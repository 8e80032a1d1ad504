// softmax_value_and_vjp: y = softmax(x), and the product y ∘ (v − ⟨y, v⟩) of its Jacobian with a vector.
//
// y is that of logits/softmax.cuh, and the product that of ops/softmax_vjp.cuh: the gradient with respect to x (v =
// dy), or the change of y along a change of x (v = ẋ). Nothing is rounded in between, so v less the mean is right
// relative to itself in every dtype (reduce/mean.cuh). Summed over the row: exp(z_j) and exp(z_j) v_j.
#pragma once

#include "logits/logit.cuh"
#include "reduce/mean.cuh"

namespace csm {

struct Op : OfLogits<WritesElements> {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // x, v
  static constexpr bool kOthers = true, kKeepsTerm = true;

  // The exponential replaces the logit.
  CSM_DEVICE static void terms(Element& e, const Reference& to, Place, const RowContext& context, Values<2>& term) {
    term[0] = e[0] = exp_logit(e, to, factor_of(context));
    term[1] = part_of_largest(e[0]) * e[1];
  }

  struct Scale {
    Factor of_exponential;  // which makes y of it
    DoubleWord mean;        // ⟨y, v⟩
    Acc factor;             // the scale of scale · x, or 1
    Acc finite;             // the mean's high word, or 0 if that is infinite or NaN
  };
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
    const DoubleWord inverse = normalised(reciprocal_of(whole_sum<Op>(row, largest_exponential(row.m))));
    const Factor of_exponential = factor_between(chunk_maximum, row.m, inverse);
    const DoubleWord mean = value_of(mean_of_exponentials<Op>(row, inverse));
    return {of_exponential, mean, scale_of(context), is_finite(mean.hi) ? mean.hi : Acc(0)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<2>& result) {
    const Acc y = result[0] = scaled(e[0], row.of_exponential);
    if constexpr (kFastExp) {
      result[1] = rescaled(times_less(y, e[1], row.mean), row.factor);
    } else {  // the product is that of y as it was before it was rounded; in double, of all digits of v less the mean
      const DoubleWord times = row.of_exponential.times;
      const Acc exponential = e[0] * row.of_exponential.power;
      const Acc lost = fused(exponential, times.hi, -y) + exponential * times.lo;
      const DoubleWord from = two_difference(e[1], row.finite);
      const Acc beside = kSingle ? row.mean.lo : row.mean.lo - from.lo;
      const Acc low = fused(lost, from.hi, -(y * beside));
      result[1] = rescaled(fused(y, e[1] - row.mean.hi, low), row.factor);
    }
  }
};

}  // namespace csm
