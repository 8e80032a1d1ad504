// A block's part of rows that lie side by side, in shared memory: lines of one element of each of some neighbouring
// rows. For lines that do not start on the boundaries of accesses and sectors.
//
// Thread: copies vectors of 16 bytes between global and shared memory, and single elements at the ends of lines.
// Warp: copies a line, in whole sectors but at the ends. Block: its warps take lines by turns; where the block has all
// rows that lie side by side, its lines lie end to end, and all its threads copy them as one.
//
// Elements keep their stored type and their place modulo 16 bytes. A result takes the place of the input that has its
// number, if both are of one size; a thread overwrites only what it alone has read.
//
// Barriers are the caller's: one between read() and the tiles, one between the tiles and write(), and one before the
// next part is read.
#pragma once

#include "reduce/row.cuh"

namespace csm {

class ColumnSpan {
  struct alignas(16) Vector {
    unsigned word[4];
  };
  static constexpr int kVector = static_cast<int>(sizeof(Vector)), kSector = 32;  // bytes
  static constexpr int kLinesInFlight = 4;  // of whose ends a thread issues loads before it uses one
  template <int Operand>
  static constexpr int kSize = static_cast<int>(sizeof(Type<Operand>));
  // Elements at the ends of a line that a thread copies, of those in two sectors.
  template <int Operand>
  static constexpr int kEnds = (2 * kSector / kSize<Operand> + kWarp - 1) / kWarp;
  template <int Size, int Operand = 0>
  CSM_DEVICE static constexpr int first_of() {
    if constexpr (kStaged<Operand> && kSize<Operand> == Size) return Operand;
    else return first_of<Size, Operand + 1>();
  }
  // The input whose place a result takes, if that has its size.
  template <int Operand>
  static constexpr int kInput = Operand - kFirstOutput;

  template <int Operand>
  CSM_DEVICE static constexpr bool takes_place() {
    if constexpr (Operand >= kFirstOutput && kInput<Operand> < kInputs) {
      return kStaged<kInput<Operand>> && kSize<kInput<Operand>> == kSize<Operand>;
    }
    return false;
  }

 public:
  // `columns` rows, from `row` on, and `lines` elements of each, from element `first` on. There is room for `most`
  // elements of `room` rows.
  CSM_DEVICE ColumnSpan(const Layout& layout, const Row& row, i64 first, i64 lines, int columns, int most, int room)
      : lines_(static_cast<int>(lines < 0 ? 0 : lines)), columns_(columns), as_one_(room == layout.inner) {
    bytes_ = lay_out(layout, row, first, most, room);
  }

  // Bytes of shared memory. The host computes them too.
  CSM_DEVICE int bytes() const { return bytes_; }

  // Lets a tile of `row` find its elements: the first of them is that of `column` in `line`.
  template <int Operand = 0>
  CSM_DEVICE void set_places(Row& row, int line, int column) const {
    if constexpr (Operand < kFirstRowOutput) {
      if constexpr (kStaged<Operand>) {
        row.staged[Operand] = at_[Operand] + line * pitch<Operand>() + column * kSize<Operand>;
      }
      set_places<Operand + 1>(row, line, column);
    }
  }
  // Bytes from one line to the next.
  template <int Operand>
  CSM_DEVICE int pitch() const {
    return pitch_[first_of<kSize<Operand>>()];  // one register for all operands whose elements have this size
  }

  // Copies the inputs to shared memory.
  CSM_DEVICE void read(const Layout& layout) const {
    read_vectors(layout);
    read_ends(layout);
    finish_copies();
  }

  // Copies the results back.
  template <int Operand = kFirstOutput>
  CSM_DEVICE void write(const Layout& layout) const {
    if constexpr (Operand < kFirstRowOutput) {
      if constexpr (kStaged<Operand>) {
        using T = Type<Operand>;
        for (int number = first_line(); number < lines(); number += step()) {
          const Line<Operand> line(*this, layout, number);
          for (int done = 0; done < line.whole; done += team() * kVector) {
            const int byte = done + member() * kVector, at = line.before + byte;
            const bool wanted = byte < line.whole;
            const Vector got = wanted ? Shared<Vector>(line.at + at).load(0) : Vector{};
            global_store(line.from + at, got, wanted);
          }
#pragma unroll
          for (int k = 0; k < kEnds<Operand>; ++k) {
            const int at = line.end(end_byte<Operand>(k));
            const bool wanted = at < line.bytes;
            const T got = wanted ? Shared<T>(line.at + at).load(0) : T{};
            global_store(line.from + at, got, wanted);
          }
        }
      }
      write<Operand + 1>(layout);
    }
  }

 private:
  char* from_[kOperands];  // where the part starts in global memory
  int at_[kOperands];      // and in shared memory, in bytes
  int pitch_[kOperands];
  int lines_, columns_, bytes_;
  bool as_one_;

  CSM_DEVICE int lines() const { return as_one_ ? 1 : lines_; }
  // The threads that copy a line, and this one's number among them.
  CSM_DEVICE int team() const { return as_one_ ? block_threads() : kWarp; }
  CSM_DEVICE int member() const { return as_one_ ? thread_index() : thread_index() % kWarp; }
  CSM_DEVICE int first_line() const { return as_one_ ? 0 : thread_index() / kWarp; }
  CSM_DEVICE int step() const { return block_threads() / team(); }

  template <int Operand>
  CSM_DEVICE int end_byte(int k) const {
    return (member() + k * team()) * kSize<Operand>;
  }

  CSM_DEVICE static int past(const char* address, int unit) {
    return static_cast<int>(reinterpret_cast<u64>(address) % static_cast<unsigned>(unit));
  }

  // A line's bytes: those before the first whole sector, whole sectors, and the rest. A line that is absent has none.
  template <int Operand>
  struct Line {
    char* from;
    int at, bytes, before, whole;

    CSM_DEVICE Line(const ColumnSpan& span, const Layout& layout, int number)
        : from(span.from_[Operand] + number * layout.reduce_stride[Operand][0]),
          at(span.at_[Operand] + number * span.pitch<Operand>()) {
      const int elements = span.columns_ * (span.as_one_ ? span.lines_ : 1);
      bytes = number < span.lines() ? elements * kSize<Operand> : 0;
      const int gap = (kSector - past(from, kSector)) % kSector;
      before = gap < bytes ? gap : bytes;
      whole = (bytes - before) / kSector * kSector;
    }
    // Where the elements lie that are not in whole sectors, by their bytes: two sectors of these, some absent.
    CSM_DEVICE int end(int byte) const { return byte < before ? byte : byte + whole; }
  };

  template <int Operand = 0>
  CSM_DEVICE void read_vectors(const Layout& layout) const {
    if constexpr (Operand < kInputs) {
      if constexpr (kStaged<Operand>) {
        for (int number = first_line(); number < lines(); number += step()) {
          const Line<Operand> line(*this, layout, number);
          for (int done = 0; done < line.whole; done += team() * kVector) {
            const int byte = done + member() * kVector, at = line.before + byte;
            start_copy(line.at + at, line.from + at, byte < line.whole);
          }
        }
      }
      read_vectors<Operand + 1>(layout);
    }
  }
  template <int Operand = 0>
  CSM_DEVICE void read_ends(const Layout& layout) const {
    if constexpr (Operand < kInputs) {
      if constexpr (kStaged<Operand>) {
        using T = Type<Operand>;
        for (int first = first_line(); first < lines(); first += kLinesInFlight * step()) {
          T got[kLinesInFlight][kEnds<Operand>];
#pragma unroll
          for (int u = 0; u < kLinesInFlight; ++u) {
            const Line<Operand> line(*this, layout, first + u * step());
#pragma unroll
            for (int k = 0; k < kEnds<Operand>; ++k) {
              const int at = line.end(end_byte<Operand>(k));
              got[u][k] = global_load(line.from + at, at < line.bytes, T{});
            }
          }
#pragma unroll
          for (int u = 0; u < kLinesInFlight; ++u) {
            const Line<Operand> line(*this, layout, first + u * step());
#pragma unroll
            for (int k = 0; k < kEnds<Operand>; ++k) {
              const int at = line.end(end_byte<Operand>(k));
              if (at < line.bytes) Shared<T>(line.at + at).store(0, got[u][k]);
            }
          }
        }
      }
      read_ends<Operand + 1>(layout);
    }
  }

  // Returns the bytes of shared memory up to the last operand.
  template <int Operand = 0>
  CSM_DEVICE int lay_out(const Layout& layout, const Row& row, i64 first, int most, int room, int used = 0) {
    if constexpr (Operand == kFirstRowOutput) {
      return used;
    } else {
      if constexpr (kStaged<Operand>) {
        const i64 apart = layout.reduce_stride[Operand][0];
        const int line = room * kSize<Operand>;
        from_[Operand] = row.start[Operand] + first * apart;
        pitch_[Operand] = line + static_cast<int>((apart - line) % kVector);
        if constexpr (takes_place<Operand>()) {
          at_[Operand] = at_[kInput<Operand>];
        } else {
          at_[Operand] = used + past(from_[Operand], kVector);
          used += (most * pitch_[Operand] + 2 * kVector - 1) / kVector * kVector;
        }
      }
      return lay_out<Operand + 1>(layout, row, first, most, room, used);
    }
  }
};

}  // namespace csm
