// log_softmax_jvp: the change of ℓ = log_softmax(x) along a change ẋ of x: ẋ − ⟨y, ẋ⟩, where y = exp(ℓ).
//
// For ℓ = log_softmax(scale · x) it is multiplied by the scale. Summed over the row: y_j ẋ_j. Where an element m is
// kept apart (reduce/mean.cuh), the others' y_j sum to 1 − exp(ℓ_m), for which ℓ_m has more digits than their sum.
#pragma once

#include "logits/logit.cuh"
#include "reduce/mean.cuh"

namespace csm {

struct Op : WritesElements {
  static constexpr Neutral kNeutral[] = {Neutral::lowest, Neutral::zero};  // ℓ, ẋ

  static constexpr Acc kHalf = -ExpC::kLn2;
  enum Picked { kPresent, kChange, kLog };  // 1, ẋ, ℓ
  CSM_DEVICE static void pick(const Element& e, Place, const RowContext&, Values<kPicked>& picked) {
    picked[kPresent] = Acc(1);
    picked[kChange] = e[1];
    picked[kLog] = e[0];
  }
  CSM_DEVICE static void pick_largest(Acc log, Values<kPicked>& picked) { picked[kLog] = log; }
  CSM_DEVICE static Acc larger(Acc a, Acc b) { return maximum(a, b); }
  CSM_DEVICE static Element element_of(const Values<kPicked>& picked) { return {picked[kLog], picked[kChange]}; }

  CSM_DEVICE static void terms(Element& e, const Reference&, Place, const RowContext&, Values<1>& term) {
    term[0] = exp_of_log(e[0]) * e[1];
  }
  static constexpr int kProductSums = 1, kTogether = kCompensated ? 2 : 4;
  CSM_DEVICE static Acc factor(const Element& e, int, int which) { return which == 0 ? exp_of_log(e[0]) : e[1]; }

  struct Scale {
    DoubleWord mean;  // ⟨y, ẋ⟩
    Acc factor;       // the scale of scale · x, or 1
    bool apart;       // whether an element is kept apart
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext& context) {
    Mean mean = {Acc(0), row.s[0]};
    const bool apart = kDominant && row.picked[kPresent] > Acc(0);
    if constexpr (kDominant) {
      const DoubleWord others = as_double_word(-exp_minus_one(row.picked[kLog]));
      if (apart) mean = mean_from(row.s[0], others, row.picked[kChange]);
    }
    return {value_of(mean), scale_of(context), apart};
  }
  // Rounded once in all, since ẋ less the mean is to be right relative to itself where an element is kept apart.
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& change) {
    if (kHasUsual && !row.apart) return map_usual(e, row, change);
    const DoubleWord from = less_exactly(e[1], row.mean);
    change[0] = rescaled(kMeanHasLow && from.lo == from.lo ? from.hi + from.lo : from.hi, row.factor);
  }

  // Otherwise it is rounded twice, the first time relative to ẋ alone.
  static constexpr bool kHasUsual = kDominant;
  CSM_DEVICE static bool are_usual(i64, int, const Scale& row) { return !row.apart; }
  CSM_DEVICE static void map_usual(const Element& e, const Scale& row, Values<1>& change) {
    change[0] = rescaled((e[1] - row.mean.lo) - row.mean.hi, row.factor);
  }
};

}  // namespace csm
