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
    DoubleWord dy, v;  // ⟨y, dy⟩, ⟨y, v⟩
    DoubleWord both;   // ⟨ẏ, dy⟩
  };
  CSM_DEVICE static DoubleWord subtract(DoubleWord a, DoubleWord b) { return add(a, DoubleWord{-b.hi, -b.lo}); }
  CSM_DEVICE static Scale scale(DoubleWord, const Node& row, const RowContext&) {
    const Mean dy = mean_of(row, 0), v = mean_of(row, 1);
    DoubleWord both = drop_invalid_low(row.s[kFirst + 2]);
    if constexpr (kDominant) {
      if (row.picked[0] > Acc(0)) {  // Σ_j y_j (v_j − v_m) (dy_j − dy_m)
        const DoubleWord dy_m = as_double_word(dy.at), v_m = as_double_word(v.at);
        both = subtract(both, multiply(v_m, row.s[kFirst]));
        both = subtract(both, multiply(dy_m, row.s[kFirst + 1]));
        both = add(both, multiply(row.s[0], multiply(dy_m, v_m)));
      }
    }
    return {value_of(dy), value_of(v), drop_invalid_low(subtract(both, multiply(dy.beyond, v.beyond)))};
  }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& change) {
    const Acc product = fused(less_exactly(e[2], row.v), less_exactly(e[1], row.dy), -row.both.hi);
    change[0] = kCompensated ? fused(e[0], product, -(e[0] * row.both.lo)) : e[0] * product;
  }
};

}  // namespace csm
