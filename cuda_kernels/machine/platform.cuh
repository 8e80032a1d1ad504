// What the hardware offers: thread indices, memory accesses, collectives, approximate instructions. Everything includes
// it.
//
// This is the only file that contains PTX, accesses shared memory, or knows about the emulator. All other files call
// the functions below, so that the same sources run on a GPU (NVRTC) and on a CPU (any C++17 compiler with
// CSM_EMULATOR: the functions are then those of cusoftmax/emulator/cuda_host.h).
//
// The rules for all other files: every thread of a block reaches every collective; shuffles involve all 32 lanes and
// name their width; global accesses that only some lanes need are predicated, so that the lanes do not diverge.
#pragma once

#ifdef CSM_EMULATOR
#include "cuda_host.h"
#else

#define CSM_DEVICE __device__ __forceinline__
// Bytes before a member. NVRTC 12.8 has no __builtin_offsetof.
#define CSM_OFFSET_OF(T, member) __INTADDR__(&((T*)0)->member)

namespace csm {

using i64 = long long;

// Thread and block indices. Grids and blocks are one-dimensional.
CSM_DEVICE int thread_index() {
  const int index = threadIdx.x;
  __builtin_assume(index >= 0);
  return index;
}
// The thread's index, read again: what is computed from it cannot be kept in registers from earlier on. Where registers
// are short the compiler spills such values (NVRTC 12.8 to 13.0: two kernels in clusters of 8). Unsigned, since the
// compiler does not know its range.
CSM_DEVICE unsigned reread_thread_index() {
  unsigned index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}
CSM_DEVICE int block_threads() {
  const int threads = blockDim.x;
  __builtin_assume(threads > 0);
  return threads;
}
CSM_DEVICE i64 block_index() { return blockIdx.x; }
CSM_DEVICE i64 grid_blocks() { return gridDim.x; }

// Collectives of a warp. `width` splits the warp into independent groups of lanes.
template <class T>
CSM_DEVICE T shuffle_xor(T value, int lane_mask, int width) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask, width);
}
template <class T>
CSM_DEVICE T shuffle(T value, int lane, int width) {
  return __shfl_sync(0xffffffffu, value, lane, width);
}
// A bit for each lane, set where `value` is true.
CSM_DEVICE unsigned ballot(bool value) { return __ballot_sync(0xffffffffu, value); }

// True if `value` holds in any lane of the warp.
CSM_DEVICE bool any_lane(bool value) { return __any_sync(0xffffffffu, value); }

// Collectives of a block and of a cluster. The cluster barrier has two halves, with other work between them: arrive
// releases what this thread wrote, wait acquires what the others wrote.
CSM_DEVICE void block_barrier() { __syncthreads(); }
// GPUs below sm_90 have no clusters, and the planner uses none there.
CSM_DEVICE int cluster_rank() {
  unsigned rank = 0;
#if __CUDA_ARCH__ >= 900
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}
CSM_DEVICE void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
CSM_DEVICE void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Dynamic shared memory.
extern __shared__ __align__(16) unsigned char shared_bytes[];
CSM_DEVICE unsigned shared_address(int offset) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared_bytes)) + offset;
}

// An array of T that starts `offset` bytes into it.
template <class T>
class Shared {
 public:
  CSM_DEVICE explicit Shared(int offset) : base_(reinterpret_cast<T*>(shared_bytes + offset)) {}
  CSM_DEVICE T load(int i) const { return base_[i]; }
  CSM_DEVICE void store(int i, T value) const { base_[i] = value; }
  // Stores to the same array in another block of the cluster.
  CSM_DEVICE void store_remote(int i, T value, int rank) const {
#if __CUDA_ARCH__ >= 900
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "4 or 8 bytes");
    unsigned local = static_cast<unsigned>(__cvta_generic_to_shared(base_)), remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
    remote += i * static_cast<unsigned>(sizeof(T));  // places of one array have one base
    if constexpr (sizeof(T) == 4) {
      asm volatile("st.shared::cluster.b32 [%0], %1;" ::"r"(remote), "r"(__builtin_bit_cast(unsigned, value))
                   : "memory");
    } else {
      asm volatile("st.shared::cluster.b64 [%0], %1;" ::"r"(remote), "l"(__builtin_bit_cast(unsigned long long, value))
                   : "memory");
    }
#endif
  }

 private:
  T* base_;
};

// Adds to a word of dynamic shared memory, and returns what it was before. Several threads may add to one word with no
// barrier between: in which order is not known.
CSM_DEVICE unsigned add_to_shared(int offset, unsigned value) {
  unsigned before;
  asm volatile("atom.shared.add.u32 %0, [%1], %2;" : "=r"(before) : "r"(shared_address(offset)), "r"(value) : "memory");
  return before;
}

// Predicated global accesses. V is a trivial type of 1, 2, 4, 8 or 16 bytes, aligned to its size: one instruction.
// The loads are not ld.global.nc, since an output may be the input.
template <class V>
CSM_DEVICE V global_load(const void* address, bool wanted, V otherwise) {
  if (wanted) otherwise = *static_cast<const V*>(address);
  return otherwise;
}
template <class V>
CSM_DEVICE void global_store(void* address, V value, bool wanted) {
  if (wanted) *static_cast<V*>(address) = value;
}

struct Words {
  unsigned word[4];
};
// The same for elements that the level 1 cache cannot keep until they are needed again: accesses of 16 bytes leave it
// alone, and what they store is the first that the level 2 cache gives up. Narrower ones, several of which touch a
// sector, are as above. What is loaded for the only time (`once`), in 4 bytes at least, it gives up first too.
template <class V>
CSM_DEVICE V global_load_uncached(const void* address, bool wanted, V otherwise, bool once) {
  if constexpr (sizeof(V) == 16) {
    auto words = __builtin_bit_cast(Words, otherwise);
    if (wanted && once) {
      asm volatile("ld.global.cs.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(words.word[0]), "=r"(words.word[1]), "=r"(words.word[2]), "=r"(words.word[3])
                   : "l"(address));
    } else if (wanted) {
      asm volatile("ld.global.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(words.word[0]), "=r"(words.word[1]), "=r"(words.word[2]), "=r"(words.word[3])
                   : "l"(address));
    }
    return __builtin_bit_cast(V, words);
  } else if constexpr (sizeof(V) == 8) {
    auto word = __builtin_bit_cast(unsigned long long, otherwise);
    if (wanted && once) asm volatile("ld.global.cs.b64 %0, [%1];" : "=l"(word) : "l"(address));
    return global_load(address, wanted && !once, __builtin_bit_cast(V, word));
  } else if constexpr (sizeof(V) == 4) {
    auto word = __builtin_bit_cast(unsigned, otherwise);
    if (wanted && once) asm volatile("ld.global.cs.b32 %0, [%1];" : "=r"(word) : "l"(address));
    return global_load(address, wanted && !once, __builtin_bit_cast(V, word));
  } else {
    return global_load(address, wanted, otherwise);
  }
}
template <class V>
CSM_DEVICE void global_store_uncached(void* address, V value, bool wanted) {
  if constexpr (sizeof(V) == 16) {
    const auto words = __builtin_bit_cast(Words, value);
    if (wanted) {
      asm volatile("st.global.cs.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(words.word[0]), "r"(words.word[1]),
                   "r"(words.word[2]), "r"(words.word[3])
                   : "memory");
    }
  } else {
    global_store(address, value, wanted);
  }
}

// A pointer from which the compiler computes those at constant distances, as it does for the other accesses: it would
// compute the address of each of the above from the array's start. That it points to global memory stays known.
CSM_DEVICE char* common_base(char* pointer) {
  size_t address = __cvta_generic_to_global(pointer);
  asm("" : "+l"(address));
  return static_cast<char*>(__cvta_global_to_generic(address));
}

// Copies 16 bytes from global memory to a byte of dynamic shared memory, both aligned to 16, if `wanted`. The bytes are
// there for this thread once finish_copies() returns, for others after a barrier besides.
CSM_DEVICE void start_copy(int to, const void* from, bool wanted) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %2, 0; @p cp.async.cg.shared.global [%0], [%1], 16; }" ::"r"(shared_address(to)),
      "l"(from), "r"(static_cast<int>(wanted)));
#else
  if (wanted) *reinterpret_cast<uint4*>(shared_bytes + to) = *static_cast<const uint4*>(from);
#endif
}
CSM_DEVICE void finish_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Bulk copies (sm_90): whole runs between global memory and dynamic shared memory, from and to multiples of 16 bytes,
// that one thread starts and waits for. They access memory through a proxy of their own, the async proxy, which sees
// what other instructions wrote only behind a fence.
//
// Reads: the barrier, 8 bytes of shared memory that nothing else uses until they are finished, counts the bytes. The
// fence orders them after its initialization, and after what any thread has done to the memory that they overwrite
// before a block barrier. What they have written this thread sees once they are finished, others after a barrier
// besides: that they are complete is a fence of itself.
CSM_DEVICE void publish_to_bulk_copies() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
CSM_DEVICE void begin_bulk_reads(int barrier, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
  publish_to_bulk_copies();
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}
CSM_DEVICE void start_bulk_read(int to, const void* from, unsigned bytes, int barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
#endif
}
CSM_DEVICE void finish_bulk_reads(int barrier) {
#if __CUDA_ARCH__ >= 900
  unsigned done;
  do {
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(barrier))
                 : "memory");
  } while (!done);
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}
// Writes: of what threads published and then reached a block barrier. Its shared memory may be overwritten once they
// are finished; global memory has it when the kernel ends.
CSM_DEVICE void start_bulk_write(void* to, int from, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(to)),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
#endif
}
CSM_DEVICE void finish_bulk_writes() {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;" ::: "memory");
#endif
}

// Bits.
CSM_DEVICE int count_bits(unsigned bits) { return __popc(bits); }
CSM_DEVICE int leading_zeros(unsigned bits) { return __clz(static_cast<int>(bits)); }
CSM_DEVICE int lowest_bit(unsigned bits) { return __ffs(bits) - 1; }
CSM_DEVICE float bits_to_float(unsigned bits) { return __uint_as_float(bits); }
CSM_DEVICE unsigned float_to_bits(float value) { return __float_as_uint(value); }
// The bits of a number, of which +0 has those of −0 too, and any NaN 0x7fffffff: those of its sum with 0.
CSM_DEVICE unsigned number_bits(float value) {
  float sum;
  asm("add.rn.f32 %0, %1, 0f00000000;" : "=f"(sum) : "f"(value));
  return __float_as_uint(sum);
}
// The same of both halves of a word, two float16 or two bfloat16; and each half's sign in all of its bits.
CSM_DEVICE unsigned half_number_bits(unsigned pair) {
  unsigned sum;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(pair), "r"(0u));
  return sum;
}
CSM_DEVICE unsigned bfloat_number_bits(unsigned pair) {
#if __CUDA_ARCH__ >= 800
  unsigned sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(pair), "r"(0x3f803f80u), "r"(0u));
  return sum;
#else
  return __byte_perm(number_bits(__uint_as_float(pair << 16)), number_bits(__uint_as_float(pair & 0xffff0000u)),
                     0x7632);
#endif
}
CSM_DEVICE unsigned signs_of_halves(unsigned pair) {
  unsigned signs;
  asm("prmt.b32 %0, %1, 0, 0xbb99;" : "=r"(signs) : "r"(pair));
  return signs;
}
// Four bytes of two words, the first word's being 0 to 3: `which` has a digit of 4 bits for each.
CSM_DEVICE unsigned bytes_of(unsigned a, unsigned b, unsigned which) { return __byte_perm(a, b, which); }
// The highest bit of each of four bytes, in all bits of a byte; `which` has a digit for each, the byte's number.
CSM_DEVICE unsigned signs_of_bytes(unsigned word, unsigned which) {
  unsigned result;
  asm("prmt.b32 %0, %1, 0, %2;" : "=r"(result) : "r"(word), "r"(which | 0x8888u));
  return result;
}
// `bits` shifted to the left by 0 to 32 and more: then nothing is left. Not at all by a negative number.
CSM_DEVICE unsigned shifted_out(unsigned bits, int by) {
  unsigned result;
  asm("shl.b32 %0, %1, %2;" : "=r"(result) : "r"(bits), "r"(max(by, 0)));
  return result;
}
CSM_DEVICE double bits_to_double(unsigned long long bits) { return __longlong_as_double(bits); }
CSM_DEVICE unsigned long long double_to_bits(double value) { return __double_as_longlong(value); }

// The product of two words. Where it is written as one of 64 bits, the compiler forgets what its factors had, and adds
// zeros.
CSM_DEVICE unsigned long long wide_product(unsigned a, unsigned b) {
  unsigned long long product;
  asm("mul.wide.u32 %0, %1, %2;" : "=l"(product) : "r"(a), "r"(b));
  return product;
}

// The same number, from which the compiler would compute others earlier, before a loop or what it has to wait for.
CSM_DEVICE i64 computed_in_place(i64 value) {
  asm volatile("" : "+l"(value));
  return value;
}
CSM_DEVICE int computed_in_place(int value) {
  asm volatile("" : "+r"(value));
  return value;
}
// The same number, which the compiler would compute again wherever it is used.
CSM_DEVICE int computed_once(int value) {
  asm("" : "+r"(value));
  return value;
}
CSM_DEVICE float computed_once(float value) {
  asm("" : "+f"(value));
  return value;
}
CSM_DEVICE double computed_once(double value) { return value; }

// The same number, of which the compiler computes anew what it has of another copy: it would keep all of that.
CSM_DEVICE float computed_anew(float value) {
  asm("" : "+f"(value));
  return value;
}
CSM_DEVICE double computed_anew(double value) {
  asm("" : "+d"(value));
  return value;
}

// Tells the compiler to move the code for a condition out of the way.
CSM_DEVICE bool unlikely(bool condition) { return __builtin_expect(condition, 0); }

// Arithmetic that the compiler must neither contract nor approximate.
CSM_DEVICE float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }
CSM_DEVICE double fused(double a, double b, double c) { return __fma_rn(a, b, c); }
CSM_DEVICE float reciprocal(float a) { return __frcp_rn(a); }
CSM_DEVICE double reciprocal(double a) { return __drcp_rn(a); }
// a, which is not NaN, unless b is larger.
CSM_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
CSM_DEVICE float minimum(float a, float b) { return fminf(a, b); }
CSM_DEVICE double minimum(double a, double b) { return b < a ? b : a; }
CSM_DEVICE double maximum(double a, double b) { return b > a ? b : a; }
// The larger number if one is positive, else any of the two: integers have a maximum of three.
CSM_DEVICE float larger_positive(float a, float b) { return __int_as_float(max(__float_as_int(a), __float_as_int(b))); }
CSM_DEVICE double larger_positive(double a, double b) { return maximum(a, b); }
CSM_DEVICE float magnitude(float a) { return fabsf(a); }
CSM_DEVICE double magnitude(double a) { return fabs(a); }
// The larger of both, but a if that is NaN.
CSM_DEVICE float at_least(float a, float least) {
#if __CUDA_ARCH__ >= 800
  float result;
  asm("max.ftz.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(least));
  return result;
#else
  return a < least ? least : a;
#endif
}
CSM_DEVICE double at_least(double a, double least) { return a < least ? least : a; }
// The larger of both, and NaN if either is.
CSM_DEVICE float maximum_or_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
  return at_least(a, b);
#else
  return a >= b || a != a ? a : b;
#endif
}
CSM_DEVICE double maximum_or_nan(double a, double b) { return a >= b || a != a ? a : b; }
// The integer next to a towards 0.
CSM_DEVICE float towards_zero(float a) { return truncf(a); }
CSM_DEVICE double towards_zero(double a) { return trunc(a); }
// Adds 1 to `ones` if `term` is `one`, else `term` to `others`. By two predicated additions: the compiler would compute
// both sums and select.
CSM_DEVICE void count_or_add(float term, float one, float& ones, float& others) {
  asm("{ .reg .pred p; setp.eq.ftz.f32 p, %2, %3; @p add.rn.ftz.f32 %0, %0, 0f3f800000;"
      " @!p add.rn.ftz.f32 %1, %1, %2; }"
      : "+f"(ones), "+f"(others)
      : "f"(term), "f"(one));
}
CSM_DEVICE void count_or_add(double term, double one, double& ones, double& others) {
  if (term == one) ones += 1.0;
  else others += term;
}
// 2^a with a relative error of at most 2^-22, and exactly 1 for a = ±0, as the PTX manual says.
CSM_DEVICE float exp2_approx(float a) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(a));
  return result;
}
// lg2 |a|, within 2^-22 for 1/2 < |a| < 2, with a relative error of at most 2^-22 elsewhere. A sign costs nothing here.
CSM_DEVICE float log2_approx(float a) {
  float result;
  asm("{ .reg .f32 size; abs.f32 size, %1; lg2.approx.ftz.f32 %0, size; }" : "=f"(result) : "f"(a));
  return result;
}
// 1 / a within one unit in the last place; of a double rounded.
CSM_DEVICE float reciprocal_approx(float a) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(a));
  return result;
}
CSM_DEVICE double reciprocal_approx(double a) { return reciprocal(a); }

// Conversions of float16 and bfloat16, which are passed as their bits.
CSM_DEVICE float half_to_float(unsigned short bits) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
  return result;
}
// Converts the lower and the upper half of a word.
CSM_DEVICE void halves_to_floats(unsigned word, float& low, float& high) {
  asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b; }"
      : "=f"(low), "=f"(high)
      : "r"(word));
}
CSM_DEVICE unsigned short float_to_half(float value) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
CSM_DEVICE unsigned short double_to_half(double value) {
  unsigned short bits;
  asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(value));
  return bits;
}
CSM_DEVICE float bfloat_to_float(unsigned short bits) { return __uint_as_float(static_cast<unsigned>(bits) << 16); }
CSM_DEVICE unsigned short float_to_bfloat(float value) {
#if __CUDA_ARCH__ >= 800
  unsigned short bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  unsigned bits = __float_as_uint(value);
  if (value != value) return 0x7fff;
  return static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);  // ties to even
#endif
}
// Both halves of a word.
CSM_DEVICE unsigned floats_to_halves(float low, float high) {
#if __CUDA_ARCH__ >= 800
  unsigned word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return float_to_half(low) | static_cast<unsigned>(float_to_half(high)) << 16;
#endif
}
CSM_DEVICE unsigned floats_to_bfloats(float low, float high) {
#if __CUDA_ARCH__ >= 800
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
#else
  return float_to_bfloat(low) | static_cast<unsigned>(float_to_bfloat(high)) << 16;
#endif
}
// Rounds toward zero: the first step of double to bfloat16 (numeric/vec.cuh).
CSM_DEVICE float double_to_float_toward_zero(double value) { return __double2float_rz(value); }

}  // namespace csm
#endif

namespace csm {

// Two numbers. From sm_100 on an operation on two floats is one instruction, with the results that each would have.
template <class T>
class PairOf {
 public:
  PairOf() = default;
  CSM_DEVICE PairOf(T low, T high) : low_(low), high_(high) {}
  CSM_DEVICE explicit PairOf(T both) : PairOf(both, both) {}
  CSM_DEVICE void get(T& low, T& high) const { low = low_, high = high_; }
  CSM_DEVICE friend PairOf operator+(PairOf a, PairOf b) { return {a.low_ + b.low_, a.high_ + b.high_}; }
  CSM_DEVICE friend PairOf operator-(PairOf a, PairOf b) { return {a.low_ - b.low_, a.high_ - b.high_}; }
  CSM_DEVICE friend PairOf operator-(PairOf a) { return {-a.low_, -a.high_}; }
  CSM_DEVICE friend PairOf operator*(PairOf a, PairOf b) { return {a.low_ * b.low_, a.high_ * b.high_}; }
  CSM_DEVICE friend PairOf fused(PairOf a, PairOf b, PairOf c) {
    return {csm::fused(a.low_, b.low_, c.low_), csm::fused(a.high_, b.high_, c.high_)};
  }

 private:
  T low_, high_;
};

#if __CUDA_ARCH__ >= 1000
template <>
class PairOf<float> {
 public:
  PairOf() = default;
  CSM_DEVICE PairOf(float low, float high) { asm("mov.b64 %0, {%1, %2};" : "=l"(bits_) : "f"(low), "f"(high)); }
  CSM_DEVICE explicit PairOf(float both) : PairOf(both, both) {}
  CSM_DEVICE void get(float& low, float& high) const {
    asm("mov.b64 {%0, %1}, %2;" : "=f"(low), "=f"(high) : "l"(bits_));
  }
  CSM_DEVICE friend PairOf operator+(PairOf a, PairOf b) {
    PairOf result;
    asm("add.rn.ftz.f32x2 %0, %1, %2;" : "=l"(result.bits_) : "l"(a.bits_), "l"(b.bits_));
    return result;
  }
  CSM_DEVICE friend PairOf operator-(PairOf a, PairOf b) {
    PairOf result;
    asm("sub.rn.ftz.f32x2 %0, %1, %2;" : "=l"(result.bits_) : "l"(a.bits_), "l"(b.bits_));
    return result;
  }
  CSM_DEVICE friend PairOf operator-(PairOf a) { return a * PairOf(-1.0f); }
  CSM_DEVICE friend PairOf operator*(PairOf a, PairOf b) {
    PairOf result;
    asm("mul.rn.ftz.f32x2 %0, %1, %2;" : "=l"(result.bits_) : "l"(a.bits_), "l"(b.bits_));
    return result;
  }
  CSM_DEVICE friend PairOf fused(PairOf a, PairOf b, PairOf c) {
    PairOf result;
    asm("fma.rn.ftz.f32x2 %0, %1, %2, %3;" : "=l"(result.bits_) : "l"(a.bits_), "l"(b.bits_), "l"(c.bits_));
    return result;
  }

 private:
  unsigned long long bits_;
};
#endif

template <class T, class Function>
CSM_DEVICE PairOf<T> each(PairOf<T> pair, Function function) {
  T low, high;
  pair.get(low, high);
  return {function(low), function(high)};
}
template <class T>
CSM_DEVICE PairOf<T> at_least(PairOf<T> a, T least) {
  return each(a, [=](T one) { return at_least(one, least); });
}
// For NaN it is `least`.
template <class T>
CSM_DEVICE PairOf<T> maximum(PairOf<T> a, T least) {
  return each(a, [=](T one) { return maximum(least, one); });
}
template <class T>
CSM_DEVICE PairOf<T> maximum(PairOf<T> a, PairOf<T> least) {
  T low, high, least_low, least_high;
  a.get(low, high);
  least.get(least_low, least_high);
  return {maximum(least_low, low), maximum(least_high, high)};
}
template <class T>
CSM_DEVICE PairOf<T> exp2_approx(PairOf<T> a) {
  return each(a, [](T one) { return exp2_approx(one); });
}

}  // namespace csm
