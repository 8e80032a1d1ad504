// What softmax does with a row of logits z: y_i = exp(z_i − m) / Σ_j exp(z_j − m), where m = max_j z_j.
//
// softmax is this with logits as logits/logit.cuh forms them, gumbel_softmax with noisy ones.
#pragma once

#include "logits/logit.cuh"

namespace csm {

struct Softmax : OfLogits<WritesElements> {
  static constexpr bool kHasPower = !kFastExp, kKeepsTerm = true;
  static constexpr Neutral kNeutral[] = {Neutral::lowest};  // −inf: never the maximum, and its exponential is 0

  // The exponential replaces the element, so that each is computed only once.
  CSM_DEVICE static void terms(Element& e, const Reference& to, Place, const RowContext& context, Values<1>& term) {
    term[0] = e[0] = exp_logit(e, to, factor_of(context));
  }

  static constexpr bool kPairs = kScaledPairs, kPairResults = kPairs, kPairsOfRows = kPlainPairs;
  template <class References>
  CSM_DEVICE static Pair terms_of(Pair& e, const References& to, const RowContext& context) {
    if constexpr (kFastProduct) return e = exp_of_product(e, to.shift, factor_of(context));
    else if constexpr (kScaled) return e = exponentials_of_products(e, to, factor_of(context));
    else return e = exponentials(e, to);
  }
  static constexpr bool kSomePairs = kScaled && !kFastExp;
  using PairScale = PairFactor;
  template <class Factors>
  CSM_DEVICE static Pair map_of(Pair e, const Factors& scale) {
    return scaled_by_lifted(e, scale.times);
  }

  // What turns exponentials of the chunk into y. A row of −inf alone has the sum 0, and its results are NaN.
  using Scale = Factor;
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext&) {
    return lifted(factor_between(chunk_maximum, row.m, reciprocal_of(row.s[0])));
  }
  static constexpr bool kMapsHidden = true;
  CSM_DEVICE static bool maps_hidden(const Scale& scale) { return is_finite(scale.times.hi); }
  CSM_DEVICE static void map(const Element& e, const Scale& scale, Place, Values<1>& y) {
    y[0] = scaled_by_lifted(e[0], scale.times);
  }
};

}  // namespace csm
