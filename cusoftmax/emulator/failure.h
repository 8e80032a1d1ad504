// Error messages: they name the kernel, the block, the thread and the line of the source; the first one ends the
// launch.
//
// checks.h and scheduler.h fail on behalf of a thread, runtime.cpp before or after all threads. The message goes to the
// buffer that the caller of csm_run passed, whence Python raises it as a KernelError.
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

namespace csm {

constexpr size_t kMessageBytes = 2048;  // as _run.py has it

// A place in the source as one number: the file's index in rt.file in the high 8 bits, the line in the others.
inline u32 site_of(int line, const char* file) {
  for (int i = rt.files - 1; i >= 0; --i) {
    if (rt.file[i] == file) return static_cast<u32>(i) << 24 | u32(line);
  }
  if (rt.files < 256) rt.file[rt.files++] = file;
  return static_cast<u32>(rt.files - 1) << 24 | u32(line);
}

struct Text {
  char text[192];
};

// "patterns/block.cuh:42", or what the launch calls the place.
inline Text where(u32 site) {
  Text out;
  if (rt.launch.places) {
    snprintf(out.text, sizeof out.text, "%s", rt.launch.places[site & 0xffffffu]);
    return out;
  }
  const char* path = rt.file[site >> 24];
  const char* root = strstr(path, "cuda_kernels/");
  const char* base = strrchr(path, '/');
  snprintf(out.text, sizeof out.text, "%s:%u", root ? root + 13 : base ? base + 1 : path, site & 0xffffffu);
  return out;
}

inline Text who(const Thread* t) {
  Text out;
  snprintf(out.text, sizeof out.text, "block %lld, thread %d", t->block_index, t->index);
  return out;
}

inline const char* name_of(Collective kind) {
  switch (kind) {
    case Collective::shuffle_xor: return "shuffle_xor";
    case Collective::shuffle: return "shuffle";
    case Collective::vote: return "vote";
    case Collective::block_barrier: return "block_barrier";
    case Collective::cluster_arrive: return "cluster_arrive";
    default: return "cluster_wait";
  }
}

__attribute__((format(printf, 2, 0))) inline void report_failure(const Thread* t, const char* format, va_list values) {
  if (rt.failed) return;
  rt.failed = true;
  int at = snprintf(rt.message, kMessageBytes, "kernel %s", rt.launch.name);
  if (t) at += snprintf(rt.message + at, kMessageBytes - static_cast<size_t>(at), ", %s", who(t).text);
  at += snprintf(rt.message + at, kMessageBytes - static_cast<size_t>(at), ": ");
  vsnprintf(rt.message + at, kMessageBytes - static_cast<size_t>(at), format, values);
}

// Reports an error while no thread runs; `t` is the thread to blame, or null.
__attribute__((format(printf, 2, 3))) inline void fail_outside(const Thread* t, const char* format, ...) {
  va_list values;
  va_start(values, format);
  report_failure(t, format, values);
  va_end(values);
}

// Reports an error of the thread that runs now, and ends the launch: the scheduler goes on, and no thread runs again.
__attribute__((format(printf, 2, 3), noreturn)) inline void fail(Thread* t, const char* format, ...) {
  va_list values;
  va_start(values, format);
  report_failure(t, format, values);
  va_end(values);
  switch_fiber(&self()->fiber, &rt.scheduler);
  __builtin_unreachable();
}

}  // namespace csm
