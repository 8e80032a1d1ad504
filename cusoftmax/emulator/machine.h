// The interface between a kernel built for the CPU and the runtime that runs its threads.
//
// They are two libraries. The kernel (entry.cpp, cuda_host.h) calls the runtime (runtime.cpp) through a Machine for
// whatever involves other threads or has to be checked. Python passes a Launch and gets a Report back: _abi.py mirrors
// Array, Launch and Report. No header of the C++ library is included, because a test run builds several hundred
// kernels.
#pragma once

namespace csm {

using i64 = long long;
using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned;
using u64 = unsigned long long;

// What a kernel may know of its thread.
struct ThreadView {
  int index;
  int block_threads;
  int cluster_rank;
  i64 block_index;
  i64 grid_blocks;
};

enum class Touch { read, write, add };  // add: at once with others, to shared memory
enum class BulkBarrier { init, expect, wait, inval };
enum class Collective { shuffle_xor, shuffle, vote, block_barrier, cluster_arrive, cluster_wait };

struct Machine {
  ThreadView* self;  // the thread that runs now
  u64 seed;

  // Each of these ends the launch instead of returning if it finds an error.
  // Before each access of `bytes` at `address`. If not `wanted` there is no access, but the trace has to know that this
  // lane takes no part in the warp's instruction.
  void (*global_access)(const void* address, int bytes, Touch touch, bool wanted, int line, const char* file);
  // Before each access of `bytes` at `offset` of the shared memory of block `rank` of the cluster, or of this thread's
  // block if `rank` is -1. Returns where they lie on the host.
  void* (*shared_access)(i64 offset, int bytes, Touch touch, int rank, int line, const char* file);
  // A copy of `bytes` from global memory to byte `offset` of shared memory. It happens when the thread next calls
  // complete_copies: on a GPU it may be as late, and may be earlier.
  void (*begin_copy)(i64 offset, const void* from, int bytes, bool wanted, int line, const char* file);
  void (*complete_copies)(int line, const char* file);
  // Bulk copies: of any multiple of 16 bytes between global memory and byte `offset` of shared memory. `touch` says
  // what is done to global memory. Those that read happen when the thread waits at the barrier at byte `barrier` of
  // shared memory, which has to expect as many bytes; those that write, when it calls complete_bulk_writes. They see
  // what each thread has published since it wrote it.
  void (*bulk_barrier)(BulkBarrier what, i64 barrier, i64 bytes, int line, const char* file);
  void (*begin_bulk)(i64 offset, void* global, i64 bytes, Touch touch, i64 barrier, int line, const char* file);
  void (*complete_bulk_writes)(int line, const char* file);
  void (*publish)();
  // A shuffle: the value that lane `lane`, or this lane ^ `lane`, passes. Values of 4 bytes travel as 8 bytes. A vote:
  // a bit for each lane, set where `value` is not 0.
  u64 (*exchange)(Collective kind, u64 value, int lane, int width, int line, const char* file);
  // A barrier of the block, or one half of a barrier of the cluster.
  void (*barrier)(Collective kind, int line, const char* file);

  // Now and then lets another warp run first. The interpreter of PTX calls it before accesses of memory, so that races
  // between warps show.
  void (*may_switch)();
  // Ends the launch with this message.
  void (*fail)(const char* message, int line, const char* file);

  float (*exp2_approx)(float);
  float (*log2_approx)(float);
  float (*reciprocal_approx)(float);
};

// An array that a launch may access: the byte range [base, base + span), and where in it the elements lie. Strides are
// in bytes and positive, the largest first; dimensions that lie adjacent in memory are merged.
constexpr int kArrayDims = 32;
enum Role : int { role_none = 0, role_read = 1, role_write = 2, role_both = 3 };

struct Array {
  u64 base;
  i64 span;
  int role;
  int once;  // 1: the launch writes every element exactly once; 2: at most once; 0: any number of times
  int itemsize;
  int dims;  // -1: elements overlap, and only the byte range is checked
  i64 size[kArrayDims];
  i64 stride[kArrayDims];
  i64 weight[kArrayDims];  // what a step along this dimension adds to an element's C-order index
  i64 elements;
};

constexpr int kArrays = 8;

struct Launch {
  void (*enter)(void** args);
  void (*attach)(Machine*);
  void** args;
  const char* name;
  const char* const* places;  // what each line is called in messages, or null where files and lines tell
  i64 grid;
  int block;
  int cluster;
  i64 shared_bytes;
  u64 seed;
  int flush_subnormals;
  int trace;
  const i64* clusters;  // the numbers of those to run, or null to run all
  i64 cluster_count;
  int arrays;
  Array array[kArrays];
};

struct Report {
  i64 global_bytes_read, global_bytes_written;
  i64 sectors_read, sectors_written;
  i64 bank_conflicts;
  i64 barriers;                     // barriers of a block, counted once for the block
  i64 cluster_barriers;             // counted once for the cluster
  i64 shuffles;                     // counted once for the warp
  i64 widest_read, widest_written;  // bytes of the widest access of one lane
};

}  // namespace csm
