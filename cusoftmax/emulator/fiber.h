// Fibers: a stack each, and the switch from one to another, in a few nanoseconds.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace csm {

constexpr size_t kStackBytes = 64 * 1024;
// Not a multiple of the page: stacks one page-multiple apart would compete for the same few cache sets.
constexpr size_t kStackStride = kStackBytes + 832;
constexpr uint64_t kStackEnd = 0x5afe57ac5afe57acull;

#if defined(__x86_64__) || defined(__aarch64__)
using Fiber = void*;  // the stack pointer, with the registers that a call preserves saved above it
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
  *--top = 0;  // a return address for `entry`, which never returns; keeps the stack aligned as a call leaves it
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

#else  // any other processor: slower, but it works
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

// Address space for `bytes`, zero when first touched; memory is taken page by page.
inline char* map_bytes(size_t bytes) {
  void* got = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return got == MAP_FAILED ? nullptr : static_cast<char*>(got);
}

// Stacks, kept for the next launch.
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

// Whether float32 subnormals are zero, as on the device under -ftz=true. Puts the old state back at the end.
class FlushSubnormals {
 public:
  explicit FlushSubnormals(bool wanted) {
#if defined(__x86_64__)
    was_ = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(wanted ? was_ | 0x8040u : was_ & ~0x8040u);
#elif defined(__aarch64__)
    asm volatile("mrs %0, fpcr" : "=r"(was_));
    set(wanted ? was_ | 1ull << 24 : was_ & ~(1ull << 24));
#else
    (void)wanted;
#endif
  }
  ~FlushSubnormals() {
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(was_);
#elif defined(__aarch64__)
    set(was_);
#endif
  }

 private:
#if defined(__x86_64__)
  unsigned was_;
#elif defined(__aarch64__)
  static void set(unsigned long long state) { asm volatile("msr fpcr, %0" ::"r"(state)); }
  unsigned long long was_;
#endif
};

}  // namespace csm
