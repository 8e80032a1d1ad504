// softmax_hvp: the Hessian of x ↦ ⟨dy, softmax(x)⟩, applied to v. With y = softmax(x) and ẏ = y ∘ (v − ⟨y, v⟩) it is
//
//   ẏ ∘ (dy − ⟨y, dy⟩) − y ⟨ẏ, dy⟩,   where   ⟨ẏ, dy⟩ = Σ_j y_j v_j dy_j − ⟨y, v⟩⟨y, dy⟩.
//
// Summed over the row, in one pass: y_j dy_j, y_j v_j and y_j v_j dy_j. ⟨ẏ, dy⟩ is the covariance of v and dy, and so
// that of v − v_m and dy − dy_m: with an element m that is kept apart it is formed from these.
#pragma once

#include "reduce/mean.cuh"

namespace csm {

struct Op : OfSoftmax {
  static constexpr int kTogether = kCompensated ? 2 : 4;
  static constexpr Neutral kNeutral[] = {Neutral::zero, Neutral::zero, Neutral::zero};  // y, dy, v

  CSM_DEVICE static void terms(Element& e, const Reference&, Place, const RowContext&, Values<kSums>& term) {
    if constexpr (kDominant) term[0] = e[0];
    term[kFirst] = e[0] * e[1];
    term[kFirst + 1] = e[0] * e[2];
    term[kFirst + 2] = term[kFirst + 1] * e[1];
  }
  CSM_DEVICE static Acc factor(const Element& e, int k, int which) {
    const int number = k - kFirst;
    return which == 1 ? e[number == 1 ? 2 : 1] : number < 2 ? e[0] : e[0] * e[2];
  }

  struct Scale {
    DoubleWord dy, v;  // D = ⟨y, dy⟩, V = ⟨y, v⟩
    DoubleWord both;   // ⟨ẏ, dy⟩
    DoubleWord rest;   // V D − ⟨ẏ, dy⟩
    bool apart;        // whether an element is kept apart
  };
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext&) {
    const Mean dy = mean_of(row, 0), v = mean_of(row, 1);
    const bool apart = kDominant && row.picked[0] > Acc(0);
    DoubleWord both = drop_invalid_low(row.s[kFirst + 2]);
    if constexpr (kDominant) {
      if (apart) {  // Σ_j y_j (v_j − v_m) (dy_j − dy_m)
        const DoubleWord dy_m = as_double_word(dy.at), v_m = as_double_word(v.at);
        both = subtract(both, multiply(v_m, row.s[kFirst]));
        both = subtract(both, multiply(dy_m, row.s[kFirst + 1]));
        both = add(both, multiply(row.s[0], multiply(dy_m, v_m)));
      }
    }
    const DoubleWord product = multiply(dy.beyond, v.beyond);  // V D, if no element is kept apart
    both = drop_invalid_low(subtract(both, product));
    return {value_of(dy), value_of(v), both, subtract(product, both), apart};
  }
  // (v − V) (dy − D) − ⟨ẏ, dy⟩ and y times that are rounded once each.
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& change) {
    if (kHasUsual && !row.apart) return map_usual(e, row, change);
    const DoubleWord v = less_exactly(e[2], row.v), dy = less_exactly(e[1], row.dy);
    const Acc product = fused(v.hi, dy.hi, -row.both.hi);
    change[0] = e[0] * product;
    if constexpr (kMeanHasLow) {
      const Acc low = fused(v.lo, dy.hi + dy.lo, fused(v.hi, dy.lo, -row.both.lo));
      change[0] = fused(e[0], product, e[0] * low);
    }
  }

  // Where no element is kept apart, the differences need not be right relative to themselves: v (dy − D) − V dy, and
  // V D − ⟨ẏ, dy⟩ added to y times that. Each term is rounded three times at most, and the last one twice. Where both
  // are too small for normal numbers, their sum may not be.
  static constexpr bool kHasUsual = kDominant;
  CSM_DEVICE static bool are_usual(i64, int, const Scale& row) { return !row.apart; }
  CSM_DEVICE static void map_usual(const Element& e, const Scale& row, Values<1>& change) {
    const Acc y = e[0], dy = e[1], v = e[2];
    const Acc product = fused(v, dy - row.dy.hi, -(row.v.hi * dy));
    const Acc low = fused(v, -row.dy.lo, fused(dy, -row.v.lo, row.rest.lo));
    change[0] = fused(y, product, fused(y, row.rest.hi, y * low));
    if (kSingle && change[0] == Acc(0)) change[0] = y * (product + row.rest.hi);
  }
};

}  // namespace csm
