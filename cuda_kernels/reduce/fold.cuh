// Partial results of a row's chunks, folded as one binary tree over the chunks' numbers.
//
// The tree is the same however many warps, blocks or launches compute the chunks: leaves 2i and 2i+1 meet first, and
// missing leaves count as nothing(). Whoever holds the 2^k leaves of an aligned subtree may fold them alone.
#pragma once

#include "reduce/node.cuh"

namespace csm {

// Folds one node a lane over aligned groups of `width` lanes; all lanes of a group get the result.
CSM_DEVICE Node fold_lanes(Node node, int width) {
#pragma unroll 1  // a merge is long
  for (int mask = 1; mask < width; mask *= 2) {
    node = merge(node, shuffle_xor(node, mask, kWarp));
  }
  return node;
}

// A warp's fold over any number of equal subtrees, in order: a binary counter, whose digit k is held by lane k.
class TreeFold {
 public:
  CSM_DEVICE TreeFold() : digit_(nothing()), count_(0) {}

  // `node` is the next subtree's, the same in all lanes.
  CSM_DEVICE void push(Node node) {
    int level = 0;
    for (; (count_ >> level) & 1; ++level) node = merge(at(level), node);
    if (thread_index() % kWarp == level) digit_ = node;
    ++count_;
  }

  CSM_DEVICE Node result() const {
    Node node = nothing();
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

// Calls `visit(field, word)` with each word of a node that is in use.
template <class AnyNode, class Visit>
CSM_DEVICE void each_word(AnyNode& node, Visit visit) {
  constexpr int kMaximumWords = 1 + kWideMaximum;
  visit(0, node.m.hi);
  if constexpr (kWideMaximum) visit(1, node.m.lo);
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    visit(kMaximumWords + 2 * k, node.s[k].hi);
    if constexpr (kCompensated) visit(kMaximumWords + 1 + 2 * k, node.s[k].lo);
  }
#pragma unroll
  for (int k = 0; k < kPicked; ++k) visit(kMaximumWords + 2 * kSums + k, node.picked[k]);
}

// Nodes in shared memory, one array a field, so that neighbouring lanes meet no bank conflict.
class SharedNodes {
 public:
  CSM_DEVICE SharedNodes(int offset, int count) : offset_(offset), count_(count) {}

  CSM_DEVICE void store(int i, Node node) const {
    each_word(node, [&](int field, Acc word) { words().store(field * count_ + i, word); });
  }
  CSM_DEVICE Node load(int i, bool wanted = true) const {
    Node node = nothing();
    if (wanted) each_word(node, [&](int field, Acc& word) { word = words().load(field * count_ + i); });
    return node;
  }
  CSM_DEVICE void store_remote(int i, Node node, int rank) const {
    each_word(node, [&](int field, Acc word) { words().store_remote(field * count_ + i, word, rank); });
  }

 private:
  int offset_, count_;  // not a pointer: of two of them, chosen between, the compiler would forget the memory space
  CSM_DEVICE Shared<Acc> words() const { return Shared<Acc>(offset_); }
};

// Nodes in global memory: the workspace between two launches.
class GlobalNodes {
 public:
  CSM_DEVICE explicit GlobalNodes(char* base) : base_(base) {}

  CSM_DEVICE void store(i64 i, Node node, bool wanted) const {
    each_word(node, [&](int field, Acc word) { global_store(at(i, field), word, wanted); });
  }
  CSM_DEVICE Node load(i64 i, bool wanted) const {
    Node node = nothing();
    each_word(node, [&](int field, Acc& word) { word = global_load(at(i, field), wanted, word); });
    return node;
  }

 private:
  char* base_;
  CSM_DEVICE char* at(i64 i, int field) const {
    return base_ + (i * kNodeWords + field) * static_cast<i64>(sizeof(Acc));
  }
};

// One warp folds nodes 0 … count − 1, which `load(i, wanted)` gives.
template <class Load>
CSM_DEVICE Node fold_all(i64 count, Load load) {
  const int lane = thread_index() % kWarp;
  int width = 1;
  while (width < kWarp && width < count) width *= 2;
  if (count <= kWarp) {
    const int mine = lane % width;  // every group of `width` lanes folds the same nodes, so that all lanes know
    return fold_lanes(load(mine, mine < count), width);
  }
  TreeFold fold;
  for (i64 first = 0; first < count; first += kWarp) {
    fold.push(fold_lanes(load(first + lane, first + lane < count), kWarp));
  }
  return fold.result();
}

// All warps of a block fold nodes 0 … count − 1, at most 1024, which a barrier has made known to it: up to 32 each warp
// for itself; of more, each warp groups of 32, whose nodes go to `groups` (ceil(count / 32) places), and after one more
// barrier every warp those. A merge is long, and a row of many chunks has many: each is done once a block, not once a
// warp.
CSM_DEVICE Node fold_in_block(int count, const SharedNodes& nodes, const SharedNodes& groups) {
  const int lane = thread_index() % kWarp, warps = block_threads() / kWarp;
  const bool many = count > kWarp;
  int left = count;
  if (many) {
    left = (count + kWarp - 1) / kWarp;
    for (int group = thread_index() / kWarp; group < left; group += warps) {
      const int i = group * kWarp + lane;
      const Node node = fold_lanes(nodes.load(i, i < count), kWarp);
      if (lane == 0) groups.store(group, node);
    }
    block_barrier();
  }
  int width = 1;
  while (width < left) width *= 2;
  const int mine = lane % width;  // every group of `width` lanes folds the same nodes, so that all lanes know
  SharedNodes last = nodes;
  if (many) last = groups;
  return fold_lanes(last.load(mine, mine < left), width);
}

}  // namespace csm
