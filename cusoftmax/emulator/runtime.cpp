// Runs one launch on the CPU, cluster after cluster, and reports what it did or the first error.
//
// Python (_run.py) calls csm_run. Below it lie, each using only those before it: memory.h (what is remembered of
// memory), fiber.h and trace.h, state.h (threads, warps, blocks), failure.h (messages), checks.h (accesses),
// scheduler.h (turns and collectives).
#include "arithmetic.h"
#include "checks.h"
#include "scheduler.h"

namespace csm {
namespace {

void fail_here(const char* message, int line, const char* file) {
  fail(self(), "%s (%s)", message, where(site_of(line, file)).text);
}
float approximate_exp2(float a) { return perturbed_exp2(rt.machine.seed, a); }
float near_log2(float a) { return approximate_log2(rt.machine.seed, a); }
float near_reciprocal(float a) { return approximate_reciprocal(rt.machine.seed, a); }

// Sets up the runtime for a launch. False if the launch cannot run.
bool prepare(const Launch& launch) {
  rt.launch = launch;
  memset(static_cast<void*>(&rt.report), 0, sizeof rt.report);
  rt.failed = false;
  rt.files = 0;
  rt.random = scramble(launch.seed + 1) | 1;
  rt.blocks = launch.cluster;
  rt.warps = launch.cluster * ((launch.block + kWarp - 1) / kWarp);
  rt.machine = Machine{nullptr,
                       launch.seed,
                       check_global_access,
                       check_shared_access,
                       begin_copy,
                       complete_copies,
                       bulk_barrier,
                       begin_bulk,
                       complete_bulk_writes,
                       publish,
                       exchange_values,
                       reach_barrier,
                       may_switch_warp,
                       fail_here,
                       approximate_exp2,
                       near_log2,
                       near_reciprocal};
  if (launch.block < 1 || launch.block > kMaxBlockThreads || launch.grid < 1 || launch.cluster < 1 ||
      launch.cluster > kMaxClusterBlocks || launch.grid % launch.cluster) {
    fail_outside(nullptr, "cannot launch %lld blocks of %d threads in clusters of %d", launch.grid, launch.block,
                 launch.cluster);
    return false;
  }
  bool room = reserve_threads(launch.cluster * launch.block, rt.warps);
  for (int b = 0; room && b < launch.cluster; ++b) {
    room = rt.block[b].shared.reserve(launch.shared_bytes > 16 ? launch.shared_bytes : 16);
  }
  for (int i = 0; i < launch.arrays; ++i) {
    if (launch.array[i].once) room = room && rt.written[i].start(launch.array[i].elements);
  }
  if (!room) fail_outside(nullptr, "out of memory");
  return room;
}

// Fails if a result that has to be written whole was not. Where only some clusters ran there is nothing to expect.
void check_all_written() {
  for (int i = 0; i < rt.launch.arrays && !rt.failed && !rt.launch.clusters; ++i) {
    const Array& array = rt.launch.array[i];
    if (array.once != 1) continue;
    const i64 missing = rt.written[i].first_unwritten();
    if (missing >= 0) {
      fail_outside(nullptr, "element %lld of argument %d was never written, of %lld", missing, i, array.elements);
    }
  }
}

int run(const Launch& launch, Report* report, char* message) {
  rt.message = message;
  if (prepare(launch)) {
    FlushSubnormals state(launch.flush_subnormals);
    launch.attach(&rt.machine);
    const i64 clusters = launch.clusters ? launch.cluster_count : launch.grid / launch.cluster;
    for (i64 i = 0; i < clusters && !rt.failed; ++i) run_cluster(launch.clusters ? launch.clusters[i] : i);
    check_all_written();
  }
  for (WrittenElements& written : rt.written) written.stop();
  rt.tracer.reset();
  *report = rt.report;
  return rt.failed ? 1 : 0;
}

}  // namespace
}  // namespace csm

// Returns 0, or 1 after an error, which `message` (kMessageBytes long) then describes.
extern "C" __attribute__((visibility("default"))) int csm_run(const csm::Launch* launch, csm::Report* report,
                                                              char* message) {
  return csm::run(*launch, report, message);
}

// For the tests: conversion or approximation number `which` of each of `count` values.
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
