// logsumexp_vjp: the gradient dx_i = dL · b_i exp(z_i − m) / Σ_j b_j exp(z_j − m) with respect to x.
//
// dL, the gradient with respect to the result, is a value of the row. The weights b are the second input of an
// operation that has them; without them dx = dL · softmax(z). For z = scale · x + bias, dx is multiplied by the scale.
// Summed over the row: b_j exp(z_j − m), where m is the largest z_j whose weight is not 0. If that is −inf, the sum is
// that of nothing, logsumexp is −inf, and dx is 0.
//
// exp(z − m) may be smaller than the smallest double and dx not, if dL is large. So in double the factors of dx are
// kept in range, and a power of two is multiplied last: a result is rounded once, also if it is subnormal.
#pragma once

#include "logits/weighted.cuh"

namespace csm {

struct Op : Weighted<WritesElements> {
  // The exponentials that are kept for map() are times 2^kRaised: as large as the smallest factor below allows, which
  // with weights has to leave room for them.
  static constexpr int kRaised = kSingle ? 0 : kWeights ? 700 : 1008;
  static constexpr int kLowered = static_cast<int>(ExpC::kLowered), kSumRaised = kWeights ? 0 : kLowered;

  CSM_DEVICE static void terms(Element& e, const Reference& to, Place, const RowContext& context, Values<1>& term) {
    if constexpr (kSingle) {
      term[0] = e[0] = weighted(e, exp_logit(e, to, factor_of(context)));
    } else {
      const Acc exponential = exp_logit(e, {to.shift, to.round + Acc(kRaised - kLowered)}, factor_of(context));
      term[0] = weighted(e, exponential * power_of_two(ExpC::kRound - Acc(kRaised - kLowered)));
      e[0] = exponential;
    }
  }

  // Weights may sum to infinity or, with both signs, to 0: the low word of 1 / sum is NaN then.
  CSM_DEVICE static DoubleWord inverse_of(DoubleWord sum) {
    DoubleWord inverse = reciprocal_of(sum);
    if (inverse.lo != inverse.lo) inverse.lo = Acc(0);
    return normalised(inverse);
  }

  struct Scale {
    Factor factor;    // what makes the quotient with the sum of the exponential, times dL
    Acc last;         // the power of two of dL; in double what is left of it
    Acc factor_of_x;  // the scale of scale · x, or 1; in double a part of the factor
  };
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
    if (row.m.hi == negative_infinity() && row.s[0].hi == Acc(0)) return {};
    if constexpr (kSingle) {
      // dL = fraction · power, so that an element's product with it is rounded once; and lifted as in softmax, but for
      // a power beside which results of small exponentials vanish.
      const Acc power = power_within(context[0]), lift = !kWeights && power > Acc(0x1p-38) ? kLift : Acc(1);
      Factor factor = factor_between(chunk_maximum, row.m, inverse_of(row.s[0]));
      factor.times = drop_invalid_low(multiply(factor.times, as_double_word(context[0] * (Acc(1) / power) * lift)));
      return {factor, power * (Acc(1) / lift), scale_of(context)};
    } else {
      return in_range(chunk_maximum, row.m, row.s[0], context);
    }
  }

  CSM_DEVICE static Scale in_range(DoubleWord chunk_maximum, DoubleWord top, DoubleWord sum,
                                   const RowContext& context) {
    if (!is_finite(sum.hi)) {  // infinite or NaN: no power of two to keep apart
      return {{as_double_word(reciprocal(sum.hi) * context[0] * scale_of(context)), Acc(1)}, Acc(1), Acc(1)};
    }
    const FractionAndPower s = split_power(sum.hi), upstream = split_power(context[0]),
                           of_x = split_power(scale_of(context));
    const DoubleWord inverse =
        inverse_of({static_cast<Acc>(s.fraction), static_cast<Acc>(scale_by_power(sum.lo, -s.power))});
    DoubleWord moved[1] = {drop_invalid_low(inverse)};
    const Acc k = move_between(chunk_maximum, top, moved);
    const DoubleWord times = as_double_word(static_cast<Acc>(upstream.fraction * of_x.fraction));
    DoubleWord factor = drop_invalid_low(moved[0]);
    int power = upstream.power + of_x.power - s.power - (kRaised - kSumRaised);
    if (k > Acc(-5000)) {
      power += static_cast<int>(k);
    } else {  // no dL makes up for that
      factor = as_double_word(Acc(0) * inverse.hi);
      power = 0;
    }
    factor = drop_invalid_low(multiply(factor, times));
    // The part of the power that leaves the factor and its products with exponentials normal; the rest makes them 0.
    // Without weights a product that the rest makes subnormal is itself normal, so that it is rounded once. Weights are
    // as large as the sum, about: their part is its inverse, and the rest all that one number can be.
    const int least = power + 64 > -kRaised - 4 ? power + 64 : -kRaised - 4;
    int inner = power > 12 ? 12 : power < -kRaised - 10 ? least : power;
    if constexpr (kWeights) {
      const int rest = power + (s.power > 950 ? 950 : s.power < -950 ? -950 : s.power);
      inner = power - (rest > 900 ? 900 : rest < -1000 ? -1000 : rest);
    }
    const auto scaled_by = [](Acc a, int k) { return static_cast<Acc>(scale_by_power(a, k)); };
    return {{{scaled_by(factor.hi, inner), scaled_by(factor.lo, inner)}, Acc(1)},
            scaled_by(Acc(1), power - inner > -2000 ? power - inner : -2000),
            Acc(1)};
  }

  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& dx) {
    if constexpr (kSingle) dx[0] = rescaled(scaled(e[0], row.factor) * row.last, row.factor_of_x);
    else if constexpr (!kWeights) dx[0] = scaled(e[0], row.factor.times) * row.last;
    else
      dx[0] =
          (weight(e) == Acc(0) ? Acc(0) * row.factor.times.hi : e[0] * scaled(weight(e), row.factor.times)) * row.last;
  }
};

}  // namespace csm
