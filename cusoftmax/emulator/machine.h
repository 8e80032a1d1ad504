// What a kernel, built for the host, and the runtime that runs its threads know of each other.
//
// A kernel library holds one pointer to the runtime's Machine and calls it for whatever needs more than one thread or
// has to be checked. No header of the C++ library is included: several hundred kernels are built in a test run.
#pragma once

namespace csm {

using i64 = long long;
using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long long;

// The part of a CUDA thread that its kernel reads.
struct ThreadView {
  int index;
  int block_threads;
  int cluster_rank;
  i64 block_index;
  i64 grid_blocks;
};

enum class Touch { read, write };
enum class Collective { shuffle_xor, shuffle, block_barrier, cluster_arrive, cluster_wait };

struct Machine {
  ThreadView* self;  // of the thread that runs now
  u64 seed;

  // Each returns only if the access may go ahead. `bytes` from `address`, on behalf of `self`; when `wanted` is false
  // the call is only counted, so that the lanes of a warp stay aligned in the trace.
  void (*global_access)(const void* address, int bytes, Touch touch, bool wanted, int line, const char* file);
  // Where `bytes` at `offset` of the shared memory of block `rank` (-1: this thread's own) lie on the host.
  void* (*shared_access)(i64 offset, int bytes, Touch touch, int rank, int line, const char* file);
  // The value that lane `lane` (or this lane ^ `lane`) gave. Values of 4 and 8 bytes travel as 8.
  u64 (*exchange)(Collective kind, u64 value, int lane, int width, int line, const char* file);
  void (*meet)(Collective kind, int line, const char* file);

  float (*exp2_approx)(float);
};

// An array that a launch may touch, as the byte range [base, base + span) and the elements within it. Strides are
// positive, largest first, and dimensions are merged where they are adjacent.
constexpr int kArrayDims = 32;
enum Role : int { role_none = 0, role_read = 1, role_write = 2, role_both = 3 };

struct Array {
  u64 base;
  i64 span;
  int role;
  int once;  // over the launch every element is written exactly once if 1, at most once if 2
  int itemsize;
  int dims;  // -1: elements overlap, so only the range is checked
  i64 size[kArrayDims];
  i64 stride[kArrayDims];
  i64 weight[kArrayDims];  // of this dimension in the C-order index of an element
  i64 elements;
};

constexpr int kArrays = 8;

struct Launch {
  void (*enter)(void** args);
  void (*attach)(Machine*);
  void** args;
  const char* name;
  i64 grid;
  int block;
  int cluster;
  i64 shared_bytes;
  u64 seed;
  int flush_subnormals;
  int trace;
  const i64* clusters;  // those to run, or null for all
  i64 cluster_count;
  int arrays;
  Array array[kArrays];
};

struct Report {
  i64 global_bytes_read, global_bytes_written;
  i64 sectors_read, sectors_written;
  i64 bank_conflicts;
  i64 barriers;                     // block barriers, once a block
  i64 cluster_barriers;             // once a cluster
  i64 shuffles;                     // once a warp
  i64 widest_read, widest_written;  // bytes of one access of one lane
};

}  // namespace csm
