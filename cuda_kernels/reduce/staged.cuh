// A range of elements staged in shared memory, and tiles that take their elements from there: for the segment pattern,
// whose rows start anywhere.
//
// Global memory is accessed in aligned vectors and whole sectors of the range, which rows of any start and length could
// not do one by one. Shared memory holds values of type Acc, one array for each input. The results replace the first
// input's array.
#pragma once

#include "reduce/tile.cuh"

namespace csm {

// Elements [begin, end) of the reduced dimension, at most Room − kMaxVec of them, for a block of Threads. The barriers
// between read(), the tiles and write() are the caller's.
template <int Room, int Threads>
class Staged {
  static_assert(kOutputs == 1, "the results replace the first input, so there is one output");
  static constexpr int kAcc = static_cast<int>(sizeof(Acc));
  static constexpr int kPack = kVec * kAcc < 16 ? kVec : 16 / kAcc;  // values of one shared memory access
  static constexpr int kLoadsInFlight = 4;  // vectors of an input that a thread loads before it uses one
  using Pack = Vec<Acc, kPack>;

 public:
  static constexpr int kBytes = kInputs * Room * kAcc;

  CSM_DEVICE Staged(i64 begin, i64 end) : begin_(begin), count_(static_cast<int>(end - begin)) {
    const unsigned low = static_cast<unsigned>(begin), gap = (0 - low) % kWhole;
    shift_ = static_cast<int>(low % kVec);
    before_ = static_cast<int>(gap) < count_ ? static_cast<int>(gap) : count_;
    whole_ = static_cast<int>(static_cast<unsigned>(count_ - before_) / kWhole * kWhole);
  }

  // The place of element i in the arrays. That of element i + k is k more.
  CSM_DEVICE int place(i64 i) const { return static_cast<int>(i - begin_) + shift_; }
  CSM_DEVICE Acc get(int input, int place) const { return Shared<Acc>(0).load(input * Room + place); }
  CSM_DEVICE void put(int input, int place, Acc value) const { Shared<Acc>(0).store(input * Room + place, value); }

  // Copies the inputs to shared memory, and the results back. The whole block calls them.
  CSM_DEVICE void read(const Arguments& args, const Row& row) const {
    constexpr int kStep = Threads * kVec;
    int apart = -1;  // an element outside of whole vectors: on its way together with them
    Acc at_end[kInputs][1];
    ragged([&](int i, bool wanted) {
      load_inputs(args, row, i, 0, wanted, at_end);
      apart = wanted ? i : -1;
    });
    for (int first = thread_index() * kVec; first < whole_; first += kLoadsInFlight * kStep) {
      Acc got[kLoadsInFlight][kInputs][kVec];
#pragma unroll
      for (int u = 0; u < kLoadsInFlight; ++u) {
        const int i = first + u * kStep;
        load_inputs(args, row, before_, i, i < whole_, got[u]);
      }
#pragma unroll
      for (int u = 0; u < kLoadsInFlight; ++u) {
        const int i = first + u * kStep;
#pragma unroll
        for (int k = 0; k < kInputs; ++k) {
          if (i < whole_) store_vector(k, shift_ + before_ + i, got[u][k]);
        }
      }
    }
    if (apart >= 0) {
#pragma unroll
      for (int k = 0; k < kInputs; ++k) put(k, shift_ + apart, at_end[k][0]);
    }
  }
  CSM_DEVICE void write(const Arguments& args, const Row& row) const {
    using T = Type<kFirstOutput>;
    for (int i = thread_index() * kVec; i < whole_; i += Threads * kVec) {
      Acc from[kVec];
      load_vector(0, shift_ + before_ + i, from);
      store<T>(address<kFirstOutput>(args, row, before_, i), true, from);
    }
    ragged([&](int i, bool wanted) {
      const Acc from[1] = {wanted ? get(0, shift_ + i) : Acc(0)};
      store<T>(address<kFirstOutput>(args, row, i, 0), wanted, from);
    });
  }

 private:
  i64 begin_;
  int shift_, count_;  // the place of the first element; the number of all
  // How many lie before the part that whole sectors of every operand cover, or whole vectors if those are narrow, and
  // in that part.
  int before_, whole_;

  template <int Operand = kFirstRowOutput - 1>
  CSM_DEVICE static constexpr int most_in_a_sector() {
    const int here = 32 / static_cast<int>(sizeof(Type<Operand>));
    if constexpr (Operand == 0) return here;
    else return here > most_in_a_sector<Operand - 1>() ? here : most_in_a_sector<Operand - 1>();
  }
  static constexpr int kWhole = kVec == kMaxVec ? most_in_a_sector<>() : kVec;

  // Of element first + i of the range.
  template <int Operand>
  CSM_DEVICE char* address(const Arguments& args, const Row& row, int first, int i) const {
    char* const start = row.start[Operand];
    if constexpr (kRowDims > 1) return start + element_offset<Operand>(args, begin_ + first + i);
    else return start + element_offset<Operand>(args, begin_ + first) + i * static_cast<int>(sizeof(Type<Operand>));
  }

  // Element first + i of the range and its neighbours, of every input.
  template <int Operand = 0, int kCount>
  CSM_DEVICE void load_inputs(const Arguments& args, const Row& row, int first, int i, bool wanted,
                              Acc (&got)[kInputs][kCount]) const {
    if constexpr (Operand < kInputs) {
      load<Type<Operand>, Neutral::zero>(address<Operand>(args, row, first, i), wanted, got[Operand]);
      load_inputs<Operand + 1>(args, row, first, i, wanted, got);
    }
  }

  // Visits the elements before that part and after it: at most one a thread.
  template <class Visit>
  CSM_DEVICE void ragged(Visit visit) const {
    if constexpr (kVec > 1) {
      const int t = thread_index();
      const bool front = t < kWhole;
      visit(front ? t : before_ + whole_ + (t - kWhole), front ? t < before_ : before_ + whole_ + t < count_ + kWhole);
    }
  }

  CSM_DEVICE static void load_vector(int input, int place, Acc (&to)[kVec]) {
#pragma unroll
    for (int p = 0; p < kVec; p += kPack) {
      const Pack pack = Shared<Pack>((input * Room + place) * kAcc).load(p / kPack);
#pragma unroll
      for (int i = 0; i < kPack; ++i) to[p + i] = pack.item[i];
    }
  }
  CSM_DEVICE static void store_vector(int input, int place, const Acc (&from)[kVec]) {
#pragma unroll
    for (int p = 0; p < kVec; p += kPack) {
      Pack pack;
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack.item[i] = from[p + i];
      Shared<Pack>((input * Room + place) * kAcc).store(p / kPack, pack);
    }
  }
};

// RowTile for a chunk of a staged row: it loads and stores elements in shared memory. `place` is that of the chunk's
// first element.
template <class Op, int kLanes, int kItems, int kActsFor = 1>
class StagedTile : public RowTile<Op, kLanes, kItems, 1, i64, false, kLanes * kActsFor> {
 public:
  CSM_DEVICE StagedTile(i64 first, i64 n) : RowTile<Op, kLanes, kItems, 1, i64, false, kLanes * kActsFor>(first, n) {
    this->mine_ = computed_once(this->mine_);  // each access has a condition
  }

  template <class From>
  CSM_DEVICE void load_elements(const From& staged, int place) {
    place += thread_index() % kLanes;
#pragma unroll
    for (int block = 0; block < kItems; block += kMaxVec) {
      const bool any = kLanes == 1 || this->reached(block);
#pragma unroll
      for (int i = block; i < block + kMaxVec; ++i) {
#pragma unroll
        for (int k = 0; k < kInputs; ++k) {
          this->item_[i][k] = neutral<Op>(k);
          if (any && this->wanted(i)) this->item_[i][k] = staged.get(k, place + i * kLanes);
        }
      }
    }
  }

  // Stores what reduce() has made of the elements, for load_elements().
  template <class To>
  CSM_DEVICE void store_elements(const To& staged, int place) const {
    each_wanted(place, [&](int i, int at) {
#pragma unroll
      for (int k = 0; k < kInputs; ++k) staged.put(k, at, this->item_[i][k]);
    });
  }

  template <class To>
  CSM_DEVICE void store_results(const To& staged, int place, const typename Op::Scale& whole) {
    const typename Op::Scale scale = this->ready(whole);
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
    for (int block = 0; block < kItems; block += kMaxVec) {
      if (kLanes > 1 && !this->reached(block)) continue;
#pragma unroll
      for (int i = block; i < block + kMaxVec; ++i) {
        if (this->wanted(i)) visit(i, place + i * kLanes);
      }
    }
  }
};

}  // namespace csm
