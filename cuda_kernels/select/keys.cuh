// Keys: unsigned integers in the order of the stored values, which the selection compares.
//
// A comparison of keys is exact. One of floats would not be: float32 comparisons take subnormals for zero (-ftz=true),
// and float64 cannot hold all 64-bit integers. All NaNs have one key, above all numbers; −0 and +0 have one key.
#pragma once

#include "numeric/vec.cuh"

namespace csm {

// The key of a float, from its bits (sign and magnitude), and back; `infinity` is the bits of +∞.
template <class Bits>
CSM_DEVICE Bits key_of_bits(Bits bits, Bits infinity) {
  constexpr Bits kSign = Bits(1) << (8 * sizeof(Bits) - 1);
  const Bits size = bits & ~kSign;
  const Bits ordered = bits != size && size != 0 ? ~bits : size | kSign;
  return size > infinity ? ~Bits(0) : ordered;
}
template <class Bits>
CSM_DEVICE Bits bits_of_key(Bits key) {
  constexpr Bits kSign = Bits(1) << (8 * sizeof(Bits) - 1);
  return key & kSign ? key ^ kSign : ~key;
}

// The keys of a stored type. This one is for integers and bool.
template <class T>
struct Order {
  using Key = typename NthType<(sizeof(T) > 4), u32, u64>::type;
  static constexpr Key kFlip = T(-1) < T(0) ? Key(1) << (8 * sizeof(Key) - 1) : Key(0);
  CSM_DEVICE static Key key(T x) { return static_cast<Key>(x) ^ kFlip; }
  CSM_DEVICE static T stored(Key key) { return static_cast<T>(key ^ kFlip); }
};
// 16-bit floats are in the upper half of the key, so that their sign is where float32 has it.
template <class T, u32 Infinity>
struct OrderOf16Bits {
  using Key = u32;
  CSM_DEVICE static Key key(T x) { return key_of_bits<u32>(u32(x.bits) << 16, Infinity); }
  CSM_DEVICE static T stored(Key key) { return {static_cast<u16>(bits_of_key(key) >> 16)}; }
};
template <>
struct Order<f16> : OrderOf16Bits<f16, 0x7c000000u> {};
template <>
struct Order<bf16> : OrderOf16Bits<bf16, 0x7f800000u> {};
template <>
struct Order<float> {
  using Key = u32;
  CSM_DEVICE static Key key(float x) { return key_of_bits<u32>(float_to_bits(x), 0x7f800000u); }
  CSM_DEVICE static float stored(Key key) { return bits_to_float(bits_of_key(key)); }
};
template <>
struct Order<double> {
  using Key = u64;
  CSM_DEVICE static Key key(double x) { return key_of_bits<u64>(double_to_bits(x), 0x7ff0000000000000ull); }
  CSM_DEVICE static double stored(Key key) { return bits_to_double(bits_of_key(key)); }
};

using In = Type<0>;
// What is compared: the stored element, or the element with noise.
using Compared = NthType<has(feature::noisy), In, Acc>::type;
using Key = Order<Compared>::Key;

// The number that a key stands for.
CSM_DEVICE Acc value_of(Key key) { return widen(Order<Compared>::stored(key)); }

}  // namespace csm
