// group: a short row is held in the registers of 1 to 32 lanes.
//
// Thread: holds kItems elements of one row, or kFirstItems of its first chunk and kItems of its second.
// Warp: holds 32 / kLanes neighbouring rows; the kLanes lanes of a row reduce it by shuffles among themselves. With
// kRowsAtOnce = 2 it takes two whole rows of the block's at a time: half of the lanes then have the node of either, and
// compute its scale and values for all.
// Block: its warps are independent of each other. There is no shared memory and no barrier, unless operands are staged:
// then a block's rows, which lie end to end, are one span (reduce/span.cuh), with the barriers that it asks for. A
// thread takes up to kRowsEach rows, one after the other, so that a span and its barriers are worth their instructions.
// Where several lanes have a row, values of rows are computed for as many rows at once (kDefers).
#pragma once

#include "reduce/span.cuh"
#include "reduce/tile.cuh"

namespace csm {

// Reads a row of two chunks, which a warp holds, writes its results, and returns its node. What is staged of the row
// begins at element `place` of the span. It has the whole first chunk.
template <int kFirst, int kSecond, class Span>
CSM_DEVICE Node row_of_two_chunks(const Arguments& args, const Span& span, int place, Row& row, RowContext& context) {
  constexpr int kChunk = kLanes * kFirst;
  static_assert(kFirst == 0 || kLanes == kWarp);
  const int n = static_cast<int>(args.layout.n);
  RowTile<Op, kLanes, kFirst, kStagedVec, int, false, kLanes, kFirst> first(0, n);
  RowTile<Op, kLanes, kSecond, kStagedVec, int, false, kLanes, kSureItems> second(kChunk, n);
  Row behind = row;
  span.set_places(behind, place + kChunk);
  first.read(args, row, context);
  second.read(args, behind, context);
  first.read_given(args, row, context);
  second.read_given(args, behind, context);
  const Node a = first.reduce(context), b = second.reduce(context), whole = merge(a, b);
  Op::summarise(whole, context, true);
  first.write(args, row, Op::scale(a.m, whole, context));
  second.write(args, behind, Op::scale(b.m, whole, context));
  return whole;
}

// The width at which a warp accesses a staged row that it holds.
constexpr int kRowVec = kLanes == kWarp && kMaxVec > 4 ? kStagedVec : kVec;

// Reads two rows that a warp holds, writes their results and values: the block's rows `first` and `second`, which may
// be the same. The block's rows begin with number `base`.
template <class Op, class Span>
CSM_DEVICE void two_rows(const Arguments& args, const Span& span, i64 base, int first, int second) {
  using Tile = RowTile<Op, kLanes, kItems, kRowVec, int, false, kOrderLanes, kSureItems>;
  const int n = static_cast<int>(args.layout.n);
  Row row[2];
  RowContext context[2];
  Tile tile[2];
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const int mine = t == 0 ? first : second;
    row[t] = row_at(args, base + mine);
    span.set_places(row[t], mine * n);
    context[t] = row_context<Op>(args, row[t], base + mine);
    tile[t] = Tile(0, n);
    tile[t].read(args, row[t], context[t]);
    tile[t].read_given(args, row[t], context[t]);
  }
  DoubleWord maxima[2];
  const Node node = Tile::reduce_tiles(tile, context[0], context[1], maxima);
  // Each lane has one of the rows' nodes, and computes the scale and the values of that row.
  const bool other = Tile::has_second();
  RowContext own = either(other, context[0], context[1]);
  Op::summarise(node, own, true);
  typename Op::Scale scale = Op::scale(node.m, node, own);
  Op::complete(scale);
  if constexpr (Op::kHasPower) {  // as power_applied() does
    const bool far = needs_power(scale);
    if (unlikely(any_lane(far))) {
      if (far) static_cast<Factor&>(scale) = Op::factor_with_power(scale);
#pragma unroll
      for (int t = 0; t < 2; ++t) tile[t].multiply(shuffle(far ? scale.power : Acc(1), t * Tile::kOfSecond, kLanes));
    }
  }
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const auto pass = [&](Acc word) { return shuffle(word, t * Tile::kOfSecond, kLanes); };
    tile[t].template write<true>(args, row[t], Op::passed(scale, context[t], pass));
  }
  const bool wanted = Tile::lane_of_tile(thread_index() % kLanes) == 0 && (!other || first != second);
  write_values<Op>(either(other, row[0], row[1]), node, own, wanted);
}

// Whether each lane of a row keeps the node of another one, and then computes its values, where all lanes would compute
// those of one row. Results of 16 bits have a short logarithm, and lose more by the registers.
constexpr bool kDefers = kRowOutputs > 0 && kOutputs > 0 && kLanes > 1 && kCompensated;

// Whether a warp leaves out rows that are not there: conditions on a row's length are then the same in all its lanes,
// as the compiler sees. Reads of aligned rows are started before that condition is known.
constexpr bool kOfWarp = kStages && kLanes == kWarp && kTiles == 1 && (kRowsEach > 1 || kInPlace);

static_assert(kRowsAtOnce == 1 || (kRowsAtOnce == 2 && kOfWarp && Op::kPassesScale));

CSM_DEVICE void run(const Arguments& args) {
  constexpr bool kApart = (kRowsEach > 1 || kTiles > 1) && !kInPlace;
  using Span = SpanOf<(kFirstItems + kItems) * kRowsEach, false, kApart>;
  const Layout& layout = args.layout;
  const int side_by_side = block_threads() / kLanes, each = kRowsEach > 1 ? static_cast<int>(layout.rounds) : 1,
            rows_at_once = side_by_side * each;
  // One lane says which warp it is: the compiler then knows that conditions on it hold in all lanes or in none. Of
  // two chunks in float32 it takes registers, for little.
  constexpr bool kSaid = kOfWarp || (kTiles > 1 && !kCompensated);
  const int own = thread_index() / kLanes, first = kSaid ? shuffle(own, 0, kWarp) : own;
  Node kept = empty_node();  // with kDefers, and its row's number
  i64 kept_number = 0;
  int turn = 0;
  // All threads of a block make the same number of iterations, so that every lane reaches every shuffle.
  for (i64 base = block_index() * rows_at_once; base < layout.rows; base += grid_blocks() * rows_at_once) {
    const Span span = span_of_rows<Span>(args, base, rows_at_once);
    const i64 left = layout.rows - base;
    const int here = left < rows_at_once ? static_cast<int>(left) : rows_at_once;
    if constexpr (kStages) {
      if (base != block_index() * rows_at_once) block_barrier();
      span.read();
      block_barrier();
    }
#pragma unroll 1
    for (int r = 0; r < each; r += kRowsAtOnce) {
      const int mine = r * side_by_side + first;  // of the block's rows
      if constexpr (kRowsAtOnce > 1) {
        const int next = r + 1 < each && mine + side_by_side < here ? mine + side_by_side : mine;
        if (mine < here) two_rows<Op>(args, span, base, mine, next);
        continue;
      }
      const i64 number = base + mine;
      const bool present = kOfWarp ? mine < here : number < layout.rows;
      Row row = row_at(args, present ? number : base);
      if constexpr (kStages) span.set_places(row, mine * static_cast<int>(layout.n));
      RowContext context = row_context<Op>(args, row, number, present);
      if constexpr (kTiles > 1) {
        if (!present) continue;  // all lanes of the warp
        const int place = mine * static_cast<int>(layout.n);
        const Node node = row_of_two_chunks<kFirstItems, kItems>(args, span, place, row, context);
        write_values<Op>(row, node, context, thread_index() % kLanes == 0);
        continue;
      }
      if (!kOfWarp || present) {
        RowTile<Op, kLanes, kItems, kRowVec, int, false, kOrderLanes, kSureItems> tile(
            0, kOfWarp || present ? static_cast<int>(layout.n) : 0);
        if (kOfWarp || kSureItems == 0 || present) tile.read(args, row, context);
        else tile.clear();
        tile.read_given(args, row, context);
        const Node node = tile.reduce(context);
        if constexpr (kStages && kRowsEach == 1 && !kInPlace) block_barrier();
        Op::summarise(node, context, !kDefers);
        tile.write(args, row, Op::scale(node.m, node, context));
        if (kDefers && thread_index() % kLanes == turn) kept = node;
        if constexpr (!kDefers) write_values<Op>(row, node, context, present && thread_index() % kLanes == 0);
      }
      if constexpr (kDefers) {
        const int lane = thread_index() % kLanes;
        if (lane == turn) kept_number = number;
        const bool last = r == each - 1 && base + grid_blocks() * rows_at_once >= layout.rows;
        if (turn == kLanes - 1 || last) {
          const bool mine = lane <= turn && kept_number < layout.rows;
          const Row at = row_at(args, mine ? kept_number : base);
          RowContext of_kept = row_context<Op>(args, at, kept_number, mine);
          Op::summarise(kept, of_kept, true);
          write_values<Op>(at, kept, of_kept, mine);
        }
        turn = (turn + 1) % kLanes;
      }
    }
    if constexpr (kStages) {
      Span::results_barrier();
      span.write();
    }
  }
}

}  // namespace csm
