// softmax: y_i = exp(z_i − m) / Σ_j exp(z_j − m), where m = max_j z_j.
//
// The logits are z = x or, with the features scaled and biased, z = scale · x + bias (logits/logit.cuh).
// Summed over the row: exp(z_j).
#pragma once

#include "logits/softmax.cuh"

namespace csm {

struct Op : Softmax {};

}  // namespace csm
