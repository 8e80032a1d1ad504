// Stored values as unsigned integers in the same order.
//
// Selection compares these, and so exactly what is stored: float32 comparisons take subnormals for zero (-ftz=true),
// and float64 has no room for all 64-bit integers. All NaNs are alike and above all numbers; −0 and +0 are alike.
#pragma once

#include "numeric/vec.cuh"

namespace csm {

// The order of a float's bits, sign and magnitude; `infinity` is +inf.
template <class Bits>
CSM_DEVICE Bits order_of_float(Bits bits, Bits infinity) {
  constexpr Bits kSign = Bits(1) << (8 * sizeof(Bits) - 1);
  const Bits size = bits & ~kSign;
  const Bits ordered = bits != size && size != 0 ? ~bits : size | kSign;
  return size > infinity ? ~Bits(0) : ordered;
}
template <class Bits>
CSM_DEVICE Bits float_of_order(Bits key) {
  constexpr Bits kSign = Bits(1) << (8 * sizeof(Bits) - 1);
  return key & kSign ? key ^ kSign : ~key;
}

template <class T>
struct Order {  // of integers and bool
  using Key = typename Pick<(sizeof(T) > 4), u32, u64>::type;
  static constexpr Key kFlip = T(-1) < T(0) ? Key(1) << (8 * sizeof(Key) - 1) : Key(0);
  CSM_DEVICE static Key key(T x) { return static_cast<Key>(x) ^ kFlip; }
  CSM_DEVICE static T stored(Key key) { return static_cast<T>(key ^ kFlip); }
};
template <>
struct Order<f16> {  // in the upper half, where float32 has its sign
  using Key = u32;
  CSM_DEVICE static Key key(f16 x) { return order_of_float<u32>(u32(x.bits) << 16, 0x7c000000u); }
  CSM_DEVICE static f16 stored(Key key) { return {static_cast<u16>(float_of_order(key) >> 16)}; }
};
template <>
struct Order<bf16> {
  using Key = u32;
  CSM_DEVICE static Key key(bf16 x) { return order_of_float<u32>(u32(x.bits) << 16, 0x7f800000u); }
  CSM_DEVICE static bf16 stored(Key key) { return {static_cast<u16>(float_of_order(key) >> 16)}; }
};
template <>
struct Order<float> {
  using Key = u32;
  CSM_DEVICE static Key key(float x) { return order_of_float<u32>(float_to_bits(x), 0x7f800000u); }
  CSM_DEVICE static float stored(Key key) { return bits_to_float(float_of_order(key)); }
};
template <>
struct Order<double> {
  using Key = u64;
  CSM_DEVICE static Key key(double x) { return order_of_float<u64>(double_to_bits(x), 0x7ff0000000000000ull); }
  CSM_DEVICE static double stored(Key key) { return bits_to_double(float_of_order(key)); }
};

using In = Type<0>;
// What is compared of an element: itself, or what it becomes with noise.
using Compared = Pick<has(feature::noisy), In, Acc>::type;
using Key = Order<Compared>::Key;

CSM_DEVICE Acc value_of(Key key) { return widen(Order<Compared>::stored(key)); }

}  // namespace csm
