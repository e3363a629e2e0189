// CacheEquality: ranks that have applied the same number of decisions hold the same response cache
// (state_digest covers entries, ids and order of eviction), within its capacity.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>

#include "tests/sim/checkers/checker.h"

namespace khorus::sim {

class CacheEquality : public Checker {
 public:
  const char* name() const override { return "cache equality"; }
  void begin(const Scenario& scenario, const Workload& workload) override;
  void ticked(int rank, const protocol::Output& output, const NodeView& view, TimeUs now) override;

 private:
  struct Cache {
    uint64_t digest = 0;
    uint64_t tensors = 0;
  };
  size_t capacity_ = 0;
  std::unordered_map<uint64_t, Cache> after_;  // by applied sequence
};

}  // namespace khorus::sim
