// segment: rows of unequal length that lie end to end; only the device knows where they begin.
//
// Row s of a column is elements [offsets[s], offsets[s + 1]). Its key is s + offsets[s]. The keys rise with s, each by
// the row's length plus one, so that equal ranges of kTile keys (tiles) hold equal amounts of work: elements and rows
// together, empty rows too. A tile may have at most one row that began before it.
//
// Block: in stage 1 it takes one tile of one column.
//
//   stage 0   a few blocks read all offsets, each warp ranges of them. They write to the workspace where each tile's
//             first row is and begins, and 16 bits for each row that say where in its tile it begins: all that stage 1
//             needs, for a fourth of the bytes. Each block also writes a status: whether the offsets rise from 0 to the
//             number of elements. If they do not, stage 1 fills the output with NaN and stage 2 writes nothing, so
//             that no wrong offset is followed; and whether a row is longer than a tile;
//   stage 1   rows of up to kTile elements that begin in the tile lie side by side: they are staged in shared memory,
//             reduced there and written. Longer rows are cut into pieces of kTile elements; each tile that such a row
//             covers has one piece of it. A tile has at most two pieces: one of the row that ends in it and one of the
//             row that begins in it. Each is reduced to a node in the workspace;
//   stage 2   the pieces are staged again and written. A block takes a range of a column's tiles and folds the nodes of
//             a row once, for all the pieces of it that it has.
//
// Stage 2 is launched only if a row may be longer than a tile, and does nothing if none is.
//
// Warp: takes 32 rows at a time, those of a tile in the order of their lengths, since its lanes take as long as the
// longest. Rows of up to 2 kItems elements have a lane each, which adds in the order of the group pattern's two lanes;
// those of up to a chunk (kChunk elements) have 4 to 32 lanes, as there, several rows at once; of longer rows and of
// pieces it takes a chunk at a time. Thread: holds kItems elements of a chunk, or up to twice as many of a row of its
// own.
//
// Every stage adds in the order of reduce/tile.cuh and reduce/fold.cuh, so that a row has the bits that other patterns
// would give it, wherever it begins.
//
// Shared memory: the staged elements, and behind them the keys of their rows; nodes; for each warp a list of its rows
// longer than a chunk; the rows in order. Barriers separate staging, counting rows by length, putting them in order,
// the short rows with the lists, the nodes, the results, and writing out; one more lies between two uses of the shared
// memory. Workspace: the statuses of stage 0, and that of all, which stage 1 writes; the tiles' first rows; where the
// rows begin; two nodes for each tile and column, of the row that ends there and of the row that begins.
#pragma once

#include "reduce/fold.cuh"
#include "reduce/staged.cuh"

namespace csm {

constexpr int kWarps = 4;  // of a block, from stage 1 on; a power of two, so that a piece is a subtree of the fold
constexpr int kChunks = kInPairs ? 2 * kWarps : kWarps;  // of a tile: as many as leave room for five blocks
constexpr int kTile = kChunks * kChunk;

using Begin = u16;  // of a row: its key, less those of the tiles before its own

// Rows that begin in a tile, of which the last may end kTile later, and behind them their keys: as these are copied in
// whole vectors, they may take some words more than one each.
constexpr int kKeyBytes = 32;
using Area = Staged<2 * kTile + kMaxVec + kKeyBytes / static_cast<int>(sizeof(Kept)), kWarps * kWarp>;
constexpr int kNodes = 4 * kChunks;   // 2 kTile elements hold fewer chunks of longer rows: < 2 · 2 kChunks
constexpr int kListed = 2 * kChunks;  // and fewer rows longer than a chunk: < 2 kChunks
constexpr int kNodesAt = Area::kBytes;
constexpr int kListsAt = kNodesAt + kNodes * kNodeWords * static_cast<int>(sizeof(Acc));

constexpr int kWord = static_cast<int>(sizeof(int));
constexpr int kLookupAt = kListsAt + kWarps * (2 * kListed + 1) * kWord;
constexpr int kLookedUp = 6;  // numbers of a tile
static_assert(kTile == CSM_SEGMENT_TILE, "the host cuts the elements and rows into other tiles");

// Rows of up to kAlone elements, which the group pattern gives two lanes, have one that acts for both. In double a lane
// would spill.
constexpr int kAlone = kSingle ? 2 * kItems : 0, kAloneStep = 8;
using Counts = Vec<unsigned, 4>;
constexpr int kLookupEnd = kLookupAt + 2 * kWord + kLookedUp * static_cast<int>(sizeof(i64));
constexpr int kSortedAt = (kLookupEnd + 15) / 16 * 16;
constexpr int kSorted = kChunks * kWarp;  // rows that are sorted at once: 128 or 256
static_assert(kSortedAt + (kAlone > 0 ? static_cast<int>(sizeof(Counts)) + kSorted * kWord : 0) ==
                  CSM_SEGMENT_SHARED_BYTES,
              "the host gives stages 1 and 2 another amount of shared memory");

class Offsets {
  using T = Type<kInputs>;

 public:
  CSM_DEVICE explicit Offsets(const Arguments& args)
      : base_(args.operand[kInputs]), stride_(args.layout.reduce_stride[kInputs][0]) {}

  CSM_DEVICE i64 at(i64 row, bool wanted = true) const {
    return static_cast<i64>(global_load(base_ + row * stride_, wanted, T{}));
  }

 private:
  const char* base_;
  i64 stride_;
};

// The parts of the workspace, each from the start of a sector on. A tile's first row is the first whose key is in the
// tile or later; the last tile may have none. There is an entry for one tile more than there are.
struct alignas(16) FirstRow {
  i64 row, offset;
};

CSM_DEVICE i64 tile_of(i64 key) { return static_cast<i64>(static_cast<u64>(key) / kTile); }  // keys are not negative
CSM_DEVICE i64 tiles_of(const Layout& layout) { return tile_of(layout.n + layout.segments + kTile - 1); }
CSM_DEVICE i64 whole_sectors(i64 bytes) { return (bytes + 31) & ~i64(31); }
CSM_DEVICE char* status_of(const Arguments& args, i64 checker) { return args.workspace + checker; }
CSM_DEVICE char* status_of_all(const Arguments& args) { return status_of(args, whole_sectors(args.layout.checkers)); }
CSM_DEVICE char* first_row_of(const Arguments& args, i64 tile) {
  return status_of_all(args) + whole_sectors(1) + tile * static_cast<i64>(sizeof(FirstRow));
}
CSM_DEVICE char* begin_of(const Arguments& args, i64 row) {
  const i64 tiles = tiles_of(args.layout) + 1;
  return first_row_of(args, 0) + whole_sectors(tiles * static_cast<i64>(sizeof(FirstRow))) +
         row * static_cast<i64>(sizeof(Begin));
}
CSM_DEVICE GlobalNodes nodes_of(const Arguments& args) {
  return GlobalNodes(begin_of(args, 0) + whole_sectors(args.layout.segments * static_cast<i64>(sizeof(Begin))));
}

// What the offsets are.
namespace status {
enum { wrong = 1, longer = 2 };  // they do not rise, or not to the end; a row is longer than a tile
}
// What any lane has found.
CSM_DEVICE int status_of_warp(int mine) {
  return (ballot((mine & status::wrong) != 0) ? status::wrong : 0) |
         (ballot((mine & status::longer) != 0) ? status::longer : 0);
}
// What all blocks of stage 0 have found. The first warp calls it, in stage 1.
CSM_DEVICE int read_statuses(const Arguments& args) {
  constexpr int kEach = sizeof(u64), kWords = 2;  // statuses in a word, and words that a lane reads at once
  const int checkers = static_cast<int>(args.layout.checkers), lane = thread_index() % kWarp;
  u64 some = 0;
#pragma unroll 1
  for (int i = lane * kWords * kEach; i - lane * kWords * kEach < checkers; i += kWarp * kWords * kEach) {
    const auto read = global_load(status_of(args, i), i < checkers, Vec<u64, kWords>{});
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int beyond = i + (w + 1) * kEach - checkers;  // of its statuses; the first is in the lowest byte
      if (beyond < kEach) some |= beyond > 0 ? read.item[w] << 8 * beyond : read.item[w];
    }
  }
  unsigned mine = static_cast<unsigned>(some | some >> 32);
  mine |= mine >> 16;
  const int found = status_of_warp(static_cast<int>(mine | mine >> 8));
  global_store(status_of_all(args), static_cast<u8>(found), block_index() == 0 && lane == 0);
  return found;
}
// What stage 1 wrote of it, which one thread of a block reads.
CSM_DEVICE int read_status(const Arguments& args) {
  const Shared<int> found(kLookupAt);
  if (thread_index() == 0) found.store(0, global_load(status_of_all(args), true, u8{0}));
  block_barrier();
  return found.load(0);
}

// The rows [first, last) begin in a tile.
struct Rows {
  i64 first, last;
};

// What is looked up of a tile: its rows, and where the first and the last of them begin, and end where the one before
// does and the last does; and what the offsets are. One warp reads these numbers, for all.
class Lookup {
 public:
  CSM_DEVICE explicit Lookup(i64 tile) : tile_(tile) {}

  // The first warp calls it; a barrier follows. In stage 1, the statuses and the tile's rows are on their way together.
  // The starts are needed only if a row is longer than a tile, as later stages know.
  CSM_DEVICE void find(const Arguments& args, const Offsets& offsets) const {
    const int lane = thread_index() % kWarp;
    const i64 read = global_load(first_row_of(args, tile_) + lane * sizeof(i64), lane < kStarts, i64(0));
    int found = status::longer;
    if constexpr (kStage == 1) {
      found = read_statuses(args);
      if (lane == 0) status_.store(0, found);
    }
    const i64 row = shuffle(read, lane == kStarts ? 0 : 2, kWarp) - 1;
    const bool wanted = found == status::longer && lane >= kStarts && lane < kLookedUp && row >= 0;
    const i64 start = offsets.at(row, wanted);
    if (lane < kLookedUp) numbers_.store(lane, lane < kStarts ? read : start);
  }

  CSM_DEVICE int status() const { return kStage == 1 ? status_.load(0) : status::longer; }
  CSM_DEVICE i64 number() const { return tile_; }
  CSM_DEVICE Rows rows() const { return {numbers_.load(0), numbers_.load(2)}; }
  // The offsets of the row before the first (of the last row, if `of_last`) and of the one after it.
  CSM_DEVICE i64 start(bool of_last) const { return numbers_.load(kStarts + of_last); }
  CSM_DEVICE i64 end(bool of_last) const { return numbers_.load(1 + 2 * of_last); }

 private:
  static constexpr int kStarts = 4;  // behind two of FirstRow
  Shared<int> status_ = Shared<int>(kLookupAt);
  Shared<i64> numbers_ = Shared<i64>(kLookupAt + 2 * kWord);
  i64 tile_;
};

// A piece of a row that is longer than kTile: piece `number` is its number-th kTile elements, the last one fewer.
struct Piece {
  i64 start, length;  // of the row
  i64 number;
  i64 tile;  // in which the row begins; the row's piece g is in tile + g

  CSM_DEVICE i64 begin() const { return start + number * kTile; }
  CSM_DEVICE i64 end() const { return length - number * kTile > kTile ? begin() + kTile : start + length; }
  CSM_DEVICE i64 count() const { return (length + kTile - 1) / kTile; }
  CSM_DEVICE bool exists() const { return length > kTile && number * kTile < length; }
  CSM_DEVICE i64 slot(const Layout& layout, i64 g, i64 column) const {
    return 2 * ((tile + g) * layout.rows + column) + (g == 0 ? 1 : 0);
  }
};

// The piece in a tile that belongs to the last row that begins in it or, if not `of_last`, to the row before its first.
CSM_DEVICE Piece piece_of(const Lookup& tile, bool of_last) {
  const Rows rows = tile.rows();
  const i64 row = (of_last ? rows.last : rows.first) - 1, start = tile.start(of_last), end = tile.end(of_last);
  if (of_last ? rows.first == rows.last : rows.first == 0) return {};
  const i64 number = of_last ? 0 : tile_of(tile.number() * kTile - (row + start) + kTile - 1);
  return {start, end - start, number, tile_of(row + start)};
}

// The operations of this pattern use nothing of a row's RowContext but its length.
CSM_DEVICE RowContext only_length(i64 length) {
  RowContext context = {};
  context.n = length;
  return context;
}

// --- rows of up to a tile --------------------------------------------------------------------------------------------

// Each lane holds the place and the length of one row. Reduces the rows of the lanes in `mask`, 32 / Lanes at a time,
// and puts the results in their place.
template <int Lanes, int Items>
CSM_DEVICE void finish_rows(const Area& area, unsigned mask, int place, int length) {
  while (mask) {
    unsigned mine = mask;
    for (int skip = thread_index() % kWarp / Lanes; skip > 0; --skip) mine &= mine - 1;
    const int lane = mine ? lowest_bit(mine) : 0;
    const int from = shuffle(place, lane, kWarp), n = shuffle(length, lane, kWarp);
    StagedTile<Op, Lanes, Items> tile(0, mine ? n : 0);
    tile.load_elements(area, from);
    const RowContext context = only_length(n);
    const Node node = tile.reduce(context);
    tile.store_results(area, from, Op::scale(node.m, node, context));
    for (int done = 0; done < kWarp / Lanes; ++done) mask &= mask - 1;
  }
}

// Uses as many lanes for a row as the group pattern does for its length, since that decides the order of summation.
template <int Lanes = kSingle ? 4 : 2>
CSM_DEVICE void finish_short(const Area& area, int place, int length) {
  constexpr int kAbove = Lanes == 2 ? 2 * kMaxVec : Lanes / 2 * kItems;
  if constexpr (Lanes == 2) finish_rows<2, kMaxVec>(area, ballot(length > 0 && length <= kAbove), place, length);
  finish_rows<Lanes, kItems>(area, ballot(length > kAbove && length <= Lanes * kItems), place, length);
  if constexpr (Lanes < kWarp) finish_short<2 * Lanes>(area, place, length);
}

// A list for each warp of rows that are longer than a chunk: the place and the length of each, and their number.
class Lists {
 public:
  CSM_DEVICE void add(int k, int place, int length) const {
    places_.store(warp() * kListed + k, place);
    lengths_.store(warp() * kListed + k, length);
  }
  CSM_DEVICE void close(int count) const { counts_.store(warp(), count); }
  // Whether there is one, of any warp: the same for all.
  CSM_DEVICE bool any() const { return any_lane(counts_.load(thread_index() % kWarps) > 0); }

  // Visits every kWarps-th chunk of the listed rows, each warp different ones. `visit` is passed the chunk's number
  // among all chunks, the number of the row's first chunk, the chunk's first element in the row, the row's place and
  // length.
  template <class Visit>
  CSM_DEVICE void visit(Visit visit) const {
    int number = 0;
    for (int w = 0; w < kWarps; ++w) {
      const int count = counts_.load(w);
      for (int k = w * kListed; k < w * kListed + count; ++k) {
        const int place = places_.load(k), length = lengths_.load(k), first_number = number;
        for (int first = 0; first < length; first += kChunk, ++number) {
          if (number % kWarps == warp()) visit(number, first_number, first, place, length);
        }
      }
    }
  }

 private:
  CSM_DEVICE static int warp() { return thread_index() / kWarp; }
  static constexpr int kBytes = kWarps * kListed * kWord;
  Shared<int> places_ = Shared<int>(kListsAt);
  Shared<int> lengths_ = Shared<int>(kListsAt + kBytes);
  Shared<int> counts_ = Shared<int>(kListsAt + 2 * kBytes);
};

// Sorts the rows of a block by length, in steps of kStep elements: the lanes of a warp, which take as long as its
// longest row, then have rows that are about as long. Those of one step are in any order, and so are the longest.
// Before the first row is counted, and between counting, putting and getting, the block meets at a barrier.
class ByLength {
 public:
  // One thread calls it.
  CSM_DEVICE static void clear() { counts().store(0, Counts{}); }
  // Returns the number of the row among those that are about as long. Each thread counts kRowsEach rows, or empty ones:
  // so if a byte overflows, there are no others.
  CSM_DEVICE static unsigned counted(int length) {
    const int at = class_of(length);
    return add_to_shared(kSortedAt + at / 4 * kWord, 1u << shift_of(at)) >> shift_of(at) & 255;
  }
  CSM_DEVICE static void put(int place, int length, unsigned number) {
    constexpr unsigned kEach = 0x01010101, kBefore = kEach << 8;  // for the sums over bytes, and over those before each
    const Counts count = counts().load(0);
    const int at = class_of(length);
    unsigned shorter = 0, before = 0;
#pragma unroll
    for (int w = 0; w < kClasses / 4; ++w) {
      const unsigned here = count.item[w] * kBefore + before;
      if (at / 4 == w) shorter = here;
      before += (count.item[w] * kEach >> 24) * kEach;
    }
    const unsigned sorted = (shorter >> shift_of(at) & 255) + number;
    rows().store(static_cast<int>(sorted), static_cast<unsigned>(place) << 16 | static_cast<unsigned>(length));
  }
  // The round-th row of this thread. Warps with the shortest of one round have the longest of the next.
  CSM_DEVICE static void get(int round, int& place, int& length) {
    const unsigned row = rows().load(thread_index() ^ round * (2 * kWarps * kWarp - 1));
    place = static_cast<int>(row >> 16);
    length = static_cast<int>(row & 0xffff);
  }
  static constexpr int kRowsEach = kSorted / (kWarps * kWarp);
  static_assert(kRowsEach <= 2, "a byte counts them");
  static_assert(kTile + kMaxVec < 1 << 16, "place and length have half a word each");

 private:
  // Rows of up to kAlone elements are in classes 0 (empty ones) to kClasses / 2, others above.
  static constexpr int kClasses = static_cast<int>(sizeof(Counts)), kStep = kAlone > 0 ? 2 * kAlone / kClasses : 1;
  CSM_DEVICE static int class_of(int length) {
    const int steps = static_cast<int>(static_cast<unsigned>(length + kStep - 1) / kStep);
    return steps < kClasses ? steps : kClasses - 1;
  }
  CSM_DEVICE static int shift_of(int at) { return at % 4 * 8; }
  CSM_DEVICE static Shared<Counts> counts() { return Shared<Counts>(kSortedAt); }
  CSM_DEVICE static Shared<unsigned> rows() { return Shared<unsigned>(kSortedAt + static_cast<int>(sizeof(Counts))); }
};

// Reduces and writes the rows of a warp's lanes. These hold as many elements as its longest row asks for.
template <int Items = kAloneStep>
CSM_DEVICE void finish_alone(const Area& area, int place, int length) {
  if constexpr (Items < kAlone) {
    if (any_lane(length > Items)) return finish_alone<Items + kAloneStep>(area, place, length);
  }
  StagedTile<Op, 1, Items, 2> tile(0, length);
  tile.load_elements(area, place);
  const RowContext context = only_length(length);
  const Node node = tile.reduce(context);
  tile.store_results(area, place, Op::scale(node.m, node, context));
}

// The keys of rows that begin in a tile, less those of the tiles before; and that of the next row. They lie behind the
// staged elements, from `place` on: elements and rows together are at most 2 kTile.
class Keys {
 public:
  CSM_DEVICE Keys(int place, i64 first, int count, int next)
      : keys_(whole_vectors(place * static_cast<int>(sizeof(Kept))) + kSize * before(first)),
        count_(count),
        next_(next) {}

  // The vectors that have them.
  CSM_DEVICE AlsoRead read(const Arguments& args, i64 first) const {
    const int skipped = kSize * before(first), bytes = skipped + kSize * count_;
    return {keys_ - skipped, begin_of(args, first) - skipped, whole_vectors(bytes)};
  }
  CSM_DEVICE int load(int k) const { return k < count_ ? Shared<Begin>(keys_).load(k) : next_; }

 private:
  static constexpr int kVector = 16, kSize = static_cast<int>(sizeof(Begin));
  CSM_DEVICE static int whole_vectors(int bytes) { return (bytes + kVector - 1) & -kVector; }
  // How many keys lie before that of row `first` in the vector that has it.
  CSM_DEVICE static int before(i64 first) { return static_cast<int>(static_cast<unsigned>(first) % (kVector / kSize)); }
  int keys_, count_, next_;
};

// Rows that begin in a tile: their elements are [begin, end).
CSM_DEVICE void finish_staged(const Arguments& args, const Row& column, const Lookup& tile, const Rows& rows, i64 end) {
  const int warp = thread_index() / kWarp, lane = thread_index() % kWarp;
  const i64 begin = tile.end(false), before = tile.number() * kTile;
  const int count = static_cast<int>(rows.last - rows.first);
  const Area area(begin, end);
  const Keys keys(area.place(end), rows.first, count, static_cast<int>(rows.last + end - before));
  const SharedNodes nodes(kNodesAt, kNodes);
  const Lists longer;
  area.read(args, column, keys.read(args, rows.first));
  if (kAlone > 0 && thread_index() == 0) ByLength::clear();
  block_barrier();
  const int first_place = area.place(begin) - static_cast<int>(rows.first + begin - before);  // less its key
  int listed = 0;
  const auto find = [&](int k, int& place, int& length) {
    const bool present = k < count;
    const int key = keys.load(present ? k : 0);
    place = first_place + key - (present ? k : 0);
    length = present ? keys.load(k + 1) - key - 1 : 0;
  };
  const auto finish_others = [&](int place, int length) {
    finish_short(area, place, length);
    for (unsigned rest = ballot(length > kChunk); rest; rest &= rest - 1) {
      const int from = shuffle(place, lowest_bit(rest), kWarp), n = shuffle(length, lowest_bit(rest), kWarp);
      if (lane == 0) longer.add(listed, from, n);
      ++listed;
    }
  };
  int place, length;
  if constexpr (kAlone > 0) {
    for (int first = 0; first < count; first += kSorted) {
      constexpr int kEach = ByLength::kRowsEach;
      int places[kEach], lengths[kEach];
      unsigned numbers[kEach];
      if (first > 0) block_barrier();  // the counts are clear
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        find(first + r * (kWarps * kWarp) + thread_index(), places[r], lengths[r]);
        numbers[r] = ByLength::counted(lengths[r]);
      }
      block_barrier();
#pragma unroll
      for (int r = 0; r < kEach; ++r) ByLength::put(places[r], lengths[r], numbers[r]);
      block_barrier();
      if (thread_index() == 0) ByLength::clear();
#pragma unroll 1
      for (int r = 0; r < kEach; ++r) {
        ByLength::get(r, place, length);
        const bool others = any_lane(length > kAlone);
        if (any_lane(length > 0 && length <= kAlone)) finish_alone(area, place, length <= kAlone ? length : 0);
        if (!others) continue;
        ByLength::get(r, place, length);  // again: they would take registers meanwhile
        finish_others(place, length);
      }
    }
  } else {
    for (int group = warp * kWarp; group < count; group += kWarps * kWarp) {
      find(group + lane, place, length);
      if (any_lane(length > 0)) finish_others(place, length);
    }
  }
  if (lane == 0) longer.close(listed);
  area.results_barrier();
  if (longer.any()) {
    using Tile = StagedTile<Op, kWarp, kItems>;
    longer.visit([&](int number, int, int first, int place, int length) {
      Tile tile(first, length);
      tile.load_elements(area, place + first);
      const Node node = tile.reduce(only_length(length));
      if (lane == 0) nodes.store(number, node);
      if constexpr (!kInPairs) tile.store_elements(area, place + first);
    });
    block_barrier();
    longer.visit([&](int number, int first_number, int first, int place, int length) {
      const int part = lane % kChunks;  // a staged row has at most kChunks
      const Node whole = fold_lanes(nodes.load(first_number + part, part * kChunk < length), kChunks);
      Tile tile(first, length);
      tile.load_elements(area, place + first);
      if constexpr (kInPairs) tile.prepare(only_length(length));  // the elements are there as they were
      tile.store_results(area, place + first, Op::scale(nodes.load(number).m, whole, only_length(length)));
    });
    area.results_barrier();
  }
  area.write(args, column);
}

// --- longer rows -----------------------------------------------------------------------------------------------------

// Nodes of one row, one of each warp and the next ones in its order. A barrier follows store().
class NodesOfWarps {
 public:
  CSM_DEVICE void store(const Node& node) const {
    if (thread_index() % kWarp == 0) nodes_.store(thread_index() / kWarp, node);
  }
  CSM_DEVICE Node whole() const { return fold_lanes(nodes_.load(thread_index() % kWarps), kWarps); }
  // The row's node, which thread 0 stores for other pieces.
  CSM_DEVICE void keep(const Node& whole) const {
    if (thread_index() == 0) nodes_.store(kWarps, whole);
  }
  CSM_DEVICE Node kept() const { return nodes_.load(kWarps); }

 private:
  SharedNodes nodes_ = SharedNodes(kNodesAt, kNodes);
};

// Calls visit(tile, first element in the piece) for each chunk of a piece that the warp takes: neighbours, one or two.
template <class Visit>
CSM_DEVICE void each_chunk(const Piece& piece, Visit visit) {
  constexpr int kEach = kChunks / kWarps;
#pragma unroll 1
  for (int c = 0; c < kEach; ++c) {
    const int first = (thread_index() / kWarp * kEach + c) * kChunk;
    StagedTile<Op, kWarp, kItems> tile(piece.number * kTile + first, piece.length);
    visit(tile, first);
  }
}

CSM_DEVICE void reduce_piece(const Arguments& args, const Row& column, const Piece& piece, i64 slot) {
  const Area area(piece.begin(), piece.end());
  const NodesOfWarps nodes;
  area.read(args, column);
  block_barrier();
  Node node = empty_node();
  each_chunk(piece, [&](auto& tile, int first) {
    tile.load_elements(area, area.place(piece.begin()) + first);
    node = merge(node, tile.reduce(only_length(piece.length)));
  });
  nodes.store(node);
  block_barrier();
  nodes_of(args).store(slot, nodes.whole(), thread_index() == 0);
}

// The warp's subtree of the fold of a row's pieces: a power of two of them. A lane merges kEach neighbours.
CSM_DEVICE Node fold_subtree(const Arguments& args, const Piece& piece, i64 column) {
  constexpr int kEach = 8;
  const GlobalNodes nodes = nodes_of(args);
  const i64 count = piece.count();
  i64 leaves = 1;
  while (kWarps * leaves < count) leaves *= 2;
  const int width = leaves < kEach ? 1 : leaves < kEach * kWarp ? static_cast<int>(leaves) / kEach : kWarp;
  const i64 begin = thread_index() / kWarp * leaves, end = begin + leaves < count ? begin + leaves : count;
  TreeFold fold;
#pragma unroll 1
  for (i64 first = begin; first < end; first += kEach * kWarp) {
    const i64 mine = first + (thread_index() & (width - 1)) * kEach;
    Node node[kEach];
#pragma unroll
    for (int k = 0; k < kEach; ++k) node[k] = nodes.load(piece.slot(args.layout, mine + k, column), mine + k < end);
#pragma unroll
    for (int step = 1; step < kEach; step *= 2) {
#pragma unroll
      for (int k = 0; k < kEach; k += 2 * step) node[k] = merge(node[k], node[k + step]);
    }
    fold.push(fold_lanes(node[0], width));
  }
  return fold.result();
}

// `folds`: the pieces before this one were another row's.
CSM_DEVICE void write_piece(const Arguments& args, const Row& column, const Piece& piece, i64 number, bool folds) {
  const Area area(piece.begin(), piece.end());
  const NodesOfWarps nodes;
  area.read(args, column);
  if (folds) {
    nodes.store(fold_subtree(args, piece, number));
    block_barrier();
    nodes.keep(nodes.whole());
  }
  block_barrier();
  each_chunk(piece, [&](auto& tile, int first) {
    const int place = area.place(piece.begin()) + first;
    tile.load_elements(area, place);
    const DoubleWord m = tile.prepare(only_length(piece.length));
    tile.store_results(area, place, Op::scale(m, nodes.kept(), only_length(piece.length)));
  });
  area.results_barrier();
  area.write(args, column);
}

// --- the stages ------------------------------------------------------------------------------------------------------

// Looks at a group of rows, one a lane, that may be anything: wrong, longer than a tile, or the end. Returns what the
// lane has found.
CSM_DEVICE int look_closer(const Arguments& args, const Offsets& offsets, i64 group) {
  const Layout& layout = args.layout;
  const i64 tiles = tiles_of(layout), row = group * kWarp + thread_index() % kWarp;
  const bool present = row <= layout.segments;
  const i64 at = offsets.at(row, present), before = offsets.at(row - 1, present && row > 0);
  const bool rises = row == 0 ? at == 0 : before >= 0 && before <= at && at <= layout.n;
  int found = 0;
  if ((present && !rises) || (row == layout.segments && at != layout.n)) found |= status::wrong;
  if (present && row > 0 && at - before > kTile) found |= status::longer;
  global_store(begin_of(args, row), static_cast<Begin>((row + at) & (kTile - 1)), row < layout.segments);
  // The tiles that begin after the previous row's key and up to this one's: this is their first row. The warp writes
  // them together, since a long row has many. The offset of the end stands for that of a row after the last tile.
  const i64 low = row == 0 ? 0 : tile_of(row - 1 + before) + 1;
  const i64 high = row == layout.segments ? tiles : tile_of(row + at);
  for (unsigned some = ballot(present && rises && low <= high); some; some &= some - 1) {
    const int source = lowest_bit(some);
    const i64 last = shuffle(high, source, kWarp);
    const FirstRow entry = {shuffle(row, source, kWarp), shuffle(at, source, kWarp)};
    for (i64 tile = shuffle(low, source, kWarp) + thread_index() % kWarp; tile <= last && tile <= tiles;
         tile += kWarp) {
      global_store(first_row_of(args, tile), entry, true);
    }
  }
  return found;
}

// Usual rows are shorter than a tile: their lengths, as unsigned numbers, are less than kTile. If all rows are usual or
// are found to be right, and the first begins at 0, none begins before that, nor beyond the end if the last ends there:
// the usual ones need no other test. But until all are known their offsets may be anything.
CSM_DEVICE void check_offsets(const Arguments& args) {
  constexpr int kAhead = 3;  // offsets of a thread that are on their way together
  const Layout& layout = args.layout;
  const Offsets offsets(args);
  const int lane = thread_index() % kWarp, warps = block_threads() / kWarp;
  const i64 last = static_cast<i64>(static_cast<u64>(layout.segments) / kWarp);  // group, which has the end
  const u64 tiles = static_cast<u64>(tiles_of(layout));
  int found = 0;
#pragma unroll 1
  for (i64 first = (block_index() * warps + thread_index() / kWarp) * kAhead; first <= last;
       first += grid_blocks() * warps * kAhead) {
    const i64 row = first * kWarp + lane;
    const bool whole = first + kAhead <= last;
    i64 at[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) at[u] = offsets.at(row + u * kWarp, whole);
    i64 before = offsets.at(row - 1, whole && lane == 0 && row > 0);
    bool closer = !whole || (row == 0 && at[0] != 0);
    unsigned begin[kAhead];  // in its tile
    u64 length[kAhead];      // of the row before
    if (whole) {
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const i64 left = shuffle(at[u], (lane + kWarp - 1) % kWarp, kWarp);
        length[u] = static_cast<u64>(at[u]) - static_cast<u64>(lane == 0 ? before : left);
        before = left;  // in lane 0, that of lane 31
        begin[u] = (static_cast<unsigned>(row) + u * kWarp + static_cast<unsigned>(at[u])) % kTile;
        closer = closer || length[u] >= kTile;
        global_store(begin_of(args, row + u * kWarp), static_cast<Begin>(begin[u]), true);
      }
    }
    if (any_lane(closer)) {
#pragma unroll 1
      for (i64 group = first; group < first + kAhead && group <= last; ++group) {
        found |= look_closer(args, offsets, group);
      }
      continue;
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      // The keys of this row and the one before are length + 1 apart: so it is the first of its tile.
      if (begin[u] <= static_cast<unsigned>(length[u])) {
        const FirstRow entry = {row + u * kWarp, at[u]};
        const u64 tile = (static_cast<u64>(entry.row) + static_cast<u64>(at[u])) / kTile;
        if (tile <= tiles) global_store(first_row_of(args, static_cast<i64>(tile)), entry, true);
      }
    }
  }
  const Shared<int> of_warps(0);
  const int of_warp = status_of_warp(found);
  if (lane == 0) of_warps.store(thread_index() / kWarp, of_warp);
  block_barrier();
  if (thread_index() >= kWarp) return;
  const int whole = status_of_warp(lane < warps ? of_warps.load(lane) : 0);
  global_store(status_of(args, block_index()), static_cast<u8>(whole), lane == 0);
}

CSM_DEVICE void write_nan(const Arguments& args, const Row& column, i64 tile) {
  const i64 end = (tile + 1) * kTile < args.layout.n ? (tile + 1) * kTile : args.layout.n;
  for (i64 i = tile * kTile + thread_index(); i < end; i += block_threads()) {
    const Acc nan[1] = {negative_infinity() - negative_infinity()};
    store<Type<kFirstOutput>>(column.start[kFirstOutput] + element_offset<kFirstOutput>(args, i), true, nan);
  }
}

CSM_DEVICE void run(const Arguments& args) {
  if constexpr (kStage == 0) {
    check_offsets(args);
    return;
  }
  if (kStage > 1 && read_status(args) != status::longer) return;
  const Layout& layout = args.layout;
  const Offsets offsets(args);
  // In stage 1 neighbouring blocks take the columns of a tile, whose elements lie side by side; in stage 2 a block
  // takes tiles of a column, whose pieces are of one row.
  constexpr bool kRanges = kStage == 2;
  const i64 tiles = tiles_of(layout), units = tiles * layout.rows, beside = kRanges ? tiles : layout.rows;
  const i64 begin = kRanges ? block_index() * units / grid_blocks() : block_index();
  const i64 behind = kRanges ? (block_index() + 1) * units / grid_blocks() : units;
  i64 written = -1;  // where the row of the last piece begins, in its column
  for (i64 unit = begin; unit < behind; unit += kRanges ? 1 : grid_blocks()) {
    const i64 major = layout.rows == 1 && !kRanges ? unit : unit / beside, minor = unit - major * beside;
    const i64 tile = kRanges ? minor : major, number = kRanges ? major : minor;
    if (minor == 0) written = -1;
    const Lookup looked_up(tile);
    if (unit != begin) block_barrier();  // the previous tile's shared memory is free
    if (thread_index() < kWarp) looked_up.find(args, offsets);
    block_barrier();
    const int found = looked_up.status();
    const bool longer = found == status::longer;
    const Row column = row_at(args, number);
    if (found & status::wrong) {
      if constexpr (kStage == 1) write_nan(args, column, tile);
      continue;
    }
    if constexpr (kStage == 1) {
      Rows whole = looked_up.rows();
      const bool in_pieces = longer && piece_of(looked_up, true).exists();
      const i64 end = in_pieces ? looked_up.start(true) : looked_up.end(true);
      if (in_pieces) --whole.last;
      if (whole.first < whole.last) finish_staged(args, column, looked_up, whole, end);
    }
    // The piece is computed again rather than kept in registers.
#pragma unroll 1
    for (int k = 0; longer && k < 2; ++k) {
      const Piece piece = piece_of(looked_up, k == 1);
      if (!piece.exists()) continue;
      block_barrier();
      if constexpr (kStage == 1) reduce_piece(args, column, piece, piece.slot(layout, piece.number, number));
      if constexpr (kStage == 2) write_piece(args, column, piece, number, piece.start != written);
      written = piece.start;
    }
  }
}

}  // namespace csm
