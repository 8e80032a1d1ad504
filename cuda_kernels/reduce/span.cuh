// A span: neighbouring elements of each staged operand, whole rows or a part of one, in shared memory. For rows that do
// not start on the boundaries of accesses and sectors.
//
// Thread: copies vectors of 16 bytes between global and shared memory, some neighbouring ones a warp, and at most one
// single element at either end. Warp: accesses whole sectors, from the first in the span on, so that only a sector that
// two blocks share is accessed twice. Block: all its threads copy.
//
// With kBulk one thread copies the whole sectors of a block's span, each operand's by one bulk copy, and the first warp
// the single elements (the first two warps, of bytes).
//
// Elements keep their stored type and their place modulo 16 bytes; a tile finds them at Row::staged. The results take
// the place of the inputs.
//
// Barriers are the caller's: one between read() and the tiles, one between the last tile that reads and the first that
// writes unless results are kInPlace, one between the tiles and write(), which is results_barrier(), and one before the
// next span.
//
// Where a span has room for whole chunks, pad() lets tiles access it without conditions, which would be an instruction
// an element for each access.
#pragma once

#include "reduce/row.cuh"

namespace csm {

// Whether the elements of each staged result are as large as those of the input whose place they take: a thread then
// writes what it alone has read.
template <int Input = 0, int Output = kFirstOutput>
CSM_DEVICE constexpr bool in_place() {
  if constexpr (Output == kFirstRowOutput) return true;
  else if constexpr (!kStaged<Output>) return in_place<Input, Output + 1>();
  else if constexpr (Input == kInputs) return false;
  else if constexpr (!kStaged<Input>) return in_place<Input + 1, Output>();
  else return sizeof(Type<Input>) == sizeof(Type<Output>) && in_place<Input + 1, Output + 1>();
}
constexpr bool kInPlace = in_place();

// kHeld: the elements that a thread has room for. kOfWarp: each warp of the block has a span of its own. kApart: the
// results have a place of their own, behind the inputs.
template <int kHeld = kItems, bool kOfWarp = false, bool kApart = false>
class SpanOf {
  struct alignas(16) Vector {
    unsigned word[4];
  };
  static constexpr int kVector = static_cast<int>(sizeof(Vector)), kSector = 32;  // bytes
  // Whether bulk copies copy, and the bytes before the span, of the barrier that counts what they have read.
  static constexpr bool kInBulk = kBulk && !kOfWarp;
  static constexpr int kAhead = kInBulk ? kVector : 0, kBarrier = 0;
  static constexpr int kStep = kWarp * kVector;
  template <int Operand>
  static constexpr int kSize = static_cast<int>(sizeof(Type<Operand>));
  // Vectors that a thread copies.
  template <int Operand>
  static constexpr int kCopies = (kHeld * kSize<Operand> + kVector - 1) / kVector;

 public:
  // Bytes of shared memory for a span of up to `room` elements. The host computes them too.
  CSM_DEVICE static int bytes(int room) {
    const int read = area<kInputs>(room), written = area<kFirstRowOutput, kFirstOutput>(room);
    return kAhead + (kApart ? read + written : kInPlace || read > written ? read : written);
  }

  // `count` elements from element `first` of a row on; they may reach into the next rows. At most `room`, and at most
  // kHeld a thread. The same for all threads that share the span.
  CSM_DEVICE SpanOf(const Row& row, i64 first, i64 count, int room) : count_(static_cast<int>(count < 0 ? 0 : count)) {
    lay_out(row, first, room);
  }

  // Lets the tiles of `row` find its elements: the first of them is element `place` of the span, if it is in the span.
  template <int Operand = 0>
  CSM_DEVICE void set_places(Row& row, i64 place) const {
    if constexpr (Operand < kFirstRowOutput) {
      if constexpr (kStaged<Operand>) row.staged[Operand] = at_[Operand] + static_cast<int>(place * kSize<Operand>);
      set_places<Operand + 1>(row, place);
    }
  }

  // Copies the inputs to shared memory. All of all inputs are in flight at once.
  CSM_DEVICE void read() const {
    if constexpr (!kInBulk) {
      each_staged<0, kInputs>([&](auto operand) { read_vectors<operand.number>(); });
      each_staged<0, kInputs>([&](auto operand) { read_end<operand.number>(); });
      finish_copies();
    } else if (thread_index() < threads_at_ends<0>()) {
      const bool first = thread_index() == 0;
      if (first) {
        unsigned bytes = 0;
        each_staged<0, kInputs>([&](auto operand) { bytes += part_of<operand.number>().whole; });
        begin_bulk_reads(kBarrier, bytes);
        each_staged<0, kInputs>([&](auto operand) {
          const auto part = part_of<operand.number>();
          const char* const from = from_[operand.number] + part.before;
          if (part.whole != 0) start_bulk_read(at_[operand.number] + part.before, from, part.whole, kBarrier);
        });
      }
      each_staged<0, kInputs>([&](auto operand) { read_end<operand.number>(); });
      if (first) finish_bulk_reads(kBarrier);
    }
  }

  // Puts neutral elements behind the inputs, up to element `end`, if that is behind them, and to the end of a vector:
  // this thread the at-th and every step-th vector. At any time before the barrier that follows read().
  template <class Op>
  CSM_DEVICE void pad(int at, int step, int end) const {
    if (count_ < end) pad_operands<Op>(at, step, end);
  }

  // The barrier between the tiles and write().
  CSM_DEVICE static void results_barrier() {
    if constexpr (kInBulk) publish_to_bulk_copies();
    block_barrier();
  }

  // Copies the results back.
  CSM_DEVICE void write() const {
    if constexpr (!kInBulk) {
      each_staged<kFirstOutput, kFirstRowOutput>([&](auto operand) { write_vectors<operand.number>(); });
      each_staged<kFirstOutput, kFirstRowOutput>([&](auto operand) { write_end<operand.number>(); });
    } else if (thread_index() < threads_at_ends<0>()) {
      const bool first = thread_index() == 0;
      if (first) {
        each_staged<kFirstOutput, kFirstRowOutput>([&](auto operand) {
          const auto part = part_of<operand.number>();
          char* const to = from_[operand.number] + part.before;
          if (part.whole != 0) start_bulk_write(to, at_[operand.number] + part.before, part.whole);
        });
      }
      each_staged<kFirstOutput, kFirstRowOutput>([&](auto operand) { write_end<operand.number>(); });
      if (first) finish_bulk_writes();
    }
  }

 private:
  template <class Op, int Operand = 0>
  CSM_DEVICE void pad_operands(int at, int step, int end) const {
    if constexpr (Operand < kInputs) {
      using T = Type<Operand>;
      if constexpr (kStaged<Operand> && kHasNeutral<T, neutral_of<Op>(Operand)>) {
        constexpr int kEach = kVector / kSize<Operand>;
        Vec<T, kEach> neutral = {};
        if constexpr (neutral_of<Op>(Operand) == Neutral::lowest) {
#pragma unroll
          for (int i = 0; i < kEach; ++i) neutral.item[i] = Lowest<T>::value();
        }
        const int first = at_[Operand] + count_ * kSize<Operand>, last = at_[Operand] + end * kSize<Operand>;
        const int gap = (0 - first) & (kVector - 1);
        if (at * kSize<Operand> < gap) Shared<T>(first).store(at, neutral.item[0]);
#pragma unroll 1
        for (int byte = first + gap + at * kVector; byte < last; byte += step * kVector) {
          Shared<Vec<T, kEach>>(byte).store(0, neutral);
        }
      }
      pad_operands<Op, Operand + 1>(at, step, end);
    }
  }

  char* from_[kOperands];  // where the span starts in global memory
  int at_[kOperands];      // and in shared memory, in bytes
  int count_;

  // Calls visit(Number<k>{}) for each staged operand k from kFrom on, below kEnd.
  template <int kOperand>
  struct Number {
    static constexpr int number = kOperand;
  };
  template <int kFrom, int kEnd, class Visit>
  CSM_DEVICE static void each_staged(Visit visit) {
    if constexpr (kFrom < kEnd) {
      if constexpr (kStaged<kFrom>) visit(Number<kFrom>{});
      each_staged<kFrom + 1, kEnd>(visit);
    }
  }
  template <int Operand>
  CSM_DEVICE auto part_of() const {
    return Part<kSize<Operand>>(*this);
  }

  template <int Operand>
  CSM_DEVICE void read_vectors() const {
    const auto part = part_of<Operand>();
    const int at = at_[Operand] + part.first;
    // Distances from the middle: an instruction has 12 bits for them.
    constexpr int kMiddle = kCopies<Operand> / 2 * kStep;
    const char* const middle = common_base(from_[Operand] + (part.first + static_cast<unsigned>(kMiddle)));
#pragma unroll
    for (int k = 0; k < kCopies<Operand>; ++k) {
      start_copy(at + k * kStep, middle + (k * kStep - kMiddle), part.wanted(k));
    }
  }
  template <int Operand>
  CSM_DEVICE void write_vectors() const {
    const auto part = part_of<Operand>();
    const Shared<Vector> at(at_[Operand] + part.first);
    char* const to = common_base(from_[Operand] + part.first);
    constexpr int kAtOnce = 4;  // 16 registers
#pragma unroll
    for (int first = 0; first < kCopies<Operand>; first += kAtOnce) {
      const int last = first + kAtOnce < kCopies<Operand> ? first + kAtOnce : kCopies<Operand>;
      Vector got[kAtOnce];
#pragma unroll
      for (int k = first; k < last; ++k) {
        if (part.wanted(k)) got[k - first] = at.load(k * kWarp);
      }
#pragma unroll
      for (int k = first; k < last; ++k) global_store(to + k * kStep, got[k - first], part.wanted(k));
    }
  }
  // The threads that may have an element at an end of the span: the first ones.
  template <int Operand>
  CSM_DEVICE static constexpr int threads_at_ends() {
    if constexpr (Operand == kFirstRowOutput) {
      return 0;
    } else {
      constexpr int kOthers = threads_at_ends<Operand + 1>();
      constexpr int kOwn = kStaged<Operand> ? 2 * (kSector / kSize<Operand>) : 0;
      return kOwn > kOthers ? kOwn : kOthers;
    }
  }
  // Copies this thread's element at an end.
  template <int Operand>
  CSM_DEVICE void read_end() const {
    using T = Type<Operand>;
    const auto part = part_of<Operand>();
    if (unlikely(part.may_have_end)) {
      const unsigned end = part.end();
      if (end < part.bytes) Shared<T>(at_[Operand] + end).store(0, global_load(from_[Operand] + end, true, T{}));
    }
  }
  template <int Operand>
  CSM_DEVICE void write_end() const {
    using T = Type<Operand>;
    const auto part = part_of<Operand>();
    if (unlikely(part.may_have_end)) {
      const unsigned end = part.end();
      if (end < part.bytes) global_store(from_[Operand] + end, Shared<T>(at_[Operand] + end).load(0), true);
    }
  }

  // Bytes of shared memory before operand `End`, from operand `Operand` on.
  template <int End, int Operand = 0>
  CSM_DEVICE static int area(int room) {
    if constexpr (Operand >= End) return 0;
    else
      return (kStaged<Operand> ? (room * kSize<Operand> + 2u * kVector - 1) / kVector * kVector : 0) +
             area<End, Operand + 1>(room);
  }

  template <int Operand = 0>
  CSM_DEVICE void lay_out(const Row& row, i64 first, int room) {
    if constexpr (Operand < kFirstRowOutput) {
      if constexpr (kStaged<Operand>) {
        constexpr int kFirst = kApart || Operand < kInputs ? 0 : kFirstOutput;
        from_[Operand] = row.start[Operand] + first * kSize<Operand>;
        at_[Operand] = kAhead + (kOfWarp ? thread_index() / kWarp * bytes(room) : 0) + area<Operand, kFirst>(room) +
                       low_word(from_[first_of<kSize<Operand>>()]) % kVector;
      }
      lay_out<Operand + 1>(row, first, room);
    }
  }
  CSM_DEVICE static unsigned low_word(const char* address) {
    return static_cast<unsigned>(reinterpret_cast<u64>(address));
  }

  // The first staged operand with elements of this size. All of them lie alike: the planner stages no others.
  template <int Size, int Operand = 0>
  CSM_DEVICE static constexpr int first_of() {
    if constexpr (kStaged<Operand> && kSize<Operand> == Size) return Operand;
    else return first_of<Size, Operand + 1>();
  }

  // What this thread copies: every 32nd of some neighbouring vectors of the whole sectors, and an element at an end.
  template <int Size>
  struct Part {
    unsigned first;  // the byte of the first vector in the span
    int left;        // the bytes of whole sectors from there on
    unsigned bytes;  // of the span, of which so many are before the whole sectors, and in these
    unsigned before, whole;
    int thread;
    bool may_have_end;  // whether there are others, and this thread is one of those that copy them

    CSM_DEVICE explicit Part(const SpanOf& span) {
      constexpr int kFirst = first_of<Size>(), kCopied = kCopies<kFirst>;
      const int lane = thread_index() % kWarp;
      thread = kOfWarp ? lane : thread_index();
      const int vector = ((thread - lane) * kCopied + lane) * kVector;
      bytes = static_cast<unsigned>(span.count_ * Size);
      const unsigned gap = (0 - low_word(span.from_[kFirst])) % kSector;
      before = gap < bytes ? gap : bytes;
      whole = (bytes - before) / kSector * kSector;
      may_have_end = whole != bytes && thread < 2 * (kSector / Size);
      first = before + static_cast<unsigned>(vector);
      left = static_cast<int>(whole) - vector;
    }
    CSM_DEVICE bool wanted(int k) const { return k * kStep < left; }
    // The byte of this thread's element at an end; none if it is behind the span.
    CSM_DEVICE unsigned end() const {
      const unsigned byte = static_cast<unsigned>(thread * Size);
      return byte < before ? byte : byte + whole;
    }
  };
};
using Span = SpanOf<>;

// The span of a block's rows, from number `base` on, which lie end to end.
template <class Span = csm::Span>
CSM_DEVICE Span span_of_rows(const Arguments& args, i64 base, int rows_at_once) {
  const i64 left = args.layout.rows - base;
  const int n = static_cast<int>(args.layout.n), rows = left < rows_at_once ? static_cast<int>(left) : rows_at_once;
  return Span(row_at(args, base), 0, rows * n, rows_at_once * n);
}

}  // namespace csm
