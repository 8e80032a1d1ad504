// Random words that follow from a seed and a place alone: Philox4x32-10 (Salmon and others, SC 2011), a counter-based
// generator. There is no state, so it does not matter who asks, in what order, or how often.
#pragma once

#include "machine/config.cuh"

namespace csm {

struct RandomWords {
  u32 word[4];
};

// The four words of a counter; the key is the seed.
CSM_DEVICE RandomWords philox(u64 seed, u64 high, u64 low) {
  u32 c0 = static_cast<u32>(low), c1 = static_cast<u32>(low >> 32);
  u32 c2 = static_cast<u32>(high), c3 = static_cast<u32>(high >> 32);
  u32 k0 = static_cast<u32>(seed), k1 = static_cast<u32>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const u64 first = u64(0xd2511f53u) * c0, second = u64(0xcd9e8d57u) * c2;
    c0 = static_cast<u32>(second >> 32) ^ c1 ^ k0;
    c1 = static_cast<u32>(second);
    c2 = static_cast<u32>(first >> 32) ^ c3 ^ k1;
    c3 = static_cast<u32>(first);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

// Word `start + step` of a row, which has four for each counter, and with it the others of the counter. `step` is known
// to the compiler, as is often that `start` is a multiple of four: neighbours are then seen to be of one counter, which
// is worked on once.
struct RowWords {
  RandomWords of;
  int index;
  CSM_DEVICE RowWords(u64 seed, i64 row, i64 start, int step) {
    const int from = static_cast<int>(start & 3) + step;
    of = philox(seed, static_cast<u64>(row), (static_cast<u64>(start) >> 2) + static_cast<u64>(from >> 2));
    index = from & 3;
  }
  CSM_DEVICE u32 operator[](int i) const {
    const u32 low = i & 1 ? of.word[1] : of.word[0], high = i & 1 ? of.word[3] : of.word[2];
    return i & 2 ? high : low;
  }
};

}  // namespace csm
