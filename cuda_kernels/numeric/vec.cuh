// Global loads and stores of kVec neighbouring elements, with conversion between the stored dtype and Acc. Used by
// every tile. load() and store() take the width from their array argument; it is kVec of machine/config.cuh by default.
#pragma once

#include "machine/config.cuh"

namespace csm {

template <class T, int kVec>
struct alignas(sizeof(T) * kVec) Vec {
  T item[kVec];
};

// Stored → Acc. For integers and bool, Acc is double.
CSM_DEVICE Acc widen(f16 x) { return half_to_float(x.bits); }
CSM_DEVICE Acc widen(bf16 x) { return bfloat_to_float(x.bits); }
template <class T>
CSM_DEVICE Acc widen(T x) {
  return static_cast<Acc>(x);
}

// The exact value of a stored integer, which Acc might round. An u64 above the largest i64 becomes that; a float gives
// 0.
template <class T>
CSM_DEVICE i64 as_integer(T x) {
  return static_cast<i64>(x);
}
CSM_DEVICE i64 as_integer(u64 x) { return static_cast<i64>(x >> 63 != 0 ? ~u64(0) >> 1 : x); }
CSM_DEVICE i64 as_integer(f16) { return 0; }
CSM_DEVICE i64 as_integer(bf16) { return 0; }
CSM_DEVICE i64 as_integer(float) { return 0; }
CSM_DEVICE i64 as_integer(double) { return 0; }

// Acc → stored, rounded once, to nearest even.
template <class T>
CSM_DEVICE T narrow(Acc x) {
  return static_cast<T>(x);
}
template <>
CSM_DEVICE f16 narrow<f16>(Acc x) {
  if constexpr (kSingle) return {float_to_half(x)};
  return {double_to_half(x)};
}
template <>
CSM_DEVICE bf16 narrow<bf16>(Acc x) {
  if constexpr (kSingle) return {float_to_bfloat(x)};
  // Via float, in two roundings. The first rounds to odd, so that the second cannot go wrong: truncate, and set the
  // last bit if the value was inexact.
  const float cut = double_to_float_toward_zero(x);
  const bool inexact = static_cast<double>(cut) != x && x == x;
  return {float_to_bfloat(bits_to_float(float_to_bits(cut) | (inexact ? 1u : 0u)))};
}

CSM_DEVICE Acc negative_infinity() {
  if constexpr (kSingle) return bits_to_float(0xff800000u);
  return bits_to_double(0xfff0000000000000ull);
}

// 32 bits as a word of memory that holds numbers of type Acc, and back.
CSM_DEVICE Acc from_bits(unsigned bits) {
  if constexpr (kSingle) return bits_to_float(bits);
  else return bits_to_double(bits);
}
CSM_DEVICE unsigned to_bits(float bits) { return float_to_bits(bits); }
CSM_DEVICE unsigned to_bits(double bits) { return static_cast<unsigned>(double_to_bits(bits)); }

CSM_DEVICE Acc not_a_number() { return negative_infinity() - negative_infinity(); }
CSM_DEVICE bool is_finite(Acc x) { return magnitude(x) < -negative_infinity(); }
// x, or 0 if that is NaN.
CSM_DEVICE Acc number_or_zero(Acc x) { return x == x ? x : Acc(0); }

// Two neighbouring elements of a 16-bit dtype, from the 32-bit word that they are loaded in.
CSM_DEVICE void widen_pair(unsigned word, f16, Acc& low, Acc& high) {
  float a, b;
  halves_to_floats(word, a, b);
  low = static_cast<Acc>(a);
  high = static_cast<Acc>(b);
}
CSM_DEVICE void widen_pair(unsigned word, bf16, Acc& low, Acc& high) {
  low = static_cast<Acc>(bits_to_float(word << 16));
  high = static_cast<Acc>(bits_to_float(word & 0xffff0000u));
}

// And back, where Acc is float.
CSM_DEVICE unsigned narrow_pair(Acc low, Acc high, f16) {
  return floats_to_halves(static_cast<float>(low), static_cast<float>(high));
}
CSM_DEVICE unsigned narrow_pair(Acc low, Acc high, bf16) {
  return floats_to_bfloats(static_cast<float>(low), static_cast<float>(high));
}

template <class T>
constexpr bool kSixteenBits = false;
template <>
constexpr bool kSixteenBits<f16> = true;
template <>
constexpr bool kSixteenBits<bf16> = true;

// The value of an element beyond the row's end: 0, or −∞.
enum class Neutral { zero, lowest };

// −∞ in the stored dtype, as the fallback of a predicated load. Integers have none: theirs is set after the load.
template <class T>
struct Lowest {
  static constexpr bool kStored = false;
};
template <>
struct Lowest<f16> {
  static constexpr bool kStored = true;
  static constexpr unsigned kPair = 0xfc00fc00u;
  CSM_DEVICE static f16 value() { return {0xfc00}; }
};
template <>
struct Lowest<bf16> {
  static constexpr bool kStored = true;
  static constexpr unsigned kPair = 0xff80ff80u;
  CSM_DEVICE static bf16 value() { return {0xff80}; }
};
template <>
struct Lowest<float> {
  static constexpr bool kStored = true;
  CSM_DEVICE static float value() { return bits_to_float(0xff800000u); }
};
template <>
struct Lowest<double> {
  static constexpr bool kStored = true;
  CSM_DEVICE static double value() { return bits_to_double(0xfff0000000000000ull); }
};

// Whether the stored dtype has the neutral value.
template <class T, Neutral Missing>
constexpr bool kHasNeutral = Missing == Neutral::zero || Lowest<T>::kStored;

template <int kVec>
struct alignas(kVec > 1 ? 2 * kVec : 4) Pairs {
  unsigned word[kVec > 1 ? kVec / 2 : 1];
};

// Which elements of an access are kept: all, or those whose byte of a word of four has its highest bit.
struct KeepsAll {};
struct KeepsMasked {
  const unsigned* word;

  CSM_DEVICE bool operator()(int i) const { return (word[i / 4] >> i % 4 * 8 & 0x80) != 0; }
  // A word of two elements of 16 bits, with another one's in place of those that are not kept.
  CSM_DEVICE unsigned of_pair(unsigned pair, unsigned other, int number) const {
    const unsigned kept = signs_of_bytes(word[number / 2], number % 2 == 0 ? 0x1100 : 0x3322);
    return (pair & kept) | (other & ~kept);
  }
};

// The words of one access to elements of 16 bits, or of neutral ones; and what they hold.
template <class T, Neutral Missing, int kVec>
CSM_DEVICE Pairs<kVec> neutral_words() {
  Pairs<kVec> words = {};
  if constexpr (Missing == Neutral::lowest) {
#pragma unroll
    for (int i = 0; i < kVec / 2; ++i) words.word[i] = Lowest<T>::kPair;
  }
  return words;
}
template <class T, int kVec>
CSM_DEVICE void widen_words(const Pairs<kVec>& words, Acc (&to)[kVec]) {
#pragma unroll
  for (int i = 0; i < kVec / 2; ++i) widen_pair(words.word[i], T{}, to[2 * i], to[2 * i + 1]);
}

// The elements of one access, which `get(otherwise)` makes if it is wanted; neutral ones if it is not, or not kept.
template <class T, Neutral Missing, int kVec, class Get, class Keeps>
CSM_DEVICE void load_by(Get get, bool wanted, Acc (&to)[kVec], Keeps keeps) {
  constexpr bool kMasks = !kSameType<Keeps, KeepsAll>;
  if constexpr (kSixteenBits<T> && kVec > 1) {
    Pairs<kVec> words = get(neutral_words<T, Missing, kVec>());
    if constexpr (kMasks) {
      constexpr unsigned kOther = [] {
        if constexpr (Missing == Neutral::lowest) return Lowest<T>::kPair;
        else return 0u;
      }();
#pragma unroll
      for (int i = 0; i < kVec / 2; ++i) words.word[i] = keeps.of_pair(words.word[i], kOther, i);
    }
    return widen_words<T>(words, to);
  }
  Vec<T, kVec> otherwise = {};
  if constexpr (Missing == Neutral::lowest && Lowest<T>::kStored) {
#pragma unroll
    for (int i = 0; i < kVec; ++i) otherwise.item[i] = Lowest<T>::value();
  }
  const Vec<T, kVec> got = get(otherwise);
#pragma unroll
  for (int i = 0; i < kVec; ++i) {
    to[i] = widen(got.item[i]);
    if constexpr (Missing == Neutral::lowest && !Lowest<T>::kStored) to[i] = wanted ? to[i] : negative_infinity();
    if constexpr (kMasks) to[i] = keeps(i) ? to[i] : Missing == Neutral::lowest ? negative_infinity() : Acc(0);
  }
}

// From global memory, or from a byte of shared memory on.
template <class T, Neutral Missing, int kVec, class Keeps = KeepsAll>
CSM_DEVICE void load(const char* address, bool wanted, Acc (&to)[kVec], bool once = false, Keeps keeps = {}) {
  const auto get = [&](auto otherwise) {
    if constexpr (kUncached) return global_load_uncached(address, wanted, otherwise, once);
    else return global_load(address, wanted, otherwise);
  };
  load_by<T, Missing>(get, wanted, to, keeps);
}
template <class T, Neutral Missing, int kVec>
CSM_DEVICE void load(int place, bool wanted, Acc (&to)[kVec]) {
  const auto get = [&](auto otherwise) {
    if (wanted) otherwise = Shared<decltype(otherwise)>(place).load(0);
    return otherwise;
  };
  load_by<T, Missing>(get, wanted, to, KeepsAll{});
}

template <class T, int kVec>
CSM_DEVICE Vec<T, kVec> narrow_all(const Acc (&from)[kVec]) {
  Vec<T, kVec> give;
#pragma unroll
  for (int i = 0; i < kVec; ++i) give.item[i] = narrow<T>(from[i]);
  return give;
}
template <class V>
CSM_DEVICE void store_all(char* address, bool wanted, const V& all) {
  if constexpr (kUncached) global_store_uncached(address, all, wanted);
  else global_store(address, all, wanted);
}
template <class T, int kVec>
CSM_DEVICE void store(char* address, bool wanted, const Acc (&from)[kVec]) {
  store_all(address, wanted, narrow_all<T>(from));
}
// Another item in place of one of a tile's, or of none.
struct Patch {
  unsigned mask;   // the bit of its number, or of that of its word of two 16-bit items
  unsigned bytes;  // for bytes_of(): the word's, and its own two
  Acc item;

  // Of that number; none if it is negative.
  template <class T, int kVec>
  CSM_DEVICE static Patch at(int number, Acc item) {
    constexpr int kOfWord = kSixteenBits<T> && kVec > 1 ? 2 : 1;
    const unsigned place = static_cast<unsigned>(number);
    return {number < 0 ? 0u : 1u << place / kOfWord, place % 2 == 0 ? 0x3254u : 0x5410u, item};
  }
};
// store() of a tile's items from the first-th on.
template <class T, int kVec>
CSM_DEVICE void store_patched(char* address, bool wanted, Acc (&from)[kVec], const Patch& patch, int first) {
  if constexpr (kSixteenBits<T> && kVec > 1) {  // by words: half as many comparisons
    Pairs<kVec> words;
    const unsigned put = narrow<T>(patch.item).bits;
#pragma unroll
    for (int i = 0; i < kVec / 2; ++i) {
      const unsigned word = __builtin_bit_cast(unsigned, Vec<T, 2>{narrow<T>(from[2 * i]), narrow<T>(from[2 * i + 1])});
      words.word[i] = patch.mask >> (first / 2 + i) & 1 ? bytes_of(word, put, patch.bytes) : word;
    }
    store_all(address, wanted, words);
  } else {
#pragma unroll
    for (int i = 0; i < kVec; ++i) from[i] = patch.mask >> (first + i) & 1 ? patch.item : from[i];
    store<T>(address, wanted, from);
  }
}
template <class T, int kVec>
CSM_DEVICE void store(int place, bool wanted, const Acc (&from)[kVec]) {
  if (wanted) Shared<Vec<T, kVec>>(place).store(0, narrow_all<T>(from));
}

}  // namespace csm
