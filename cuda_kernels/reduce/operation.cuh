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
  DoubleWord log;                                // what Op::summarise has found: the logarithm of the row's first sum,
  Acc whole;                                     // and that of the whole

  // An option of the call, as an integer and as an Acc; and all from this one on.
  CSM_DEVICE i64 option(int k) const { return args->layout.option[k]; }
  CSM_DEVICE const i64* options(int k) const { return args->layout.option + k; }
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
//   summarise     is called when the row's node is known, before scale() and finish(), and computes what both need; it
//                 is told whether finish() will be called
//   enter         is called when an element has been read, and may change it, if enters() says that it does
//   kEntersPairs  says whether enter(Pair, place, context) returns two neighbours of the first input as they enter
//   pick          sets the values in `picked` that this element supplies, if it supplies any
//   given         with PickRule::given, is the index of the element that is picked, from the context or the scale:
//                 its first input. With kHasUsual its result is given_result(scale), and is_blank(scale) says whether
//                 all results of the row are 0
//   hidden        is a result of a hidden element
//   kMapsHidden   says whether map() of a neutral element has these results if maps_hidden(scale) holds
//   kHasLowKey    says whether the maximum has a low word: the largest low_key of the elements with the largest key
//   kParts        is the number of sums, the first ones, whose terms are 0 to ½ and do not sum to more than that; else
//                 the sum is not used
//   kProductSums  is the number of sums, the last ones, whose terms are products of two numbers, factor(e, k, 0) and
//                 factor(e, k, 1) for the k-th sum
//   kTogether     is how many terms of these sums are added in one word before they are added in two: 4 or 2. Each is
//                 rounded twice then, or once
//   kBounded      is the number of sums, the first ones, whose terms are exponentials as they are
//   kHasPower     says whether the scale is or has the base Factor, by whose `times` alone map() multiplies
//                 (power_applied). In fast arithmetic scale() gives it none, and factor_with_power(scale) one that has
//   kPairs        says whether elements are the first input alone, with one term, and the terms of two come from
//                 terms_of(Pair&, reference, context); in float of numbers alone, from which tiles have subtracted the
//                 reference's shift (kOfNumbers), so that map() must not need the elements themselves
//   kSomePairs    says that where the reference has a shift, terms() makes them in place of terms_of()
//   kPairsOfRows  says whether they also take elements of two rows: terms_of() with a PairReference, and the context of
//                 the first, map_of() with a PairScale, which is made of both scales
//   kPairResults  says whether they have one result, and the results of two come from map_of(Pair, scale); with
//                 kHasUsual in place of map_usual()
//   kHasUsual     says whether a tile's elements may have a shorter map, map_usual(e, scale, result): they do if
//                 is_usual(e, scale) holds for all that a thread has, and are_usual(first, count, scale) for the tile
//   complete      computes the parts of a scale that map() reads and map_usual() does not
//   kPassesScale  says whether passed(scale, context, pass) makes a row's scale for lanes that have computed that of
//                 another row: pass(word) returns a word of the scale from lanes that have it. It has no power
//   kOthers       says whether the sum of the exponentials but the largest one is used: it then has all digits, and
//                 unless kKeepsTerm, term_of(e, reference, context) is the first term of an element that terms() has
//                 had
//   kKeepsTerm    says whether terms() leaves the first term in place of the first input
//   kMayBeInfinite  says whether the sum of a row with +∞ is +∞, rather than NaN
//   maximum_from  is the maximum that the sums are relative to, from the largest key; for operations without a low key
struct OperationBase {
  CSM_DEVICE static void begin(RowContext&) {}
  CSM_DEVICE static void summarise(const Node&, RowContext&, bool) {}
  CSM_DEVICE static void enter(Element&, Place, const RowContext&) {}
  CSM_DEVICE static bool enters(const RowContext&) { return true; }
  CSM_DEVICE static void pick(const Element&, Place, const RowContext&, Values<kPicked>&) {}
  CSM_DEVICE static Acc hidden(int) { return Acc(0); }
  CSM_DEVICE static Acc factor(const Element&, int, int) { return Acc(0); }
  static constexpr bool kEntersPairs = false, kHasLowKey = false;
  static constexpr int kParts = 0, kProductSums = 0, kTogether = 4, kBounded = kRelative > 0 ? 1 : 0;
  static constexpr bool kHasPower = false, kPassesScale = false, kOthers = false, kPairs = false, kPairResults = false,
                        kPairsOfRows = false;
  static constexpr bool kSomePairs = false, kMapsHidden = false, kHasUsual = false, kMayBeInfinite = false,
                        kKeepsTerm = false;
  template <class Scale>
  CSM_DEVICE static void complete(Scale&) {}
  template <class Scale>
  CSM_DEVICE static bool is_usual(const Element&, const Scale&) {
    return true;
  }
  CSM_DEVICE static Acc low_key(const Element&, Acc, const RowContext&) { return Acc(0); }
  CSM_DEVICE static DoubleWord maximum_from(Acc key, const RowContext&) { return as_double_word(key); }
};

// Whether terms_of() takes pairs of numbers or −∞: a NaN or +∞ makes the chunk's sum NaN from the start.
template <class Op>
constexpr bool kOfNumbers = Op::kPairs && !kFastExp;
// The start of a chunk's sums of exponentials (add_term): above their terms; +∞ or NaN if m is.
template <class Op>
CSM_DEVICE Acc start_of_sums(Acc m, Acc above = ExpC::kAbove) {
  if constexpr (kOfNumbers<Op>) return fused(maximum_or_nan(m, -largest_number()), Acc(0x1p-126), above);
  else return above;
}
// The larger key of two. Where terms are those of numbers, NaN if either is.
template <class Op>
CSM_DEVICE Acc larger_key(Acc a, Acc b) {
  if constexpr (kOfNumbers<Op>) return maximum_or_nan(a, b);
  else return maximum(a, b);
}

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

// The scale of a chunk as map() takes it. With Op::kHasPower it is a factor, of which map() leaves out the power. That
// joins `times`; where that might be flushed, since the chunk is far below the row's maximum, multiply(power)
// multiplies the elements by it instead, which is seldom. In float `times` is lifted, and has room for it; of fast
// exponentials it has none at first, and gets one where it might be flushed.
CSM_DEVICE bool needs_power(const Factor& factor) {
  return kFastExp ? magnitude(factor.times.hi) < Acc(0x1p-102) : !kSingle && factor.power < Acc(0x1p-60);
}
template <class Op, class Multiply>
CSM_DEVICE typename Op::Scale power_applied(const typename Op::Scale& scale, Multiply multiply) {
  if constexpr (Op::kHasPower) {
    typename Op::Scale found = scale;
    Factor& factor = found;
    if (unlikely(needs_power(factor))) {
      if constexpr (kFastExp) factor = Op::factor_with_power(found);
      multiply(factor.power);
      factor.power = Acc(1);
    }
    if constexpr (!kFastExp) factor = joined(factor);
    return found;
  } else {
    return scale;
  }
}

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

// What is picked from the elements get(0) … get(kCount − 1). `largest` is the largest first input of them.
template <class Op, int kCount, class Get>
CSM_DEVICE Values<kPicked> pick_dominant(Acc largest, Get get) {
  Values<kPicked> picked = {};
  unsigned found = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const Element e = get(i);
    if (!(e[0] > Op::kHalf)) continue;
    found |= 1u << i;
    Op::pick(e, Place{}, RowContext{}, picked);
  }
  if (found != 0) Op::pick_largest(largest, picked);
  const bool several = (found & (found - 1)) != 0;
#pragma unroll
  for (int k = 0; k < kPicked; ++k) picked[k] = !several ? picked[k] : k == 0 ? Acc(-1) : Acc(0);
  return picked;
}

// The first input of elements that are left out of the sums is above this. Not compared with kHalf a second time: the
// compiler would keep the predicates of all elements.
template <class Op>
CSM_DEVICE Acc left_out_above(const Values<kPicked>& picked) {
  if constexpr (kDominant) return picked[0] > Acc(0) ? Op::kHalf : -negative_infinity();
  return Acc(0);
}

// Forms the terms of elements, and adds them to sums. kTellsApart: with kOthersInLow, the largest terms and the others
// are told apart as they are added; otherwise the first sum is one word, of all terms.
template <class Op, bool kTellsApart = kOthersInLow>
class Adder {
 public:
  CSM_DEVICE Adder(DoubleWord m, const Values<kPicked>& picked, Acc above = ExpC::kAbove)
      : reference_(reference_of(m)), above_(left_out_above<Op>(picked)) {
    if constexpr (kPickRule == PickRule::largest || kOthersInLow) largest_ = largest_exponential(m);
    start_ = kOthersInLow ? largest_ : above;
  }

  // Of an element; it has no terms if it is left out, and is picked if it is the largest. Returns the element that the
  // terms are those of.
  CSM_DEVICE Element terms(Element& e, Place place, const RowContext& context, Values<kSums>& term,
                           Values<kPicked>& picked) const {
    if constexpr (kDominant) {
      Element other = e;
      if (e[0] > above_) other[0] = neutral<Op>(0);
      Op::terms(other, reference_, place, context, term);
      return other;
    }
    Op::terms(e, reference_, place, context, term);
    if constexpr (kPickRule == PickRule::largest) picked[0] = term[0] == largest_ ? picked[0] + e[1] : picked[0];
    return e;
  }

  // Adds the number-th of `count` terms to the k-th sum: that of the element e. `ones` is the count of add_term().
  // Products and parts are added kTogether at a time, as pairs: what two roundings of four lose is lost, or one of two.
  // The rounding error of a pair's first product is added to the sum by itself.
  struct Held {
    Acc pair[2];
  };
  CSM_DEVICE void add(int k, DoubleWord& sum, Acc& ones, Held& held, const Element& e, Acc term, int number,
                      int count) const {
    const bool part = k < Op::kParts, product = kSums - k <= Op::kProductSums;
    if (plain(k)) return void(sum = as_double_word(number == 0 ? term : sum.hi + term));
    if (!part && !product) return add_term(k, sum, ones, term, number == 0, bounded(k), start_of(k));
    constexpr int kTogether = Op::kTogether;
    const int place = number % kTogether;
    Acc& pair = held.pair[place / 2];
    if (part) {
      pair = place % 2 == 0 ? term : pair + term;
    } else {
      const Acc a = Op::factor(e, k, 0), b = Op::factor(e, k, 1);
      if (place % 2 == 0) {
        pair = a * b;
        const Acc error = kCompensated ? fused(a, b, -pair) : Acc(0);
        sum.lo = number == 0 ? error : sum.lo + error;
      } else {
        pair = fused(a, b, pair);
      }
    }
    if (place + 1 < kTogether && number + 1 < count) return;
    const Acc all = place < 2 ? held.pair[0] : held.pair[0] + held.pair[1];
    if (part) add_term(k, sum, ones, all, number < kTogether, true, start_of(k));
    else if (number < kTogether) sum.hi = all;
    else sum = csm::add(sum, all);
  }
  // The same for two sums. With kPairs there is one sum of each element's place.
  struct PairSum {
    Pair hi, lo;
  };
  CSM_DEVICE const Reference& reference() const { return reference_; }
  CSM_DEVICE Acc start() const { return start_; }
  CSM_DEVICE Acc shift() const { return reference_.shift.hi; }
  CSM_DEVICE Pair terms_of(Pair& elements, const RowContext& context) const {
    return Op::terms_of(elements, reference_, context);
  }
  CSM_DEVICE void add(PairSum& sum, Pair terms, int number) const { add(sum, terms, number, Pair(start_)); }
  CSM_DEVICE static void add(PairSum& sum, Pair terms, int number, Pair start) {
    if constexpr (bounded(0)) {
      const Pair large = number == 0 ? start : sum.hi;
      sum.hi = large + terms;
      const Pair lost = fast_error(large, terms, sum.hi);
      sum.lo = number == 0 ? lost : sum.lo + lost;
    } else {
      static_assert(!kCompensated && !kTellsApart, "sums of one word");
      sum = {number == 0 ? terms : sum.hi + terms, Pair(Acc(0))};
    }
  }

  // The sum of the terms added.
  CSM_DEVICE DoubleWord sum_of(int k, DoubleWord sum) const {
    if (kTellsApart && k < kRelative) return {sum.hi > Acc(0) ? sum.hi * largest_ : sum.hi, sum.lo};
    if (!bounded(k)) return k < Op::kParts ? less_start(sum, start_of(k)) : sum;
    // The start may be +∞, to which the logarithm of a sum of +∞ is equal.
    return Op::kMayBeInfinite && start_ > largest_number() ? sum : less_start(sum, start_);
  }
  // Whether the high words of the k-th sum's parts of a chunk are multiples of one power of two, and add up exactly.
  CSM_DEVICE static constexpr bool exact(int k) { return k < Op::kParts || bounded(k); }
  // Whether they have low words.
  CSM_DEVICE static constexpr bool has_low(int k) { return has_low_word(k) && !plain(k); }

  static_assert(kChunk <= 1024, "more exponentials do not add up exactly");
  // The sum of a lane, as it is added to those of other lanes: its high word becomes a multiple of a larger power of
  // two, of which those of a chunk add up exactly.
  CSM_DEVICE static DoubleWord of_lane(int k, DoubleWord sum) {
    if (!kSingle || !exact(k) || k < Op::kParts) return sum;
    const Acc high = (sum.hi + ExpC::kAboveAll) - ExpC::kAboveAll;
    return {high, sum.lo + (sum.hi - high)};
  }
  // A chunk's sum, from those of its parts. −0 becomes +0, as it would when merged with empty_node().
  CSM_DEVICE static DoubleWord whole(int k, DoubleWord sum) {
    if (Op::kMayBeInfinite && bounded(k)) sum = drop_invalid_low(sum);
    return exact(k) ? normalised(sum) : DoubleWord{sum.hi + Acc(0), sum.lo};
  }

  // The first term of an element that terms() has been called for.
  CSM_DEVICE Acc term_of(const Element& e, const RowContext& context) const {
    if constexpr (Op::kKeepsTerm) return e[0];
    else return Op::term_of(e, reference_, context);
  }
  // With kOthersInLow: the largest term.
  CSM_DEVICE Acc largest() const { return largest_; }

 private:
  Reference reference_;
  Acc above_, largest_, start_;
  // Where the k-th sum starts, if no term is larger. Parts sum to less than 2 from there: the places are the same.
  CSM_DEVICE Acc start_of(int k) const { return k < Op::kParts ? Acc(1.5) : start_; }
  CSM_DEVICE static constexpr bool plain(int k) { return kOthersInLow && !kTellsApart && k < kRelative; }
  CSM_DEVICE static constexpr bool bounded(int k) { return kCompensated && !kFastExp && k < Op::kBounded; }
};

template <class AnyOp>
CSM_DEVICE void put_back(Node& node) {
  const bool picked = node.picked[0] > Acc(0);
  Element e = AnyOp::element_of(node.picked);
  Values<kSums> term;
  AnyOp::terms(e, Reference{}, Place{}, RowContext{}, term);
#pragma unroll
  for (int k = 0; k < kSums; ++k) node.s[k] = add(node.s[k], picked ? term[k] : Acc(0));
#pragma unroll
  for (int k = 0; k < kPicked; ++k) node.picked[k] = Acc(0);
}

}  // namespace csm
