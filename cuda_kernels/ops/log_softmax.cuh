// log_softmax: y_i = z_i − m − ln Σ_j exp(z_j − m), where m = max_j z_j.
//
// The logits are z = x or, with the features scaled and biased, z = scale · x + bias (logits/logit.cuh).
// Summed over the row: exp(z_j).
#pragma once

#include "logits/log_value.cuh"

namespace csm {

struct Op : LogSoftmax {
  static constexpr Neutral kNeutral[] = {Neutral::lowest};

  CSM_DEVICE static void terms(Element& e, const Reference& to, Place, const RowContext& context, Values<1>& term) {
    term[0] = chunk_exponential(e, to, context);
  }
  static constexpr bool kPairs = kPlainPairs, kPairResults = kPlainPairs, kPairsOfRows = kPlainPairs && !kOthersInLow;
  template <class References>
  CSM_DEVICE static Pair terms_of(Pair e, const References& to, const RowContext&) {
    return exponentials(e, to);
  }

  using Scale = LogValue;
  CSM_DEVICE static Scale scale(DoubleWord chunk_maximum, const Node& row, const RowContext& context) {
    LogValue found = log_value(chunk_maximum, row, context);
    if constexpr (kPairs && kWholeLog) {  // the chunk's shift has been subtracted from its elements
      const DoubleWord rest = two_difference(found.maximum.hi, reference_of(chunk_maximum).shift.hi);
      found.maximum = drop_invalid_low({rest.hi, rest.lo + found.maximum.lo});
    }
    return found;
  }
  struct PairScale {
    PairOfDoubleWords maximum, minus_log;

    CSM_DEVICE PairScale(const Scale& a, const Scale& b)
        : maximum(a.maximum, b.maximum), minus_log(a.minus_log, b.minus_log) {}
  };
  template <class Scales>
  CSM_DEVICE static Pair map_of(Pair e, const Scales& row) {
    const Pair rest = e - Pair(row.maximum.hi);
    if constexpr (kWholeLog) return rest - Pair(row.maximum.lo);
    else return rest + Pair(row.minus_log.hi);
  }
  static constexpr bool kMapsHidden = true;
  CSM_DEVICE static bool maps_hidden(const Scale& row) { return is_finite(row.maximum.hi + row.minus_log.hi); }
  CSM_DEVICE static void map(const Element& e, const Scale& row, Place, Values<1>& y) { y[0] = log_of(e, row); }
};

}  // namespace csm
