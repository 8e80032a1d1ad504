// Fibers: a stack for each CUDA thread, and the switch from one to another, which takes a few nanoseconds.
//
// scheduler.h makes a fiber for each thread of a cluster and switches between them; failure.h switches back to the
// scheduler. Hand-written for x86-64 and AArch64; other processors use ucontext, which is slower.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

#include "memory.h"

namespace csm {

constexpr size_t kStackBytes = 64 * 1024;
// The distance is no multiple of the page size: else the tops of all stacks would compete for the same few cache sets.
constexpr size_t kStackStride = kStackBytes + 832;
constexpr uint64_t kStackEnd = 0x5afe57ac5afe57acull;  // the lowest word of a stack, to see whether it was overrun

#if defined(__x86_64__) || defined(__aarch64__)
using Fiber = void*;  // the stack pointer; the registers that a function must preserve are saved from there on
// Saves this fiber's registers and stack pointer in `from`, and goes on with `to`.
extern "C" void csm_switch(Fiber* from, Fiber to);

#if defined(__x86_64__)
asm(R"(
.text
.hidden csm_switch
.globl csm_switch
.type csm_switch, @function
csm_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size csm_switch, .-csm_switch
)");
inline Fiber new_fiber(char* stack_top, void (*entry)()) {
  uintptr_t* top = reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(stack_top) & ~uintptr_t(15));
  *--top = 0;  // the return address of `entry`, which never returns; the stack is then aligned as after a call
  *--top = reinterpret_cast<uintptr_t>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = 0;
  return top;
}
#else
asm(R"(
.text
.hidden csm_switch
.globl csm_switch
.type csm_switch, %function
csm_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size csm_switch, .-csm_switch
)");
inline Fiber new_fiber(char* stack_top, void (*entry)()) {
  uintptr_t* saved = reinterpret_cast<uintptr_t*>((reinterpret_cast<uintptr_t>(stack_top) & ~uintptr_t(15)) - 160);
  for (int i = 0; i < 20; ++i) saved[i] = 0;
  saved[11] = reinterpret_cast<uintptr_t>(entry);  // the link register
  return saved;
}
#endif

inline void switch_fiber(Fiber* from, Fiber* to) { csm_switch(from, *to); }
inline void make_fiber(Fiber* fiber, char* stack, void (*entry)()) { *fiber = new_fiber(stack + kStackBytes, entry); }

#else
using Fiber = ucontext_t;
inline void switch_fiber(Fiber* from, Fiber* to) { swapcontext(from, to); }
inline void make_fiber(Fiber* fiber, char* stack, void (*entry)()) {
  getcontext(fiber);
  fiber->uc_stack.ss_sp = stack + 64;
  fiber->uc_stack.ss_size = kStackBytes - 64;
  fiber->uc_link = nullptr;
  makecontext(fiber, entry, 0);
}
#endif

// The stacks of all threads of a cluster; later clusters and launches use them again.
class Stacks {
 public:
  bool reserve(int count) {
    if (count <= count_) return true;
    if (base_) munmap(base_, count_ * kStackStride);
    base_ = map_bytes(count * kStackStride);
    count_ = base_ ? count : 0;
    return base_ != nullptr;
  }
  char* at(int i) const { return base_ + i * kStackStride; }
  void mark(int i) const { memcpy(at(i), &kStackEnd, sizeof kStackEnd); }
  bool overrun(int i) const { return memcmp(at(i), &kStackEnd, sizeof kStackEnd) != 0; }

 private:
  char* base_ = nullptr;
  int count_ = 0;
};

}  // namespace csm
