// The CUDA built-ins for a kernel that is built for the CPU: the counterpart of cuda_kernels/machine/platform.cuh.
//
// For each function and class there, one of the same name and meaning here. Collectives and memory accesses call the
// runtime through `machine`, and pass the file and line they were called from, so that an error can name it.
// entry.cpp includes it before the kernel's source; arithmetic.h uses its conversions.
#pragma once

#include "machine.h"

#define CSM_DEVICE inline
#define CSM_OFFSET_OF(T, member) __builtin_offsetof(T, member)
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

#define CSM_WHERE int line = __builtin_LINE(), const char *file = __builtin_FILE()

namespace csm {

static Machine* machine;  // set by csm_attach of entry.cpp before the first thread runs

template <class To, class From>
CSM_DEVICE To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "types of the same size");
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

CSM_DEVICE int thread_index() { return machine->self->index; }
CSM_DEVICE unsigned reread_thread_index() { return static_cast<unsigned>(thread_index()); }
CSM_DEVICE int block_threads() { return machine->self->block_threads; }
CSM_DEVICE i64 block_index() { return machine->self->block_index; }
CSM_DEVICE i64 grid_blocks() { return machine->self->grid_blocks; }

template <class T>
CSM_DEVICE T exchange(Collective kind, T value, int lane, int width, int line, const char* file) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "one word or two");
  if constexpr (sizeof(T) == 4) {
    const u64 got = machine->exchange(kind, same_bits<u32>(value), lane, width, line, file);
    return same_bits<T>(static_cast<u32>(got));
  } else {
    return same_bits<T>(machine->exchange(kind, same_bits<u64>(value), lane, width, line, file));
  }
}
template <class T>
CSM_DEVICE T shuffle_xor(T value, int lane_mask, int width, CSM_WHERE) {
  return exchange(Collective::shuffle_xor, value, lane_mask, width, line, file);
}
template <class T>
CSM_DEVICE T shuffle(T value, int lane, int width, CSM_WHERE) {
  return exchange(Collective::shuffle, value, lane, width, line, file);
}
CSM_DEVICE u32 ballot(bool value, CSM_WHERE) {
  u32 bits = value ? 1u << machine->self->index % 32 : 0;
  for (int mask = 1; mask < 32; mask *= 2) bits |= shuffle_xor(bits, mask, 32, line, file);
  return bits;
}

CSM_DEVICE bool any_lane(bool predicate, CSM_WHERE) {
  int any = predicate;
  for (int mask = 1; mask < 32; mask *= 2) any |= shuffle_xor(any, mask, 32, line, file);
  return any;
}

CSM_DEVICE void block_barrier(CSM_WHERE) { machine->barrier(Collective::block_barrier, line, file); }
CSM_DEVICE int cluster_rank() { return machine->self->cluster_rank; }
CSM_DEVICE void cluster_arrive(CSM_WHERE) { machine->barrier(Collective::cluster_arrive, line, file); }
CSM_DEVICE void cluster_wait(CSM_WHERE) { machine->barrier(Collective::cluster_wait, line, file); }

template <class T>
class Shared {
 public:
  CSM_DEVICE explicit Shared(int offset) : offset_(offset) {}
  CSM_DEVICE T load(int i, CSM_WHERE) const {
    T value;
    __builtin_memcpy(&value, machine->shared_access(at(i), sizeof(T), Touch::read, -1, line, file), sizeof(T));
    return value;
  }
  CSM_DEVICE void store(int i, T value, CSM_WHERE) const {
    __builtin_memcpy(machine->shared_access(at(i), sizeof(T), Touch::write, -1, line, file), &value, sizeof(T));
  }
  CSM_DEVICE void store_remote(int i, T value, int rank, CSM_WHERE) const {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "one word or two");
    // The runtime takes a negative rank to mean this block: pass one that no cluster has.
    const int target = rank < 0 ? 0x7fffffff : rank;
    __builtin_memcpy(machine->shared_access(at(i), sizeof(T), Touch::write, target, line, file), &value, sizeof(T));
  }

 private:
  CSM_DEVICE i64 at(int i) const { return offset_ + static_cast<i64>(i) * static_cast<i64>(sizeof(T)); }
  int offset_;
};

CSM_DEVICE unsigned add_to_shared(int offset, unsigned value, CSM_WHERE) {
  auto* const word = static_cast<u32*>(machine->shared_access(offset, sizeof(u32), Touch::add, -1, line, file));
  const u32 before = *word;
  *word = before + value;
  return before;
}

template <class V>
CSM_DEVICE V global_load(const void* address, bool wanted, V otherwise, CSM_WHERE) {
  static_assert(sizeof(V) <= 16 && (sizeof(V) & (sizeof(V) - 1)) == 0, "one instruction");
  machine->global_access(address, sizeof(V), Touch::read, wanted, line, file);
  if (wanted) __builtin_memcpy(&otherwise, address, sizeof(V));
  return otherwise;
}
template <class V>
CSM_DEVICE void global_store(void* address, V value, bool wanted, CSM_WHERE) {
  static_assert(sizeof(V) <= 16 && (sizeof(V) & (sizeof(V) - 1)) == 0, "one instruction");
  machine->global_access(address, sizeof(V), Touch::write, wanted, line, file);
  if (wanted) __builtin_memcpy(address, &value, sizeof(V));
}

template <class V>
CSM_DEVICE V global_load_uncached(const void* address, bool wanted, V otherwise, bool, CSM_WHERE) {
  return global_load(address, wanted, otherwise, line, file);
}
template <class V>
CSM_DEVICE void global_store_uncached(void* address, V value, bool wanted, CSM_WHERE) {
  global_store(address, value, wanted, line, file);
}
CSM_DEVICE char* common_base(char* pointer) { return pointer; }

CSM_DEVICE void start_copy(int to, const void* from, bool wanted, CSM_WHERE) {
  machine->begin_copy(to, from, 16, wanted, line, file);
}
CSM_DEVICE void finish_copies(CSM_WHERE) { machine->complete_copies(line, file); }

CSM_DEVICE void publish_to_bulk_copies() { machine->publish(); }
CSM_DEVICE void begin_bulk_reads(int barrier, unsigned bytes, CSM_WHERE) {
  machine->bulk_barrier(BulkBarrier::init, barrier, 0, line, file);
  machine->bulk_barrier(BulkBarrier::expect, barrier, bytes, line, file);
}
CSM_DEVICE void start_bulk_read(int to, const void* from, unsigned bytes, int barrier, CSM_WHERE) {
  machine->begin_bulk(to, const_cast<void*>(from), bytes, Touch::read, barrier, line, file);
}
CSM_DEVICE void finish_bulk_reads(int barrier, CSM_WHERE) {
  machine->bulk_barrier(BulkBarrier::wait, barrier, 0, line, file);
  machine->bulk_barrier(BulkBarrier::inval, barrier, 0, line, file);
}
CSM_DEVICE void start_bulk_write(void* to, int from, unsigned bytes, CSM_WHERE) {
  machine->begin_bulk(from, to, bytes, Touch::write, -1, line, file);
}
CSM_DEVICE void finish_bulk_writes(CSM_WHERE) { machine->complete_bulk_writes(line, file); }

CSM_DEVICE int count_bits(u32 bits) { return __builtin_popcount(bits); }
CSM_DEVICE int leading_zeros(u32 bits) { return bits == 0 ? 32 : __builtin_clz(bits); }
CSM_DEVICE int lowest_bit(u32 bits) { return __builtin_ffs(static_cast<int>(bits)) - 1; }
CSM_DEVICE float bits_to_float(u32 bits) { return same_bits<float>(bits); }
template <class T>
CSM_DEVICE T computed_once(T value) {
  return value;
}
CSM_DEVICE float computed_anew(float value) { return value; }
CSM_DEVICE double computed_anew(double value) { return value; }
CSM_DEVICE i64 computed_in_place(i64 value) { return value; }
CSM_DEVICE int computed_in_place(int value) { return value; }
CSM_DEVICE u32 float_to_bits(float value) { return same_bits<u32>(value); }
CSM_DEVICE u32 number_bits(float value) {
  const u32 bits = float_to_bits(value);
  return value != value ? 0x7fffffffu : bits == 0x80000000u ? 0u : bits;
}
// Both halves of a word, made by get(one half).
template <class Get>
CSM_DEVICE u32 each_half(u32 pair, Get get) {
  return get(pair & 0xffffu) | get(pair >> 16) << 16;
}
template <u32 kInfinity>
CSM_DEVICE u32 halves_number_bits(u32 pair) {
  return each_half(pair, [](u32 half) { return (half & 0x7fffu) > kInfinity ? 0x7fffu : half == 0x8000u ? 0u : half; });
}
CSM_DEVICE u32 half_number_bits(u32 pair) { return halves_number_bits<0x7c00>(pair); }
CSM_DEVICE u32 bfloat_number_bits(u32 pair) { return halves_number_bits<0x7f80>(pair); }
CSM_DEVICE u32 signs_of_halves(u32 pair) {
  return each_half(pair, [](u32 half) { return half >> 15 ? 0xffffu : 0u; });
}
CSM_DEVICE double bits_to_double(u64 bits) { return same_bits<double>(bits); }
CSM_DEVICE u64 double_to_bits(double value) { return same_bits<u64>(value); }

CSM_DEVICE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
CSM_DEVICE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
CSM_DEVICE float reciprocal(float a) { return 1.0f / a; }
CSM_DEVICE double reciprocal(double a) { return 1.0 / a; }
CSM_DEVICE float minimum(float a, float b) { return b < a ? b : a; }
CSM_DEVICE double minimum(double a, double b) { return b < a ? b : a; }
CSM_DEVICE float maximum(float a, float b) { return b > a ? b : a; }
CSM_DEVICE double maximum(double a, double b) { return b > a ? b : a; }
CSM_DEVICE float larger_positive(float a, float b) {
  return static_cast<int>(float_to_bits(a)) < static_cast<int>(float_to_bits(b)) ? b : a;
}
CSM_DEVICE double larger_positive(double a, double b) { return maximum(a, b); }
CSM_DEVICE float magnitude(float a) { return __builtin_fabsf(a); }
CSM_DEVICE double magnitude(double a) { return __builtin_fabs(a); }
CSM_DEVICE u32 bytes_of(u32 a, u32 b, u32 which) {
  const u64 both = static_cast<u64>(b) << 32 | a;
  u32 result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<u32>(both >> (which >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
}
CSM_DEVICE u32 signs_of_bytes(u32 word, u32 which) {
  u32 result = 0;
  for (int i = 0; i < 4; ++i) result |= (word >> ((which >> 4 * i & 3) * 8 + 7) & 1) * 0xffu << 8 * i;
  return result;
}
CSM_DEVICE u32 shifted_out(u32 bits, int by) { return by >= 32 ? 0 : bits << (by < 0 ? 0 : by); }
CSM_DEVICE u64 wide_product(u32 a, u32 b) { return static_cast<u64>(a) * b; }
CSM_DEVICE bool unlikely(bool condition) { return condition; }
template <class T>
CSM_DEVICE T at_least(T a, T least) {
  return a < least ? least : a;
}
template <class T>
CSM_DEVICE T maximum_or_nan(T a, T b) {
  return a >= b || a != a ? a : b;
}
CSM_DEVICE float towards_zero(float a) { return __builtin_truncf(a); }
CSM_DEVICE double towards_zero(double a) { return __builtin_trunc(a); }
template <class T>
CSM_DEVICE void count_or_add(T term, T one, T& ones, T& others) {
  (term == one ? ones : others) += term == one ? T(1) : term;
}
CSM_DEVICE float exp2_approx(float a) { return machine->exp2_approx(a); }
CSM_DEVICE float log2_approx(float a) { return machine->log2_approx(magnitude(a)); }
CSM_DEVICE float reciprocal_approx(float a) { return machine->reciprocal_approx(a); }
CSM_DEVICE double reciprocal_approx(double a) { return 1.0 / a; }

// Conversions work on the bits: float32 arithmetic would flush subnormals, which the device's conversions do not.
// Rounding adds just under half of the last place that is kept, and the carry into the exponent is then right by
// itself.
CSM_DEVICE float half_to_float(u16 bits) {
  const u32 sign = static_cast<u32>(bits & 0x8000u) << 16;
  const u32 exponent = (bits >> 10) & 31u, mantissa = bits & 1023u;
  if (exponent == 31) return bits_to_float(sign | (mantissa ? 0x7fc00000u : 0x7f800000u) | mantissa << 13);
  if (exponent != 0) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
  if (mantissa == 0) return bits_to_float(sign);
  const int shift = __builtin_clz(mantissa) - 21;  // brings the leading bit to bit 10
  return bits_to_float(sign | static_cast<u32>(113 - shift) << 23 | ((mantissa << shift) & 1023u) << 13);
}

// `bits` without its low `drop` bits, rounded to nearest, ties to even.
CSM_DEVICE u64 rounded_shift(u64 bits, int drop) {
  if (drop > 62) return 0;
  const u64 half = 1ull << (drop - 1);
  return (bits + half - 1 + ((bits >> drop) & 1u)) >> drop;
}
// The bits of a float64 as those of a float16.
CSM_DEVICE u16 double_bits_to_half(u64 bits) {
  const u32 sign = static_cast<u32>(bits >> 48) & 0x8000u;
  const u64 size = bits & 0x7fffffffffffffffull;
  if (size > 0x7ff0000000000000ull) return 0x7fff;
  const int exponent = static_cast<int>(size >> 52) - 1023;
  if (exponent >= 16) return static_cast<u16>(sign | 0x7c00u);
  const u64 mantissa = size & 0xfffffffffffffull;
  if (exponent >= -14) {
    return static_cast<u16>(sign | rounded_shift(static_cast<u64>(exponent + 15) << 52 | mantissa, 42));
  }
  if (exponent < -25) return static_cast<u16>(sign);
  return static_cast<u16>(sign | rounded_shift(1ull << 52 | mantissa, 42 + (-14 - exponent)));
}
CSM_DEVICE u16 double_to_half(double value) { return double_bits_to_half(same_bits<u64>(value)); }
CSM_DEVICE void halves_to_floats(u32 word, float& low, float& high) {
  low = half_to_float(static_cast<u16>(word));
  high = half_to_float(static_cast<u16>(word >> 16));
}
CSM_DEVICE u16 float_to_half(float value) {
  const u32 bits = float_to_bits(value);
  const u32 sign = bits >> 16 & 0x8000u;
  const u32 size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) return 0x7fff;
  if (size >= 0x47800000u) return static_cast<u16>(sign | 0x7c00u);
  if (size >= 0x38800000u) {  // a normal float16: 2^-14 or more
    const u32 shifted = size - (112u << 23);
    return static_cast<u16>(sign | (shifted + 0xfffu + ((shifted >> 13) & 1u)) >> 13);
  }
  const int exponent = static_cast<int>(size >> 23) - 127;
  if (exponent < -25) return static_cast<u16>(sign);
  return static_cast<u16>(sign | rounded_shift(0x800000u | (size & 0x7fffffu), 13 + (-14 - exponent)));
}
CSM_DEVICE float bfloat_to_float(u16 bits) { return bits_to_float(static_cast<u32>(bits) << 16); }
CSM_DEVICE u16 float_to_bfloat(float value) {
  const u32 bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<u16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
CSM_DEVICE u32 floats_to_halves(float low, float high) { return float_to_half(low) | u32(float_to_half(high)) << 16; }
CSM_DEVICE u32 floats_to_bfloats(float low, float high) {
  return float_to_bfloat(low) | u32(float_to_bfloat(high)) << 16;
}
CSM_DEVICE float double_to_float_toward_zero(double value) {
  const u64 bits = same_bits<u64>(value);
  const u32 sign = static_cast<u32>(bits >> 32) & 0x80000000u;
  const u64 size = bits & 0x7fffffffffffffffull;
  if (size > 0x7ff0000000000000ull) return bits_to_float(0x7fffffffu);
  if (size == 0x7ff0000000000000ull) return bits_to_float(sign | 0x7f800000u);
  const int exponent = static_cast<int>(size >> 52) - 1023;
  if (exponent > 127) return bits_to_float(sign | 0x7f7fffffu);
  const u32 mantissa = static_cast<u32>((size & 0xfffffffffffffull) >> 29);
  if (exponent >= -126) return bits_to_float(sign | static_cast<u32>(exponent + 127) << 23 | mantissa);
  if (exponent < -149) return bits_to_float(sign);
  return bits_to_float(sign | (0x800000u | mantissa) >> (-126 - exponent));
}

}  // namespace csm
