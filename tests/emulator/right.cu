// Small kernels that do nothing wrong. CSM_BODY names the one to build.
#include "machine/platform.cuh"

using namespace csm;

// One row a block: maximum, sum of exponentials, quotient. One element a thread at a time.
template <class Reduce>
CSM_DEVICE float over_block(float value, Reduce reduce) {
  for (int mask = 16; mask; mask /= 2) value = reduce(value, shuffle_xor(value, mask, 32));
  Shared<float> partial(0);
  const int warps = block_threads() / 32;
  block_barrier();
  if (thread_index() % 32 == 0) partial.store(thread_index() / 32, value);
  block_barrier();
  float all = partial.load(0);
  for (int i = 1; i < warps; ++i) all = reduce(all, partial.load(i));
  return all;
}
CSM_DEVICE void softmax(const float* x, float* y, float*, i64 n) {
  x += block_index() * n;
  y += block_index() * n;
  float top = bits_to_float(0xff800000u);
  const i64 rounds = (n + block_threads() - 1) / block_threads();
  for (i64 k = 0; k < rounds; ++k) {
    const i64 i = k * block_threads() + thread_index();
    top = maximum(top, global_load<float>(x + i, i < n, top));
  }
  top = over_block(top, [](float a, float b) { return maximum(a, b); });
  float sum = 0;
  for (i64 k = 0; k < rounds; ++k) {
    const i64 i = k * block_threads() + thread_index();
    const float v = global_load<float>(x + i, i < n, bits_to_float(0xff800000u));
    sum += exp2_approx((v - top) * 1.44269504f);
  }
  sum = over_block(sum, [](float a, float b) { return a + b; });
  for (i64 k = 0; k < rounds; ++k) {
    const i64 i = k * block_threads() + thread_index();
    const float v = global_load<float>(x + i, i < n, 0.0f);
    global_store(y + i, exp2_approx((v - top) * 1.44269504f) * reciprocal(sum), i < n);
  }
}

// Each block of a cluster gives its first element to all, which write the sum.
CSM_DEVICE void cluster_sum(const float* x, float* y, float*, i64 cluster) {
  Shared<float> inbox(0);
  cluster_arrive();
  const float mine = global_load<float>(x + block_index(), true, 0.0f);
  cluster_wait();
  if (thread_index() < cluster) inbox.store_remote(cluster_rank(), mine, thread_index());
  cluster_arrive();
  cluster_wait();
  float sum = 0;
  for (int i = 0; i < cluster; ++i) sum += inbox.load(i);
  global_store(y + block_index(), sum, thread_index() == 0);
}

// y[i] = x[i], four elements a thread.
struct alignas(16) Four {
  float item[4];
};
CSM_DEVICE void copy4(const float* x, float* y, float*, i64 n) {
  const i64 i = 4 * (block_index() * block_threads() + thread_index());
  const Four got = global_load<Four>(x + i, i < n, Four{});
  global_store(y + i, got, i < n);
}
// The same, `n` elements between neighbouring threads' elements.
CSM_DEVICE void copy_apart(const float* x, float* y, float*, i64 n) {
  const i64 i = n * (block_index() * block_threads() + thread_index());
  global_store(y + i, global_load<float>(x + i, true, 0.0f), true);
}
CSM_DEVICE void copy2(const double* x, double* y, double*, i64 n) {
  const i64 i = block_index() * block_threads() + thread_index();
  global_store(y + i, global_load<double>(x + i, i < n, 0.0), i < n);
}
// Through shared memory, written `n` words apart and read side by side.
CSM_DEVICE void banks(const float* x, float* y, float*, i64 n) {
  Shared<float> words(0);
  const int i = thread_index();
  words.store(static_cast<int>(i * n), global_load<float>(x + i, true, 0.0f));
  block_barrier();
  global_store(y + i, words.load(static_cast<int>(i * n)), true);
}
CSM_DEVICE void banks_double(const double* x, double* y, double*, i64) {
  Shared<double> words(0);
  const int i = thread_index();
  words.store(i, global_load<double>(x + i, true, 0.0));
  block_barrier();
  global_store(y + i, words.load(block_threads() - 1 - i), true);
}
// Bytes next to each other belong to different threads.
CSM_DEVICE void bytes(const unsigned char* x, unsigned char* y, unsigned char*, i64) {
  Shared<unsigned char> all(0);
  const int i = thread_index();
  all.store(i, global_load<unsigned char>(x + i, true, 0));
  block_barrier();
  global_store(y + i, all.load(block_threads() - 1 - i), true);
}
// All threads count in one word.
CSM_DEVICE void count(const float*, float* y, float*, i64) {
  const int i = thread_index();
  if (i == 0) Shared<unsigned>(0).store(0, 0);
  block_barrier();
  const unsigned before = add_to_shared(0, 3);
  block_barrier();
  const bool sure = before % 3 == 0 && before < 3u * static_cast<unsigned>(block_threads());
  global_store(y + i, sure ? static_cast<float>(Shared<unsigned>(0).load(0)) : -1.0f, true);
}
// What the arithmetic does with subnormals.
CSM_DEVICE void halve(const float* x, float* y, float*, i64) {
  const int i = thread_index();
  global_store(y + i, global_load<float>(x + i, true, 0.0f) * 0.5f, true);
}
CSM_DEVICE void nothing(const float*, float*, float*, i64) {}
CSM_DEVICE void many_shuffles(const float*, float* y, float*, i64 n) {
  float v = static_cast<float>(thread_index());
  for (i64 k = 0; k < n; ++k) v = shuffle_xor(v, 1 + static_cast<int>(k % 31), 32);
  global_store(y + block_index() * block_threads() + thread_index(), v, true);
}

extern "C" __global__ void __launch_bounds__(1024)
    CSM_NAME(const CSM_TYPE* in0, const CSM_TYPE*, CSM_TYPE* out, CSM_TYPE* workspace, i64 n) {
  CSM_BODY(in0, out, workspace, n);
}
