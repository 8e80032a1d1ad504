// log_softmax_vjp: the gradient dx = dy − exp(ℓ) Σ_j dy_j with respect to x, where ℓ = log_softmax(x).
//
// For ℓ = log_softmax(scale · x) it is multiplied by the scale. Summed over the row: dy_j.
#pragma once

#include "logits/logit.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // ℓ, dy

  CSM_DEVICE static void terms(Element& e, const Reference&, Place, const RowContext&, Values<1>& term) {
    term[0] = e[1];
  }

  struct Scale {
    DoubleWord minus_sum;  // −Σ dy
    Acc half;              // ln ½, or if the sum is infinite or NaN +∞
    Acc factor;            // the scale of scale · x, or 1
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext& context) {
    const DoubleWord sum = drop_invalid_low(normalised(drop_invalid_low(row.s[0])));
    const Acc half = is_finite(sum.hi) ? -ExpC::kLn2 : -negative_infinity();
    return {negative(sum), half, scale_of(context)};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& dx) {
    if constexpr (kHasUsual) {
      if (!is_usual(e, row)) {
        // exp(ℓ) is above ½: (dy − Σ dy) − (exp(ℓ) − 1) Σ dy, since exp(ℓ) next to 1 has lost the digits of its
        // distance to it. The difference may be larger than the result: what is lost of it is added at last.
        const Acc less_one = exp_minus_one(e[0]);
        const DoubleWord rest = two_sum(e[1], row.minus_sum.hi);
        const Acc low = fused(less_one, row.minus_sum.lo, rest.lo + row.minus_sum.lo);
        dx[0] = rescaled(fused(less_one, row.minus_sum.hi, rest.hi) + number_or_zero(low), row.factor);
        return;
      }
    }
    map_usual(e, row, dx);
  }

  // Of elements that are at most ½ of their row.
  static constexpr bool kHasUsual = kCompensated;
  CSM_DEVICE static bool are_usual(i64, int, const Scale&) { return true; }
  CSM_DEVICE static bool is_usual(const Element& e, const Scale& row) { return !(e[0] > row.half); }
  CSM_DEVICE static void map_usual(const Element& e, const Scale& row, Values<1>& dx) {
    const Acc y = exp_of_log(e[0]);
    const Acc low = kCompensated ? fused(y, row.minus_sum.lo, e[1]) : e[1];
    dx[0] = rescaled(fused(y, row.minus_sum.hi, low), row.factor);
  }
};

}  // namespace csm
