// Keys: unsigned integers in the order of the stored values, which the selection compares.
//
// A comparison of keys is exact. One of floats would not be: float32 comparisons take subnormals for zero (-ftz=true),
// and float64 cannot hold all 64-bit integers. All NaNs have one key, above all numbers; −0 and +0 have one key.
#pragma once

#include "numeric/vec.cuh"

namespace csm {

// The key of a float from its bits (sign and magnitude), of which 0 and NaN have one pattern each; and back.
template <class Bits>
constexpr Bits kSignOf = Bits(1) << (8 * sizeof(Bits) - 1);
template <class Bits>
CSM_DEVICE Bits key_of_bits(Bits bits) {
  return bits & kSignOf<Bits> ? ~bits : bits ^ kSignOf<Bits>;
}
template <class Bits>
CSM_DEVICE Bits bits_of_key(Bits key) {
  return key & kSignOf<Bits> ? key ^ kSignOf<Bits> : ~key;
}

// The keys of a stored type. This one is for integers and bool. kFree is the number of a key's low bits that tell
// nothing.
template <class T>
struct Order {
  using Key = typename NthType<(sizeof(T) > 4), u32, u64>::type;
  static constexpr int kFree = 0;
  static constexpr Key kFlip = T(-1) < T(0) ? Key(1) << (8 * sizeof(Key) - 1) : Key(0);
  CSM_DEVICE static Key key(T x) { return static_cast<Key>(x) ^ kFlip; }
  CSM_DEVICE static Acc number(Key key) { return widen(static_cast<T>(key ^ kFlip)); }
};
template <>
struct Order<float> {
  using Key = u32;
  static constexpr int kFree = 0;
  CSM_DEVICE static Key key(float x) {
    const u32 bits = number_bits(x);
    return bits ^ (static_cast<u32>(static_cast<int>(bits) >> 31) | kSignOf<u32>);
  }
  CSM_DEVICE static Acc number(Key key) { return static_cast<Acc>(bits_to_float(bits_of_key(key))); }
};
// The keys of two 16-bit floats, which lie in a word, in the same halves. The compiler would make each by itself.
template <class T>
CSM_DEVICE u32 keys_of_pair(u32 pair) {
  const u32 bits = kSameType<T, f16> ? half_number_bits(pair) : bfloat_number_bits(pair);
  return static_cast<u32>(computed_once(static_cast<int>(bits ^ (signs_of_halves(bits) | 0x80008000u))));
}
template <class T>
struct NarrowOrder {
  using Key = u32;
  static constexpr int kFree = 16;
  CSM_DEVICE static Key key(T x) { return keys_of_pair<T>(static_cast<u32>(x.bits) << kFree) & 0xffff0000u; }
  CSM_DEVICE static Acc number(Key key) { return widen(T{static_cast<u16>(bits_of_key(key) >> kFree)}); }
};
template <>
struct Order<f16> : NarrowOrder<f16> {};
template <>
struct Order<bf16> : NarrowOrder<bf16> {};
template <>
struct Order<double> {
  using Key = u64;
  static constexpr int kFree = 0;
  CSM_DEVICE static Key key(double x) {
    return key_of_bits<u64>(x == x ? x == 0.0 ? u64(0) : double_to_bits(x) : 0x7fffffffffffffffull);
  }
  CSM_DEVICE static Acc number(Key key) { return static_cast<Acc>(bits_to_double(bits_of_key(key))); }
};

using In = Type<0>;
// What is compared: the stored element, or the element with noise.
using Compared = NthType<has(feature::noisy), In, Acc>::type;
using Key = Order<Compared>::Key;

// The number that a key stands for.
CSM_DEVICE Acc value_of(Key key) { return Order<Compared>::number(key); }

}  // namespace csm
