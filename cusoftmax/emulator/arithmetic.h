// Float arithmetic as the device does it: approximate instructions and flushed subnormals.
//
// An approximate instruction returns the right value times an error, drawn from the launch's seed and the input, of up
// to what the PTX manual allows. Results that are right here are then right on any chip that keeps to the manual.
// runtime.cpp sets these up for a launch.
#pragma once

#include "cuda_host.h"

namespace csm {

// A hash of 64 bits.
inline u64 scramble(u64 x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ x >> 31;
}

// A number in [-1, 1]: half of the time -1 or 1, since the ends are what tests a bound.
inline double drawn_error(u64 seed, u64 bits) {
  const u64 drawn = scramble(bits + (seed + 1) * 0x9e3779b97f4a7c15ull);
  if (drawn & 1) return drawn & 2 ? 1.0 : -1.0;
  return static_cast<double>(static_cast<i64>(drawn) >> 11) * 0x1p-52;
}

// ex2.approx.ftz.f32: the relative error is at most 2^-22, of which rounding to float32 takes up to 2^-24.
inline float perturbed_exp2(u64 seed, float a) {
  const u32 bits = float_to_bits(a);
  const u32 size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return bits_to_float(0x7fffffffu);
  const bool negative = bits >> 31;
  if (size >= 0x43180000u) {  // |a| >= 152, infinity among them
    return negative ? 0.0f : bits_to_float(0x7f800000u);
  }
  if (size < 0x00800000u) return 1.0f;  // exactly, as the manual's table has it for zeros and subnormals
  const double whole = __builtin_floor(a + 0.5);
  const double x = (a - whole) * 0.6931471805599453;  // |x| < 0.35
  // Taylor's series up to x^9; the remainder is below 1e-11.
  double power = 1.0 / 362880;
  power = power * x + 1.0 / 40320;
  power = power * x + 1.0 / 5040;
  power = power * x + 1.0 / 720;
  power = power * x + 1.0 / 120;
  power = power * x + 1.0 / 24;
  power = power * x + 1.0 / 6;
  power = power * x + 0.5;
  power = power * x + 1.0;
  power = power * x + 1.0;
  constexpr double kReach = 0x1p-22 - 0x1p-24 - 0x1p-30;
  power *= 1.0 + kReach * drawn_error(seed, bits);
  const double result = power * same_bits<double>(static_cast<u64>(static_cast<i64>(whole) + 1023) << 52);
  if (result < 0x1p-126) return 0.0f;
  return static_cast<float>(result);
}

// A right value, off by up to `reach` units in the last place of the float32 next to it; drawn from the seed and the
// input.
inline float off_by(u64 seed, u32 input, double right, double reach) {
  int exponent;
  __builtin_frexp(right, &exponent);
  const double unit = __builtin_ldexp(1.0, exponent > -125 ? exponent - 24 : -149);
  // Rounding takes half a unit, and beyond the next power of two a whole one.
  const float off = static_cast<float>(right + (reach - 0.5) * unit * drawn_error(seed, input));
  return __builtin_fabs(off - right) <= reach * unit ? off : static_cast<float>(right);
}

// rcp.approx: within 1 unit in the last place.
inline float approximate_reciprocal(u64 seed, float a) {
  const double right = 1.0 / static_cast<double>(a);
  if (!(__builtin_fabs(right) < 0x1p128) || right == 0) return static_cast<float>(right);
  return off_by(seed, same_bits<u32>(a), right, 1);
}

// lg2.approx: within 2^-22 absolutely for 1/2 < a < 2, relatively elsewhere.
inline float approximate_log2(u64 seed, float a) {
  const double right = __builtin_log2(static_cast<double>(a));
  const u32 bits = same_bits<u32>(a);
  if (!(a > 0) || bits == 0x7f800000u) return static_cast<float>(right);
  const double reach = 0x1p-22 - 0x1p-24 - 0x1p-30;  // rounding takes up to 2^-24
  return static_cast<float>(right + reach * (a > 0.5f && a < 2 ? 1.0 : right) * drawn_error(seed, bits));
}

// While it lives, float32 subnormals are flushed to zero if `wanted`, as -ftz=true does on the device. Its end restores
// the processor's old state.
class FlushSubnormals {
 public:
  explicit FlushSubnormals(bool wanted) {
#if defined(__x86_64__)
    was_ = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(wanted ? was_ | 0x8040u : was_ & ~0x8040u);
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(was_));
    set(wanted ? was_ | 1ull << 24 : was_ & ~(1ull << 24));
#else
    (void)wanted;
#endif
  }
  ~FlushSubnormals() {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(was_);
#elif defined(__aarch64__)
    set(was_);
#endif
  }

 private:
#if defined(__x86_64__)
  unsigned was_;
#elif defined(__aarch64__)
  static void set(unsigned long long state) { asm volatile("msr fpcr, %0" ::"r"(state)); }
  unsigned long long was_;
#endif
};

}  // namespace csm
