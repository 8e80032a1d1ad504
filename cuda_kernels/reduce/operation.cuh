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
//   pick          sets the values in `picked` that this element supplies, if it supplies any
//   hidden        is a result of a hidden element
//   kHasLowKey    says whether the maximum has a low word: the largest low_key of the elements with the largest key
//   kPositive     is the number of sums, the first ones, whose terms are not negative, and for which the rounding
//   errors
//                 of the few additions within a lane do not matter
//   maximum_from  is the maximum that the sums are relative to, from the largest key; for operations without a low key
struct OperationBase {
  CSM_DEVICE static void begin(RowContext&) {}
  CSM_DEVICE static void enter(Element&, Place, const RowContext&) {}
  CSM_DEVICE static void pick(const Element&, Place, const RowContext&, Values<kPicked>&) {}
  CSM_DEVICE static Acc hidden(int) { return Acc(0); }
  static constexpr bool kHasLowKey = false;
  static constexpr int kPositive = 0;
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

// --- elements that are missing or hidden -----------------------------------------------------------------------------

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
  for (int k = 0; k < kOutputs; ++k) result[k] = Op::hidden(k);
}

// --- picked elements (PickRule) --------------------------------------------------------------------------------------
//
// An operation with PickRule::dominant has the members `kHalf`, above which the first input of an element has to be,
// and `element_of`, which makes an element with the same terms from its picked values.

// What is picked from a set of which this thread has the elements get(0) … get(kCount − 1); `reduce` adds up the counts
// and the values of all threads that have some.
template <class Op, int kCount, class Get, class Reduce>
CSM_DEVICE Values<kPicked> pick_dominant(Get get, Reduce reduce) {
  Values<kPicked> picked = {};
  int count = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const Element e = get(i);
    if (!(e[0] > Op::kHalf)) continue;
    ++count;
    Op::pick(e, Place{}, RowContext{}, picked);
  }
  reduce(count, picked);
#pragma unroll
  for (int k = 0; k < kPicked; ++k) picked[k] = count == 1 ? picked[k] : k == 0 && count > 1 ? Acc(-1) : Acc(0);
  return picked;
}

// The first input of elements that are left out of the sums is above this. Not compared with kHalf a second time: the
// compiler would keep the predicates of all elements.
template <class Op>
CSM_DEVICE Acc left_out_above(const Values<kPicked>& picked) {
  if constexpr (kDominant) return picked[0] > Acc(0) ? Op::kHalf : -negative_infinity();
  return Acc(0);
}

// The terms of an element; it has none if it is left out, and is picked if it is the largest.
template <class Op>
CSM_DEVICE void terms_of(Element& e, DoubleWord shift, Place place, const RowContext& context, Acc above,
                         Values<kSums>& term, Values<kPicked>& picked) {
  if constexpr (kDominant) {
    Element other = e;
    if (e[0] > above) other[0] = neutral<Op>(0);
    Op::terms(other, shift, place, context, term);
  } else {
    Op::terms(e, shift, place, context, term);
  }
  if constexpr (kPickRule == PickRule::largest) picked[0] = term[0] == Acc(1) ? picked[0] + e[1] : picked[0];
}

template <class AnyOp>
CSM_DEVICE void put_back(Node& node) {
  if (node.picked[0] > Acc(0)) {
    Element e = AnyOp::element_of(node.picked);
    Values<kSums> term;
    AnyOp::terms(e, as_double_word(Acc(0)), Place{}, RowContext{}, term);
#pragma unroll
    for (int k = 0; k < kSums; ++k) node.s[k] = add(node.s[k], term[k]);
  }
#pragma unroll
  for (int k = 0; k < kPicked; ++k) node.picked[k] = Acc(0);
}

}  // namespace csm
