// The fold: the merge of the nodes of a row's chunks, as one binary tree over the chunks' numbers. Within a warp,
// within a block, and over a row of any length; and nodes in shared memory and in the workspace.
//
// The tree is the same however many warps, blocks or launches compute the chunks: leaves 2i and 2i + 1 are merged
// first, and missing leaves are empty_node(). So 2^k leaves that start at a multiple of 2^k may be folded separately.
#pragma once

#include "reduce/node.cuh"

namespace csm {

// The least power of two that is not below `count`, which is 1 at least.
CSM_DEVICE int power_not_below(int count) { return 1 << (32 - leading_zeros(static_cast<unsigned>(count - 1))); }

// Folds one node a lane over groups of `width` neighbouring lanes. Every lane of a group returns the result.
CSM_DEVICE Node fold_lanes(Node node, int width) {
#pragma unroll 1  // merge() is many instructions
  for (int mask = 1; mask < width; mask *= 2) {
    node = merge(node, shuffle_xor(node, mask, kWarp));
  }
  return node;
}

// One warp folds nodes 0 … count − 1, at most 32, which `load(i, wanted)` returns.
template <class Count, class Load>
CSM_DEVICE Node fold_few(Count count, Load load) {
  const int width = power_not_below(static_cast<int>(count));
  // Each group of `width` lanes folds all nodes: every lane has the result.
  const int mine = thread_index() & (kWarp - 1) & (width - 1);
  return fold_lanes(load(mine, mine < count), width);
}

// One warp folds subtrees of equal size that come one after the other: a binary counter, whose digit k, the node of 2^k
// subtrees, is kept by lane k.
class TreeFold {
 public:
  CSM_DEVICE TreeFold() : digit_(empty_node()), count_(0) {}

  // `node` is the next subtree's, the same in all lanes.
  CSM_DEVICE void push(Node node) {
    int level = 0;
    for (; (count_ >> level) & 1; ++level) node = merge(at(level), node);
    if (thread_index() % kWarp == level) digit_ = node;
    ++count_;
  }

  CSM_DEVICE Node result() const {
    Node node = empty_node();
    for (int level = 0; (count_ >> level) != 0; ++level) {
      if ((count_ >> level) & 1) node = merge(at(level), node);
    }
    return node;
  }

 private:
  Node digit_;
  i64 count_;

  CSM_DEVICE Node at(int level) const { return shuffle(digit_, level, kWarp); }
};

// The words of a node in shared memory: the maximum is none of them where it is not needed.
constexpr int kSharedNodeWords = kNodeWords - !kMaximum;
template <class Visit>
CSM_DEVICE void each_shared_word(Node& node, Visit visit) {
  each_word(node, [&](int field, Acc& word) {
    if (kMaximum || field > 0) visit(field - !kMaximum, word);
  });
}

// Nodes in shared memory, as one array for each word of a node, so that neighbouring lanes have no bank conflicts.
class SharedNodes {
 public:
  CSM_DEVICE SharedNodes(int offset, int count) : offset_(offset), count_(count) {}

  CSM_DEVICE void store(int i, Node node) const {
    each_shared_word(node, [&](int field, Acc word) { words().store(field * count_ + i, word); });
  }
  CSM_DEVICE Node load(int i, bool wanted = true) const {
    Node node = empty_node();
    if (wanted) each_shared_word(node, [&](int field, Acc& word) { word = words().load(field * count_ + i); });
    return node;
  }
  CSM_DEVICE void store_remote(int i, Node node, int rank) const {
    each_shared_word(node, [&](int field, Acc word) { words().store_remote(field * count_ + i, word, rank); });
  }

 private:
  int offset_, count_;
  CSM_DEVICE Shared<Acc> words() const { return Shared<Acc>(offset_); }
};

// Nodes in shared memory one after the other, so that one address serves all words of one. For few of them: where a
// node has an even number of words, those of neighbouring lanes are in one bank.
class ListedNodes {
 public:
  CSM_DEVICE explicit ListedNodes(int offset, int step = 1) : offset_(offset), step_(step) {}
  CSM_DEVICE static int bytes(int count) { return count * kSharedNodeWords * static_cast<int>(sizeof(Acc)); }

  CSM_DEVICE void store(int i, Node node) const {
    each_shared_word(node, [&](int field, Acc word) { at(i).store(field, word); });
  }
  CSM_DEVICE Node load(int i, bool wanted = true) const {
    Node node = empty_node();
    if (wanted) each_shared_word(node, [&](int field, Acc& word) { word = at(i).load(field); });
    return node;
  }
  CSM_DEVICE void store_remote(int i, Node node, int rank) const {
    each_shared_word(node, [&](int field, Acc word) { at(i).store_remote(field, word, rank); });
  }

 private:
  int offset_;  // not a pointer: selecting between two pointers loses the shared address space
  int step_;    // from one to the next
  CSM_DEVICE Shared<Acc> at(int i) const { return Shared<Acc>(offset_ + bytes(i * step_)); }
};

// Nodes in global memory: the workspace between two launches.
class GlobalNodes {
 public:
  CSM_DEVICE explicit GlobalNodes(char* base, i64 node_words = kNodeWords, i64 word_pitch = 1)
      : base_(base), node_words_(node_words), word_pitch_(word_pitch) {}
  // `count` nodes, as one array for each word of a node: neighbouring lanes touch each sector once.
  CSM_DEVICE static GlobalNodes by_word(char* base, i64 count) { return GlobalNodes(base, 1, count); }
  // The nodes from the i-th on.
  CSM_DEVICE GlobalNodes from(i64 i) const { return GlobalNodes(at(i, 0), node_words_, word_pitch_); }

  CSM_DEVICE void store(i64 i, Node node, bool wanted) const {
    each_word(node, [&](int field, Acc word) { global_store(at(i, field), word, wanted); });
  }
  CSM_DEVICE Node load(i64 i, bool wanted) const {
    Node node = empty_node();
    each_word(node, [&](int field, Acc& word) { word = global_load(at(i, field), wanted, word); });
    return node;
  }
  // kCount neighbours, where those of a word are, from a multiple of kCount on.
  template <int kCount>
  CSM_DEVICE void load(i64 i, bool wanted, Node (&nodes)[kCount]) const {
    Node empty = empty_node();
#pragma unroll
    for (int c = 0; c < kCount; ++c) nodes[c] = empty;
    each_word(empty, [&](int field, Acc word) {
      Vec<Acc, kCount> words;
#pragma unroll
      for (int c = 0; c < kCount; ++c) words.item[c] = word;
      words = global_load(at(i, field), wanted, words);
#pragma unroll
      for (int c = 0; c < kCount; ++c) {
        each_word(nodes[c], [&](int other, Acc& of_node) { of_node = other == field ? words.item[c] : of_node; });
      }
    });
  }

 private:
  char* base_;
  i64 node_words_, word_pitch_;  // from a node to the next, and from a word of it to the next
  CSM_DEVICE char* at(i64 i, int field) const {
    return base_ + (i * node_words_ + field * word_pitch_) * static_cast<i64>(sizeof(Acc));
  }
};

// One warp folds nodes 0 … count − 1, which `load(i, wanted)` returns.
template <class Load>
CSM_DEVICE Node fold_all(i64 count, Load load) {
  if (count <= kWarp) return fold_few(count, load);
  const int lane = thread_index() % kWarp;
  TreeFold fold;
  for (i64 first = 0; first < count; first += kWarp) {
    fold.push(fold_lanes(load(first + lane, first + lane < count), kWarp));
  }
  return fold.result();
}

// Groups of nodes that warps of a block fold, so many of each a lane; 0 if there is only one.
CSM_DEVICE int groups_of(int count, int each) {
  return count > kWarp * each ? static_cast<int>((count + (kWarp * each - 1u)) / (kWarp * each)) : 0;
}

// Where the nodes are stored that groups become, and that of the row. Either behind the nodes that are folded, or over
// some of them: that of a group over one that lane `lane` alone has read, that of the row over one that was read before
// the last barrier.
struct FoldedNodes {
  ListedNodes of_groups, of_row;
  int lane;

  CSM_DEVICE static FoldedNodes behind(int offset, int groups) {
    return {ListedNodes(offset), ListedNodes(offset + ListedNodes::bytes(groups)), 0};
  }
};

// Every warp of a block returns the fold of nodes 0 … count − 1, at most 1024, in shared or global memory. The block
// has met at a barrier since they were stored. If there are several groups, of kEach nodes a lane, 1 or 2, the warps
// share them. What they become is stored in `folded`, and then, by the first warp, the fold of those: merge() is many
// instructions, so each merge is done once a block rather than once a warp. A merge takes as long for one lane as for
// all: two nodes of each lane make 64 nodes 32 by one merge, where two groups take five each.
template <int kEach, class Nodes>
CSM_DEVICE Node fold_in_block(int count, const Nodes& nodes, int groups, const FoldedNodes& folded) {
  const int lane = thread_index() % kWarp, warp = thread_index() / kWarp, warps = block_threads() / kWarp;
  for (int group = groups > 0 ? warp : 0;; group += warps) {  // one loop, and one copy of merge()
    const bool last = group >= groups, many = last && groups > 0;
    if (many) block_barrier();
    if (last && warp > 0) break;
    const int first = last ? 0 : group * (kWarp * kEach), end = many ? groups : count;
    const int leaves = last ? power_not_below(end) : kWarp * kEach, width = leaves < kWarp ? leaves : kWarp;
    const int each = kEach > 1 && leaves > kWarp ? kEach : 1, i = first + (lane & (width - 1)) * each;
    Node mine;
    if constexpr (kSameType<Nodes, ListedNodes>) {
      ListedNodes from = nodes;
      if (many) from = folded.of_groups;
      mine = from.load(i, i < end);
      if (each > 1) mine = merge(mine, from.load(i + 1, i + 1 < end));
    } else {  // both are loaded at once; of folded groups there are at most 32
      mine = nodes.load(i, !many && i < end);
      const Node next = nodes.load(i + 1, each > 1 && i + 1 < end);
      if (many) mine = folded.of_groups.load(i, i < end);
      if (each > 1) mine = merge(mine, next);
    }
    const Node node = fold_lanes(mine, width);
    ListedNodes to = folded.of_groups;
    if (last) to = folded.of_row;
    if (lane == (last ? 0 : folded.lane)) to.store(last ? 0 : group, node);
    if (last) break;
  }
  block_barrier();
  return folded.of_row.load(0);
}

}  // namespace csm
