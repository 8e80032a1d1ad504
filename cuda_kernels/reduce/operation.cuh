// What an operation (ops/) and the tiles hand each other: elements, their place in the row, what comes with the row;
// and the base classes of operations, with the members that most leave as they are.
#pragma once

#include "machine/layout.cuh"
#include "reduce/node.cuh"

namespace csm {

using Element = Values<kInputs>;  // the value of each input at one place of a row

// The index of an element in its row, as `start`, common to the elements of a thread, plus `step`, which is a
// compile-time constant after unrolling. So a comparison with a given index takes one 32-bit instruction an element.
struct Place {
  i64 start;
  int step;

  CSM_DEVICE operator i64() const { return start + step; }
  CSM_DEVICE bool is(i64 place) const { return near(place) == step; }
  CSM_DEVICE bool before(i64 end) const {
    const i64 left = end - start;
    return step < (left < kReach ? static_cast<int>(left) : kReach);
  }

 private:
  static constexpr int kReach = 1 << 30;  // more than any `step`
  // The `step` that an index would have, or −1. The same for all elements of a thread.
  CSM_DEVICE int near(i64 place) const {
    const i64 distance = place - start;
    return distance >= 0 && distance < kReach ? static_cast<int>(distance) : -1;
  }
};

// What an operation knows of a row beside its elements: the values of its row inputs, and these members.
struct RowContext : Values<kRowInputs> {
  const Arguments* args;
  i64 row, n;                                    // the row's number and length
  i64 visible;                                   // causal order: elements that are not hidden, the first of the row
  i64 integer[kRowInputs > 0 ? kRowInputs : 1];  // the row inputs again, as exact integers
  Values<kTables> looked_up;                     // what Op::begin has looked up in the tables

  // An option of the call, as an integer and as an Acc.
  CSM_DEVICE i64 option(int k) const { return args->layout.option[k]; }
  CSM_DEVICE Acc number(int k) const { return args->layout.number(k); }
  // The value at a byte offset of a table; 0 if it is not wanted.
  template <int Table>
  CSM_DEVICE Acc look_up(i64 offset, bool wanted) const {
    using T = Type<kFirstTable + Table>;
    return widen(global_load(args->operand[kFirstTable + Table] + offset, wanted, T{}));
  }
};

// Base of all operations. The members may be hidden by an operation's own:
//   begin         is called when the row inputs have been read
//   enter         is called when an element has been read, and may change it
//   pick          sets the value in `picked` that this element supplies, if it supplies one
//   hidden        is the result of a hidden element
//   kHasLowKey    says whether the maximum has a low word: the largest low_key of the elements with the largest key
//   maximum_from  is the maximum that the sums are relative to, from the largest key; for operations without a low key
struct OperationBase {
  CSM_DEVICE static void begin(RowContext&) {}
  CSM_DEVICE static void enter(Element&, Place, const RowContext&) {}
  CSM_DEVICE static void pick(const Element&, Place, const RowContext&, Values<kPicked>&) {}
  CSM_DEVICE static Acc hidden() { return Acc(0); }
  static constexpr bool kHasLowKey = false;
  CSM_DEVICE static Acc low_key(const Element&, Acc, const RowContext&) { return Acc(0); }
  CSM_DEVICE static DoubleWord maximum_from(Acc key, const RowContext&) { return as_double_word(key); }
};

// Base of operations with results for elements alone.
struct WritesElements : OperationBase {
  CSM_DEVICE static void finish(const Node&, const RowContext&, Values<kRowOutputs>&) {}
};

// Base of operations with results for rows alone.
struct WritesRows : OperationBase {
  struct Scale {};
  CSM_DEVICE static Scale scale(DoubleWord, const Node&, const RowContext&) { return {}; }
  CSM_DEVICE static void map(const Element&, Scale, Place, Values<kOutputs>&) {}
};

// The value of an input beyond the row's end, where it adds nothing to the sums. Inputs that an operation does not name
// in kNeutral have 0.
template <class Op>
CSM_DEVICE constexpr Neutral neutral_of(int input) {
  constexpr int kNamed = sizeof(Op::kNeutral) / sizeof(Neutral);
  return input < kNamed ? Op::kNeutral[input < kNamed ? input : 0] : Neutral::zero;
}
template <class Op>
CSM_DEVICE Acc neutral(int input) {
  return neutral_of<Op>(input) == Neutral::lowest ? negative_infinity() : Acc(0);
}

// Makes an element neutral if its mask is 0 or it is not `visible`. Returns whether it did.
template <class Op>
CSM_DEVICE bool hide_element(Element& e, bool visible) {
  bool kept = visible;
  if constexpr (kMasked) kept = kept && e[kInputs - 1] != Acc(0);
#pragma unroll
  for (int k = 0; k < kRegisterInputs; ++k) e[k] = kept ? e[k] : neutral<Op>(k);
  return !kept;
}

// Sets the results of a hidden element.
template <class Op>
CSM_DEVICE void hide_result(Values<kOutputs>& result) {
#pragma unroll
  for (int k = 0; k < kOutputs; ++k) result[k] = Op::hidden();
}

}  // namespace csm
