// Small kernels, each wrong in one way that the emulator has to report. CSM_BODY names the one to build.
#include "machine/platform.cuh"

using namespace csm;

CSM_DEVICE i64 global_thread() { return block_index() * block_threads() + thread_index(); }

// ---- global memory ----
CSM_DEVICE void read_past_end(const float* x, float* y, float*) {
  const i64 i = global_thread();
  global_store(y + i, global_load<float>(x + i + 1, true, 0.0f), true);
}
CSM_DEVICE void read_before_start(const float* x, float* y, float*) {
  const i64 i = global_thread();
  global_store(y + i, global_load<float>(x + i - 1, true, 0.0f), true);
}
CSM_DEVICE void write_past_end(const float*, float* y, float*) { global_store(y + global_thread() + 1, 1.0f, true); }
CSM_DEVICE void write_input(const float* x, float* y, float*) {
  global_store(y + global_thread(), 1.0f, true);
  global_store(const_cast<float*>(x) + global_thread(), 1.0f, true);
}
CSM_DEVICE void read_output(const float*, float* y, float*) {
  const i64 i = global_thread();
  global_store(y + i, global_load<float>(y + i, true, 0.0f), true);
}
CSM_DEVICE void leave_one_out(const float*, float* y, float*) {
  global_store(y + global_thread(), 1.0f, global_thread() != 37);
}
CSM_DEVICE void write_one_twice(const float*, float* y, float*) {
  const i64 i = global_thread();
  global_store(y + i, 1.0f, true);
  global_store(y + i, 1.0f, i == 37);
}
CSM_DEVICE void write_part(const float*, float* y, float*) {
  global_store(reinterpret_cast<unsigned short*>(y) + global_thread(), static_cast<unsigned short>(0), true);
}
struct alignas(8) Two {
  float item[2];
};
CSM_DEVICE void misaligned(const float* x, float* y, float*) {
  const i64 i = global_thread();
  global_store(y + i, global_load<Two>(x + i, i < 60, Two{}).item[0], true);
}

// ---- shared memory ----
CSM_DEVICE void shared_unwritten(const float*, float* y, float*) {
  Shared<float> words(0);
  if (thread_index() != 5) words.store(thread_index(), 1.0f);
  block_barrier();
  global_store(y + global_thread(), words.load(thread_index()), true);
}
CSM_DEVICE void shared_past_end(const float*, float* y, float*) {
  Shared<float> words(4);
  words.store(thread_index(), 1.0f);
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void shared_misaligned(const float*, float* y, float*) {
  Shared<double> words(4);
  words.store(0, 1.0);
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void race_write_write(const float*, float* y, float*) {
  Shared<int>(0).store(0, thread_index());
  block_barrier();
  global_store(y + global_thread(), 1.0f, true);
}
// Thread 0 writes; all read with no barrier between.
CSM_DEVICE void race_write_read(const float*, float* y, float*) {
  Shared<float> words(0);
  if (thread_index() == 0) words.store(0, 1.0f);
  block_barrier();
  const float first = words.load(0);
  if (thread_index() == 33) words.store(0, 2.0f);
  block_barrier();
  global_store(y + global_thread(), first, true);
}
// A shuffle is no memory barrier.
CSM_DEVICE void race_over_shuffle(const float*, float* y, float*) {
  Shared<float> words(0);
  words.store(thread_index(), 1.0f);
  shuffle(0, 0, 32);
  global_store(y + global_thread(), words.load(thread_index() ^ 1), true);
}
CSM_DEVICE void race_missing_barrier(const float* x, float* y, float*) {
  Shared<float> words(0);
  words.store(thread_index(), global_load<float>(x + global_thread(), true, 0.0f));
  global_store(y + global_thread(), words.load(block_threads() - 1 - thread_index()), true);
}
CSM_DEVICE void add_to_unwritten(const float*, float* y, float*) {
  global_store(y + global_thread(), static_cast<float>(add_to_shared(8, 1)), true);
}
// What one thread has added, others may not read before a barrier; nor may it read what they have.
CSM_DEVICE void race_add_read(const float*, float* y, float*) {
  if (thread_index() == 0) Shared<unsigned>(0).store(0, 0);
  block_barrier();
  add_to_shared(0, 1);
  global_store(y + global_thread(), static_cast<float>(Shared<unsigned>(0).load(0)), true);
}
CSM_DEVICE void race_add_write(const float*, float* y, float*) {
  if (thread_index() == 0) Shared<unsigned>(0).store(0, 0);
  block_barrier();
  add_to_shared(0, 1);
  if (thread_index() == block_threads() - 1) Shared<unsigned>(0).store(0, 0);
  block_barrier();
  global_store(y + global_thread(), 1.0f, true);
}
// Additions need no order among them, but after a write and before a read.
CSM_DEVICE void race_write_add(const float*, float* y, float*) {
  if (thread_index() == 0) {
    Shared<unsigned>(0).store(0, 0);
    add_to_shared(0, 1);
  }
  shuffle(0, 0, 32);
  if (thread_index() == 1) add_to_shared(0, 1);
  global_store(y + global_thread(), 1.0f, true);
}
// A copy that nobody waits for.
CSM_DEVICE void copy_not_finished(const float* x, float* y, float*) {
  start_copy(4 * thread_index(), x + thread_index(), thread_index() % 4 == 0);
  block_barrier();
  global_store(y + global_thread(), Shared<float>(0).load(thread_index()), true);
}
CSM_DEVICE void copy_race(const float* x, float* y, float*) {
  start_copy(4 * thread_index(), x + thread_index(), thread_index() % 4 == 0);
  finish_copies();
  global_store(y + global_thread(), Shared<float>(0).load(block_threads() - 1 - thread_index()), true);
}
CSM_DEVICE void copy_misaligned(const float* x, float* y, float*) {
  start_copy(4 * thread_index(), x + thread_index(), thread_index() % 4 == 1);
  finish_copies();
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void copy_past_end(const float* x, float* y, float*) {
  start_copy(4 * (thread_index() + 4), x + thread_index(), thread_index() % 4 == 0);
  finish_copies();
  global_store(y + global_thread(), 1.0f, true);
}
// Bulk copies, by the first thread of a block.
template <class Copies>
CSM_DEVICE void by_one_thread(float* y, Copies copies) {
  Shared<float>(0).store(thread_index(), 1.0f);
  publish_to_bulk_copies();
  block_barrier();
  if (thread_index() == 0) copies();
  block_barrier();
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void bulk_read_not_finished(const float* x, float* y, float*) {
  by_one_thread(y, [&] {
    begin_bulk_reads(128, 64);
    start_bulk_read(0, x, 64, 128);
  });
}
CSM_DEVICE void bulk_read_of_other_size(const float* x, float* y, float*) {
  by_one_thread(y, [&] {
    begin_bulk_reads(128, 48);
    start_bulk_read(0, x, 64, 128);
    finish_bulk_reads(128);
  });
}
CSM_DEVICE void bulk_read_without_barrier(const float* x, float* y, float*) {
  by_one_thread(y, [&] { start_bulk_read(0, x, 64, 128); });
}
CSM_DEVICE void bulk_read_race(const float* x, float* y, float*) {
  if (thread_index() == 0) {
    begin_bulk_reads(128, 64);
    start_bulk_read(0, x, 64, 128);
    finish_bulk_reads(128);
  }
  global_store(y + global_thread(), Shared<float>(0).load(thread_index() % 16), true);
}
CSM_DEVICE void bulk_read_past_end(const float* x, float* y, float*) {
  by_one_thread(y, [&] {
    begin_bulk_reads(128, 32);
    start_bulk_read(0, x + 2 * block_threads() - 4, 32, 128);
    finish_bulk_reads(128);
  });
}
CSM_DEVICE void bulk_misaligned(const float* x, float* y, float*) {
  by_one_thread(y, [&] {
    begin_bulk_reads(128, 64);
    start_bulk_read(0, x + 1, 64, 128);
    finish_bulk_reads(128);
  });
}
CSM_DEVICE void bulk_write_not_finished(const float*, float* y, float*) {
  Shared<float>(0).store(thread_index(), 1.0f);
  publish_to_bulk_copies();
  block_barrier();
  if (thread_index() == 0) start_bulk_write(y + global_thread(), 0, 4 * block_threads());
}
CSM_DEVICE void bulk_write_twice(const float*, float* y, float*) {
  by_one_thread(y, [&] {
    start_bulk_write(y, 0, 64);
    finish_bulk_writes();
  });
}
CSM_DEVICE void bulk_write_not_published(const float*, float* y, float*) {
  Shared<float>(0).store(thread_index(), 1.0f);
  block_barrier();
  if (thread_index() == 0) {
    start_bulk_write(y + global_thread(), 0, 4 * block_threads());
    finish_bulk_writes();
  }
}

// ---- collectives ----
CSM_DEVICE void barrier_in_branch(const float*, float* y, float*) {
  if (thread_index() < 7) block_barrier();
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void barrier_for_one_warp(const float*, float* y, float*) {
  if (thread_index() < 32) block_barrier();
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void barrier_in_two_places(const float*, float* y, float*) {
  if (thread_index() < 32) {
    block_barrier();
  } else {
    block_barrier();
  }
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void shuffle_in_branch(const float*, float* y, float*) {
  float v = 1.0f;
  if (thread_index() % 32 < 16) v = shuffle_xor(v, 1, 16);
  global_store(y + global_thread(), v, true);
}
CSM_DEVICE void shuffle_masks_differ(const float*, float* y, float*) {
  global_store(y + global_thread(), shuffle_xor(1.0f, thread_index() % 2 + 1, 32), true);
}
CSM_DEVICE void shuffle_widths_differ(const float*, float* y, float*) {
  global_store(y + global_thread(), shuffle(1.0f, 0, thread_index() % 2 ? 16 : 32), true);
}
CSM_DEVICE void shuffle_leaves_group(const float*, float* y, float*) {
  global_store(y + global_thread(), shuffle_xor(1.0f, 16, 16), true);
}
CSM_DEVICE void shuffle_against_barrier(const float*, float* y, float*) {
  float v = 1.0f;
  if (thread_index() % 2) {
    block_barrier();
  } else {
    v = shuffle_xor(v, 1, 32);
  }
  global_store(y + global_thread(), v, true);
}
CSM_DEVICE void early_return(const float*, float* y, float*) {
  global_store(y + global_thread(), 1.0f, true);
  if (thread_index() == 40) return;
  block_barrier();
}

// ---- clusters of two blocks ----
CSM_DEVICE void remote_without_barrier(const float*, float* y, float*) {
  Shared<float>(0).store_remote(thread_index(), 1.0f, cluster_rank() ^ 1);
  cluster_arrive();
  cluster_wait();
  global_store(y + global_thread(), Shared<float>(0).load(thread_index()), true);
}
CSM_DEVICE void remote_to_nobody(const float*, float* y, float*) {
  cluster_arrive();
  cluster_wait();
  Shared<float>(0).store_remote(thread_index(), 1.0f, 2);
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void remote_after_return(const float*, float* y, float*) {
  cluster_arrive();
  cluster_wait();
  Shared<float>(0).store_remote(thread_index(), 1.0f, cluster_rank() ^ 1);
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void remote_race(const float*, float* y, float*) {
  Shared<float> words(0);
  cluster_arrive();
  cluster_wait();
  words.store(thread_index(), 1.0f);
  words.store_remote(thread_index(), 2.0f, cluster_rank() ^ 1);
  cluster_arrive();
  cluster_wait();
  global_store(y + global_thread(), words.load(thread_index()), true);
}
CSM_DEVICE void read_before_wait(const float*, float* y, float*) {
  Shared<float> words(0);
  cluster_arrive();
  cluster_wait();
  words.store_remote(thread_index(), 2.0f, cluster_rank() ^ 1);
  cluster_arrive();
  const float early = words.load(thread_index());
  cluster_wait();
  global_store(y + global_thread(), early, true);
}
CSM_DEVICE void wait_alone(const float*, float* y, float*) {
  if (cluster_rank() == 0) {
    cluster_arrive();
    cluster_wait();
  }
  global_store(y + global_thread(), 1.0f, true);
}
CSM_DEVICE void arrive_twice(const float*, float* y, float*) {
  cluster_arrive();
  cluster_arrive();
  global_store(y + global_thread(), 1.0f, true);
}

extern "C" __global__ void __launch_bounds__(64)
    CSM_NAME(const float* in0, const float*, float* out, float* workspace, i64) {
  CSM_BODY(in0, out, workspace);
}
