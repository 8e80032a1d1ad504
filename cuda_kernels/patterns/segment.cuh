// segment: rows of unequal length, laid end to end; where they begin is known on the device alone.
//
// Row s of a column is elements [offsets[s], offsets[s + 1]). Its key is s + offsets[s]: keys rise with s by one more
// than the row's length, so that cutting them into tiles of kTile cuts elements and rows, empty ones too, into equal
// shares of work, and which rows begin in a tile is found by a search. A block takes a tile of a column:
//
//   stage 0   a few blocks see whether the offsets rise from 0 to the end, and leave a word each in the workspace. If
//             they do not, stage 1 writes NaN everywhere, and later ones nothing;
//   stage 1   rows of up to kTile elements that begin in the tile lie side by side: they are staged in shared memory,
//             reduced and written. A row of up to a chunk is taken by 2 to 32 lanes, as the group pattern would; the
//             chunks of others by a warp each, all at once. Longer rows are cut into pieces of kTile, whose keys go on
//             from the row's by kTile: the pieces of the tile, at most the end of one row and the beginning of another,
//             are reduced to a node each;
//   stage 2   the nodes of kFold pieces of a row are folded into one, by the block with the first of them;
//   stage 3   the pieces of the tile are staged again, and written.
//
// Stages 2 and 3 are launched only where there may be a longer row. Every stage adds in the order of core/tile.cuh and
// core/fold.cuh, so that a row has the bits that the other patterns would give it, wherever it stands.
//
// Shared memory: what is staged, nodes, and for each warp a list of rows longer than a chunk. Workspace: the words of
// stage 0, then two nodes for each tile and column: of the row that ends there, and of the one that begins.
#pragma once

#include "core/fold.cuh"
#include "core/staged.cuh"

namespace csm {

constexpr int kWarps = 4;  // of a block, in all stages but 0; a power of two: a piece is a subtree of the fold
constexpr int kTile = kWarps * kChunk;
constexpr int kFold = 1024;  // pieces that stage 2 folds: a power of two

using Area = Staged<2 * kTile + kGroup>;  // rows that begin in a tile, the last of them up to kTile long
constexpr int kNodes = 4 * kWarps;  // chunks of rows longer than one, in 2 kTile elements: fewer than 2 · 2 kWarps
constexpr int kListed = 2 * kWarps;  // such rows: fewer than 2 kWarps
constexpr int kNodesAt = Area::kBytes;
constexpr int kListsAt = kNodesAt + kNodes * kNodeWords * static_cast<int>(sizeof(Acc));

constexpr int kWord = static_cast<int>(sizeof(int));

class Offsets {
  using T = Type<kInputs>;

 public:
  CSM_DEVICE explicit Offsets(const Arguments& args)
      : base_(args.operand[kInputs]), stride_(args.layout.reduce_stride[kInputs][0]) {}

  CSM_DEVICE i64 at(i64 row, bool wanted = true) const {
    return static_cast<i64>(global_load(base_ + row * stride_, wanted, T{}));
  }

  // The first row of [low, high) whose key is at least `key`; `high` if there is none. A warp's lanes all ask the same.
  CSM_DEVICE i64 first_from(i64 key, i64 low, i64 high) const {
    while (low < high) {
      const i64 step = (high - low + kWarp - 1) / kWarp;
      const i64 row = low + (thread_index() % kWarp + 1) * step - 1;
      const i64 its = row + at(row, row < high);
      low += count_bits(ballot(row < high && its < key)) * step;
      high = high < low + step - 1 ? high : low + step - 1;
    }
    return low;
  }

 private:
  const char* base_;
  i64 stride_;
};

// The number-th kTile elements of a long row.
struct Piece {
  i64 start, length;  // of the row; no piece if the length is 0
  i64 number;
  i64 tile;  // where the row begins: its piece g is in tile + g

  CSM_DEVICE i64 begin() const { return start + number * kTile; }
  CSM_DEVICE i64 end() const { return length - number * kTile > kTile ? begin() + kTile : start + length; }
  CSM_DEVICE i64 count() const { return (length + kTile - 1) / kTile; }
  CSM_DEVICE i64 slot(const Layout& layout, i64 g, i64 column) const {
    return 2 * ((tile + g) * layout.rows + column) + (g == 0 ? 1 : 0);
  }
};

// What begins in a tile: rows [first, last), and the pieces of longer rows.
struct Share {
  i64 first, last;
  Piece piece[2];
};

CSM_DEVICE Share share_of(const Layout& layout, const Offsets& offsets, i64 tile) {
  Share share = {};
  const i64 low = tile * kTile;
  share.first = offsets.first_from(low, 0, layout.segments);
  const i64 most = share.first + kTile;  // every row moves the key on
  share.last = offsets.first_from(low + kTile, share.first, most < layout.segments ? most : layout.segments);
  if (share.first > 0) {
    const i64 row = share.first - 1, start = offsets.at(row), length = offsets.at(row + 1) - start;
    const i64 number = (low - (row + start) + kTile - 1) / kTile;
    if (length > kTile && number * kTile < length) {
      share.piece[0] = {start, length, number, (row + start) / kTile};
    }
  }
  if (share.last > share.first) {
    const i64 row = share.last - 1, start = offsets.at(row), length = offsets.at(row + 1) - start;
    if (length > kTile) {
      share.piece[1] = {start, length, 0, tile};
      share.last = row;
    }
  }
  return share;
}

// Nothing but its length is given with a row.
CSM_DEVICE Given given_of(i64 length) {
  Given given = {};
  given.n = length;
  return given;
}

// --- rows that are staged whole --------------------------------------------------------------------------------------

// A lane has the start and the length of a row; those rows of `mask` are reduced and written, 32 / Lanes at a time.
template <int Lanes, int Items>
CSM_DEVICE void finish_rows(const Area& area, unsigned mask, i64 start, int length) {
  while (mask) {
    unsigned mine = mask;
    for (int skip = thread_index() % kWarp / Lanes; skip > 0; --skip) mine &= mine - 1;
    const int lane = mine ? lowest_bit(mine) : 0;
    const i64 from = shuffle(start, lane, kWarp);
    const int n = shuffle(length, lane, kWarp);
    StagedTile<Op, Lanes, Items> tile(0, mine ? n : 0);
    tile.fetch(area, from);
    const Node node = tile.reduce();
    tile.give(area, from, Op::scale(node.m, node, given_of(n)));
    for (int done = 0; done < kWarp / Lanes; ++done) mask &= mask - 1;
  }
}

// As many lanes as the group pattern has for the length: it decides the order of summation.
template <int Lanes = 2>
CSM_DEVICE void finish_short(const Area& area, i64 start, int length) {
  constexpr int kAbove = Lanes == 2 ? 2 * kGroup : Lanes / 2 * kItems;
  finish_rows<Lanes, kItems>(area, ballot(length > kAbove && length <= Lanes * kItems), start, length);
  if constexpr (Lanes < kWarp) finish_short<2 * Lanes>(area, start, length);
}

// The warps' lists of rows that are longer than a chunk: how many, then start and length of each.
class Lists {
 public:
  CSM_DEVICE void add(int k, i64 start, int length) const {
    starts_.store(warp() * kListed + k, start);
    lengths_.store(warp() * kListed + k, length);
  }
  CSM_DEVICE void close(int count) const { counts_.store(warp(), count); }

  // Visits the chunks of all rows, of which every warp has every kWarps-th: the chunk's number among all, that of the
  // row's first chunk, its number in the row, the row's start and length.
  template <class Visit>
  CSM_DEVICE void visit(Visit visit) const {
    int number = 0;
    for (int w = 0; w < kWarps; ++w) {
      const int count = counts_.load(w);
      for (int k = w * kListed; k < w * kListed + count; ++k) {
        const i64 start = starts_.load(k);
        const int length = lengths_.load(k), first = number;
        for (int first_of_chunk = 0; first_of_chunk < length; first_of_chunk += kChunk, ++number) {
          if (number % kWarps == warp()) visit(number, first, first_of_chunk, start, length);
        }
      }
    }
  }
  static constexpr int kBytes = kWarps * (kListed * (8 + kWord) + kWord);

 private:
  CSM_DEVICE static int warp() { return thread_index() / kWarp; }
  Shared<i64> starts_ = Shared<i64>(kListsAt);
  Shared<int> lengths_ = Shared<int>(kListsAt + kWarps * kListed * 8);
  Shared<int> counts_ = Shared<int>(kListsAt + kWarps * kListed * (8 + kWord));
};

CSM_DEVICE void finish_staged(const Arguments& args, const Row& column, const Offsets& offsets, const Share& share) {
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  const Area area(offsets.at(share.first), offsets.at(share.last));
  const SharedNodes nodes(kNodesAt, kNodes);
  const Lists longer;
  area.read(args, column);
  block_barrier();
  int listed = 0;
  for (i64 first = share.first + warp * kWarp; first < share.last; first += kWarps * kWarp) {
    const bool present = first + lane < share.last;
    const i64 start = offsets.at(first + lane, present);
    const int length = present ? static_cast<int>(offsets.at(first + lane + 1) - start) : 0;
    finish_rows<2, kGroup>(area, ballot(length > 0 && length <= 2 * kGroup), start, length);
    finish_short(area, start, length);
    for (unsigned rest = ballot(length > kChunk); rest; rest &= rest - 1) {
      const i64 from = shuffle(start, lowest_bit(rest), kWarp);
      const int n = shuffle(length, lowest_bit(rest), kWarp);
      if (lane == 0) longer.add(listed, from, n);
      ++listed;
    }
  }
  if (lane == 0) longer.close(listed);
  block_barrier();
  using Tile = StagedTile<Op, kWarp, kItems>;
  longer.visit([&](int number, int, int first, i64 start, int length) {
    Tile tile(first, length);
    tile.fetch(area, start);
    const Node node = tile.reduce();
    if (lane == 0) nodes.store(number, node);
    tile.keep(area, start);
  });
  block_barrier();
  longer.visit([&](int number, int first_number, int first, i64 start, int length) {
    const Node whole = fold_all<Op::kMaximum>((length + kChunk - 1) / kChunk, [&](i64 i, bool wanted) {
      return nodes.load(first_number + static_cast<int>(i), wanted);
    });
    Tile tile(first, length);
    tile.fetch(area, start);
    tile.give(area, start, Op::scale(nodes.load(number).m, whole, given_of(length)));
  });
  block_barrier();
  area.write(args, column);
}

// --- longer rows -----------------------------------------------------------------------------------------------------

CSM_DEVICE GlobalNodes workspace_nodes(const Arguments& args) {
  return GlobalNodes(args.workspace + (args.layout.checkers * kWord + 15) / 16 * 16);
}

// Folds one node a warp, which lane 0 gives: the result is warp 0's.
CSM_DEVICE Node fold_warps(const Node& node) {
  const SharedNodes nodes(kNodesAt, kNodes);
  if (thread_index() % kWarp == 0) nodes.store(thread_index() / kWarp, node);
  block_barrier();
  const Node mine = nodes.load(thread_index() % kWarps);
  return fold_lanes<Op::kMaximum>(mine, kWarps);
}

CSM_DEVICE void reduce_piece(const Arguments& args, const Row& column, const Piece& piece, i64 slot) {
  const Area area(piece.begin(), piece.end());
  area.read(args, column);
  block_barrier();
  StagedTile<Op, kWarp, kItems> tile(piece.number * kTile + thread_index() / kWarp * kChunk, piece.length);
  tile.fetch(area, piece.start);
  const Node whole = fold_warps(tile.reduce());
  workspace_nodes(args).store(slot, whole, thread_index() == 0);
}

CSM_DEVICE void fold_pieces(const Arguments& args, const Piece& piece, i64 column) {
  if (piece.number % kFold != 0) return;
  const GlobalNodes workspace = workspace_nodes(args);
  const i64 skipped = i64(thread_index() / kWarp) * (kFold / kWarps);
  const i64 left = piece.count() - piece.number - skipped;
  const i64 mine = left < 0 ? 0 : left < kFold / kWarps ? left : kFold / kWarps;
  const Node whole = fold_warps(fold_all<Op::kMaximum>(mine, [&](i64 i, bool wanted) {
    return workspace.load(piece.slot(args.layout, piece.number + skipped + i, column), wanted);
  }));
  // Nobody else reads the nodes of these pieces in this launch, and this block has read them.
  workspace.store(piece.slot(args.layout, piece.number, column), whole, thread_index() == 0);
}

CSM_DEVICE void write_piece(const Arguments& args, const Row& column, const Piece& piece, i64 column_number) {
  const Area area(piece.begin(), piece.end());
  area.read(args, column);
  const GlobalNodes workspace = workspace_nodes(args);
  const Node whole = fold_all<Op::kMaximum>((piece.count() + kFold - 1) / kFold, [&](i64 i, bool wanted) {
    return workspace.load(piece.slot(args.layout, i * kFold, column_number), wanted);
  });
  block_barrier();
  StagedTile<Op, kWarp, kItems> tile(piece.number * kTile + thread_index() / kWarp * kChunk, piece.length);
  tile.fetch(area, piece.start);
  const Acc m = tile.prepare();
  tile.give(area, piece.start, Op::scale(m, whole, given_of(piece.length)));
  block_barrier();
  area.write(args, column);
}

// --- the stages ------------------------------------------------------------------------------------------------------

CSM_DEVICE void check_offsets(const Arguments& args) {
  const Layout& layout = args.layout;
  const Offsets offsets(args);
  const i64 threads = grid_blocks() * block_threads();
  bool wrong = false;
  for (i64 row = block_index() * block_threads() + thread_index(); row <= layout.segments; row += threads) {
    const i64 at = offsets.at(row), before = offsets.at(row - 1, row > 0);
    wrong = wrong || (row == 0 ? at != 0 : at < before) || (row == layout.segments && at != layout.n);
  }
  const Shared<int> of_warps(0);
  const unsigned any = ballot(wrong);
  if (thread_index() % kWarp == 0) of_warps.store(thread_index() / kWarp, any != 0);
  block_barrier();
  const int mine = thread_index() % kWarp < block_threads() / kWarp ? of_warps.load(thread_index() % kWarp) : 0;
  const int word = ballot(mine != 0) != 0;
  global_store(args.workspace + block_index() * kWord, word, thread_index() == 0);
}

CSM_DEVICE bool offsets_rise(const Arguments& args) {
  bool wrong = false;
  for (i64 first = 0; first < args.layout.checkers; first += kWarp) {
    const i64 i = first + thread_index() % kWarp;
    wrong = wrong || global_load(args.workspace + i * kWord, i < args.layout.checkers, 0) != 0;
  }
  return ballot(wrong) == 0;
}

CSM_DEVICE void write_nan(const Arguments& args, const Row& column, i64 tile) {
  const i64 end = (tile + 1) * kTile < args.layout.n ? (tile + 1) * kTile : args.layout.n;
  for (i64 i = tile * kTile + thread_index(); i < end; i += block_threads()) {
    const Acc nan[1] = {negative_infinity() - negative_infinity()};
    store<Out>(column.start[kFirstOutput] + element_offset<kFirstOutput>(args, i), true, nan);
  }
}

CSM_DEVICE void run(const Arguments& args) {
  if constexpr (kStage == 0) {
    check_offsets(args);
    return;
  }
  const Layout& layout = args.layout;
  const Offsets offsets(args);
  const bool good = offsets_rise(args);
  const i64 units = (layout.n + layout.segments + kTile - 1) / kTile * layout.rows;
  for (i64 unit = block_index(); unit < units; unit += grid_blocks()) {
    const i64 tile = unit / layout.rows, number = unit - tile * layout.rows;
    const Row column = row_at(args, number);
    if (!good) {
      if constexpr (kStage == 1) write_nan(args, column, tile);
      continue;
    }
    const Share share = share_of(layout, offsets, tile);
    block_barrier();  // shared memory is free
    if constexpr (kStage == 1) {
      if (share.first < share.last) finish_staged(args, column, offsets, share);
    }
#pragma unroll 1
    for (int k = 0; k < 2; ++k) {
      const Piece piece = k == 0 ? share.piece[0] : share.piece[1];
      if (piece.length == 0) continue;
      block_barrier();
      if constexpr (kStage == 1) reduce_piece(args, column, piece, piece.slot(layout, piece.number, number));
      if constexpr (kStage == 2) fold_pieces(args, piece, number);
      if constexpr (kStage == 3) write_piece(args, column, piece, number);
    }
  }
}

}  // namespace csm
