// cross_entropy: the loss of a row of logits x against weights p of its classes, and the gradient of the loss.
//
// With ℓ = ln Σ_j exp(x_j) and q = softmax(x),
//
//   loss = ℓ Σ_j p_j − Σ_j p_j x_j + z ℓ²,   ∂loss/∂x_j = (Σ_j p_j + 2 z ℓ) q_j − p_j.
//
// Hard targets: each row has a class t, and p_j = (1 − ε) w_t [j = t] + (ε/C) w_j for C classes with weights w and the
// smoothing ε (feature smooth). Then the loss is (1 − ε) w_t (ℓ − x_t) + …
// Soft targets (feature soft): each row has a probability y_j for each class, and p_j = w_j ((1 − ε) y_j + ε/C).
// With the feature capped, x_j is replaced by cap · tanh(x_j / cap) when it is read.
//
// Summed over the row: exp(x_j). Soft targets also sum p_j x_j and p_j, smoothed hard ones
// w_j x_j and w_j. x_t is picked out of the row in the same pass, because the gradient may overwrite the logits.
//
// Inputs: logits; soft targets; weights by element, for soft or smoothed targets. Values of a row: its class, if hard;
// the upstream gradient. Table: the weights w, to look up w_t. Outputs: the gradient and the loss, or one of them.
#pragma once

#include "numeric/log.cuh"
#include "reduce/operation.cuh"
#include "numeric/softcap.cuh"

namespace csm {

struct Op : OperationBase {
  static constexpr bool kSoft = has(feature::soft), kSmooth = has(feature::smooth), kCapped = has(feature::capped);
  static constexpr bool kGradient = kOutputs > 0, kUpstream = kRowInputs > (kSoft ? 0 : 1);
  static constexpr bool kWeights = kInputs > (kSoft ? 2 : 1);  // weights by element, the last of the inputs
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero, Neutral::zero};
  static constexpr bool kOthers = true, kKeepsTerm = !kCapped && (kGradient || !kOthersInLow);
  static constexpr bool kHasPower = kKeepsTerm && kRaises;

  // kIgnored is the class that marks rows without a target, kStride the distance between weights in the table in bytes;
  // kKeep is 1 − ε, kSmoothing ε, kShare ε/C, kFourPerCap 4/cap; kFactor multiplies the whole gradient.
  enum Option {
    kIgnored = own_option("ignore_index"),
    kStride = own_option("stride"),
    kKeep = own_option("keep"),
    kSmoothing = own_option("label_smoothing"),
    kShare = own_option("share"),
    kZ = own_option("z_loss"),
    kCap = own_option("softcap"),
    kFourPerCap = own_option("four_per_cap"),
    kFactor = own_option("factor")
  };
  // The sums: Σ exp(x), Σ p x or Σ w x, Σ p or Σ w.
  enum Sum { kExponentials, kProducts, kWeightSum };

  // ---- the row's target ----

  CSM_DEVICE static bool is_among(i64 target, i64 first, int count) {
    return static_cast<u64>(target - first) < static_cast<u64>(count);
  }
  CSM_DEVICE static bool ignored(const RowContext& context) {
    return !kSoft && context.integer[0] == context.option(kIgnored);
  }
  CSM_DEVICE static bool exists(const RowContext& context) {
    return kSoft || static_cast<u64>(context.integer[0]) < static_cast<u64>(context.n);
  }
  CSM_DEVICE static void begin(RowContext& context) {
    if constexpr (kTables > 0) {
      const bool wanted = exists(context) && !ignored(context);
      context.looked_up[0] = context.look_up<0>(context.integer[0] * context.option(kStride), wanted);
    }
  }
  // (1 − ε) w_t, the weight of the loss at the target.
  CSM_DEVICE static Acc target_weight(const RowContext& context) {
    if constexpr (kTables > 0) return context.number(kKeep) * context.looked_up[0];
    else return context.number(kKeep);
  }

  // ---- elements ----

  CSM_DEVICE static void enter(Element& e, Place, const RowContext& context) {
    if constexpr (kCapped) e[0] = capped(e[0], context.number(kCap), context.number(kFourPerCap));
    if constexpr (kSoft) {
      e[1] = fused(context.number(kKeep), e[1], context.number(kShare));
      if constexpr (kWeights) e[1] *= e[kInputs - 1];
    }
  }

  CSM_DEVICE static void pick(const Element& e, Place place, const RowContext& context, Values<kPicked>& picked) {
    if constexpr (!kSoft) picked[0] = place.is(context.integer[0]) ? e[0] : picked[0];
  }

  CSM_DEVICE static i64 given(const RowContext& context) { return context.integer[0]; }

  CSM_DEVICE static Acc key(const Element& e, const RowContext&) { return e[0]; }

  // A logit of weight 0 contributes nothing, even if it is −inf.
  CSM_DEVICE static Acc weighted(Acc weight, Acc x) { return weight == Acc(0) ? Acc(0) : weight * x; }

  CSM_DEVICE static void terms(Element& e, const Reference& to, Place place, const RowContext& context,
                               Values<kSums>& term) {
    const Acc x = e[0];
    term[kExponentials] = exponential(x, to);
    if constexpr (kSoft) {
      term[kProducts] = weighted(e[1], x);
      term[kWeightSum] = e[1];
    } else if constexpr (kSmooth && kWeights) {
      term[kProducts] = weighted(e[kInputs - 1], x);
      term[kWeightSum] = e[kInputs - 1];
    } else if constexpr (kSmooth) {
      term[kProducts] = place.before(context.n) ? x : Acc(0);
    }
    // Keep the exponential, unless map() needs the logit for the slope of the cap.
    if constexpr (kKeepsTerm) e[0] = term[kExponentials];
  }
  CSM_DEVICE static Acc term_of(const Element& e, const Reference& to, const RowContext&) {
    return exponential(e[0], to);
  }

  static constexpr bool kPairs = kSingle && !kSoft && !kSmooth && !kCapped && kRegisterInputs == 1 && kMaxVec % 2 == 0;
  CSM_DEVICE static Pair terms_of(Pair& e, const Reference& to, const RowContext&) {
    const Pair terms = exponentials(e, to);
    if constexpr (kKeepsTerm) e = terms;
    return terms;
  }

  // ---- the loss ----

  CSM_DEVICE static void summarise(const Node& row, RowContext& context, bool loss) {
    const bool z_loss = context.number(kZ) != Acc(0);
    if ((kRowOutputs > 0 && loss) || (kGradient && z_loss)) context.log = log_of_row(row);
    context.whole = Acc(0);
    if (unlikely(z_loss)) context.whole = plus(row.m.hi, context.log);
  }

  // Σ w (ℓ − x) = (m Σ w − Σ w x) + Σ w ln s, since ℓ = m + ln s. For weights ≥ 0 both parts are ≥ 0, so their sum does
  // not cancel.
  CSM_DEVICE static Acc below(Acc m, DoubleWord log, DoubleWord weights, DoubleWord products) {
    log = normalised(log);
    const DoubleWord largest = multiply(weights, as_double_word(m));
    const Acc rest = largest.lo - products.lo;
    const Acc beyond = (largest.hi - products.hi) + (rest == rest ? rest : Acc(0));
    return fused(weights.hi, log.hi, beyond);
  }

  // ℓ − x_t = (m − x_t) + ln s. The rounding error of the difference joins the low word of the logarithm, so that the
  // result keeps its digits next to 0.
  CSM_DEVICE static Acc below_target(Acc m, DoubleWord log, Acc x) {
    const DoubleWord d = two_difference(m, x);
    if constexpr (kCompensated) log.lo += d.lo;  // NaN where one is infinite
    return plus(d.hi, log);
  }

  // Σ_j w_j, for hard targets with smoothing.
  CSM_DEVICE static DoubleWord class_weights(const Node& row, const RowContext& context) {
    if constexpr (kSmooth && kWeights) return drop_invalid_low(row.s[kWeightSum]);
    else return as_double_word(static_cast<Acc>(context.n));
  }

  CSM_DEVICE static void finish(const Node& row, const RowContext& context, Values<kRowOutputs>& value) {
    const DoubleWord log = context.log;
    Acc loss;
    if constexpr (kSoft) {
      loss = below(row.m.hi, log, drop_invalid_low(row.s[kWeightSum]), drop_invalid_low(row.s[kProducts]));
    } else {
      loss = target_weight(context) * below_target(row.m.hi, log, row.picked[0]);
      if constexpr (kSmooth) {
        const DoubleWord products = drop_invalid_low(row.s[kProducts]);
        loss = fused(context.number(kShare), below(row.m.hi, log, class_weights(row, context), products), loss);
      }
    }
    const Acc z = context.number(kZ);
    if (z != Acc(0)) loss = fused(z * context.whole, context.whole, loss);
    if (!exists(context)) loss = not_a_number();
    if (ignored(context)) loss = Acc(0);
    value[0] = loss;
  }

  // ---- the gradient ----

  // Where something is subtracted from the softmax part, the upstream gradient comes last: an infinite one would leave
  // infinity less infinity.
  static constexpr bool kUpstreamLast = kSoft || kSmooth;

  struct Scale : Factor {  // times an element's exponential: the softmax part of its gradient
    Acc at_target, share;  // the gradient at the target; what is subtracted elsewhere, per weight
    Acc upstream;          // what the difference of these is multiplied by
    Reference reference;   // the row's
    Acc four_per_cap;
    // For a soft target whose exponential is the row's largest, where W q − p would cancel, if the result is as precise
    // as the arithmetic: that exponential, −1 if the chunk has no such element; W = Σ_j p_j + 2 z ℓ, q and 1 − q.
    Acc largest;
    DoubleWord weights;
    Acc q, others;
    i64 target;
    bool ignored;
    // What at_target is made of: the target's logit and weight, what its class adds to the factor of q and what is
    // subtracted; the sum of the row's others (or the row's first sum as it is), its sum and the inverse, its maximum
    // and the exponential of that.
    Acc logit, weight, excess, here;
    DoubleWord rest, sum, inverse, maximum;
    Acc largest_one;
    // What the factor is made of besides: its chunk's maximum, and what multiplies all exponentials over their sum.
    DoubleWord chunk;
    Acc total;

    CSM_DEVICE const Factor& factor() const { return *this; }
  };

  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
    Scale found = {};
    if constexpr (kGradient) {
      Acc upstream = context.number(kFactor);
      if constexpr (kUpstream) upstream *= context[kRowInputs - 1];
      Acc excess = Acc(2) * context.number(kZ) * context.whole;  // the factor of q besides the target's weight
      const Acc largest_one = largest_exponential(row.m);
      const DoubleWord exponentials = whole_sum<Op>(row, largest_one);
      const DoubleWord inverse = normalised(reciprocal_of(exponentials));
      Acc total;
      if constexpr (kSoft) {
        const DoubleWord sum = drop_invalid_low(row.s[kWeightSum]);
        total = sum.hi + sum.lo + excess;
        found.weights = drop_invalid_low(normalised(add(sum, excess)));
        found.q = largest_one * inverse.hi;
        found.others = normalised(multiply(sum_of_others<Op>(row, largest_one), inverse)).hi;
        found.largest = kCapped || chunk_maximum.hi == row.m.hi ? largest_one : Acc(-1);
      } else {
        const Acc weight = target_weight(context);
        Acc share = Acc(0), here = Acc(0);
        if constexpr (kSmooth) {
          share = context.number(kShare);
          const DoubleWord sum = class_weights(row, context);
          excess += kWeights ? share * (sum.hi + sum.lo) : context.number(kSmoothing);
          here = share;
          if constexpr (kTables > 0) here *= context.looked_up[0];
        }
        total = exists(context) ? weight + excess : not_a_number();
        found.logit = row.picked[0], found.weight = weight, found.excess = excess, found.here = here;
        found.rest = kOthersNegative<Op> ? row.s[kExponentials] : sum_of_others<Op>(row, largest_one);
        found.sum = exponentials, found.largest_one = largest_one;
        found.share = share;
        found.target = context.integer[0];
      }
      found.chunk = kCapped ? row.m : chunk_maximum, found.maximum = row.m, found.inverse = inverse;
      found.total = kUpstreamLast ? total : upstream * total;
      constexpr bool kRaise = kRaises && !kHasPower;
      static_cast<Factor&>(found) = times_total(found, factor_between<kRaise>(found.chunk, row.m, inverse));
      found.upstream = upstream;
      found.reference = reference_of(row.m);
      found.four_per_cap = context.number(kFourPerCap);
      found.ignored = ignored(context);
    }
    return found;
  }

  CSM_DEVICE static Factor times_total(const Scale& row, Factor factor) {
    if constexpr (kTables > 0 || kWeights || (kUpstream && !kUpstreamLast)) return multiplied(factor, row.total);
    factor.times = drop_invalid_low(multiply(factor.times, as_double_word(row.total)));
    return factor;
  }
  CSM_DEVICE static Factor factor_with_power(const Scale& row) {
    return times_total(row, factor_between(row.chunk, row.maximum, row.inverse));
  }

  static constexpr bool kPassesScale = kFastExp && kGradient && !kSoft && !kSmooth && !kCapped;
  template <class Pass>
  CSM_DEVICE static Scale passed(const Scale& scale, const RowContext& context, Pass pass) {
    Scale found = {};
    found.times = as_double_word(pass(scale.times.hi));
    found.at_target = pass(scale.at_target);
    found.target = context.integer[0];
    found.ignored = ignored(context);
    return found;
  }

  CSM_DEVICE static void complete(Scale& row) {
    if constexpr (kGradient && !kSoft) {
      // 1 − q_t without cancellation. It can cancel only if q_t > ½, and then x_t is the maximum: subtract its
      // exponential from the sum.
      const bool largest = row.logit == row.maximum.hi;
      const Acc mine = largest ? row.largest_one : exponential(row.logit, row.reference);
      if constexpr (kCompensated) {  // rounded once
        const Acc less = row.sum.hi - mine;
        DoubleWord others = {less, row.sum.lo + fast_error(row.sum.hi, -mine, less)};
        if (largest && lacks_largest(row.rest)) others = negative(row.rest);
        const DoubleWord beside = normalised(multiply(others, row.inverse));  // 1 − q
        const Acc factor = -row.weight * row.upstream;
        DoubleWord at_target = multiply(beside, {factor, fused(-row.weight, row.upstream, -factor)});
        if (kSmooth || unlikely(row.excess != Acc(0))) {
          const DoubleWord q = normalised(multiply(row.inverse, as_double_word(mine)));
          const DoubleWord of_q = add(multiply(q, as_double_word(row.excess)), -row.here);
          const DoubleWord whole = add(multiply(beside, as_double_word(-row.weight)), of_q);
          at_target = multiply(normalised(drop_invalid_low(whole)), as_double_word(row.upstream));
        }
        at_target = drop_invalid_low(at_target);
        row.at_target = at_target.hi + at_target.lo;
      } else {
        const Acc q = mine * row.inverse.hi;
        Acc rest = row.rest.hi + row.rest.lo;
        if constexpr (kSmooth) rest = at_least(rest, Acc(0));  // of −∞ alone, −1: q and its product would both be +∞
        const Acc others = largest ? rest * row.inverse.hi : Acc(1) - q;
        row.at_target = row.upstream * (fused(row.excess, q, -row.weight * others) - row.here);
      }
    }
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place place, Values<kOutputs>& gradient) {
    if constexpr (kGradient) {
      Acc g = before_cap(e, row);
      if (!kSoft && place.is(row.target)) g = row.at_target;
      g = through_cap(g, e, row);
      gradient[0] = !kSoft && row.ignored ? Acc(0) : g;
    }
  }

  // In chunks without the target.
  static constexpr bool kHasUsual = kGradient && !kSoft;
  CSM_DEVICE static bool are_usual(i64 first, int count, const Scale& row) {
    return !row.ignored && !is_among(row.target, first, count);
  }
  CSM_DEVICE static bool is_usual(const Element&, const Scale&) { return true; }
  CSM_DEVICE static bool is_blank(const Scale& row) { return row.ignored; }
  CSM_DEVICE static i64 given(const Scale& row) { return row.target; }
  CSM_DEVICE static Acc given_result(const Scale& row) { return through_cap(row.at_target, {row.logit}, row); }
  CSM_DEVICE static void map_usual(const Element& e, const Scale& row, Values<kOutputs>& gradient) {
    gradient[0] = through_cap(before_cap(e, row), e, row);
  }

  static constexpr bool kPairResults = kPairs && kGradient;
  CSM_DEVICE static Pair map_of(Pair e, const Scale& row) { return scaled(e, row.factor()); }

  CSM_DEVICE static Acc before_cap(const Element& e, const Scale& row) {
    Acc mine = e[0];
    if constexpr (kCapped) mine = kFastExp ? exp_fast(e[0] - row.reference.shift.hi) : exponential(e[0], row.reference);
    Acc g;
    if constexpr (kSoft) {
      g = less(mine, row.factor(), e[1]);
      // As (W − p) q − p (1 − q).
      if (kCompensated && mine == row.largest) {
        g = fused((row.weights.hi - e[1]) + row.weights.lo, row.q, -e[1] * row.others);
      }
    } else if constexpr (kSmooth) {
      g = less(mine, row.factor(), kWeights ? row.share * e[kInputs - 1] : row.share);
    } else {
      g = scaled(mine, row.factor());
    }
    return kUpstreamLast ? g * row.upstream : g;
  }
  CSM_DEVICE static Acc through_cap(Acc g, const Element& e, const Scale& row) {
    return kCapped ? g * capped_slope(e[0], row.four_per_cap) : g;
  }

  // x · a − b
  CSM_DEVICE static Acc less(Acc x, const Factor& a, Acc b) {
    if constexpr (!kFastExp) x *= a.power;
    if constexpr (kCompensated) return fused(x, a.times.hi, fused(x, a.times.lo, -b));
    else return fused(x, a.times.hi, -b);
  }
};

}  // namespace csm
