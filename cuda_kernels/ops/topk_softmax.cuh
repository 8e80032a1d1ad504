// topk_softmax: the k largest y_i = exp(x_i − m) / s of a row, where m = max_j x_j, and their indices.
//
// s is Σ_j exp(x_j − m) over the row or, for a kernel that sums nothing over the row, over the k largest alone.
#pragma once

#include "reduce/operation.cuh"

namespace csm {

struct Op : OperationBase {
  static constexpr Neutral kNeutral[] = {Neutral::lowest};

  template <class In>
  CSM_DEVICE static In compared(In x, Place, const RowContext&) {
    return x;
  }
  CSM_DEVICE static Acc key(const Element& x, const RowContext&) { return x[0]; }
  CSM_DEVICE static Acc term(Acc x, const Reference& to) { return exponential(x, to); }
  CSM_DEVICE static void terms(const Element& x, const Reference& to, Place, const RowContext&, Values<kSums>& sum) {
    sum[0] = term(x[0], to);
  }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800  // to keep NaN apart takes more than pairs save
  static constexpr bool kPairs = false;
#else
  static constexpr bool kPairs = kSingle && !kFastExp && kRelative > 0 && kMaxVec % 2 == 0 && kItems % 2 == 0;
#endif
  CSM_DEVICE static Pair terms_of(Pair& e, const Reference& to, const RowContext&) { return exponentials(e, to); }

  // 1 / s, lifted. A row of −inf alone has s = 0, and its results are NaN, as in softmax.
  using Scale = DoubleWord;
  CSM_DEVICE static Scale scale(DoubleWord sum) { return lifted(reciprocal_of(sum)); }
  CSM_DEVICE static Acc value(Acc term, Scale scale) { return scaled_by_lifted(term, scale); }
};

}  // namespace csm
