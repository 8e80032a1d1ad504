// column: rows run down a strided axis, and neighbouring rows may lie side by side in memory.
//
// Thread: holds kItems successive elements of each of kVec neighbouring rows, in registers.
// Warp: kLanes threads side by side across the rows, so that its accesses are contiguous, and 32 / kLanes of them one
// below the other along the rows.
// Block: its warps continue along the same rows. A row is shared by block_threads / kLanes threads, its walkers (a
// power of two). Each walker reduces its part of the row to a node, a leaf of the binary tree of reduce/fold.cuh;
// groups of lanes fold the leaves through shared memory.
//
//   stage 0   the row fits on the chip: the walkers of one block, or of kCluster blocks along it, hold all of it;
//   stage 1   longer rows are cut into pieces, first of three launches: each block folds its leaves and writes the
//             node of its piece to the workspace;
//   stage 2   a warp folds the nodes of one row; if there are no elements to write, it writes the row's values;
//   stage 3   if there are, each block reads its piece again and writes it, and the row's values.
//
// Where operands are staged, the block takes layout.rounds times as many rows, or all that lie side by side: it copies
// its part of these to shared memory at once (reduce/column_span.cuh), and makes a pass for each kColumns of them.
//
// Shared memory: that part of the rows, and their row inputs; a node for each walker and row of a pass; in a cluster
// also a node for each block and row; in stage 3 a node for each row. Workspace: a node for each piece of each row,
// then a node for each row.
//
// Barriers, for each pass: one after the leaves are stored, one after each level of the fold, and one before shared
// memory is used for the next pass. In a cluster the last is a cluster barrier, which also makes sure that every block
// has started before others write to it; another one follows the exchange of the blocks' nodes. Spans have the barriers
// that they ask for besides.
#pragma once

#include "reduce/column_span.cuh"
#include "reduce/stretch.cuh"

namespace csm {

// kItems elements of each of kVec neighbouring rows, in one thread's registers.
template <class Op>
class ColumnTile {
 public:
  // Elements [first, first + kItems) of the rows; `n` is 0 for a thread with no rows.
  CSM_DEVICE ColumnTile(i64 first, i64 n) : first_(first), n_(n) {}

  CSM_DEVICE void read(const Arguments& args, const Row& row, const ColumnSpan& span,
                       const RowContext (&context)[kVec]) {
    read_inputs(args, row, span);
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

  CSM_DEVICE Node reduce(int column, const RowContext& context) {
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
    return node;
  }

  // Does to the elements what reduce() does, and returns the maximum; the compiler drops the sums.
  CSM_DEVICE DoubleWord prepare(int column, const RowContext& context) { return reduce(column, context).m; }

  CSM_DEVICE void write(const Arguments& args, const Row& row, const ColumnSpan& span,
                        const typename Op::Scale (&scale)[kVec]) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      Values<kOutputs> result[kVec];
#pragma unroll
      for (int c = 0; c < kVec; ++c) {
        Element e = item_[i][c];
        if constexpr (Op::kHasPower) e[0] *= scale[c].power;
        Op::map(e, scale[c], {first_, i}, result[c]);
        if (kHides && !(kept_ >> (i * kVec + c) & 1)) hide_result<Op>(result[c]);
      }
      store_outputs(args, row, span, i, result);
    }
  }

 private:
  Element item_[kItems][kVec];
  i64 first_, n_;
  unsigned kept_;  // if elements can be hidden: a bit for each element, set unless it is
  static_assert(!kHides || kItems * kVec <= 32, "a bit for each of a thread's elements");

  CSM_DEVICE bool wanted(int i) const { return first_ + i < n_; }
  template <int Operand>
  CSM_DEVICE i64 down(const Arguments& args, int i) const {
    const Layout& at = args.layout;
    return offset_of(first_ + i, at.reduce_size, at.reduce_stride[Operand], at.reduce_dims);
  }
  template <int Operand = 0>
  CSM_DEVICE void read_inputs(const Arguments& args, const Row& row, const ColumnSpan& span) {
    if constexpr (Operand < kInputs) {
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        Acc got[kVec];
        if constexpr (kStaged<Operand>) {
          const int place = row.staged[Operand] + i * span.pitch<Operand>();
          load<Type<Operand>, neutral_of<Op>(Operand)>(place, wanted(i), got);
        } else {
          load<Type<Operand>, neutral_of<Op>(Operand)>(row.start[Operand] + down<Operand>(args, i), wanted(i), got);
        }
#pragma unroll
        for (int c = 0; c < kVec; ++c) item_[i][c][Operand] = got[c];
      }
      read_inputs<Operand + 1>(args, row, span);
    }
  }

  template <int Which = 0>
  CSM_DEVICE void store_outputs(const Arguments& args, const Row& row, const ColumnSpan& span, int i,
                                const Values<kOutputs> (&result)[kVec]) const {
    if constexpr (Which < kOutputs) {
      constexpr int kOperand = kFirstOutput + Which;
      Acc give[kVec];
#pragma unroll
      for (int c = 0; c < kVec; ++c) give[c] = result[c][Which];
      if constexpr (kStaged<kOperand>) {
        store<Type<kOperand>>(row.staged[kOperand] + i * span.pitch<kOperand>(), wanted(i), give);
      } else {
        store<Type<kOperand>>(row.start[kOperand] + down<kOperand>(args, i), wanted(i), give);
      }
      store_outputs<Which + 1>(args, row, span, i, result);
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

constexpr int kColumns = kLanes * kVec;  // rows that a block works on at a time
// Where shared memory holds the node of a walker and row. Walkers follow each other; the rows of each are permuted, so
// that neither lanes that store nodes of neighbouring rows nor lanes that fold the parts of some rows (folded_column)
// meet bank conflicts, but in short steps of folds of more than 32 walkers.
// Numbers are unsigned, and powers of two are told by their exponents: a division takes more instructions than a merge.
CSM_DEVICE constexpr unsigned log2_of(unsigned n) { return n > 1 ? 1 + log2_of(n / 2) : 0; }
constexpr unsigned kColumnBits = log2_of(kColumns), kBankBits = log2_of(128 / sizeof(Acc)), kWarpBits = log2_of(kWarp);
constexpr unsigned kAcrossBits = kColumnBits < kBankBits ? kBankBits - kColumnBits : 0;  // walkers that use each bank
CSM_DEVICE int node_at(int walker, int column) {
  const unsigned part = static_cast<unsigned>(walker), turned = (part >> kAcrossBits) + (part >> kWarpBits);
  return static_cast<int>((part << kColumnBits) + (static_cast<unsigned>(column) ^ turned % kColumns));
}
// The number-th row that groups of 2^bits lanes fold. The groups that share a wavefront take rows that lie apart.
CSM_DEVICE unsigned folded_column(unsigned number, unsigned bits) {
  constexpr unsigned kSideBits = kColumnBits < kBankBits ? kColumnBits : kBankBits;
  const unsigned groups = bits < kBankBits ? kBankBits - bits : 0, apart = groups < kSideBits ? kSideBits - groups : 0;
  const unsigned low = number & ((1u << kSideBits) - 1);
  return number - low + ((low & ((1u << groups) - 1)) << apart) + (low >> groups);
}

// Folds, for each of the block's rows, the first `parts` entries (a power of two) into entry 0, in place. Neighbouring
// lanes take neighbouring parts. The whole block calls it, after a barrier, and it ends with a barrier.
CSM_DEVICE void fold_columns(const SharedNodes& nodes, int parts) {
  const unsigned thread = static_cast<unsigned>(thread_index()), lane = thread % kWarp;
  const unsigned all_bits = static_cast<unsigned>(lowest_bit(static_cast<unsigned>(parts)));
  for (unsigned done = 0; done < all_bits; done += kWarpBits) {
    const unsigned left = all_bits - done, bits = left < kWarpBits ? left : kWarpBits;
    const unsigned places = static_cast<unsigned>(kColumns) << left;
    for (unsigned base = thread - lane; base < places; base += static_cast<unsigned>(block_threads())) {
      const unsigned place = base + lane;  // counts parts of a group first, then rows, then groups
      const unsigned group = place >> bits >> kColumnBits, part = place & ((1u << bits) - 1);
      const unsigned column = folded_column(place >> bits & (kColumns - 1), bits);
      const bool present = place < places;
      const int at = node_at(static_cast<int>(((group << bits) + part) << done), static_cast<int>(column));
      const Node node = fold_lanes(nodes.load(at, present), 1 << bits);
      if (present && part == 0) nodes.store(at, node);
    }
    block_barrier();
  }
}

// The number of pieces of a row. A piece is what one block or cluster holds.
CSM_DEVICE i64 pieces_of(const Layout& layout) {
  const i64 length = i64(kItems) * (block_threads() / kLanes) * kCluster;
  return (layout.n + length - 1) / length;
}

CSM_DEVICE void walk(const Arguments& args) {
  const Layout& layout = args.layout;
  const int walkers = block_threads() / kLanes, walker = thread_index() / kLanes, lane = thread_index() % kLanes;
  const int rank = kCluster > 1 ? cluster_rank() : 0;
  const i64 wide = kStages && kColumns * layout.rounds < layout.inner ? kColumns * layout.rounds
                   : kStages                                          ? layout.inner
                                                                      : kColumns;  // rows of a tile
  const i64 tiles = (layout.inner + wide - 1) / wide;
  const i64 pieces = pieces_of(layout);
  const i64 units = layout.rows / layout.inner * tiles * pieces;
  const int length = walkers * kItems;
  const GlobalNodes workspace(args.workspace);

  const i64 first_unit = block_index() / kCluster;
  for (i64 unit = first_unit; unit < units; unit += grid_blocks() / kCluster) {
    const i64 piece = unit % pieces, outer = unit / pieces / tiles, tile_start = unit / pieces % tiles * wide;
    const i64 first = (piece * kCluster + rank) * length;  // the block's elements of the rows are those from here on
    const i64 left = layout.n - first < length ? layout.n - first : length;
    Row tile_row = row_at(args, outer);
    tile_row.advance(layout, tile_start);
    const i64 beside = layout.inner - tile_start < wide ? layout.inner - tile_start : wide;
    const ColumnSpan span(layout, tile_row, first, left, static_cast<int>(beside),
                          static_cast<int>(layout.n < length ? layout.n : length), static_cast<int>(wide));
    const StagedRowInputs row_inputs(kStages ? span.bytes() : 0, static_cast<int>(wide));
    const int nodes_at = kStages ? span.bytes() + row_inputs.bytes() : 0;
    const SharedNodes nodes(nodes_at, kStage == 3 ? kColumns : walkers * kColumns);
    const SharedNodes of_blocks(nodes_at + kNodeWords * static_cast<int>(sizeof(Acc)) * walkers * kColumns,
                                kCluster * kColumns);
    if constexpr (kStages) {
      if (unit != first_unit) block_barrier();  // the results of the last unit have been written
      span.read(layout);
      row_inputs.read(layout, tile_row, static_cast<int>(beside));
      block_barrier();
    }
    // kColumns rows. They are one pass's work, of `wide`.
    const auto pass = [&](int start, bool is_first) {
      const int column = start + lane * kVec;
      const bool present = column < beside;  // kVec divides inner: all of the thread's rows exist, or none
      const i64 number = outer * layout.inner + tile_start + column;
      Row row = tile_row;
      if (present) row.advance(layout, column);

      if constexpr (kCluster > 1) cluster_arrive();
      // The nodes of the last pass have been read.
      if (kCluster == 1 && !is_first) block_barrier();
      if constexpr (kStages) span.set_places(row, walker * kItems, column);
      RowContext context[kVec];
#pragma unroll
      for (int c = 0; c < kVec; ++c) {
        if constexpr (kStages) {
          const int mine = present ? column + c : 0;  // those of any row serve a thread with none
          context[c] = context_with<Op>(args, StagedRowInputs::Of{row_inputs, mine}, number + c);
        } else {
          Row at = row;
          at.advance(layout, c);
          context[c] = row_context<Op>(args, at, number + c, present);
        }
      }
      ColumnTile<Op> tile(first + walker * kItems, present ? layout.n : 0);
      tile.read(args, row, span, context);
      typename Op::Scale scale[kVec];
      if constexpr (kStage == 3) {
        // Walker 0 of each row reads its node for all others.
        if (walker == 0) {
#pragma unroll
          for (int c = 0; c < kVec; ++c) {
            nodes.store(c * kLanes + lane, workspace.load(layout.rows * pieces + number + c, present));
          }
        }
        block_barrier();
#pragma unroll
        for (int c = 0; c < kVec; ++c) {
          const Node whole = nodes.load(c * kLanes + lane);
          scale[c] = Op::scale(tile.prepare(c, context[c]), whole, context[c]);
          Op::complete(scale[c]);
          Row at = row;
          at.advance(layout, c);
          write_values<Op>(at, whole, context[c], present && piece == 0 && walker == 0);
        }
        tile.write(args, row, span, scale);
        return;
      }

      DoubleWord m[kVec];
#pragma unroll
      for (int c = 0; c < kVec; ++c) {
        const Node node = tile.reduce(c, context[c]);
        m[c] = node.m;
        nodes.store(node_at(walker, c * kLanes + lane), node);
      }
      block_barrier();
      fold_columns(nodes, walkers);
      if constexpr (kStage == 1) {
        if (walker == 0) {
#pragma unroll
          for (int c = 0; c < kVec; ++c) {
            workspace.store((number + c) * pieces + piece, nodes.load(c * kLanes + lane), present);
          }
        }
        return;
      }
      if constexpr (kCluster > 1) {
        cluster_wait();
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
        scale[c] = Op::scale(m[c], whole, context[c]);
        Op::complete(scale[c]);
        write_values<Op>(at, whole, context[c], present && rank == 0 && walker == 0);
      }
      tile.write(args, row, span, scale);
    };
    if constexpr (kStages) {
#pragma unroll 1
      for (int start = 0; start < beside; start += kColumns) pass(start, start == 0);
      if constexpr (kStage != 1) {
        block_barrier();
        span.write(layout);
      }
    } else {
      pass(0, unit == first_unit);
    }
  }
}

// Stage 2. It is launched with blocks of the same size as stage 1, so that it counts the same pieces.
CSM_DEVICE void fold_pieces(const Arguments& args) {
  const Layout& layout = args.layout;
  const i64 pieces = pieces_of(layout);
  const GlobalNodes workspace(args.workspace);
  fold_rows(args, pieces, [&](i64 number, const Node& whole) {
    const bool first = thread_index() % kWarp == 0;
    if constexpr (kOutputs > 0) return workspace.store(layout.rows * pieces + number, whole, first);
    const i64 outer = number / layout.inner;
    Row row = row_at(args, outer);
    row.advance(layout, number - outer * layout.inner);
    write_values<Op>(row, whole, row_context<Op>(args, row, number), first);
  });
}

CSM_DEVICE void run(const Arguments& args) {
  if constexpr (kStage == 2) fold_pieces(args);
  else walk(args);
}

}  // namespace csm
