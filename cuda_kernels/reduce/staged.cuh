// A range of elements staged in shared memory, and tiles that take their elements from there: for the segment pattern,
// whose rows start anywhere.
//
// Global memory is accessed in aligned vectors and whole sectors of the range, which rows of any start and length could
// not do one by one. Shared memory holds values of type Acc, one array for each input, and the results replace the
// first input's array. If all are of one 16-bit dtype, it holds them as they are: a lane that has all of a row then
// accesses whole words of two, half as often, and so meets half as many conflicts of banks.
//
// With kBulk, where all operands have the type that shared memory holds, one thread copies the whole sectors of each by
// a bulk copy, and its warp the single elements at either end; otherwise all threads copy.
#pragma once

#include "reduce/tile.cuh"

namespace csm {

template <int Operand = 0>
CSM_DEVICE constexpr bool all_like_output() {
  if constexpr (Operand == kInputs) return true;
  else return kSameType<Type<Operand>, Type<kFirstOutput>> && all_like_output<Operand + 1>();
}
constexpr bool kInPairs = kSingle && kSixteenBits<Type<kFirstOutput>> && all_like_output();

using Kept = NthType<kInPairs, Acc, Type<kFirstOutput>>::type;  // an element in shared memory
using Half = NthType<kInPairs, f16, Kept>::type;                // the same, where they are pairs

// Bytes that are copied to shared memory together with the elements. Number and addresses are multiples of 16.
struct AlsoRead {
  int to;
  const char* from;
  int bytes;
};

// Elements [begin, end) of the reduced dimension, at most Room − kMaxVec of them, for a block of Threads. The barriers
// between read(), the tiles and write() are the caller's, the last one by results_barrier().
template <int Room, int Threads>
class Staged {
  static_assert(kOutputs == 1, "the results replace the first input, so there is one output");
  static constexpr int kSize = static_cast<int>(sizeof(Kept)), kWordBytes = 4, kVectorBytes = 16;
  static_assert(!kBulk || (kVec * kSize == kVectorBytes && kRowDims == 1 && kSameType<Kept, Type<kFirstOutput>> &&
                           all_like_output()),
                "bulk copies do not convert");
  static constexpr int kPack = kVec * kSize < 16 ? kVec : 16 / kSize;  // values of one shared memory access
  static constexpr int kLoadsInFlight = 4;  // vectors of an input that a thread loads before it uses one
  using Pack = Vec<Kept, kPack>;
  template <int kCount>
  using Got = typename NthType<kInPairs && (kCount > 1), Vec<Kept, kCount>, Pairs<kCount>>::type;

 public:
  static constexpr int kBarrier = kInputs * Room * kSize;  // of bulk copies
  static constexpr int kBytes = kBarrier + (kBulk ? kVectorBytes : 0);

  CSM_DEVICE Staged(i64 begin, i64 end) : begin_(begin), count_(static_cast<int>(end - begin)) {
    const unsigned low = static_cast<unsigned>(begin), gap = (0 - low) % kWhole;
    shift_ = static_cast<int>(low % kVec);
    before_ = static_cast<int>(gap) < count_ ? static_cast<int>(gap) : count_;
    whole_ = static_cast<int>(static_cast<unsigned>(count_ - before_) / kWhole * kWhole);
  }

  // The place of element i in the arrays. That of element i + k is k more.
  CSM_DEVICE int place(i64 i) const { return static_cast<int>(i - begin_) + shift_; }
  CSM_DEVICE Acc get(int input, int place) const { return widen(Shared<Kept>(0).load(input * Room + place)); }
  CSM_DEVICE void put(int input, int place, Acc value) const { Shared<Acc>(0).store(input * Room + place, value); }
  CSM_DEVICE void put_result(int place, Acc value) const { Shared<Kept>(0).store(place, narrow<Kept>(value)); }
  // The bits of elements, and words of two, if they are kept so.
  CSM_DEVICE unsigned bits(int input, int place) const { return Shared<u16>(0).load(input * Room + place); }
  CSM_DEVICE void put_bits(int place, unsigned bits) const { Shared<u16>(0).store(place, static_cast<u16>(bits)); }
  // The words from that of an element on.
  CSM_DEVICE Shared<unsigned> words(int input, int place) const {
    return Shared<unsigned>(computed_once(input * Room * kSize + (place >> 1) * kWordBytes));
  }

  // Copies the inputs to shared memory, and the results back. The whole block calls them.
  CSM_DEVICE void read(const Arguments& args, const Row& row, AlsoRead also = {}) const {
    if (kBulk && thread_index() >= kWarp) return;
    if constexpr (!kBulk) {
#pragma unroll 1
      for (int at = thread_index() * kVectorBytes; at < also.bytes; at += Threads * kVectorBytes) {
        start_copy(also.to + at, also.from + at, true);
      }
    } else if (thread_index() == 0) {
      const int bytes = whole_ * kSize;
      begin_bulk_reads(kBarrier, static_cast<unsigned>(kInputs * bytes + also.bytes));
      if (also.bytes != 0) start_bulk_read(also.to, also.from, also.bytes, kBarrier);
      start_bulk_inputs(args, row, bytes);
    }
    int apart = -1;  // an element outside of whole vectors: on its way together with them
    Got<1> at_end[kInputs];
    ragged([&](int i, bool wanted) {
      load_inputs<1>(args, row, i, 0, wanted, at_end);
      apart = wanted ? i : -1;
    });
    if constexpr (!kBulk) read_vectors(args, row);
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      if (apart >= 0) Shared<Kept>(0).store(k * Room + shift_ + apart, at_end[k].item[0]);
    }
    if constexpr (!kBulk) finish_copies();
    else if (thread_index() == 0) finish_bulk_reads(kBarrier);
  }
  // The barrier between the tiles and write().
  CSM_DEVICE static void results_barrier() {
    if constexpr (kBulk) publish_to_bulk_copies();
    block_barrier();
  }
  CSM_DEVICE void write(const Arguments& args, const Row& row) const {
    using T = Type<kFirstOutput>;
    if (kBulk && thread_index() >= kWarp) return;
    const bool first = kBulk && thread_index() == 0;
    if constexpr (!kBulk) {
      write_vectors(args, row);
    } else if (first && whole_ > 0) {
      start_bulk_write(address<kFirstOutput>(args, row, before_, 0), (shift_ + before_) * kSize, whole_ * kSize);
    }
    ragged([&](int i, bool wanted) {
      const Acc from[1] = {wanted ? widen(Shared<Kept>(0).load(shift_ + i)) : Acc(0)};
      store<T>(address<kFirstOutput>(args, row, i, 0), wanted, from);
    });
    if (first) finish_bulk_writes();
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
  static_assert(!kBulk || 2 * kWhole <= kWarp, "one warp has all threads that copy");

  // Of element first + i of the range.
  template <int Operand>
  CSM_DEVICE char* address(const Arguments& args, const Row& row, int first, int i) const {
    char* const start = row.start[Operand];
    if constexpr (kRowDims > 1) return start + element_offset<Operand>(args, begin_ + first + i);
    else return start + element_offset<Operand>(args, begin_ + first) + i * static_cast<int>(sizeof(Type<Operand>));
  }

  // Element first + i of the range and its neighbours, of every input.
  template <int kCount, int Operand = 0>
  CSM_DEVICE void load_inputs(const Arguments& args, const Row& row, int first, int i, bool wanted,
                              Got<kCount> (&got)[kInputs]) const {
    if constexpr (Operand < kInputs) {
      const char* const from = address<Operand>(args, row, first, i);
      if constexpr (!kInPairs) load<Type<Operand>, Neutral::zero>(from, wanted, got[Operand].item);
      else if constexpr (kUncached) got[Operand] = global_load_uncached(from, wanted, Got<kCount>{}, false);
      else got[Operand] = global_load(from, wanted, Got<kCount>{});
      load_inputs<kCount, Operand + 1>(args, row, first, i, wanted, got);
    }
  }

  // Copy the whole vectors of all inputs, and of the results: this thread every Threads-th.
  CSM_DEVICE void read_vectors(const Arguments& args, const Row& row) const {
    constexpr int kStep = Threads * kVec;
    for (int first = thread_index() * kVec; first < whole_; first += kLoadsInFlight * kStep) {
      Got<kVec> got[kLoadsInFlight][kInputs];
#pragma unroll
      for (int u = 0; u < kLoadsInFlight; ++u) {
        const int i = first + u * kStep;
        load_inputs<kVec>(args, row, before_, i, i < whole_, got[u]);
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
  }
  CSM_DEVICE void write_vectors(const Arguments& args, const Row& row) const {
    for (int i = thread_index() * kVec; i < whole_; i += Threads * kVec) {
      char* const to = address<kFirstOutput>(args, row, before_, i);
      if constexpr (kInPairs) {
        store_all(to, true, Shared<Got<kVec>>((shift_ + before_ + i) * kSize).load(0));
      } else {
        Acc from[kVec];
        load_vector(0, shift_ + before_ + i, from);
        store<Type<kFirstOutput>>(to, true, from);
      }
    }
  }
  template <int Operand = 0>
  CSM_DEVICE void start_bulk_inputs(const Arguments& args, const Row& row, int bytes) const {
    if constexpr (Operand < kInputs) {
      const int to = (Operand * Room + shift_ + before_) * kSize;
      if (bytes > 0) start_bulk_read(to, address<Operand>(args, row, before_, 0), bytes, kBarrier);
      start_bulk_inputs<Operand + 1>(args, row, bytes);
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
      const Pack pack = Shared<Pack>((input * Room + place) * kSize).load(p / kPack);
#pragma unroll
      for (int i = 0; i < kPack; ++i) to[p + i] = widen(pack.item[i]);
    }
  }
  CSM_DEVICE static void store_vector(int input, int place, const Pairs<kVec>& from) {
    Shared<Pairs<kVec>>((input * Room + place) * kSize).store(0, from);
  }
  CSM_DEVICE static void store_vector(int input, int place, const Vec<Kept, kVec>& from) {
#pragma unroll
    for (int p = 0; p < kVec; p += kPack) {
      Pack pack;
#pragma unroll
      for (int i = 0; i < kPack; ++i) pack.item[i] = from.item[p + i];
      Shared<Pack>((input * Room + place) * kSize).store(p / kPack, pack);
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
    if constexpr (kLanes == 1 && kInPairs) return load_words(staged, place);
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
    if constexpr (kLanes == 1 && kInPairs) return store_words(staged, place, scale);
    each_wanted(place, [&](int i, int at) { staged.put_result(at, result_of(i, scale)); });
  }

 private:
  static constexpr int kWords = kItems / 2 + 1;  // that a row of kItems elements touches, at most
  static constexpr int kAsked = 4;               // words of which is asked once whether all lanes' rows have them
  CSM_DEVICE static bool all_have(int block, int end) {
    return block + kAsked < kWords && !any_lane(2 * (block + kAsked) > end);
  }

  CSM_DEVICE Acc result_of(int i, const typename Op::Scale& scale) const {
    Values<kOutputs> result;
    Op::map(this->item_[i], scale, this->place_of(i), result);
    return result[0];
  }

  // The elements of a row that a lane has, two by two: in one word each, or if the row starts at an odd place, in two.
  // A word may have an element of another row, whose lane may be about to store it: such are accessed by themselves.
  // What is not the row's becomes neutral. Of each word one comparison says whether the row has all of it, and that of
  // the word before whether it has any.
  template <class From>
  CSM_DEVICE void load_words(const From& staged, int place) {
    const int odd = place & 1, end = computed_once(this->mine_ + odd);
    const unsigned both = odd ? 0x5432 : 0x3210;
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      const unsigned missing = neutral_of<Op>(k) == Neutral::lowest ? Lowest<Half>::kPair : 0;
      unsigned last = missing, before = 0;
      if ((end & 1) != 0 && this->mine_ > 0) last = bytes_of(staged.bits(k, place + this->mine_ - 1), missing, 0x5410);
      const Shared<unsigned> words = staged.words(k, place);
#pragma unroll
      for (int block = 0; block < kWords; block += kAsked) {
        unsigned got[kAsked];
        if (block > 0 && all_have(block, end)) {
#pragma unroll
          for (int i = 0; i < kAsked; ++i) got[i] = words.load(block + i);
        } else {
#pragma unroll
          for (int i = 0; i < kAsked; ++i) {
            const int j = block + i;
            got[i] = 2 * j - 1 < end ? last : missing;
            if (2 * j + 1 < end) got[i] = j == 0 && odd ? staged.bits(k, place) << 16 : words.load(j);
          }
        }
#pragma unroll
        for (int i = 0; i < kAsked; ++i) {
          const int j = block + i;
          if (j > 0 && j < kWords) {
            Element &low = this->item_[2 * j - 2], &high = this->item_[2 * j - 1];
            widen_pair(bytes_of(before, got[i], both), Half{}, low[k], high[k]);
          }
          before = got[i];
        }
      }
    }
  }
  template <class To>
  CSM_DEVICE void store_words(const To& staged, int place, const typename Op::Scale& scale) const {
    const int odd = place & 1, end = computed_once(this->mine_ + odd);
    const unsigned both = odd ? 0x5432 : 0x7654;
    const Shared<unsigned> words = staged.words(0, place);
    unsigned first = 0, before = 0, last = 0;
#pragma unroll
    for (int block = 0; block < kWords; block += kAsked) {
      const bool whole = block > 0 && all_have(block, end);
      unsigned put[kAsked];
#pragma unroll
      for (int i = 0; i < kAsked; ++i) {
        const int j = block + i;
        unsigned pair = 0;
        if (j < kWords - 1) pair = narrow_pair(result_of(2 * j, scale), result_of(2 * j + 1, scale), Half{});
        if (j == 0) first = pair;
        put[i] = bytes_of(before, pair, both);
        before = pair;
      }
      if (whole) {
#pragma unroll
        for (int i = 0; i < kAsked; ++i) words.store(block + i, put[i]);
        continue;
      }
#pragma unroll
      for (int i = 0; i < kAsked; ++i) {
        const int j = block + i;
        if (j >= kWords) break;
        last = 2 * j - 1 < end ? put[i] : last;
        if (2 * j + 1 < end && (j > 0 || !odd)) words.store(j, put[i]);
      }
    }
    if (odd && this->mine_ > 0) staged.put_bits(place, first);
    if ((end & 1) != 0 && this->mine_ > 0) staged.put_bits(place + this->mine_ - 1, last);
  }

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
