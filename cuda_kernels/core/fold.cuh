// Partial results of a row's chunks, folded as one binary tree over the chunks' numbers.
//
// The tree is the same however many warps, blocks or launches compute the chunks: leaves 2i and 2i+1 meet first, and
// missing leaves count as nothing(). Whoever holds the 2^k leaves of an aligned subtree may fold them alone.
#pragma once

#include "core/monoid.cuh"

namespace csm {

// Folds one node a lane over aligned groups of `width` lanes; all lanes of a group get the result.
CSM_DEVICE Node fold_lanes(Node node, int width) {
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
  visit(0, node.m);
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    visit(1 + 2 * k, node.s[k].hi);
    if constexpr (kCompensated) visit(2 + 2 * k, node.s[k].lo);
  }
#pragma unroll
  for (int k = 0; k < kPicked; ++k) visit(1 + 2 * kSums + k, node.picked[k]);
}

// Nodes in shared memory, one array a field, so that neighbouring lanes meet no bank conflict.
class SharedNodes {
 public:
  CSM_DEVICE SharedNodes(int offset, int count) : words_(offset), count_(count) {}

  CSM_DEVICE void store(int i, Node node) const {
    each_word(node, [&](int field, Acc word) { words_.store(field * count_ + i, word); });
  }
  CSM_DEVICE Node load(int i, bool wanted = true) const {
    Node node = nothing();
    if (wanted) each_word(node, [&](int field, Acc& word) { word = words_.load(field * count_ + i); });
    return node;
  }
  CSM_DEVICE void store_remote(int i, Node node, int rank) const {
    each_word(node, [&](int field, Acc word) { words_.store_remote(field * count_ + i, word, rank); });
  }

 private:
  Shared<Acc> words_;
  int count_;
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

}  // namespace csm
