// Runs a launch on the CPU: a fiber for each CUDA thread, all blocks of a cluster at once, one cluster after another.
//
// A warp runs as a ring of lanes. A lane runs until its warp has to meet (shuffle, barrier, ...), then hands over to
// the next; the last one to arrive sees the collective complete and goes on at once, so that a collective costs about
// one switch a lane. Warps run until a barrier holds them up; which warp and which lane follow is drawn from the seed.
#include <stdarg.h>
#include <stdio.h>

#include "arithmetic.h"
#include "checks.h"
#include "fiber.h"
#include "trace.h"

namespace csm {
namespace {

constexpr int kWarp = 32;
constexpr int kMaxClusterBlocks = 16;
constexpr int kMaxBlockThreads = 1024;
constexpr size_t kMessageBytes = 2048;

struct Warp;
struct Block;

struct Thread : ThreadView {
  int lane;
  int id;        // within the cluster
  Thread* next;  // lane of this warp to run after this one
  Warp* warp;
  Block* block;
  Fiber fiber;
};

// Where a warp last met, or is meeting.
struct Meeting {
  Collective kind;
  u32 site;
  int lane_mask, width;
  Thread* first;
};

enum class State { ready, at_block_barrier, at_cluster_wait, gone };

struct Warp {
  Block* block;
  Thread* lane;  // lanes, in order of index
  int lanes;
  int arrived, returned;
  Meeting meeting;
  State state;
  Thread* resume;
  u32 arrivals, waits;  // halves of the cluster barrier passed
  int parity;
  u64 given[2][kWarp];  // by lane, for this shuffle and the one before
};

struct Block {
  SharedMemory shared;
  Warp* warp;
  Thread* thread;
  int rank, warps, returned, at_barrier;
  u32 barriers;
  u32 waited_for;  // cluster waits that must hold this block back, since others write to it
  Meeting meeting;
};

struct Runtime {
  Machine machine;
  Launch launch;
  Report report;
  char* message;
  Stacks stacks;
  Tracer tracer;
  Written written[kArrays];  // of each result
  Fiber scheduler;
  Thread* thread;
  Warp* warp;
  int thread_capacity, warp_capacity;
  Block block[kMaxClusterBlocks];
  int blocks, warps;  // of the cluster
  Warp** ready;
  int ready_count;
  int cluster_arrived, warps_gone;
  u32 cluster_phase;
  Meeting cluster_meeting;
  Stamp oldest;  // stamps below belong to earlier clusters
  u32 next_barrier;
  u64 random;
  bool failed;
  const char* file[256];
  int files;
};

Runtime rt;

Thread* self() { return static_cast<Thread*>(rt.machine.self); }

u32 draw(u32 below) {
  rt.random ^= rt.random << 13;
  rt.random ^= rt.random >> 7;
  rt.random ^= rt.random << 17;
  return static_cast<u32>((rt.random >> 32) * below >> 32);
}

// ---- errors ----

u32 site_of(int line, const char* file) {
  for (int i = rt.files - 1; i >= 0; --i) {
    if (rt.file[i] == file) return static_cast<u32>(i) << 24 | u32(line);
  }
  if (rt.files < 256) rt.file[rt.files++] = file;
  return static_cast<u32>(rt.files - 1) << 24 | u32(line);
}

struct Text {
  char text[192];
};
Text where(u32 site) {
  Text out;
  const char* path = rt.file[site >> 24];
  const char* root = strstr(path, "cuda_kernels/");
  const char* base = strrchr(path, '/');
  snprintf(out.text, sizeof out.text, "%s:%u", root ? root + 13 : base ? base + 1 : path, site & 0xffffffu);
  return out;
}
Text who(const Thread* t) {
  Text out;
  snprintf(out.text, sizeof out.text, "block %lld, thread %d", t->block_index, t->index);
  return out;
}
const char* name_of(Collective kind) {
  switch (kind) {
    case Collective::shuffle_xor: return "shuffle_xor";
    case Collective::shuffle: return "shuffle";
    case Collective::block_barrier: return "block_barrier";
    case Collective::cluster_arrive: return "cluster_arrive";
    default: return "cluster_wait";
  }
}

__attribute__((format(printf, 2, 0))) void report_failure(const Thread* t, const char* format, va_list values) {
  if (rt.failed) return;
  rt.failed = true;
  int at = snprintf(rt.message, kMessageBytes, "kernel %s", rt.launch.name);
  if (t) at += snprintf(rt.message + at, kMessageBytes - static_cast<size_t>(at), ", %s", who(t).text);
  at += snprintf(rt.message + at, kMessageBytes - static_cast<size_t>(at), ": ");
  vsnprintf(rt.message + at, kMessageBytes - static_cast<size_t>(at), format, values);
}
__attribute__((format(printf, 2, 3))) void fail_outside(const Thread* t, const char* format, ...) {
  va_list values;
  va_start(values, format);
  report_failure(t, format, values);
  va_end(values);
}
// Ends the launch: the fibers are left as they stand.
__attribute__((format(printf, 2, 3), noreturn)) void fail(Thread* t, const char* format, ...) {
  va_list values;
  va_start(values, format);
  report_failure(t, format, values);
  va_end(values);
  switch_fiber(&self()->fiber, &rt.scheduler);
  __builtin_unreachable();
}

#include "scheduler.h"
#include "access.h"

}  // namespace
}  // namespace csm

extern "C" __attribute__((visibility("default"))) int csm_run(const csm::Launch* launch, csm::Report* report,
                                                              char* message) {
  return csm::run(*launch, report, message);
}

// For tests: the conversions and approximations, over many values at once.
extern "C" __attribute__((visibility("default"))) void csm_convert(int which, const void* from, void* to,
                                                                   long long count, unsigned long long seed) {
  using namespace csm;
  const u16* u16_in = static_cast<const u16*>(from);
  const float* float_in = static_cast<const float*>(from);
  const double* double_in = static_cast<const double*>(from);
  for (long long i = 0; i < count; ++i) {
    switch (which) {
      case 0: static_cast<float*>(to)[i] = half_to_float(u16_in[i]); break;
      case 1: static_cast<float*>(to)[i] = bfloat_to_float(u16_in[i]); break;
      case 2: static_cast<u16*>(to)[i] = float_to_half(float_in[i]); break;
      case 3: static_cast<u16*>(to)[i] = float_to_bfloat(float_in[i]); break;
      case 4: static_cast<u16*>(to)[i] = double_to_half(double_in[i]); break;
      case 5: static_cast<float*>(to)[i] = double_to_float_toward_zero(double_in[i]); break;
      case 6: static_cast<float*>(to)[i] = perturbed_exp2(seed, float_in[i]); break;
      default: break;
    }
  }
}
