// See cache_equality.h.
#include "tests/sim/checkers/cache_equality.h"

namespace khorus::sim {

void CacheEquality::begin(const Scenario& scenario, const Workload&) {
  capacity_ = scenario.node.cache_capacity;
}

void CacheEquality::ticked(int rank, const protocol::Output&, const NodeView& view, TimeUs now) {
  const Cache mine{view.state_digest, view.stats.cached_tensors};
  if (mine.tensors > capacity_) {
    fail(at(rank, now) + std::to_string(mine.tensors) + " tensors in a cache of " +
         std::to_string(capacity_));
  }
  const auto [it, is_new] = after_.try_emplace(view.applied_sequence, mine);
  if (is_new) return;
  if (it->second.digest != mine.digest || it->second.tensors != mine.tensors) {
    fail(at(rank, now) + "after decision " + std::to_string(view.applied_sequence) +
         " its cache differs from another rank's (" + std::to_string(mine.tensors) + " against " +
         std::to_string(it->second.tensors) + " tensors)");
  }
}

}  // namespace khorus::sim
