// A stretch of memory in shared memory, and chunks of rows taken from there.
//
// Global memory is read and written in whole vectors wherever these are aligned, wherever rows begin: that is what a
// row of any place and length could not do by itself. Shared memory holds values of arithmetic, one array an input; the
// results take the place of the first input's.
#pragma once

#include "reduce/tile.cuh"

namespace csm {

// Elements [begin, end) of the folded reduction, at most Room − kGroup of them. All members that are called by the
// whole block leave the barriers to the caller.
template <int Room>
class Staged {
  static_assert(kOutputs == 1, "one array of results takes the place of the first input");
  static constexpr int kAcc = static_cast<int>(sizeof(Acc));
  static constexpr int kPack = kVec * kAcc < 16 ? kVec : 16 / kAcc;  // values of one access to shared memory
  static constexpr int kAtOnce = 4;                                  // accesses to global memory before the first wait
  using Pack = Vec<Acc, kPack>;

 public:
  static constexpr int kBytes = kInputs * Room * kAcc;

  CSM_DEVICE Staged(i64 begin, i64 end) : begin_(begin), end_(end) {}

  // Where element `i` is; that of others is found by adding to it.
  CSM_DEVICE int place(i64 i) const { return static_cast<int>(i - begin_) + static_cast<int>(begin_ % kVec); }
  CSM_DEVICE Acc get(int input, int place) const { return Shared<Acc>(0).load(input * Room + place); }
  CSM_DEVICE void put(int input, int place, Acc value) const { Shared<Acc>(0).store(input * Room + place, value); }

  // By the whole block.
  CSM_DEVICE void read(const Arguments& args, const Row& row) const { read_inputs(args, row); }
  CSM_DEVICE void write(const Arguments& args, const Row& row) const {
    using T = Type<kFirstOutput>;
    const auto address = [&](i64 i) { return row.start[kFirstOutput] + element_offset<kFirstOutput>(args, i); };
    for (i64 i = body() + thread_index() * kVec; i < body_end(); i += block_threads() * kVec) {
      Acc from[kVec];
      take(0, place(i), from);
      store<T>(address(i), true, from);
    }
    ragged([&](i64 i, bool wanted) {
      const Acc from[1] = {wanted ? get(0, place(i)) : Acc(0)};
      store<T>(address(i), wanted, from);
    });
  }

 private:
  i64 begin_, end_;

  // What whole vectors cover, there and in shared memory; nothing if the end is the smaller.
  CSM_DEVICE i64 body() const { return (begin_ + kVec - 1) / kVec * kVec; }
  CSM_DEVICE i64 body_end() const { return end_ / kVec * kVec; }

  template <int Operand = 0>
  CSM_DEVICE void read_inputs(const Arguments& args, const Row& row) const {
    if constexpr (Operand < kInputs) {
      using T = Type<Operand>;
      const auto address = [&](i64 i) { return row.start[Operand] + element_offset<Operand>(args, i); };
      const i64 step = block_threads() * kVec;
      for (i64 first = body() + thread_index() * kVec; first < body_end(); first += kAtOnce * step) {
        Acc got[kAtOnce][kVec];
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const i64 i = first + u * step;
          load<T, Neutral::zero>(address(i), i < body_end(), got[u]);
        }
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          if (first + u * step < body_end()) give(Operand, place(first + u * step), got[u]);
        }
      }
      ragged([&](i64 i, bool wanted) {
        Acc got[1];
        load<T, Neutral::zero>(address(i), wanted, got);
        if (wanted) put(Operand, place(i), got[0]);
      });
      read_inputs<Operand + 1>(args, row);
    }
  }

  // The elements before the first whole vector and after the last: at most one a thread.
  template <class Visit>
  CSM_DEVICE void ragged(Visit visit) const {
    if constexpr (kVec > 1) {
      const int t = thread_index();
      const bool front = t < kVec;
      const i64 i = front ? begin_ + t : body_end() + (t - kVec);
      visit(i, i < end_ && (front ? i < body() : t < 2 * kVec && i >= body()));
    }
  }

  CSM_DEVICE static void take(int input, int place, Acc (&to)[kVec]) {
#pragma unroll
    for (int p = 0; p < kVec; p += kPack) {
      const Pack pack = Shared<Pack>(input * Room * kAcc).load((place + p) / kPack);
#pragma unroll
      for (int i = 0; i < kPack; ++i) to[p + i] = pack.item[i];
    }
  }
  CSM_DEVICE static void give(int input, int place, const Acc (&from)[kVec]) {
#pragma unroll
    for (int p = 0; p < kVec; p += kPack) {
      Pack pack;
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack.item[i] = from[p + i];
      Shared<Pack>(input * Room * kAcc).store((place + p) / kPack, pack);
    }
  }
};

// A chunk of a row that is staged: RowTile, but for where its elements come from and go to. `place` is that of the
// chunk's first element.
template <class Op, int kLanes, int kItems>
class StagedTile : public RowTile<Op, kLanes, kItems, 1> {
 public:
  CSM_DEVICE StagedTile(i64 first, i64 n) : RowTile<Op, kLanes, kItems, 1>(first, n) {}

  template <class From>
  CSM_DEVICE void fetch(const From& staged, int place) {
    place += thread_index() % kLanes;
#pragma unroll
    for (int block = 0; block < kItems; block += kGroup) {
      const bool any = this->reached(block);
#pragma unroll
      for (int i = block; i < block + kGroup; ++i) {
#pragma unroll
        for (int k = 0; k < kInputs; ++k) {
          this->item_[i][k] = neutral<Op>(k);
          if (any && this->wanted(i)) this->item_[i][k] = staged.get(k, place + i * kLanes);
        }
      }
    }
  }

  // What reduce() made of the elements, for fetch() to find.
  template <class To>
  CSM_DEVICE void keep(const To& staged, int place) const {
    each_wanted(place, [&](int i, int at) {
#pragma unroll
      for (int k = 0; k < kInputs; ++k) staged.put(k, at, this->item_[i][k]);
    });
  }

  template <class To>
  CSM_DEVICE void give(const To& staged, int place, const typename Op::Scale& scale) const {
    each_wanted(place, [&](int i, int at) {
      Values<kOutputs> result;
      Op::map(this->item_[i], scale, this->place_of(i), result);
      staged.put(0, at, result[0]);
    });
  }

 private:
  template <class Visit>
  CSM_DEVICE void each_wanted(int place, Visit visit) const {
    place += thread_index() % kLanes;
#pragma unroll
    for (int block = 0; block < kItems; block += kGroup) {
      if (!this->reached(block)) continue;
#pragma unroll
      for (int i = block; i < block + kGroup; ++i) {
        if (this->wanted(i)) visit(i, place + i * kLanes);
      }
    }
  }
};

}  // namespace csm
