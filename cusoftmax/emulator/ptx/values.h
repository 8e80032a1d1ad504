// What a register holds, by the types of PTX: how its bits become a value and a value its bits.
//
// A register is 64 bits wide here. instructions.h names the types of each instruction, interpreter.cpp executes it.
#pragma once

#include "arithmetic.h"

namespace csm::ptx {

using s8 = signed char;
using s16 = short;
using s32 = int;
using s64 = long long;
using csm::u16;
using csm::u32;
using csm::u64;
using csm::u8;

// Types that differ from C++'s: float32 whose subnormals count as zero (.ftz), predicates, and 16-bit floats by their
// bits.
struct f32_ftz;
struct pred;
struct f16;
struct bf16;
using f32 = float;
using f64 = double;

constexpr u32 kNan32 = 0x7fffffffu;  // the only NaN that float32 arithmetic gives

inline bool is_nan(u32 bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }
inline u32 flushed(u32 bits) { return (bits & 0x7f800000u) == 0 ? bits & 0x80000000u : bits; }

// Integers narrower than 32 bits fill a register of 32 bits with their sign or with zeros.
template <class T>
struct Register {
  using type = T;
  static T value(u64 bits) { return static_cast<T>(bits); }
  static u64 bits(T value) {
    if constexpr (sizeof(T) == 8) return static_cast<u64>(value);
    else return static_cast<u32>(static_cast<s32>(value));
  }
};
template <>
struct Register<pred> {
  using type = bool;
  static bool value(u64 bits) { return bits != 0; }
  static u64 bits(bool value) { return value; }
};
template <>
struct Register<f32> {
  using type = float;
  static float value(u64 bits) { return same_bits<float>(static_cast<u32>(bits)); }
  static u64 bits(float value) {
    const u32 found = same_bits<u32>(value);
    return is_nan(found) ? kNan32 : found;
  }
};
template <>
struct Register<f32_ftz> {
  using type = float;
  static float value(u64 bits) { return same_bits<float>(flushed(static_cast<u32>(bits))); }
  static u64 bits(float value) { return flushed(static_cast<u32>(Register<f32>::bits(value))); }
};
template <>
struct Register<f64> {
  using type = double;
  static double value(u64 bits) { return same_bits<double>(bits); }
  static u64 bits(double value) { return same_bits<u64>(value); }
};
template <>
struct Register<f16> : Register<u16> {};
template <>
struct Register<bf16> : Register<u16> {};

// ---- integers ----

// The manual leaves division by zero open; the hardware gives all ones.
template <class T>
T quotient(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if (static_cast<T>(-1) < 0 && b == static_cast<T>(-1)) return static_cast<T>(-static_cast<u64>(a));
  return static_cast<T>(a / b);
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) return a;
  if (static_cast<T>(-1) < 0 && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}
// A shift beyond the width acts as a shift by the width.
template <class T>
T shifted_left(T a, u32 by) {
  return by >= 8 * sizeof(T) ? T(0) : static_cast<T>(static_cast<u64>(a) << by);
}
template <class T>
T shifted_right(T a, u32 by) {
  constexpr u32 most = 8 * sizeof(T) - 1;
  if (by > most) return a < 0 ? static_cast<T>(-1) : T(0);
  return static_cast<T>(a >> by);
}
inline s64 high_product(s64 a, s64 b) { return static_cast<s64>(static_cast<__int128>(a) * b >> 64); }
inline u64 high_product(u64 a, u64 b) { return static_cast<u64>(static_cast<unsigned __int128>(a) * b >> 64); }
// `width` bits of `a` put into `b` from bit `from` on.
template <class T>
T inserted(T a, T b, u32 from, u32 width) {
  from &= 0xff, width &= 0xff;
  constexpr u32 all = 8 * sizeof(T);
  if (width == 0 || from >= all) return b;
  const T ones = width >= all ? static_cast<T>(-1) : static_cast<T>((T(1) << width) - 1);
  return static_cast<T>((b & ~(ones << from)) | (a & ones) << from);
}
// Each of four digits of `choice` names a byte of b:a; its highest bit spreads the byte's sign.
inline u32 permuted(u32 a, u32 b, u32 choice) {
  const u64 bytes = static_cast<u64>(b) << 32 | a;
  u32 result = 0;
  for (int i = 0; i < 4; ++i) {
    const u32 digit = choice >> (4 * i) & 15;
    u32 byte = static_cast<u32>(bytes >> (8 * (digit & 7))) & 0xff;
    if (digit & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}
// Each half of a word by itself.
template <class Get>
u32 halves(u32 a, u32 b, u32 c, Get get) {
  const u32 low = get(u16(a), u16(b), u16(c)), high = get(u16(a >> 16), u16(b >> 16), u16(c >> 16));
  return high << 16 | low;
}
// float32 has twice the digits and two more: the second rounding changes nothing.
inline u16 half_sum(u16 a, u16 b) { return float_to_half(half_to_float(a) + half_to_float(b)); }
// The product is exact in double. The sum is rounded to odd, in double and then in float, and so right at last.
inline u16 bfloat_fused(u16 a, u16 b, u16 c) {
  const double product = double(bfloat_to_float(a)) * double(bfloat_to_float(b)), other = double(bfloat_to_float(c));
  double sum = product + other;
  const double part = sum - product, error = (product - (sum - part)) + (other - part);
  const u64 bits = same_bits<u64>(sum);
  if (error == error && error != 0 && bits % 2 == 0)
    sum = same_bits<double>((error > 0) == (sum > 0) ? bits + 1 : bits - 1);
  const float cut = double_to_float_toward_zero(sum);
  return float_to_bfloat(same_bits<float>(same_bits<u32>(cut) | (double(cut) != sum && sum == sum)));
}
// The upper or the lower half of high:low shifted by up to 32.
inline u32 funnel_left(u32 low, u32 high, u32 by) {
  return static_cast<u32>(((static_cast<u64>(high) << 32 | low) << by) >> 32);
}
inline u32 funnel_right(u32 low, u32 high, u32 by) {
  return static_cast<u32>((static_cast<u64>(high) << 32 | low) >> by);
}
inline s32 floored(s32 a) { return a < 0 ? 0 : a; }
inline u32 at_most(u32 by, u32 most) { return by < most ? by : most; }
inline u32 reversed(u32 a) {
  u32 result = 0;
  for (int i = 0; i < 32; ++i) result |= (a >> i & 1) << (31 - i);
  return result;
}

// ---- floats ----

template <class T>
T larger(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return __builtin_signbit(a) ? b : a;  // -0 is below +0
  return a > b ? a : b;
}
template <class T>
T smaller(T a, T b) {
  return -larger(-a, -b);
}
// With .NaN: NaN if either is.
template <class T>
T larger_or_nan(T a, T b) {
  return a != a || b != b ? a + b : larger(a, b);
}
template <class T>
T smaller_or_nan(T a, T b) {
  return a != a || b != b ? a + b : smaller(a, b);
}

// Rounds to a whole number, ties to even.
template <class T>
T whole(T a) {
  constexpr T big = sizeof(T) == 4 ? T(0x1p23) : T(0x1p52);
  const T size = __builtin_signbit(a) ? -a : a;
  if (!(size < big)) return a;
  const T rounded = (size + big) - big;  // in T: __builtin_fabs(a) would be a double
  return static_cast<T>(__builtin_copysign(rounded, a));
}
// Saturates. NaN becomes 0, or only the top bit set if either type has 64 bits.
template <class To, class From>
To saturated(From a) {
  constexpr bool is_signed = static_cast<To>(-1) < 0;
  constexpr int bits = 8 * sizeof(To) - is_signed;
  constexpr To most = static_cast<To>(~0ull >> (64 - bits));
  constexpr To least = static_cast<To>(is_signed ? static_cast<To>(-most - 1) : To(0));
  const double limit = same_bits<double>(static_cast<u64>(1023 + bits) << 52);
  if (a != a) return sizeof(To) == 8 || sizeof(From) == 8 ? static_cast<To>(1ull << (8 * sizeof(To) - 1)) : To(0);
  if (static_cast<double>(a) >= limit) return most;
  if (static_cast<double>(a) <= (is_signed ? -limit : 0.0)) return least;
  return static_cast<To>(a);
}
inline double floor_of(double a) { return __builtin_floor(a); }
inline float floor_of(float a) { return __builtin_floorf(a); }
inline double ceil_of(double a) { return __builtin_ceil(a); }
inline float ceil_of(float a) { return __builtin_ceilf(a); }
inline double chopped(double a) { return __builtin_trunc(a); }
inline float chopped(float a) { return __builtin_truncf(a); }

// double to float, toward -infinity and +infinity.
inline float rounded_down(double a) {
  const float near = static_cast<float>(a);
  if (!(near > a)) return near;
  const u32 bits = same_bits<u32>(near);
  if (near == 0) return same_bits<float>(0x80000001u);
  return same_bits<float>(near > 0 ? bits - 1 : bits + 1);
}
inline float rounded_up(double a) { return -rounded_down(-a); }

// ---- approximate instructions ----

// div.full: within 2.
inline float approximate_quotient(u64 seed, float a, float b) {
  const double right = static_cast<double>(a) / static_cast<double>(b);
  if (!(__builtin_fabs(right) < 0x1p127) || right == 0) return static_cast<float>(right);
  return off_by(seed, same_bits<u32>(a) ^ 31 * same_bits<u32>(b), right, 2);
}

}  // namespace csm::ptx
