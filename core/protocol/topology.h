// Topology: the control tree, a heap-ordered k-ary tree over the ranks 0 .. size-1.
//
// A value; pure. Rank r's children are k*r+1 .. k*r+k, so every level of a subtree is one interval
// of ranks and the depth is log_k(size).
#pragma once

#include <vector>

#include "core/wire/rank_set.h"

namespace khorus::protocol {

class Topology {
 public:
  // REQUIRES: 0 <= rank < size, fan_in >= 1.
  Topology(int rank, int size, int fan_in);

  int parent() const noexcept { return parent_; }  // -1 at the root
  const std::vector<int>& children() const noexcept { return children_; }
  // This rank and all below it.
  const wire::RankSet& subtree() const noexcept { return subtree_; }
  // Which of children() `rank` is below, or -1.
  int child_towards(int rank) const noexcept;

  static wire::RankSet subtree_of(int rank, int size, int fan_in);
  // Edges from the root to the deepest rank.
  static int depth(int size, int fan_in);

 private:
  int rank_;
  int fan_in_;
  int parent_;
  std::vector<int> children_;
  wire::RankSet subtree_;
};

}  // namespace khorus::protocol
