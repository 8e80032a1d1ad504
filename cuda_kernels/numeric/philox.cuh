// Random words by Philox4x32-10 (Salmon and others, SC 2011), for Gumbel noise. The generator is counter-based: a word
// is a function of the seed, the row and the position in it. There is no state, so any thread may compute any word, in
// any order.
#pragma once

#include "machine/config.cuh"

namespace csm {

struct RandomWords {
  u32 word[4];
};

// The four words of a counter. The host makes the keys of all rounds from the seed: options that follow one another,
// which instructions read where the arguments of the launch are.
constexpr int kRounds = 10;
CSM_DEVICE RandomWords philox(const i64* keys, u64 high, u64 low) {
  u32 c0 = static_cast<u32>(low), c1 = static_cast<u32>(low >> 32);
  u32 c2 = static_cast<u32>(high), c3 = static_cast<u32>(high >> 32);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const u64 key = static_cast<u64>(keys[round]);
    const u64 first = wide_product(0xd2511f53u, c0), second = wide_product(0xcd9e8d57u, c2);
    c0 = static_cast<u32>(second >> 32) ^ c1 ^ static_cast<u32>(key);
    c1 = static_cast<u32>(second);
    c2 = static_cast<u32>(first >> 32) ^ c3 ^ static_cast<u32>(key >> 32);
    c3 = static_cast<u32>(first);
  }
  return {{c0, c1, c2, c3}};
}

// Word `start + step` of a row, and the other three of the same counter: word i of a row is of counter i / 4. `step` is
// a compile-time constant after unrolling, and the compiler often knows that `start` is a multiple of four. It then
// sees that neighbouring elements share a counter, and computes its four words once.
struct RowWords {
  RandomWords of;
  int index;  // of the word that was asked for
  RowWords() = default;
  CSM_DEVICE RowWords(const i64* keys, i64 row, i64 start, int step) {
    const int from = static_cast<int>(start & 3) + step;
    of = philox(keys, static_cast<u64>(row), (static_cast<u64>(start) >> 2) + static_cast<u64>(from >> 2));
    index = from & 3;
  }
  CSM_DEVICE u32 operator[](int i) const {
    const u32 low = i & 1 ? of.word[1] : of.word[0], high = i & 1 ? of.word[3] : of.word[2];
    return i & 2 ? high : low;
  }
};

}  // namespace csm
