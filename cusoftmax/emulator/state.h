// The launch in progress: the threads, warps and blocks of the cluster that runs now, and `rt`, which holds them.
//
// Blocks run cluster by cluster, so these are the only threads that exist at a time. runtime.cpp fills in the launch,
// scheduler.h the threads; failure.h, checks.h and scheduler.h read them.
#pragma once

#include "fiber.h"
#include "memory.h"
#include "trace.h"

namespace csm {

constexpr int kWarp = 32;
constexpr int kMaxClusterBlocks = 16;
constexpr int kMaxBlockThreads = 1024;

struct Warp;
struct Block;

// A copy to shared memory that a thread has started; from null if this lane takes no part.
struct Copy {
  i64 offset;
  const void* from;
  int bytes;
};
constexpr int kMostCopies = 64;

// A bulk copy between shared and global memory that a thread has started; `touch` is of global memory.
struct Bulk {
  i64 offset;
  char* global;
  i64 bytes;
  Touch touch;
};
constexpr int kMostBulks = 16;

struct Thread : ThreadView {
  int lane;
  int id;        // in the cluster
  Thread* next;  // the lane of this warp that runs after this one; null once the thread has returned
  Warp* warp;
  Block* block;
  int copies;  // of `copy`, not finished
  Copy copy[kMostCopies];
  int bulks;  // of `bulk`, not finished
  Bulk bulk[kMostBulks];
  u32 bulk_site;          // where it last started one, or set up its barrier
  i64 barrier, expected;  // its barrier for bulk copies that read, or -1, and how many bytes that expects
  Stamp published;        // when it last made what it wrote visible to bulk copies
  Fiber fiber;
};

// A collective that a warp waits in, or was in last.
struct Meeting {
  Collective kind;
  u32 site;  // where the source calls it
  int lane_mask, width;
  Thread* first;  // the first of the threads that reached it
};

enum class State { ready, at_block_barrier, at_cluster_wait, gone };

struct Warp {
  Block* block;
  Thread* lane;  // the first of its threads, which follow each other by index
  int lanes;
  int arrived, returned;  // lanes that wait in `meeting`; lanes that have returned
  Meeting meeting;
  State state;
  Thread* resume;         // the lane that runs first when the warp's turn comes
  u32 arrivals, waits;    // how many cluster_arrive and cluster_wait the warp has passed
  int parity;             // which half of `offered` the next shuffle uses
  u64 offered[2][kWarp];  // what each lane put into this shuffle and into the one before
};

struct Block {
  SharedMemory shared;
  Warp* warp;      // the first of its warps
  Thread* thread;  // the first of its threads
  int rank, warps;
  int returned, at_barrier;  // warps that have returned; warps that wait at the block barrier
  u32 barriers;
  u32 must_wait_for;  // cluster barriers that it has to pass before it returns, since other blocks write to its memory
  Meeting meeting;
};

struct Runtime {
  Machine machine;
  Launch launch;
  Report report;
  bool failed;
  char* message;  // of the failure

  // The cluster that runs now.
  Thread* thread;
  Warp* warp;
  int thread_capacity, warp_capacity;
  Block block[kMaxClusterBlocks];
  int blocks, warps;
  Warp** ready;  // warps that could run
  int ready_count;
  int cluster_arrived, warps_gone;  // warps that have arrived at the cluster barrier; warps that have returned
  u32 cluster_phase;                // cluster barriers completed
  Meeting cluster_meeting;

  Fiber scheduler;
  Stacks stacks;
  u64 random;  // state of the generator that draws the order of threads

  Tracer tracer;
  WrittenElements written[kArrays];  // for each argument that is a result
  Stamp oldest;                      // smaller stamps belong to earlier clusters
  u32 next_barrier;                  // the number of block barriers at which the next cluster starts to count

  const char* file[256];  // source files that accesses and collectives came from: see site_of() of failure.h
  int files;
};

inline Runtime rt;

// The thread that runs now.
inline Thread* self() { return static_cast<Thread*>(rt.machine.self); }

}  // namespace csm
