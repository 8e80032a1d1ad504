// The compile-time configuration of this binary: the compiler's CSM_* options as constants and types. Everything
// includes it.
//
// The planner chooses the options (make_kernel in cusoftmax). No other file but row_kernel.cu reads one that sets what
// the kernel does. What the host computes by itself beside the kernels comes as an option too, for a static_assert
// next to the kernels' own value.
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

// How many operands there are of each kind, in the order of the kernel's pointers: inputs with a value for each
// element, inputs with one value a row, tables that are looked up, outputs with a value for each element, and outputs
// with one value a row.
constexpr int kRoles[] = {CSM_ROLES};
constexpr int kInputs = kRoles[0], kRowInputs = kRoles[1], kTables = kRoles[2];
constexpr int kOutputs = kRoles[3], kRowOutputs = kRoles[4];
constexpr int kFirstTable = kInputs + kRowInputs, kFirstOutput = kFirstTable + kTables;
constexpr int kFirstRowOutput = kFirstOutput + kOutputs;
constexpr int kOperands = kFirstRowOutput + kRowOutputs;

template <int Index, class First, class... Others>
struct NthType {
  using type = typename NthType<Index - 1, Others...>::type;
};
template <class First, class... Others>
struct NthType<0, First, Others...> {
  using type = First;
};
template <class T, class U>
constexpr bool kSameType = false;
template <class T>
constexpr bool kSameType<T, T> = true;
// The stored type of an operand.
template <int Operand>
using Type = typename NthType<Operand, CSM_TYPES>::type;

using Acc = CSM_ACC;  // the type of all arithmetic: float or double
using Pair = PairOf<Acc>;

constexpr bool kSingle = sizeof(Acc) == 4;
// Whether sums and scales are double words (numeric/double_word.cuh): wherever the result is as precise as the
// arithmetic (README: Numbers).
constexpr bool kCompensated = CSM_COMPENSATED;
// Whether exponentials are approximate (numeric/exp.cuh): in float arithmetic with 16-bit results.
constexpr bool kFastExp = CSM_FAST_EXP;
// Whether relative sums have the largest terms and the others apart, as two words (reduce/node.cuh): where a 16-bit
// result needs the logarithm of the sum.
constexpr bool kOthersInLow = CSM_OTHERS_IN_LOW;

constexpr int kVec = CSM_VEC;       // elements of one global access
constexpr int kMaxVec = CSM_GROUP;  // the largest kVec that these dtypes allow, for any alignment; column: kVec
constexpr int kLanes = CSM_LANES;   // lanes that share a row, or a chunk of it; column: lanes side by side over rows
constexpr int kItems = CSM_ITEMS;   // elements that a lane holds; column: of each of its rows
constexpr int kRowsEach = CSM_ROWS_EACH;       // group: most rows that a thread takes one after the other from a span
constexpr int kRowsAtOnce = CSM_ROWS_AT_ONCE;  // group: rows of these that a warp reduces at once, 1 or 2
// group: lanes by which the order of summation is defined, at least kLanes; and items that every row has in all lanes.
constexpr int kOrderLanes = CSM_ORDER_LANES, kSureItems = CSM_SURE_ITEMS;
// group, block: where a lane holds elements of two neighbouring chunks, its items of the first; else 0.
constexpr int kFirstItems = CSM_FIRST_ITEMS, kTiles = kFirstItems > 0 ? 2 : 1;
constexpr int kCluster = CSM_CLUSTER;  // blocks that share a row
// Dimensions in Layout: those that the rows are numbered by, and those of a row.
constexpr int kBatchDims = CSM_BATCH_DIMS, kRowDims = CSM_ROW_DIMS;
constexpr int kStage = CSM_STAGE;   // which launch of a pattern that has several
constexpr bool kParks = CSM_PARKS;  // whether shared memory holds further chunks of the row
constexpr int kSlots = CSM_SLOTS;   // places of the sorted list that a lane holds (select/picks.cuh); 0 if none

// What a variant of an operation does in addition. The operation's file says what each means there.
namespace feature {
enum { soft = 1, smooth = 2, capped = 4, scaled = 8, biased = 16, masked = 32, causal = 64, noisy = 128, cold = 256 };
}
CSM_DEVICE constexpr bool has(int feature) { return ((CSM_FEATURES)&feature) != 0; }

// What an operation computes of a row: sums of terms relative to the row's maximum, plain sums, and values picked from
// single elements.
constexpr int kNeeds[] = {CSM_NEEDS};
constexpr int kRelative = kNeeds[0], kSums = kRelative + kNeeds[1], kPicked = kNeeds[2];

// Which element values are picked from:
//   given      that at an index which comes with the row;
//   dominant   the only one above ½ of a softmax, the first input. The sums are over the others;
//   largest    the one whose exponential is 1: it has the row's maximum. If several have, the values are not used.
enum class PickRule { given, dominant, largest };
constexpr PickRule kPickRule = PickRule::CSM_PICK_RULE;
constexpr bool kDominant = kPickRule == PickRule::dominant;

constexpr bool kMaximum = kRelative > 0;  // whether the maximum is needed
// Whether the maximum is a double word: it is where the logits are.
constexpr bool kDoubleWordMaximum = kMaximum && (has(feature::scaled) || has(feature::biased));
constexpr int kNodeWords = 1 + kDoubleWordMaximum + 2 * kSums + kPicked;  // words of a Node (reduce/node.cuh)
static_assert(kNodeWords == CSM_NODE_WORDS, "the host counts the words of a node otherwise");

// Options of a call: the numbers at the end of Layout.
constexpr int kOptions = CSM_OPTIONS;

// The index of an option by its name in the host's table of operations; -1 if this operation has no such option.
#define CSM_AS_TEXT(...) #__VA_ARGS__
#define CSM_LIST_AS_TEXT(...) CSM_AS_TEXT(__VA_ARGS__)
CSM_DEVICE constexpr int option_named(const char* name) {
  const char* names = CSM_LIST_AS_TEXT(CSM_OPTION_NAMES);
  for (int index = 0;; ++index) {
    while (*names == ' ') ++names;
    int length = 0;
    while (name[length] != 0 && names[length] == name[length]) ++length;
    if (name[length] == 0 && (names[length] == 0 || names[length] == ',')) return index;
    while (*names != 0 && *names != ',') ++names;
    if (*names == 0) return -1;
    ++names;
  }
}

CSM_DEVICE constexpr bool same_text(const char* a, const char* b) {
  for (; *a != 0 && *a == *b; ++a) ++b;
  return *a == *b;
}
constexpr bool kOfGroup = same_text(CSM_LIST_AS_TEXT(CSM_PATTERN), "group");
// Whether a thread's row is one tile: the maximum of its elements is the row's.
constexpr bool kRowIsTile = kOfGroup && kTiles == 1;

// The same of an option that the operation must have: no constant, and so refused by the compiler, if it has not.
CSM_DEVICE constexpr int own_option(const char* name) {
  const int present[1] = {0};
  const int index = option_named(name);
  return index + present[index < 0 ? 1 : 0];
}

// Options of an operation on transformed logits: |scale| as a double word, the sign of the scale, and the number of
// rows that the causal order runs over.
enum LogitOption {
  kFactor = option_named("scale"),
  kFactorLow = option_named("scale_low"),
  kSign = option_named("sign"),
  kQueries = option_named("queries")
};

// Whether elements may be hidden from their row: by a mask, which is the last input, or by the causal order.
constexpr bool kMasked = has(feature::masked), kCausal = has(feature::causal), kHides = kMasked || kCausal;
// Inputs whose values stay in registers. The mask does not: it is applied on load.
constexpr int kRegisterInputs = kInputs - kMasked;
static_assert(kRegisterInputs == CSM_REGISTER_INPUTS, "the host counts the inputs in registers otherwise");

// Whether an input repeats one element along the row: its stride there is 0.
template <int Operand>
constexpr bool kRepeated = (CSM_REPEATED >> Operand & 1) != 0;

// Whether an operand's elements pass through shared memory (reduce/span.cuh): their rows start off the boundaries of
// sectors. kVec is then the width at which they are accessed there.
template <int Operand>
constexpr bool kStaged = (CSM_STAGED >> Operand & 1) != 0;
constexpr bool kStages = CSM_STAGED != 0;
// Whether a block's span is copied by bulk copies.
constexpr bool kBulk = CSM_BULK;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
static_assert(!kBulk, "bulk copies need sm_90");
#endif

// Whether results are so large that no cache keeps them, and each element is read once.
constexpr bool kUncached = CSM_UNCACHED;

constexpr int kWarp = 32;
constexpr int kChunk = kLanes * kItems;  // elements that kLanes lanes hold together
static_assert(kWarp == CSM_WARP, "the host takes a warp to be of another size");

static_assert(kItems % kVec == 0 && kMaxVec % kVec == 0, "kItems and kMaxVec are multiples of kVec");
static_assert((kLanes & (kLanes - 1)) == 0 && kLanes <= kWarp, "lanes that share a row are a power of two");

}  // namespace csm
