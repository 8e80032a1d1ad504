// Runs one thread of a kernel from the PTX that NVRTC made of it: the counterpart of entry.cpp.
//
// The runtime (runtime.cpp) runs the threads, checks accesses and completes collectives, as for a kernel built for the
// host; csm_enter interprets the instructions of one thread until it returns. Threads switch at collectives, and
// sometimes before an access of memory. Python (decode.py) writes the Program.
#include "values.h"

namespace csm::ptx {
namespace {

// The first slots of a thread hold what it may know of itself.
enum Special { tid_x, ntid_x, ctaid_x, nctaid_x, cluster_ctarank, laneid, kSpecials };

// In a generic address, this far above is shared memory. In an address of a cluster's shared memory, the rank of the
// block plus 1 has the upper 8 bits; 0 is the thread's own.
constexpr u64 kSharedWindow = 1ull << 62;
constexpr int kRankShift = 24;
inline u32 remote_address(u32 address, u32 rank) {
  return at_most(address, (1u << kRankShift) - 1) | (rank < 255 ? rank + 1 : 255) << kRankShift;
}

template <class F, class Operation>
u64 pairwise(u64 a, u64 b, u64 c, Operation operation) {
  u64 result = 0;
  for (int shift = 0; shift < 64; shift += 32) {
    const auto half = [shift](u64 x) { return Register<F>::value(x >> shift & 0xffffffffu); };
    result |= Register<F>::bits(operation(half(a), half(b), half(c))) << shift;
  }
  return result;
}

constexpr int kOperands = 10;

struct Instruction {
  u16 code;                // its place in kNames
  u8 flags;                // of Flag
  u8 results;              // how many of the operands it writes, the first ones
  u8 operands;             // how many it has
  u8 bytes;                // of an access: of one element; of pack and unpack: of a part
  u16 guard;               // the slot of its predicate
  int value;               // of an access: what is added to the address; of a branch: where to; of a block: its number
  u16 operand[kOperands];  // slots
};
enum Flag : u8 {
  guarded = 1,
  negated = 2,
  tracked = 4,      // some operand may be used before it has a value
  sign_extends = 8  // a load of a signed integer
};
constexpr int kUnused = 4;  // the bits of `flags` from here on: one for each word of a load that is not used

struct Program {
  const Instruction* code;
  const u64* constants;  // of the slots after the special ones
  const u8* parameters;
  u64* executed;    // how often each was entered: of each warp of a block, each block of instructions, each of 32 lanes
  u64 block_count;  // blocks of instructions
  u64 most;         // blocks of instructions that a thread may enter
  u64 most_idle;    // and, on the average of a block's, while none accesses global memory
  mutable u64 idle;
  i64 parameter_bytes;
  int constant_count;
  int slots;
  int first_tracked, tracked_count;  // slots that may be read before they are written
  const char* name;
};

constexpr int kMostSlots = 4096, kMostTracked = 256;

struct Name {
  const char* text;
  int operands;  // -1: of an instruction that is more than a computation
};

// Instructions that are more than a computation, by the names that decode.py gives them.
#define CSM_SPECIAL(of)                                                                                            \
  of(block) of(bra) of(ret) of(trap) of(pack) of(unpack) of(load_param) of(load_global) of(store_global)           \
      of(load_shared) of(store_shared) of(add_shared) of(load_generic) of(store_generic) of(store_cluster)         \
          of(start_copy) of(finish_copies) of(shfl_bfly) of(shfl_idx) of(vote_ballot) of(vote_any) of(vote_all)    \
              of(bar_sync) of(bar_warp_sync) of(cluster_arrive) of(cluster_wait) of(fence_async) of(mbarrier_init) \
                  of(mbarrier_expect) of(mbarrier_wait) of(mbarrier_inval) of(bulk_read) of(bulk_write)            \
                      of(bulk_commit) of(bulk_finish)
enum Code : u16 {
#define CSM_ENUM(name) k_##name,
  CSM_SPECIAL(CSM_ENUM) kComputed
};

// A thread: its slots, and which of the tracked ones have a value.
struct Thread {
  const Program& program;
  u64 slot[kMostSlots];
  bool has_value[kMostTracked];
  bool uncommitted = false;  // whether a bulk copy has been started since the last group was made

  explicit Thread(const Program& program) : program(program) {
    for (int i = 0; i < program.tracked_count; ++i) has_value[i] = false;
  }
  int line(const Instruction* at) const { return static_cast<int>(at - program.code); }
  [[noreturn]] void fail(const Instruction* at, const char* what) const {
    machine->fail(what, line(at), program.name);
    __builtin_unreachable();
  }
  bool* flag_of(u16 of) {
    const int index = of - program.first_tracked;
    return index >= 0 && index < program.tracked_count ? &has_value[index] : nullptr;
  }
  void require(const Instruction* at, u16 of) {
    const bool* has = flag_of(of);
    if (has && !*has) fail(at, "a register is read that has no value");
  }

  // Whether the guard holds. If so, its operands must have values, and its results have them from now on.
  bool is_executed(const Instruction* at) {
    if (at->flags & guarded) {
      require(at, at->guard);
      if ((slot[at->guard] != 0) == ((at->flags & negated) != 0)) {
        note_left_out(at);
        return false;
      }
    }
    if (at->flags & tracked) {
      for (int k = at->results; k < at->operands; ++k) require(at, at->operand[k]);
      for (int k = 0; k < at->results; ++k) {
        if (bool* has = flag_of(at->operand[k])) *has = true;
      }
    }
    return true;
  }

  // Tells the trace that this lane takes no part in an access of its warp.
  void note_left_out(const Instruction* at) const {
    if (at->code == k_start_copy) return machine->begin_copy(0, nullptr, at->bytes, false, line(at), program.name);
    if (at->code != k_load_global && at->code != k_store_global) return;
    const bool loads = at->code == k_load_global;
    const int count = loads ? at->results : at->operands - 1;
    machine->global_access(nullptr, count * at->bytes, loads ? Touch::read : Touch::write, false, line(at),
                           program.name);
  }

  // ---- memory ----

  void load(const Instruction* at, int first, int count, const void* from) {
    const char* bytes = static_cast<const char*>(from);
    for (int k = first; k < first + count; ++k, bytes += at->bytes) {
      u64 value = 0;
      __builtin_memcpy(&value, bytes, at->bytes);
      if (at->flags & sign_extends) {
        const int unused = 64 - 8 * at->bytes;
        const s64 extended = static_cast<s64>(value << unused) >> unused;
        value = at->bytes == 8 ? static_cast<u64>(extended) : static_cast<u32>(extended);
      }
      slot[at->operand[k]] = value;
    }
  }
  void store(const Instruction* at, int first, int count, void* to) {
    char* bytes = static_cast<char*>(to);
    for (int k = first; k < first + count; ++k, bytes += at->bytes) {
      __builtin_memcpy(bytes, &slot[at->operand[k]], at->bytes);
    }
  }
  u64 address(const Instruction* at, int operand) const {
    return slot[at->operand[operand]] + static_cast<u64>(static_cast<s64>(at->value));
  }
  void* global(const Instruction* at, u64 address, int count, Touch touch) {
    void* host = reinterpret_cast<void*>(address);
    program.idle = 0;
    machine->global_access(host, count * at->bytes, touch, true, line(at), program.name);
    return host;
  }
  void* shared(const Instruction* at, u64 address, int count, Touch touch, int rank) {
    const int unused = at->flags >> kUnused, all = count * at->bytes;
    const auto checked = [&](int from, int bytes) {
      const s64 start = static_cast<s64>(static_cast<s32>(address)) + from;  // it has 32 bits
      return static_cast<char*>(machine->shared_access(start, bytes, touch, rank, line(at), program.name)) - from;
    };
    if (!unused) return checked(0, all);
    // What is used, part by part: a trace counts as many accesses.
    const int used = ((1 << all / 4) - 1) & ~unused;
    if (used & (used + 1) && address % static_cast<u64>(all)) fail(at, "misaligned read of shared memory");
    void* found = nullptr;
    for (int word = 0; word < all / 4;) {
      int end = word;
      while (end < all / 4 && !(unused >> end & 1)) ++end;
      if (end > word) found = checked(4 * word, 4 * (end - word));
      word = end + 1;
    }
    return found;
  }
  void* generic(const Instruction* at, u64 address, int count, Touch touch) {
    if (address < kSharedWindow) return global(at, address, count, touch);
    return shared(at, address - kSharedWindow, count, touch, -1);
  }
  void* in_cluster(const Instruction* at, u32 address, int count, Touch touch) {
    const int rank = static_cast<int>(address >> kRankShift) - 1;
    return shared(at, address & ((1u << kRankShift) - 1), count, touch, rank);
  }
  const u8* parameter(const Instruction* at, u64 offset, int count) {
    const u64 bytes = static_cast<u64>(count * at->bytes), all = static_cast<u64>(program.parameter_bytes);
    if (offset % bytes) fail(at, "misaligned read of a parameter");
    if (offset > all || bytes > all - offset) fail(at, "read beyond the parameters");
    return program.parameters + offset;
  }

  // ---- collectives ----

  // Of shfl: the lanes of a group, from the operand that says how far lanes may reach.
  u64 shuffled(const Instruction* at, Collective kind, u64 value, u32 lane, u32 reach, u32 members) {
    if (members != 0xffffffffu) fail(at, "a shuffle of some lanes only");
    const u32 fixed = reach >> 8 & 31;
    if ((reach & 31) != 31) fail(at, "a shuffle whose lanes are clamped");
    return machine->exchange(kind, value, static_cast<int>(lane), static_cast<int>(32 - fixed), line(at), program.name);
  }
  u32 votes(const Instruction* at, u64 value, u32 members) {
    if (members != 0xffffffffu) fail(at, "a vote of some lanes only");
    return static_cast<u32>(machine->exchange(Collective::vote, value, 0, 32, line(at), program.name));
  }
  void begin_bulk(const Instruction* at, u64 offset, u64 global, u64 bytes, Touch touch, i64 barrier) {
    machine->may_switch();
    program.idle = 0;
    machine->begin_bulk(static_cast<i64>(offset), reinterpret_cast<void*>(global), static_cast<u32>(bytes), touch,
                        barrier, line(at), program.name);
  }
  void bulk_barrier(const Instruction* at, BulkBarrier what, u64 barrier, u64 bytes) {
    machine->may_switch();
    machine->bulk_barrier(what, static_cast<i64>(barrier), static_cast<u32>(bytes), line(at), program.name);
  }
  void barrier(const Instruction* at, Collective kind) { machine->barrier(kind, line(at), program.name); }
};

constexpr Name kNames[] = {
#define CSM_NAME_OF(name) {#name, -1},
    CSM_SPECIAL(CSM_NAME_OF)
#define UNARY(name, D, A, result) {name, 2},
#define BINARY(name, D, A, B, result) {name, 3},
#define TERNARY(name, D, A, B, C, result) {name, 4},
#define QUATERNARY(name, D, A, B, C, E, result) {name, 5},
#include "instructions.h"
#undef UNARY
#undef BINARY
#undef TERNARY
#undef QUATERNARY
};

constexpr int kFirst = __COUNTER__ + 1;  // of the cases in the order of kNames

void run(const Program& program) {
  Thread t(program);
  u64* const slot = t.slot;
  const ThreadView& self = *machine->self;
  const u64 specials[kSpecials] = {static_cast<u64>(self.index),        static_cast<u64>(self.block_threads),
                                   static_cast<u64>(self.block_index),  static_cast<u64>(self.grid_blocks),
                                   static_cast<u64>(self.cluster_rank), static_cast<u64>(self.index % 32)};
  __builtin_memcpy(slot, specials, sizeof specials);
  __builtin_memcpy(slot + kSpecials, program.constants, sizeof(u64) * static_cast<u64>(program.constant_count));
  u64* const entered =
      program.executed + static_cast<u64>(self.index / 32) * program.block_count * 32 + self.index % 32;
  u64 left = program.most;
  const u64 most_idle = program.most_idle * static_cast<u64>(self.block_threads);
  for (const Instruction* at = program.code;; ++at) {
    if (at->flags & (guarded | tracked) && !t.is_executed(at)) continue;
    const u16* const x = at->operand;
    switch (at->code) {
      case k_block:
        ++entered[at->value * 32];
        if (--left == 0) t.fail(at, "the thread does not come to an end");
        if (++program.idle == most_idle) t.fail(at, "the launch does not come to an end");
        break;
      case k_bra: at = program.code + at->value - 1; break;
      case k_ret: return;
      case k_trap: t.fail(at, "trap");
      case k_pack: {
        u64 whole = 0;
        for (int k = 1, shift = 0; k < at->operands; ++k, shift += 8 * at->bytes) {
          whole |= (slot[x[k]] & (~0ull >> (64 - 8 * at->bytes))) << shift;
        }
        slot[x[0]] = whole;
        break;
      }
      case k_unpack: {
        const u64 whole = slot[x[at->results]];
        for (int k = 0; k < at->results; ++k) {
          slot[x[k]] = whole >> (8 * at->bytes * k) & (~0ull >> (64 - 8 * at->bytes));
        }
        break;
      }
      case k_load_param: t.load(at, 0, at->results, t.parameter(at, t.address(at, at->results), at->results)); break;
      case k_load_global:
        machine->may_switch();
        t.load(at, 0, at->results, t.global(at, t.address(at, at->results), at->results, Touch::read));
        break;
      case k_store_global:
        machine->may_switch();
        t.store(at, 1, at->operands - 1, t.global(at, t.address(at, 0), at->operands - 1, Touch::write));
        break;
      case k_load_shared:
        machine->may_switch();
        t.load(at, 0, at->results, t.shared(at, t.address(at, at->results), at->results, Touch::read, -1));
        break;
      case k_store_shared:
        machine->may_switch();
        t.store(at, 1, at->operands - 1, t.shared(at, t.address(at, 0), at->operands - 1, Touch::write, -1));
        break;
      case k_add_shared: {
        machine->may_switch();
        auto* const word = static_cast<u32*>(t.shared(at, t.address(at, 1), 1, Touch::add, -1));
        const u32 before = *word;
        *word = before + static_cast<u32>(slot[x[2]]);
        slot[x[0]] = before;
        break;
      }
      case k_load_generic:
        machine->may_switch();
        t.load(at, 0, at->results, t.generic(at, t.address(at, at->results), at->results, Touch::read));
        break;
      case k_store_generic:
        machine->may_switch();
        t.store(at, 1, at->operands - 1, t.generic(at, t.address(at, 0), at->operands - 1, Touch::write));
        break;
      case k_store_cluster: {
        machine->may_switch();
        const u32 to = static_cast<u32>(t.address(at, 0));
        t.store(at, 1, at->operands - 1, t.in_cluster(at, to, at->operands - 1, Touch::write));
        break;
      }
      case k_start_copy:
        machine->may_switch();
        program.idle = 0;
        machine->begin_copy(static_cast<i64>(slot[x[0]]), reinterpret_cast<const void*>(slot[x[1]]), at->bytes, true,
                            t.line(at), program.name);
        break;
      case k_finish_copies:
        machine->may_switch();
        machine->complete_copies(t.line(at), program.name);
        break;
      // Operands: the result, whether the lane that it came from is in the group, value, lane, reach, members.
      case k_shfl_bfly:
      case k_shfl_idx: {
        const Collective kind = at->code == k_shfl_idx ? Collective::shuffle : Collective::shuffle_xor;
        slot[x[0]] = t.shuffled(at, kind, slot[x[2]], static_cast<u32>(slot[x[3]]), static_cast<u32>(slot[x[4]]),
                                static_cast<u32>(slot[x[5]]));
        slot[x[1]] = 1;
        break;
      }
      case k_vote_ballot: slot[x[0]] = t.votes(at, slot[x[1]], static_cast<u32>(slot[x[2]])); break;
      case k_vote_any: slot[x[0]] = t.votes(at, slot[x[1]], static_cast<u32>(slot[x[2]])) != 0; break;
      case k_vote_all: slot[x[0]] = t.votes(at, slot[x[1]], static_cast<u32>(slot[x[2]])) == 0xffffffffu; break;
      case k_bar_sync:
        if (slot[x[0]] != 0) t.fail(at, "a barrier other than 0");
        t.barrier(at, Collective::block_barrier);
        break;
      case k_bar_warp_sync: t.votes(at, 0, static_cast<u32>(slot[x[0]])); break;
      case k_cluster_arrive: t.barrier(at, Collective::cluster_arrive); break;
      case k_cluster_wait: t.barrier(at, Collective::cluster_wait); break;
      case k_fence_async: machine->publish(); break;
      case k_mbarrier_init:
        if (slot[x[1]] != 1) t.fail(at, "a barrier for other than one arrival");
        t.bulk_barrier(at, BulkBarrier::init, slot[x[0]], 0);
        break;
      case k_mbarrier_expect: t.bulk_barrier(at, BulkBarrier::expect, slot[x[0]], slot[x[1]]); break;
      case k_mbarrier_wait:
        if (slot[x[2]] != 0) t.fail(at, "a wait for other than a barrier's first phase");
        t.bulk_barrier(at, BulkBarrier::wait, slot[x[1]], 0);
        slot[x[0]] = 1;
        break;
      case k_mbarrier_inval: t.bulk_barrier(at, BulkBarrier::inval, slot[x[0]], 0); break;
      case k_bulk_read:
        t.begin_bulk(at, slot[x[0]], slot[x[1]], slot[x[2]], Touch::read, static_cast<i64>(slot[x[3]]));
        break;
      case k_bulk_write:
        t.begin_bulk(at, slot[x[1]], slot[x[0]], slot[x[2]], Touch::write, -1);
        t.uncommitted = true;
        break;
      case k_bulk_commit: t.uncommitted = false; break;
      case k_bulk_finish:
        if (t.uncommitted || slot[x[0]] != 0) t.fail(at, "a wait that is not for all bulk copies");
        machine->may_switch();
        machine->complete_bulk_writes(t.line(at), program.name);
        break;
// The others: one case each, in the order of kNames.
#define CSM_CASE(D, result)               \
  slot[x[0]] = Register<D>::bits(result); \
  break;
#define CSM_OPERAND(name, T, k) [[maybe_unused]] const typename Register<T>::type name = Register<T>::value(slot[x[k]]);
#define CSM_FIRST (__COUNTER__ - kFirst + kComputed)
#define UNARY(name, D, A, result) \
  case CSM_FIRST: {               \
    CSM_OPERAND(a, A, 1)          \
    CSM_CASE(D, result)           \
  }
#define BINARY(name, D, A, B, result)                             \
  case CSM_FIRST: {                                               \
    CSM_OPERAND(a, A, 1) CSM_OPERAND(b, B, 2) CSM_CASE(D, result) \
  }
#define TERNARY(name, D, A, B, C, result)                                              \
  case CSM_FIRST: {                                                                    \
    CSM_OPERAND(a, A, 1) CSM_OPERAND(b, B, 2) CSM_OPERAND(c, C, 3) CSM_CASE(D, result) \
  }
#define QUATERNARY(name, D, A, B, C, E, result)                                                             \
  case CSM_FIRST: {                                                                                         \
    CSM_OPERAND(a, A, 1) CSM_OPERAND(b, B, 2) CSM_OPERAND(c, C, 3) CSM_OPERAND(d, E, 4) CSM_CASE(D, result) \
  }
#include "instructions.h"
      default: __builtin_unreachable();
    }
  }
}

}  // namespace
}  // namespace csm::ptx

#define CSM_EXPORT extern "C" __attribute__((visibility("default")))

CSM_EXPORT void csm_attach(csm::Machine* machine) { csm::machine = machine; }
CSM_EXPORT void csm_enter(void** args) { csm::ptx::run(*static_cast<const csm::ptx::Program*>(args[0])); }

// Name number `index` of the instructions and how many operands it has, or null after the last.
CSM_EXPORT const char* csm_ptx_name(int index, int* operands) {
  using namespace csm::ptx;
  if (index >= static_cast<int>(sizeof kNames / sizeof *kNames)) return nullptr;
  *operands = kNames[index].operands;
  return kNames[index].text;
}
