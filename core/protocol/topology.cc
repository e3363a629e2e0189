// See topology.h.
#include "core/protocol/topology.h"

#include <algorithm>

#include "core/base/assert.h"

namespace khorus::protocol {

Topology::Topology(int rank, int size, int fan_in)
    : rank_(rank), fan_in_(fan_in), parent_(rank == 0 ? -1 : (rank - 1) / fan_in) {
  KHORUS_ASSERT(rank >= 0 && rank < size && fan_in >= 1, "a rank lies outside the world");
  const int64_t first = int64_t{fan_in} * rank + 1;
  for (int64_t child = first; child < std::min<int64_t>(first + fan_in, size); ++child) {
    children_.push_back(static_cast<int>(child));
  }
  subtree_ = subtree_of(rank, size, fan_in);
}

wire::RankSet Topology::subtree_of(int rank, int size, int fan_in) {
  wire::RankSet subtree;
  int64_t first = rank;
  int64_t last = rank;
  while (first < size) {
    subtree.add_range(static_cast<int32_t>(first),
                      static_cast<int32_t>(std::min<int64_t>(last, size - 1)));
    first = first * fan_in + 1;
    last = last * fan_in + fan_in;
  }
  return subtree;
}

int Topology::child_towards(int rank) const noexcept {
  int child = rank;
  while (child > rank_) {
    const int above = (child - 1) / fan_in_;
    if (above == rank_) return child;
    child = above;
  }
  return -1;
}

int Topology::depth(int size, int fan_in) {
  int depth = 0;
  for (int rank = size - 1; rank > 0; rank = (rank - 1) / fan_in) ++depth;
  return depth;
}

}  // namespace khorus::protocol
