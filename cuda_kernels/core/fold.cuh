// Partial results of a row's chunks, folded as one binary tree over the chunks' numbers.
//
// The tree is the same however many warps, blocks or launches compute the chunks: leaves 2i and 2i+1 meet first, and
// missing leaves count as nothing(). Whoever holds the 2^k leaves of an aligned subtree may fold them alone.
#pragma once

#include "core/monoid.cuh"

namespace csm {

// Folds one node a lane over aligned groups of `width` lanes; all lanes of a group get the result.
template <bool HasMaximum>
CSM_DEVICE Node fold_lanes(Node node, int width) {
  for (int mask = 1; mask < width; mask *= 2) {
    node = merge<HasMaximum>(node, shuffle_xor(node, mask, kWarp, HasMaximum));
  }
  return node;
}

// A warp's fold over any number of equal subtrees, in order: a binary counter, whose digit k is held by lane k.
template <bool HasMaximum>
class TreeFold {
 public:
  CSM_DEVICE TreeFold() : digit_(nothing()), count_(0) {}

  // `node` is the next subtree's, the same in all lanes.
  CSM_DEVICE void push(Node node) {
    int level = 0;
    for (; (count_ >> level) & 1; ++level) node = merge<HasMaximum>(at(level), node);
    if (thread_index() % kWarp == level) digit_ = node;
    ++count_;
  }

  CSM_DEVICE Node result() const {
    Node node = nothing();
    for (int level = 0; (count_ >> level) != 0; ++level) {
      if ((count_ >> level) & 1) node = merge<HasMaximum>(at(level), node);
    }
    return node;
  }

 private:
  Node digit_;
  i64 count_;

  CSM_DEVICE Node at(int level) const { return shuffle(digit_, level, kWarp, HasMaximum); }
};

// Nodes in shared memory, one array a field, so that neighbouring lanes meet no bank conflict.
class SharedNodes {
 public:
  CSM_DEVICE SharedNodes(int offset, int count)
      : m_(offset), hi_(offset + count * kBytes), lo_(offset + 2 * count * kBytes) {}

  CSM_DEVICE void store(int i, Node node) const {
    m_.store(i, node.m);
    hi_.store(i, node.s.hi);
    if constexpr (kCompensated) lo_.store(i, node.s.lo);
  }
  CSM_DEVICE Node load(int i, bool wanted = true) const {
    if (!wanted) return nothing();
    Node node = {m_.load(i), {hi_.load(i), Acc(0)}};
    if constexpr (kCompensated) node.s.lo = lo_.load(i);
    return node;
  }
  CSM_DEVICE void store_remote(int i, Node node, int rank) const {
    m_.store_remote(i, node.m, rank);
    hi_.store_remote(i, node.s.hi, rank);
    if constexpr (kCompensated) lo_.store_remote(i, node.s.lo, rank);
  }

 private:
  static constexpr int kBytes = sizeof(Acc);
  Shared<Acc> m_, hi_, lo_;
};

// Nodes in global memory: the workspace between two launches.
class GlobalNodes {
 public:
  CSM_DEVICE explicit GlobalNodes(char* base) : base_(base) {}

  CSM_DEVICE void store(i64 i, Node node, bool wanted) const {
    global_store(at(i, 0), node.m, wanted);
    global_store(at(i, 1), node.s.hi, wanted);
    if constexpr (kCompensated) global_store(at(i, 2), node.s.lo, wanted);
  }
  CSM_DEVICE Node load(i64 i, bool wanted) const {
    Node node = nothing();
    node.m = global_load(at(i, 0), wanted, node.m);
    node.s.hi = global_load(at(i, 1), wanted, node.s.hi);
    if constexpr (kCompensated) node.s.lo = global_load(at(i, 2), wanted, node.s.lo);
    return node;
  }

 private:
  char* base_;
  CSM_DEVICE char* at(i64 i, int field) const { return base_ + (i * 3 + field) * static_cast<i64>(sizeof(Acc)); }
};

// One warp folds nodes 0 … count − 1, which `load(i, wanted)` gives.
template <bool HasMaximum, class Load>
CSM_DEVICE Node fold_all(i64 count, Load load) {
  const int lane = thread_index() % kWarp;
  int width = 1;
  while (width < kWarp && width < count) width *= 2;
  if (count <= kWarp) {
    const int mine = lane % width;  // every group of `width` lanes folds the same nodes, so that all lanes know
    return fold_lanes<HasMaximum>(load(mine, mine < count), width);
  }
  TreeFold<HasMaximum> fold;
  for (i64 first = 0; first < count; first += kWarp) {
    fold.push(fold_lanes<HasMaximum>(load(first + lane, first + lane < count), kWarp));
  }
  return fold.result();
}

}  // namespace csm
