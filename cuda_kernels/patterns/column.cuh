// column: rows run down a strided axis, and neighbouring rows may lie side by side in memory.
//
// Thread: holds kItems successive elements of each of kVec neighbouring rows, in registers.
// Warp: kLanes threads side by side across the rows, so that its accesses are contiguous, and 32 / kLanes of them one
// below the other along the rows.
// Block: its warps continue along the same rows. A row is shared by block_threads / kLanes threads, its walkers (a
// power of two). Each walker reduces its part of the row to a node, a leaf of the binary tree of reduce/fold.cuh; the
// block folds the leaves in shared memory.
//
//   stage 0   the row fits on the chip: the walkers of one block, or of kCluster blocks along it, hold all of it;
//   stage 1   longer rows are cut into pieces, first of two or three launches: each block makes layout.rounds rounds
//             over its piece, in which a walker takes neighbouring leaves, and writes the node of its piece to the
//             workspace;
//   stage 2   a warp folds the nodes of one row; if there are no elements to write, it writes the row's values;
//   stage 3   if there are, each block reads its piece again and writes it, and the row's values;
//   stage 4   in place of stages 2 and 3, where pieces are few: each block folds the nodes of its rows itself. Its
//             walkers share them as they share leaves in stage 1;
//   stage 5   in place of all of them, where the level 2 cache holds the rows that are being read: a block passes over
//             its rows twice, the second time from their end. The last round waits in registers, and with kParks
//             layout.passes rounds before it in shared memory, as they were read. The leaves of layout.rounds rounds (a
//             power of two) are folded together, and then the nodes of all these pieces.
//
// Where operands are staged, the block takes layout.passes times as many rows, or all that lie side by side: it copies
// its part of these to shared memory at once (reduce/column_span.cuh), and makes a pass for each kColumns of them.
//
// Shared memory: that part of the rows, and their row inputs; a node for each walker and row of a pass; in a cluster
// also a node for each block and row; in stage 3 a node for each row; in stages 1 and 4 one for each warp and row, and
// what walkers with several leaves fold; in stage 5 what is parked, a node for each leaf of layout.rounds rounds, and
// for each such piece. Workspace: a node for each piece of each row, then a node for each row.
//
// Barriers, for each pass: one after the leaves, or in stages 1 and 4 those of warps, are stored, one after each level
// of the fold, and one before shared memory is used for the next pass. In a cluster the last is a cluster barrier,
// which also makes sure that every block has started before others write to it; another one follows the exchange of the
// blocks' nodes. Spans have the barriers that they ask for besides.
#pragma once

#include "reduce/column_span.cuh"
#include "reduce/stretch.cuh"

namespace csm {

constexpr bool kWholeRows = kStage == 0 || kStage == 5;  // a block or cluster has its rows to itself
using Index = NthType<kWholeRows, i64, int>::type;       // of an element in its row

// kItems elements of each of kVec neighbouring rows, in one thread's registers.
template <class Op>
class ColumnTile {
 public:
  // Elements [first, first + kItems) of the rows; `n` is 0 for a thread with no rows.
  CSM_DEVICE ColumnTile(Index first, Index n) : first_(first) {
    const Index left = n - first;
    left_ = static_cast<int>(left < 0 ? 0 : left < kItems ? left : kItems);
  }

  CSM_DEVICE void read(const Arguments& args, const Row& row, const ColumnSpan& span,
                       const RowContext (&context)[kVec]) {
    fetch(args, row, span);
    enter(context);
  }
  // The two parts of it: elements as memory has them, and as the operation takes them.
  CSM_DEVICE void fetch(const Arguments& args, const Row& row, const ColumnSpan& span) {
    if (full()) read_inputs(args, row, span, [](int) { return true; });
    else read_inputs(args, row, span, [&](int i) { return wanted(i); });
  }
  // The same by way of words, which wait while another round is computed with.
  using Words = Pairs<kVec>[kItems];
  CSM_DEVICE void fetch_words(const Arguments& args, const Row& row, Words& words) const {
    const auto fetch = [&](auto wanted) {
      Address from = {};
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        find<0>(args, row, i, from);
        words[i] = global_load(from.at, wanted(i), neutral_words<Type<0>, neutral_of<Op>(0), kVec>());
      }
    };
    if (full()) fetch([](int) { return true; });
    else fetch([&](int i) { return wanted(i); });
  }
  CSM_DEVICE void take(const Words& words) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      Acc got[kVec];
      widen_words<Type<0>>(words[i], got);
#pragma unroll
      for (int c = 0; c < kVec; ++c) item_[i][c][0] = got[c];
    }
  }
  CSM_DEVICE void enter(const RowContext (&context)[kVec]) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (!wanted(i)) break;  // later items are absent too, so the compiler can drop them
#pragma unroll
      for (int c = 0; c < kVec; ++c) Op::enter(item_[i][c], {first_, i}, context[c]);
    }
    if constexpr (kHides) {
      kept_ = 0;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
#pragma unroll
        for (int c = 0; c < kVec; ++c) {
          if (!hide_element<Op>(item_[i][c], !kCausal || first_ + i < context[c].visible))
            kept_ |= 1u << (i * kVec + c);
        }
      }
    }
  }

  // Calls put(row, node) with the nodes of the rows' elements. Op::terms replaces each element by what Op::map needs.
  template <class Put>
  CSM_DEVICE void reduce(const RowContext (&context)[kVec], Put put) {
#pragma unroll
    for (int c = 0; c < kVec; c += kAtOnce) {
      Node node[kAtOnce];
      if constexpr (kAtOnce == 2) reduce_two(c, context[c], node[0], node[1]);
      else node[0] = reduce_one(c, context[c]);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) put(c + k, node[k]);
    }
  }

  // Does to the elements what reduce() does, and returns the maxima; the compiler drops the sums.
  CSM_DEVICE void prepare(const RowContext (&context)[kVec], DoubleWord (&m)[kVec]) {
    reduce(context, [&](int c, const Node& node) { m[c] = for_scale(node.m); });
  }

  // The maximum as Op::scale() takes it. No shift is subtracted from elements that the terms leave as they are.
  CSM_DEVICE static DoubleWord for_scale(DoubleWord m) {
    return kOfNumbers<Op> && !Op::kKeepsTerm ? as_double_word(Acc(0)) : m;
  }

  // Stores what fetch() has read to shared memory, from byte `at` on, or loads it again.
  template <int Operand = 0>
  CSM_DEVICE void park(int at) const {
    if constexpr (Operand < kInputs) {
      const int step = block_threads() * kVec * static_cast<int>(sizeof(Type<Operand>));
      int place = at + thread_index() * kVec * static_cast<int>(sizeof(Type<Operand>));
#pragma unroll
      for (int i = 0; i < kItems; ++i, place += step) {
        Acc give[kVec];
#pragma unroll
        for (int c = 0; c < kVec; ++c) give[c] = item_[i][c][Operand];
        store<Type<Operand>>(place, true, give);
      }
      park<Operand + 1>(at + kItems * step);
    }
  }
  template <int Operand = 0>
  CSM_DEVICE void unpark(int at) {
    if constexpr (Operand < kInputs) {
      const int step = block_threads() * kVec * static_cast<int>(sizeof(Type<Operand>));
      int place = at + thread_index() * kVec * static_cast<int>(sizeof(Type<Operand>));
#pragma unroll
      for (int i = 0; i < kItems; ++i, place += step) {
        Acc got[kVec];
        load<Type<Operand>, neutral_of<Op>(Operand)>(place, true, got);
#pragma unroll
        for (int c = 0; c < kVec; ++c) item_[i][c][Operand] = got[c];
      }
      unpark<Operand + 1>(at + kItems * step);
    }
  }

  // Once only: a power that has no place in a factor is multiplied to the elements.
  CSM_DEVICE void write(const Arguments& args, const Row& row, const ColumnSpan& span,
                        typename Op::Scale (&scale)[kVec]) {
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
      scale[c] = power_applied<Op>(scale[c], [&](Acc power) {
#pragma unroll
        for (int i = 0; i < kItems; ++i) item_[i][c][0] *= power;
      });
    }
    if constexpr (Op::kHasUsual && kDominant) {  // of rows as wholes
      bool usual = true;
#pragma unroll
      for (int c = 0; c < kVec; ++c) usual = usual & Op::are_usual(0, 0, scale[c]);
      if (usual) return write_all<true>(args, row, span, scale);
    }
    write_all<false>(args, row, span, scale);
  }

 private:
  Element item_[kItems][kVec];
  Index first_;
  int left_;       // of its items the rows have so many
  unsigned kept_;  // if elements can be hidden: a bit for each element, set unless it is
  static_assert(!kHides || kItems * kVec <= 32, "a bit for each of a thread's elements");
  // Rows that are computed with at once.
  static constexpr int kAtOnce = Op::kPairsOfRows && kVec % 2 == 0 ? 2 : 1;

  // The same as reduce_one() for the rows `column` and the next, whose elements lie in neighbouring registers.
  CSM_DEVICE void reduce_two(int column, const RowContext& context, Node& one, Node& other) {
    one = maximum_of(column, context);
    other = maximum_of(column + 1, context);
    const Adder<Op> first = adder_of(column, one), second = adder_of(column + 1, other);
    const PairReference to(first.reference(), second.reference());
    const Pair start(first.start(), second.start());
    typename Adder<Op>::PairSum sum;
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      Pair elements = pair_at(i, column, to);
      Adder<Op>::add(sum, Op::terms_of(elements, to, context), i, start);
      if constexpr (Op::kKeepsTerm) elements.get(item_[i][column][0], item_[i][column + 1][0]);
    }
    sum.hi.get(one.s[0].hi, other.s[0].hi);
    sum.lo.get(one.s[0].lo, other.s[0].lo);
    one.s[0] = first.whole(0, first.sum_of(0, one.s[0]));
    other.s[0] = second.whole(0, second.sum_of(0, other.s[0]));
    if constexpr (kOthersNegative<Op>) {
      if (unlikely(may_be_dominated(one.s[0].hi) || may_be_dominated(other.s[0].hi))) {
        const Acc largest[2] = {largest_exponential(one.m), largest_exponential(other.m)};
        DoubleWord others[2] = {};
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
          Pair elements = pair_at(i, column, to);
          Acc term[2];
          (Op::kKeepsTerm ? elements : Op::terms_of(elements, to, context)).get(term[0], term[1]);
#pragma unroll
          for (int k = 0; k < 2; ++k) others[k] = add(others[k], other_term(term[k], largest[k]));
        }
        if (is_dominated(one.s[0].hi, largest[0])) one.s[0] = negative(others[0]);
        if (is_dominated(other.s[0].hi, largest[1])) other.s[0] = negative(others[1]);
      }
    }
  }

  CSM_DEVICE Node maximum_of(int column, const RowContext& context) const {
    Node node = empty_node();
#pragma unroll
    for (int i = 0; i < kItems; ++i) node.m.hi = larger_key<Op>(node.m.hi, Op::key(item_[i][column], context));
    node.m = Op::maximum_from(node.m.hi, context);
    return node;
  }
  // Item i of the row `column` and the next, as terms_of() takes them where the terms do not replace them.
  CSM_DEVICE Pair pair_at(int i, int column, const PairReference& to) const {
    const Pair elements(item_[i][column][0], item_[i][column + 1][0]);
    return kOfNumbers<Op> && !Op::kKeepsTerm ? elements - to.shift.hi : elements;
  }
  // Subtracts the reference's shift from elements that their terms replace, if those are of numbers.
  CSM_DEVICE Adder<Op> adder_of(int column, const Node& node) {
    const Adder<Op> adder(node.m, {}, start_of_sums<Op>(node.m.hi, ExpC::kAboveAll));
    if (kOfNumbers<Op> && Op::kKeepsTerm && unlikely(adder.shift() != Acc(0))) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) item_[i][column][0] -= adder.shift();
    }
    return adder;
  }

  CSM_DEVICE Node reduce_one(int column, const RowContext& context) {
    Node node = empty_node();
    if constexpr (kMaximum) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) node.m.hi = maximum(node.m.hi, Op::key(item_[i][column], context));
      if constexpr (Op::kHasLowKey) {
        Acc low = negative_infinity();
#pragma unroll
        for (int i = 0; i < kItems; ++i) low = maximum(low, Op::low_key(item_[i][column], node.m.hi, context));
        node.m.lo = low == negative_infinity() ? Acc(0) : low;
      } else {
        node.m = Op::maximum_from(node.m.hi, context);
      }
    }
    if constexpr (kPickRule == PickRule::given && kPicked > 0) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) Op::pick(item_[i][column], {first_, i}, context, node.picked);
    }
    if constexpr (kDominant) {
      Acc largest = neutral<Op>(0);
#pragma unroll
      for (int i = 0; i < kItems; ++i) largest = Op::larger(largest, item_[i][column][0]);
      if (largest > Op::kHalf) {
        node.picked = pick_dominant<Op, kItems>(largest, [&](int i) { return item_[i][column]; });
      }
    }
    const Adder<Op> adder(node.m, node.picked, ExpC::kAboveAll);
    typename Adder<Op>::Held held[kPartials];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      Values<kSums> term;
      const Element e = adder.terms(item_[i][column], {first_, i}, context, term, node.picked);
#pragma unroll
      for (int k = 0; k < kSums; ++k) adder.add(k, node.s[k], node.s[k].hi, held[k], e, term[k], i, kItems);
    }
#pragma unroll
    for (int k = 0; k < kSums; ++k) node.s[k] = adder.whole(k, adder.sum_of(k, node.s[k]));
    if constexpr (kOthersNegative<Op>) {
      if (unlikely(may_be_dominated(node.s[0].hi))) {
        const Acc largest = largest_exponential(node.m);
        if (is_dominated(node.s[0].hi, largest)) {
          DoubleWord others = as_double_word(Acc(0));
#pragma unroll
          for (int i = 0; i < kItems; ++i) {
            others = add(others, other_term(adder.term_of(item_[i][column], context), largest));
          }
          node.s[0] = negative(others);
        }
      }
    }
    return node;
  }

  CSM_DEVICE bool wanted(int i) const { return i < left_; }
  // Whether the rows have all items. Accesses are then without conditions.
  CSM_DEVICE bool full() const { return left_ == kItems; }
  // Where an operand has item i, and how far the next one is. That takes the fewest instructions: the compiler must
  // neither multiply for each item nor keep the multiples from round to round.
  struct Address {
    char* at;
    i64 step;
  };
  template <int Operand>
  CSM_DEVICE void find(const Arguments& args, const Row& row, int i, Address& to) const {
    const Layout& layout = args.layout;
    const i64 step = layout.reduce_stride[Operand][0];
    if (kRowDims == 1 && i > 0) to.at += to.step;
    else
      to = {row.start[Operand] +
                offset_of(first_ + i, layout.reduce_size, layout.reduce_stride[Operand], layout.reduce_dims),
            computed_in_place(step)};
  }
  template <int Operand = 0, class Wanted>
  CSM_DEVICE void read_inputs(const Arguments& args, const Row& row, const ColumnSpan& span, Wanted wanted) {
    if constexpr (Operand < kInputs) {
      Address from = {};
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        Acc got[kVec];
        if constexpr (kStaged<Operand>) {
          const int place = row.staged[Operand] + i * span.pitch<Operand>();
          load<Type<Operand>, neutral_of<Op>(Operand)>(place, wanted(i), got);
        } else {
          find<Operand>(args, row, i, from);
          load<Type<Operand>, neutral_of<Op>(Operand)>(from.at, wanted(i), got);
        }
#pragma unroll
        for (int c = 0; c < kVec; ++c) item_[i][c][Operand] = got[c];
      }
      read_inputs<Operand + 1>(args, row, span, wanted);
    }
  }

  template <bool kUsual>
  CSM_DEVICE void write_all(const Arguments& args, const Row& row, const ColumnSpan& span,
                            const typename Op::Scale (&scale)[kVec]) const {
    if (full()) write_results<kUsual>(args, row, span, scale, [](int) { return true; });
    else write_results<kUsual>(args, row, span, scale, [&](int i) { return wanted(i); });
  }
  template <bool kUsual, class Wanted>
  CSM_DEVICE void write_results(const Arguments& args, const Row& row, const ColumnSpan& span,
                                const typename Op::Scale (&scale)[kVec], Wanted wanted) const {
    Address to[kOutputs > 0 ? kOutputs : 1] = {};
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      Values<kOutputs> result[kVec];
#pragma unroll
      for (int c = 0; c < kVec; c += kAtOnce) {
        if constexpr (kAtOnce == 2 && kOutputs > 0) {
          const Pair elements(item_[i][c][0], item_[i][c + 1][0]);
          Op::map_of(elements, typename Op::PairScale(scale[c], scale[c + 1])).get(result[c][0], result[c + 1][0]);
        } else if constexpr (kUsual) {
          Op::map_usual(item_[i][c], scale[c], result[c]);
        } else {
          Op::map(item_[i][c], scale[c], {first_, i}, result[c]);
        }
      }
#pragma unroll
      for (int c = 0; c < kVec; ++c) {
        if (kHides && !(kept_ >> (i * kVec + c) & 1)) hide_result<Op>(result[c]);
      }
      store_outputs(args, row, span, i, wanted(i), result, to);
    }
  }

  template <int Which = 0>
  CSM_DEVICE void store_outputs(const Arguments& args, const Row& row, const ColumnSpan& span, int i, bool wanted,
                                const Values<kOutputs> (&result)[kVec], Address* to) const {
    if constexpr (Which < kOutputs) {
      constexpr int kOperand = kFirstOutput + Which;
      Acc give[kVec];
#pragma unroll
      for (int c = 0; c < kVec; ++c) give[c] = result[c][Which];
      if constexpr (kStaged<kOperand>) {
        store<Type<kOperand>>(row.staged[kOperand] + i * span.pitch<kOperand>(), wanted, give);
      } else {
        find<kOperand>(args, row, i, to[Which]);
        store<Type<kOperand>>(to[Which].at, wanted, give);
      }
      store_outputs<Which + 1>(args, row, span, i, wanted, result, to);
    }
  }
};

// The row inputs of a block's rows in shared memory, from byte `at` on, for all walkers of a row: each would read them.
class StagedRowInputs {
 public:
  CSM_DEVICE StagedRowInputs(int at, int rows) : at_(at), rows_(rows) {}
  // Bytes of shared memory. The host computes them too.
  CSM_DEVICE int bytes() const { return place<kInputs + kRowInputs>() - at_; }

  template <int Operand = kInputs>
  CSM_DEVICE void read(const Layout& layout, const Row& first, int count) const {
    if constexpr (Operand < kInputs + kRowInputs) {
      using T = Type<Operand>;
      for (int i = thread_index(); i < count; i += block_threads()) {
        const T got = global_load(first.start[Operand] + i * layout.inner_stride[Operand], true, T{});
        Shared<T>(place<Operand>()).store(i, got);
      }
      read<Operand + 1>(layout, first, count);
    }
  }

  // Those of one row.
  struct Of {
    const StagedRowInputs& all;
    int row;

    template <int Operand>
    CSM_DEVICE Type<Operand> value() const {
      return Shared<Type<Operand>>(all.place<Operand>()).load(row);
    }
  };

 private:
  int at_, rows_;

  template <int Operand>
  CSM_DEVICE int place() const {
    if constexpr (Operand == kInputs) return at_;
    else return place<Operand - 1>() + (rows_ * static_cast<int>(sizeof(Type<Operand - 1>)) + 15) / 16 * 16;
  }
};

// Stages 1 and 4: whether a round is loaded while the one before it is computed with: of 16-bit elements, whose words
// take few registers.
constexpr bool kOfSixteenBits = [] { return kSixteenBits<Type<0>>; }();
constexpr bool kLoadsAhead =
    (kStage == 1 || kStage == 4) && !kStages && kFastExp && kOfSixteenBits && kInputs == 1 && kVec > 1;
// The rounds of a walker.
template <bool kAhead = kLoadsAhead>
class Rounds {
 public:
  // Round r begins at element first + r · step.
  CSM_DEVICE Rounds(const Arguments& args, const Row& row, const ColumnSpan& span, Index first, Index step, Index n)
      : args_(args), row_(row), span_(span), first_(first), step_(step), n_(n) {
    if constexpr (kAhead) tile(0).fetch_words(args_, row_, words_);
  }
  // Reads one, in ascending order.
  CSM_DEVICE ColumnTile<Op> read(int round, int rounds, const RowContext (&context)[kVec]) {
    ColumnTile<Op> part = tile(round);
    if constexpr (kAhead) {
      part.take(words_);
      if (round + 1 < rounds) tile(round + 1).fetch_words(args_, row_, words_);
      part.enter(context);
    } else {
      part.read(args_, row_, span_, context);
    }
    return part;
  }

 private:
  const Arguments& args_;
  const Row& row_;
  const ColumnSpan& span_;
  Index first_, step_, n_;
  Pairs<kVec> words_[kAhead ? kItems : 1];

  CSM_DEVICE ColumnTile<Op> tile(int round) const { return ColumnTile<Op>(first_ + round * step_, n_); }
};

constexpr int kColumns = kLanes * kVec;  // rows that a block works on at a time
// Where shared memory holds the node of a walker and row. Walkers follow each other, and the rows of each; but neither
// lanes that store the nodes of a warp's walkers nor lanes that merge neighbouring parts, any power of two apart, meet
// bank conflicts: kAcrossBits bits of the walker choose banks, each a parity of the bits that far apart, and further
// bits turn the columns of a thread's second row.
CSM_DEVICE constexpr unsigned log2_of(unsigned n) { return n > 1 ? 1 + log2_of(n / 2) : 0; }
constexpr unsigned kColumnBits = log2_of(kColumns), kBankBits = log2_of(128 / sizeof(Acc));
constexpr unsigned kPartBits = log2_of(4096 / kLanes);  // of a walker's or piece's number
constexpr unsigned kAcrossBits = kColumnBits < kBankBits ? kBankBits - kColumnBits : 0;
CSM_DEVICE int node_at(int walker, int column) {
  const unsigned part = static_cast<unsigned>(walker), second = part >> kAcrossBits & (kVec - 1);
  unsigned bank = part;
#pragma unroll
  for (unsigned far = kAcrossBits; kAcrossBits > 0 && far < kPartBits; far *= 2) bank ^= bank >> far;
  bank = (part & ~((1u << kAcrossBits) - 1)) + (bank & ((1u << kAcrossBits) - 1));
  return static_cast<int>((bank << kColumnBits) + (static_cast<unsigned>(column) ^ second * kLanes));
}

// Folds, for each of the block's rows, the first `parts` entries (a power of two) into entry 0, in place: a level of
// the tree after the other, so that each merge is done once. The whole block calls it, after a barrier, and it ends
// with a barrier.
CSM_DEVICE void fold_columns(const SharedNodes& nodes, int parts) {
#pragma unroll 1  // merge() is many instructions
  for (int apart = 1; apart < parts; apart *= 2) {
    const int pairs = parts / 2 / apart * kColumns;
#pragma unroll 1
    for (int i = thread_index(); i < pairs; i += block_threads()) {
      const int part = i / kColumns * 2 * apart, column = i % kColumns, at = node_at(part, column);
      nodes.store(at, merge(nodes.load(at), nodes.load(node_at(part + apart, column))));
    }
    block_barrier();
  }
}

// a over a power of two, rounded up. A division takes many instructions.
CSM_DEVICE int log2_of_power(int power) { return 31 - leading_zeros(static_cast<unsigned>(power)); }
CSM_DEVICE i64 over_power(i64 a, int power) { return (a + power - 1) >> log2_of_power(power); }

// The number of pieces of a row. A piece is what one block or cluster holds: a power of two.
CSM_DEVICE i64 pieces_of(const Layout& layout) {
  return over_power(layout.n, kItems * static_cast<int>(layout.rounds) * (block_threads() / kLanes) * kCluster);
}

// The workspace: the nodes of all pieces, and where there are elements to write, of all rows.
CSM_DEVICE GlobalNodes nodes_of_pieces(const Arguments& args, i64 pieces) {
  return GlobalNodes::by_word(args.workspace, args.layout.rows * (pieces + (kOutputs > 0)));
}

// Where the workspace has the nodes of a piece of the rows side by side.
CSM_DEVICE i64 place_of_piece(const Layout& layout, i64 pieces, i64 outer, i64 piece) {
  return (outer * pieces + piece) * layout.inner;
}

// The node of a walker's leaves, a power of two of them, which come one after the other: a binary counter, whose digits
// wait in shared memory, each thread's for itself.
class WalkerFold {
 public:
  CSM_DEVICE WalkerFold(const SharedNodes& digits, int leaves) : digits_(digits), leaves_(leaves), count_(0) {}
  // Digits of a walker for each of its rows.
  CSM_DEVICE static int digits_of(int leaves) { return log2_of_power(leaves); }

  // After the last leaf, `node` is that of all.
  CSM_DEVICE void push(Node (&node)[kVec]) {
    int level = 0;
#pragma unroll 1
    for (; count_ >> level & 1; ++level) {
#pragma unroll
      for (int c = 0; c < kVec; ++c) node[c] = merge(digits_.load(place(level, c)), node[c]);
    }
    if (++count_ == leaves_) return;
#pragma unroll
    for (int c = 0; c < kVec; ++c) digits_.store(place(level, c), node[c]);
  }

 private:
  SharedNodes digits_;
  int leaves_, count_;

  CSM_DEVICE static int place(int level, int c) { return (level * kVec + c) * block_threads() + thread_index(); }
};

// Folds the nodes of a block's walkers into entry 0 of `nodes`, for each of its rows. First those of a warp, by
// shuffles: of two walkers each merges half of their rows, as long as they have several. The whole block calls it, and
// it ends with a barrier.
CSM_DEVICE void fold_walkers(const SharedNodes& nodes, Node (&node)[kVec]) {
  constexpr int kOfWarp = kWarp / kLanes, kLeft = kOfWarp < kVec ? kVec / kOfWarp : 1;
  const int lane = thread_index() % kLanes;
  int first = 0, left = kVec;
#pragma unroll
  for (int mask = kLanes; mask < kWarp; mask *= 2) {
    const bool upper = (thread_index() & mask) != 0, divides = left > 1;
    if (divides) left /= 2;
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
      if (c >= left) continue;
      const Node give = divides && !upper ? node[(c + left) % kVec] : node[c];
      const Node keep = divides && upper ? node[(c + left) % kVec] : node[c];
      node[c] = merge(keep, shuffle_xor(give, mask, kWarp));
    }
    if (divides && upper) first += left;
  }
  if (thread_index() % kWarp < kLanes * (kVec / kLeft)) {
#pragma unroll
    for (int c = 0; c < kLeft; ++c) nodes.store(node_at(thread_index() / kWarp, (first + c) * kLanes + lane), node[c]);
  }
  block_barrier();
  fold_columns(nodes, block_threads() / kWarp);
}

// Stage 4: folds the nodes of all pieces of the block's rows, of which each walker loads `each`, a power of two, one
// after the other. `place` is where the workspace has the first piece's of this thread's rows.
CSM_DEVICE void fold_workspace(const Layout& layout, const SharedNodes& nodes, const SharedNodes& digits,
                               const GlobalNodes& workspace, i64 place, bool present, int pieces, int each) {
  const int walker = thread_index() / kLanes;
  const auto load = [&](int piece, Node(&to)[kVec]) {
    workspace.load(place + piece * layout.inner, present && piece < pieces, to);
  };
  Node node[kVec] = {};
  if (each == 1) {
    load(walker, node);
  } else {
    WalkerFold fold(digits, each / 2);
#pragma unroll 1
    for (int k = 0; k < each; k += 2) {  // two are on their way at once
      Node next[kVec];
      load(walker * each + k, node);
      load(walker * each + k + 1, next);
#pragma unroll
      for (int c = 0; c < kVec; ++c) node[c] = merge(node[c], next[c]);
      fold.push(node);
    }
  }
  fold_walkers(nodes, node);
}

// A piece of the rows of a tile. Their numbers are below 2^31: divisions of 64 bits take many instructions.
struct Unit {
  i64 outer;  // of the dimensions beside the innermost
  unsigned tile, piece;

  CSM_DEVICE Unit(i64 index, i64 tile_count, i64 piece_count) {
    const auto tiles = static_cast<unsigned>(tile_count), pieces = static_cast<unsigned>(piece_count);
    const unsigned all = static_cast<unsigned>(index), whole = kWholeRows ? all : all / pieces;
    piece = kWholeRows ? 0 : all - whole * pieces;
    outer = whole / tiles;
    tile = whole - static_cast<unsigned>(outer) * tiles;
  }
};

// Bytes of the inputs of an element.
template <int Operand = 0>
CSM_DEVICE constexpr int bytes_of_inputs() {
  if constexpr (Operand == kInputs) return 0;
  else return static_cast<int>(sizeof(Type<Operand>)) + bytes_of_inputs<Operand + 1>();
}

// Stage 5: two passes over kColumns rows. A thread has none where they are not `present`.
CSM_DEVICE void pass_twice(const Arguments& args, const Row& row, const ColumnSpan& span, bool present,
                           RowContext (&context)[kVec]) {
  const Layout& layout = args.layout;
  const int walkers = block_threads() / kLanes, walker = thread_index() / kLanes, lane = thread_index() % kLanes;
  const int n = static_cast<int>(layout.n), mine = present ? n : 0, length = walkers * kItems;
  const int each = static_cast<int>(layout.rounds), rounds = (n + length - 1) / length;
  const int pieces = (rounds + each - 1) / each, parts = power_not_below(pieces), leaves = each * walkers;
  // The first rounds are parked in front of the nodes.
  const int parked = kParks ? static_cast<int>(layout.passes) : 0;
  const int parked_bytes = block_threads() * kItems * kVec * bytes_of_inputs();
  const auto park_of = [&](int round) { return round * parked_bytes; };
  const int nodes_at = parked * parked_bytes;
  const SharedNodes nodes(nodes_at, leaves * kColumns);
  const SharedNodes of_pieces(nodes_at + kNodeWords * static_cast<int>(sizeof(Acc)) * leaves * kColumns,
                              parts * kColumns);
  for (int i = thread_index(); i < (parts - pieces) * kColumns; i += block_threads()) {
    of_pieces.store(node_at(pieces + i / kColumns, i % kColumns), empty_node());
  }
  ColumnTile<Op> part(0, 0);  // after the first pass, the elements of its last round
  DoubleWord m[kVec];
#pragma unroll 1
  for (int round = 0; round < pieces * each; ++round) {
    const int leaf = round % each * walkers + walker;
    if (round < rounds) {
      part = ColumnTile<Op>(round * length + walker * kItems, mine);
      part.fetch(args, row, span);
      if (kParks && round < parked) part.park(park_of(round));
      part.enter(context);
      part.reduce(context, [&](int c, const Node& node) {
        m[c] = part.for_scale(node.m);
        nodes.store(node_at(leaf, c * kLanes + lane), node);
      });
    } else {
#pragma unroll
      for (int c = 0; c < kVec; ++c) nodes.store(node_at(leaf, c * kLanes + lane), empty_node());
    }
    if ((round + 1) % each == 0) {
      block_barrier();
      fold_columns(nodes, leaves);
      if (walker == 0) {
#pragma unroll
        for (int c = 0; c < kVec; ++c) {
          of_pieces.store(node_at(round / each, c * kLanes + lane), nodes.load(c * kLanes + lane));
        }
      }
      block_barrier();
    }
  }
  fold_columns(of_pieces, parts);
#pragma unroll
  for (int c = 0; c < kVec; ++c) Op::summarise(of_pieces.load(c * kLanes + lane), context[c], walker == 0);
#pragma unroll 1
  for (int round = rounds - 1; round >= 0; --round) {
    if (round < rounds - 1) {
      part = ColumnTile<Op>(round * length + walker * kItems, mine);
      if (kParks && round < parked) part.unpark(park_of(round));
      else part.fetch(args, row, span);
      part.enter(context);
      part.prepare(context, m);
    }
    typename Op::Scale scale[kVec];
#pragma unroll
    for (int c = 0; c < kVec; ++c) {
      scale[c] = Op::scale(m[c], of_pieces.load(c * kLanes + lane), context[c]);
      Op::complete(scale[c]);
    }
    part.write(args, row, span, scale);
  }
#pragma unroll
  for (int c = 0; c < kVec; ++c) {
    Row at = row;
    at.advance(layout, c);
    write_values<Op>(at, of_pieces.load(c * kLanes + lane), context[c], present && walker == 0);
  }
}

CSM_DEVICE void walk(const Arguments& args) {
  const Layout& layout = args.layout;
  const int walkers = block_threads() / kLanes, walker = thread_index() / kLanes, lane = thread_index() % kLanes;
  const int rank = kCluster > 1 ? cluster_rank() : 0;
  const i64 wide = kStages && kColumns * layout.passes < layout.inner ? kColumns * layout.passes
                   : kStages                                          ? layout.inner
                                                                      : kColumns;  // rows of a tile
  const int rounds = kStage == 0 || kStages ? 1 : static_cast<int>(layout.rounds);
  const i64 tiles = (layout.inner + wide - 1) / wide, pieces = kWholeRows ? 1 : pieces_of(layout);
  const int length = walkers * kItems;
  const GlobalNodes workspace = nodes_of_pieces(args, pieces);

  // What is read again begins with what was read last, which the level 2 cache still has.
  const bool backwards = kStage == 3 || kStage == 4;
  const i64 first_unit = (backwards ? grid_blocks() - 1 - block_index() : block_index()) / kCluster;
  const i64 units_of_all = layout.rows * tiles * pieces;  // times the rows side by side
  for (i64 number = first_unit; number * layout.inner < units_of_all; number += grid_blocks() / kCluster) {
    const bool is_first_unit = number == first_unit;
    const Unit unit(number, tiles, pieces);
    const i64 piece = unit.piece, outer = unit.outer, tile_start = unit.tile * wide;
    // The block's elements of the rows are those from here on.
    const Index n = static_cast<Index>(layout.n);
    const Index first = (static_cast<Index>(piece) * kCluster + rank) * (length * rounds);
    const Index left = n - first < length ? n - first : length;
    Row tile_row = row_at(args, outer);
    if constexpr (kStages) tile_row.advance(layout, tile_start);
    const i64 beside = layout.inner - tile_start < wide ? layout.inner - tile_start : wide;
    const ColumnSpan span(layout, tile_row, first, left, static_cast<int>(beside),
                          static_cast<int>(layout.n < length ? layout.n : length), static_cast<int>(wide));
    const StagedRowInputs row_inputs(kStages ? span.bytes() : 0, static_cast<int>(wide));
    const int nodes_at = kStages ? span.bytes() + row_inputs.bytes() : 0;
    // Stages 1 and 4: leaves of a walker, of the elements or of the workspace.
    const int leaves = kStage == 4 ? power_not_below(static_cast<int>(over_power(pieces, walkers))) : rounds;
    const int warps = block_threads() / kWarp, parts = kStage == 3 ? 1 : kStage == 0 ? walkers : warps;
    const SharedNodes nodes(nodes_at, parts * kColumns);
    const SharedNodes digits(nodes_at + kNodeWords * static_cast<int>(sizeof(Acc)) * parts * kColumns,
                             WalkerFold::digits_of(leaves) * walkers * kColumns);
    const SharedNodes of_blocks(nodes_at + kNodeWords * static_cast<int>(sizeof(Acc)) * walkers * kColumns,
                                kCluster * kColumns);
    if constexpr (kStages) {
      if (!is_first_unit) block_barrier();  // the results of the last unit have been written
      span.read(layout);
      row_inputs.read(layout, tile_row, static_cast<int>(beside));
      block_barrier();
    }
    // kColumns rows. They are one pass's work, of `wide`.
    const auto pass = [&](int start, bool is_first) {
      const int column = start + lane * kVec;
      // kVec divides inner: all of the thread's rows exist, or none.
      const bool present = kStages ? column < beside : tile_start + column < layout.inner;
      const i64 first_row = outer * layout.inner + tile_start + column;
      Row row = tile_row;
      row.advance(layout, kStages ? column : tile_start + column);

      if constexpr (kCluster > 1) cluster_arrive();
      // The nodes of the last pass have been read.
      if (kCluster == 1 && !is_first) block_barrier();
      if constexpr (kStages) span.set_places(row, walker * kItems, column);
      RowContext context[kVec];
#pragma unroll
      for (int c = 0; c < kVec; ++c) {
        if constexpr (kStages) {
          const int mine = present ? column + c : 0;  // those of any row serve a thread with none
          context[c] = context_with<Op>(args, StagedRowInputs::Of{row_inputs, mine}, first_row + c);
        } else {
          Row at = row;
          at.advance(layout, c);
          context[c] = row_context<Op>(args, at, first_row + c, present);
        }
      }
      typename Op::Scale scale[kVec];
      if constexpr (kStage == 3) {
        // Walker 0 of each row reads its node for all others.
        if (walker == 0) {
#pragma unroll
          for (int c = 0; c < kVec; ++c) {
            nodes.store(c * kLanes + lane, workspace.load(layout.rows * pieces + first_row + c, present));
          }
        }
        block_barrier();
      }
      Rounds<> parts_of_walker(args, row, span, first + walker * (kStage == 1 ? rounds : 1) * kItems,
                               (kStage == 1 ? 1 : walkers) * kItems, present ? n : 0);
      if constexpr (kStage == 4) {
        const i64 place = place_of_piece(layout, pieces, outer, 0) + tile_start + column;
        fold_workspace(layout, nodes, digits, workspace, place, present, static_cast<int>(pieces), leaves);
      }
      if constexpr (kStage == 5) return pass_twice(args, row, span, present, context);
      if constexpr (kStage >= 3) {
#pragma unroll
        for (int c = 0; c < kVec; ++c)
          Op::summarise(nodes.load(c * kLanes + lane), context[c], piece == 0 && walker == 0);
#pragma unroll 1
        for (int round = 0; round < rounds; ++round) {
          ColumnTile<Op> part = parts_of_walker.read(round, rounds, context);
          DoubleWord m[kVec];
          part.prepare(context, m);
#pragma unroll
          for (int c = 0; c < kVec; ++c) {
            scale[c] = Op::scale(m[c], nodes.load(c * kLanes + lane), context[c]);
            Op::complete(scale[c]);
          }
          part.write(args, row, span, scale);
        }
#pragma unroll
        for (int c = 0; c < kVec; ++c) {
          Row at = row;
          at.advance(layout, c);
          write_values<Op>(at, nodes.load(c * kLanes + lane), context[c], present && piece == 0 && walker == 0);
        }
        return;
      }

      if constexpr (kStage == 1) {
        WalkerFold fold(digits, leaves);
        Node node[kVec] = {};
#pragma unroll 1
        for (int round = 0; round < rounds; ++round) {
          ColumnTile<Op> part = parts_of_walker.read(round, rounds, context);
          part.reduce(context, [&](int c, const Node& of_row) { node[c] = of_row; });
          fold.push(node);
        }
        fold_walkers(nodes, node);
        if (walker == 0) {
#pragma unroll
          for (int c = 0; c < kVec; ++c) {
            const i64 at = place_of_piece(layout, pieces, outer, piece) + tile_start + column + c;
            workspace.store(at, nodes.load(c * kLanes + lane), present);
          }
        }
        return;
      }

      ColumnTile<Op> part(first + walker * kItems, present ? n : 0);
      part.read(args, row, span, context);
      DoubleWord m[kVec];
      part.reduce(context, [&](int c, const Node& node) {
        m[c] = part.for_scale(node.m);
        nodes.store(node_at(walker, c * kLanes + lane), node);
      });
      block_barrier();
      fold_columns(nodes, walkers);
      if constexpr (kCluster > 1) {
        cluster_wait();
#pragma unroll 1
        for (int i = thread_index(); i < kCluster * kColumns; i += block_threads()) {
          of_blocks.store_remote(node_at(rank, i % kColumns), nodes.load(i % kColumns), i / kColumns);
        }
        cluster_arrive();
        cluster_wait();
        fold_columns(of_blocks, kCluster);
      }
#pragma unroll
      for (int c = 0; c < kVec; ++c) {
        Row at = row;
        at.advance(layout, c);
        const Node whole = (kCluster > 1 ? of_blocks : nodes).load(c * kLanes + lane);
        Op::summarise(whole, context[c], rank == 0 && walker == 0);
        scale[c] = Op::scale(m[c], whole, context[c]);
        Op::complete(scale[c]);
        write_values<Op>(at, whole, context[c], present && rank == 0 && walker == 0);
      }
      part.write(args, row, span, scale);
    };
    if constexpr (kStages) {
#pragma unroll 1
      for (int start = 0; start < beside; start += kColumns) pass(start, start == 0);
      if constexpr (kStage != 1) {
        block_barrier();
        span.write(layout);
      }
    } else {
      pass(0, is_first_unit);
    }
  }
}

// Stage 2. It is launched with blocks of the same size as stage 1, so that it counts the same pieces.
CSM_DEVICE void fold_pieces(const Arguments& args) {
  const Layout& layout = args.layout;
  const i64 pieces = pieces_of(layout);
  const GlobalNodes workspace = nodes_of_pieces(args, pieces);
  const auto place = [&](i64 number, i64 piece) {
    const i64 outer = number / layout.inner;
    return place_of_piece(layout, pieces, outer, piece) + number - outer * layout.inner;
  };
  fold_rows(args, workspace, pieces, place, [&](i64 number, const Node& whole) {
    const bool first = thread_index() % kWarp == 0;
    if constexpr (kOutputs > 0) return workspace.store(layout.rows * pieces + number, whole, first);
    const i64 outer = number / layout.inner;
    Row row = row_at(args, outer);
    row.advance(layout, number - outer * layout.inner);
    RowContext context = row_context<Op>(args, row, number);
    Op::summarise(whole, context, true);
    write_values<Op>(row, whole, context, first);
  });
}

CSM_DEVICE void run(const Arguments& args) {
  if constexpr (kStage == 2) fold_pieces(args);
  else walk(args);
}

}  // namespace csm
