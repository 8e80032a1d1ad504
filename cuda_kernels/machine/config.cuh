// What this binary is: the CSM_* options of the compiler, as constants and types.
//
// No other file but row_kernel.cu reads a CSM_* option.
#pragma once

#include "machine/platform.cuh"

namespace csm {

struct f16 {
  unsigned short bits;
};
struct bf16 {
  unsigned short bits;
};
using i8 = signed char;
using u8 = unsigned char;
using i16 = short;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using u64 = unsigned long long;

// The operands, in the order of the kernel's pointers: arrays of rows that are read, arrays of one value a row that are
// read, tables that are looked up, then arrays of rows and of one value a row that are written. How many of each sort,
// and their types:
constexpr int kRoles[] = {CSM_ROLES};
constexpr int kInputs = kRoles[0], kRowInputs = kRoles[1], kTables = kRoles[2];
constexpr int kOutputs = kRoles[3], kRowOutputs = kRoles[4];
constexpr int kFirstTable = kInputs + kRowInputs, kFirstOutput = kFirstTable + kTables;
constexpr int kFirstRowOutput = kFirstOutput + kOutputs;
constexpr int kOperands = kFirstRowOutput + kRowOutputs;

template <int Index, class First, class... Rest>
struct Pick {
  using type = typename Pick<Index - 1, Rest...>::type;
};
template <class First, class... Rest>
struct Pick<0, First, Rest...> {
  using type = First;
};
template <int Operand>
using Type = typename Pick<Operand, CSM_TYPES>::type;

using Acc = CSM_ACC;  // all arithmetic

constexpr bool kSingle = sizeof(Acc) == 4;
// Whether sums and scales carry a second word: wherever the result is as precise as the arithmetic (README: Numbers).
constexpr bool kCompensated = CSM_COMPENSATED;

constexpr int kVec = CSM_VEC;          // elements of one global access
constexpr int kGroup = CSM_GROUP;      // elements of the widest access of these dtypes in any layout; column: kVec
constexpr int kLanes = CSM_LANES;      // lanes that share a row, or a chunk of it; column: lanes side by side over rows
constexpr int kItems = CSM_ITEMS;      // elements a lane holds; column: of each of its rows
constexpr int kCluster = CSM_CLUSTER;  // blocks that share a row
// Folded dimensions that the layout has room for: to count rows by, and of a row.
constexpr int kBatchDims = CSM_BATCH_DIMS, kRowDims = CSM_ROW_DIMS;
constexpr int kStage = CSM_STAGE;   // which launch, of a pattern with several: see its header
constexpr bool kParks = CSM_PARKS;  // whether chunks are kept in shared memory too
constexpr int kSlots = CSM_SLOTS;   // selected elements a lane holds: see select/picks.cuh; 0 where none are

// What variants of an operation do besides, chosen at compile time; its file says what they mean there.
namespace feature {
enum { soft = 1, smooth = 2, capped = 4, scaled = 8, biased = 16, masked = 32, causal = 64, noisy = 128 };
}
CSM_DEVICE constexpr bool has(int feature) { return ((CSM_FEATURES)&feature) != 0; }

// What an operation needs to know of a row: sums relative to its maximum, plain sums, and values picked out of it.
constexpr int kNeeds[] = {CSM_NEEDS};
constexpr int kRelative = kNeeds[0], kSums = kRelative + kNeeds[1], kPicked = kNeeds[2];
constexpr bool kMaximum = kRelative > 0;  // whether the maximum is needed
constexpr bool kWideMaximum = kMaximum && (has(feature::scaled) || has(feature::biased));  // in two words
constexpr int kNodeWords = 1 + kWideMaximum + 2 * kSums + kPicked;                         // see reduce/node.cuh

constexpr int kOptions = CSM_OPTIONS;  // numbers that come with a call, see Layout

// Numbers of a call of a kernel with any of these features: |scale| in two words, its sign, and over how many rows a
// causal order goes.
enum LogitOption { kFactor, kFactorLow, kSign, kQueries };

// Whether elements may be hidden: by a mask, the last of the inputs, or because they come after their row's own place.
constexpr bool kMasked = has(feature::masked), kCausal = has(feature::causal), kHides = kMasked || kCausal;
constexpr int kHeld = kInputs - kMasked;  // inputs whose values a thread keeps: a mask is used up in reading

// Inputs that repeat one element along the row, as bits: strides of 0 there.
template <int Operand>
constexpr bool kRepeated = (CSM_REPEATED >> Operand & 1) != 0;

constexpr int kWarp = 32;
constexpr int kChunk = kLanes * kItems;

static_assert(kItems % kGroup == 0 && kGroup % kVec == 0, "a lane holds whole groups, a group whole vectors");
static_assert((kLanes & (kLanes - 1)) == 0 && kLanes <= kWarp, "lanes that share a row are a power of two");

// A fixed number of values of arithmetic, of which there may be none.
template <int Count>
struct Values {
  Acc at[Count > 0 ? Count : 1];
  CSM_DEVICE Acc& operator[](int i) { return at[i]; }
  CSM_DEVICE const Acc& operator[](int i) const { return at[i]; }
};

// How the folded problem lies in memory. Strides are in bytes; those of values of a row are 0 along it,
// and those of selected elements lead from one to the next.
// The host mirrors this struct in cusoftmax/_launch.py.
struct Layout {
  i64 n;       // elements of a row
  i64 rows;    // rows
  i64 rounds;  // split pattern: rounds of chunks, one a warp, that a block makes over its segment of a row
  i64 batch_dims, reduce_dims;
  // Column pattern only: `inner` rows lie side by side, and batch_* describe the rest.
  i64 inner;
  // Segment pattern only: rows of a column, and blocks that look at the offsets.
  i64 segments, checkers;
  i64 inner_stride[kOperands];
  i64 batch_size[kBatchDims], reduce_size[kRowDims];
  i64 batch_stride[kOperands][kBatchDims], reduce_stride[kOperands][kRowDims];
  // Numbers of the call that the operation takes: integers as they are, others as the bits of an Acc.
  i64 option[kOptions > 0 ? kOptions : 1];

  CSM_DEVICE Acc number(int k) const {
    if constexpr (kSingle) return bits_to_float(static_cast<unsigned>(option[k]));
    else return bits_to_double(static_cast<unsigned long long>(option[k]));
  }
};

// Byte offset of the index-th point of a box of `dims` dimensions, the last one fastest.
template <int Dims>
CSM_DEVICE i64 offset_of(i64 index, const i64 (&size)[Dims], const i64 (&stride)[Dims], i64 dims) {
  i64 offset = 0;
  if constexpr (Dims > 1) {
#pragma unroll 1  // 64-bit divisions are long, and every access has its own
    for (i64 d = dims - 1; d > 0; --d) {
      const i64 rest = index / size[d];
      offset += (index - rest * size[d]) * stride[d];
      index = rest;
    }
  }
  return offset + index * stride[0];
}

struct Arguments {
  char* operand[kOperands];
  char* workspace;
  const Layout& layout;
};

}  // namespace csm
